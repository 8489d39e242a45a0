#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define TOKENS TKV_PAGE_TOKENS

/* Logits of a page: shape by fill, some hidden by -inf. hidden: 0 none, 1 some, 2 all. */
static void fill_logits(struct check *c, float *s, int fill, int hidden)
{
    check_fill(c, s, TOKENS, fill);
    for (size_t t = 0; t < TOKENS; t++) {
        if (fill == FILL_UNIFORM)
            s[t] *= 50.0f; /* down to where exp becomes 0 */
        if (hidden == 2 || (hidden == 1 && check_random(c) % 3 == 0))
            s[t] = -INFINITY;
    }
}

/* The online softmax over a few pages against one in double. */
static void check_oracle(struct check *c)
{
    enum {
        PAGES = 5
    };
    static float s[PAGES * TOKENS], p[PAGES * TOKENS];
    struct tkv_softmax_row row = {.m = -INFINITY, .l = 0.0f};
    for (int i = 0; i < PAGES; i++) {
        float *page = p + i * TOKENS;
        fill_logits(c, s + i * TOKENS, FILL_UNIFORM, i == 0 ? 2 : i % 2);
        memcpy(page, s + i * TOKENS, TOKENS * sizeof *page);
        c->now.softmax(page, &row, 1, &c->ahead);
        for (int j = 0; j < i * TOKENS; j++)
            p[j] *= row.fix;
    }
    double sum = 0, worst = 0;
    for (int i = 0; i < PAGES * TOKENS; i++)
        sum += exp((double)s[i] - (double)row.m);
    for (int i = 0; i < PAGES * TOKENS; i++) {
        const double want = exp((double)s[i] - (double)row.m);
        if (want > 1e-36) /* below, fixes of fixes may have gone to 0 */
            worst = fmax(worst, fabs((double)p[i] / want - 1.0));
    }
    check_true(c, "softmax", "weights in double", worst < 1e-5);
    check_true(c, "softmax", "sum in double", fabs((double)row.l / sum - 1.0) < 1e-6);
    struct tkv_softmax_row one = {.m = -INFINITY};
    float flat[TOKENS] = {0};
    c->now.softmax(flat, &one, 1, &c->ahead);
    check_true(c, "softmax", "exp(0) is 1", flat[0] == 1.0f && one.l == 64.0f && one.fix == 0.0f);
}

#define MAX_ROWS 7

static void check_softmax_step(struct check *c, int fill, int hidden, float m)
{
    const uint32_t n_rows = check_random(c) % (MAX_ROWS + 1);
    const size_t n = (size_t)n_rows * TOKENS;
    float *s = check_alloc(n, 4), want[MAX_ROWS * TOKENS];
    struct tkv_softmax_row rows[MAX_ROWS], rows_ref[MAX_ROWS];
    char what[64];
    for (uint32_t r = 0; r < n_rows; r++) {
        fill_logits(c, s + r * TOKENS, fill, r == 0 ? hidden : (int)(check_random(c) % 3));
        rows[r] = (struct tkv_softmax_row){m, m == -INFINITY ? 0.0f : 3.0f, -1.0f};
    }
    snprintf(what, sizeof what, "%s hidden=%d m=%g", check_fill_name(fill), hidden, (double)m);
    memcpy(want, s, n * 4);
    memcpy(rows_ref, rows, sizeof rows);
    c->ref.softmax(want, rows_ref, n_rows, &c->ahead);
    c->now.softmax(s, rows, n_rows, &c->ahead);
    check_f32(c, "softmax", what, s, want, n);
    check_f32(c, "softmax", what, &rows[0].m, &rows_ref[0].m, (size_t)n_rows * 3);
    check_free(s, n, 4);
}

static void check_scale_scores(struct check *c, uint32_t n_rows, int fill)
{
    const size_t n = (size_t)n_rows * TOKENS;
    int32_t *si = check_alloc(n, 4);
    float *s = check_alloc(n, 4), *want = malloc(n * 4 + 1);
    float *qscale = check_alloc(n_rows, 4), *bias = check_alloc(n_rows, 4),
          *kscale = check_alloc(TOKENS, 4);
    for (size_t i = 0; i < n; i++)
        si[i] = (int32_t)(check_random(c) % 16516097u) - 8258048; /* 127 * 127 * 512 both ways */
    check_fill(c, qscale, n_rows, fill);
    check_fill(c, bias, n_rows, fill);
    check_fill(c, kscale, TOKENS, fill);
    c->ref.scale_scores(si, qscale, kscale, bias, n_rows, want);
    c->now.scale_scores(si, qscale, kscale, bias, n_rows, s);
    check_f32(c, "scale_scores", check_fill_name(fill), s, want, n);
    check_free(si, n, 4), check_free(s, n, 4), check_free(kscale, TOKENS, 4);
    check_free(qscale, n_rows, 4), check_free(bias, n_rows, 4);
    free(want);
}

