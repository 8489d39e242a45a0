/* Groups of asymmetric codes with AVX-512: 16 values a register. A product and a sum, not an fma,
 * as in the reference: bit-exact. */
#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

void tkv_kivi_avx512(struct tkv_kernels *k);

static inline void store16(float *x, __m512i codes, __m512 delta, __m512 least)
{
    _mm512_storeu_ps(x, _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(codes), delta), least));
}

static void kivi_groups_avx512(const uint8_t *restrict codes, const float *restrict least,
                               const float *restrict delta, size_t n, uint32_t bits,
                               float *restrict x)
{
    const __m512i low = _mm512_set1_epi32(bits == 4 ? 15 : 3), four = _mm512_set1_epi32(4);
    /* 2 and 3 bits: 8 bytes are all 32 codes; both halves of a register hold them, shifted differently */
    const __m512i shift = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(2), 1);
    for (size_t g = 0; g < n; g++, codes += 4 * bits, x += 32) {
        const __m512 d = _mm512_set1_ps(delta[g]), l = _mm512_set1_ps(least[g]);
        if (bits == 4) {
            const __m512i v = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes));
            store16(x, _mm512_and_si512(v, low), d, l);
            store16(x + 16, _mm512_srli_epi32(v, 4), d, l);
        } else {
            const __m128i eight = _mm_loadl_epi64((const __m128i *)codes);
            const __m512i v =
                _mm512_srlv_epi32(_mm512_cvtepu8_epi32(_mm_unpacklo_epi64(eight, eight)), shift);
            const __m512i first = _mm512_and_si512(v, low);
            const __m512i second = _mm512_and_si512(_mm512_srli_epi32(v, 4), low);
            uint32_t third = 0;
            if (bits == 3)
                memcpy(&third, codes + 8, sizeof third);
            store16(x, _mm512_mask_or_epi32(first, (__mmask16)third, first, four), d, l);
            store16(x + 16, _mm512_mask_or_epi32(second, (__mmask16)(third >> 16), second, four), d,
                    l);
        }
    }
}

void tkv_kivi_avx512(struct tkv_kernels *k)
{
    k->kivi_groups = kivi_groups_avx512;
}
