/* Tile kernels for Advanced SIMD without dot-product instructions. D a multiple of 16.
 *
 * Scores: products of two codes fit twice into 16 bits (2 * 127 * 127), so two groups of dims
 * share a 16-bit sum before it widens. Weighted sums: 255 * 127 fits once. Sums of pairs stay
 * apart until the end. */
#include <arm_neon.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/ahead.h"
#include "kernels/row_blocks.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_tile_neon(struct tkv_kernels *k);

/* Four query codes, twice. */
TKV_INLINE int8x8_t broadcast4(const int8_t *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return vreinterpret_s8_s32(vdup_n_s32(x));
}

/* One block of 16 tokens: block is [D/4][16 tokens][4 dims]. acc[r][i]: tokens 2i and 2i + 1,
 * two sums each. */
TKV_INLINE void score_i8_block(const uint8_t *block, const int8_t *q, uint32_t D, int32_t *s,
                               int rows, struct tkv_ahead *ahead)
{
    const uint8x8_t offset = vdup_n_u8(0x80);
    int32x4_t acc[2][8];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 8; i++)
            acc[r][i] = vdupq_n_s32(0);
    for (size_t d = 0; d < D; d += 8) {
        for (size_t i = 0; i < 8; i++) {
            const uint8_t *codes = block + d * 16 + i * 8;
            const int8x8_t x0 = vreinterpret_s8_u8(veor_u8(vld1_u8(codes), offset));
            const int8x8_t x1 = vreinterpret_s8_u8(veor_u8(vld1_u8(codes + 64), offset));
            for (int r = 0; r < rows; r++) {
                const int8_t *qr = q + (size_t)r * D + d;
                const int16x8_t sum =
                    vmlal_s8(vmull_s8(x0, broadcast4(qr)), x1, broadcast4(qr + 4));
                acc[r][i] = vpadalq_s16(acc[r][i], sum);
            }
        }
        tkv_step_ahead(ahead);
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++)
            vst1q_s32(s + r * TOKENS + i * 4, vpaddq_s32(acc[r][2 * i], acc[r][2 * i + 1]));
}

static void score_i8_neon(const uint8_t *restrict tile, const int8_t *restrict q, uint32_t n_rows,
                          uint32_t D, int32_t *restrict s, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (size_t r = 0; r < n_rows; r += 2, q += (size_t)2 * D, s += 2 * TOKENS)
        for (size_t t = 0; t < TOKENS; t += 16)
            if (n_rows - r == 1)
                score_i8_block(tile + t * D, q, D, s + t, 1, &cursor);
            else
                score_i8_block(tile + t * D, q, D, s + t, 2, &cursor);
    *ahead = cursor;
}

/* 16 channels. sum[r][i]: channels 2i and 2i + 1, two sums each. */
TKV_INLINE void wsum_i8_block(const int8_t *tile, const uint8_t *w, const float *wscale, uint32_t D,
                              float *acc, int rows, struct tkv_ahead *ahead)
{
    int32x4_t sum[2][8];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 8; i++)
            sum[r][i] = vdupq_n_s32(0);
    for (size_t t = 0; t < TOKENS; t += 4) {
        int16x8_t w16[2];
        for (int r = 0; r < rows; r++) {
            uint32_t four;
            memcpy(&four, w + r * TOKENS + t, sizeof four);
            w16[r] = vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))));
        }
        for (size_t i = 0; i < 8; i++) {
            const int16x8_t x = vmovl_s8(vld1_s8(tile + t * D + i * 8));
            for (int r = 0; r < rows; r++)
                sum[r][i] = vpadalq_s16(sum[r][i], vmulq_s16(x, w16[r]));
        }
        tkv_step_ahead(ahead);
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++) {
            float *out = acc + (size_t)r * D + i * 4;
            const float32x4_t x = vcvtq_f32_s32(vpaddq_s32(sum[r][2 * i], sum[r][2 * i + 1]));
            vst1q_f32(out, vfmaq_n_f32(vld1q_f32(out), x, wscale[r]));
        }
}

static void wsum_i8_neon(const int8_t *restrict tile, const uint8_t *restrict w,
                         const float *restrict wscale, uint32_t n_rows, uint32_t D,
                         float *restrict acc, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (size_t r = 0; r < n_rows; r += 2, w += 2 * TOKENS, wscale += 2, acc += (size_t)2 * D)
        for (size_t c = 0; c < D; c += 16)
            if (n_rows - r == 1)
                wsum_i8_block(tile + c * 4, w, wscale, D, acc + c, 1, &cursor);
            else
                wsum_i8_block(tile + c * 4, w, wscale, D, acc + c, 2, &cursor);
    *ahead = cursor;
}

/* acc[r][j] (+)= sum_i a[r * a_stride + i] * b[i * n_j + j], i ascending, for 16 values of j.
 * Scores are queries times the transposed tile, weighted sums are weights times the tile. */
TKV_INLINE void multiply_block(const float *a, size_t a_stride, const float *b, size_t n_j,
                               size_t n, float *acc, int from_acc, int rows,
                               struct tkv_ahead *ahead)
{
    float32x4_t sum[6][4];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < 4; j++)
            sum[r][j] = from_acc ? vld1q_f32(acc + (size_t)r * n_j + j * 4) : vdupq_n_f32(0.0f);
    for (size_t i = 0; i < n; i++) {
        float32x4_t x[4];
        for (int j = 0; j < 4; j++)
            x[j] = vld1q_f32(b + i * n_j + j * 4);
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < 4; j++)
                sum[r][j] = vfmaq_n_f32(sum[r][j], x[j], a[(size_t)r * a_stride + i]);
        tkv_step_ahead(ahead);
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < 4; j++)
            vst1q_f32(acc + (size_t)r * n_j + j * 4, sum[r][j]);
}

TKV_INLINE void multiply_rows(const float *a, size_t a_stride, const float *b, size_t n_j, size_t n,
                              float *acc, int from_acc, int rows, struct tkv_ahead *ahead)
{
    for (size_t j = 0; j < n_j; j += 16)
        multiply_block(a, a_stride, b + j, n_j, n, acc + j, from_acc, rows, ahead);
}

static void score_f32_neon(const float *restrict kt, const float *restrict q, size_t q_stride,
                           uint32_t n_rows, uint32_t D, float *restrict s, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = tkv_row_block(n_rows - r);
#define BODY(rows)                                                                                 \
    multiply_rows(q + r * q_stride, q_stride, kt, TOKENS, D, s + (size_t)r * TOKENS, 0, rows,      \
                  &cursor)
        TKV_SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = cursor;
}

static void wsum_f32_neon(const float *restrict v, const float *restrict w, uint32_t n_rows,
                          uint32_t D, float *restrict acc, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = tkv_row_block(n_rows - r);
#define BODY(rows)                                                                                 \
    multiply_rows(w + (size_t)r * TOKENS, TOKENS, v, D, TOKENS, acc + (size_t)r * D, 1, rows,      \
                  &cursor)
        TKV_SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = cursor;
}

void tkv_tile_neon(struct tkv_kernels *k)
{
    k->score_i8 = score_i8_neon;
    k->wsum_i8 = wsum_i8_neon;
    k->score_f32 = score_f32_neon;
    k->wsum_f32 = wsum_f32_neon;
}
