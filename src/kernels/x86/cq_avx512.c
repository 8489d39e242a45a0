/* Coupled channels with AVX-512 BW, VNNI and VBMI. The search holds 64 tokens in four registers and
 * goes over the centroids; a table of 256 bytes is four registers, looked up for 64 tokens at once
 * by two permutations. Exact, as the reference is. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "format/cq.h"
#include "kernels/kernels.h"

#define T TKV_PAGE_TOKENS

void tkv_cq_avx512(struct tkv_kernels *k);

TKV_INLINE __m512i broadcast_pair(const int16_t *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}

/* n_pairs is a constant: the tokens of half a page, 2 * n_pairs channels each, stay in registers. */
TKV_INLINE void nearest(const int16_t *x, const int16_t *centroids, const int32_t *offset,
                        uint32_t n_pairs, uint8_t *codes)
{
    __m512i rows[4][2], most[2];
    for (uint32_t i = 0; i < 2; i++) {
        most[i] = _mm512_set1_epi32(INT32_MIN);
        for (uint32_t p = 0; p < n_pairs; p++)
            rows[p][i] = _mm512_loadu_si512(x + (p * T + i * 16) * 2);
    }
    for (uint32_t c = 0; c < TKV_CQ_CODES; c++, centroids += 2 * n_pairs) {
        const __m512i start = _mm512_set1_epi32(offset[c]);
        __m512i score[2] = {start, start};
        for (uint32_t p = 0; p < n_pairs; p++) {
            const __m512i pair = broadcast_pair(centroids + 2 * p);
            score[0] = _mm512_dpwssd_epi32(score[0], rows[p][0], pair);
            score[1] = _mm512_dpwssd_epi32(score[1], rows[p][1], pair);
        }
        most[0] = _mm512_max_epi32(most[0], score[0]);
        most[1] = _mm512_max_epi32(most[1], score[1]);
    }
    for (uint32_t i = 0; i < 2; i++) {
        const __m128i low = _mm512_cvtepi32_epi8(most[i]);
        _mm_storeu_si128((__m128i *)(void *)(codes + i * 16),
                         _mm_xor_si128(low, _mm_set1_epi8((char)0xff)));
    }
}

static void cq_nearest_avx512(const int16_t *x, const int16_t *centroids, const int32_t *offset,
                              uint32_t dim, uint8_t *codes)
{
    for (uint32_t t = 0; t < T; t += 32) {
        if (dim == 4)
            nearest(x + 2 * t, centroids, offset, 2, codes + t);
        else
            nearest(x + 2 * t, centroids, offset, 4, codes + t);
    }
}

/* What 64 codes mean for a channel; values: [256]. */
TKV_INLINE __m512i look_up(const int8_t *values, __m512i codes)
{
    const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(values), codes,
                                                 _mm512_loadu_si512(values + 64));
    const __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(values + 128), codes,
                                                  _mm512_loadu_si512(values + 192));
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high);
}

static void cq_tile_k_avx512(const uint8_t *codes, const int8_t *values, const float *step,
                             const float *base, uint32_t D, uint32_t dim, float *tile)
{
    for (uint32_t d = 0; d < D; d++, tile += T) {
        const __m512 by = _mm512_set1_ps(step[d]), plus = _mm512_set1_ps(base[d]);
        int8_t row[T];
        _mm512_storeu_si512(row, look_up(values + (size_t)d * TKV_CQ_CODES,
                                         _mm512_loadu_si512(codes + (size_t)(d / dim) * T)));
        for (uint32_t t = 0; t < T; t += 16) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(row + t));
            const __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
            _mm512_storeu_ps(tile + t, _mm512_add_ps(_mm512_mul_ps(x, by), plus));
        }
    }
}

/* 16 x 16 lanes of 32 bits. */
TKV_INLINE void transpose(__m512i x[16])
{
    __m512i y[16];
    for (uint32_t i = 0; i < 16; i += 4) {
        const __m512i a = _mm512_unpacklo_epi32(x[i], x[i + 1]),
                      b = _mm512_unpackhi_epi32(x[i], x[i + 1]),
                      c = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]),
                      d = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
        y[i] = _mm512_unpacklo_epi64(a, c), y[i + 1] = _mm512_unpackhi_epi64(a, c);
        y[i + 2] = _mm512_unpacklo_epi64(b, d), y[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    /* y[4 a + b], lane l: column 4 l + b of rows 4 a to 4 a + 3 */
    for (uint32_t b = 0; b < 4; b++) {
        const __m512i p = _mm512_shuffle_i32x4(y[b], y[4 + b], 0x88),
                      q = _mm512_shuffle_i32x4(y[b], y[4 + b], 0xdd),
                      r = _mm512_shuffle_i32x4(y[8 + b], y[12 + b], 0x88),
                      s = _mm512_shuffle_i32x4(y[8 + b], y[12 + b], 0xdd);
        x[b] = _mm512_shuffle_i32x4(p, r, 0x88);
        x[4 + b] = _mm512_shuffle_i32x4(q, s, 0x88);
        x[8 + b] = _mm512_shuffle_i32x4(p, r, 0xdd);
        x[12 + b] = _mm512_shuffle_i32x4(q, s, 0xdd);
    }
}

static void cq_tile_v_avx512(const uint8_t *codes, const int8_t *values, uint32_t D, uint32_t dim,
                             int8_t *tile)
{
    for (uint32_t d = 0; d < D; d += 16) {
        __m512i x[16];
        for (uint32_t i = 0; i < 16; i++)
            x[i] = look_up(values + (size_t)(d + i) * TKV_CQ_CODES,
                           _mm512_loadu_si512(codes + (size_t)((d + i) / dim) * T));
        transpose(x);
        for (uint32_t i = 0; i < 16; i++)
            _mm512_storeu_si512(tile + (size_t)i * D * 4 + (size_t)d * 4, x[i]);
    }
}

void tkv_cq_avx512(struct tkv_kernels *k)
{
    k->cq_nearest = cq_nearest_avx512;
    k->cq_tile_k = cq_tile_k_avx512;
    k->cq_tile_v = cq_tile_v_avx512;
}
