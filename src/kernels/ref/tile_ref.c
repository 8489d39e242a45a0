/* Dot products of query rows with a tile of 64 tokens, and weighted sums of a tile: layouts in
 * kernels.h. The i8 kernels are exact in i32: |sum| <= 127 * 128 * 512 for scores, 64 * 255 *
 * 127 for weighted sums, which is below 2^24 and so exact as f32 as well. */
#include <math.h>

#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_tile_ref(struct tkv_kernels *k);

static void score_i8_ref(const uint8_t *restrict tile, const int8_t *restrict q, uint32_t n_rows,
                         uint32_t D, int32_t *restrict s, struct tkv_ahead *ahead)
{
    (void)ahead;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < TOKENS; t++) {
            const uint8_t *token = tile + (t / 16) * 16 * D + (t % 16) * 4;
            int32_t sum = 0;
            for (size_t d = 0; d < D; d++)
                sum += q[r * D + d] * (token[d / 4 * 64 + d % 4] - 128);
            s[r * TOKENS + t] = sum;
        }
}

static void wsum_i8_ref(const int8_t *restrict tile, const uint8_t *restrict w,
                        const float *restrict wscale, uint32_t n_rows, uint32_t D,
                        float *restrict acc, struct tkv_ahead *ahead)
{
    (void)ahead;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < D; c++) {
            const int8_t *channel = tile + c * 4;
            int32_t sum = 0;
            for (size_t t = 0; t < TOKENS; t++)
                sum += w[r * TOKENS + t] * channel[t / 4 * 4 * D + t % 4];
            acc[r * D + c] = fmaf(wscale[r], (float)sum, acc[r * D + c]);
        }
}

static void score_f32_ref(const float *restrict kt, const float *restrict q, size_t q_stride,
                          uint32_t n_rows, uint32_t D, float *restrict s, struct tkv_ahead *ahead)
{
    (void)ahead;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < TOKENS; t++) {
            float sum = 0.0f;
            for (size_t d = 0; d < D; d++)
                sum = fmaf(q[r * q_stride + d], kt[d * TOKENS + t], sum);
            s[r * TOKENS + t] = sum;
        }
}

static void wsum_f32_ref(const float *restrict v, const float *restrict w, uint32_t n_rows,
                         uint32_t D, float *restrict acc, struct tkv_ahead *ahead)
{
    (void)ahead;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < D; c++) {
            float sum = acc[r * D + c];
            for (size_t t = 0; t < TOKENS; t++)
                sum = fmaf(w[r * TOKENS + t], v[t * D + c], sum);
            acc[r * D + c] = sum;
        }
}

void tkv_tile_ref(struct tkv_kernels *k)
{
    k->score_i8 = score_i8_ref;
    k->wsum_i8 = wsum_i8_ref;
    k->score_f32 = score_f32_ref;
    k->wsum_f32 = wsum_f32_ref;
}
