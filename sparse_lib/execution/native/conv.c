/* Convolutions. A lane is a band of rows of one image, and a tile is a few neighbouring positions of a row. A group of
   lanes is packed with its border of zeros: packed[row][channel][phase][position][lane], where the positions of one
   phase lie a stride apart in the image, so that neighbouring outputs read neighbouring vectors.

   The gradient of the input is such a convolution of the output's gradient, too, once for each phase of the input's
   rows and columns: with u = position + zeros before, an input of phase u mod stride is reached by the taps of that
   phase, which are those with (tap * dilation) mod stride = u mod stride. */
#include "engine.h"

#include <string.h>

enum { PACKED_BYTES = 256 << 10, LEAST_GROUPS = 4, MOST_PARTS = 16 };

/* One axis of a product from packed inputs to outputs. Grid point a stands for the outputs a * out_step + phase -
   shift, phase in [0, out_step), and reads the inputs a * in_step + origin + (0 ... span - 1). */
typedef struct {
  int64_t inputs, outputs;
  int64_t in_step, out_step, shift, origin, span;
  int64_t first, points; /* of the grid */
} Axis;

typedef struct {
  const Kernels *kernels;
  const Structure *structure;
  const Convolution *convolution;
  int transposed;
  Axis axis[2]; /* vertical, horizontal */
  int64_t images, in_channels, out_channels;
  const char *input;
  char *output;
  int64_t positions, channel_size, row_size; /* of the packed input; sizes in numbers */
  int64_t band, bands, groups, width, longest;
  int32_t *in_places, *out_places, *inside; /* inside: first and last + 1 position of each phase in the image */
  int32_t *own_pointers, *offsets;
  const int32_t *pointers; /* of each phase of the outputs, one after another */
  char *weights, *zeros, *sums;
  int64_t groups_a_part;
  int failed;
} Job;

static int64_t round_up(int64_t number, int64_t unit) { return (number + unit - 1) / unit * unit; }

static Axis make_axis(const Convolution *c, int i, int transposed) {
  int64_t in = i ? c->width : c->height, out = i ? c->out_width : c->out_height;
  int64_t step = c->stride[i], before = c->before[i], distance = (c->kernel[i] - 1) * c->dilation[i];
  if (!transposed) return (Axis){in, out, step, 1, 0, -before, distance + 1, 0, out};
  int64_t reach = distance / step, first = before / step;
  return (Axis){out, in, 1, step, before, -reach, reach + 1, first, in ? (in - 1 + before) / step - first + 1 : 0};
}

/* Where the inputs of a tap begin among those of a grid point. */
static int64_t place_tap(const Job *job, int i, int64_t tap) {
  int64_t distance = tap * job->convolution->dilation[i];
  return job->transposed ? job->axis[i].span - 1 - distance / job->axis[i].out_step : distance;
}

static int64_t place_taps(const Job *job, int64_t vertical, int64_t horizontal) {
  int64_t row = place_tap(job, 0, vertical), position = place_tap(job, 1, horizontal), step = job->axis[1].in_step;
  return row * job->row_size + (position % step * job->positions + position / step) * job->kernels->lanes;
}

static int64_t count_packed_rows(const Job *job) { return (job->band - 1) * job->axis[0].in_step + job->axis[0].span; }
static int64_t count_out_phases(const Job *job) { return job->axis[0].out_step * job->axis[1].out_step; }

/* The sizes of bands, tiles and the packed input. They do not depend on the number of threads. */
static void divide(Job *job) {
  const Axis *y = &job->axis[0], *x = &job->axis[1];
  int64_t lanes = job->kernels->lanes;
  job->positions = x->points + (x->span - 1) / x->in_step;
  job->channel_size = x->in_step * job->positions * lanes;
  job->row_size = job->in_channels * job->channel_size + lanes; /* the last vector takes what no tap reads */
  int64_t rows = PACKED_BYTES / (job->row_size * (int64_t)job->kernels->size);
  int64_t band = most(1, least(y->points, (rows - y->span) / y->in_step + 1));
  while (band > 1 && job->images * (round_up(y->points, band) / band) < LEAST_GROUPS * lanes) band = (band + 1) / 2;
  job->bands = round_up(y->points, band) / band;
  job->band = round_up(y->points, job->bands) / job->bands;
  job->bands = round_up(y->points, job->band) / job->band;
  job->groups = round_up(job->images * job->bands, lanes) / lanes;
  int64_t tiles = round_up(x->points, job->kernels->width) / job->kernels->width;
  job->width = round_up(x->points, tiles) / tiles;
}

