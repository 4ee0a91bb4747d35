/* The inner loops for every instruction set, and the choice of one. */
#include "engine.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define HAS_X86 1
#else
#define HAS_X86 0
#endif

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#define SHUFFLE(a, b, integer, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define UNROLL _Pragma("GCC unroll 32")
#define SHUFFLE(a, b, integer, ...) __builtin_shuffle(a, b, (integer){__VA_ARGS__})
#endif

/* Indices of shuffles, by the number of lanes; those of the second vector come after those of the first. */
typedef int32_t int4 __attribute__((vector_size(16)));
typedef int64_t long2 __attribute__((vector_size(16)));
#define LOW4(a, b) SHUFFLE(a, b, int4, 0, 4, 1, 5)
#define HIGH4(a, b) SHUFFLE(a, b, int4, 2, 6, 3, 7)
#define LOW_HALF4(a, b) SHUFFLE(a, b, int4, 0, 1, 4, 5)
#define HIGH_HALF4(a, b) SHUFFLE(a, b, int4, 2, 3, 6, 7)
#define LOW2(a, b) SHUFFLE(a, b, long2, 0, 2)
#define HIGH2(a, b) SHUFFLE(a, b, long2, 1, 3)

#define JOIN1(row, lanes, i, j, part) __builtin_memcpy(&(row), lanes[j] + (i), 16)

#define REAL float
#define PART_OF_TWO 0
#define NAME(x) x##_f32
#define TARGET
#define LANES 4
#define BLOCKS 1
#define WIDTH 12
#define JOIN JOIN1
#define LOW LOW4
#define HIGH HIGH4
#define LOW_HALF LOW_HALF4
#define HIGH_HALF HIGH_HALF4
#include "kernels.h"
#undef REAL
#undef PART_OF_TWO

#define REAL double
#define PART_OF_TWO 1
#define NAME(x) x##_f64
#define TARGET
#define LANES 2
#define BLOCKS 1
#define WIDTH 12
#define JOIN JOIN1
#define LOW LOW2
#define HIGH HIGH2
#include "kernels.h"
#undef REAL
#undef PART_OF_TWO

#if HAS_X86
typedef int32_t int8 __attribute__((vector_size(32)));
typedef int64_t long4 __attribute__((vector_size(32)));
typedef int32_t int16 __attribute__((vector_size(64)));
typedef int64_t long8 __attribute__((vector_size(64)));
#define LOW8(a, b) SHUFFLE(a, b, int8, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH8(a, b) SHUFFLE(a, b, int8, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_HALF8(a, b) SHUFFLE(a, b, int8, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_HALF8(a, b) SHUFFLE(a, b, int8, 2, 3, 10, 11, 6, 7, 14, 15)
#define LOW4D(a, b) SHUFFLE(a, b, long4, 0, 4, 2, 6)
#define HIGH4D(a, b) SHUFFLE(a, b, long4, 1, 5, 3, 7)
#define LOW16(a, b) SHUFFLE(a, b, int16, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH16(a, b) SHUFFLE(a, b, int16, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_HALF16(a, b) SHUFFLE(a, b, int16, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_HALF16(a, b) SHUFFLE(a, b, int16, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define LOW8D(a, b) SHUFFLE(a, b, long8, 0, 8, 2, 10, 4, 12, 6, 14)
#define HIGH8D(a, b) SHUFFLE(a, b, long8, 1, 9, 3, 11, 5, 13, 7, 15)

#define LOAD_PART(lanes, i, lane) _mm_loadu_ps((const float *)(lanes[lane] + (i)))
#define JOIN2(row, lanes, i, j, part)                                                                  \
  (row) = (__typeof__(row))_mm256_insertf128_ps(_mm256_castps128_ps256(LOAD_PART(lanes, i, j)),         \
                                                LOAD_PART(lanes, i, (part) + (j)), 1)
#define JOIN4(row, lanes, i, j, part)                                                                  \
  (row) = (__typeof__(row))_mm512_insertf32x4(                                                         \
      _mm512_insertf32x4(_mm512_insertf32x4(_mm512_castps128_ps512(LOAD_PART(lanes, i, j)),            \
                                            LOAD_PART(lanes, i, (part) + (j)), 1),                     \
                         LOAD_PART(lanes, i, 2 * (part) + (j)), 2),                                    \
      LOAD_PART(lanes, i, 3 * (part) + (j)), 3)

#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx2,fma")))

#define REAL float
#define PART_OF_TWO 0
#define NAME(x) x##_f32_avx2
#define TARGET AVX2
#define LANES 8
#define BLOCKS 2
#define WIDTH 12
#define JOIN JOIN2
#define LOW LOW8
#define HIGH HIGH8
#define LOW_HALF LOW_HALF8
#define HIGH_HALF HIGH_HALF8
#include "kernels.h"

#define NAME(x) x##_f32_avx512
#define TARGET AVX512
#define LANES 16
#define BLOCKS 4
#define WIDTH 12
#define JOIN JOIN4
#define LOW LOW16
#define HIGH HIGH16
#define LOW_HALF LOW_HALF16
#define HIGH_HALF HIGH_HALF16
#include "kernels.h"
#undef REAL
#undef PART_OF_TWO

#define REAL double
#define PART_OF_TWO 1
#define NAME(x) x##_f64_avx2
#define TARGET AVX2
#define LANES 4
#define BLOCKS 2
#define WIDTH 12
#define JOIN JOIN2
#define LOW LOW4D
#define HIGH HIGH4D
#include "kernels.h"

#define NAME(x) x##_f64_avx512
#define TARGET AVX512
#define LANES 8
#define BLOCKS 4
#define WIDTH 12
#define JOIN JOIN4
#define LOW LOW8D
#define HIGH HIGH8D
#include "kernels.h"
#undef REAL
#undef PART_OF_TWO
#endif

#if HAS_X86
/* Whether processor and operating system have the vectors. Asked by hand: zig's __builtin_cpu_supports knows of none. */
static int find_bytes_of_vectors(void) {
  unsigned a, b, c, d, low, high;
  const unsigned fma = 1u << 12, saves = 1u << 27, avx2 = 1u << 5, avx512 = 1u << 16;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & fma) || !(c & saves)) return 16;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & avx2) || (low & 0x06) != 0x06) return 16;
  return b & avx512 && (low & 0xe6) == 0xe6 ? 64 : 32;
}
#endif

int count_vector_bytes(void) {
  int bytes = 16;
#if HAS_X86
  /* Remembered: a virtual machine takes long to answer. */
  static int found;
  bytes = __atomic_load_n(&found, __ATOMIC_RELAXED);
  if (!bytes) bytes = find_bytes_of_vectors();
  __atomic_store_n(&found, bytes, __ATOMIC_RELAXED);
#endif
  return bytes;
}

const Kernels *find_kernels(size_t size) {
  int is_single = size == sizeof(float);
#if HAS_X86
  int bytes = count_vector_bytes();
  if (bytes == 64) return is_single ? &kernels_f32_avx512 : &kernels_f64_avx512;
  if (bytes == 32) return is_single ? &kernels_f32_avx2 : &kernels_f64_avx2;
#endif
  return is_single ? &kernels_f32 : &kernels_f64;
}
