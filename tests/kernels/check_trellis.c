#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "format/trellis.h"

static const uint32_t dims[] = {16, 48, 64, 80, 128, 256, 512};

/* Some coefficients get no bits, and the sum is what it happens to be. */
static void random_bits(struct check *c, uint8_t *bits, uint32_t D)
{
    for (uint32_t d = 0; d < D; d++)
        bits[d] = (uint8_t)(check_random(c) % (TKV_TRELLIS_BITS + 1));
}

/* A token's window after coefficient d, read bit by bit from the page. */
static uint32_t window_of(const uint8_t *codes, const uint8_t *bits, uint32_t d, uint32_t token)
{
    size_t n = 0;
    for (uint32_t i = 0; i <= d; i++)
        n += bits[i];
    uint32_t window = 0;
    for (size_t word = n < TKV_TRELLIS_WINDOW ? 0 : n - TKV_TRELLIS_WINDOW; word < n; word++)
        window = window << 1 | (codes[word * 8 + token / 8] >> token % 8 & 1);
    return window;
}

static void check_tiles(struct check *c, uint32_t D)
{
    uint8_t bits[512];
    random_bits(c, bits, D);
    const size_t n_bytes = tkv_trellis_bytes(bits, D), n = (size_t)64 * D;
    uint8_t *codes = check_alloc(n_bytes, 1), *k_tile = check_alloc(n, 1);
    int8_t *v_tile = check_alloc(n, 1);
    uint8_t *want_k = malloc(n);
    int8_t *want_v = malloc(n);
    char what[32];
    snprintf(what, sizeof what, "D=%u", D);
    check_fill_bytes(c, codes, n_bytes);
    for (uint32_t d = 0; d < D; d++)
        for (uint32_t t = 0; t < 64; t++) {
            const int8_t level = tkv_trellis_levels[bits[d]][window_of(codes, bits, d, t)];
            want_k[(t / 16 * (D / 4) + d / 4) * 64 + t % 16 * 4 + d % 4] = (uint8_t)(level + 128);
            want_v[(t / 4 * (D / 16) + d / 16) * 64 + d % 16 * 4 + t % 4] = level;
        }
    c->now.trellis_tile_k(codes, bits, D, k_tile, &c->ahead);
    check_bytes(c, "trellis_tile_k", what, k_tile, want_k, n);
    c->now.trellis_tile_v(codes, bits, D, v_tile, &c->ahead);
    check_bytes(c, "trellis_tile_v", what, v_tile, want_v, n);
    check_free(codes, n_bytes, 1), check_free(k_tile, n, 1), check_free(v_tile, n, 1);
    free(want_k), free(want_v);
}

static double cost_of(const float *x, const uint8_t *bits, const float *reach, uint32_t D,
                      const uint32_t *windows)
{
    double cost = 0;
    for (uint32_t d = 0; d < D; d++) {
        const double level = tkv_trellis_levels[bits[d]][windows[d]];
        const double e = rint((double)(x[d] * reach[d])) - rint(level * (double)reach[d]);
        const double far = fabs(e), cut = fmin(far, TKV_TRELLIS_FAR);
        cost += bits[d] ? cut * cut + (far - cut) : 0;
    }
    return cost;
}

/* The least cost of all streams of n bits in all. */
static double least_cost(const float *x, const uint8_t *bits, const float *reach, uint32_t D,
                         uint32_t n)
{
    double least = INFINITY;
    for (uint32_t stream = 0; stream < 1u << n; stream++) {
        uint32_t windows[16], used = 0;
        for (uint32_t d = 0; d < D; d++) {
            used += bits[d];
            windows[d] = stream >> (n - used) & (TKV_TRELLIS_STATES - 1);
        }
        const double cost = cost_of(x, bits, reach, D, windows);
        least = cost < least ? cost : least;
    }
    return least;
}

/* Streams of 12 bits against all 4096 of them. */
static void check_best(struct check *c, void *scratch, const uint8_t bits[16])
{
    float x[16 * 64], reach[16];
    uint8_t windows[16 * 64];
    for (int i = 0; i < 16 * 64; i++)
        x[i] = 60 * check_uniform(c);
    for (int d = 0; d < 16; d++)
        reach[d] = 0.8f + 0.3f * check_uniform(c);
    c->now.trellis_codes(x, bits, reach, 16, windows, scratch);
    for (uint32_t t = 0; t < 64; t += 7) {
        float mine[16];
        uint32_t w[16];
        for (uint32_t d = 0; d < 16; d++) {
            mine[d] = x[d * 64 + t];
            w[d] = windows[d * 64 + t];
        }
        const double got = cost_of(mine, bits, reach, 16, w);
        const double want = least_cost(mine, bits, reach, 16, 12);
        check_true(c, "trellis_codes", "the best of all streams", got == want);
    }
}

