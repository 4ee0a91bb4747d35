/* Max pooling of images, and what its derivatives need: to put a gradient where the maxima were, and to take numbers
   from there. The maxima are found again each time: that is cheaper than to remember where they were. */
#include "layers.h"

#include <float.h>
#include <string.h>

typedef enum { MAXIMUM, PUT, ADD, TAKE } Pooled;

/* Distances from a pixel to the next one, and to the one below. */
typedef struct {
  int64_t channels, row;
} Window;

/* A row of windows, of which `height` rows of pixels are inside of the image. */
typedef struct {
  const Convolution *sizes;
  int height;
  const void *input, *other; /* the first row of pixels; other: the gradient of the outputs, or what is taken from */
  void *output;
} PoolRow;

#define KERNELS "pool_kernels.h"
#include "targets.h"

/* Bytes of input that are worth a task. */
enum { TASK_BYTES = 1 << 17 };

typedef struct {
  const Convolution *sizes;
  size_t size;
  Pooled wanted;
  const char *input, *other;
  char *output;
  void (*run)(const PoolRow *);
  int64_t rows_a_unit, units, units_a_task;
} Job;

/* First row of pixels that belongs to a row of windows and not to the row before it. */
static int64_t find_first_row(const Convolution *c, int64_t window) {
  if (window == 0) return 0;
  return window == c->out_height ? c->height : least(c->height, most(0, window * c->stride[0] - c->before[0]));
}

static void run_window_row(const Job *job, int64_t image, int64_t window) {
  const Convolution *c = job->sizes;
  int64_t top = window * c->stride[0] - c->before[0], bottom = least(top + c->kernel[0], c->height);
  top = most(top, 0);
  size_t pixel = (size_t)c->channels * job->size;
  size_t in = (size_t)((image * c->height + top) * c->width) * pixel;
  size_t out = (size_t)((image * c->out_height + window) * c->out_width) * pixel;
  PoolRow row = {.sizes = c, .height = (int)(bottom - top), .input = job->input + in};
  int goes_back = job->wanted == PUT || job->wanted == ADD;
  row.output = job->output + (goes_back ? in : out);
  row.other = job->wanted == MAXIMUM ? row.input : job->other + (goes_back ? out : in);
  job->run(&row);
}

/* Zeros where `PUT` writes nothing: right of the windows, and below them. */
static void clear_rest(const Job *job, int64_t image, int64_t window) {
  const Convolution *c = job->sizes;
  size_t pixel = (size_t)c->channels * job->size;
  int64_t covered = least(c->width, c->out_width * c->stride[1] - c->before[1]);
  int64_t first = find_first_row(c, window), end = find_first_row(c, window + 1);
  int64_t top = window * c->stride[0] - c->before[0], bottom = least(c->height, top + c->kernel[0]);
  for (int64_t y = first; y < end; y++) {
    int64_t from = y < bottom ? covered : 0;
    memset(job->output + (size_t)((image * c->height + y) * c->width + from) * pixel, 0,
           (size_t)(c->width - from) * pixel);
  }
}

static void run_task(void *argument, int64_t index) {
  const Job *job = argument;
  const Convolution *c = job->sizes;
  int64_t units_an_image = c->out_height / job->rows_a_unit;
  int64_t finish = least(job->units, (index + 1) * job->units_a_task);
  for (int64_t unit = index * job->units_a_task; unit < finish; unit++) {
    int64_t image = unit / units_an_image, first = unit % units_an_image * job->rows_a_unit;
    size_t bytes = (size_t)(c->height * c->width * c->channels) * job->size;
    if (job->wanted == ADD) memset(job->output + (size_t)image * bytes, 0, bytes);
    for (int64_t row = first; row < first + job->rows_a_unit; row++) {
      run_window_row(job, image, row);
      if (job->wanted == PUT) clear_rest(job, image, row);
    }
  }
}

static void pool(const Convolution *sizes, size_t size, Pooled wanted, const void *input, const void *other,
                 void *output) {
  Job job = {.sizes = sizes, .size = size, .wanted = wanted, .input = input, .other = other, .output = output};
  if (wanted == PUT) {
    size_t bytes = (size_t)(sizes->images * sizes->height * sizes->width * sizes->channels) * size;
    int64_t taps[2] = {sizes->kernel[0] - sizes->stride[0], sizes->kernel[1] - sizes->stride[1]};
    if (!sizes->out_height || !sizes->out_width) memset(output, 0, bytes);
    if (taps[0] || taps[1]) job.wanted = ADD;
  }
  if (!sizes->images || !sizes->out_height || !sizes->out_width || !sizes->channels) return;
  job.run = CHOOSE_KERNELS(pool_rows, size)[0][job.wanted];
  /* Windows that overlap add to one pixel in their order, in one task. */
  job.rows_a_unit = job.wanted == ADD ? sizes->out_height : 1;
  job.units = sizes->images * sizes->out_height / job.rows_a_unit;
  int64_t bytes = sizes->height * sizes->width * sizes->channels * (int64_t)size / (sizes->out_height / job.rows_a_unit);
  job.units_a_task = most(1, TASK_BYTES / (bytes + 1));
  run_tasks(run_task, &job, divide_up(job.units, job.units_a_task));
}

void find_maxima(const Convolution *sizes, size_t size, const void *x, void *y) {
  pool(sizes, size, MAXIMUM, x, NULL, y);
}

void scatter_to_maxima(const Convolution *sizes, size_t size, const void *x, const void *dy, void *dx) {
  pool(sizes, size, PUT, x, dy, dx);
}

void gather_from_maxima(const Convolution *sizes, size_t size, const void *x, const void *u, void *y) {
  pool(sizes, size, TAKE, x, u, y);
}
