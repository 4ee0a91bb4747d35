/* Products of a batch with a sparse matrix. The lanes of a vector are neighbouring rows of the batch, and a tile is a
   few such vectors, of all inputs: packed[input][vector][lane]. */
#include "engine.h"

#include <string.h>

enum { LEAST_WORK = 1 << 17, MOST_PARTS = 16 };

typedef struct {
  const Kernels *kernels;
  int64_t batch, inputs, outputs, count;
  const char *input;
  char *output;
  const int32_t *pointers, *in_places, *out_places;
  int32_t *offsets, *values;
  const char *weights, *zeros;
  char *sums; /* of the parts, one after another */
  int width;
  int64_t tiles, tiles_a_task, longest;
  int failed;
} Job;

static int64_t round_up(int64_t number, int64_t unit) { return (number + unit - 1) / unit * unit; }

/* Divides the batch into tiles of one width, and the tiles into tasks that are worth a thread's while. */
static void divide(Job *job) {
  int64_t vectors = round_up(job->batch, job->kernels->lanes) / job->kernels->lanes;
  int64_t tiles = round_up(vectors, job->kernels->width) / job->kernels->width;
  job->width = (int)(round_up(vectors, tiles) / tiles);
  job->tiles = round_up(vectors, job->width) / job->width;
  int64_t work = (job->count + job->inputs + job->outputs) * job->width * job->kernels->lanes;
  job->tiles_a_task = 1 + LEAST_WORK / (work + 1);
}

static void pack_tile(const Job *job, const char *source, int64_t features, const int32_t *places, int64_t tile,
                      char *packed) {
  int lanes = job->kernels->lanes;
  size_t size = job->kernels->size;
  for (int i = 0; i < job->width; i++) {
    const void *rows[MOST_LANES];
    int64_t row = (tile * job->width + i) * lanes;
    for (int lane = 0; lane < lanes; lane++, row++)
      rows[lane] = row < job->batch ? source + row * features * size : job->zeros;
    job->kernels->pack(rows, features, places, packed + i * lanes * size);
  }
}

static void unpack_tile(const Job *job, const char *packed, int64_t tile, char *waste) {
  int lanes = job->kernels->lanes;
  size_t size = job->kernels->size;
  for (int i = 0; i < job->width; i++) {
    void *rows[MOST_LANES];
    int64_t row = (tile * job->width + i) * lanes;
    if (row >= job->batch) return;
    for (int lane = 0; lane < lanes; lane++, row++)
      rows[lane] = row < job->batch ? job->output + row * job->outputs * size : waste;
    job->kernels->unpack(packed + i * lanes * size, job->out_places, job->outputs, rows);
  }
}

