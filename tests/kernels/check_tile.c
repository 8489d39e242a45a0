#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static const uint32_t dims[] = {16, 32, 48, 64, 80, 96, 112, 128, 192, 256, 512};
#define N_DIMS (sizeof dims / sizeof dims[0])

/* Arguments of all four kernels on one shape; every array ends at a guard page. */
struct tile_args {
    const struct tkv_kernels *k;
    struct tkv_ahead *ahead;
    uint32_t n_rows, D;
    uint8_t *k_tile, *w;
    int8_t *v_tile, *q;
    int32_t *si;
    float *wscale, *acc, *kt, *qf, *s, *v, *wf;
};

static void alloc_args(struct tile_args *a, uint32_t n_rows, uint32_t D)
{
    const size_t tile = (size_t)64 * D, rows = (size_t)n_rows * D, scores = (size_t)n_rows * 64;
    a->n_rows = n_rows;
    a->D = D;
    a->k_tile = check_alloc(tile, 1), a->v_tile = check_alloc(tile, 1);
    a->q = check_alloc(rows, 1), a->w = check_alloc(scores, 1);
    a->si = check_alloc(scores, 4), a->s = check_alloc(scores, 4), a->wf = check_alloc(scores, 4);
    a->wscale = check_alloc(n_rows, 4), a->acc = check_alloc(rows, 4), a->qf = check_alloc(rows, 4);
    a->kt = check_alloc(tile, 4), a->v = check_alloc(tile, 4);
}

static void free_args(struct tile_args *a)
{
    const size_t tile = (size_t)64 * a->D, rows = (size_t)a->n_rows * a->D,
                 scores = (size_t)a->n_rows * 64;
    check_free(a->k_tile, tile, 1), check_free(a->v_tile, tile, 1);
    check_free(a->q, rows, 1), check_free(a->w, scores, 1);
    check_free(a->si, scores, 4), check_free(a->s, scores, 4), check_free(a->wf, scores, 4);
    check_free(a->wscale, a->n_rows, 4), check_free(a->acc, rows, 4), check_free(a->qf, rows, 4);
    check_free(a->kt, tile, 4), check_free(a->v, tile, 4);
}

/* Codes in [-127, 127]; `extreme` takes the ends only, where a saturating kernel would fail. */
static int8_t random_code(struct check *c, bool extreme)
{
    return (int8_t)(extreme ? (check_random(c) & 7 ? 127 : -127)
                            : (int)(check_random(c) % 255) - 127);
}

static void fill_args(struct check *c, struct tile_args *a, int fill)
{
    const size_t tile = (size_t)64 * a->D, rows = (size_t)a->n_rows * a->D,
                 scores = (size_t)a->n_rows * 64;
    const bool extreme = fill == FILL_BIG;
    for (size_t i = 0; i < tile; i++) {
        a->k_tile[i] = (uint8_t)(random_code(c, extreme) + 128);
        a->v_tile[i] = random_code(c, extreme);
    }
    for (size_t i = 0; i < rows; i++)
        a->q[i] = random_code(c, extreme);
    for (size_t i = 0; i < scores; i++)
        a->w[i] = extreme ? 255 : (uint8_t)check_random(c);
    check_fill(c, a->wscale, a->n_rows, fill);
    check_fill(c, a->acc, rows, fill);
    check_fill(c, a->qf, rows, fill);
    check_fill(c, a->wf, scores, fill);
    check_fill(c, a->kt, tile, fill);
    check_fill(c, a->v, tile, fill);
}

static void score_i8(void *arg)
{
    struct tile_args *a = arg;
    a->k->score_i8(a->k_tile, a->q, a->n_rows, a->D, a->si, a->ahead);
}

static void wsum_i8(void *arg)
{
    struct tile_args *a = arg;
    a->k->wsum_i8(a->v_tile, a->w, a->wscale, a->n_rows, a->D, a->acc, a->ahead);
}

static void score_f32(void *arg)
{
    struct tile_args *a = arg;
    a->k->score_f32(a->kt, a->qf, a->D, a->n_rows, a->D, a->s, a->ahead);
}

static void wsum_f32(void *arg)
{
    struct tile_args *a = arg;
    a->k->wsum_f32(a->v, a->wf, a->n_rows, a->D, a->acc, a->ahead);
}

/* fn on the reference and on the level under test, from the same state; `out` is what it writes. */
static void check_one(struct check *c, const char *kernel, struct tile_args *a, void (*fn)(void *),
                      void *out, size_t n, int fill)
{
    char what[64];
    void *before = malloc(n * 4 + 1), *want = malloc(n * 4 + 1);
    snprintf(what, sizeof what, "D=%u rows=%u %s", a->D, a->n_rows, check_fill_name(fill));
    memcpy(before, out, n * 4);
    a->k = &c->ref;
    fn(a);
    memcpy(want, out, n * 4);
    memcpy(out, before, n * 4);
    a->k = &c->now;
    fn(a);
    if (out == (void *)a->si)
        check_bytes(c, kernel, what, out, want, n * 4);
    else
        check_f32(c, kernel, what, out, want, n);
    free(before), free(want);
}

