/* Batch normalization over the last axis in training, and sums over all other axes.

   A tensor is rows of `channels` numbers. A few of them are taken for one row of at least WIDTH numbers, so that vectors
   are full whatever the number of channels. Rows are divided into blocks that stay in the cache while mean and squares
   are found; blocks are of a fixed size and are added in double precision in their order, so that results do not depend
   on the number of threads. */
#include "layers.h"

#include <math.h>
#include <string.h>

/* Numbers in a wide row; bytes of a block, and its least number of rows: fewer would cost more to fold than to read;
   bytes that are worth a task. */
enum { WIDTH = 128, BLOCK_BYTES = 1 << 14, LEAST_ROWS = 64, TASK_BYTES = 1 << 17 };

typedef void (*Sum)(const void *x, const void *dy, const void *centre, int64_t rows, int64_t width, void *sums);
typedef void (*Map)(const void *x, const void *dy, const void *const *vectors, int64_t rows, int64_t width, void *y);

typedef struct {
  Sum sum, sum_squares, sum_products;
  Map scale, combine, shift;
  void (*fold)(const void *wide, int64_t width, int64_t channels, double *sums);
  void (*repeat)(const double *vector, int64_t channels, int64_t width, void *wide);
  void (*widen)(const void *vector, int64_t channels, double *wide);
} RowKernels;

#define KERNELS "normalization_kernels.h"
#include "targets.h"

typedef struct {
  const RowKernels *kernels;
  size_t size;
  int64_t rows, channels, width; /* rows: as they are; width: of a wide one */
  int64_t rows_a_block, blocks, blocks_a_task, tasks;
  const char *x, *dy;
  char *y;
  Sum sum;
  Map map;
  const void *vectors[4]; /* wide; of a sum the first is the centre */
  double *sums;           /* of each block: two vectors */
  int has_failed;
} Job;

static void divide(Job *job) {
  int64_t group = divide_up(WIDTH, job->channels);
  int64_t row_bytes = job->channels * (int64_t)job->size;
  job->width = group * job->channels;
  job->rows_a_block = group * most(most(1, LEAST_ROWS / group), BLOCK_BYTES / (row_bytes * group));
  job->blocks = divide_up(job->rows, job->rows_a_block);
  job->blocks_a_task = most(1, TASK_BYTES / (row_bytes * job->rows_a_block));
  job->tasks = divide_up(job->blocks, job->blocks_a_task);
}

static int64_t count_rows(const Job *job, int64_t block) {
  return least(job->rows_a_block, job->rows - block * job->rows_a_block);
}

/* Sums of one block: of its wide rows, and of what is left. */
static void sum_rows(const Job *job, Sum sum, int64_t block, const void *centre, int vectors, char *wide, double *sums) {
  int64_t rows = count_rows(job, block), group = job->width / job->channels, whole = rows / group;
  int64_t start = block * job->rows_a_block * job->channels, rest = rows % group * job->channels;
  const char *x = job->x + (size_t)start * job->size, *dy = job->dy ? job->dy + (size_t)start * job->size : NULL;
  size_t read = (size_t)(whole * job->width) * job->size;
  double *more = sums + 2 * job->channels;
  sum(x, dy, centre, whole, job->width, wide);
  for (int i = 0; i < vectors; i++)
    job->kernels->fold(wide + (size_t)(i * job->width) * job->size, job->width, job->channels, sums + i * job->channels);
  if (!rest) return;
  sum(x + read, dy ? dy + read : NULL, centre, 1, rest, wide);
  for (int i = 0; i < vectors; i++) {
    job->kernels->fold(wide + (size_t)(i * rest) * job->size, rest, job->channels, more);
    for (int64_t c = 0; c < job->channels; c++) sums[i * job->channels + c] += more[c];
  }
}

/* Scratch of a task: two wide rows of sums, a wide centre, and four vectors in double precision. */
static char *take_task_scratch(Job *job, char **centre, double **vectors) {
  size_t bytes = 0, row = (size_t)job->width * job->size;
  size_t sums = reserve(&bytes, 2 * row), wide = reserve(&bytes, row);
  size_t doubles = reserve(&bytes, (size_t)(4 * job->channels) * sizeof(double));
  char *memory = take_scratch(FOR_TASK, bytes);
  if (!memory) {
    __atomic_store_n(&job->has_failed, 1, __ATOMIC_RELAXED);
    return NULL;
  }
  *centre = memory + wide;
  *vectors = (double *)(memory + doubles);
  return memory + sums;
}

