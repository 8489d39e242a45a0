/* Attention against a double-precision oracle on the rows that the cache itself reads back, for
 * every codec; and what must not matter: threads, batching, the order of writes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "tightkv/tightkv.h"

static uint64_t rng_state;

static double uniform(void)
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(rng_state >> 11) * 0x1p-53;
}

static float gauss(void)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += uniform();
    return (float)(sum - 6);
}

/* Runs the shares of three threads one after the other, last first. */
static void run_backwards(void *user, void (*fn)(void *arg, uint32_t ith, uint32_t nth), void *arg)
{
    (void)user;
    for (uint32_t i = 3; i-- > 0;)
        fn(arg, i, 3);
}

struct scene {
    tkv_context *ctx;
    tkv_cache *cache;
    uint32_t layer, n_heads, group, dk, dv, n_slots;
    size_t n_kv, n_q;
    float *q, *out;
    uint16_t *mask;
    tkv_attend_params p;
};

static void make_scene(struct scene *s, const char *spec_text, uint32_t dk, uint32_t dv,
                       uint32_t n_heads, uint32_t group, size_t n_kv, size_t n_q)
{
    tkv_error err;
    tkv_spec spec;
    rng_state = 42;
    *s = (struct scene){
        .n_heads = n_heads, .group = group, .dk = dk, .dv = dv, .n_kv = n_kv, .n_q = n_q};
    s->n_slots = (uint32_t)n_kv + 100;
    assert_int_equal(tkv_context_create(NULL, &s->ctx, &err), TKV_OK);
    assert_int_equal(tkv_spec_parse(spec_text, &spec, &err), TKV_OK);
    assert_int_equal(tkv_cache_create(s->ctx, &spec, &s->cache, &err), TKV_OK);
    const tkv_layer_params shape = {.struct_size = sizeof(shape),
                                    .n_kv_heads = n_heads,
                                    .k_head_dim = dk,
                                    .v_head_dim = dv,
                                    .n_slots = s->n_slots,
                                    .n_streams = 2};
    assert_int_equal(tkv_cache_add_layer(s->cache, &shape, &s->layer, &err), TKV_OK);
    s->q = malloc(n_q * n_heads * group * dk * sizeof(float));
    s->out = malloc(n_q * n_heads * group * dv * sizeof(float));
    s->mask = malloc(n_q * n_kv * sizeof(uint16_t));
    for (size_t i = 0; i < n_q * n_heads * group * dk; i++)
        s->q[i] = gauss();
    for (size_t i = 0; i < n_q; i++) /* causal, newest query last, with some holes */
        for (size_t t = 0; t < n_kv; t++) {
            const int hidden = t > n_kv - n_q + i || (t / 7) % 5 == 3;
            s->mask[i * n_kv + t] = hidden ? 0xfc00 : 0;
        }
    tkv_attend_params_default(&s->p);
    s->p.layer = s->layer;
    s->p.n_q = (uint32_t)n_q;
    s->p.n_q_heads = n_heads * group;
    s->p.mask_type = TKV_F16;
    s->p.q = s->q;
    s->p.q_head_stride = dk * sizeof(float);
    s->p.q_token_stride = n_heads * group * dk * sizeof(float);
    s->p.out = s->out;
    s->p.out_head_stride = dv * sizeof(float);
    s->p.out_token_stride = n_heads * group * dv * sizeof(float);
    s->p.n_kv = n_kv;
    s->p.mask = s->mask;
    s->p.mask_stride = n_kv * sizeof(uint16_t);
    s->p.scale = 1.0f / sqrtf((float)dk);
}

static void fill(struct scene *s)
{
    tkv_error err;
    float *k = malloc(s->n_heads * s->dk * sizeof(float)),
          *v = malloc(s->n_heads * s->dv * sizeof(float));
    for (size_t t = 0; t < s->n_kv; t++) {
        for (size_t c = 0; c < s->n_heads * s->dk; c++)
            k[c] = gauss() + (c % s->dk == 3 ? 20.0f : 0.0f); /* one channel with an offset */
        for (size_t c = 0; c < s->n_heads * s->dv; c++)
            v[c] = gauss();
        const int64_t slot = (int64_t)t;
        const int32_t pos = (int32_t)t;
        assert_int_equal(tkv_cache_write(s->cache, s->layer, 1, &slot, &pos, NULL,
                                         (tkv_rows){k, TKV_F32, 0}, (tkv_rows){v, TKV_F32, 0},
                                         &err),
                         TKV_OK);
        if (t % 100 == 99)
            assert_int_equal(tkv_cache_seal(s->cache, s->layer, &err), TKV_OK);
    }
    assert_int_equal(tkv_cache_seal(s->cache, s->layer, &err), TKV_OK);
    free(k);
    free(v);
}

