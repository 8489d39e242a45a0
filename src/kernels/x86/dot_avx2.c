/* Dot products of f32 rows for AVX2: two registers hold the 16 lanes of the reference. */
#include <immintrin.h>

#include "base/compiler.h"
#include "kernels/kernels.h"

void tkv_dot_avx2(struct tkv_kernels *k);

/* Lanes folded by 8, 4, 2, 1. */
TKV_INLINE float fold(__m256 low, __m256 high)
{
    const __m256 x8 = _mm256_add_ps(low, high);
    const __m128 x4 = _mm_add_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps(x8, 1));
    const __m128 x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
    return _mm_cvtss_f32(_mm_add_ss(x2, _mm_movehdup_ps(x2)));
}

static void dot_avx2(const float *restrict a, const float *restrict q, size_t q_stride,
                     uint32_t n_rows, uint32_t D, float *restrict out)
{
    for (uint32_t r = 0; r < n_rows; r++, q += q_stride) {
        __m256 low = _mm256_setzero_ps(), high = low;
        for (uint32_t c = 0; c < D; c += 16) {
            low = _mm256_fmadd_ps(_mm256_loadu_ps(a + c), _mm256_loadu_ps(q + c), low);
            high = _mm256_fmadd_ps(_mm256_loadu_ps(a + c + 8), _mm256_loadu_ps(q + c + 8), high);
        }
        out[r] = fold(low, high);
    }
}

void tkv_dot_avx2(struct tkv_kernels *k)
{
    k->dot = dot_avx2;
}
