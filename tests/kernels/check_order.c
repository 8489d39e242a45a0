#include <stdio.h>
#include <string.h>

#include "check.h"
#include "format/row_order.h"
#include "format/turbo.h"

#define MOST_DIM 512

static const uint32_t dims[] = {16, 48, 64, 80, 96, 112, 128, 192, 256, 512};
#define N_DIMS (sizeof dims / sizeof dims[0])

/* Where a code, or its third bit, begins. */
struct place {
    size_t byte;
    uint32_t shift;
};

static size_t in_tile(tkv_kind kind, uint32_t D, size_t t, size_t d)
{
    return kind == TKV_K ? t / 16 * 16 * D + d / 4 * 64 + t % 16 * 4 + d % 4
                         : t / 4 * 4 * D + d * 4 + t % 4;
}

/* As spec/FORMAT.md has it; 8 bits: the tile itself. */
static struct place in_page(tkv_kind kind, uint32_t D, uint32_t bits, size_t t, size_t d,
                            struct place *third)
{
    const size_t at = in_tile(kind, D, t, d), group = at / 64, i = at % 64;
    const size_t per = tkv_row_fields(bits), columns = D / 16;
    size_t unit = group / per, field = group % per;
    if (kind == TKV_V) {
        unit = group / columns / per * columns + group % columns;
        field = group / columns % per;
    }
    *third = (struct place){(size_t)16 * D + (unit * 4 + field) * 8 + i / 8, (uint32_t)(i % 8)};
    return (struct place){unit * 64 + i, (uint32_t)(field * 8 / per)};
}

/* As format/row_order.h has it: the inverse of what it says of bytes. */
static struct place in_row(tkv_kind kind, uint32_t D, uint32_t bits, size_t d, struct place *third)
{
    const size_t per = tkv_row_fields(bits), n = D / per, low = n;
    *third = (struct place){low + d / 8, (uint32_t)(d % 8)};
    if (kind == TKV_K)
        return (struct place){d / (4 * per) * 4 + d % 4, (uint32_t)(d / 4 % per * (8 / per))};
    *third = (struct place){low + d / 16 * 2 + d / 2 % 2, (uint32_t)(d % 2 * 4 + d % 16 / 4)};
    return (struct place){d % n, (uint32_t)(d / n * (8 / per))};
}

static void move_bits(uint8_t *to, struct place p, const uint8_t *from, struct place q,
                      uint32_t width)
{
    const uint32_t mask = (1u << width) - 1u;
    to[p.byte] |= (uint8_t)((from[q.byte] >> q.shift & mask) << p.shift);
}

/* Page codes to rows [64][D * bits / 8], code by code. */
static void slow_rows(const uint8_t *page, uint32_t D, tkv_kind kind, uint32_t bits, uint8_t *rows)
{
    const size_t row_bytes = tkv_row_code_bytes(bits, D);
    memset(rows, 0, 64 * row_bytes);
    for (size_t t = 0; t < 64; t++)
        for (size_t d = 0; d < D; d++) {
            struct place third, row_third;
            const struct place at = in_page(kind, D, bits, t, d, &third),
                               row_at = in_row(kind, D, bits, d, &row_third);
            uint8_t *row = rows + t * row_bytes;
            move_bits(row, row_at, page, at, bits == 3 ? 2 : bits);
            if (bits == 3)
                move_bits(row, row_third, page, third, 1);
        }
}

static void check_page(struct check *c, tkv_kind kind, uint32_t D, uint32_t bits, const char *what)
{
    static uint8_t want[64 * MOST_DIM], page[64 * MOST_DIM];
    const size_t row_bytes = tkv_row_code_bytes(bits, D), stride = row_bytes + 3;
    uint8_t *rows = check_alloc(64 * stride, 1), *codes = check_alloc(64 * row_bytes, 1);
    uint8_t *last = check_alloc(row_bytes, 1); /* a row that ends at a guard page */
    const uint8_t *at[64];
    check_fill_bytes(c, page, 64 * row_bytes);
    slow_rows(page, D, kind, bits, want);
    memset(rows, 0xa5, 64 * stride);
    c->now.order_rows(page, D, kind, bits, rows, stride);
    for (size_t t = 0; t < 64; t++) {
        check_bytes(c, "order_rows", what, rows + t * stride, want + t * row_bytes, row_bytes);
        check_bytes(c, "order_rows, between rows", what, rows + t * stride + row_bytes,
                    "\xa5\xa5\xa5", 3);
        at[t] = rows + t * stride;
    }
    memcpy(last, at[17], row_bytes);
    at[17] = last;
    c->now.order_tile(at, D, kind, bits, codes);
    check_bytes(c, "order_tile", what, codes, page, 64 * row_bytes);
    check_free(rows, 64 * stride, 1), check_free(codes, 64 * row_bytes, 1);
    check_free(last, row_bytes, 1);
}

struct order_args {
    const struct tkv_kernels *k;
    tkv_kind kind;
    uint32_t bits;
    uint8_t *codes, *rows;
    const uint8_t *at[64];
};

static void bench_tile(void *arg)
{
    struct order_args *a = arg;
    a->k->order_tile(a->at, 128, a->kind, a->bits, a->codes);
}

static void bench_rows(void *arg)
{
    struct order_args *a = arg;
    a->k->order_rows(a->codes, 128, a->kind, a->bits, a->rows, 132);
}

static void bench(struct check *c, tkv_kind kind, uint32_t bits)
{
    _Alignas(64) static uint8_t rows[64 * 132], codes[64 * 128];
    struct order_args a = {.k = &c->now, .kind = kind, .bits = bits, .codes = codes, .rows = rows};
    char unit[32];
    for (size_t t = 0; t < 64; t++)
        a.at[t] = rows + t * 132;
    snprintf(unit, sizeof unit, "D=128 bits=%u %s", bits, kind == TKV_K ? "K" : "V");
    check_bench(c, "order_tile", unit, bench_tile, &a);
    check_bench(c, "order_rows", unit, bench_rows, &a);
}

void check_order(struct check *c)
{
    static const uint32_t widths[] = {8, 4, 3, 2};
    if (!check_wanted(c, "order_tile order_rows"))
        return;
    for (size_t w = 0; w < 4; w++)
        for (int kind = TKV_K; kind <= TKV_V; kind++) {
            for (size_t i = 0; i < N_DIMS; i++) {
                char what[32];
                snprintf(what, sizeof what, "D=%u bits=%u %s", dims[i], widths[w],
                         kind == TKV_K ? "K" : "V");
                check_page(c, (tkv_kind)kind, dims[i], widths[w], what);
            }
            if (c->bench)
                bench(c, (tkv_kind)kind, widths[w]);
        }
}
