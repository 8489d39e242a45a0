/* Groups of asymmetric codes with AVX2: 8 values a register. A product and a sum, not an fma, as in
 * the reference: bit-exact. */
#include <immintrin.h>

#include "kernels/kernels.h"

void tkv_kivi_avx2(struct tkv_kernels *k);

/* The codes at bit `shift` of 8 bytes. */
static inline __m256i codes8(const uint8_t *codes, int shift, int mask)
{
    const __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)codes));
    return _mm256_and_si256(_mm256_srli_epi32(v, shift), _mm256_set1_epi32(mask));
}

/* The 8 bits of a byte, each times 4. */
static inline __m256i third_bits(uint8_t byte)
{
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(byte), bit), bit);
    return _mm256_and_si256(set, _mm256_set1_epi32(4));
}

static inline void store8(float *x, __m256i codes, __m256 delta, __m256 least)
{
    _mm256_storeu_ps(x, _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(codes), delta), least));
}

static void kivi_groups_avx2(const uint8_t *restrict codes, const float *restrict least,
                             const float *restrict delta, size_t n, uint32_t bits,
                             float *restrict x)
{
    for (size_t g = 0; g < n; g++, codes += 4 * bits, x += 32) {
        const __m256 d = _mm256_set1_ps(delta[g]), l = _mm256_set1_ps(least[g]);
        for (int i = 0; i < 4; i++) {
            __m256i v;
            if (bits == 4)
                v = codes8(codes + i % 2 * 8, i / 2 * 4, 15);
            else
                v = codes8(codes, 2 * i, 3);
            if (bits == 3)
                v = _mm256_or_si256(v, third_bits(codes[8 + i]));
            store8(x + 8 * i, v, d, l);
        }
    }
}

void tkv_kivi_avx2(struct tkv_kernels *k)
{
    k->kivi_groups = kivi_groups_avx2;
}
