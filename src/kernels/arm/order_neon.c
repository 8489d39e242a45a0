/* Row order to tile order and back (format/row_order.h), NEON: cells of 32 bits of four rows are
 * transposed (K), or their bytes interleaved by vst4 (V), where shifts transpose the fields of bytes.
 * Rows end anywhere: their last bytes go through a buffer. */
#include <arm_neon.h>
#include <string.h>

#include "base/compiler.h"
#include "format/row_order.h"
#include "kernels/kernels.h"
#include "kernels/order_third.h"

#define TOKENS TKV_PAGE_TOKENS
#define PIECE  16

void tkv_order_neon(struct tkv_kernels *k);

TKV_INLINE uint8x16_t load_part(const uint8_t *p, size_t n)
{
    uint8_t buf[PIECE] = {0};
    if (n == PIECE)
        return vld1q_u8(p);
    memcpy(buf, p, n);
    return vld1q_u8(buf);
}

TKV_INLINE void store_part(uint8_t *p, uint8x16_t v, size_t n)
{
    uint8_t buf[PIECE];
    vst1q_u8(n == PIECE ? p : buf, v);
    if (n != PIECE)
        memcpy(p, buf, n);
}

static size_t piece_at(size_t at, size_t n_bytes)
{
    return n_bytes - at < PIECE ? n_bytes - at : PIECE;
}

/* Transposes 4 x 4 cells of 32 bits. Its own inverse. */
TKV_INLINE void transpose_cells(uint8x16_t v[4])
{
    const uint32x4x2_t ab = vtrnq_u32(vreinterpretq_u32_u8(v[0]), vreinterpretq_u32_u8(v[1]));
    const uint32x4x2_t cd = vtrnq_u32(vreinterpretq_u32_u8(v[2]), vreinterpretq_u32_u8(v[3]));
    for (size_t i = 0; i < 2; i++) {
        v[i] = vreinterpretq_u8_u32(vcombine_u32(vget_low_u32(ab.val[i]), vget_low_u32(cd.val[i])));
        v[i + 2] =
            vreinterpretq_u8_u32(vcombine_u32(vget_high_u32(ab.val[i]), vget_high_u32(cd.val[i])));
    }
}

static void keys_to_tile(const uint8_t *const *rows, size_t n_bytes, uint8_t *codes)
{
    for (size_t t = 0; t < TOKENS; t += 4)
        for (size_t at = 0; at < n_bytes; at += PIECE) {
            uint8_t *cells = codes + t / 16 * 16 * n_bytes + 16 * at + t % 16 * 4;
            const size_t n = piece_at(at, n_bytes);
            uint8x16_t v[4];
            for (size_t i = 0; i < 4; i++)
                v[i] = load_part(rows[t + i] + at, n);
            transpose_cells(v);
            for (size_t i = 0; 4 * i < n; i++)
                vst1q_u8(cells + 64 * i, v[i]);
        }
}

static void keys_to_rows(const uint8_t *codes, size_t n_bytes, uint8_t *rows, size_t stride)
{
    for (size_t t = 0; t < TOKENS; t += 4)
        for (size_t at = 0; at < n_bytes; at += PIECE) {
            const uint8_t *cells = codes + t / 16 * 16 * n_bytes + 16 * at + t % 16 * 4;
            const size_t n = piece_at(at, n_bytes);
            uint8x16_t v[4];
            for (size_t i = 0; i < 4; i++)
                v[i] = 4 * i < n ? vld1q_u8(cells + 64 * i) : vdupq_n_u8(0);
            transpose_cells(v);
            for (size_t i = 0; i < 4; i++)
                store_part(rows + (t + i) * stride + at, v[i], n);
        }
}

/* Bytes in fields of 2 * shift bits: the upper halves of a's become the lower ones of b's and the
 * other way round. `low` are the lower halves. Shifts are immediates. */
#define SWAP_FIELDS(name, shift, low)                                                              \
    TKV_INLINE void name(uint8x16_t *a, uint8x16_t *b)                                             \
    {                                                                                              \
        const uint8x16_t mask = vdupq_n_u8(low);                                                   \
        const uint8x16_t up = vshlq_n_u8(*b, shift), down = vshrq_n_u8(*a, shift);                 \
        *a = vbslq_u8(mask, *a, up);                                                               \
        *b = vbslq_u8(mask, down, *b);                                                             \
    }
