#include <stdio.h>
#include <string.h>

#include "check.h"
#include "format/polar.h"

static const uint32_t dims[] = {16, 48, 64, 80, 96, 112, 128, 192, 256, 512};
#define N_DIMS (sizeof dims / sizeof dims[0])

/* A page, its tile and rows of one head size; all end at guard pages. */
struct polar_args {
    const struct tkv_kernels *k;
    const struct tkv_polar_tables *tables;
    uint32_t D;
    size_t page_bytes;
    uint8_t *page, *tile;
    float *x, *scale;
    struct tkv_polar_rows rows;
};

static void alloc_args(struct polar_args *a, uint32_t D, const struct tkv_polar_tables *tables)
{
    *a = (struct polar_args){
        .D = D, .tables = tables, .page_bytes = tkv_polar_planes(D, tables->bits).end};
    a->page = check_alloc(a->page_bytes, 1);
    a->tile = check_alloc((size_t)64 * D, 1);
    a->x = check_alloc((size_t)64 * D, 4);
    a->scale = check_alloc(64, 4);
    a->rows = (struct tkv_polar_rows){.c1 = check_alloc((size_t)16 * D, 1),
                                      .c2 = check_alloc((size_t)16 * D, 1),
                                      .upper = check_alloc((size_t)4 * D, 2),
                                      .sum_sq = check_alloc((size_t)4 * D, 4)};
}

static void free_args(struct polar_args *a)
{
    const size_t d = a->D;
    check_free(a->page, a->page_bytes, 1);
    check_free(a->tile, 64 * d, 1);
    check_free(a->x, 64 * d, 4);
    check_free(a->scale, 64, 4);
    check_free(a->rows.c1, 16 * d, 1);
    check_free(a->rows.c2, 16 * d, 1);
    check_free(a->rows.upper, 4 * d, 2);
    check_free(a->rows.sum_sq, 4 * d, 4);
}

static void tile(const struct tkv_kernels *k, const struct polar_args *a, tkv_kind kind,
                 uint8_t *out, float *scale)
{
    if (kind == TKV_K)
        k->polar_tile_k(a->tables, a->page, a->D, out, scale);
    else
        k->polar_tile_v(a->tables, a->page, a->D, (int8_t *)out, scale);
}

/* Every byte is some page; usual radii have paths of their own. */
static void check_page_tile(struct check *c, struct polar_args *a, tkv_kind kind, bool usual,
                            const char *what)
{
    static uint8_t want[64 * 512];
    float scale[64];
    const char *name = kind == TKV_K ? "polar_tile_k" : "polar_tile_v";
    check_fill_bytes(c, a->page, a->page_bytes);
    const size_t radius = tkv_polar_planes(a->D, a->tables->bits).radius;
    for (size_t i = radius; usual && i < a->page_bytes; i++)
        a->page[i] = a->page[i] % 9 ? (uint8_t)(TKV_POLAR_LOG_LOW + a->page[i] % 209) : 0;
    tile(&c->ref, a, kind, want, scale);
    tile(&c->now, a, kind, a->tile, a->scale);
    check_bytes(c, name, what, a->tile, want, (size_t)64 * a->D);
    check_f32(c, name, "scale", a->scale, scale, 64);
}

static void check_codes(struct check *c, struct polar_args *a, int fill, const char *what)
{
    static uint8_t c1[16 * 512], c2[16 * 512];
    static uint16_t upper[4 * 512];
    static float sum_sq[4 * 512];
    const size_t d = a->D;
    struct tkv_polar_rows want = {c1, c2, upper, sum_sq};
    check_fill(c, a->x, 64 * d, fill);
    for (size_t i = 0; i < d; i++) /* equal values: on a threshold of every level */
        a->x[i] = i & 1 ? 2.0f : -2.0f;
    c->ref.polar_codes(a->tables, a->x, a->D, &want);
    c->now.polar_codes(a->tables, a->x, a->D, &a->rows);
    check_bytes(c, "polar_codes", what, a->rows.c1, c1, 16 * d);
    check_bytes(c, "polar_codes", what, a->rows.c2, c2, 16 * d);
    check_bytes(c, "polar_codes", what, a->rows.upper, upper, 8 * d);
    check_f32(c, "polar_codes", what, a->rows.sum_sq, sum_sq, 4 * d);
}

static void bench_tile_k(void *arg)
{
    struct polar_args *a = arg;
    tile(a->k, a, TKV_K, a->tile, a->scale);
}

static void bench_tile_v(void *arg)
{
    struct polar_args *a = arg;
    tile(a->k, a, TKV_V, a->tile, a->scale);
}

static void bench_codes(void *arg)
{
    struct polar_args *a = arg;
    a->k->polar_codes(a->tables, a->x, a->D, &a->rows);
}

static void bench(struct check *c, struct polar_args *a)
{
    char unit[32];
    snprintf(unit, sizeof unit, "D=%u bits=%u", a->D, a->tables->bits);
    for (size_t i = tkv_polar_planes(a->D, a->tables->bits).radius; i < a->page_bytes; i++)
        a->page[i] =
            0x41; /* about 12: random radii would be subnormal beside the largest, and slow */
    check_fill(c, a->x, (size_t)64 * a->D, FILL_UNIFORM);
    a->k = &c->now;
    check_bench(c, "polar_tile_k", unit, bench_tile_k, a);
    check_bench(c, "polar_tile_v", unit, bench_tile_v, a);
    check_bench(c, "polar_codes", unit, bench_codes, a);
}

void check_polar(struct check *c)
{
    static const struct tkv_polar_tables *const tables[] = {&tkv_polar_222, &tkv_polar_333};
    if (!check_wanted(c, "polar_tile_k polar_tile_v polar_codes"))
        return;
    for (size_t n = 0; n < 2; n++)
        for (size_t i = 0; i < N_DIMS; i++) {
            struct polar_args a;
            char what[32];
            alloc_args(&a, dims[i], tables[n]);
            snprintf(what, sizeof what, "D=%u bits=%u", a.D, tables[n]->bits);
            for (int usual = 0; usual < 2; usual++) {
                check_page_tile(c, &a, TKV_K, usual, what);
                check_page_tile(c, &a, TKV_V, usual, what);
            }
            for (int fill = 0; fill < FILL_NAN; fill++)
                check_codes(c, &a, fill, what);
            if (c->bench && a.D == 128)
                bench(c, &a);
            free_args(&a);
        }
}
