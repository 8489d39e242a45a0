/* Groups of asymmetric codes with AVX2: 8 values a register. A product and a sum, not an fma, as in
 * the reference: bit-exact. */
#include <immintrin.h>

#include "kernels/kernels.h"

void tkv_kivi_avx2(struct tkv_kernels *k);

/* The codes at bit `shift` of 8 bytes. */
static inline void store8(float *x, const uint8_t *codes, int shift, uint32_t bits, __m256 delta,
                          __m256 least)
{
    const __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)codes));
    const __m256i code =
        _mm256_and_si256(_mm256_srli_epi32(v, shift), _mm256_set1_epi32((1 << bits) - 1));
    _mm256_storeu_ps(x, _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(code), delta), least));
}

static void kivi_groups_avx2(const uint8_t *restrict codes, const float *restrict least,
                             const float *restrict delta, size_t n, uint32_t bits,
                             float *restrict x)
{
    for (size_t g = 0; g < n; g++, codes += 4 * bits, x += 32) {
        const __m256 d = _mm256_set1_ps(delta[g]), l = _mm256_set1_ps(least[g]);
        if (bits == 4)
            for (size_t i = 0; i < 16; i += 8) {
                store8(x + i, codes + i, 0, 4, d, l);
                store8(x + 16 + i, codes + i, 4, 4, d, l);
            }
        else
            for (int i = 0; i < 4; i++)
                store8(x + 8 * i, codes, 2 * i, 2, d, l);
    }
}

void tkv_kivi_avx2(struct tkv_kernels *k)
{
    k->kivi_groups = kivi_groups_avx2;
}