/* Mean of a block, and sum of the squares of the distances from it. */
static void find_block_moments(const Job *job, int64_t block, char *wide, char *centre, double *sums) {
  int64_t channels = job->channels;
  double count = (double)count_rows(job, block);
  double *block_sums = job->sums + 2 * block * channels;
  sum_rows(job, job->kernels->sum, block, NULL, 1, wide, sums);
  for (int64_t c = 0; c < channels; c++) sums[c] /= count;
  job->kernels->repeat(sums, channels, job->width, centre);
  job->kernels->widen(centre, channels, block_sums); /* the mean as it was rounded */
  sum_rows(job, job->kernels->sum_squares, block, centre, 2, wide, sums);
  for (int64_t c = 0; c < channels; c++) {
    block_sums[c] += sums[c] / count;
    block_sums[channels + c] = sums[channels + c] - sums[c] * sums[c] / count;
  }
}

static void run_moments(void *argument, int64_t index) {
  Job *job = argument;
  char *centre, *wide;
  double *sums;
  if (!(wide = take_task_scratch(job, &centre, &sums))) return;
  int64_t finish = least(job->blocks, (index + 1) * job->blocks_a_task);
  for (int64_t block = index * job->blocks_a_task; block < finish; block++)
    find_block_moments(job, block, wide, centre, sums);
}

static void run_sums(void *argument, int64_t index) {
  Job *job = argument;
  char *centre, *wide;
  double *sums;
  if (!(wide = take_task_scratch(job, &centre, &sums))) return;
  int vectors = job->sum == job->kernels->sum ? 1 : 2;
  int64_t finish = least(job->blocks, (index + 1) * job->blocks_a_task);
  for (int64_t block = index * job->blocks_a_task; block < finish; block++) {
    sum_rows(job, job->sum, block, job->vectors[0], vectors, wide, sums);
    memcpy(job->sums + 2 * block * job->channels, sums, (size_t)(2 * job->channels) * sizeof(double));
  }
}

/* From the last block to the first: that is what the cache still holds after the sums. */
static void run_map(void *argument, int64_t index) {
  const Job *job = argument;
  int64_t task = job->tasks - 1 - index, rows_a_task = job->blocks_a_task * job->rows_a_block;
  int64_t rows = least(rows_a_task, job->rows - task * rows_a_task), group = job->width / job->channels;
  size_t start = (size_t)(task * rows_a_task * job->channels) * job->size;
  size_t read = start + (size_t)(rows / group * job->width) * job->size;
  const char *dy = job->dy ? job->dy : job->x;
  job->map(job->x + start, dy + start, job->vectors, rows / group, job->width, job->y + start);
  job->map(job->x + read, dy + read, job->vectors, 1, rows % group * job->channels, job->y + read);
}

/* Adds the sums of the blocks. */
static void add_blocks(const Job *job, double *totals) {
  int64_t count = 2 * job->channels;
  memset(totals, 0, (size_t)count * sizeof(double));
  for (int64_t block = 0; block < job->blocks; block++)
    for (int64_t i = 0; i < count; i++) totals[i] += job->sums[block * count + i];
}

/* Mean and variance of all rows: Chan, Golub and LeVeque (1979), equation 2.1, for blocks of any size. */
static void join_moments(const Job *job, double *mean, double *variance) {
  int64_t channels = job->channels;
  double rows = (double)job->rows;
  for (int64_t c = 0; c < channels; c++) mean[c] = variance[c] = 0;
  for (int64_t block = 0; block < job->blocks; block++)
    for (int64_t c = 0; c < channels; c++)
      mean[c] += job->sums[2 * block * channels + c] * (double)count_rows(job, block);
  for (int64_t c = 0; c < channels; c++) mean[c] /= rows;
  for (int64_t block = 0; block < job->blocks; block++) {
    const double *sums = job->sums + 2 * block * channels;
    double count = (double)count_rows(job, block);
    for (int64_t c = 0; c < channels; c++) {
      double distance = sums[c] - mean[c];
      variance[c] += sums[channels + c] + count * distance * distance;
    }
  }
  for (int64_t c = 0; c < channels; c++) variance[c] /= rows;
}

/* Scratch of a call: the sums of the blocks, `vectors` of channels in double precision, and four wide rows. */
static double *take_call_scratch(Job *job, int vectors, char **wide) {
  size_t bytes = 0, length = (size_t)job->channels * sizeof(double);
  size_t sums = reserve(&bytes, 2 * length * (size_t)most(1, job->blocks));
  size_t doubles = reserve(&bytes, (size_t)vectors * length), rows = reserve(&bytes, 4 * (size_t)job->width * job->size);
  char *memory = take_scratch(FOR_CALL, bytes);
  if (!memory) return NULL;
  job->sums = (double *)(memory + sums);
  *wide = memory + rows;
  return (double *)(memory + doubles);
}

static Job make_job(int64_t rows, int64_t channels, size_t size) {
  Job job = {.kernels = CHOOSE_KERNELS(row_kernels, size), .size = size, .rows = rows, .channels = channels};
  divide(&job);
  return job;
}

