#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "format/cq.h"

enum {
    T = TKV_PAGE_TOKENS,
    CODES = TKV_CQ_CODES
};

struct search {
    struct check *c;
    int16_t *x, *centroids;
    int32_t *offset;
    uint32_t dim;
    uint8_t *codes;
};

static struct search search_new(struct check *c, uint32_t dim, bool edges)
{
    struct search s = {c,
                       check_alloc((size_t)T * dim, 2),
                       check_alloc((size_t)CODES * dim, 2),
                       check_alloc(CODES, 4),
                       dim,
                       check_alloc(T, 1)};
    for (size_t i = 0; i < (size_t)T * dim; i++)
        s.x[i] = (int16_t)(edges ? (check_random(c) & 1 ? TKV_CQ_MOST : -TKV_CQ_MOST)
                                 : (int32_t)(check_random(c) % 1601) - 800);
    for (uint32_t i = 0; i < CODES; i++) {
        int32_t square = 0;
        for (uint32_t j = 0; j < dim; j++) {
            /* a few centroids twice: the first of equals counts */
            const int32_t code = i % 7 == 3 && i > 20
                                     ? s.centroids[(i - 20) * dim + j] / 256
                                     : (edges ? 127 * (int32_t)(check_random(c) % 3) - 127
                                              : (int32_t)(check_random(c) % 255) - 127);
            s.centroids[i * dim + j] = (int16_t)(code * 256);
            square += code * code;
        }
        s.offset[i] = -square * TKV_CQ_FINE / 2 * 256 + (int32_t)(CODES - 1 - i);
    }
    return s;
}

static void search_free(const struct search *s)
{
    check_free(s->x, (size_t)T * s->dim, 2), check_free(s->centroids, (size_t)CODES * s->dim, 2);
    check_free(s->offset, CODES, 4), check_free(s->codes, T, 1);
}

/* By distances, in 64 bits. */
static uint8_t plain_nearest(const struct search *s, uint32_t t)
{
    int64_t least = INT64_MAX;
    uint8_t at = 0;
    for (uint32_t i = 0; i < CODES; i++) {
        int64_t distance = 0;
        for (uint32_t j = 0; j < s->dim; j++) {
            const int64_t far = s->x[(j / 2 * T + t) * 2 + j % 2] -
                                TKV_CQ_FINE * (s->centroids[i * s->dim + j] / 256);
            distance += far * far;
        }
        if (distance < least)
            least = distance, at = (uint8_t)i;
    }
    return at;
}

static void check_nearest(struct check *c, uint32_t dim, bool edges)
{
    const struct search s = search_new(c, dim, edges);
    uint8_t want[T];
    char what[32];
    snprintf(what, sizeof what, "dim=%u%s", dim, edges ? " edges" : "");
    c->ref.cq_nearest(s.x, s.centroids, s.offset, dim, want);
    c->now.cq_nearest(s.x, s.centroids, s.offset, dim, s.codes);
    check_bytes(c, "cq_nearest", what, s.codes, want, T);
    for (uint32_t t = 0; t < T && c->is_ref; t++)
        check_true(c, "cq_nearest", what, want[t] == plain_nearest(&s, t));
    search_free(&s);
}

static void check_tiles(struct check *c, uint32_t D, uint32_t dim)
{
    const size_t n_codes = (size_t)D / dim * T, n_values = (size_t)D * CODES, n = (size_t)D * T;
    uint8_t *codes = check_alloc(n_codes, 1);
    int8_t *values = check_alloc(n_values, 1), *tile = check_alloc(n, 1), *want = malloc(n);
    float *step = check_alloc(D, 4), *base = check_alloc(D, 4);
    float *k = check_alloc(n, 4), *want_k = malloc(n * 4);
    char what[32];
    snprintf(what, sizeof what, "D=%u dim=%u", D, dim);
    check_fill_bytes(c, codes, n_codes), check_fill_bytes(c, values, n_values);
    check_fill(c, step, D, FILL_UNIFORM), check_fill(c, base, D, FILL_UNIFORM);
    c->ref.cq_tile_v(codes, values, D, dim, want);
    c->now.cq_tile_v(codes, values, D, dim, tile);
    check_bytes(c, "cq_tile_v", what, tile, want, n);
    c->ref.cq_tile_k(codes, values, step, base, D, dim, want_k);
    c->now.cq_tile_k(codes, values, step, base, D, dim, k);
    check_f32(c, "cq_tile_k", what, k, want_k, n);
    check_free(codes, n_codes, 1), check_free(values, n_values, 1), check_free(tile, n, 1);
    check_free(step, D, 4), check_free(base, D, 4), check_free(k, n, 4);
    free(want), free(want_k);
}

static void bench_nearest(void *arg)
{
    const struct search *s = arg;
    s->c->now.cq_nearest(s->x, s->centroids, s->offset, s->dim, s->codes);
}

struct bench {
    struct check *c;
    uint8_t *codes;
    int8_t *values;
    float *step, *tile;
};

static void bench_k(void *arg)
{
    const struct bench *b = arg;
    b->c->now.cq_tile_k(b->codes, b->values, b->step, b->step, 128, 4, b->tile);
}

static void bench_v(void *arg)
{
    const struct bench *b = arg;
    b->c->now.cq_tile_v(b->codes, b->values, 128, 4, (int8_t *)b->tile);
}

static void bench(struct check *c)
{
    for (uint32_t dim = 4; dim <= 8; dim += 4) {
        struct search s = search_new(c, dim, false);
        check_bench(c, "cq_nearest", dim == 4 ? "64 tokens, 4 channels" : "64 tokens, 8 channels",
                    bench_nearest, &s);
        search_free(&s);
    }
    struct bench b = {c, check_alloc(32 * T, 1), check_alloc(128 * CODES, 1), check_alloc(128, 4),
                      check_alloc(128 * T, 4)};
    check_fill_bytes(c, b.codes, 32 * T);
    check_bench(c, "cq_tile_k", "64 rows of 128", bench_k, &b);
    check_bench(c, "cq_tile_v", "64 rows of 128", bench_v, &b);
    check_free(b.codes, 32 * T, 1), check_free(b.values, 128 * CODES, 1);
    check_free(b.step, 128, 4), check_free(b.tile, 128 * T, 4);
}

void check_cq(struct check *c)
{
    static const uint32_t dims[] = {16, 48, 64, 80, 128, 256, 512};
    if (!check_wanted(c, "cq"))
        return;
    for (uint32_t dim = 4; dim <= 8; dim += 4) {
        check_nearest(c, dim, false);
        check_nearest(c, dim, true);
        for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
            check_tiles(c, dims[i], dim);
    }
    if (c->bench)
        bench(c);
}
