#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static const uint32_t dims[] = {16,  32,  48,  64,  80,  96,  112, 128,
                                160, 192, 224, 256, 320, 384, 448, 512};
#define N_DIMS (sizeof dims / sizeof dims[0])
#define PI     3.14159265358979323846

/* -1 to the number of bits set in a, a < 2^16. */
static double parity_sign(uint32_t a)
{
    for (uint32_t shift = 8; shift > 0; shift /= 2)
        a ^= a >> shift;
    return a & 1 ? -1.0 : 1.0;
}

/* Entry (i, j) of the rotation without signs: Hadamard over a times DCT-II over b. */
static double entry(uint32_t i, uint32_t j, uint32_t even, uint32_t m)
{
    const uint32_t a = (i / m) & (j / m), c = i % m, b = j % m;
    const double hadamard = parity_sign(a) / sqrt(even);
    return hadamard * sqrt((c ? 2.0 : 1.0) / m) * cos(PI * (b + 0.5) * c / m);
}

/* The reference against the dense matrix in double, and its inverse. */
static void check_oracle(struct check *c, uint32_t D)
{
    const uint32_t even = D & (0u - D), m = D / even;
    float x[512], y[512], sign[512];
    check_fill(c, x, D, FILL_UNIFORM);
    for (uint32_t i = 0; i < D; i++)
        sign[i] = check_random(c) & 1 ? 1.0f : -1.0f;
    memcpy(y, x, sizeof x);
    c->now.rotate(y, 1, D, sign);
    double worst = 0, worst_back = 0;
    for (uint32_t i = 0; i < D; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < D; j++)
            sum += entry(i, j, even, m) * (double)(sign[j] * x[j]);
        worst = fmax(worst, fabs(sum - (double)y[i]));
    }
    c->now.unrotate(y, 1, D, sign);
    for (uint32_t i = 0; i < D; i++) {
        const double off = fabs((double)y[i] - (double)x[i]);
        worst_back = off > worst_back ? off : worst_back;
    }
    /* |x| <= 1: a few f32 roundings of values below sqrt(D) before the final scale */
    check_true(c, "rotate", "dense matrix in double", worst < 4e-6);
    check_true(c, "unrotate", "inverse of rotate", worst_back < 4e-6);
}

static void check_against_ref(struct check *c, uint32_t D, size_t n, int fill)
{
    float *x = check_alloc(n * D, sizeof *x), *sign = check_alloc(D, sizeof *sign);
    float *want = malloc((n * D + 1) * sizeof *want);
    char what[64];
    snprintf(what, sizeof what, "D=%u n=%zu %s", D, n, check_fill_name(fill));
    check_fill(c, x, n * D, fill);
    for (uint32_t i = 0; i < D; i++)
        sign[i] = check_random(c) & 1 ? 1.0f : -1.0f;
    memcpy(want, x, n * D * sizeof *x);
    c->ref.rotate(want, n, D, sign);
    c->now.rotate(x, n, D, sign);
    check_f32(c, "rotate", what, x, want, n * D);
    memcpy(x, want, n * D * sizeof *x);
    c->ref.unrotate(want, n, D, sign);
    c->now.unrotate(x, n, D, sign);
    check_f32(c, "unrotate", what, x, want, n * D);
    check_free(x, n * D, sizeof *x);
    check_free(sign, D, sizeof *sign);
    free(want);
}

struct rows {
    const struct tkv_kernels *k;
    uint32_t D;
    float x[64 * 128], sign[128];
};

static void rotate(void *arg)
{
    struct rows *r = arg;
    r->k->rotate(r->x, 64, r->D, r->sign);
}

static void unrotate(void *arg)
{
    struct rows *r = arg;
    r->k->unrotate(r->x, 64, r->D, r->sign);
}

static void bench(struct check *c, uint32_t D)
{
    struct rows *r = calloc(1, sizeof *r);
    char unit[32];
    snprintf(unit, sizeof unit, "64x%u", D);
    r->k = &c->now;
    r->D = D;
    for (uint32_t i = 0; i < D; i++)
        r->sign[i] = i & 1 ? 1.0f : -1.0f;
    check_bench(c, "rotate", unit, rotate, r);
    check_bench(c, "unrotate", unit, unrotate, r);
    free(r);
}

void check_rotate(struct check *c)
{
    if (!check_wanted(c, "rotate unrotate"))
        return;
    for (size_t i = 0; i < N_DIMS; i++) {
        if (c->is_ref)
            check_oracle(c, dims[i]);
        for (size_t n = 0; n < 6; n++)
            for (int fill = 0; fill < FILL_COUNT; fill++)
                check_against_ref(c, dims[i], n, fill);
    }
    if (c->bench) {
        bench(c, 128);
        bench(c, 96);
        bench(c, 112);
    }
}
