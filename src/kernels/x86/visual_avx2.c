/* Visual codes with AVX2: half a unit is one register, products go through vpmaddubsw, which cannot
 * saturate with codes of 4 bits. Sums are exact, so their order does not matter. */
#include <immintrin.h>
#include <string.h>

#include "format/visual.h"
#include "kernels/ahead.h"
#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_visual_avx2(struct tkv_kernels *k);

/* Group j of half a unit. */
TKV_INLINE __m256i group_of(__m256i unit, uint32_t bits, uint32_t j)
{
    return _mm256_and_si256(_mm256_srli_epi16(unit, (int)(bits * j)),
                            _mm256_set1_epi8((char)((1u << bits) - 1)));
}

TKV_INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

TKV_INLINE __m256i broadcast4(const void *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

/* acc + sums of four products, u unsigned, s signed. */
TKV_INLINE __m256i dot4(__m256i acc, __m256i u, __m256i s)
{
    const __m256i pairs = _mm256_maddubs_epi16(u, s);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* One row against 8 of the 16 tokens of each block. `codes`: that half of the first unit. */
TKV_INLINE void score_half(const uint8_t *codes, uint32_t bits, const int8_t *q, uint32_t D,
                           int32_t *s, struct tkv_ahead *ahead)
{
    const uint32_t per_unit = 8 / bits;
    __m256i acc[4], unit = _mm256_setzero_si256();
    for (int b = 0; b < 4; b++)
        acc[b] = _mm256_setzero_si256();
    for (uint32_t d = 0; d < D; d += 8) {
        tkv_step_ahead(ahead);
        TKV_UNROLL
        for (uint32_t j = 0; j < 8; j++) {
            if (j % per_unit == 0) {
                unit = load(codes);
                codes += TKV_VISUAL_UNIT;
            }
            acc[j % 4] =
                dot4(acc[j % 4], group_of(unit, bits, j % per_unit), broadcast4(q + d + j / 4 * 4));
        }
    }
    for (int b = 0; b < 4; b++)
        _mm256_storeu_si256((__m256i *)(s + 16 * b), acc[b]);
}

TKV_INLINE void score(const uint8_t *codes, uint32_t D, uint32_t bits, const int8_t *q,
                      uint32_t n_rows, int32_t *s, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0; r < n_rows; r++, q += D, s += TOKENS) {
        score_half(codes, bits, q, D, s, &cursor);
        score_half(codes + 32, bits, q, D, s + 8, &cursor);
    }
    *ahead = cursor;
}

static void visual_score_avx2(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                              const int8_t *restrict q, uint32_t n_rows, int32_t *restrict s,
                              struct tkv_ahead *ahead)
{
    if (bits == 1)
        score(codes, D, 1, q, n_rows, s, ahead);
    else if (bits == 2)
        score(codes, D, 2, q, n_rows, s, ahead);
    else
        score(codes, D, 4, q, n_rows, s, ahead);
}

/* One row, 16 channels. */
TKV_INLINE void wsum_block(const uint8_t *codes, uint32_t bits, const uint8_t *w, float wscale,
                           float *acc, struct tkv_ahead *ahead)
{
    const uint32_t per_unit = 8 / bits;
    __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (uint32_t run = 0; run < 16; run += per_unit, codes += TKV_VISUAL_UNIT) {
        const __m256i low = load(codes), high = load(codes + 32);
        tkv_step_ahead(ahead);
        TKV_UNROLL
        for (uint32_t j = 0; j < per_unit; j++) {
            const __m256i weights = broadcast4(w + 4 * (run + j));
            sum[0] = dot4(sum[0], weights, group_of(low, bits, j));
            sum[1] = dot4(sum[1], weights, group_of(high, bits, j));
        }
    }
    for (int i = 0; i < 2; i++) {
        const __m256 x = _mm256_cvtepi32_ps(sum[i]);
        _mm256_storeu_ps(acc + 8 * i,
                         _mm256_fmadd_ps(_mm256_set1_ps(wscale), x, _mm256_loadu_ps(acc + 8 * i)));
    }
}

TKV_INLINE void wsum(const uint8_t *codes, uint32_t D, uint32_t bits, const uint8_t *w,
                     const float *wscale, uint32_t n_rows, float *acc, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0; r < n_rows; r++, w += TOKENS)
        for (uint32_t c = 0; c < D; c += 16, acc += 16)
            wsum_block(codes + (size_t)c * 8 * bits, bits, w, wscale[r], acc, &cursor);
    *ahead = cursor;
}

static void visual_wsum_avx2(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                             const uint8_t *restrict w, const float *restrict wscale,
                             uint32_t n_rows, float *restrict acc, struct tkv_ahead *ahead)
{
    if (bits == 1)
        wsum(codes, D, 1, w, wscale, n_rows, acc, ahead);
    else if (bits == 2)
        wsum(codes, D, 2, w, wscale, n_rows, acc, ahead);
    else
        wsum(codes, D, 4, w, wscale, n_rows, acc, ahead);
}

void tkv_visual_avx2(struct tkv_kernels *k)
{
    k->visual_score = visual_score_avx2;
    k->visual_wsum = visual_wsum_avx2;
}
