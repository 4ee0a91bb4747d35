/* What layers without a kernel compute. */
#ifndef SPARSE_LAYERS_H
#define SPARSE_LAYERS_H

#include "engine.h"

/* pool.c: the outputs, numbers of the shape of x put where the maxima are, and taken from there. `size` is that of a
   number in bytes. */
void find_maxima(const Convolution *, size_t size, const void *x, void *y);
void scatter_to_maxima(const Convolution *, size_t size, const void *x, const void *dy, void *dx);
void gather_from_maxima(const Convolution *, size_t size, const void *x, const void *u, void *y);

/* normalization.c; zero where it worked, and otherwise there was no memory. */
typedef struct {
  int64_t rows, channels;
  size_t size;
  const void *gamma, *beta, *epsilon; /* beta: not read by the gradient */
} Normalization;
int normalize(const Normalization *, const void *x, void *y, void *mean, void *variance);
int differentiate_normalization(const Normalization *, const void *x, const void *dy, const void *mean,
                                const void *variance, const void *dmean, const void *dvariance, void *dx, void *dgamma,
                                void *dbeta);
int sum_over_rows(int64_t rows, int64_t channels, size_t size, const void *x, void *sums);
int add_to_rows(int64_t rows, int64_t channels, size_t size, const void *x, const void *shift, void *y);

#endif