/* Repeats vector i of `count` along a wide row each, as vectors of the job. */
static void repeat_vectors(Job *job, const double *vectors, int first, int count, char *wide) {
  for (int i = first; i < first + count; i++) {
    char *row = wide + (size_t)(i * job->width) * job->size;
    job->kernels->repeat(vectors + (i - first) * job->channels, job->channels, job->width, row);
    job->vectors[i] = row;
  }
}

int normalize(const Normalization *n, const void *x, void *y, void *mean, void *variance) {
  if (!n->channels) return 0;
  Job job = make_job(n->rows, n->channels, n->size);
  int64_t channels = n->channels;
  char *wide;
  double *memory = take_call_scratch(&job, 5, &wide);
  if (!memory) return 1;
  double *centre = memory, *factor = memory + channels, *shift = factor + channels, *spread = shift + channels;
  job.x = x;
  run_tasks(run_moments, &job, job.tasks);
  if (job.has_failed) return 1;
  join_moments(&job, centre, spread);
  job.kernels->repeat(centre, channels, channels, mean);
  job.kernels->repeat(spread, channels, channels, variance);
  job.kernels->widen(n->gamma, channels, factor);
  job.kernels->widen(n->beta, channels, shift);
  double epsilon;
  job.kernels->widen(n->epsilon, 1, &epsilon);
  for (int64_t c = 0; c < channels; c++) factor[c] /= sqrt(spread[c] + epsilon);
  repeat_vectors(&job, centre, 0, 3, wide);
  job.map = job.kernels->scale;
  job.y = y;
  run_tasks(run_map, &job, job.tasks);
  return 0;
}

/* With s = 1 / sqrt(variance + epsilon), n rows, and sums over them:

     dbeta  = sum dy        dgamma = s sum dy (x - mean)
     dx     = gamma s (dy - dbeta / n) - (x - mean) gamma s^2 dgamma / n + dmean / n + 2 (x - mean) dvariance / n  */
int differentiate_normalization(const Normalization *n, const void *x, const void *dy, const void *mean,
                                const void *variance, const void *dmean, const void *dvariance, void *dx, void *dgamma,
                                void *dbeta) {
  if (!n->channels) return 0;
  Job job = make_job(n->rows, n->channels, n->size);
  int64_t channels = n->channels;
  char *wide;
  double *memory = take_call_scratch(&job, 9, &wide), epsilon;
  if (!memory) return 1;
  const RowKernels *kernels = job.kernels;
  double *centre = memory, *factor = centre + channels, *shift = factor + channels, *slope = shift + channels;
  double *total = slope + channels, *products = total + channels, *s = products + channels, *of_mean = s + channels;
  double *of_variance = of_mean + channels, rows = (double)n->rows;
  kernels->widen(mean, channels, centre);
  repeat_vectors(&job, centre, 0, 1, wide);
  job.x = x;
  job.dy = dy;
  job.sum = kernels->sum_products;
  run_tasks(run_sums, &job, job.tasks);
  if (job.has_failed) return 1;
  add_blocks(&job, total);
  kernels->widen(variance, channels, s);
  kernels->widen(n->gamma, channels, factor);
  kernels->widen(dmean, channels, of_mean);
  kernels->widen(dvariance, channels, of_variance);
  kernels->widen(n->epsilon, 1, &epsilon);
  kernels->repeat(total, channels, channels, dbeta);
  for (int64_t c = 0; c < channels; c++) {
    s[c] = 1 / sqrt(s[c] + epsilon);
    products[c] *= s[c];
    factor[c] *= s[c];
    shift[c] = (of_mean[c] - factor[c] * total[c]) / rows;
    slope[c] = (2 * of_variance[c] - factor[c] * s[c] * products[c]) / rows;
  }
  kernels->repeat(products, channels, channels, dgamma);
  repeat_vectors(&job, centre, 0, 4, wide);
  job.map = kernels->combine;
  job.y = dx;
  run_tasks(run_map, &job, job.tasks);
  return 0;
}

int sum_over_rows(int64_t rows, int64_t channels, size_t size, const void *x, void *sums) {
  if (!channels) return 0;
  Job job = make_job(rows, channels, size);
  char *wide;
  double *totals = take_call_scratch(&job, 2, &wide);
  if (!totals) return 1;
  job.x = x;
  job.sum = job.kernels->sum;
  run_tasks(run_sums, &job, job.tasks);
  if (job.has_failed) return 1;
  add_blocks(&job, totals);
  job.kernels->repeat(totals, channels, channels, sums);
  return 0;
}

int add_to_rows(int64_t rows, int64_t channels, size_t size, const void *x, const void *shift, void *y) {
  if (!channels) return 0;
  Job job = make_job(rows, channels, size);
  char *wide;
  double *vector = take_call_scratch(&job, 1, &wide);
  if (!vector) return 1;
  job.kernels->widen(shift, channels, vector);
  repeat_vectors(&job, vector, 0, 1, wide);
  job.x = x;
  job.y = y;
  job.map = job.kernels->shift;
  run_tasks(run_map, &job, job.tasks);
  return 0;
}
