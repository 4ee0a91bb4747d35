/* Includes KERNELS once for each type of number and instruction set, with

     REAL     float or double      INTEGER  integer of that size
     NAME(x)  x with a suffix      LANES    numbers in a vector
     TARGET   attribute of the functions

   and afterwards CHOOSE_KERNELS(table, size) is the table for a size of numbers and this processor. */

#define REAL float
#define INTEGER int32_t
#define NAME(x) x##_f32
#define TARGET
#define LANES 4
#include KERNELS
#undef NAME
#undef TARGET
#undef LANES

#if defined(__x86_64__)
#define NAME(x) x##_f32_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#include KERNELS
#undef NAME
#undef TARGET
#undef LANES

#define NAME(x) x##_f32_avx512
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define LANES 16
#include KERNELS
#undef NAME
#undef TARGET
#undef LANES
#endif
#undef REAL
#undef INTEGER

#define REAL double
#define INTEGER int64_t
#define NAME(x) x##_f64
#define TARGET
#define LANES 2
#include KERNELS
#undef NAME
#undef TARGET
#undef LANES

#if defined(__x86_64__)
#define NAME(x) x##_f64_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 4
#include KERNELS
#undef NAME
#undef TARGET
#undef LANES

#define NAME(x) x##_f64_avx512
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define LANES 8
#include KERNELS
#undef NAME
#undef TARGET
#undef LANES
#endif
#undef REAL
#undef INTEGER

#define CHOOSE_SIZE(table, set, size) ((size) == sizeof(float) ? &table##_f32##set : &table##_f64##set)
#if defined(__x86_64__)
#define CHOOSE_KERNELS(table, size)                                       \
  (count_vector_bytes() == 64   ? CHOOSE_SIZE(table, _avx512, size)       \
   : count_vector_bytes() == 32 ? CHOOSE_SIZE(table, _avx2, size)         \
                                : CHOOSE_SIZE(table, , size))
#else
#define CHOOSE_KERNELS(table, size) CHOOSE_SIZE(table, , size)
#endif