static void drop_scene(struct scene *s)
{
    tkv_cache_destroy(s->cache);
    tkv_context_destroy(s->ctx);
    free(s->q);
    free(s->out);
    free(s->mask);
}

static float *read_all(struct scene *s, tkv_kind kind)
{
    const uint32_t D = kind == TKV_K ? s->dk : s->dv;
    int64_t *slots = malloc(s->n_kv * sizeof *slots);
    float *rows = malloc(s->n_kv * s->n_heads * D * sizeof(float));
    for (size_t t = 0; t < s->n_kv; t++)
        slots[t] = (int64_t)t;
    assert_int_equal(tkv_cache_read(s->cache, s->layer, kind, s->n_kv, slots, rows, TKV_F32,
                                    s->n_heads * D * sizeof(float), NULL),
                     TKV_OK);
    free(slots);
    return rows;
}

/* One output row in double. */
static void oracle(const struct scene *s, const float *k, const float *v, size_t i, uint32_t h,
                   double *out)
{
    const tkv_attend_params *p = &s->p;
    const uint32_t kv_head = h / s->group;
    const float *q = s->q + (i * s->n_heads * s->group + h) * s->dk;
    double *logit = malloc(s->n_kv * sizeof *logit), most = p->sinks ? p->sinks[h] : -INFINITY,
           total = 0;
    for (size_t t = 0; t < s->n_kv; t++) {
        double dot = 0;
        for (uint32_t c = 0; c < s->dk; c++)
            dot += (double)q[c] * k[(t * s->n_heads + kv_head) * s->dk + c];
        dot *= p->scale;
        if (p->softcap != 0)
            dot = p->softcap * tanh(dot / p->softcap);
        const double add = tkv_half_to_f32(s->mask[i * s->n_kv + t]);
        logit[t] = dot + (p->slopes ? p->slopes[h] : 1) * add;
        most = logit[t] > most ? logit[t] : most;
    }
    memset(out, 0, s->dv * sizeof *out);
    for (size_t t = 0; t < s->n_kv; t++) {
        const double weight = exp(logit[t] - most);
        total += weight;
        for (uint32_t c = 0; c < s->dv; c++)
            out[c] += weight * v[(t * s->n_heads + kv_head) * s->dv + c];
    }
    if (p->sinks)
        total += exp(p->sinks[h] - most);
    for (uint32_t c = 0; c < s->dv; c++)
        out[c] /= total;
    free(logit);
}

/* Relative squared error of all outputs against the oracle. */
static double error_of(struct scene *s)
{
    float *k = read_all(s, TKV_K), *v = read_all(s, TKV_V);
    double *want = malloc(s->dv * sizeof *want), error = 0, norm = 0;
    for (size_t i = 0; i < s->n_q; i++)
        for (uint32_t h = 0; h < s->n_heads * s->group; h++) {
            oracle(s, k, v, i, h, want);
            const float *got = s->out + (i * s->n_heads * s->group + h) * s->dv;
            for (uint32_t c = 0; c < s->dv; c++) {
                error += (got[c] - want[c]) * (got[c] - want[c]);
                norm += want[c] * want[c];
            }
        }
    free(k);
    free(v);
    free(want);
    return error / norm;
}

static void attend(struct scene *s)
{
    tkv_error err;
    memset(s->out, 0x55, s->n_q * s->n_heads * s->group * s->dv * sizeof(float));
    assert_int_equal(tkv_attend(s->cache, &s->p, &err), TKV_OK);
}

/* Every codec: the exact path is exact on the coded rows; the fast path adds 8-bit queries and
 * weights. */
