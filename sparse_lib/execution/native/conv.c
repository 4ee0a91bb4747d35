/* Convolutions. A lane is a band of rows of one image, and a tile is a few neighbouring positions of a row. A group of
   lanes is packed with its border of zeros: packed[row][channel][phase][position][lane], where the positions of one
   phase lie a stride apart in the image, so that neighbouring outputs read neighbouring vectors.

   The gradient of the input is such a convolution of the output's gradient, too, once for each phase of the input's
   rows and columns: with u = position + zeros before, an input of phase u mod stride is reached by the taps of that
   phase, which are those with (tap * dilation) mod stride = u mod stride. */
#include "engine.h"

#include <string.h>

/* The packed rows of a group shall stay in the second-level cache; two groups a thread even out the threads' ends. */
enum { PACKED_BYTES = 384 << 10, LEAST_GROUPS = 4, MOST_PARTS = 16 };
/* How many numbers ahead a row is fetched. */
enum { FETCHED = 64 };

typedef struct {
  const Plan *plan;
  uint64_t number;
  const char *first, *second; /* second: the gradient of the outputs, where that of the weights is wanted */
  char *result, *weights, *sums;
  int failed;
} Job;

static Axis make_axis(const Convolution *c, int i, int is_transposed) {
  int64_t in = i ? c->width : c->height, out = i ? c->out_width : c->out_height;
  int64_t step = c->stride[i], before = c->before[i], distance = (c->kernel[i] - 1) * c->dilation[i];
  if (!is_transposed) return (Axis){in, out, step, 1, 0, -before, distance + 1, 0, out};
  int64_t reach = distance / step, first = before / step;
  return (Axis){out, in, 1, step, before, -reach, reach + 1, first, in ? (in - 1 + before) / step - first + 1 : 0};
}

/* Where the inputs of a tap begin among those of a grid point. */
static int64_t place_tap(const Plan *plan, int i, int64_t tap) {
  const Axis *axis = &plan->axis[i];
  int64_t distance = tap * plan->key.sizes.dilation[i];
  return plan->key.wanted == INPUTS ? axis->span - 1 - distance / axis->out_step : distance;
}

static int64_t place_taps(const Plan *plan, int64_t vertical, int64_t horizontal) {
  int64_t row = place_tap(plan, 0, vertical), position = place_tap(plan, 1, horizontal), step = plan->axis[1].in_step;
  return row * plan->row_size + (position % step * plan->positions + position / step) * plan->kernels->lanes;
}

static int64_t count_packed_rows(const Plan *plan) {
  return (plan->band - 1) * plan->axis[0].in_step + plan->axis[0].span;
}

/* The sizes of bands, tiles and the packed input. They do not depend on the number of threads. */
static void divide(Plan *plan) {
  const Axis *y = &plan->axis[0], *x = &plan->axis[1];
  int64_t lanes = plan->kernels->lanes, size = (int64_t)plan->kernels->size, images = plan->key.sizes.images;
  plan->positions = x->points + (x->span - 1) / x->in_step;
  plan->channel_size = x->in_step * plan->positions * lanes;
  plan->row_size = plan->in_channels * plan->channel_size + lanes; /* the last vector takes what no tap reads */
  int64_t rows = PACKED_BYTES / (plan->row_size * size);
  int64_t band = most(1, least(y->points, (rows - y->span) / y->in_step + 1));
  int64_t groups = most(LEAST_GROUPS, 2 * plan->key.threads);
  while (band > 1 && images * divide_up(y->points, band) < groups * lanes) band = divide_up(band, 2);
  plan->bands = divide_up(y->points, band);
  plan->band = divide_up(y->points, plan->bands);
  plan->bands = divide_up(y->points, plan->band);
  plan->groups = divide_up(images * plan->bands, lanes);
  plan->units_a_task = plan->key.wanted == VALUES ? most(1, divide_up(plan->groups, MOST_PARTS)) : 1;
  plan->tasks = divide_up(plan->groups, plan->units_a_task);
  plan->width = (int)divide_up(x->points, divide_up(x->points, plan->kernels->width));
  plan->phases = y->out_step * x->out_step;
}

