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

#if defined(__x86_64__)
#define CHOOSE_KERNELS(table, size)                                                                            \
  (__builtin_cpu_supports("avx512f")                                                                           \
       ? ((size) == sizeof(float) ? &table##_f32_avx512 : &table##_f64_avx512)                                 \
   : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")                                           \
       ? ((size) == sizeof(float) ? &table##_f32_avx2 : &table##_f64_avx2)                                     \
       : ((size) == sizeof(float) ? &table##_f32 : &table##_f64))
#else
#define CHOOSE_KERNELS(table, size) ((size) == sizeof(float) ? &table##_f32 : &table##_f64)
#endif
