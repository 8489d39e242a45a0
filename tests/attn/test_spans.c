/* Attention over visual spans against a double-precision oracle on the decoded rows, with the
 * calibration of each span's logits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "tightkv/tightkv.h"

enum {
    D = 64,
    N_HEADS = 2,
    GROUP = 3,
    N_Q = 3,
    N_KV = 700,
    ROW = N_HEADS * D,
    Q_ROW = ROW * GROUP
};

/* Spans that begin and end within pages, one within a page, one of a row, one over many pages. */
static const int64_t spans[][2] = {{3, 61}, {62, 63}, {90, 150}, {200, 600}};
#define N_SPANS (sizeof spans / sizeof spans[0])

static int span_of(int64_t slot)
{
    for (size_t i = 0; i < N_SPANS; i++)
        if (slot >= spans[i][0] && slot < spans[i][1])
            return (int)i;
    return -1;
}

struct scene {
    tkv_context *ctx;
    tkv_cache *cache;
    uint32_t layer;
    float q[N_Q * Q_ROW], out[N_Q * Q_ROW];
    float k[N_KV * ROW], v[N_KV * ROW]; /* as they decode */
    uint16_t mask[N_Q * N_KV];
    float narrows;
    tkv_attend_params p;
};

static uint64_t rng_state;

static float gauss(void)
{
    double sum = 0;
    for (int i = 0; i < 12; i++) {
        rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(rng_state >> 11) * 0x1p-53;
    }
    return (float)(sum - 6);
}

static void make_params(struct scene *s)
{
    tkv_attend_params_default(&s->p);
    s->p.layer = s->layer;
    s->p.n_q = N_Q;
    s->p.n_q_heads = N_HEADS * GROUP;
    s->p.q = s->q;
    s->p.out = s->out;
    s->p.q_head_stride = s->p.out_head_stride = D * sizeof(float);
    s->p.q_token_stride = s->p.out_token_stride = Q_ROW * sizeof(float);
    s->p.n_kv = N_KV;
    s->p.mask = s->mask;
    s->p.mask_type = TKV_F16;
    s->p.mask_stride = N_KV * sizeof(uint16_t);
    s->p.scale = 1.0f / 8;
}

static void write_rows(struct scene *s)
{
    uint8_t klass[N_KV];
    int64_t slots[N_KV];
    int32_t pos[N_KV];
    for (int64_t t = 0; t < N_KV; t++) {
        klass[t] = span_of(t) >= 0 ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
        slots[t] = t;
        pos[t] = (int32_t)t;
    }
    for (size_t i = 0; i < N_KV * ROW; i++) {
        s->k[i] = gauss() + (i % D == 3 ? 5.0f : 0.0f);
        s->v[i] = gauss() + (i % D == 7 ? 5.0f : 0.0f);
    }
    assert_int_equal(tkv_cache_write(s->cache, s->layer, N_KV, slots, pos, klass,
                                     (tkv_rows){s->k, TKV_F32, ROW * sizeof(float)},
                                     (tkv_rows){s->v, TKV_F32, ROW * sizeof(float)}, NULL),
                     TKV_OK);
    assert_int_equal(tkv_cache_seal(s->cache, s->layer, NULL), TKV_OK);
    float *rows[2] = {s->k, s->v};
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        assert_int_equal(tkv_cache_read(s->cache, s->layer, (tkv_kind)kind, N_KV, slots, rows[kind],
                                        TKV_F32, ROW * sizeof(float), NULL),
                         TKV_OK);
}

static struct scene *make_scene(const char *spec_text, float narrows)
{
    struct scene *s = calloc(1, sizeof *s);
    tkv_spec spec;
    const tkv_layer_params shape = {.struct_size = sizeof(shape),
                                    .n_kv_heads = N_HEADS,
                                    .k_head_dim = D,
                                    .v_head_dim = D,
                                    .n_slots = N_KV,
                                    .n_streams = 1};
    rng_state = 1;
    s->narrows = narrows;
    assert_int_equal(tkv_context_create(NULL, &s->ctx, NULL), TKV_OK);
    assert_int_equal(tkv_spec_parse(spec_text, &spec, NULL), TKV_OK);
    assert_int_equal(tkv_cache_create(s->ctx, &spec, &s->cache, NULL), TKV_OK);
    assert_int_equal(tkv_cache_add_layer(s->cache, &shape, &s->layer, NULL), TKV_OK);
    for (size_t i = 0; i < N_Q * Q_ROW; i++)
        s->q[i] = 3 * gauss();
    for (size_t i = 0; i < N_Q * N_KV; i++) /* holes, and the last query sees no second span */
        s->mask[i] = i % 11 == 5 || (i / N_KV == 2 && span_of((int64_t)i % N_KV) == 2) ? 0xfc00 : 0;
    write_rows(s);
    make_params(s);
    return s;
}

static void drop_scene(struct scene *s)
{
    tkv_cache_destroy(s->cache);
    tkv_context_destroy(s->ctx);
    free(s);
}

/* Least and greatest live logit of a span onto a range that is smaller; narrow ones stay. */
static void calibrate(const struct scene *s, const uint16_t *mask, double *logit, int i_span)
{
    double low = INFINITY, high = -INFINITY;
    for (int64_t t = spans[i_span][0]; t < spans[i_span][1]; t++)
        if (mask[t] == 0) {
            low = fmin(low, logit[t]);
            high = fmax(high, logit[t]);
        }
    for (int64_t t = spans[i_span][0]; t < spans[i_span][1] && high - low > s->narrows; t++)
        logit[t] = (logit[t] - low) / (high - low) * (high - s->narrows - low) + low;
}

