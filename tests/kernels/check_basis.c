#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "codec/basis_i16.h"

static const uint32_t dims[] = {16, 48, 64, 80, 128, 256, 512};

static void check_product(struct check *c, uint32_t D, uint32_t n, int fill)
{
    const size_t n_x = (size_t)n * D, n_m = (size_t)D * D;
    float *x = check_alloc(n_x, 4), *m = check_alloc(n_m, 4), *y = check_alloc(n_x, 4);
    float *want = malloc(n_x * 4 + 1);
    char what[48];
    snprintf(what, sizeof what, "D=%u rows=%u %s", D, n, check_fill_name(fill));
    check_fill(c, x, n_x, fill);
    check_fill(c, m, n_m, FILL_UNIFORM);
    c->ref.basis(x, n, D, m, want);
    c->now.basis(x, n, D, m, y);
    check_f32(c, "basis", what, y, want, n_x);
    for (size_t i = 0; fill == FILL_UNIFORM && i < n_x; i += 7) {
        double sum = 0;
        for (uint32_t j = 0; j < D; j++)
            sum += (double)x[i / D * D + j] * (double)m[j * D + i % D];
        check_true(c, "basis", what, fabs((double)y[i] - sum) < 1e-4);
    }
    check_free(x, n_x, 4), check_free(m, n_m, 4), check_free(y, n_x, 4);
    free(want);
}

/* In integers: the reference is within the rounding of 13 bits of the exact sums. */
static void check_integers(struct check *c, uint32_t D, uint32_t n, int fill)
{
    const size_t n_x = (size_t)n * D, n_m = (size_t)D * D;
    float *x = check_alloc(n_x, 4), *m = check_alloc(n_m, 4), *y = check_alloc(n_x, 4);
    float *want = malloc(n_x * 4 + 1), *scale = check_alloc(D, 4);
    int16_t *codes = check_alloc(n_m, 2);
    char what[48];
    snprintf(what, sizeof what, "D=%u rows=%u %s", D, n, check_fill_name(fill));
    check_fill(c, x, n_x, fill);
    check_fill(c, m, n_m, FILL_HEAVY);
    tkv_basis_quantize(m, D, codes, scale);
    const struct tkv_basis_i16 basis = {codes, scale};
    c->ref.basis_i16(x, n, D, &basis, want);
    c->now.basis_i16(x, n, D, &basis, y);
    check_f32(c, "basis_i16", what, y, want, n_x);
    for (size_t i = 0; fill == FILL_UNIFORM && i < n_x; i += 7) {
        double sum = 0, x_square = 0, m_square = 0;
        for (uint32_t j = 0; j < D; j++) {
            const double a = (double)x[i / D * D + j], b = (double)m[j * D + i % D];
            sum += a * b, x_square += a * a, m_square += b * b;
        }
        check_true(c, "basis_i16", what,
                   fabs((double)y[i] - sum) < 2e-3 * sqrt(x_square * m_square));
    }
    check_free(x, n_x, 4), check_free(m, n_m, 4), check_free(y, n_x, 4);
    check_free(scale, D, 4), check_free(codes, n_m, 2);
    free(want);
}

/* Columns that point the same way as the row: the largest sums there are. */
static void check_no_overflow(struct check *c, uint32_t D)
{
    float *x = check_alloc(D, 4), *m = check_alloc((size_t)D * D, 4), *y = check_alloc(D, 4);
    float *scale = check_alloc(D, 4);
    int16_t *codes = check_alloc((size_t)D * D, 2);
    for (uint32_t i = 0; i < D; i++)
        x[i] = i % 3 ? 1.0f : -1.0f;
    for (uint32_t i = 0; i < D * D; i++)
        m[i] = x[i / D] * (i % 2 ? 3.0f : -3.0f);
    tkv_basis_quantize(m, D, codes, scale);
    c->now.basis_i16(x, 1, D, &(struct tkv_basis_i16){codes, scale}, y);
    for (uint32_t j = 0; j < D; j++) {
        const float want = (j % 2 ? 3.0f : -3.0f) * (float)D;
        check_true(c, "basis_i16", "no overflow", fabsf(y[j] / want - 1.0f) < 1e-3f);
    }
    check_free(x, D, 4), check_free(m, (size_t)D * D, 4), check_free(y, D, 4);
    check_free(scale, D, 4), check_free(codes, (size_t)D * D, 2);
}