static void fill_in_places(Plan *plan) {
  const Axis *x = &plan->axis[1];
  int64_t lanes = plan->kernels->lanes, start = x->origin + x->first * x->in_step;
  int32_t waste = (int32_t)(plan->row_size - lanes), *place = plan->in_places;
  for (int64_t i = 0; i < x->inputs; i++) {
    int64_t distance = i - start, phase = distance % x->in_step, position = distance / x->in_step;
    int is_read = distance >= 0 && position < plan->positions;
    for (int64_t c = 0; c < plan->in_channels; c++)
      *place++ = is_read ? (int32_t)(c * plan->channel_size + (phase * plan->positions + position) * lanes) : waste;
  }
}

static void fill_out_places(Plan *plan) {
  int64_t positions = plan->width * plan->axis[1].out_step, lanes = plan->kernels->lanes;
  int32_t *place = plan->out_places;
  for (int64_t i = 0; i < positions; i++)
    for (int64_t c = 0; c < plan->out_channels; c++) *place++ = (int32_t)((c * positions + i) * lanes);
}

static void fill_tables(const Plan *plan, const Tables *tables) {
  const Convolution *c = &plan->key.sizes;
  int is_transposed = plan->key.wanted == INPUTS;
  int64_t row = 0, phase_lists = plan->blocks * plan->out_channels;
  for (int64_t y = 0; y < c->kernel[0]; y++)
    for (int64_t x = 0; x < c->kernel[1]; x++) {
      int64_t place = place_taps(plan, y, x), steps = plan->axis[1].out_step;
      int64_t phase = y * c->dilation[0] % plan->axis[0].out_step * steps + x * c->dilation[1] % steps;
      for (int64_t channel = 0; channel < c->channels; channel++, row++) {
        int64_t list = is_transposed ? phase * phase_lists + channel : find_block(plan, channel) * plan->out_channels;
        tables->row_lists[row] = (int32_t)list;
        tables->row_offsets[row] = (int32_t)(is_transposed ? place : place + channel * plan->channel_size);
      }
    }
  for (int64_t o = 0; o < c->outputs; o++) {
    tables->output_lists[o] = (int32_t)(is_transposed ? find_block(plan, o) * plan->out_channels : o);
    tables->output_offsets[o] = (int32_t)(is_transposed ? o * plan->channel_size : 0);
  }
}

int prepare_convolution(Plan *plan) {
  const Convolution *c = &plan->key.sizes;
  for (int i = 0; i < 2; i++) plan->axis[i] = make_axis(c, i, plan->key.wanted == INPUTS);
  const Axis *x = &plan->axis[1];
  size_t size = plan->kernels->size;
  if (!plan->axis[0].points || !x->points) return 0;
  divide(plan);
  /* Offsets are of 32 bits. */
  if (count_packed_rows(plan) * plan->row_size > INT32_MAX) return 1;
  int64_t read = c->kernel[0] * x->in_step * (plan->width + (x->span - 1) / x->in_step);
  choose_blocks(plan, read * plan->kernels->lanes * (int64_t)size);
  Tables tables;
  if (make_tables(plan, &tables)) return 1;
  fill_tables(plan, &tables);
  if (fill_entries(plan, &tables)) return 1;
  size_t in = (size_t)(x->inputs * plan->in_channels);
  size_t out = (size_t)(plan->width * x->out_step * plan->out_channels);
  size_t longest = in > out ? in : out;
  plan->in_places = allocate_for(plan, in * sizeof(int32_t));
  plan->out_places = allocate_for(plan, out * sizeof(int32_t));
  plan->zeros = allocate_for(plan, longest * size);
  if (!plan->in_places || !plan->out_places || !plan->zeros) return 1;
  memset(plan->zeros, 0, longest * size);
  fill_in_places(plan);
  fill_out_places(plan);
  return 0;
}

