/* A page's codes from row order to tile order and back (format/row_order.h). */
#include <stdbool.h>
#include <string.h>

#include "format/row_order.h"
#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_order_ref(struct tkv_kernels *k);

/* Keys: words of 4 bytes, of 16 tokens side by side. */
static void low_to_tile_k(const uint8_t *const *rows, size_t n_words, uint8_t *codes)
{
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t w = 0; w < n_words; w++)
            memcpy(codes + ((t / 16 * n_words + w) * 16 + t % 16) * 4, rows[t] + 4 * w, 4);
}

static void low_to_rows_k(const uint8_t *codes, size_t n_words, uint8_t *rows, size_t stride)
{
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t w = 0; w < n_words; w++)
            memcpy(rows + t * stride + 4 * w, codes + ((t / 16 * n_words + w) * 16 + t % 16) * 4,
                   4);
}

/* Values: bytes of 4 tokens side by side; the fields of 4 * n_fields tokens transposed. */
static void low_to_tile_v(const uint8_t *const *rows, size_t n_bytes, size_t n_fields,
                          uint8_t *codes)
{
    const size_t width = 8 / n_fields;
    const uint32_t mask = (1u << width) - 1;
    for (size_t run = 0; run < TOKENS; run += 4 * n_fields)
        for (size_t field = 0; field < n_fields; field++)
            for (size_t j = 0; j < n_bytes; j++)
                for (size_t t = 0; t < 4; t++) {
                    uint32_t byte = 0;
                    for (size_t q = 0; q < n_fields; q++)
                        byte |= (rows[run + 4 * q + t][j] >> width * field & mask) << width * q;
                    *codes++ = (uint8_t)byte;
                }
}

static void low_to_rows_v(const uint8_t *codes, size_t n_bytes, size_t n_fields, uint8_t *rows,
                          size_t stride)
{
    const size_t width = 8 / n_fields;
    const uint32_t mask = (1u << width) - 1;
    for (size_t run = 0; run < TOKENS; run += 4 * n_fields, codes += 4 * n_bytes * n_fields)
        for (size_t q = 0; q < n_fields; q++)
            for (size_t j = 0; j < n_bytes; j++)
                for (size_t t = 0; t < 4; t++) {
                    uint32_t byte = 0;
                    for (size_t field = 0; field < n_fields; field++)
                        byte |= (codes[(field * n_bytes + j) * 4 + t] >> width * q & mask)
                                << width * field;
                    rows[(run + 4 * q + t) * stride + j] = (uint8_t)byte;
                }
}

/* Third bits of keys: 4 dims of a token are half a byte; two tokens of a group make one. */
static void third_to_tile_k(const uint8_t *const *rows, size_t at, uint32_t D, uint8_t *third)
{
    for (size_t block = 0; block < TOKENS; block += 16)
        for (size_t group = 0; group < D / 4; group++)
            for (size_t t = block; t < block + 16; t += 2) {
                const uint32_t shift = group % 2 * 4;
                const uint32_t even = (uint32_t)rows[t][at + group / 2] >> shift & 15u,
                               odd = (uint32_t)rows[t + 1][at + group / 2] >> shift & 15u;
                *third++ = (uint8_t)(even | odd << 4);
            }
}

static void third_to_rows_k(const uint8_t *third, uint32_t D, uint8_t *rows, size_t stride)
{
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t j = 0; j < D / 8; j++) {
            const uint8_t *groups = third + (t / 16 * (D / 4) + 2 * j) * 8 + t % 16 / 2;
            const uint32_t shift = t % 2 * 4;
            rows[t * stride + j] =
                (uint8_t)((groups[0] >> shift & 15u) | (groups[8] >> shift & 15u) << 4);
        }
}

/* Bit i of four half bytes, side by side. */
static uint32_t pick_bits(const uint32_t half[4], size_t i)
{
    return (half[0] >> i & 1) | (half[1] >> i & 1) << 1 | (half[2] >> i & 1) << 2 |
           (half[3] >> i & 1) << 3;
}

/* Transposes both half bytes of four bytes, as if each were a row of bits. Its own inverse. */
static void transpose_halves(uint8_t x[4])
{
    const uint32_t low[4] = {x[0] & 15u, x[1] & 15u, x[2] & 15u, x[3] & 15u};
    const uint32_t high[4] = {x[0] >> 4u, x[1] >> 4u, x[2] >> 4u, x[3] >> 4u};
    for (size_t i = 0; i < 4; i++)
        x[i] = (uint8_t)(pick_bits(low, i) | pick_bits(high, i) << 4);
}

/* Third bits of values: byte e of four tokens' two gives bytes e, 2 + e, 4 + e, 6 + e of a group. */
static void third_to_tile_v(const uint8_t *const *rows, size_t at, uint32_t D, uint8_t *third)
{
    for (size_t run = 0; run < TOKENS; run += 16)
        for (size_t unit = 0; unit < D / 16; unit++)
            for (size_t t = run; t < run + 16; t += 4, third += 8)
                for (size_t e = 0; e < 2; e++) {
                    uint8_t x[4];
                    for (size_t i = 0; i < 4; i++)
                        x[i] = rows[t + i][at + 2 * unit + e];
                    transpose_halves(x);
                    for (size_t i = 0; i < 4; i++)
                        third[2 * i + e] = x[i];
                }
}

static void third_to_rows_v(const uint8_t *third, uint32_t D, uint8_t *rows, size_t stride)
{
    for (size_t run = 0; run < TOKENS; run += 16)
        for (size_t unit = 0; unit < D / 16; unit++)
            for (size_t t = run; t < run + 16; t += 4, third += 8)
                for (size_t e = 0; e < 2; e++) {
                    uint8_t x[4];
                    for (size_t i = 0; i < 4; i++)
                        x[i] = third[2 * i + e];
                    transpose_halves(x);
                    for (size_t i = 0; i < 4; i++)
                        rows[(t + i) * stride + 2 * unit + e] = x[i];
                }
}

static void order_tile_ref(const uint8_t *const *rows, uint32_t D, tkv_kind kind, uint32_t bits,
                           uint8_t *codes)
{
    const size_t low = tkv_row_low_bytes(bits, D);
    if (kind == TKV_K)
        low_to_tile_k(rows, low / 4, codes);
    else
        low_to_tile_v(rows, low, tkv_row_fields(bits), codes);
    if (bits != 3)
        return;
    if (kind == TKV_K)
        third_to_tile_k(rows, low, D, codes + TOKENS * low);
    else
        third_to_tile_v(rows, low, D, codes + TOKENS * low);
}

static void order_rows_ref(const uint8_t *codes, uint32_t D, tkv_kind kind, uint32_t bits,
                           uint8_t *rows, size_t stride)
{
    const size_t low = tkv_row_low_bytes(bits, D);
    if (kind == TKV_K)
        low_to_rows_k(codes, low / 4, rows, stride);
    else
        low_to_rows_v(codes, low, tkv_row_fields(bits), rows, stride);
    if (bits != 3)
        return;
    if (kind == TKV_K)
        third_to_rows_k(codes + TOKENS * low, D, rows + low, stride);
    else
        third_to_rows_v(codes + TOKENS * low, D, rows + low, stride);
}

void tkv_order_ref(struct tkv_kernels *k)
{
    k->order_tile = order_tile_ref;
    k->order_rows = order_rows_ref;
}