static void check_weights(struct check *c, int fill)
{
    const uint32_t n_rows = check_random(c) % (MAX_ROWS + 1);
    const size_t n = (size_t)n_rows * TOKENS;
    float *p = check_alloc(n, 4), *vscale = check_alloc(TOKENS, 4);
    uint8_t *w = check_alloc(n, 1), want[MAX_ROWS * TOKENS];
    float *scale = check_alloc(n_rows, 4), scale_ref[MAX_ROWS];
    check_fill(c, p, n, fill);
    check_fill(c, vscale, TOKENS, fill == FILL_NAN ? FILL_UNIFORM : fill);
    for (size_t i = 0; i < n; i++)
        p[i] = fabsf(p[i]);
    for (size_t t = 0; t < TOKENS; t++)
        vscale[t] = fabsf(vscale[t]);
    c->ref.quantize_weights(p, vscale, n_rows, want, scale_ref, &c->ahead);
    c->now.quantize_weights(p, vscale, n_rows, w, scale, &c->ahead);
    check_bytes(c, "quantize_weights", check_fill_name(fill), w, want, n);
    check_f32(c, "quantize_weights", check_fill_name(fill), scale, scale_ref, n_rows);
    if (fill != FILL_BIG && fill != FILL_NAN) /* big overflows: the scale is infinite */
        for (size_t i = 0; i < n; i++) {
            const float x = p[i] * vscale[i % TOKENS], step = scale[i / TOKENS];
            check_true(c, "quantize_weights", "within half a step",
                       fabsf(x - step * (float)w[i]) <= 0.501f * step + 0x1p-100f);
        }
    check_free(p, n, 4), check_free(vscale, TOKENS, 4), check_free(w, n, 1);
    check_free(scale, n_rows, 4);
}

static void check_row(struct check *c, uint32_t D, int fill)
{
    float *x = check_alloc(D, 4);
    int8_t *codes = check_alloc(D, 1), want[TKV_MAX_HEAD_DIM];
    int32_t sum = -1, sum_ref = -1, total = 0;
    check_fill(c, x, D, fill);
    const float scale_ref = c->ref.quantize_row_i8(x, D, want, &sum_ref);
    const float scale = c->now.quantize_row_i8(x, D, codes, &sum);
    check_bytes(c, "quantize_row_i8", check_fill_name(fill), codes, want, D);
    check_bytes(c, "quantize_row_i8", "sum", &sum, &sum_ref, sizeof sum);
    check_f32(c, "quantize_row_i8", "scale", &scale, &scale_ref, 1);
    for (uint32_t d = 0; d < D; d++) {
        total += codes[d];
        if (fill != FILL_NAN)
            check_true(c, "quantize_row_i8", "within half a step",
                       fabsf(x[d] - scale * (float)codes[d]) <= 0.501f * scale + 0x1p-100f);
    }
    check_true(c, "quantize_row_i8", "sum of codes", total == sum);
    check_true(c, "quantize_row_i8", "a NaN shows in the scale",
               (fill == FILL_NAN) == (isnan(scale) != 0));
    check_free(x, D, 4), check_free(codes, D, 1);
}

#define BENCH_ROWS 16 /* independent, as the heads of a group are */

struct row_args {
    float s[BENCH_ROWS][TOKENS], scale[TOKENS], x[128], out[4 * TOKENS], wscale[BENCH_ROWS];
    int32_t si[4 * TOKENS];
    uint8_t w[BENCH_ROWS][TOKENS];
    struct tkv_softmax_row rows[BENCH_ROWS];
    struct tkv_ahead ahead;
    int8_t codes[128];
    const struct tkv_kernels *k;
};

static void softmax(void *arg)
{
    struct row_args *a = arg;
    for (int i = 0; i < BENCH_ROWS; i++)
        a->rows[i] = (struct tkv_softmax_row){.m = 1.0f, .l = 1.0f};
    a->k->softmax(a->s[0], a->rows, BENCH_ROWS, &a->ahead);
}

static void weights(void *arg)
{
    struct row_args *a = arg;
    a->k->quantize_weights(a->s[0], a->scale, BENCH_ROWS, a->w[0], a->wscale, &a->ahead);
}

static void scale_scores(void *arg)
{
    struct row_args *a = arg;
    a->k->scale_scores(a->si, a->scale, a->scale, a->scale, 4, a->out);
}

static void quantize_row(void *arg)
{
    struct row_args *a = arg;
    int32_t sum;
    a->k->quantize_row_i8(a->x, 128, a->codes, &sum);
}

static void bench(struct check *c)
{
    struct row_args *a = aligned_alloc(64, (sizeof *a + 63) / 64 * 64);
    memset(a, 0, sizeof *a);
    a->k = &c->now;
    a->ahead = c->ahead;
    check_fill(c, a->s[0], BENCH_ROWS * TOKENS, FILL_UNIFORM);
    check_fill(c, a->scale, TOKENS, FILL_UNIFORM);
    check_fill(c, a->x, 128, FILL_UNIFORM);
    for (size_t t = 0; t < TOKENS; t++)
        a->scale[t] = fabsf(a->scale[t]);
    check_bench(c, "softmax", "16 rows", softmax, a);
    check_bench(c, "quantize_weights", "16 rows", weights, a);
    check_bench(c, "scale_scores", "4 rows", scale_scores, a);
    check_bench(c, "quantize_row_i8", "D=128", quantize_row, a);
    free(a);
}

void check_softmax(struct check *c)
{
    if (!check_wanted(c, "softmax scale_scores quantize_weights quantize_row_i8"))
        return;
    if (c->is_ref)
        check_oracle(c);
    for (int fill = 0; fill < FILL_COUNT; fill++) {
        for (int hidden = 0; hidden < 3; hidden++) {
            check_softmax_step(c, fill, hidden, -INFINITY);
            check_softmax_step(c, fill, hidden, 0.25f);
            check_softmax_step(c, fill, hidden, -1e30f);
            check_softmax_step(c, fill, hidden, 200.0f);
        }
        for (uint32_t n_rows = 0; n_rows < 9; n_rows++)
            check_scale_scores(c, n_rows, fill);
        check_weights(c, fill);
        for (uint32_t D = 16; D <= TKV_MAX_HEAD_DIM; D += 16)
            check_row(c, D, fill);
    }
    if (c->bench)
        bench(c);
}
