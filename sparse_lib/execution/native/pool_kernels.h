/* Max pooling of one row of windows, included by pool.c for each type of number and instruction set: see targets.h.

   Vectors hold neighbouring channels. Where there are fewer channels than lanes, a vector goes beyond its pixel into the
   next ones of the same row, which are written later: only at a row's end are single numbers moved. */

typedef REAL NAME(vector) __attribute__((vector_size(LANES * sizeof(REAL))));
typedef REAL NAME(loose_vector) __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
typedef INTEGER NAME(integers) __attribute__((vector_size(LANES * sizeof(REAL))));

#define VECTOR NAME(vector)
#define LOOSE_VECTOR NAME(loose_vector)
#define INTEGERS NAME(integers)
#define INLINE TARGET static inline __attribute__((always_inline))

INLINE VECTOR NAME(load)(const REAL *source, int64_t count) {
  if (count == LANES) return *(const LOOSE_VECTOR *)source;
  VECTOR result = {0};
  for (int64_t lane = 0; lane < count; lane++) result[lane] = source[lane];
  return result;
}

INLINE void NAME(store)(REAL *target, VECTOR value, int64_t count) {
  if (count == LANES)
    *(LOOSE_VECTOR *)target = value;
  else
    for (int64_t lane = 0; lane < count; lane++) target[lane] = value[lane];
}

INLINE VECTOR NAME(select)(INTEGERS chosen, VECTOR first, VECTOR second) {
  return (VECTOR)((chosen & (INTEGERS)first) | (~chosen & (INTEGERS)second));
}

/* Which number of the window is the first maximum, as TensorFlow finds it: NaN counts if it stands first. */
INLINE INTEGERS NAME(find)(const REAL *x, const Window *w, int height, int width, int64_t count) {
  VECTOR best = NAME(load)(x, count);
  INTEGERS place = {0};
  INTEGER number = 0;
  for (int i = 0; i < height; i++)
    for (int j = 0; j < width; j++, number++) {
      if (!number) continue;
      VECTOR value = NAME(load)(x + i * w->row + j * w->channels, count);
      INTEGERS is_larger = best < value;
      best = NAME(select)(is_larger, value, best);
      place = (is_larger & number) | (~is_larger & place);
    }
  return place;
}

/* y = maximum, as TensorFlow finds it: NaN never counts, and nothing is below the lowest finite number. */
INLINE void NAME(take_maximum)(const REAL *x, REAL *y, const Window *w, int height, int width, int64_t count) {
  VECTOR best = (VECTOR){0} - (sizeof(REAL) == sizeof(float) ? (REAL)FLT_MAX : (REAL)DBL_MAX);
  for (int i = 0; i < height; i++)
    for (int j = 0; j < width; j++) {
      VECTOR value = NAME(load)(x + i * w->row + j * w->channels, count);
      best = NAME(select)(best < value, value, best);
    }
  NAME(store)(y, best, count);
}

/* dx = dy at the maximum, and zero elsewhere. */
INLINE void NAME(put)(const REAL *x, const REAL *dy, REAL *dx, const Window *w, int height, int width, int64_t count) {
  INTEGERS place = NAME(find)(x, w, height, width, count);
  VECTOR gradient = NAME(load)(dy, count) + 0; /* -0 becomes 0, as in a sum */
  INTEGER number = 0;
  for (int i = 0; i < height; i++)
    for (int j = 0; j < width; j++, number++) {
      VECTOR value = (VECTOR)((INTEGERS)gradient & (place == number));
      NAME(store)(dx + i * w->row + j * w->channels, value, count);
    }
}

/* dx += dy at the maximum. */
INLINE void NAME(add)(const REAL *x, const REAL *dy, REAL *dx, const Window *w, int height, int width, int64_t count) {
  INTEGERS place = NAME(find)(x, w, height, width, count);
  VECTOR gradient = NAME(load)(dy, count);
  INTEGER number = 0;
  for (int i = 0; i < height; i++)
    for (int j = 0; j < width; j++, number++) {
      REAL *target = dx + i * w->row + j * w->channels;
      VECTOR value = (VECTOR)((INTEGERS)gradient & (place == number));
      NAME(store)(target, NAME(load)(target, count) + value, count);
    }
}

/* y = u at the maximum of x. */
INLINE void NAME(take)(const REAL *x, const REAL *u, REAL *y, const Window *w, int height, int width, int64_t count) {
  INTEGERS place = NAME(find)(x, w, height, width, count), result = {0};
  INTEGER number = 0;
  for (int i = 0; i < height; i++)
    for (int j = 0; j < width; j++, number++) {
      VECTOR value = NAME(load)(u + i * w->row + j * w->channels, count);
      result |= (INTEGERS)value & (place == number);
    }
  NAME(store)(y, (VECTOR)result, count);
}

