/* Products of a batch with a sparse matrix. The lanes of a vector are neighbouring rows of the batch, and a tile is a
   few such vectors, of all inputs: packed[input][vector][lane]. */
#include "engine.h"

#include <string.h>

/* Multiplications that are worth a task; most parts of a sum over the batch; vectors of the narrowest tile. */
enum { LEAST_WORK = 1 << 17, MOST_PARTS = 16, NARROW = 4 };

typedef struct {
  const Plan *plan;
  const char *first, *second; /* second: the gradient of the outputs, where that of the weights is wanted */
  char *result, *weights, *sums;
  int failed;
} Job;

/* Divides the batch into tiles of one width, and the tiles into tasks. */
static void divide(Plan *plan) {
  int64_t lanes = plan->kernels->lanes, vectors = divide_up(plan->key.sizes.images, lanes);
  int64_t tiles = most(1, divide_up(vectors, plan->kernels->width));
  /* Narrow tiles for some more threads, as long as their weights are worth reading again. */
  tiles = most(tiles, least(plan->key.threads, vectors / NARROW));
  plan->width = (int)most(1, divide_up(vectors, tiles));
  plan->tiles = divide_up(vectors, plan->width);
  int64_t work = (plan->structure.count + plan->in_channels + plan->out_channels) * plan->width * lanes;
  plan->units_a_task = 1 + LEAST_WORK / (work + 1);
  if (plan->key.wanted == VALUES) plan->units_a_task = most(plan->units_a_task, divide_up(plan->tiles, MOST_PARTS));
  plan->tasks = divide_up(plan->tiles, plan->units_a_task);
}

static int32_t *make_places(Plan *plan, int64_t count, int64_t step) {
  int32_t *places = allocate_for(plan, sizeof(int32_t) * (size_t)count);
  for (int64_t i = 0; places && i < count; i++) places[i] = (int32_t)(i * step);
  return places;
}

int prepare_dense(Plan *plan) {
  const Structure *s = &plan->structure;
  divide(plan);
  int64_t step = (int64_t)plan->width * plan->kernels->lanes, longest = most(s->rows, s->columns);
  if (step * (longest + 1) > INT32_MAX) return 1;
  plan->phases = 1;
  /* Of the widest tile, so that the order of the sums does not depend on the number of threads. */
  choose_blocks(plan, (int64_t)(plan->kernels->width * plan->kernels->lanes) * (int64_t)plan->kernels->size);
  Tables tables;
  if (make_tables(plan, &tables)) return 1;
  int is_transposed = plan->key.wanted == INPUTS;
  int64_t inputs = is_transposed ? s->columns : s->rows, outputs = is_transposed ? s->rows : s->columns;
  int32_t *in_lists = is_transposed ? tables.output_lists : tables.row_lists;
  int32_t *in_offsets = is_transposed ? tables.output_offsets : tables.row_offsets;
  int32_t *out_lists = is_transposed ? tables.row_lists : tables.output_lists;
  int32_t *out_offsets = is_transposed ? tables.row_offsets : tables.output_offsets;
  for (int64_t i = 0; i < inputs; i++) {
    in_lists[i] = (int32_t)(find_block(plan, i) * outputs);
    in_offsets[i] = (int32_t)(i * step);
  }
  for (int64_t o = 0; o < outputs; o++) {
    out_lists[o] = (int32_t)o;
    out_offsets[o] = 0;
  }
  if (fill_entries(plan, &tables)) return 1;
  plan->in_places = make_places(plan, inputs, step);
  plan->out_places = make_places(plan, outputs, step);
  plan->zeros = allocate_for(plan, (size_t)longest * plan->kernels->size);
  if (plan->zeros) memset(plan->zeros, 0, (size_t)longest * plan->kernels->size);
  return !plan->in_places || !plan->out_places || !plan->zeros;
}

static void pack_tile(const Plan *plan, const char *source, int64_t features, const int32_t *places, int64_t tile,
                      char *packed) {
  int64_t lanes = plan->kernels->lanes, size = (int64_t)plan->kernels->size, rows = plan->key.sizes.images;
  for (int64_t i = 0; i < plan->width; i++) {
    const void *from[MOST_LANES];
    int64_t row = (tile * plan->width + i) * lanes;
    for (int64_t lane = 0; lane < lanes; lane++, row++)
      from[lane] = row < rows ? source + row * features * size : plan->zeros;
    /* A row ends before the processor notices where it leads to: the next vector's rows are fetched meanwhile. */
    plan->kernels->pack(from, features, places, packed + i * lanes * size, lanes * features);
  }
}

static void unpack_tile(const Plan *plan, const char *packed, int64_t tile, char *result, char *spare) {
  int64_t lanes = plan->kernels->lanes, size = (int64_t)plan->kernels->size, rows = plan->key.sizes.images;
  for (int64_t i = 0; i < plan->width; i++) {
    void *to[MOST_LANES];
    int64_t row = (tile * plan->width + i) * lanes;
    if (row >= rows) return;
    for (int64_t lane = 0; lane < lanes; lane++, row++)
      to[lane] = row < rows ? result + row * plan->out_channels * size : spare;
    plan->kernels->unpack(packed + i * lanes * size, plan->out_places, plan->out_channels, to);
  }
}

static void run_task(void *argument, int64_t index) {
  Job *job = argument;
  const Plan *plan = job->plan;
  int is_of_values = plan->key.wanted == VALUES;
  int64_t step = (int64_t)plan->width * plan->kernels->lanes;
  size_t size = plan->kernels->size, bytes = 0;
  size_t in = reserve(&bytes, (size_t)(plan->in_channels * step) * size);
  size_t out = reserve(&bytes, (size_t)(plan->out_channels * step) * size);
  size_t others = is_of_values ? (size_t)(plan->longest * plan->kernels->lanes) : (size_t)plan->out_channels;
  size_t other = reserve(&bytes, others * size);
  char *memory = take_scratch(FOR_TASK, bytes), *sums = NULL;
  if (!memory) {
    __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  if (is_of_values) {
    sums = job->sums + (size_t)(index * plan->structure.count) * size;
    memset(sums, 0, (size_t)plan->structure.count * size);
  }
  Tile tile = {.width = plan->width, .outputs = (int32_t)plan->out_channels, .offsets = plan->offsets,
               .weights = job->weights, .input = memory + in, .output = memory + out, .output_stride = step,
               .position_stride = plan->kernels->lanes, .sums = sums, .products = memory + other};
  int64_t end = least(plan->tiles, (index + 1) * plan->units_a_task);
  for (int64_t t = index * plan->units_a_task; t < end; t++) {
    pack_tile(plan, job->first, plan->in_channels, plan->in_places, t, memory + in);
    if (is_of_values) pack_tile(plan, job->second, plan->out_channels, plan->out_places, t, memory + out);
    run_blocks(plan, 0, &tile);
    if (!is_of_values) unpack_tile(plan, memory + out, t, job->result, memory + other);
  }
}

int run_dense(const Plan *plan, const void *first, const void *second, void *result) {
  int is_of_values = plan->key.wanted == VALUES;
  size_t count = (size_t)plan->structure.count * plan->kernels->size;
  char *memory = take_scratch(FOR_CALL, is_of_values ? count * (size_t)plan->tasks : count);
  if (!memory) return 1;
  Job job = {.plan = plan, .first = first, .second = second, .result = result, .weights = memory, .sums = memory};
  if (!is_of_values) gather_weights(plan, second, memory);
  run_tasks(run_task, &job, plan->tasks);
  if (is_of_values && !job.failed) add_parts(plan, memory, plan->tasks, result);
  return job.failed;
}