static void check_search(struct check *c, uint32_t D, void *scratch, int fill)
{
    uint8_t bits[512], *want = malloc((size_t)64 * D);
    random_bits(c, bits, D);
    float *x = check_alloc((size_t)64 * D, 4), *reach = check_alloc(D, 4);
    uint8_t *windows = check_alloc((size_t)64 * D, 1);
    char what[48];
    snprintf(what, sizeof what, "D=%u %s", D, check_fill_name(fill));
    check_fill(c, x, (size_t)64 * D, fill);
    for (uint32_t d = 0; d < D; d++)
        reach[d] = 20.0f / (float)(1 + d);
    c->ref.trellis_codes(x, bits, reach, D, want, scratch);
    c->now.trellis_codes(x, bits, reach, D, windows, scratch);
    check_bytes(c, "trellis_codes", what, windows, want, (size_t)64 * D);
    bool linked = true; /* each window goes on from the one before */
    for (uint32_t t = 0; t < 64; t++) {
        uint32_t before = 0;
        for (uint32_t d = 0; d < D; d++) {
            linked = linked &&
                     (uint32_t)(windows[d * 64 + t] >> bits[d]) == (before & (0xffu >> bits[d]));
            before = windows[d * 64 + t];
        }
    }
    check_true(c, "trellis_codes", what, linked);
    check_free(x, (size_t)64 * D, 4), check_free(reach, D, 4);
    check_free(windows, (size_t)64 * D, 1);
    free(want);
}

static void check_fit(struct check *c, uint32_t D, int fill)
{
    const size_t n = (size_t)64 * D;
    uint8_t bits[512], *windows = check_alloc(n, 1);
    float *x = check_alloc(n, 4), *weight = check_alloc(D, 4);
    float *got = check_alloc(2 * 64, 4), want[2 * 64];
    char what[48];
    snprintf(what, sizeof what, "D=%u %s", D, check_fill_name(fill));
    random_bits(c, bits, D);
    check_fill_bytes(c, windows, n);
    check_fill(c, x, n, fill);
    check_fill(c, weight, D, FILL_UNIFORM);
    c->ref.trellis_fit(x, windows, bits, weight, D, want, want + 64);
    c->now.trellis_fit(x, windows, bits, weight, D, got, got + 64);
    check_f32(c, "trellis_fit", what, got, want, 2 * 64);
    for (uint32_t t = 0; fill == FILL_UNIFORM && t < 64; t += 21) {
        double product = 0, square = 0;
        for (uint32_t d = 0; d < D; d++) {
            const double level = tkv_trellis_levels[bits[d]][windows[d * 64 + t]];
            product += (double)weight[d] * (double)x[d * 64 + t] * level;
            square += (double)weight[d] * level * level;
        }
        check_true(c, "trellis_fit", what, fabs((double)want[t] - product) < 1e-3 * D);
        check_true(c, "trellis_fit", what, fabs((double)want[64 + t] - square) < 1e-2 * D);
    }
    check_free(windows, n, 1), check_free(x, n, 4), check_free(weight, D, 4);
    check_free(got, 2 * 64, 4);
}

struct bench {
    struct check *c;
    uint8_t bits[128], *codes, *tile, *windows;
    float *x, reach[128];
    void *scratch;
};

static void bench_k(void *arg)
{
    struct bench *b = arg;
    b->c->now.trellis_tile_k(b->codes, b->bits, 128, b->tile, &b->c->ahead);
}

static void bench_v(void *arg)
{
    struct bench *b = arg;
    b->c->now.trellis_tile_v(b->codes, b->bits, 128, (int8_t *)b->tile, &b->c->ahead);
}

static void bench_codes(void *arg)
{
    struct bench *b = arg;
    b->c->now.trellis_codes(b->x, b->bits, b->reach, 128, b->windows, b->scratch);
}

static void bench(struct check *c, void *scratch)
{
    static struct bench b;
    b = (struct bench){.c = c, .scratch = scratch};
    for (int d = 0; d < 128; d++)
        b.bits[d] = d < 16 ? 5 : d < 48 ? 4 : d < 100 ? 3 : 1, b.reach[d] = 1;
    b.codes = check_alloc(64 * 128, 1), b.tile = check_alloc(64 * 128, 1);
    b.windows = check_alloc(64 * 128, 1), b.x = check_alloc(64 * 128, 4);
    check_fill_bytes(c, b.codes, 64 * 128);
    check_fill(c, b.x, 64 * 128, FILL_UNIFORM);
    check_bench(c, "trellis_tile_k", "page of 128", bench_k, &b);
    check_bench(c, "trellis_tile_v", "page of 128", bench_v, &b);
    check_bench(c, "trellis_codes", "page of 128", bench_codes, &b);
    check_free(b.codes, 64 * 128, 1), check_free(b.tile, 64 * 128, 1);
    check_free(b.windows, 64 * 128, 1), check_free(b.x, 64 * 128, 4);
}

void check_trellis(struct check *c)
{
    if (!check_wanted(c, "trellis"))
        return;
    void *scratch = check_alloc(TKV_TRELLIS_SCRATCH_BYTES, 1);
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        check_tiles(c, dims[i]);
        check_search(c, dims[i], scratch, FILL_UNIFORM);
        check_fit(c, dims[i], FILL_UNIFORM);
        check_fit(c, dims[i], FILL_HEAVY);
    }
    check_search(c, 64, scratch, FILL_ZERO);
    check_search(c, 64, scratch, FILL_HEAVY);
    check_best(c, scratch, (const uint8_t[16]){3, 0, 2, 1, 1, 0, 2, 0, 1, 0, 1, 0, 0, 1});
    check_best(c, scratch, (const uint8_t[16]){TKV_TRELLIS_BITS, 0, 1, 0, 2, 0, 0, 0, 2});
    if (c->bench)
        bench(c, scratch);
    check_free(scratch, TKV_TRELLIS_SCRATCH_BYTES, 1);
}