/* Both pairings, over part of the row; turning back gives what there was. */
static void check_turn(struct check *c, uint32_t D, bool halves)
{
    enum {
        N = 3
    };
    const uint32_t n_pairs = halves ? D / 4 : D / 4 - 1, half = halves ? n_pairs : 0;
    float *x = check_alloc((size_t)N * D, 4), (*turn)[2] = check_alloc(n_pairs, 8);
    float *want = malloc((size_t)N * D * 4), *before = malloc((size_t)N * D * 4);
    check_fill(c, x, (size_t)N * D, FILL_UNIFORM);
    memcpy(want, x, (size_t)N * D * 4);
    memcpy(before, x, (size_t)N * D * 4);
    for (uint32_t i = 0; i < n_pairs; i++) {
        const double angle = 3.0 * (double)check_uniform(c);
        turn[i][0] = (float)cos(angle), turn[i][1] = (float)sin(angle);
    }
    c->ref.turn(want, N, D, half, n_pairs, (const float(*)[2])turn);
    c->now.turn(x, N, D, half, n_pairs, (const float(*)[2])turn);
    check_f32(c, "turn", halves ? "halves" : "neighbours", x, want, (size_t)N * D);
    for (uint32_t i = 0; i < n_pairs; i++)
        turn[i][1] = -turn[i][1];
    c->now.turn(x, N, D, half, n_pairs, (const float(*)[2])turn);
    float most = 0;
    for (uint32_t i = 0; i < N * D; i++)
        most = fmaxf(most, fabsf(x[i] - before[i]));
    check_true(c, "turn", "and back", most < 1e-6f);
    check_free(x, (size_t)N * D, 4), check_free(turn, n_pairs, 8);
    free(want), free(before);
}

/* A tile whose tokens all turn alike is a page of rows turned. */
static void check_turn_tile(struct check *c, uint32_t D, bool halves)
{
    enum {
        T = 64
    };
    const uint32_t n_pairs = D / 4, half = halves ? n_pairs : 0;
    const size_t stride = T + 5, n = (size_t)D * T;
    float *tile = check_alloc(n, 4), *want = malloc(n * 4);
    float *angles = check_alloc(n_pairs * 2 * stride, 4), *row = malloc(D * 4);
    float(*turn)[2] = malloc(n_pairs * 8);
    check_fill(c, tile, n, FILL_UNIFORM);
    check_fill(c, angles, n_pairs * 2 * stride, FILL_UNIFORM);
    memcpy(want, tile, n * 4);
    for (uint32_t t = 0; t < T; t++) {
        for (uint32_t i = 0; i < n_pairs; i++) {
            turn[i][0] = angles[i * stride + t];
            turn[i][1] = angles[(n_pairs + i) * stride + t];
        }
        for (uint32_t d = 0; d < D; d++)
            row[d] = tile[d * T + t];
        c->ref.turn(row, 1, D, half, n_pairs, (const float(*)[2])turn);
        for (uint32_t d = 0; d < D; d++)
            want[d * T + t] = row[d];
    }
    c->now.turn_tile(tile, half, n_pairs, angles, angles + n_pairs * stride, stride);
    check_f32(c, "turn_tile", halves ? "halves" : "neighbours", tile, want, n);
    check_free(tile, n, 4), check_free(angles, n_pairs * 2 * stride, 4);
    free(want), free(row), free(turn);
}

struct bench {
    struct check *c;
    float *x, *m, *y;
    struct tkv_basis_i16 integers;
};

static void bench_page(void *arg)
{
    struct bench *b = arg;
    b->c->now.basis(b->x, 64, 128, b->m, b->y);
}

static void bench_group(void *arg)
{
    struct bench *b = arg;
    b->c->now.basis(b->x, 4, 128, b->m, b->y);
}

static void bench_turn_tile(void *arg)
{
    struct bench *b = arg;
    b->c->now.turn_tile(b->x, 64, 64, b->y, b->y + 4096, 64);
}

static void bench_integers(void *arg)
{
    struct bench *b = arg;
    b->c->now.basis_i16(b->x, 4, 128, &b->integers, b->y);
}

static void bench_turn(void *arg)
{
    struct bench *b = arg;
    b->c->now.turn(b->x, 4, 128, 0, 64, (const float(*)[2])b->m);
}

void check_basis(struct check *c)
{
    if (!check_wanted(c, "basis"))
        return;
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        check_product(c, dims[i], 1 + check_random(c) % 9, FILL_UNIFORM);
        check_integers(c, dims[i], 1 + check_random(c) % 9, FILL_UNIFORM);
        check_no_overflow(c, dims[i]);
        check_turn(c, dims[i], i % 2);
        check_turn_tile(c, dims[i], i % 2);
    }
    for (int fill = 0; fill < FILL_COUNT; fill++) {
        check_product(c, 64, 5, fill);
        check_integers(c, 64, 5, fill);
    }
    if (!c->bench)
        return;
    int16_t *codes = check_alloc(128 * 128, 2);
    float scale[128] = {0};
    struct bench b = {c,
                      check_alloc(64 * 128, 4),
                      check_alloc(128 * 128, 4),
                      check_alloc(64 * 128, 4),
                      {codes, scale}};
    check_fill(c, b.x, 64 * 128, FILL_UNIFORM), check_fill(c, b.m, 128 * 128, FILL_UNIFORM);
    check_bench(c, "basis", "64 rows of 128", bench_page, &b);
    check_bench(c, "basis", "4 rows of 128", bench_group, &b);
    check_bench(c, "basis_i16", "4 rows of 128", bench_integers, &b);
    check_bench(c, "turn", "4 rows of 128", bench_turn, &b);
    check_free(codes, 128 * 128, 2);
    check_bench(c, "turn_tile", "64 rows of 128", bench_turn_tile, &b);
    check_free(b.x, 64 * 128, 4), check_free(b.m, 128 * 128, 4), check_free(b.y, 64 * 128, 4);
}