SWAP_FIELDS(swap_4, 4, 0x0f)
SWAP_FIELDS(swap_2, 2, 0x33)

/* Field j of v[i] becomes field i of v[j], for each of four tokens. */
TKV_INLINE void transpose_fields(uint8x16x4_t v[4], size_t n_fields)
{
    for (size_t t = 0; t < 4; t++) {
        if (n_fields == 2)
            swap_4(&v[0].val[t], &v[1].val[t]);
        if (n_fields < 4)
            continue;
        swap_4(&v[0].val[t], &v[2].val[t]), swap_4(&v[1].val[t], &v[3].val[t]);
        swap_2(&v[0].val[t], &v[1].val[t]), swap_2(&v[2].val[t], &v[3].val[t]);
    }
}

TKV_INLINE void values_to_tile(const uint8_t *const *rows, size_t n_bytes, size_t n_fields,
                               uint8_t *codes)
{
    for (size_t run = 0; run < TOKENS; run += 4 * n_fields, codes += 4 * n_bytes * n_fields)
        for (size_t at = 0; at < n_bytes; at += PIECE) {
            const size_t n = piece_at(at, n_bytes);
            uint8_t bytes[4 * PIECE];
            uint8x16x4_t v[4];
            for (size_t i = 0; i < 4 * n_fields; i++)
                v[i / 4].val[i % 4] = load_part(rows[run + i] + at, n);
            transpose_fields(v, n_fields);
            for (size_t i = 0; i < n_fields; i++) {
                uint8_t *out = codes + 4 * (i * n_bytes + at);
                vst4q_u8(n == PIECE ? out : bytes, v[i]);
                if (n != PIECE)
                    memcpy(out, bytes, 4 * n);
            }
        }
}

TKV_INLINE void values_to_rows(const uint8_t *codes, size_t n_bytes, size_t n_fields, uint8_t *rows,
                               size_t stride)
{
    for (size_t run = 0; run < TOKENS; run += 4 * n_fields, codes += 4 * n_bytes * n_fields)
        for (size_t at = 0; at < n_bytes; at += PIECE) {
            const size_t n = piece_at(at, n_bytes);
            uint8_t bytes[4 * PIECE] = {0};
            uint8x16x4_t v[4];
            for (size_t i = 0; i < n_fields; i++) {
                const uint8_t *in = codes + 4 * (i * n_bytes + at);
                if (n != PIECE)
                    memcpy(bytes, in, 4 * n);
                v[i] = vld4q_u8(n == PIECE ? in : bytes);
            }
            transpose_fields(v, n_fields);
            for (size_t i = 0; i < 4 * n_fields; i++)
                store_part(rows + (run + i) * stride + at, v[i / 4].val[i % 4], n);
        }
}

static void order_tile_neon(const uint8_t *const *rows, uint32_t D, tkv_kind kind, uint32_t bits,
                            uint8_t *codes)
{
    const size_t low = tkv_row_low_bytes(bits, D);
    if (kind == TKV_K)
        keys_to_tile(rows, low, codes);
    else if (bits == 8)
        values_to_tile(rows, low, 1, codes);
    else if (bits == 4)
        values_to_tile(rows, low, 2, codes);
    else
        values_to_tile(rows, low, 4, codes);
    if (bits == 3)
        tkv_third_to_tile(rows, low, D, kind, codes + TOKENS * low);
}

static void order_rows_neon(const uint8_t *codes, uint32_t D, tkv_kind kind, uint32_t bits,
                            uint8_t *rows, size_t stride)
{
    const size_t low = tkv_row_low_bytes(bits, D);
    if (kind == TKV_K)
        keys_to_rows(codes, low, rows, stride);
    else if (bits == 8)
        values_to_rows(codes, low, 1, rows, stride);
    else if (bits == 4)
        values_to_rows(codes, low, 2, rows, stride);
    else
        values_to_rows(codes, low, 4, rows, stride);
    if (bits == 3)
        tkv_third_to_rows(codes + TOKENS * low, D, kind, rows + low, stride);
}

void tkv_order_neon(struct tkv_kernels *k)
{
    k->order_tile = order_tile_neon;
    k->order_rows = order_rows_neon;
}