static void fill_in_places(Job *job) {
  const Axis *x = &job->axis[1];
  int64_t lanes = job->kernels->lanes, start = x->origin + x->first * x->in_step;
  int32_t waste = (int32_t)(job->row_size - lanes);
  for (int64_t phase = 0; phase < x->in_step; phase++) {
    job->inside[2 * phase] = (int32_t)job->positions;
    job->inside[2 * phase + 1] = 0;
  }
  int32_t *place = job->in_places;
  for (int64_t i = 0; i < x->inputs; i++) {
    int64_t distance = i - start, phase = distance % x->in_step, position = distance / x->in_step;
    int is_read = distance >= 0 && position < job->positions;
    if (is_read) {
      job->inside[2 * phase] = (int32_t)least(job->inside[2 * phase], position);
      job->inside[2 * phase + 1] = (int32_t)most(job->inside[2 * phase + 1], position + 1);
    }
    for (int64_t c = 0; c < job->in_channels; c++)
      *place++ = is_read ? (int32_t)(c * job->channel_size + (phase * job->positions + position) * lanes) : waste;
  }
}

static void fill_out_places(Job *job) {
  int64_t positions = job->width * job->axis[1].out_step, lanes = job->kernels->lanes;
  int32_t *place = job->out_places;
  for (int64_t i = 0; i < positions; i++)
    for (int64_t c = 0; c < job->out_channels; c++) *place++ = (int32_t)((c * positions + i) * lanes);
}

static void fill_entries(Job *job, const void *values) {
  const Structure *s = job->structure;
  const Convolution *c = job->convolution;
  for (int64_t o = 0; o < s->columns; o++)
    for (int32_t k = s->column_pointers[o]; k < s->column_pointers[o + 1]; k++) {
      int64_t row = s->column_rows[k], tap = row / c->channels, channel = row % c->channels;
      int64_t offset = place_taps(job, tap / c->kernel[1], tap % c->kernel[1]) + channel * job->channel_size;
      job->offsets[k] = (int32_t)offset;
    }
  job->pointers = s->column_pointers;
  if (values) copy_values(job->kernels, values, s->column_values, s->count, job->weights);
}

static void fill_transposed_entries(Job *job, const char *values) {
  const Structure *s = job->structure;
  const Convolution *c = job->convolution;
  int64_t steps[2] = {job->axis[0].out_step, job->axis[1].out_step};
  int32_t count = 0, *pointer = job->own_pointers;
  size_t size = job->kernels->size;
  for (int64_t phase = 0; phase < steps[0] * steps[1]; phase++)
    for (int64_t channel = 0; channel < c->channels; channel++) {
      *pointer++ = count;
      for (int64_t tap = 0; tap < c->kernel[0] * c->kernel[1]; tap++) {
        int64_t y = tap / c->kernel[1], x = tap % c->kernel[1];
        if (y * c->dilation[0] % steps[0] != phase / steps[1] || x * c->dilation[1] % steps[1] != phase % steps[1])
          continue;
        int64_t place = place_taps(job, y, x), row = tap * c->channels + channel;
        int32_t begin = s->row_pointers[row], length = s->row_pointers[row + 1] - begin;
        for (int32_t k = 0; k < length; k++)
          job->offsets[count + k] = (int32_t)(place + s->row_outputs[begin + k] * job->channel_size);
        memcpy(job->weights + count * size, values + begin * size, length * size);
        count += length;
      }
    }
  *pointer = count;
  job->pointers = job->own_pointers;
}

/* Packs the rows that a group reads. A row outside of an image is a row of zeros. */
static void pack_group(const Job *job, int64_t group, char *packed) {
  const Axis *y = &job->axis[0], *x = &job->axis[1];
  int64_t lanes = job->kernels->lanes, size = job->kernels->size, rows = count_packed_rows(job);
  int64_t bytes = x->inputs * job->in_channels * size;
  for (int64_t row = 0; row < rows; row++, packed += job->row_size * size) {
    const void *sources[MOST_LANES];
    int found = 0;
    for (int64_t lane = 0; lane < lanes; lane++) {
      int64_t piece = group * lanes + lane, image = piece % job->images, band = piece / job->images;
      int64_t at = (y->first + band * job->band) * y->in_step + y->origin + row;
      int is_inside = band < job->bands && at >= 0 && at < y->inputs;
      sources[lane] = is_inside ? job->input + (image * y->inputs + at) * bytes : job->zeros;
      found |= is_inside;
    }
    if (!found) {
      memset(packed, 0, job->row_size * size);
      continue;
    }
    job->kernels->pack(sources, x->inputs * job->in_channels, job->in_places, packed);
    for (int64_t c = 0; c < job->in_channels; c++)
      for (int64_t phase = 0; phase < x->in_step; phase++) {
        char *line = packed + (c * job->channel_size + phase * job->positions * lanes) * size;
        int64_t begin = job->inside[2 * phase], end = most(begin, job->inside[2 * phase + 1]);
        memset(line, 0, begin * lanes * size);
        memset(line + end * lanes * size, 0, (job->positions - end) * lanes * size);
      }
  }
}

