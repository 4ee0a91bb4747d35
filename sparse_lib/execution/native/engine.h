/* Products with the active weights of a sparse kernel, batch innermost.

   A vector holds one number of each of `lanes` independent pieces of work (bands of images, or rows of a batch). Every
   active weight is then one broadcast and one fused multiply-add a vector, whatever the pattern. */
#ifndef SPARSE_ENGINE_H
#define SPARSE_ENGINE_H

#include <stddef.h>
#include <stdint.h>

enum { ALIGNMENT = 64, MOST_LANES = 16, ALIKE = 4 };

/* What a product is wanted for: the trilinear form's derivative by dy, by x, or by the weights. */
typedef enum { OUTPUTS, INPUTS, VALUES } Wanted;

/* The active weights row by row; see Structure in products.py. */
typedef struct {
  int64_t rows, columns, count;
  const int32_t *row_pointers, *row_outputs;
} Structure;

/* Sizes of a layer. A dense layer has images of one point, and no zeros around them. */
typedef struct {
  int64_t images, height, width, channels;              /* of the layer's input */
  int64_t out_height, out_width, outputs;               /* of its output */
  int64_t kernel[2], stride[2], dilation[2], before[2]; /* vertical, horizontal; `before`: zeros before the image */
} Convolution;

/* kernels.c: work on `width` neighbouring vectors, for `outputs` lists of entries. Strides are in numbers, not bytes. */
typedef struct {
  int width;
  int adds; /* outputs: whether to add to what is there */
  int32_t outputs;
  const uint8_t *are_alike; /* outputs: whether lists o to o + ALIKE - 1 read the same inputs; NULL: none do */
  const int32_t *pointers; /* entries of list o: pointers[o] to pointers[o + 1] */
  const int32_t *offsets;  /* of an entry's input vector from `input` */
  const void *weights;     /* outputs: one number an entry */
  const void *input;
  void *output; /* outputs: written; values: the gradient of the outputs, read */
  ptrdiff_t output_stride, position_stride;
  void *sums;     /* values: one number an entry, added to */
  void *products; /* values: scratch, one vector an entry of the longest list */
} Tile;

/* The inner loops for one type of number and one instruction set. */
typedef struct {
  int lanes, width; /* numbers in a vector; most vectors in a tile */
  size_t size;      /* bytes of a number */
  /* Transposes `count` numbers of each lane: number i goes to packed[places[i] + lane]. Fetches number i + `ahead`. */
  void (*pack)(const void *const *lanes, int64_t count, const int32_t *places, void *packed, int64_t ahead);
  /* The way back: number i of each lane comes from packed[places[i] + lane]. */
  void (*unpack)(const void *packed, const int32_t *places, int64_t count, void *const *lanes);
  /* output[o, i] = sum over the entries e of list o of weights[e] input[offsets[e], i] */
  void (*outputs)(const Tile *);
  /* sums[e] += sum over i and lanes of input[offsets[e], i] output[o, i] */
  void (*values)(const Tile *);
  /* target[k] = source[order[k]], and target[order[k]] = source[k] */
  void (*gather)(const void *source, const int32_t *order, int64_t count, void *target);
  void (*scatter)(const void *source, const int32_t *order, int64_t count, void *target);
} Kernels;

const Kernels *find_kernels(size_t size);
/* Of the vectors that processor and operating system have: 16, 32 or 64. */
int count_vector_bytes(void);

/* One axis of a product from packed inputs to outputs. Grid point a stands for the outputs a * out_step + phase -
   shift, phase in [0, out_step), and reads the inputs a * in_step + origin + (0 ... span - 1). */
typedef struct {
  int64_t inputs, outputs;
  int64_t in_step, out_step, shift, origin, span;
  int64_t first, points; /* of the grid */
} Axis;

/* What two calls have to have in common to share a plan. Compared byte by byte, so it is zeroed first. */
typedef struct {
  int64_t wanted, size, is_dense;
  int64_t threads; /* outputs and inputs may be divided between threads at will; sums over the batch may not */
  Convolution sizes;
} Key;

