/* Visual codes with AVX-512: a group is one shift and one mask of its unit, and goes straight to
 * vpdpbusd. Sums are exact, so their order does not matter. */
#include "format/visual.h"
#include "kernels/ahead.h"
#include "kernels/kernels.h"
#include "kernels/x86/vnni_avx512.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_visual_avx512(struct tkv_kernels *k);

/* Shifts are immediate: written out for compilers that do not fold. */
TKV_INLINE __m512i shifted(__m512i x, uint32_t n)
{
    switch (n) {
    case 1:
        return _mm512_srli_epi16(x, 1);
    case 2:
        return _mm512_srli_epi16(x, 2);
    case 3:
        return _mm512_srli_epi16(x, 3);
    case 4:
        return _mm512_srli_epi16(x, 4);
    case 5:
        return _mm512_srli_epi16(x, 5);
    case 6:
        return _mm512_srli_epi16(x, 6);
    case 7:
        return _mm512_srli_epi16(x, 7);
    default:
        return x;
    }
}

/* Group j of a unit. */
TKV_INLINE __m512i group_of(__m512i unit, uint32_t bits, uint32_t j)
{
    return _mm512_and_si512(shifted(unit, bits * j), _mm512_set1_epi8((char)((1u << bits) - 1)));
}

/* clang-format off */
#define SWITCH_ROWS(n, BODY) \
    switch (n) {             \
    case 1: BODY(1); break;  \
    case 2: BODY(2); break;  \
    case 3: BODY(3); break;  \
    default: BODY(4); break; \
    }
/* clang-format on */

static inline uint32_t row_block(uint32_t left)
{
    return left <= 4 ? left : left >= 8 ? 4 : (left + 1) / 2;
}

/* A turn takes 8 groups: two quads of dims for all four blocks of tokens. */
TKV_INLINE void score_rows(const uint8_t *codes, uint32_t bits, const int8_t *q, uint32_t D,
                           int32_t *s, int rows, struct tkv_ahead *ahead)
{
    const uint32_t per_unit = 8 / bits;
    __m512i acc[4][4], unit = _mm512_setzero_si512();
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < 4; b++)
            acc[r][b] = _mm512_setzero_si512();
    for (uint32_t d = 0; d < D; d += 8) {
        TKV_UNROLL
        for (uint32_t j = 0; j < 8; j++) {
            if (j % per_unit == 0) {
                unit = _mm512_loadu_si512(codes);
                codes += TKV_VISUAL_UNIT;
            }
            if (j % 4 == 0)
                tkv_step_ahead(ahead);
            __m512i group = group_of(unit, bits, j % per_unit);
            TKV_HOLD(group);
            for (int r = 0; r < rows; r++)
                tkv_dot4(&acc[r][j % 4], group, tkv_broadcast4(q + (size_t)r * D + d + j / 4 * 4));
        }
    }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < 4; b++)
            _mm512_storeu_si512(s + r * TOKENS + b * 16, acc[r][b]);
}

TKV_INLINE void score(const uint8_t *codes, uint32_t D, uint32_t bits, const int8_t *q,
                      uint32_t n_rows, int32_t *s, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = row_block(n_rows - r);
#define BODY(rows)                                                                                 \
    score_rows(codes, bits, q + (size_t)r * D, D, s + (size_t)r * TOKENS, rows, &cursor)
        SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = cursor;
}

static void visual_score_avx512(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
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

/* rows x (16 * cols) channels. `codes`: the units of the first of these channels. */
TKV_INLINE void wsum_block(const uint8_t *codes, uint32_t bits, const uint8_t *w,
                           const float *wscale, uint32_t D, float *acc, int rows, int cols,
                           struct tkv_ahead *ahead)
{
    const uint32_t per_unit = 8 / bits;
    const size_t col_bytes = 16 / per_unit * TKV_VISUAL_UNIT;
    __m512i sum[4][4], unit[4];
    for (int i = 0; i < cols; i++)
        for (int r = 0; r < rows; r++)
            sum[r][i] = _mm512_setzero_si512();
    for (uint32_t run = 0; run < 16; run += per_unit, codes += TKV_VISUAL_UNIT) {
        for (int i = 0; i < cols; i++)
            unit[i] = _mm512_loadu_si512(codes + (size_t)i * col_bytes);
        TKV_UNROLL
        for (uint32_t j = 0; j < per_unit; j++) {
            if (j % 2 == 0)
                tkv_step_ahead(ahead);
            __m512i group[4];
            for (int i = 0; i < cols; i++) {
                group[i] = group_of(unit[i], bits, j);
                TKV_HOLD(group[i]);
            }
            for (int r = 0; r < rows; r++) {
                const __m512i weights = tkv_broadcast4(w + r * TOKENS + 4 * (run + j));
                for (int i = 0; i < cols; i++)
                    tkv_dot4(&sum[r][i], weights, group[i]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < cols; i++) {
            float *out = acc + (size_t)r * D + i * 16;
            _mm512_storeu_ps(out,
                             _mm512_fmadd_ps(_mm512_set1_ps(wscale[r]),
                                             _mm512_cvtepi32_ps(sum[r][i]), _mm512_loadu_ps(out)));
        }
}

TKV_INLINE void wsum_rows(const uint8_t *codes, uint32_t bits, const uint8_t *w,
                          const float *wscale, uint32_t D, float *acc, int rows,
                          struct tkv_ahead *ahead)
{
    uint32_t c = 0;
    for (; c + 64 <= D; c += 64)
        wsum_block(codes + (size_t)c * 8 * bits, bits, w, wscale, D, acc + c, rows, 4, ahead);
    for (; c < D; c += 16)
        wsum_block(codes + (size_t)c * 8 * bits, bits, w, wscale, D, acc + c, rows, 1, ahead);
}

TKV_INLINE void wsum(const uint8_t *codes, uint32_t D, uint32_t bits, const uint8_t *w,
                     const float *wscale, uint32_t n_rows, float *acc, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = row_block(n_rows - r);
#define BODY(rows)                                                                                 \
    wsum_rows(codes, bits, w + (size_t)r * TOKENS, wscale + r, D, acc + (size_t)r * D, rows,       \
              &cursor)
        SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = cursor;
}

static void visual_wsum_avx512(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
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

void tkv_visual_avx512(struct tkv_kernels *k)
{
    k->visual_score = visual_score_avx512;
    k->visual_wsum = visual_wsum_avx512;
}