/* Pointers to row `row` of each lane's outputs, from `begin` on, and whether there is one; `spare` for the others. */
static int find_out_rows(const Job *job, int64_t group, int64_t row, int64_t phase, int64_t begin, void *spare,
                         void **rows) {
  const Axis *y = &job->axis[0];
  int64_t lanes = job->kernels->lanes;
  int found = 0;
  for (int64_t lane = 0; lane < lanes; lane++) {
    int64_t piece = group * lanes + lane, image = piece % job->images, band = piece / job->images;
    int64_t point = band * job->band + row, at = (y->first + point) * y->out_step + phase - y->shift;
    int is_inside = band < job->bands && point < y->points && at >= 0 && at < y->outputs;
    int64_t place = ((image * y->outputs + at) * job->axis[1].outputs + begin) * job->out_channels;
    rows[lane] = is_inside ? job->output + place * (int64_t)job->kernels->size : spare;
    found |= is_inside;
  }
  return found;
}

/* The outputs of a tile in every horizontal phase, and their way into the tensor. */
static void run_tile(const Job *job, int64_t group, int64_t row, int64_t phase, int64_t start, Tile *tile,
                     void *spare) {
  const Axis *x = &job->axis[1];
  void *rows[MOST_LANES];
  int64_t left = (x->first + start) * x->out_step - x->shift, begin = most(0, left);
  int64_t end = least(x->outputs, left + tile->width * x->out_step);
  if (begin >= end || !find_out_rows(job, group, row, phase, begin, spare, rows)) return;
  char *output = tile->output;
  for (int64_t i = 0; i < x->out_step; i++) {
    tile->pointers = job->pointers + (phase * x->out_step + i) * job->out_channels;
    tile->output = output + i * job->kernels->lanes * job->kernels->size;
    job->kernels->outputs(tile);
  }
  tile->output = output;
  job->kernels->unpack(output, job->out_places + (begin - left) * job->out_channels,
                       (end - begin) * job->out_channels, rows);
}

