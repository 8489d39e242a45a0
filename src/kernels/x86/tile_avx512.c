/* Tile kernels for AVX-512 with VNNI. D a multiple of 16.
 *
 * A block of `rows` (1 to 6) x 4 registers of accumulators covers the 64 tokens of a score, or
 * 64 channels of a weighted sum: 6 x 4 accumulators, 4 tile registers and one broadcast fill the
 * register file, and each tile register serves all rows. vpdpbusd wants one unsigned side: for
 * keys it is the tile (code + 128, and 128 * sum(q) comes off at the end), for values it is the
 * weights.
 *
 * One or two rows alone have too few chains to hide the latency of vpdpbusd: they sum even and
 * odd groups of dims apart, or take 128 channels. */
#include "kernels/ahead.h"
#include "kernels/row_blocks.h"
#include "kernels/x86/vnni_avx512.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_tile_avx512(struct tkv_kernels *k);

/* `chains` (1 or 2) sums run side by side, of the even and of the odd groups of four dims. */
TKV_INLINE void score_i8_rows(const uint8_t *tile, const int8_t *q, uint32_t D, int32_t *s,
                              int rows, size_t chains, struct tkv_ahead *ahead)
{
    __m512i acc[2][6][4];
    int32_t offset[6];
    for (int r = 0; r < rows; r++)
        offset[r] = tkv_minus_128_sum(q + (size_t)r * D, D);
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < 4; b++)
            acc[0][r][b] = acc[1][r][b] = _mm512_setzero_si512();
    for (size_t d = 0; d < D; d += 4 * chains)
        for (size_t i = 0; i < chains; i++) {
            __m512i codes[4];
            for (size_t b = 0; b < 4; b++) {
                codes[b] = _mm512_load_si512(tile + b * 16 * D + (d + 4 * i) * 16);
                TKV_HOLD(codes[b]);
            }
            for (int r = 0; r < rows; r++) {
                const __m512i qr = tkv_broadcast4(q + (size_t)r * D + d + 4 * i);
                for (int b = 0; b < 4; b++)
                    tkv_dot4(&acc[i][r][b], codes[b], qr);
                if (r % 2 == 0)
                    tkv_step_ahead(ahead);
            }
        }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < 4; b++) {
            const __m512i sum = _mm512_add_epi32(acc[0][r][b], acc[1][r][b]);
            _mm512_storeu_si512(s + r * TOKENS + b * 16,
                                _mm512_add_epi32(sum, _mm512_set1_epi32(offset[r])));
        }
}

static void score_i8_avx512(const uint8_t *restrict tile, const int8_t *restrict q, uint32_t n_rows,
                            uint32_t D, int32_t *restrict s, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = tkv_row_block(n_rows - r);
#define BODY(rows)                                                                                 \
    score_i8_rows(tile, q + (size_t)r * D, D, s + (size_t)r * TOKENS, rows, (rows) <= 2 ? 2 : 1,   \
                  &cursor)
        TKV_SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = cursor;
}

/* rows x (16 * cols) channels from channel c on. */
TKV_INLINE void wsum_i8_block(const int8_t *tile, const uint8_t *w, const float *wscale, uint32_t D,
                              float *acc, int rows, size_t cols, struct tkv_ahead *ahead)
{
    __m512i sum[6][8];
    for (int r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++)
            sum[r][i] = _mm512_setzero_si512();
    for (size_t t = 0; t < TOKENS; t += 4) {
        __m512i codes[8];
        for (size_t i = 0; i < cols; i++) {
            codes[i] = _mm512_load_si512(tile + t * D + i * 64);
            TKV_HOLD(codes[i]);
        }
        for (int r = 0; r < rows; r++) {
            const __m512i wr = tkv_broadcast4(w + r * TOKENS + t);
            for (size_t i = 0; i < cols; i++)
                tkv_dot4(&sum[r][i], wr, codes[i]);
            if (r % 2 == 0)
                tkv_step_ahead(ahead);
        }
    }
    for (int r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++) {
            float *out = acc + (size_t)r * D + i * 16;
            const __m512 x = _mm512_cvtepi32_ps(sum[r][i]);
            _mm512_storeu_ps(out,
                             _mm512_fmadd_ps(_mm512_set1_ps(wscale[r]), x, _mm512_loadu_ps(out)));
        }
}

TKV_INLINE void wsum_i8_rows(const int8_t *tile, const uint8_t *w, const float *wscale, uint32_t D,
                             float *acc, int rows, struct tkv_ahead *ahead)
{
    uint32_t c = 0;
    if (rows <= 2)
        for (; c + 128 <= D; c += 128)
            wsum_i8_block(tile + c * 4, w, wscale, D, acc + c, rows, 8, ahead);
    for (; c + 64 <= D; c += 64)
        wsum_i8_block(tile + c * 4, w, wscale, D, acc + c, rows, 4, ahead);
    switch ((D - c) / 16) {
    case 1:
        wsum_i8_block(tile + c * 4, w, wscale, D, acc + c, rows, 1, ahead);
        break;
    case 2:
        wsum_i8_block(tile + c * 4, w, wscale, D, acc + c, rows, 2, ahead);
        break;
    case 3:
        wsum_i8_block(tile + c * 4, w, wscale, D, acc + c, rows, 3, ahead);
        break;
    }
}

