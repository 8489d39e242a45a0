/* Dot products of f32 rows for AVX-512: one register holds the 16 lanes of the reference. */
#include <immintrin.h>

#include "base/compiler.h"
#include "kernels/kernels.h"

void tkv_dot_avx512(struct tkv_kernels *k);

/* Lanes folded by 8, 4, 2, 1. */
TKV_INLINE float fold(__m512 x)
{
    const __m256 x8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 x4 = _mm_add_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps(x8, 1));
    const __m128 x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
    return _mm_cvtss_f32(_mm_add_ss(x2, _mm_movehdup_ps(x2)));
}

static void dot_avx512(const float *restrict a, const float *restrict q, size_t q_stride,
                       uint32_t n_rows, uint32_t D, float *restrict out)
{
    for (uint32_t r = 0; r < n_rows; r++, q += q_stride) {
        __m512 sum = _mm512_setzero_ps();
        for (uint32_t c = 0; c < D; c += 16)
            sum = _mm512_fmadd_ps(_mm512_loadu_ps(a + c), _mm512_loadu_ps(q + c), sum);
        out[r] = fold(sum);
    }
}

void tkv_dot_avx512(struct tkv_kernels *k)
{
    k->dot = dot_avx512;
}