static void run_outputs(void *argument, int64_t group) {
  Job *job = argument;
  const Axis *y = &job->axis[0], *x = &job->axis[1];
  size_t size = job->kernels->size, lanes = job->kernels->lanes, bytes = 0;
  size_t tile_size = job->width * x->out_step * job->out_channels;
  size_t in = reserve(&bytes, count_packed_rows(job) * job->row_size * size);
  size_t out = reserve(&bytes, tile_size * lanes * size), spare = reserve(&bytes, tile_size * size);
  char *memory = take_scratch(FOR_TASK, bytes);
  if (!memory) {
    __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  pack_group(job, group, memory + in);
  Tile tile = {.last = (int32_t)job->out_channels, .offsets = job->offsets, .weights = job->weights,
               .output = memory + out, .output_stride = job->width * x->out_step * lanes,
               .position_stride = x->out_step * lanes};
  for (int64_t row = 0; row < job->band; row++)
    for (int64_t start = 0; start < x->points; start += job->width) {
      tile.width = (int)least(job->width, x->points - start);
      tile.input = memory + in + (row * y->in_step * job->row_size + start * lanes) * size;
      for (int64_t phase = 0; phase < y->out_step; phase++)
        run_tile(job, group, row, phase, start, &tile, memory + spare);
    }
}

static void run_values(void *argument, int64_t part) {
  Job *job = argument;
  const Axis *y = &job->axis[0], *x = &job->axis[1];
  size_t size = job->kernels->size, lanes = job->kernels->lanes, bytes = 0, count = job->structure->count;
  size_t in = reserve(&bytes, count_packed_rows(job) * job->row_size * size);
  size_t out = reserve(&bytes, job->width * job->out_channels * lanes * size);
  size_t products = reserve(&bytes, job->longest * lanes * size);
  char *memory = take_scratch(FOR_TASK, bytes), *sums = job->sums + part * count * size;
  if (!memory) {
    __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
    return;
  }
  memset(sums, 0, count * size);
  Tile tile = {.last = (int32_t)job->out_channels, .offsets = job->offsets, .pointers = job->pointers,
               .output = memory + out, .output_stride = job->width * lanes, .position_stride = lanes, .sums = sums,
               .products = memory + products};
  int64_t end = least(job->groups, (part + 1) * job->groups_a_part);
  for (int64_t group = part * job->groups_a_part; group < end; group++) {
    pack_group(job, group, memory + in);
    for (int64_t row = 0; row < job->band; row++)
      for (int64_t start = 0; start < x->points; start += job->width) {
        void *rows[MOST_LANES];
        if (!find_out_rows(job, group, row, 0, start, job->zeros, rows)) continue;
        tile.width = (int)least(job->width, x->points - start);
        tile.input = memory + in + (row * y->in_step * job->row_size + start * lanes) * size;
        job->kernels->pack((const void *const *)rows, tile.width * job->out_channels, job->out_places, tile.output);
        job->kernels->values(&tile);
      }
  }
}

/* Memory for what all tasks read, and for the sums of `parts` parts; zero where there is some. */
static int allocate(Job *job, int64_t parts) {
  size_t bytes = 0, size = job->kernels->size, count = job->structure->count;
  const Axis *x = &job->axis[1];
  int64_t in_line = x->inputs * job->in_channels, out_line = job->width * x->out_step * job->out_channels;
  size_t in = reserve(&bytes, in_line * sizeof(int32_t)), out = reserve(&bytes, out_line * sizeof(int32_t));
  size_t inside = reserve(&bytes, 2 * x->in_step * sizeof(int32_t));
  size_t pointers = reserve(&bytes, (count_out_phases(job) * job->out_channels + 1) * sizeof(int32_t));
  size_t offsets = reserve(&bytes, count * sizeof(int32_t)), weights = reserve(&bytes, count * size);
  size_t zeros = reserve(&bytes, most(in_line, out_line) * size), sums = reserve(&bytes, parts * count * size);
  char *memory = take_scratch(FOR_CALL, bytes);
  if (!memory) return 1;
  job->in_places = (int32_t *)(memory + in);
  job->out_places = (int32_t *)(memory + out);
  job->inside = (int32_t *)(memory + inside);
  job->own_pointers = (int32_t *)(memory + pointers);
  job->offsets = (int32_t *)(memory + offsets);
  job->weights = memory + weights;
  job->zeros = memory + zeros;
  job->sums = memory + sums;
  memset(job->zeros, 0, most(in_line, out_line) * size);
  fill_in_places(job);
  fill_out_places(job);
  return 0;
}

static Job make_job(const Kernels *kernels, const Structure *s, const Convolution *c, int transposed,
                    const void *input, const void *output) {
  return (Job){.kernels = kernels, .structure = s, .convolution = c, .transposed = transposed,
               .axis = {make_axis(c, 0, transposed), make_axis(c, 1, transposed)}, .images = c->images,
               .in_channels = transposed ? c->outputs : c->channels,
               .out_channels = transposed ? c->channels : c->outputs, .input = input, .output = (char *)output};
}

/* Offsets are of 32 bits. */
static int is_too_large(const Job *job) { return count_packed_rows(job) * job->row_size > INT32_MAX; }

static int run_product(Job *job, const void *values) {
  if (!job->images || !job->out_channels || !job->axis[0].outputs || !job->axis[1].outputs) return 0;
  divide(job);
  if (is_too_large(job) || allocate(job, 0)) return 1;
  if (job->transposed)
    fill_transposed_entries(job, values);
  else
    fill_entries(job, values);
  run_tasks(run_outputs, job, job->groups);
  return job->failed;
}

int convolve(const Kernels *kernels, const Structure *s, const Convolution *c, const void *x, const void *values,
             void *y) {
  Job job = make_job(kernels, s, c, 0, x, y);
  return run_product(&job, values);
}

int convolve_transposed(const Kernels *kernels, const Structure *s, const Convolution *c, const void *dy,
                        const void *values, void *dx) {
  Job job = make_job(kernels, s, c, 1, dy, dx);
  return run_product(&job, values);
}

int convolve_values(const Kernels *kernels, const Structure *s, const Convolution *c, const void *x, const void *dy,
                    void *dvalues) {
  Job job = make_job(kernels, s, c, 0, x, dy);
  memset(dvalues, 0, s->count * kernels->size);
  if (!c->images || !s->count || !c->out_height || !c->out_width) return 0;
  divide(&job);
  job.groups_a_part = round_up(job.groups, MOST_PARTS) / MOST_PARTS;
  int64_t parts = round_up(job.groups, job.groups_a_part) / job.groups_a_part;
  if (is_too_large(&job) || allocate(&job, parts)) return 1;
  fill_entries(&job, NULL);
  job.longest = find_longest(s->column_pointers, s->columns);
  run_tasks(run_values, &job, parts);
  if (!job.failed) add_parts(kernels, job.sums, parts, s->count, s->column_values, dvalues);
  return job.failed;
}