static void every_codec(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < tkv_codec_count(); i++) {
        tkv_codec_info info = {.struct_size = sizeof info};
        char spec[64];
        assert_int_equal(tkv_codec_describe(i, &info), TKV_OK);
        if (info.needs_book && strncmp(info.name, "tight", 5) != 0)
            continue; /* tight does without */
        const tkv_codec codec = {.id = info.id};
        const char *v = info.needs_book || tkv_page_bytes(codec, TKV_V, 96)
                            ? info.name
                            : "turbo4"; /* some code keys only */
        snprintf(spec, sizeof spec, "k=%s,v=%s,sink=10,tail=70", info.name, v);
        struct scene s;
        make_scene(&s, spec, 64, 96, 2, 3, 500, 3);
        fill(&s);
        attend(&s);
        const double fast = error_of(&s);
        s.p.flags = TKV_ATTEND_EXACT;
        attend(&s);
        const double exact = error_of(&s);
        print_message("%-14s fast %.2e exact %.2e\n", info.name, fast, exact);
        assert_true(exact < 1e-9);
        assert_true(fast < (info.fused ? 1e-3 : 1e-9));
        drop_scene(&s);
    }
}

static void shapes(void **state)
{
    (void)state;
    static const uint32_t dims[][2] = {{64, 64},   {80, 80},   {96, 128},  {112, 112},
                                       {128, 128}, {192, 128}, {256, 256}, {512, 512}};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (uint32_t group = 1; group <= 16; group *= 2) {
            struct scene s;
            make_scene(&s, "k=turbo4,v=turbo4,sink=4,tail=64", dims[i][0], dims[i][1], 1, group,
                       300, 2);
            fill(&s);
            attend(&s);
            assert_true(error_of(&s) < 3e-4);
            drop_scene(&s);
        }
}

static void softcap_slopes_sinks(void **state)
{
    (void)state;
    struct scene s;
    make_scene(&s, "kv=f16", 64, 64, 2, 2, 400, 4);
    fill(&s);
    const float sinks[4] = {0.5f, 3, -2, 30}, slopes[4] = {0.5f, 0.25f, 0.125f, 0.0625f};
    for (size_t i = 0; i < s.n_q; i++) /* ALiBi masks hold distances */
        for (size_t t = 0; t < s.n_kv; t++)
            if (s.mask[i * s.n_kv + t] == 0)
                s.mask[i * s.n_kv + t] = tkv_f32_to_half((float)t - (float)(s.n_kv - s.n_q + i));
    s.p.slopes = slopes;
    attend(&s);
    assert_true(error_of(&s) < 1e-9);
    s.p.sinks = sinks;
    attend(&s);
    assert_true(error_of(&s) < 1e-9);
    s.p.softcap = 5;
    attend(&s);
    assert_true(error_of(&s) < 1e-9);
    drop_scene(&s);
}

static void threads_and_batches_change_nothing(void **state)
{
    (void)state;
    struct scene s;
    make_scene(&s, "k=turbo4,v=turbo4,sink=4,tail=64", 64, 64, 2, 4, 5000, 40);
    fill(&s);
    const size_t bytes = s.n_q * s.n_heads * s.group * s.dv * sizeof(float);
    float *first = malloc(bytes);
    attend(&s);
    memcpy(first, s.out, bytes);
    const tkv_executor three = {NULL, 3, run_backwards};
    assert_int_equal(tkv_context_set_executor(s.ctx, &three), TKV_OK);
    attend(&s);
    assert_memory_equal(first, s.out, bytes);
    const tkv_attend_params whole = s.p;
    for (size_t i = 0; i < s.n_q; i++) { /* one query at a time */
        s.p.n_q = 1;
        s.p.q = (const float *)(const void *)((const char *)whole.q + i * whole.q_token_stride);
        s.p.out = (float *)(void *)((char *)whole.out + i * whole.out_token_stride);
        s.p.mask = s.mask + i * s.n_kv;
        assert_int_equal(tkv_attend(s.cache, &s.p, NULL), TKV_OK);
    }
    assert_memory_equal(first, whole.out, bytes);
    free(first);
    drop_scene(&s);
}

