/* The inner loops, written once. kernels.c includes this file for each type of number and instruction set, with

     REAL     float or double              LANES    numbers in a vector
     NAME(x)  x with a suffix of its own   WIDTH    vectors that the registers hold beside two others
     TARGET   attribute of the functions   BLOCKS   parts of 16 bytes in a vector

   and with the shuffles of the parts: LOW(a, b) and HIGH(a, b) take numbers of a and b in turn, from the lower or the
   upper half of each part; LOW_HALF and HIGH_HALF join these halves. */

enum { NAME(part) = 16 / sizeof(REAL) };

typedef REAL NAME(vector) __attribute__((vector_size(LANES * sizeof(REAL)), may_alias));
typedef REAL NAME(loose_vector) __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
typedef REAL NAME(vector_part) __attribute__((vector_size(16), aligned(sizeof(REAL)), may_alias));

#define VECTOR NAME(vector)
#define LOOSE_VECTOR NAME(loose_vector)
#define PART NAME(part)
#define VECTOR_PART NAME(vector_part)
#define ALIKE_WIDTH 3
#define INLINE TARGET static inline __attribute__((always_inline))

/* Transposes each part of PART vectors in itself. */
INLINE void NAME(transpose)(VECTOR *rows) {
#if PART_OF_TWO
  VECTOR first = LOW(rows[0], rows[1]), second = HIGH(rows[0], rows[1]);
  rows[0] = first;
  rows[1] = second;
#else
  VECTOR a = LOW(rows[0], rows[1]), b = HIGH(rows[0], rows[1]);
  VECTOR c = LOW(rows[2], rows[3]), d = HIGH(rows[2], rows[3]);
  rows[0] = LOW_HALF(a, c);
  rows[1] = HIGH_HALF(a, c);
  rows[2] = LOW_HALF(b, d);
  rows[3] = HIGH_HALF(b, d);
#endif
}

/* A vector of which part b comes from lane b * PART + j: after the transposition the lanes stand in order. */
INLINE void NAME(pack_part)(const REAL *const *lanes, int64_t i, const int32_t *places, REAL *target) {
  VECTOR rows[PART];
  UNROLL for (int j = 0; j < PART; j++) JOIN(rows[j], lanes, i, j, PART);
  NAME(transpose)(rows);
  UNROLL for (int j = 0; j < PART; j++) *(VECTOR *)(target + places[i + j]) = rows[j];
}

TARGET static void NAME(pack)(const void *const *sources, int64_t count, const int32_t *places, void *packed,
                              int64_t ahead) {
  enum { LINE = 64 / sizeof(REAL) };
  const REAL *lanes[LANES];
  for (int lane = 0; lane < LANES; lane++) lanes[lane] = sources[lane];
  int64_t i = 0;
  for (; i + LINE <= count; i += LINE) {
    UNROLL for (int lane = 0; lane < LANES; lane++) __builtin_prefetch(lanes[lane] + i + ahead);
    UNROLL for (int j = 0; j < LINE; j += PART) NAME(pack_part)(lanes, i + j, places, packed);
  }
  for (; i + PART <= count; i += PART) NAME(pack_part)(lanes, i, places, packed);
  for (; i < count; i++)
    for (int lane = 0; lane < LANES; lane++) ((REAL *)packed)[places[i] + lane] = lanes[lane][i];
}

/* Numbers LANES at a time: part b of a vector comes from number b * PART + j, so that after the transposition each
   vector holds neighbouring numbers of one lane. A cache line is written at once: lanes lie far apart, often by a power
   of two, and drive each other's half-written lines out of the cache. */
INLINE void NAME(unpack_vectors)(const REAL *source, const int32_t *places, VECTOR *lanes) {
  const REAL *numbers[LANES];
  UNROLL for (int i = 0; i < LANES; i++) numbers[i] = source + places[i];
  UNROLL for (int part = 0; part < BLOCKS; part++) {
    VECTOR rows[PART];
    UNROLL for (int j = 0; j < PART; j++) JOIN(rows[j], numbers, part * PART, j, PART);
    NAME(transpose)(rows);
    UNROLL for (int j = 0; j < PART; j++) lanes[part * PART + j] = rows[j];
  }
}