static void wsum_i8_avx512(const int8_t *restrict tile, const uint8_t *restrict w,
                           const float *restrict wscale, uint32_t n_rows, uint32_t D,
                           float *restrict acc, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = tkv_row_block(n_rows - r);
#define BODY(rows)                                                                                 \
    wsum_i8_rows(tile, w + (size_t)r * TOKENS, wscale + r, D, acc + (size_t)r * D, rows, &cursor)
        TKV_SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = cursor;
}

TKV_INLINE void score_f32_rows(const float *kt, const float *q, size_t q_stride, uint32_t D,
                               float *s, int rows, struct tkv_ahead *ahead)
{
    __m512 acc[6][4];
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < 4; b++)
            acc[r][b] = _mm512_setzero_ps();
    for (size_t d = 0; d < D; d++) {
        __m512 x[4];
        for (int b = 0; b < 4; b++) {
            x[b] = _mm512_load_ps(kt + d * TOKENS + b * 16);
            TKV_HOLD(x[b]);
        }
        for (int r = 0; r < rows; r++) {
            const __m512 qr = _mm512_set1_ps(q[(size_t)r * q_stride + d]);
            for (int b = 0; b < 4; b++)
                acc[r][b] = _mm512_fmadd_ps(qr, x[b], acc[r][b]);
        }
        tkv_step_ahead(ahead);
        tkv_step_ahead(ahead);
    }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < 4; b++)
            _mm512_storeu_ps(s + r * TOKENS + b * 16, acc[r][b]);
}

static void score_f32_avx512(const float *restrict kt, const float *restrict q, size_t q_stride,
                             uint32_t n_rows, uint32_t D, float *restrict s,
                             struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = tkv_row_block(n_rows - r);
#define BODY(rows)                                                                                 \
    score_f32_rows(kt, q + r * q_stride, q_stride, D, s + (size_t)r * TOKENS, rows, &cursor)
        TKV_SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = cursor;
}

TKV_INLINE void wsum_f32_block(const float *v, const float *w, uint32_t D, float *acc, int rows,
                               size_t cols, struct tkv_ahead *ahead)
{
    __m512 sum[6][8];
    for (int r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++)
            sum[r][i] = _mm512_loadu_ps(acc + (size_t)r * D + i * 16);
    for (size_t t = 0; t < TOKENS; t++) {
        __m512 x[8];
        for (size_t i = 0; i < cols; i++) {
            x[i] = _mm512_load_ps(v + t * D + i * 16);
            TKV_HOLD(x[i]);
        }
        for (int r = 0; r < rows; r++) {
            const __m512 wr = _mm512_set1_ps(w[(size_t)r * TOKENS + t]);
            for (size_t i = 0; i < cols; i++)
                sum[r][i] = _mm512_fmadd_ps(wr, x[i], sum[r][i]);
        }
        tkv_step_ahead(ahead);
        tkv_step_ahead(ahead);
    }
    for (int r = 0; r < rows; r++)
        for (size_t i = 0; i < cols; i++)
            _mm512_storeu_ps(acc + (size_t)r * D + i * 16, sum[r][i]);
}

TKV_INLINE void wsum_f32_rows(const float *v, const float *w, uint32_t D, float *acc, int rows,
                              struct tkv_ahead *ahead)
{
    uint32_t c = 0;
    if (rows <= 2)
        for (; c + 128 <= D; c += 128)
            wsum_f32_block(v + c, w, D, acc + c, rows, 8, ahead);
    for (; c + 64 <= D; c += 64)
        wsum_f32_block(v + c, w, D, acc + c, rows, 4, ahead);
    switch ((D - c) / 16) {
    case 1:
        wsum_f32_block(v + c, w, D, acc + c, rows, 1, ahead);
        break;
    case 2:
        wsum_f32_block(v + c, w, D, acc + c, rows, 2, ahead);
        break;
    case 3:
        wsum_f32_block(v + c, w, D, acc + c, rows, 3, ahead);
        break;
    }
}

static void wsum_f32_avx512(const float *restrict v, const float *restrict w, uint32_t n_rows,
                            uint32_t D, float *restrict acc, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = tkv_row_block(n_rows - r);
#define BODY(rows) wsum_f32_rows(v, w + (size_t)r * TOKENS, D, acc + (size_t)r * D, rows, &cursor)
        TKV_SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = cursor;
}

void tkv_tile_avx512(struct tkv_kernels *k)
{
    k->score_i8 = score_i8_avx512;
    k->wsum_i8 = wsum_i8_avx512;
    k->score_f32 = score_f32_avx512;
    k->wsum_f32 = wsum_f32_avx512;
}