/* Packs a row of each lane. Where the stride is longer than the kernel, what lies between is left out. */
static void pack_row(const Plan *plan, const void *const *rows, char *packed) {
  const Axis *x = &plan->axis[1];
  int64_t channels = plan->in_channels;
  if (x->span >= x->in_step) {
    plan->kernels->pack(rows, x->inputs * channels, plan->in_places, packed, FETCHED);
    return;
  }
  for (int64_t point = 0; point < x->points; point++) {
    const void *parts[MOST_LANES];
    int64_t left = (x->first + point) * x->in_step + x->origin, begin = most(0, left);
    int64_t count = (least(x->inputs, left + x->span) - begin) * channels, place = begin * channels;
    if (count <= 0) continue;
    for (int lane = 0; lane < plan->kernels->lanes; lane++)
      parts[lane] = (const char *)rows[lane] + (size_t)place * plan->kernels->size;
    plan->kernels->pack(parts, count, plan->in_places + place, packed, x->in_step * channels);
  }
}

/* Packs the rows that a group reads. A row outside of an image is a row of zeros. */
static void pack_group(const Job *job, int64_t group, char *packed) {
  const Plan *plan = job->plan;
  const Axis *y = &plan->axis[0], *x = &plan->axis[1];
  int64_t lanes = plan->kernels->lanes, size = (int64_t)plan->kernels->size, rows = count_packed_rows(plan);
  int64_t images = plan->key.sizes.images, count = x->inputs * plan->in_channels;
  for (int64_t row = 0; row < rows; row++, packed += plan->row_size * size) {
    if (row % y->in_step >= y->span) continue; /* no tap reads it */
    const void *sources[MOST_LANES];
    int found = 0;
    for (int64_t lane = 0; lane < lanes; lane++) {
      int64_t piece = group * lanes + lane, image = piece % images, band = piece / images;
      int64_t at = (y->first + band * plan->band) * y->in_step + y->origin + row;
      int is_inside = band < plan->bands && at >= 0 && at < y->inputs;
      sources[lane] = is_inside ? job->first + (image * y->inputs + at) * count * size : plan->zeros;
      found |= is_inside;
    }
    if (found)
      pack_row(plan, sources, packed);
    else
      memset(packed, 0, (size_t)(plan->row_size * size));
  }
}

/* Pointers to row `row` of each lane's outputs, from `begin` on, and whether there is one; `spare` for the others. */
static int find_out_rows(const Plan *plan, const char *outputs, int64_t group, int64_t row, int64_t phase,
                         int64_t begin, void *spare, void **rows) {
  const Axis *y = &plan->axis[0];
  int64_t lanes = plan->kernels->lanes, images = plan->key.sizes.images;
  int found = 0;
  for (int64_t lane = 0; lane < lanes; lane++) {
    int64_t piece = group * lanes + lane, image = piece % images, band = piece / images;
    int64_t point = band * plan->band + row, at = (y->first + point) * y->out_step + phase - y->shift;
    int is_inside = band < plan->bands && point < y->points && at >= 0 && at < y->outputs;
    int64_t place = ((image * y->outputs + at) * plan->axis[1].outputs + begin) * plan->out_channels;
    rows[lane] = is_inside ? (char *)outputs + place * (int64_t)plan->kernels->size : spare;
    found |= is_inside;
  }
  return found;
}

/* The outputs of a tile in every horizontal phase, and their way into the tensor. */
static void run_tile(const Job *job, int64_t group, int64_t row, int64_t phase, int64_t start, Tile *tile,
                     void *spare) {
  const Plan *plan = job->plan;
  const Axis *x = &plan->axis[1];
  void *rows[MOST_LANES];
  int64_t left = (x->first + start) * x->out_step - x->shift, begin = most(0, left);
  int64_t end = least(x->outputs, left + tile->width * x->out_step);
  if (begin >= end || !find_out_rows(plan, job->result, group, row, phase, begin, spare, rows)) return;
  char *output = tile->output;
  for (int64_t i = 0; i < x->out_step; i++) {
    tile->output = output + (size_t)(i * plan->kernels->lanes) * plan->kernels->size;
    run_blocks(plan, phase * x->out_step + i, tile);
  }
  tile->output = output;
  plan->kernels->unpack(output, plan->out_places + (begin - left) * plan->out_channels,
                        (end - begin) * plan->out_channels, rows);
}