/* With everything coded, strict reads every row coded, its own page included. */
static void strict_reads_codes(void **state)
{
    (void)state;
    struct scene s;
    double exact, read;
    make_scene(&s, "kv=turbo2,sink=0,tail=0,strict=1", 64, 64, 1, 2, 230, 3);
    fill(&s);
    int32_t pos[3] = {227, 228, 229};
    s.p.q_pos = pos;
    attend(&s);
    const double strict = error_of(&s); /* against rows of which the last 38 are exact */
    assert_int_equal(tkv_attend_fractions(s.cache, &s.p, &exact, &read, NULL), TKV_OK);
    assert_true(exact == 0 && read == 1);
    s.p.q_pos = NULL;
    attend(&s);
    assert_true(error_of(&s) < 3e-4 && strict > 3e-4);
    drop_scene(&s);
    make_scene(&s, "kv=turbo2,sink=8,tail=32,strict=1", 64, 64, 1, 2, 230, 3);
    fill(&s);
    s.p.q_pos = pos;
    assert_int_equal(tkv_attend_fractions(s.cache, &s.p, &exact, &read, NULL), TKV_OK);
    size_t want = 0, live = 0;
    for (size_t t = 0; t < s.n_kv; t++) {
        const int seen = s.mask[2 * s.n_kv + t] == 0;
        live += (size_t)seen;
        want += (size_t)(seen && (t < 8 || t + 32 > 229));
    }
    s.p.n_q = 1; /* the last query alone */
    s.p.mask = s.mask + 2 * s.n_kv;
    s.p.q_pos = pos + 2;
    assert_int_equal(tkv_attend_fractions(s.cache, &s.p, &exact, &read, NULL), TKV_OK);
    assert_true(fabs(exact - (double)want / (double)live) < 1e-12);
    drop_scene(&s);
}

/* Classes whose codecs ask for the same form of the query, one of them in 8 bits and one not, or in one plane
 * and in two. */
static void classes_share_a_domain(void **state)
{
    (void)state;
    static const char *const specs[] = {
        "kv=f16,visual.k=turbo4,visual.v=turbo4,rot=none,sink=0,tail=0",
        "kv=turbo4,visual.k=q8,visual.v=q8,sink=0,tail=0",
    };
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        struct scene s;
        tkv_error err;
        make_scene(&s, specs[i], 64, 64, 1, 2, 256, 2);
        fill(&s);
        float rows[128 * 64];
        int64_t slots[128];
        uint8_t visual[128];
        for (size_t t = 0; t < 128; t++) {
            slots[t] = (int64_t)t;
            visual[t] = TKV_SPAN_VISUAL;
        }
        for (size_t c = 0; c < 128 * 64; c++)
            rows[c] = gauss();
        const tkv_rows both = {rows, TKV_F32, 64 * sizeof(float)};
        assert_int_equal(
            tkv_cache_write(s.cache, s.layer, 128, slots, NULL, visual, both, both, &err), TKV_OK);
        assert_int_equal(tkv_cache_seal(s.cache, s.layer, &err), TKV_OK);
        attend(&s);
        assert_true(error_of(&s) < 1e-3);
        drop_scene(&s);
    }
}

/* Pages that hold rows of both classes, with holes, sealed and as strict reads them. */
static void pages_of_both_classes(void **state)
{
    (void)state;
    static const char *const specs[] = {
        "kv=f16,visual.k=turbo2,visual.v=kivi2,sink=0,tail=0",
        "kv=turbo4,visual.k=turbo3c,visual.v=q8,sink=0,tail=0",
        "k=kivi4,v=polar,visual.k=polar,visual.v=turbo2,sink=0,tail=0",
    };
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        struct scene s;
        tkv_error err;
        make_scene(&s, specs[i], 64, 64, 2, 2, 256, 2);
        fill(&s);
        float rows[256 * 128];
        int64_t slots[256];
        uint8_t klass[256];
        for (size_t t = 0; t < 256; t++) {
            slots[t] = (int64_t)t;
            klass[t] = t % 100 > 40 && t < 250 ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
        }
        for (size_t c = 0; c < 256 * 128; c++)
            rows[c] = gauss();
        const tkv_rows both = {rows, TKV_F32, 128 * sizeof(float)};
        assert_int_equal(
            tkv_cache_write(s.cache, s.layer, 256, slots, NULL, klass, both, both, &err), TKV_OK);
        assert_int_equal(tkv_cache_seal(s.cache, s.layer, &err), TKV_OK);
        tkv_cache_stats stats = {.struct_size = sizeof stats};
        assert_int_equal(tkv_cache_get_stats(s.cache, &stats), TKV_OK);
        assert_int_equal(stats.n_pages_sealed, 4 + 3); /* three spans of one page */
        attend(&s);
        assert_true(error_of(&s) < 1e-3);
        s.p.flags = TKV_ATTEND_EXACT;
        attend(&s);
        assert_true(error_of(&s) < 1e-9);
        drop_scene(&s);
    }
}

