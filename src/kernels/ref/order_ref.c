/* A page's codes from row order to tile order and back (format/row_order.h). */
#include <string.h>

#include "format/row_order.h"
#include "kernels/kernels.h"
#include "kernels/order_third.h"

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

static void order_tile_ref(const uint8_t *const *rows, uint32_t D, tkv_kind kind, uint32_t bits,
                           uint8_t *codes)
{
    const size_t low = tkv_row_low_bytes(bits, D);
    if (kind == TKV_K)
        low_to_tile_k(rows, low / 4, codes);
    else
        low_to_tile_v(rows, low, tkv_row_fields(bits), codes);
    if (bits == 3)
        tkv_third_to_tile(rows, low, D, kind, codes + TOKENS * low);
}

static void order_rows_ref(const uint8_t *codes, uint32_t D, tkv_kind kind, uint32_t bits,
                           uint8_t *rows, size_t stride)
{
    const size_t low = tkv_row_low_bytes(bits, D);
    if (kind == TKV_K)
        low_to_rows_k(codes, low / 4, rows, stride);
    else
        low_to_rows_v(codes, low, tkv_row_fields(bits), rows, stride);
    if (bits == 3)
        tkv_third_to_rows(codes + TOKENS * low, D, kind, rows + low, stride);
}

void tkv_order_ref(struct tkv_kernels *k)
{
    k->order_tile = order_tile_ref;
    k->order_rows = order_rows_ref;
}