/* The gradient of the weights by the outputs of a tile. */
static void run_value_tile(const Job *job, int64_t group, int64_t row, int64_t start, Tile *tile) {
  const Plan *plan = job->plan;
  void *rows[MOST_LANES];
  if (!find_out_rows(plan, job->second, group, row, 0, start, plan->zeros, rows)) return;
  plan->kernels->pack((const void *const *)rows, tile->width * plan->out_channels, plan->out_places, tile->output,
                      FETCHED);
  run_blocks(plan, 0, tile);
}

static void run_task(void *argument, int64_t index) {
  Job *job = argument;
  const Plan *plan = job->plan;
  const Axis *y = &plan->axis[0], *x = &plan->axis[1];
  int is_of_values = plan->key.wanted == VALUES;
  size_t size = plan->kernels->size, lanes = (size_t)plan->kernels->lanes, bytes = 0;
  size_t in_size = (size_t)(count_packed_rows(plan) * plan->row_size) * size;
  size_t positions = (size_t)(plan->width * x->out_step), out_size = positions * (size_t)plan->out_channels;
  size_t in = reserve(&bytes, in_size), out = reserve(&bytes, out_size * lanes * size);
  size_t other = reserve(&bytes, (is_of_values ? (size_t)plan->longest * lanes : out_size) * size);
  char *memory = take_scratch(FOR_TASK, bytes), *sums = NULL;
  if (!memory) {
    __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  /* The borders stay zero from group to group. */
  if (is_new_to_job(job->number)) memset(memory + in, 0, in_size);
  if (is_of_values) {
    sums = job->sums + (size_t)(index * plan->structure.count) * size;
    memset(sums, 0, (size_t)plan->structure.count * size);
  }
  Tile tile = {.outputs = (int32_t)plan->out_channels, .offsets = plan->offsets, .weights = job->weights,
               .output = memory + out, .output_stride = (ptrdiff_t)(positions * lanes),
               .position_stride = x->out_step * (ptrdiff_t)lanes, .sums = sums, .products = memory + other};
  int64_t end = least(plan->groups, (index + 1) * plan->units_a_task);
  for (int64_t group = index * plan->units_a_task; group < end; group++) {
    pack_group(job, group, memory + in);
    for (int64_t row = 0; row < plan->band; row++)
      for (int64_t start = 0; start < x->points; start += plan->width) {
        int64_t place = row * y->in_step * plan->row_size + start * (int64_t)lanes;
        tile.width = (int)least(plan->width, x->points - start);
        tile.input = memory + in + (size_t)place * size;
        if (is_of_values) run_value_tile(job, group, row, start, &tile);
        for (int64_t phase = 0; phase < y->out_step && !is_of_values; phase++)
          run_tile(job, group, row, phase, start, &tile, memory + other);
      }
  }
}

int run_convolution(const Plan *plan, const void *first, const void *second, void *result) {
  int is_of_values = plan->key.wanted == VALUES;
  size_t count = (size_t)plan->structure.count * plan->kernels->size;
  if (is_of_values) memset(result, 0, count);
  if (!plan->axis[0].points || !plan->axis[1].points || !plan->key.sizes.images || !plan->out_channels) return 0;
  char *memory = take_scratch(FOR_CALL, is_of_values ? count * (size_t)plan->tasks : count);
  if (!memory) return 1;
  Job job = {.plan = plan, .number = number_job(), .first = first, .second = second, .result = result,
             .weights = memory, .sums = memory};
  if (!is_of_values) gather_weights(plan, second, memory);
  run_tasks(run_task, &job, plan->tasks);
  if (is_of_values && !job.failed) add_parts(plan, memory, plan->tasks, result);
  return job.failed;
}