static void run_outputs(void *argument, int64_t index) {
  Job *job = argument;
  size_t vector = job->kernels->lanes * job->kernels->size, bytes = 0;
  size_t in = reserve(&bytes, job->inputs * job->width * vector);
  size_t out = reserve(&bytes, job->outputs * job->width * vector);
  size_t waste = reserve(&bytes, job->outputs * job->kernels->size);
  char *memory = take_scratch(FOR_TASK, bytes);
  if (!memory) {
    __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  Tile tile = {job->width, 0, (int32_t)job->outputs, job->pointers, job->offsets, job->weights, memory + in,
               memory + out, (ptrdiff_t)job->width * job->kernels->lanes, job->kernels->lanes, NULL, NULL};
  int64_t end = (index + 1) * job->tiles_a_task;
  for (int64_t t = index * job->tiles_a_task; t < end && t < job->tiles; t++) {
    pack_tile(job, job->input, job->inputs, job->in_places, t, memory + in);
    job->kernels->outputs(&tile);
    unpack_tile(job, memory + out, t, memory + waste);
  }
}

/* The places of the packed numbers, and zeros for the rows that the last vector lacks. */
static void fill_common(Job *job, char *memory, size_t in, size_t out, size_t zeros) {
  int32_t step = job->width * job->kernels->lanes;
  int32_t *in_places = (int32_t *)(memory + in), *out_places = (int32_t *)(memory + out);
  for (int64_t i = 0; i < job->inputs; i++) in_places[i] = (int32_t)i * step;
  for (int64_t i = 0; i < job->outputs; i++) out_places[i] = (int32_t)i * step;
  int64_t longest = job->inputs > job->outputs ? job->inputs : job->outputs;
  memset(memory + zeros, 0, longest * job->kernels->size);
  job->in_places = in_places;
  job->out_places = out_places;
  job->zeros = memory + zeros;
}

void copy_values(const Kernels *kernels, const void *values, const int32_t *places, int64_t count, void *copied) {
  if (kernels->size == sizeof(float))
    for (int64_t k = 0; k < count; k++) ((float *)copied)[k] = ((const float *)values)[places[k]];
  else
    for (int64_t k = 0; k < count; k++) ((double *)copied)[k] = ((const double *)values)[places[k]];
}

/* Places, offsets and values of the entries (pointers, indices); `order` says which value an entry has, NULL its own. */
static int run_product(Job *job, const int32_t *indices, const int32_t *order, const void *values) {
  if (!job->batch || !job->outputs) return 0;
  divide(job);
  int32_t step = job->width * job->kernels->lanes;
  if (step * (job->inputs + 1) > INT32_MAX || step * (job->outputs + 1) > INT32_MAX) return 1;
  size_t bytes = 0, size = job->kernels->size;
  int64_t longest = job->inputs > job->outputs ? job->inputs : job->outputs;
  size_t in = reserve(&bytes, job->inputs * sizeof(int32_t)), out = reserve(&bytes, job->outputs * sizeof(int32_t));
  size_t zeros = reserve(&bytes, longest * size), offsets = reserve(&bytes, job->count * sizeof(int32_t));
  size_t weights = reserve(&bytes, job->count * size);
  char *memory = take_scratch(FOR_CALL, bytes);
  if (!memory) return 1;
  fill_common(job, memory, in, out, zeros);
  job->offsets = (int32_t *)(memory + offsets);
  for (int64_t k = 0; k < job->count; k++) job->offsets[k] = indices[k] * step;
  job->weights = values;
  if (order) {
    copy_values(job->kernels, values, order, job->count, memory + weights);
    job->weights = memory + weights;
  }
  run_tasks(run_outputs, job, round_up(job->tiles, job->tiles_a_task) / job->tiles_a_task);
  return job->failed;
}

int multiply(const Kernels *kernels, const Structure *s, int64_t batch, const void *x, const void *values, void *y) {
  Job job = {.kernels = kernels, .batch = batch, .inputs = s->rows, .outputs = s->columns, .count = s->count,
             .input = x, .output = y, .pointers = s->column_pointers};
  return run_product(&job, s->column_rows, s->column_values, values);
}

int multiply_transposed(const Kernels *kernels, const Structure *s, int64_t batch, const void *dy, const void *values,
                        void *dx) {
  Job job = {.kernels = kernels, .batch = batch, .inputs = s->columns, .outputs = s->rows, .count = s->count,
             .input = dy, .output = dx, .pointers = s->row_pointers};
  return run_product(&job, s->row_outputs, NULL, values);
}

static void run_values(void *argument, int64_t index) {
  Job *job = argument;
  size_t vector = job->kernels->lanes * job->kernels->size, bytes = 0;
  size_t in = reserve(&bytes, job->inputs * job->width * vector);
  size_t out = reserve(&bytes, job->outputs * job->width * vector);
  size_t products = reserve(&bytes, job->longest * vector);
  char *memory = take_scratch(FOR_TASK, bytes);
  if (!memory) {
    __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  char *sums = job->sums + index * job->count * job->kernels->size;
  memset(sums, 0, job->count * job->kernels->size);
  Tile tile = {job->width, 0, (int32_t)job->outputs, job->pointers, job->offsets, NULL, memory + in,
               memory + out, (ptrdiff_t)job->width * job->kernels->lanes, job->kernels->lanes, sums,
               memory + products};
  int64_t end = (index + 1) * job->tiles_a_task;
  for (int64_t t = index * job->tiles_a_task; t < end && t < job->tiles; t++) {
    pack_tile(job, job->input, job->inputs, job->in_places, t, memory + in);
    pack_tile(job, job->output, job->outputs, job->out_places, t, memory + out);
    job->kernels->values(&tile);
  }
}

void add_parts(const Kernels *kernels, const void *sums, int64_t parts, int64_t count, const int32_t *places,
               void *result) {
  memset(result, 0, count * kernels->size);
  if (kernels->size == sizeof(float)) {
    for (int64_t part = 0; part < parts; part++)
      for (int64_t k = 0; k < count; k++) ((float *)result)[places[k]] += ((const float *)sums)[part * count + k];
  } else {
    for (int64_t part = 0; part < parts; part++)
      for (int64_t k = 0; k < count; k++) ((double *)result)[places[k]] += ((const double *)sums)[part * count + k];
  }
}

int32_t find_longest(const int32_t *pointers, int64_t count) {
  int32_t longest = 0;
  for (int64_t i = 0; i < count; i++)
    if (pointers[i + 1] - pointers[i] > longest) longest = pointers[i + 1] - pointers[i];
  return longest;
}

int multiply_values(const Kernels *kernels, const Structure *s, int64_t batch, const void *x, const void *dy,
                    void *dvalues) {
  Job job = {.kernels = kernels, .batch = batch, .inputs = s->rows, .outputs = s->columns, .count = s->count,
             .input = x, .output = (char *)dy, .pointers = s->column_pointers};
  memset(dvalues, 0, s->count * kernels->size);
  if (!batch || !s->count) return 0;
  divide(&job);
  int64_t least = round_up(job.tiles, MOST_PARTS) / MOST_PARTS;
  if (job.tiles_a_task < least) job.tiles_a_task = least;
  int64_t parts = round_up(job.tiles, job.tiles_a_task) / job.tiles_a_task;
  int32_t step = job.width * kernels->lanes;
  if (step * (job.inputs + 1) > INT32_MAX || step * (job.outputs + 1) > INT32_MAX) return 1;
  size_t bytes = 0, size = kernels->size;
  int64_t longest = job.inputs > job.outputs ? job.inputs : job.outputs;
  size_t in = reserve(&bytes, job.inputs * sizeof(int32_t)), out = reserve(&bytes, job.outputs * sizeof(int32_t));
  size_t zeros = reserve(&bytes, longest * size), offsets = reserve(&bytes, job.count * sizeof(int32_t));
  size_t sums = reserve(&bytes, job.count * parts * size);
  char *memory = take_scratch(FOR_CALL, bytes);
  if (!memory) return 1;
  fill_common(&job, memory, in, out, zeros);
  job.offsets = (int32_t *)(memory + offsets);
  for (int64_t k = 0; k < job.count; k++) job.offsets[k] = s->column_rows[k] * step;
  job.sums = memory + sums;
  job.longest = find_longest(s->column_pointers, s->columns);
  run_tasks(run_values, &job, parts);
  if (!job.failed) add_parts(kernels, job.sums, parts, job.count, s->column_values, dvalues);
  return job.failed;
}