/* What strict reads of an open page of both classes is what the sealed page gives. */
static void strict_reads_both_classes(void **state)
{
    (void)state;
    static const char *const specs[] = {
        "kv=f16,visual.k=turbo2,visual.v=turbo2,sink=0,tail=0",
        "kv=f16,visual.k=turbo2,visual.v=turbo2,sink=0,tail=0,strict=1",
    };
    float first[2 * 2 * 64];
    for (int strict = 0; strict < 2; strict++) {
        struct scene s;
        tkv_error err;
        float rows[64 * 64];
        int64_t slots[64];
        int32_t pos[64];
        uint8_t klass[64];
        make_scene(&s, specs[strict], 64, 64, 1, 2, 64, 2);
        for (size_t t = 0; t < 64; t++) {
            slots[t] = (int64_t)t;
            pos[t] = (int32_t)t;
            klass[t] = t >= 1 && t < 50 ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
        }
        for (size_t c = 0; c < 64 * 64; c++)
            rows[c] = gauss();
        const tkv_rows both = {rows, TKV_F32, 64 * sizeof(float)};
        assert_int_equal(tkv_cache_write(s.cache, s.layer, 64, slots, pos, klass, both, both, &err),
                         TKV_OK);
        if (!strict)
            assert_int_equal(tkv_cache_seal(s.cache, s.layer, &err), TKV_OK);
        s.p.q_pos = pos + 62;
        attend(&s);
        if (strict)
            assert_memory_equal(first, s.out, sizeof first);
        memcpy(first, s.out, sizeof first);
        drop_scene(&s);
    }
}

static void nothing_to_see(void **state)
{
    (void)state;
    struct scene s;
    make_scene(&s, "kv=turbo4", 64, 64, 1, 1, 200, 2);
    fill(&s);
    for (size_t t = 0; t < s.n_kv; t++)
        s.mask[t] = 0xfc00;
    attend(&s);
    for (uint32_t c = 0; c < s.dv; c++) {
        assert_true(s.out[c] == 0);
        assert_true(s.out[s.dv + c] != 0);
    }
    drop_scene(&s);
}

static void bad_arguments(void **state)
{
    (void)state;
    struct scene s;
    tkv_error err;
    make_scene(&s, "kv=turbo4", 64, 64, 2, 1, 200, 1);
    fill(&s);
    tkv_attend_params p = s.p;
    p.n_q_heads = 3;
    assert_int_equal(tkv_attend(s.cache, &p, &err), TKV_ERR_INVALID);
    p = s.p;
    p.n_kv = 10000;
    assert_int_equal(tkv_attend(s.cache, &p, &err), TKV_ERR_RANGE);
    p = s.p;
    p.first_slot = 3;
    assert_int_equal(tkv_attend(s.cache, &p, &err), TKV_ERR_INVALID);
    p = s.p;
    p.layer = 1;
    assert_int_equal(tkv_attend(s.cache, &p, &err), TKV_ERR_INVALID);
    drop_scene(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_codec),
        cmocka_unit_test(shapes),
        cmocka_unit_test(softcap_slopes_sinks),
        cmocka_unit_test(threads_and_batches_change_nothing),
        cmocka_unit_test(strict_reads_codes),
        cmocka_unit_test(classes_share_a_domain),
        cmocka_unit_test(pages_of_both_classes),
        cmocka_unit_test(strict_reads_both_classes),
        cmocka_unit_test(nothing_to_see),
        cmocka_unit_test(bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