/* plan.c: everything that a product needs besides its numbers. It is made anew where sizes or structure change. */
typedef struct {
  int references;
  Key key;
  Structure structure; /* a copy */
  const Kernels *kernels;
  int64_t in_channels, out_channels; /* of the product: those of the layer, or the other way round */
  /* The entries in the order in which they are read: by phase of the outputs, block of input channels, and output.
     Entry k has the value order[k] of the structure. */
  int32_t *pointers, *offsets, *order;
  uint8_t *are_alike; /* see Tile; one a list, if `has_alike` */
  int has_alike;
  int64_t phases, blocks, longest;
  int32_t *in_places, *out_places;
  void *zeros; /* what is read where a lane has nothing */
  int width;   /* of a tile, in vectors */
  int64_t tasks, tiles, units_a_task;
  /* convolutions */
  Axis axis[2]; /* vertical, horizontal */
  int64_t positions, channel_size, row_size; /* of the packed input; sizes in numbers */
  int64_t band, bands, groups;
} Plan;

typedef struct Cache Cache;
Cache *make_cache(void);
void delete_cache(Cache *);
/* Returns a plan, to be released, or NULL and one sentence that says what is wrong (NULL: no memory). */
Plan *find_plan(Cache *, const Key *, const Structure *, const char **wrong);
void release_plan(Cache *, Plan *);

/* Memory for a plan; NULL if there is none. */
void *allocate_for(Plan *, size_t bytes);

/* Orders the entries by list, and within a list by row. The entry of row r and output o belongs to list row_lists[r] +
   output_lists[o], and its input is at row_offsets[r] + output_offsets[o]. Zero where it worked. */
typedef struct {
  int32_t *row_lists, *row_offsets, *output_lists, *output_offsets;
} Tables;
int make_tables(Plan *, Tables *);
int fill_entries(Plan *, const Tables *);
/* How many blocks of channels there are, if `bytes` is what a tile reads of one channel. */
void choose_blocks(Plan *, int64_t bytes);
int64_t find_block(const Plan *, int64_t channel);

/* Runs all blocks of a phase on a tile. */
void run_blocks(const Plan *, int64_t phase, Tile *);

/* The weights in the order of the entries; the sum of the parts' sums, which it overwrites, in that of the values. */
void *gather_weights(const Plan *, const void *values, void *memory);
void add_parts(const Plan *, void *sums, int64_t parts, void *dvalues);

/* dense.c and conv.c; zero where it worked, and otherwise there was no memory. */
int prepare_dense(Plan *);
int run_dense(const Plan *, const void *first, const void *second, void *result);
int prepare_convolution(Plan *);
int run_convolution(const Plan *, const void *first, const void *second, void *result);

/* structure.c */
const char *check_structure(const Structure *);
int64_t count_mask(const uint8_t *mask, int64_t count);
void fill_structure(const uint8_t *mask, int64_t rows, int64_t columns, int32_t *index, int32_t *row_pointers,
                    int32_t *row_outputs, int32_t *column_pointers, int32_t *column_rows, int32_t *column_values);

/* threads.c */
typedef void (*Task)(void *job, int64_t index);
void run_tasks(Task, void *job, int64_t count);
int count_threads(void);

/* scratch.c: memory of the calling thread that is kept from call to call; NULL if there is none left. */
enum { FOR_CALL, FOR_TASK, SCRATCH_KINDS };
void *take_scratch(int kind, size_t bytes);
/* Whether the calling thread takes its scratch for this job for the first time. */
int is_new_to_job(uint64_t job);
uint64_t number_job(void);

/* Pieces of one scratch block, each aligned. `reserve` adds to `bytes` and returns where the piece begins. */
static inline size_t reserve(size_t *bytes, size_t wanted) {
  size_t start = *bytes;
  *bytes = start + (wanted + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return start;
}

static inline int64_t divide_up(int64_t number, int64_t unit) { return (number + unit - 1) / unit; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

#endif