TARGET static void NAME(unpack)(const void *packed, const int32_t *places, int64_t count, void *const *targets) {
  enum { VECTORS = 64 / sizeof(VECTOR) };
  REAL *lanes[LANES];
  for (int lane = 0; lane < LANES; lane++) lanes[lane] = targets[lane];
  const REAL *source = packed;
  int64_t i = 0;
  for (; i + VECTORS * LANES <= count; i += VECTORS * LANES) {
    VECTOR line[VECTORS][LANES];
    for (int v = 0; v < VECTORS; v++) NAME(unpack_vectors)(source, places + i + v * LANES, line[v]);
    for (int lane = 0; lane < LANES; lane++)
      UNROLL for (int v = 0; v < VECTORS; v++) *(LOOSE_VECTOR *)(lanes[lane] + i + v * LANES) = line[v][lane];
  }
  for (; i + LANES <= count; i += LANES) {
    VECTOR line[LANES];
    NAME(unpack_vectors)(source, places + i, line);
    for (int lane = 0; lane < LANES; lane++) *(LOOSE_VECTOR *)(lanes[lane] + i) = line[lane];
  }
  for (; i < count; i++)
    for (int lane = 0; lane < LANES; lane++) lanes[lane][i] = source[places[i] + lane];
}

/* Lists that read the same inputs: `width` vectors of ALIKE outputs, from vector `start` on. 4 times 3 sums, 3 inputs and
   a weight fill 16 registers, and an input is loaded once for 4 outputs. */
INLINE void NAME(alike_outputs_of_width)(const Tile *tile, int32_t o, int start, const int width) {
  const REAL *input = (const REAL *)tile->input + start * LANES, *weights[ALIKE];
  REAL *output = (REAL *)tile->output + o * tile->output_stride + start * tile->position_stride;
  const ptrdiff_t stride = tile->position_stride, next = tile->output_stride;
  const int32_t *offsets = tile->offsets + tile->pointers[o];
  int32_t length = tile->pointers[o + 1] - tile->pointers[o];
  VECTOR sums[ALIKE][ALIKE_WIDTH];
  UNROLL for (int j = 0; j < ALIKE; j++) {
    weights[j] = (const REAL *)tile->weights + tile->pointers[o + j];
    UNROLL for (int i = 0; i < width; i++)
      sums[j][i] = tile->adds ? *(const VECTOR *)(output + j * next + i * stride) : (VECTOR){0};
  }
  for (int32_t k = 0; k < length; k++) {
    const VECTOR *source = (const VECTOR *)(input + offsets[k]);
    UNROLL for (int j = 0; j < ALIKE; j++) {
      REAL weight = weights[j][k];
      UNROLL for (int i = 0; i < width; i++) sums[j][i] += weight * source[i];
    }
  }
  UNROLL for (int j = 0; j < ALIKE; j++)
    UNROLL for (int i = 0; i < width; i++) *(VECTOR *)(output + j * next + i * stride) = sums[j][i];
}

/* A function of its own: inlined it would take registers from the lists that are not alike. */
TARGET static __attribute__((noinline)) void NAME(alike_outputs)(const Tile *tile, int32_t o) {
  int start = 0;
  for (; start + ALIKE_WIDTH <= tile->width; start += ALIKE_WIDTH)
    NAME(alike_outputs_of_width)(tile, o, start, ALIKE_WIDTH);
  if (tile->width - start == 2) NAME(alike_outputs_of_width)(tile, o, start, 2);
  if (tile->width - start == 1) NAME(alike_outputs_of_width)(tile, o, start, 1);
}

INLINE void NAME(outputs_of_width)(const Tile *tile, const int width) {
  const REAL *weights = tile->weights, *input = tile->input;
  const int32_t *offsets = tile->offsets;
  const ptrdiff_t stride = tile->position_stride;
  for (int32_t o = 0; o < tile->outputs; o++) {
    if (tile->are_alike && tile->are_alike[o]) {
      NAME(alike_outputs)(tile, o);
      o += ALIKE - 1;
      continue;
    }
    int32_t begin = tile->pointers[o], end = tile->pointers[o + 1];
    REAL *output = (REAL *)tile->output + o * tile->output_stride;
    VECTOR sums[WIDTH];
    if (tile->adds) {
      if (begin == end) continue;
      UNROLL for (int i = 0; i < width; i++) sums[i] = *(const VECTOR *)(output + i * stride);
    } else {
      UNROLL for (int i = 0; i < width; i++) sums[i] = (VECTOR){0};
    }
    for (int32_t k = begin; k < end; k++) {
      const VECTOR *source = (const VECTOR *)(input + offsets[k]);
      REAL weight = weights[k];
      UNROLL for (int i = 0; i < width; i++) sums[i] += weight * source[i];
    }
    UNROLL for (int i = 0; i < width; i++) *(VECTOR *)(output + i * stride) = sums[i];
  }
}

