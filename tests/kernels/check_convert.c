#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "check.h"

#define N_HALVES 65536u

/* Every half, and that f16 -> f32 -> f16 comes back. The oracle is ldexp on the fields. */
static void check_all_halves(struct check *c)
{
    uint16_t *h = check_alloc(N_HALVES, sizeof *h), *back = check_alloc(N_HALVES, sizeof *back);
    float *got = check_alloc(N_HALVES, sizeof *got), *want = check_alloc(N_HALVES, sizeof *want);
    for (uint32_t i = 0; i < N_HALVES; i++) {
        const int exponent = (int)(i >> 10 & 31), mantissa = (int)(i & 1023);
        const float magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
                                : exponent     ? ldexpf((float)(1024 + mantissa), exponent - 25)
                                               : ldexpf((float)mantissa, -24);
        h[i] = (uint16_t)i;
        want[i] = i & 0x8000 ? -magnitude : magnitude;
    }
    c->now.f16_to_f32(h, got, N_HALVES);
    check_f32(c, "f16_to_f32", "all halves", got, want, N_HALVES);
    c->now.f32_to_f16(want, back, N_HALVES);
    for (uint32_t i = 0; i < N_HALVES; i++)
        if (isnan(want[i])) /* which NaN is open, that it is one is not */
            back[i] = (uint16_t)((back[i] & 0x7fff) > 0x7c00 ? i : 0);
    check_bytes(c, "f32_to_f16", "back to halves", back, h, N_HALVES * sizeof *h);
    check_free(h, N_HALVES, sizeof *h);
    check_free(back, N_HALVES, sizeof *back);
    check_free(got, N_HALVES, sizeof *got);
    check_free(want, N_HALVES, sizeof *want);
}

/* Halfway cases and their neighbours: where rounding goes wrong first. */
static void fill_near_halfway(struct check *c, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float low = tkv_half_to_f32((uint16_t)(check_random(c) % 0x7c00));
        const uint32_t half_step =
            low < 0x1p-14f ? tkv_f32_bits(low + 0x1p-25f) : tkv_f32_bits(low) + 0x1000;
        x[i] = tkv_bits_f32(half_step + check_random(c) % 3 - 1);
        x[i] = check_random(c) & 1 ? -x[i] : x[i];
    }
}

static void check_sizes(struct check *c)
{
    for (size_t n = 0; n < 70; n++)
        for (int fill = -1; fill < FILL_NAN; fill++) {
            float *x = check_alloc(n, sizeof *x), *y = check_alloc(n, sizeof *y),
                  *y_ref = calloc(n + 1, sizeof *y);
            uint16_t *h = check_alloc(n, sizeof *h), *h_ref = calloc(n + 1, sizeof *h);
            if (fill < 0)
                fill_near_halfway(c, x, n);
            else
                check_fill(c, x, n, fill);
            const char *what = fill < 0 ? "halfway" : check_fill_name(fill);
            c->ref.f32_to_f16(x, h_ref, n);
            c->now.f32_to_f16(x, h, n);
            check_bytes(c, "f32_to_f16", what, h, h_ref, n * sizeof *h);
            c->ref.f16_to_f32(h_ref, y_ref, n);
            c->now.f16_to_f32(h, y, n);
            check_f32(c, "f16_to_f32", what, y, y_ref, n);
            check_free(x, n, sizeof *x);
            check_free(y, n, sizeof *y);
            check_free(h, n, sizeof *h);
            free(y_ref), free(h_ref);
        }
}

static void check_transpose(struct check *c)
{
    for (uint32_t D = 16; D <= 512; D += D < 144 ? 16 : 184) {
        for (size_t gap = 0; gap < 9; gap += 8) {
            const size_t stride = D + gap, n = 63 * stride + D;
            uint16_t *x = check_alloc(n, sizeof *x);
            float *y = check_alloc((size_t)64 * D, sizeof *y),
                  *y_ref = malloc((size_t)64 * D * sizeof *y);
            for (size_t i = 0; i < n; i++)
                x[i] = (uint16_t)check_random(c);
            c->ref.transpose_f16(x, stride, D, y_ref);
            c->now.transpose_f16(x, stride, D, y);
            check_f32(c, "transpose_f16", "random", y, y_ref, (size_t)64 * D);
            check_free(x, n, sizeof *x);
            check_free(y, (size_t)64 * D, sizeof *y);
            free(y_ref);
        }
    }
}

struct page {
    const struct tkv_kernels *k;
    uint16_t h[64 * 128];
    float x[64 * 128];
};

static void to_f32(void *arg)
{
    struct page *p = arg;
    p->k->f16_to_f32(p->h, p->x, 64 * 128);
}

static void to_f16(void *arg)
{
    struct page *p = arg;
    p->k->f32_to_f16(p->x, p->h, 64 * 128);
}

static void transpose(void *arg)
{
    struct page *p = arg;
    p->k->transpose_f16(p->h, 128, 128, p->x);
}

static void bench(struct check *c)
{
    struct page *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    memset(p, 0, sizeof *p);
    p->k = &c->now;
    check_bench(c, "f16_to_f32", "64x128", to_f32, p);
    check_bench(c, "f32_to_f16", "64x128", to_f16, p);
    check_bench(c, "transpose_f16", "64x128", transpose, p);
    free(p);
}

void check_convert(struct check *c)
{
    if (!check_wanted(c, "convert f16_to_f32 f32_to_f16 transpose_f16"))
        return;
    check_all_halves(c);
    check_sizes(c);
    check_transpose(c);
    if (c->bench)
        bench(c);
}
