/* Scores and weighted sums straight from turbo codes. A tile of levels costs more to store and to
 * load again than to decode: with few rows, decoding it for every block of rows is faster. Sums are
 * exact, so this gives what the tile would. See tile_avx512.c for the blocks. */
#include "kernels/ahead.h"
#include "kernels/x86/turbo_levels_avx512.h"
#include "kernels/x86/vnni_avx512.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_fused_avx512(struct tkv_kernels *k);

/* A page of codes, and the cursor of the caller. */
struct source {
    const uint8_t *codes, *third;
    struct tkv_levels levels;
    struct tkv_ahead ahead;
};

TKV_INLINE struct source open_source(const uint8_t *codes, uint32_t D, uint32_t bits, int bias,
                                     const struct tkv_ahead *ahead)
{
    return (struct source){codes, codes + 16 * (size_t)D, tkv_levels_avx512(bits, bias), *ahead};
}

/* Group j of unit u. */
TKV_INLINE __m512i load_group(const struct source *from, uint32_t bits, size_t u, uint32_t j)
{
    return tkv_group_levels(&from->levels, bits, from->codes + 64 * u, from->third + 32 * u, j);
}

/* Blocks of at most 4 rows: levels in the making need registers too. */
static inline uint32_t row_block(uint32_t left)
{
    return left <= 4 ? left : left >= 8 ? 4 : (left + 1) / 2;
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

/* With one or two rows, sums of even and odd groups run side by side. */
TKV_INLINE void score_rows(struct source *from, uint32_t bits, const int8_t *q, uint32_t D,
                           int32_t *s, int rows)
{
    const uint32_t n_groups = tkv_turbo_groups_per_unit(bits), chains = rows <= 2 ? 2 : 1;
    const size_t n_units = D / 4 / n_groups; /* of one block of 16 tokens */
    __m512i acc[2][4][4];
    int32_t offset[4];
    for (int r = 0; r < rows; r++)
        offset[r] = tkv_minus_128_sum(q + (size_t)r * D, D);
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < 4; b++)
            acc[0][r][b] = acc[1][r][b] = _mm512_setzero_si512();
    for (size_t u = 0; u < n_units; u++) {
        TKV_UNROLL
        for (uint32_t j = 0; j < n_groups; j++, q += 4) {
            __m512i codes[4];
            for (size_t b = 0; b < 4; b++) {
                codes[b] = load_group(from, bits, b * n_units + u, j);
                TKV_HOLD(codes[b]);
                if (b % 2 == 0)
                    tkv_step_ahead(&from->ahead);
            }
            for (int r = 0; r < rows; r++) {
                const __m512i qr = tkv_broadcast4(q + (size_t)r * D);
                for (int b = 0; b < 4; b++)
                    tkv_dot4(&acc[j % chains][r][b], codes[b], qr);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < 4; b++) {
            const __m512i sum = _mm512_add_epi32(acc[0][r][b], acc[1][r][b]);
            _mm512_storeu_si512(s + r * TOKENS + b * 16,
                                _mm512_add_epi32(sum, _mm512_set1_epi32(offset[r])));
        }
}

TKV_INLINE void score(const uint8_t *codes, uint32_t D, uint32_t bits, const int8_t *q,
                      uint32_t n_rows, int32_t *s, struct tkv_ahead *ahead)
{
    struct source from = open_source(codes, D, bits, 128, ahead);
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = row_block(n_rows - r);
#define BODY(rows) score_rows(&from, bits, q + (size_t)r * D, D, s + (size_t)r * TOKENS, rows)
        SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = from.ahead;
}

static void turbo_score_avx512(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                               const int8_t *restrict q, uint32_t n_rows, int32_t *restrict s,
                               struct tkv_ahead *ahead)
{
    if (bits == 4)
        score(codes, D, 4, q, n_rows, s, ahead);
    else if (bits == 3)
        score(codes, D, 3, q, n_rows, s, ahead);
    else
        score(codes, D, 2, q, n_rows, s, ahead);
}

/* rows x (16 * cols) channels from channel c on. */
TKV_INLINE void wsum_block(struct source *from, uint32_t bits, const uint8_t *w,
                           const float *wscale, uint32_t D, size_t c, float *acc, int rows,
                           size_t cols)
{
    const uint32_t n_groups = tkv_turbo_groups_per_unit(bits);
    __m512i sum[4][8];
    for (int r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++)
            sum[r][i] = _mm512_setzero_si512();
    for (size_t u = c / 16; u < D / n_groups; u += D / 16) {
        TKV_UNROLL
        for (uint32_t j = 0; j < n_groups; j++, w += 4) {
            __m512i codes[8];
            for (size_t i = 0; i < cols; i++) {
                codes[i] = load_group(from, bits, u + i, j);
                TKV_HOLD(codes[i]);
                if (i % 2 == 0)
                    tkv_step_ahead(&from->ahead);
            }
            for (int r = 0; r < rows; r++) {
                const __m512i wr = tkv_broadcast4(w + r * TOKENS);
                for (size_t i = 0; i < cols; i++)
                    tkv_dot4(&sum[r][i], wr, codes[i]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++) {
            float *out = acc + (size_t)r * D + c + i * 16;
            const __m512 x = _mm512_cvtepi32_ps(sum[r][i]);
            _mm512_storeu_ps(out,
                             _mm512_fmadd_ps(_mm512_set1_ps(wscale[r]), x, _mm512_loadu_ps(out)));
        }
}

TKV_INLINE void wsum_rows(struct source *from, uint32_t bits, const uint8_t *w, const float *wscale,
                          uint32_t D, float *acc, int rows)
{
    size_t c = 0;
    if (rows <= 2)
        for (; c + 128 <= D; c += 128)
            wsum_block(from, bits, w, wscale, D, c, acc, rows, 8);
    for (; c + 64 <= D; c += 64)
        wsum_block(from, bits, w, wscale, D, c, acc, rows, 4);
    for (; c < D; c += 16)
        wsum_block(from, bits, w, wscale, D, c, acc, rows, 1);
}

TKV_INLINE void wsum(const uint8_t *codes, uint32_t D, uint32_t bits, const uint8_t *w,
                     const float *wscale, uint32_t n_rows, float *acc, struct tkv_ahead *ahead)
{
    struct source from = open_source(codes, D, bits, 0, ahead);
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = row_block(n_rows - r);
#define BODY(rows)                                                                                 \
    wsum_rows(&from, bits, w + (size_t)r * TOKENS, wscale + r, D, acc + (size_t)r * D, rows)
        SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = from.ahead;
}

static void turbo_wsum_avx512(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                              const uint8_t *restrict w, const float *restrict wscale,
                              uint32_t n_rows, float *restrict acc, struct tkv_ahead *ahead)
{
    if (bits == 4)
        wsum(codes, D, 4, w, wscale, n_rows, acc, ahead);
    else if (bits == 3)
        wsum(codes, D, 3, w, wscale, n_rows, acc, ahead);
    else
        wsum(codes, D, 2, w, wscale, n_rows, acc, ahead);
}

void tkv_fused_avx512(struct tkv_kernels *k)
{
    k->turbo_score = turbo_score_avx512;
    k->turbo_wsum = turbo_wsum_avx512;
}
