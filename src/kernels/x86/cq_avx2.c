/* Coupled channels with AVX2: the search alone, 16 tokens in two registers over all centroids.
 * Tables of 256 bytes are too large for its permutations: looking up stays with the reference. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "format/cq.h"
#include "kernels/kernels.h"

#define T TKV_PAGE_TOKENS

void tkv_cq_avx2(struct tkv_kernels *k);

TKV_INLINE __m256i broadcast_pair(const int16_t *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

/* The codes of 8 tokens, from their largest scores. */
TKV_INLINE void store_codes(__m256i most, uint8_t *codes)
{
    int32_t lane[8];
    _mm256_storeu_si256((__m256i *)(void *)lane, most);
    for (uint32_t i = 0; i < 8; i++)
        codes[i] = (uint8_t)(TKV_CQ_CODES - 1 - ((uint32_t)lane[i] & (TKV_CQ_CODES - 1)));
}

/* n_pairs is a constant. */
TKV_INLINE void nearest(const int16_t *x, const int16_t *centroids, const int32_t *offset,
                        uint32_t n_pairs, uint8_t *codes)
{
    __m256i rows[4][2], most[2];
    for (uint32_t i = 0; i < 2; i++) {
        most[i] = _mm256_set1_epi32(INT32_MIN);
        for (uint32_t p = 0; p < n_pairs; p++)
            rows[p][i] =
                _mm256_loadu_si256((const __m256i *)(const void *)(x + (p * T + i * 8) * 2));
    }
    for (uint32_t c = 0; c < TKV_CQ_CODES; c++, centroids += 2 * n_pairs) {
        const __m256i start = _mm256_set1_epi32(offset[c]);
        __m256i score[2] = {start, start};
        for (uint32_t p = 0; p < n_pairs; p++) {
            const __m256i pair = broadcast_pair(centroids + 2 * p);
            for (uint32_t i = 0; i < 2; i++)
                score[i] = _mm256_add_epi32(score[i], _mm256_madd_epi16(rows[p][i], pair));
        }
        most[0] = _mm256_max_epi32(most[0], score[0]);
        most[1] = _mm256_max_epi32(most[1], score[1]);
    }
    store_codes(most[0], codes);
    store_codes(most[1], codes + 8);
}

static void cq_nearest_avx2(const int16_t *x, const int16_t *centroids, const int32_t *offset,
                            uint32_t dim, uint8_t *codes)
{
    for (uint32_t t = 0; t < T; t += 16) {
        if (dim == 4)
            nearest(x + 2 * t, centroids, offset, 2, codes + t);
        else
            nearest(x + 2 * t, centroids, offset, 4, codes + t);
    }
}

void tkv_cq_avx2(struct tkv_kernels *k)
{
    k->cq_nearest = cq_nearest_avx2;
}