INLINE void NAME(pool_vector)(Pooled wanted, const REAL *x, const REAL *other, REAL *result, const Window *w,
                              int height, int width, int64_t count) {
  if (wanted == MAXIMUM) NAME(take_maximum)(x, result, w, height, width, count);
  if (wanted == PUT) NAME(put)(x, other, result, w, height, width, count);
  if (wanted == ADD) NAME(add)(x, other, result, w, height, width, count);
  if (wanted == TAKE) NAME(take)(x, other, result, w, height, width, count);
}

/* Of any size, and of fewer numbers than a vector has. */
#define ANY(name, wanted)                                                                                           \
  TARGET static __attribute__((noinline)) void NAME(name)(const REAL *x, const REAL *other, REAL *result,           \
                                                          const Window *w, int height, int width, int64_t count) {  \
    NAME(pool_vector)(wanted, x, other, result, w, height, width, count);                                           \
  }
ANY(any_maximum, MAXIMUM)
ANY(any_put, PUT)
ANY(any_added, ADD)
ANY(any_taken, TAKE)
#undef ANY

static void (*const NAME(pool_any)[])(const REAL *, const REAL *, REAL *, const Window *, int, int, int64_t) = {
    [MAXIMUM] = NAME(any_maximum), [PUT] = NAME(any_put), [ADD] = NAME(any_added), [TAKE] = NAME(any_taken)};

/* All channels of a window: `channels` of them, or one vector that goes beyond its pixel. `columns` of the window's width
   are inside of the image. */
INLINE void NAME(pool_window)(Pooled wanted, const REAL *x, const REAL *other, REAL *result, const Window *w,
                              int height, int width, int columns, int64_t channels) {
  for (int64_t c = 0; c < channels; c += LANES) {
    /* The last vector does some channels once more, but for sums. */
    int64_t start = wanted == ADD ? c : least(c, most(0, channels - LANES)), count = least(LANES, channels - start);
    if (columns == width && count == LANES)
      NAME(pool_vector)(wanted, x + start, other + start, result + start, w, height, width, LANES);
    else
      NAME(pool_any)[wanted](x + start, other + start, result + start, w, height, columns, count);
  }
}

INLINE void NAME(pool_row)(Pooled wanted, const PoolRow *r, int height, int width) {
  const Convolution *c = r->sizes;
  const Window w = {c->channels, c->width * c->channels};
  int is_backward = wanted == PUT || wanted == ADD;
  for (int64_t o = 0; o < c->out_width; o++) {
    int64_t left = o * c->stride[1] - c->before[1], right = least(left + c->kernel[1], c->width);
    left = most(left, 0);
    int64_t in = left * c->channels, out = o * c->channels;
    /* Numbers from the last pixel of the window, and from the output, to the end of their rows. */
    int64_t in_rest = w.row - (right - 1) * c->channels, out_rest = (c->out_width - o) * c->channels;
    int goes_beyond = wanted != ADD && least(in_rest, out_rest) >= LANES;
    int64_t channels = goes_beyond ? most(c->channels, LANES) : c->channels;
    const REAL *other = (const REAL *)r->other + (is_backward ? out : in);
    REAL *result = (REAL *)r->output + (is_backward ? in : out);
    NAME(pool_window)(wanted, (const REAL *)r->input + in, other, result, &w, height, width, (int)(right - left),
                      channels);
  }
}

/* Windows of 2x2 and 3x3 are unrolled. */
#define ROWS(name, wanted)                                                        \
  TARGET static void NAME(name)(const PoolRow *row) {                             \
    int width = (int)row->sizes->kernel[1];                                       \
    if (row->height == 2 && width == 2) return NAME(pool_row)(wanted, row, 2, 2); \
    if (row->height == 3 && width == 3) return NAME(pool_row)(wanted, row, 3, 3); \
    NAME(pool_row)(wanted, row, row->height, width);                              \
  }
ROWS(rows_of_maxima, MAXIMUM)
ROWS(rows_put, PUT)
ROWS(rows_added, ADD)
ROWS(rows_taken, TAKE)
#undef ROWS

static void (*const NAME(pool_rows)[])(const PoolRow *) = {
    [MAXIMUM] = NAME(rows_of_maxima), [PUT] = NAME(rows_put), [ADD] = NAME(rows_added), [TAKE] = NAME(rows_taken)};

#undef VECTOR
#undef LOOSE_VECTOR
#undef INTEGERS
#undef INLINE
