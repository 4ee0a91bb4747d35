/* Products with the active weights of a sparse kernel, batch innermost.

   A vector holds one number of each of `lanes` independent pieces of work (images, bands of images, or rows of a
   batch). Every active weight is then one broadcast and one fused multiply-add a vector, whatever the pattern. */
#ifndef SPARSE_ENGINE_H
#define SPARSE_ENGINE_H

#include <stddef.h>
#include <stdint.h>

enum { ALIGNMENT = 64, MOST_LANES = 16 };

/* The active weights in both orders; see Structure in products.py. */
typedef struct {
  int64_t rows, columns, count;
  const int32_t *row_pointers, *row_outputs;
  const int32_t *column_pointers, *column_rows, *column_values;
} Structure;

/* Work on `width` neighbouring vectors of the outputs [first, last). Strides are in numbers, not bytes. */
typedef struct {
  int width;
  int32_t first, last;
  const int32_t *pointers; /* entries of output o: pointers[o] to pointers[o + 1] */
  const int32_t *offsets;  /* of an entry's input vector from `input` */
  const void *weights;     /* outputs: one number an entry */
  const void *input;
  void *output;            /* outputs: written; values: the gradient of the outputs, read */
  ptrdiff_t output_stride, position_stride;
  void *sums;              /* values: one number an entry, added to */
  void *products;          /* values: scratch of one vector an entry of the longest output */
} Tile;

/* The inner loops for one type of number and one instruction set. */
typedef struct {
  int lanes, width; /* numbers in a vector; most vectors in a tile */
  size_t size;      /* bytes of a number */
  /* Transposes `count` numbers of each lane: number i goes to packed[places[i] + lane]. */
  void (*pack)(const void *const *lanes, int64_t count, const int32_t *places, void *packed);
  /* The way back: number i of each lane comes from packed[places[i] + lane]. */
  void (*unpack)(const void *packed, const int32_t *places, int64_t count, void *const *lanes);
  /* output[o, i] = sum over the entries e of o of weights[e] input[offsets[e], i] */
  void (*outputs)(const Tile *);
  /* sums[e] += sum over i and lanes of input[offsets[e], i] output[o, i] */
  void (*values)(const Tile *);
} Kernels;

const Kernels *find_kernels(size_t size);

/* threads.c */
typedef void (*Task)(void *job, int64_t index);
void run_tasks(Task, void *job, int64_t count);
int count_threads(void);

/* scratch.c: memory of the calling thread that is kept from call to call; NULL if there is none left. */
enum { FOR_CALL, FOR_TASK, SCRATCH_KINDS };
void *take_scratch(int kind, size_t bytes);

/* Pieces of one scratch block, each aligned. `reserve` adds to `bytes` and returns where the piece begins. */
static inline size_t reserve(size_t *bytes, size_t wanted) {
  size_t start = *bytes;
  *bytes = start + (wanted + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return start;
}

/* structure.c */
const char *check_structure(const Structure *);
int64_t count_mask(const uint8_t *mask, int64_t count);
void fill_structure(const uint8_t *mask, int64_t rows, int64_t columns, int32_t *index, int32_t *row_pointers,
                    int32_t *row_outputs, int32_t *column_pointers, int32_t *column_rows, int32_t *column_values);

/* dense.c; zero where it worked, and otherwise there was no memory. */
int multiply(const Kernels *, const Structure *, int64_t batch, const void *x, const void *values, void *y);
int multiply_transposed(const Kernels *, const Structure *, int64_t batch, const void *dy, const void *values,
                        void *dx);
int multiply_values(const Kernels *, const Structure *, int64_t batch, const void *x, const void *dy, void *dvalues);

/* sums of the parts, in the order of the parts: result[places[k]] = sum over p of sums[p, k] */
void add_parts(const Kernels *, const void *sums, int64_t parts, int64_t count, const int32_t *places, void *result);
int32_t find_longest(const int32_t *pointers, int64_t count);
void copy_values(const Kernels *, const void *values, const int32_t *places, int64_t count, void *copied);

/* conv.c */
typedef struct {
  int64_t images, height, width, channels;      /* of the layer's input */
  int64_t out_height, out_width, outputs;       /* of its output */
  int64_t kernel[2], stride[2], dilation[2], before[2]; /* vertical, horizontal; `before`: zeros before the image */
} Convolution;
int convolve(const Kernels *, const Structure *, const Convolution *, const void *x, const void *values, void *y);
int convolve_transposed(const Kernels *, const Structure *, const Convolution *, const void *dy, const void *values,
                        void *dx);
int convolve_values(const Kernels *, const Structure *, const Convolution *, const void *x, const void *dy,
                    void *dvalues);

static inline int64_t divide_up(int64_t number, int64_t unit) { return (number + unit - 1) / unit; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

#endif