static void oracle(const struct scene *s, size_t i, size_t head, double *out)
{
    const size_t kv = head / GROUP;
    const uint16_t *mask = s->mask + i * N_KV;
    double logit[N_KV], most = -INFINITY, total = 0;
    for (size_t t = 0; t < N_KV; t++) {
        logit[t] = 0;
        for (size_t c = 0; c < D; c++)
            logit[t] += (double)s->q[i * Q_ROW + head * D + c] * s->k[t * ROW + kv * D + c];
        logit[t] *= s->p.scale;
    }
    for (int j = 0; j < (int)N_SPANS && s->narrows > 0; j++)
        calibrate(s, mask, logit, j);
    for (size_t t = 0; t < N_KV; t++)
        most = mask[t] == 0 ? fmax(most, logit[t]) : most;
    memset(out, 0, D * sizeof *out);
    for (size_t t = 0; t < N_KV; t++) {
        const double w = mask[t] == 0 ? exp(logit[t] - most) : 0;
        total += w;
        for (size_t c = 0; c < D; c++)
            out[c] += w * s->v[t * ROW + kv * D + c];
    }
    for (size_t c = 0; c < D; c++)
        out[c] /= total;
}

static double error_of(struct scene *s, uint32_t flags)
{
    double want[D], error = 0, norm = 0;
    s->p.flags = flags;
    memset(s->out, 0x55, sizeof s->out);
    assert_int_equal(tkv_attend(s->cache, &s->p, NULL), TKV_OK);
    for (size_t i = 0; i < N_Q; i++)
        for (size_t head = 0; head < N_HEADS * GROUP; head++) {
            oracle(s, i, head, want);
            for (size_t c = 0; c < D; c++) {
                const double e = s->out[i * Q_ROW + head * D + c] - want[c];
                error += e * e;
                norm += want[c] * want[c];
            }
        }
    return error / norm;
}

static const struct {
    const char *spec;
    float narrows;
} cases[] = {
    {"f16,visual.k=visual1,visual.v=visual1", 3},
    {"f16,visual.k=visual1,visual.v=visual1,visual.range=quantiles", 3},
    {"turbo4,visual.k=visual2,visual.v=visual4,sink=0,tail=0", 3},
    {"turbo4,visual.k=visual4,visual.v=visual1,sink=0,tail=0", 0},
    {"f16,visual.k=visual1,visual.v=turbo4,strict=1", 3},
    {"f16,visual.k=turbo4,visual.v=visual1", 0},
    {"f16,visual.k=tight2,visual.v=tight1", 0},
};

static void post_scaled_as_decoded(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct scene *s = make_scene(cases[i].spec, cases[i].narrows);
        const double fast = error_of(s, 0), exact = error_of(s, TKV_ATTEND_EXACT);
        print_message("%-66s fast %.1e exact %.1e\n", cases[i].spec, fast, exact);
        assert_true(exact < 1e-9);
        assert_true(fast < 1e-3);
        drop_scene(s);
    }
}

/* Logits that lie closer together than the calibration takes away stay as they are. */
static void narrow_ranges_stay(void **state)
{
    (void)state;
    struct scene *s = make_scene(cases[0].spec, 3);
    s->p.scale = 1.0f / 200;
    assert_true(error_of(s, TKV_ATTEND_EXACT) < 1e-9);
    s->narrows = 0;
    assert_true(error_of(s, TKV_ATTEND_EXACT) < 1e-9);
    drop_scene(s);
}

static void run_backwards(void *user, void (*fn)(void *arg, uint32_t ith, uint32_t nth), void *arg)
{
    (void)user;
    for (uint32_t i = 3; i-- > 0;)
        fn(arg, i, 3);
}

static void threads_and_batches_change_nothing(void **state)
{
    (void)state;
    struct scene *s = make_scene(cases[0].spec, 3);
    float first[N_Q * Q_ROW];
    assert_int_equal(tkv_attend(s->cache, &s->p, NULL), TKV_OK);
    memcpy(first, s->out, sizeof first);
    const tkv_executor three = {NULL, 3, run_backwards};
    assert_int_equal(tkv_context_set_executor(s->ctx, &three), TKV_OK);
    assert_int_equal(tkv_attend(s->cache, &s->p, NULL), TKV_OK);
    assert_memory_equal(first, s->out, sizeof first);
    memset(s->out, 0, sizeof s->out);
    for (size_t i = 0; i < N_Q; i++) {
        s->p.n_q = 1;
        s->p.q = s->q + i * Q_ROW;
        s->p.out = s->out + i * Q_ROW;
        s->p.mask = s->mask + i * N_KV;
        assert_int_equal(tkv_attend(s->cache, &s->p, NULL), TKV_OK);
    }
    assert_memory_equal(first, s->out, sizeof first);
    drop_scene(s);
}

/* Fewer columns than rows, from a later page on: what the mask does not cover is not read. */
static void columns_cut_spans(void **state)
{
    (void)state;
    struct scene *s = make_scene("f16,visual.k=visual4,visual.v=visual4", 0);
    for (size_t i = 0; i < N_Q; i++)
        for (size_t t = 0; t < N_KV; t++)
            s->mask[i * N_KV + t] = t >= 256 && t < 530 ? 0 : 0xfc00;
    s->p.first_slot = 256;
    s->p.n_kv = 530 - 256;
    s->p.mask = s->mask + 256;
    assert_true(error_of(s, TKV_ATTEND_EXACT) < 1e-9);
    s->p.mask = NULL;
    assert_true(error_of(s, TKV_ATTEND_EXACT) < 1e-9);
    drop_scene(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(post_scaled_as_decoded),
        cmocka_unit_test(narrow_ranges_stay),
        cmocka_unit_test(threads_and_batches_change_nothing),
        cmocka_unit_test(columns_cut_spans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