static void check_shape(struct check *c, uint32_t n_rows, uint32_t D, int fill)
{
    struct tile_args a;
    alloc_args(&a, n_rows, D);
    a.ahead = &c->ahead;
    fill_args(c, &a, fill);
    const size_t rows = (size_t)n_rows * D, scores = (size_t)n_rows * 64;
    if (check_wanted(c, "tile score_i8"))
        check_one(c, "score_i8", &a, score_i8, a.si, scores, fill);
    if (check_wanted(c, "tile wsum_i8"))
        check_one(c, "wsum_i8", &a, wsum_i8, a.acc, rows, fill);
    if (check_wanted(c, "tile score_f32"))
        check_one(c, "score_f32", &a, score_f32, a.s, scores, fill);
    if (check_wanted(c, "tile wsum_f32"))
        check_one(c, "wsum_f32", &a, wsum_f32, a.acc, rows, fill);
    free_args(&a);
}

/* Strided queries: rows of score_f32 need not be packed. */
static void check_stride(struct check *c)
{
    enum {
        D = 48,
        ROWS = 5,
        STRIDE = 53
    };
    const size_t n_q = (ROWS - 1) * STRIDE + D;
    float *kt = check_alloc(D * 64, 4), *q = check_alloc(n_q, 4), *s = check_alloc(ROWS * 64, 4);
    float want[ROWS * 64];
    check_fill(c, kt, D * 64, FILL_UNIFORM);
    check_fill(c, q, n_q, FILL_UNIFORM);
    c->ref.score_f32(kt, q, STRIDE, ROWS, D, want, &c->ahead);
    c->now.score_f32(kt, q, STRIDE, ROWS, D, s, &c->ahead);
    check_f32(c, "score_f32", "strided queries", s, want, ROWS * 64);
    check_free(kt, D * 64, 4), check_free(q, n_q, 4), check_free(s, ROWS * 64, 4);
}

/* The layouts, from the other side: tiles built from plain [token][dim] codes. */
static void check_layout(struct check *c)
{
    enum {
        D = 32
    };
    static int8_t plain[64][D];
    struct tile_args a;
    alloc_args(&a, 1, D);
    a.ahead = &c->ahead;
    fill_args(c, &a, FILL_UNIFORM);
    for (size_t t = 0; t < 64; t++)
        for (size_t d = 0; d < D; d++) {
            plain[t][d] = random_code(c, false);
            a.k_tile[((t / 16 * (D / 4) + d / 4) * 16 + t % 16) * 4 + d % 4] =
                (uint8_t)(plain[t][d] + 128);
            a.v_tile[((t / 4 * (D / 16) + d / 16) * 16 + d % 16) * 4 + t % 4] = plain[t][d];
        }
    memset(a.acc, 0, D * sizeof *a.acc);
    a.wscale[0] = 0.5f;
    c->now.score_i8(a.k_tile, a.q, 1, D, a.si, a.ahead);
    c->now.wsum_i8(a.v_tile, a.w, a.wscale, 1, D, a.acc, a.ahead);
    int32_t scores[64] = {0};
    float sums[D] = {0};
    for (size_t t = 0; t < 64; t++)
        for (size_t d = 0; d < D; d++) {
            scores[t] += a.q[d] * plain[t][d];
            sums[d] += 0.5f * (float)(a.w[t] * plain[t][d]);
        }
    check_bytes(c, "score_i8", "plain codes", a.si, scores, sizeof scores);
    check_f32(c, "wsum_i8", "plain codes", a.acc, sums, D);
    free_args(&a);
}

static void bench(struct check *c)
{
    static const uint32_t rows[] = {1, 2, 4, 6, 8, 16, 128};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tile_args a;
        char unit[32];
        snprintf(unit, sizeof unit, "D=128 rows=%u", rows[i]);
        alloc_args(&a, rows[i], 128);
        a.ahead = &c->ahead;
        fill_args(c, &a, FILL_UNIFORM);
        memset(a.wscale, 0, rows[i] * sizeof *a.wscale); /* so that repeated sums stay finite */
        memset(a.wf, 0, (size_t)rows[i] * 64 * sizeof *a.wf);
        a.k = &c->now;
        if (check_wanted(c, "tile score_i8"))
            check_bench(c, "score_i8", unit, score_i8, &a);
        if (check_wanted(c, "tile wsum_i8"))
            check_bench(c, "wsum_i8", unit, wsum_i8, &a);
        if (check_wanted(c, "tile score_f32"))
            check_bench(c, "score_f32", unit, score_f32, &a);
        if (check_wanted(c, "tile wsum_f32"))
            check_bench(c, "wsum_f32", unit, wsum_f32, &a);
        free_args(&a);
    }
}

void check_tile(struct check *c)
{
    if (!check_wanted(c, "tile score_i8 wsum_i8 score_f32 wsum_f32"))
        return;
    for (size_t i = 0; i < N_DIMS; i++)
        for (uint32_t n_rows = 0; n_rows < (dims[i] <= 128 ? 20u : 5u); n_rows++)
            check_shape(c, n_rows, dims[i], (int)(n_rows % FILL_COUNT));
    for (int fill = 0; fill < FILL_COUNT; fill++)
        check_shape(c, 4, 128, fill);
    check_stride(c);
    check_layout(c);
    if (c->bench)
        bench(c);
}
