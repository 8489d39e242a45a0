#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "format/visual.h"

#define TOKENS TKV_PAGE_TOKENS

static const uint32_t dims[] = {16, 48, 64, 80, 128, 256, 512};
static const uint32_t row_counts[] = {1, 2, 3, 4, 5, 7, 8, 13};

/* The code of a value, found by its place. */
static int32_t code_of(const uint8_t *codes, tkv_kind kind, uint32_t D, uint32_t bits, size_t t,
                       size_t d)
{
    const size_t g = kind == TKV_K ? d / 4 * 4 + t / 16 : d / 16 * 16 + t / 4;
    const size_t i = kind == TKV_K ? t % 16 * 4 + d % 4 : d % 16 * 4 + t % 4;
    if (tkv_visual_place(kind, D, g, i) != t * D + d)
        return -1000;
    return codes[g / (8 / bits) * 64 + i] >> g % (8 / bits) * bits & ((1 << bits) - 1);
}

struct shape {
    uint32_t D, bits, n_rows;
    char what[48];
};

static void check_score(struct check *c, const struct shape *s, const uint8_t *codes)
{
    const size_t n = (size_t)s->n_rows * TOKENS;
    int8_t *q = check_alloc((size_t)s->n_rows * s->D, 1);
    int32_t *got = check_alloc(n, 4), *want = calloc(n, sizeof *want);
    check_fill_bytes(c, q, (size_t)s->n_rows * s->D);
    for (size_t r = 0; r < s->n_rows; r++)
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t d = 0; d < s->D; d++)
                want[r * TOKENS + t] +=
                    q[r * s->D + d] * code_of(codes, TKV_K, s->D, s->bits, t, d);
    c->now.visual_score(codes, s->D, s->bits, q, s->n_rows, got, &c->ahead);
    check_bytes(c, "visual_score", s->what, got, want, n * sizeof *got);
    check_free(q, (size_t)s->n_rows * s->D, 1), check_free(got, n, 4);
    free(want);
}

static void check_wsum(struct check *c, const struct shape *s, const uint8_t *codes)
{
    const size_t n = (size_t)s->n_rows * s->D;
    uint8_t *w = check_alloc((size_t)s->n_rows * TOKENS, 1);
    float *scale = check_alloc(s->n_rows, 4), *got = check_alloc(n, 4),
          *want = malloc(n * sizeof *want);
    check_fill_bytes(c, w, (size_t)s->n_rows * TOKENS);
    check_fill(c, scale, s->n_rows, FILL_UNIFORM);
    check_fill(c, got, n, FILL_UNIFORM);
    for (size_t r = 0; r < s->n_rows; r++)
        for (size_t d = 0; d < s->D; d++) {
            int32_t sum = 0;
            for (size_t t = 0; t < TOKENS; t++)
                sum += w[r * TOKENS + t] * code_of(codes, TKV_V, s->D, s->bits, t, d);
            want[r * s->D + d] = fmaf(scale[r], (float)sum, got[r * s->D + d]);
        }
    c->now.visual_wsum(codes, s->D, s->bits, w, scale, s->n_rows, got, &c->ahead);
    check_f32(c, "visual_wsum", s->what, got, want, n);
    check_free(w, (size_t)s->n_rows * TOKENS, 1), check_free(scale, s->n_rows, 4);
    check_free(got, n, 4);
    free(want);
}

struct bench {
    struct check *c;
    uint8_t *codes, *w;
    float *scale, *acc;
    int32_t *s;
};

static void bench_score(void *arg)
{
    struct bench *b = arg;
    b->c->now.visual_score(b->codes, 128, 1, (int8_t *)b->w, 4, b->s, &b->c->ahead);
}

static void bench_wsum(void *arg)
{
    struct bench *b = arg;
    b->c->now.visual_wsum(b->codes, 128, 1, b->w, b->scale, 4, b->acc, &b->c->ahead);
}

static void bench(struct check *c)
{
    struct bench b = {.c = c};
    b.codes = check_alloc(1024, 1), b.w = check_alloc(4 * 128, 1);
    b.scale = check_alloc(16, 4), b.acc = check_alloc(4 * 128, 4), b.s = check_alloc(4 * 64, 4);
    check_fill_bytes(c, b.codes, 1024);
    check_fill_bytes(c, b.w, 4 * 128);
    check_fill(c, b.scale, 16, FILL_ZERO);
    check_fill(c, b.acc, 4 * 128, FILL_ZERO);
    check_bench(c, "visual_score", "page of 128, 1 bit, 4 rows", bench_score, &b);
    check_bench(c, "visual_wsum", "page of 128, 1 bit, 4 rows", bench_wsum, &b);
    check_free(b.codes, 1024, 1), check_free(b.w, 4 * 128, 1);
    check_free(b.scale, 16, 4), check_free(b.acc, 4 * 128, 4), check_free(b.s, 4 * 64, 4);
}

void check_visual(struct check *c)
{
    if (!check_wanted(c, "visual"))
        return;
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (uint32_t bits = 1; bits <= 4; bits *= 2)
            for (size_t j = 0; j < sizeof row_counts / sizeof row_counts[0]; j++) {
                struct shape s = {dims[i], bits, row_counts[j], ""};
                const size_t n_bytes = tkv_visual_code_bytes(bits, s.D);
                uint8_t *codes = check_alloc(n_bytes, 1);
                snprintf(s.what, sizeof s.what, "D=%u %u bits, %u rows", s.D, bits, s.n_rows);
                check_fill_bytes(c, codes, n_bytes);
                check_score(c, &s, codes);
                check_wsum(c, &s, codes);
                check_free(codes, n_bytes, 1);
            }
    if (c->bench)
        bench(c);
}
