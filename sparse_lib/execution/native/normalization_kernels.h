/* Sums over rows, and maps of rows, of `width` numbers each; included by normalization.c for each type of number and
   instruction set: see targets.h. The loops over a row are what the compiler makes vectors of. */

/* sums[0][j] = sum over the rows of x[j] */
TARGET static void NAME(sum)(const void *first, const void *second, const void *centre, int64_t rows, int64_t width,
                             void *sums) {
  (void)second, (void)centre;
  const REAL *restrict x = first;
  REAL *restrict total = sums;
  for (int64_t j = 0; j < width; j++) total[j] = 0;
  /* Row by row: of more streams than one or two the processor fetches less ahead. */
  for (int64_t r = 0; r < rows; r++, x += width)
    for (int64_t j = 0; j < width; j++) total[j] += x[j];
}

/* sums[0][j] = sum over the rows of x[j] - centre[j], and sums[1][j] that of its square */
TARGET static void NAME(sum_squares)(const void *first, const void *second, const void *centre, int64_t rows,
                                     int64_t width, void *sums) {
  (void)second;
  const REAL *restrict x = first, *restrict middle = centre;
  REAL *restrict total = sums, *restrict squares = total + width;
  int64_t r = 0;
  for (int64_t j = 0; j < width; j++) total[j] = squares[j] = 0;
  /* Two rows a pass: they are in the cache, and the sums are read and written less often. */
  for (; r + 2 <= rows; r += 2, x += 2 * width)
    for (int64_t j = 0; j < width; j++) {
      REAL a = x[j] - middle[j], b = x[j + width] - middle[j];
      total[j] += a + b;
      squares[j] += a * a + b * b;
    }
  for (; r < rows; r++, x += width)
    for (int64_t j = 0; j < width; j++) {
      REAL a = x[j] - middle[j];
      total[j] += a;
      squares[j] += a * a;
    }
}

/* sums[0][j] = sum over the rows of dy[j], and sums[1][j] that of dy[j] (x[j] - centre[j]) */
TARGET static void NAME(sum_products)(const void *first, const void *second, const void *centre, int64_t rows,
                                      int64_t width, void *sums) {
  const REAL *restrict x = first, *restrict dy = second, *restrict middle = centre;
  REAL *restrict total = sums, *restrict products = total + width;
  for (int64_t j = 0; j < width; j++) total[j] = products[j] = 0;
  for (int64_t r = 0; r < rows; r++, x += width, dy += width)
    for (int64_t j = 0; j < width; j++) {
      total[j] += dy[j];
      products[j] += dy[j] * (x[j] - middle[j]);
    }
}

/* y = factor (x - centre) + shift */
TARGET static void NAME(scale)(const void *input, const void *other, const void *const *vectors, int64_t rows,
                               int64_t width, void *output) {
  (void)other;
  const REAL *restrict x = input, *restrict middle = vectors[0], *restrict factor = vectors[1];
  const REAL *restrict shift = vectors[2];
  REAL *restrict y = output;
  for (int64_t r = 0; r < rows; r++, x += width, y += width)
    for (int64_t j = 0; j < width; j++) y[j] = factor[j] * (x[j] - middle[j]) + shift[j];
}

/* dx = factor dy + slope (x - centre) + shift */
TARGET static void NAME(combine)(const void *input, const void *other, const void *const *vectors, int64_t rows,
                                 int64_t width, void *output) {
  const REAL *restrict x = input, *restrict dy = other, *restrict middle = vectors[0], *restrict factor = vectors[1];
  const REAL *restrict shift = vectors[2], *restrict slope = vectors[3];
  REAL *restrict dx = output;
  for (int64_t r = 0; r < rows; r++, x += width, dy += width, dx += width)
    for (int64_t j = 0; j < width; j++)
      dx[j] = factor[j] * dy[j] + (slope[j] * (x[j] - middle[j]) + shift[j]);
}

/* y = x + shift */
TARGET static void NAME(shift)(const void *input, const void *other, const void *const *vectors, int64_t rows,
                               int64_t width, void *output) {
  (void)other;
  const REAL *restrict x = input, *restrict shift = vectors[0];
  REAL *restrict y = output;
  for (int64_t r = 0; r < rows; r++, x += width, y += width)
    for (int64_t j = 0; j < width; j++) y[j] = x[j] + shift[j];
}

/* Adds the numbers of a row channel by channel; the other way round, repeats a vector of channels along a row. */
static void NAME(fold)(const void *wide, int64_t width, int64_t channels, double *sums) {
  const REAL *source = wide;
  for (int64_t c = 0; c < channels; c++) sums[c] = 0;
  for (int64_t j = 0; j < width; j += channels)
    for (int64_t c = 0; c < channels; c++) sums[c] += source[j + c];
}

static void NAME(repeat)(const double *vector, int64_t channels, int64_t width, void *wide) {
  REAL *target = wide;
  for (int64_t j = 0; j < width; j += channels)
    for (int64_t c = 0; c < channels; c++) target[j + c] = (REAL)vector[c];
}

static void NAME(widen)(const void *vector, int64_t channels, double *wide) {
  const REAL *source = vector;
  for (int64_t c = 0; c < channels; c++) wide[c] = source[c];
}

static const RowKernels NAME(row_kernels) = {
    .sum = NAME(sum),         .sum_squares = NAME(sum_squares), .sum_products = NAME(sum_products),
    .scale = NAME(scale),     .combine = NAME(combine),         .shift = NAME(shift),
    .fold = NAME(fold),       .repeat = NAME(repeat),           .widen = NAME(widen)};