/* Adds the lanes of each of `count` vectors to a number of `sums`. */
INLINE void NAME(add_lanes)(const VECTOR *products, int32_t count, REAL *sums) {
  int32_t k = 0;
  for (; k + PART <= count; k += PART) {
    const VECTOR *p = products + k;
#if PART_OF_TWO
    VECTOR total = LOW(p[0], p[1]) + HIGH(p[0], p[1]);
#else
    VECTOR a = LOW(p[0], p[1]) + HIGH(p[0], p[1]), b = LOW(p[2], p[3]) + HIGH(p[2], p[3]);
    VECTOR total = LOW_HALF(a, b) + HIGH_HALF(a, b);
#endif
    const VECTOR_PART *parts = (const VECTOR_PART *)&total;
    VECTOR_PART sum = parts[0];
    UNROLL for (int j = 1; j < BLOCKS; j++) sum += parts[j];
    *(VECTOR_PART *)(sums + k) += sum;
  }
  for (; k < count; k++) {
    REAL sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += products[k][lane];
    sums[k] += sum;
  }
}

INLINE void NAME(values_of_width)(const Tile *tile, const int width) {
  const REAL *input = tile->input;
  const int32_t *offsets = tile->offsets;
  VECTOR *products = tile->products;
  for (int32_t o = 0; o < tile->outputs; o++) {
    int32_t begin = tile->pointers[o], end = tile->pointers[o + 1];
    if (begin == end) continue;
    const REAL *output = (const REAL *)tile->output + o * tile->output_stride;
    VECTOR gradient[WIDTH];
    UNROLL for (int i = 0; i < width; i++) gradient[i] = *(const VECTOR *)(output + i * tile->position_stride);
    for (int32_t k = begin; k < end; k++) {
      const VECTOR *source = (const VECTOR *)(input + offsets[k]);
      VECTOR even = gradient[0] * source[0], odd = {0};
      UNROLL for (int i = 1; i < width; i += 2) odd += gradient[i] * source[i];
      UNROLL for (int i = 2; i < width; i += 2) even += gradient[i] * source[i];
      products[k - begin] = even + odd;
    }
    NAME(add_lanes)(products, end - begin, (REAL *)tile->sums + begin);
  }
}

TARGET static void NAME(gather)(const void *source, const int32_t *order, int64_t count, void *target) {
  const REAL *from = source;
  REAL *to = target;
  for (int64_t k = 0; k < count; k++) to[k] = from[order[k]];
}

TARGET static void NAME(scatter)(const void *source, const int32_t *order, int64_t count, void *target) {
  const REAL *from = source;
  REAL *to = target;
  for (int64_t k = 0; k < count; k++) to[order[k]] = from[k];
}

/* The loops over the vectors of a tile are unrolled, so each width is a function of its own. */
#define EACH_WIDTH(DO)                                                                                        \
  DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12)

#define WIDE(n)                                                                                               \
  TARGET static void NAME(outputs_##n)(const Tile *tile) { NAME(outputs_of_width)(tile, n); }                 \
  TARGET static void NAME(values_##n)(const Tile *tile) { NAME(values_of_width)(tile, n); }
EACH_WIDTH(WIDE)
#undef WIDE

static void NAME(outputs)(const Tile *tile) {
#define WIDE(n) NAME(outputs_##n),
  static void (*const functions[])(const Tile *) = {NULL, EACH_WIDTH(WIDE)};
#undef WIDE
  functions[tile->width](tile);
}

static void NAME(values)(const Tile *tile) {
#define WIDE(n) NAME(values_##n),
  static void (*const functions[])(const Tile *) = {NULL, EACH_WIDTH(WIDE)};
#undef WIDE
  functions[tile->width](tile);
}

static const Kernels NAME(kernels) = {LANES,         WIDTH,        sizeof(REAL), NAME(pack),   NAME(unpack),
                                      NAME(outputs), NAME(values), NAME(gather), NAME(scatter)};

#undef EACH_WIDTH
#undef VECTOR
#undef LOOSE_VECTOR
#undef PART
#undef VECTOR_PART
#undef INLINE
#undef ALIKE_WIDTH
#undef LANES
#undef WIDTH
#undef BLOCKS
#undef TARGET
#undef NAME
#undef JOIN
#undef LOW
#undef HIGH
#undef LOW_HALF
#undef HIGH_HALF
