#include <math.h>
#include <stdio.h>

#include "check.h"

static const uint32_t dims[] = {16, 48, 64, 80, 96, 112, 128, 192, 256, 512};
#define N_DIMS (sizeof dims / sizeof dims[0])

struct rows_args {
    const struct tkv_kernels *k;
    uint32_t D;
    float *x, *row; /* [64][D], [64] */
    uint8_t *codes, *tile;
};

static void alloc_args(struct rows_args *a, uint32_t D)
{
    const size_t n = (size_t)64 * D;
    *a = (struct rows_args){.D = D};
    a->x = check_alloc(n, 4), a->row = check_alloc(64, 4);
    a->codes = check_alloc(n, 1), a->tile = check_alloc(n, 1);
}

static void free_args(struct rows_args *a)
{
    const size_t n = (size_t)64 * a->D;
    check_free(a->x, n, 4), check_free(a->row, 64, 4);
    check_free(a->codes, n, 1), check_free(a->tile, n, 1);
}

static void check_statistics(struct check *c, struct rows_args *a, int fill)
{
    float want[64], want_low[64], low[64];
    char what[64];
    snprintf(what, sizeof what, "D=%u %s", a->D, check_fill_name(fill));
    check_fill(c, a->x, (size_t)64 * a->D, fill);
    c->ref.row_sum_sq(a->x, a->D, want);
    c->now.row_sum_sq(a->x, a->D, a->row);
    check_f32(c, "row_sum_sq", what, a->row, want, 64);
    for (size_t t = 0; t < 64; t++) {
        double sum = 0;
        for (size_t d = t * a->D; d < (t + 1) * a->D; d++)
            sum += (double)a->x[d] * (double)a->x[d];
        if (sum > 1e-30 && sum < 1e30) /* else f32 has no normal number for it */
            check_true(c, "row_sum_sq", what, fabs((double)a->row[t] / sum - 1) < 1e-5);
    }
    c->ref.row_range(a->x, a->D, want_low, want);
    c->now.row_range(a->x, a->D, low, a->row);
    check_f32(c, "row_range", what, low, want_low, 64);
    check_f32(c, "row_range", what, a->row, want, 64);
}

static void check_quantize(struct check *c, struct rows_args *a, int fill)
{
    static int8_t want[64 * 512];
    char what[64];
    snprintf(what, sizeof what, "D=%u %s", a->D, check_fill_name(fill));
    check_fill(c, a->x, (size_t)64 * a->D, fill);
    for (size_t i = 0; i < (size_t)64 * a->D; i += 3) /* halves: ties go to the even code */
        a->x[i] = ((float)(check_random(c) % 600) - 300.0f) * 0.5f;
    for (size_t t = 0; t < 64; t++)
        a->row[t] = t % 2 ? 1.0f : check_uniform(c) * 300.0f;
    c->ref.quantize_rows_i8(a->x, a->row, a->D, want);
    c->now.quantize_rows_i8(a->x, a->row, a->D, (int8_t *)a->codes);
    check_bytes(c, "quantize_rows_i8", what, a->codes, want, (size_t)64 * a->D);
    bool right = true;
    for (size_t i = a->D; i < 2 * (size_t)a->D; i++)
        right &= (float)(int8_t)a->codes[i] == fminf(fmaxf(nearbyintf(a->x[i]), -127.0f), 127.0f);
    check_true(c, "quantize_rows_i8", what, right);
}

static void check_tile_order(struct check *c, struct rows_args *a, tkv_kind kind)
{
    static uint8_t want[64 * 512];
    const size_t D = a->D, n = 64 * D;
    char what[64];
    snprintf(what, sizeof what, "D=%u %s", a->D, kind == TKV_K ? "K" : "V");
    check_fill_bytes(c, a->codes, n);
    for (size_t t = 0; t < 64; t++)
        for (size_t d = 0; d < D; d++)
            want[kind == TKV_K ? ((t / 16 * (D / 4) + d / 4) * 16 + t % 16) * 4 + d % 4
                               : ((t / 4 * (D / 16) + d / 16) * 16 + d % 16) * 4 + t % 4] =
                a->codes[t * D + d];
    c->now.rows_to_tile(a->codes, a->D, kind, a->tile);
    check_bytes(c, "rows_to_tile", what, a->tile, want, n);

    float *plain = check_alloc(n, 4);
    check_fill(c, a->row, 64, FILL_HEAVY);
    c->now.tile_to_rows(a->tile, a->D, kind, a->row, a->x);
    for (size_t i = 0; i < n; i++)
        plain[i] =
            (float)(int8_t)(kind == TKV_K ? a->codes[i] ^ 0x80 : a->codes[i]) * a->row[i / D];
    check_f32(c, "tile_to_rows", what, a->x, plain, n);
    for (size_t i = 0; i < n && kind == TKV_K; i++)
        plain[i % D * 64 + i / D] = (float)(int8_t)(a->codes[i] ^ 0x80) * a->row[i / D];
    if (kind == TKV_K) {
        c->now.tile_k_to_f32(a->tile, a->D, a->row, a->x);
        check_f32(c, "tile_k_to_f32", what, a->x, plain, n);
    }
    check_free(plain, n, 4);
}

static void bench_sum_sq(void *arg)
{
    struct rows_args *a = arg;
    a->k->row_sum_sq(a->x, a->D, a->row);
}

static void bench_quantize(void *arg)
{
    struct rows_args *a = arg;
    a->k->quantize_rows_i8(a->x, a->row, a->D, (int8_t *)a->codes);
}

static void bench_to_tile(void *arg)
{
    struct rows_args *a = arg;
    a->k->rows_to_tile(a->codes, a->D, TKV_K, a->tile);
}

static void bench_to_rows(void *arg)
{
    struct rows_args *a = arg;
    a->k->tile_to_rows(a->tile, a->D, TKV_K, a->row, a->x);
}

void check_rows(struct check *c)
{
    if (!check_wanted(c, "row_sum_sq row_range quantize_rows_i8 rows_to_tile tile_to_rows"))
        return;
    for (size_t i = 0; i < N_DIMS; i++) {
        struct rows_args a;
        alloc_args(&a, dims[i]);
        for (int fill = 0; fill < FILL_NAN; fill++) {
            check_statistics(c, &a, fill);
            check_quantize(c, &a, fill);
        }
        check_tile_order(c, &a, TKV_K);
        check_tile_order(c, &a, TKV_V);
        if (c->bench && a.D == 128) {
            a.k = &c->now;
            check_bench(c, "row_sum_sq", "D=128", bench_sum_sq, &a);
            check_bench(c, "quantize_rows_i8", "D=128", bench_quantize, &a);
            check_bench(c, "rows_to_tile", "D=128", bench_to_tile, &a);
            check_bench(c, "tile_to_rows", "D=128", bench_to_rows, &a);
        }
        free_args(&a);
    }
}
