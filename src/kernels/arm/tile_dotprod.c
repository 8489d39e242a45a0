/* The i8 tile kernels with sdot and udot: 4 rows x 16 tokens, or 4 rows x 16 channels. udot
 * takes unsigned codes: 128 more in each, and 128 * sum(w) less at the end; at most 64 * 255 *
 * 255, which fits. */
#include <arm_neon.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/ahead.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_tile_dotprod(struct tkv_kernels *k);

/* One block of 16 tokens: block is [D/4][16 tokens][4 dims]. */
TKV_INLINE void score_i8_block(const uint8_t *block, const int8_t *q, uint32_t D, int32_t *s,
                               int rows, struct tkv_ahead *ahead)
{
    const uint8x16_t offset = vdupq_n_u8(0x80);
    int32x4_t acc[4][4];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++)
            acc[r][i] = vdupq_n_s32(0);
    for (size_t d = 0; d < D; d += 4) {
        int8x16_t x[4];
        for (size_t i = 0; i < 4; i++)
            x[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(block + d * 16 + i * 16), offset));
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, q + (size_t)r * D + d, sizeof four);
            const int8x16_t qr = vreinterpretq_s8_s32(vdupq_n_s32(four));
            for (int i = 0; i < 4; i++)
                acc[r][i] = vdotq_s32(acc[r][i], x[i], qr);
        }
        tkv_step_ahead(ahead);
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++)
            vst1q_s32(s + r * TOKENS + i * 4, acc[r][i]);
}

static void score_i8_dotprod(const uint8_t *restrict tile, const int8_t *restrict q,
                             uint32_t n_rows, uint32_t D, int32_t *restrict s,
                             struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (size_t r = 0; r < n_rows; r += 4, q += (size_t)4 * D, s += 4 * TOKENS)
        for (size_t t = 0; t < TOKENS; t += 16)
            switch (n_rows - r) {
            case 1:
                score_i8_block(tile + t * D, q, D, s + t, 1, &cursor);
                break;
            case 2:
                score_i8_block(tile + t * D, q, D, s + t, 2, &cursor);
                break;
            case 3:
                score_i8_block(tile + t * D, q, D, s + t, 3, &cursor);
                break;
            default:
                score_i8_block(tile + t * D, q, D, s + t, 4, &cursor);
                break;
            }
    *ahead = cursor;
}

/* 128 * sum of 64 weights. */
TKV_INLINE int32_t sum_128(const uint8_t *w)
{
    uint32x4_t sum = vdupq_n_u32(0);
    for (size_t t = 0; t < TOKENS; t += 16)
        sum = vdotq_u32(sum, vld1q_u8(w + t), vdupq_n_u8(128));
    return (int32_t)vaddvq_u32(sum);
}

/* 16 channels. */
TKV_INLINE void wsum_i8_block(const int8_t *tile, const uint8_t *w, const int32_t *offset,
                              const float *wscale, uint32_t D, float *acc, int rows,
                              struct tkv_ahead *ahead)
{
    uint32x4_t sum[4][4];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++)
            sum[r][i] = vdupq_n_u32(0);
    for (size_t t = 0; t < TOKENS; t += 4) {
        uint8x16_t x[4];
        for (size_t i = 0; i < 4; i++)
            x[i] = veorq_u8(vreinterpretq_u8_s8(vld1q_s8(tile + t * D + i * 16)), vdupq_n_u8(0x80));
        for (int r = 0; r < rows; r++) {
            uint32_t four;
            memcpy(&four, w + r * TOKENS + t, sizeof four);
            const uint8x16_t wr = vreinterpretq_u8_u32(vdupq_n_u32(four));
            for (int i = 0; i < 4; i++)
                sum[r][i] = vdotq_u32(sum[r][i], x[i], wr);
        }
        tkv_step_ahead(ahead);
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++) {
            float *out = acc + (size_t)r * D + i * 4;
            const int32x4_t exact =
                vsubq_s32(vreinterpretq_s32_u32(sum[r][i]), vdupq_n_s32(offset[r]));
            vst1q_f32(out, vfmaq_n_f32(vld1q_f32(out), vcvtq_f32_s32(exact), wscale[r]));
        }
}

static void wsum_i8_dotprod(const int8_t *restrict tile, const uint8_t *restrict w,
                            const float *restrict wscale, uint32_t n_rows, uint32_t D,
                            float *restrict acc, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (size_t r = 0; r < n_rows; r += 4, w += 4 * TOKENS, wscale += 4, acc += (size_t)4 * D) {
        const size_t rows = n_rows - r < 4 ? n_rows - r : 4;
        int32_t offset[4];
        for (size_t i = 0; i < rows; i++)
            offset[i] = sum_128(w + i * TOKENS);
        for (size_t c = 0; c < D; c += 16)
            switch (rows) {
            case 1:
                wsum_i8_block(tile + c * 4, w, offset, wscale, D, acc + c, 1, &cursor);
                break;
            case 2:
                wsum_i8_block(tile + c * 4, w, offset, wscale, D, acc + c, 2, &cursor);
                break;
            case 3:
                wsum_i8_block(tile + c * 4, w, offset, wscale, D, acc + c, 3, &cursor);
                break;
            default:
                wsum_i8_block(tile + c * 4, w, offset, wscale, D, acc + c, 4, &cursor);
                break;
            }
    }
    *ahead = cursor;
}

void tkv_tile_dotprod(struct tkv_kernels *k)
{
    k->score_i8 = score_i8_dotprod;
    k->wsum_i8 = wsum_i8_dotprod;
}
