/* Attention on rows that an index picks, gathered from blocks in row order: against double precision
 * on the rows as read back, for codecs and shapes; and what must not matter. */
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
#include "cache/cache.h"
#include "support/made_book.h"
#include "tightkv/tightkv.h"

enum {
    HEADS = 2,
    N_CODES = 64,
    MOST_QUERIES = 5
};

struct scene {
    uint32_t dk, dv, group, rng;
    size_t n_kv, n_q;
    struct made_book *made;
    tkv_context *ctx;
    tkv_book *book;
    tkv_cache *cache;
    float *q, *out;
    uint16_t *mask;
    int32_t pos[MOST_QUERIES];
    uint64_t *bits; /* [n_q][HEADS][pages] that are read */
    tkv_attend_params p;
};

static float gauss(struct scene *s)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        s->rng = s->rng * 1664525u + 1013904223u;
        sum += (float)(int32_t)s->rng * 0x1p-31f;
    }
    return sum;
}

static size_t n_pages(const struct scene *s)
{
    return (s->n_kv + TKV_PAGE_TOKENS - 1) / TKV_PAGE_TOKENS;
}

static void make_cache(struct scene *s, const char *text)
{
    tkv_error err;
    tkv_spec spec;
    float freq[TKV_MAX_HEAD_DIM / 2];
    uint32_t layer;
    size_t n_bytes;
    for (uint32_t i = 0; i < s->dk / 2; i++)
        freq[i] = powf(10000.0f, -2.0f * (float)i / (float)s->dk);
    s->made = made_book_new();
    made_book_rope(s->made, true, s->dk / 2, freq, NULL);
    made_book_index(s->made, 0, HEADS, s->dk, N_CODES, 1);
    const uint8_t *bytes = made_book_bytes(s->made, &n_bytes);
    assert_int_equal(tkv_context_create(NULL, &s->ctx, &err), TKV_OK);
    assert_int_equal(tkv_book_open(s->ctx, bytes, n_bytes, &s->book, &err), TKV_OK);
    assert_int_equal(tkv_spec_parse(text, &spec, &err), TKV_OK);
    assert_int_equal(tkv_cache_create(s->ctx, &spec, &s->cache, &err), TKV_OK);
    assert_int_equal(tkv_cache_set_book(s->cache, s->book, &err), TKV_OK);
    const tkv_layer_params shape = {.struct_size = sizeof shape,
                                    .n_kv_heads = HEADS,
                                    .k_head_dim = s->dk,
                                    .v_head_dim = s->dv,
                                    .n_slots = (uint32_t)s->n_kv,
                                    .n_streams = 1};
    if (tkv_cache_add_layer(s->cache, &shape, &layer, &err) != TKV_OK)
        fail_msg("%s", err.text);
}

static void fill(struct scene *s)
{
    const size_t n_k = s->n_kv * HEADS * s->dk, n_v = s->n_kv * HEADS * s->dv;
    float *k = malloc(n_k * sizeof *k), *v = malloc(n_v * sizeof *v);
    int64_t *slots = malloc(s->n_kv * sizeof *slots);
    int32_t *pos = malloc(s->n_kv * sizeof *pos);
    tkv_error err;
    for (size_t i = 0; i < n_k; i++)
        k[i] = gauss(s);
    for (size_t i = 0; i < n_v; i++)
        v[i] = gauss(s);
    for (size_t i = 0; i < s->n_kv; i++)
        pos[i] = (int32_t)(slots[i] = (int64_t)i);
    assert_int_equal(tkv_cache_write(s->cache, 0, s->n_kv, slots, pos, NULL,
                                     (tkv_rows){k, TKV_F32, HEADS * s->dk * sizeof *k},
                                     (tkv_rows){v, TKV_F32, HEADS * s->dv * sizeof *v}, &err),
                     TKV_OK);
    assert_int_equal(tkv_cache_seal(s->cache, 0, &err), TKV_OK);
    free(k), free(v), free(slots), free(pos);
}

static void set_params(struct scene *s)
{
    const uint32_t heads = HEADS * s->group;
    tkv_attend_params_default(&s->p);
    s->p.n_q = (uint32_t)s->n_q;
    s->p.n_q_heads = heads;
    s->p.flags = TKV_ATTEND_SELECT;
    s->p.q = s->q;
    s->p.q_head_stride = s->dk * sizeof(float);
    s->p.q_token_stride = heads * s->dk * sizeof(float);
    s->p.out = s->out;
    s->p.out_head_stride = s->dv * sizeof(float);
    s->p.out_token_stride = heads * s->dv * sizeof(float);
    s->p.n_kv = s->n_kv;
    s->p.mask = s->mask;
    s->p.mask_type = TKV_F16;
    s->p.mask_stride = s->n_kv * sizeof(uint16_t);
    s->p.q_pos = s->pos;
    s->p.scale = 1 / sqrtf((float)s->dk);
}

static void open_scene(struct scene *s, const char *spec, uint32_t dk, uint32_t dv, uint32_t group,
                       size_t n_kv, size_t n_q)
{
    *s = (struct scene){.dk = dk, .dv = dv, .group = group, .rng = 11, .n_kv = n_kv, .n_q = n_q};
    make_cache(s, spec);
    fill(s);
    s->q = malloc(n_q * HEADS * group * dk * sizeof *s->q);
    s->out = malloc(n_q * HEADS * group * dv * sizeof *s->out);
    s->mask = malloc(n_q * n_kv * sizeof *s->mask);
    s->bits = malloc(n_q * HEADS * n_pages(s) * sizeof *s->bits);
    for (size_t i = 0; i < n_q * HEADS * group * dk; i++)
        s->q[i] = 2 * gauss(s);
    for (size_t i = 0; i < n_q; i++) {
        s->pos[i] = (int32_t)(n_kv - n_q + i);
        for (size_t t = 0; t < n_kv; t++)
            s->mask[i * n_kv + t] = t > n_kv - n_q + i || t / 7 % 9 == 3 ? 0xfc00 : 0;
    }
    set_params(s);
}

static void close_scene(struct scene *s)
{
    tkv_cache_destroy(s->cache);
    tkv_book_close(s->book);
    tkv_context_destroy(s->ctx);
    made_book_free(s->made);
    free(s->q), free(s->out), free(s->mask), free(s->bits);
}

static void attend(struct scene *s)
{
    tkv_error err;
    memset(s->out, 0x55, s->n_q * HEADS * s->group * s->dv * sizeof *s->out);
    assert_int_equal(tkv_attend(s->cache, &s->p, &err), TKV_OK);
    assert_int_equal(tkv_attend_select(s->cache, &s->p, s->bits, NULL, &err), TKV_OK);
}

static float *read_all(struct scene *s, tkv_kind kind)
{
    const size_t row = HEADS * (size_t)(kind == TKV_K ? s->dk : s->dv);
    int64_t *slots = malloc(s->n_kv * sizeof *slots);
    float *rows = malloc(s->n_kv * row * sizeof *rows);
    for (size_t t = 0; t < s->n_kv; t++)
        slots[t] = (int64_t)t;
    assert_int_equal(
        tkv_cache_read(s->cache, 0, kind, s->n_kv, slots, rows, TKV_F32, row * sizeof *rows, NULL),
        TKV_OK);
    free(slots);
    return rows;
}

/* Value c of a row that is turned by so many positions, as the scene's book says. */
static double turned(const float *x, uint32_t c, uint32_t D, double positions)
{
    const uint32_t pair = c % (D / 2);
    const double angle = (double)powf(10000.0f, -2.0f * (float)pair / (float)D) * positions;
    const double a = (double)x[pair], b = (double)x[pair + D / 2];
    return c < D / 2 ? a * cos(angle) - b * sin(angle) : a * sin(angle) + b * cos(angle);
}

/* Of a query and a key that stand `distance` apart; beyond the window as if it were 2048. */
static double windowed_dot(const float *q, const float *key, uint32_t D, int64_t distance)
{
    const double more = distance >= 64 ? 2048 - (double)distance : 0;
    double dot = 0;
    for (uint32_t c = 0; c < D; c++)
        dot += turned(q, c, D, more) * (double)key[c];
    return dot;
}

/* Query i, query head h in double, over the rows that are read. Returns how many. */
static size_t oracle(const struct scene *s, const float *k, const float *v, size_t i, uint32_t h,
                     double *out)
{
    const tkv_attend_params *p = &s->p;
    const size_t head = h / s->group;
    const uint64_t *bits = s->bits + (i * HEADS + head) * n_pages(s);
    const float *q = s->q + (i * HEADS * s->group + h) * s->dk;
    double total = p->sinks ? exp((double)p->sinks[h]) : 0; /* logits here are small */
    size_t n = 0;
    memset(out, 0, s->dv * sizeof *out);
    for (size_t t = 0; t < s->n_kv; t++) {
        double dot = 0;
        if (!(bits[t / 64] >> t % 64 & 1))
            continue;
        for (uint32_t c = 0; c < s->dk; c++)
            dot += (double)q[c] * k[(t * HEADS + head) * s->dk + c];
        if (s->cache->spec.window_rope)
            dot = windowed_dot(q, k + (t * HEADS + head) * s->dk, s->dk, s->pos[i] - (int64_t)t);
        dot *= p->scale;
        if (p->softcap != 0)
            dot = p->softcap * tanh(dot / p->softcap);
        dot += (p->slopes ? p->slopes[h] : 1) * tkv_half_to_f32(s->mask[i * s->n_kv + t]);
        const double weight = exp(dot);
        total += weight;
        n++;
        for (uint32_t c = 0; c < s->dv; c++)
            out[c] += weight * v[(t * HEADS + head) * s->dv + c];
    }
    for (uint32_t c = 0; c < s->dv; c++)
        out[c] /= total;
    return n;
}

/* Relative squared error of all outputs, and the share of rows that were read. */
static double error_of(struct scene *s, double *read)
{
    float *k = read_all(s, TKV_K), *v = read_all(s, TKV_V);
    double *want = malloc(s->dv * sizeof *want), error = 0, norm = 0;
    size_t n = 0;
    for (size_t i = 0; i < s->n_q; i++)
        for (uint32_t h = 0; h < HEADS * s->group; h++) {
            const float *got = s->out + (i * HEADS * s->group + h) * s->dv;
            n += oracle(s, k, v, i, h, want);
            for (uint32_t c = 0; c < s->dv; c++) {
                error += (got[c] - want[c]) * (got[c] - want[c]);
                norm += want[c] * want[c];
            }
        }
    free(k), free(v), free(want);
    *read = (double)n / (double)(s->n_q * HEADS * s->group * s->n_kv);
    return error / norm;
}

/* The kernels' 8-bit queries and weights are all the error there may be: as of whole pages. */
static void expect_near(struct scene *s, bool fused)
{
    double read;
    attend(s);
    const double fast = error_of(s, &read);
    assert_true(read > 0.02 && read < 0.6);
    s->p.flags |= TKV_ATTEND_EXACT;
    attend(s);
    const double exact = error_of(s, &read);
    s->p.flags &= ~(uint32_t)TKV_ATTEND_EXACT;
    if (!(exact < 1e-9 && fast < (fused ? 1e-3 : 1e-9)))
        fail_msg("dk=%u dv=%u group=%u: fast %.2e, exact %.2e", s->dk, s->dv, s->group, fast,
                 exact);
}

static void codecs_and_shapes(void **state)
{
    static const char *const codecs[] = {"k=turbo4,v=turbo4", "k=turbo3,v=turbo2",
                                         "k=turbo2,v=turbo3", "k=q8,v=turbo4",
                                         "k=f16,v=q8",        "k=f16,v=f16"};
    static const uint32_t dims[][2] = {{64, 64},   {80, 112},  {96, 64},
                                       {128, 128}, {192, 128}, {256, 256}};
    (void)state;
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < 6; j++) {
            struct scene s;
            char spec[96];
            snprintf(spec, sizeof spec, "%s,sink=4,tail=70,index=qvq,rest=none,keep=%s", codecs[i],
                     (i + j) % 2 ? "0.1" : "100");
            open_scene(&s, spec, dims[j][0], dims[j][1], 1u << (i + j) % 5, 900, 1 + (i + j) % 3);
            assert_true(tkv_in_rows(&s.cache->layers[0]));
            expect_near(&s, i < 5);
            close_scene(&s);
        }
}

static void masks_softcap_sinks(void **state)
{
    static const float sinks[4] = {.5f, 1, -2, 3}, slopes[4] = {.5f, .25f, .125f, .0625f};
    struct scene s;
    (void)state;
    open_scene(&s, "k=turbo4,v=turbo4,sink=4,tail=70,index=qvq,rest=none,keep=.3", 64, 64, 2, 600,
               3);
    for (size_t i = 0; i < s.n_q; i++) /* ALiBi masks hold distances */
        for (size_t t = 0; t < s.n_kv; t++)
            if (s.mask[i * s.n_kv + t] == 0)
                s.mask[i * s.n_kv + t] =
                    tkv_f32_to_half(((float)t - (float)(s.n_kv - s.n_q + i)) / 64);
    s.p.slopes = slopes;
    expect_near(&s, true);
    s.p.sinks = sinks;
    expect_near(&s, true);
    s.p.softcap = 2;
    expect_near(&s, true);
    close_scene(&s);
}

/* Strict reads some rows of open pages coded, which read back exactly: against the exact path, that
 * knows of no gathering. */
static void strict(void **state)
{
    struct scene s;
    double error = 0, norm = 0;
    (void)state;
    open_scene(&s, "k=turbo4,v=turbo4,sink=4,tail=100,index=qvq,rest=none,keep=.2,strict=1", 64, 64,
               2, 700, 2);
    const size_t n = s.n_q * HEADS * s.group * s.dv;
    float *exact = malloc(n * sizeof *exact);
    s.p.flags |= TKV_ATTEND_EXACT;
    attend(&s);
    memcpy(exact, s.out, n * sizeof *exact);
    s.p.flags &= ~(uint32_t)TKV_ATTEND_EXACT;
    attend(&s);
    for (size_t i = 0; i < n; i++) {
        error += (double)(s.out[i] - exact[i]) * (s.out[i] - exact[i]);
        norm += (double)exact[i] * exact[i];
    }
    assert_true(error > 0 && error / norm < 1e-3);
    free(exact);
    close_scene(&s);
}

/* Runs the shares of three threads one after the other, last first. */
static void run_backwards(void *user, void (*fn)(void *arg, uint32_t ith, uint32_t nth), void *arg)
{
    (void)user;
    for (uint32_t i = 3; i-- > 0;)
        fn(arg, i, 3);
}

/* Over more than one chunk. */
static void threads_and_batches_change_nothing(void **state)
{
    const tkv_executor three = {NULL, 3, run_backwards};
    struct scene s;
    (void)state;
    open_scene(&s, "k=turbo4,v=turbo4,sink=4,tail=64,index=qvq,rest=none,keep=.03", 64, 64, 4,
               70000, 5);
    const size_t row = HEADS * s.group * s.dv, bytes = s.n_q * row * sizeof *s.out;
    float *first = malloc(bytes);
    attend(&s);
    memcpy(first, s.out, bytes);
    assert_int_equal(tkv_context_set_executor(s.ctx, &three), TKV_OK);
    attend(&s);
    assert_memory_equal(first, s.out, bytes);
    for (size_t i = 0; i < s.n_q; i++) { /* one query at a time */
        tkv_attend_params p = s.p;
        p.n_q = 1;
        p.q = s.q + i * HEADS * s.group * s.dk;
        p.q_pos = s.pos + i;
        p.out = s.out + i * row;
        p.mask = s.mask + i * s.n_kv;
        assert_int_equal(tkv_attend(s.cache, &p, NULL), TKV_OK);
    }
    assert_memory_equal(first, s.out, bytes);
    free(first);
    close_scene(&s);
}

/* Blocks that are picked come from a file where there is no memory for all. */
static void tiers_change_nothing(void **state)
{
    struct scene s;
    (void)state;
    open_scene(&s, "k=turbo4,v=turbo4,sink=4,tail=64,index=qvq,rest=none,keep=.05", 64, 64, 2,
               140000, 2);
    const size_t bytes = s.n_q * HEADS * s.group * s.dv * sizeof *s.out;
    float *first = malloc(bytes);
    attend(&s);
    memcpy(first, s.out, bytes);
    close_scene(&s);
    open_scene(&s, "k=turbo4,v=turbo4,sink=4,tail=64,index=qvq,rest=none,keep=.05,ram=16M,spill=.",
               64, 64, 2, 140000, 2);
    attend(&s);
    assert_memory_equal(first, s.out, bytes);
    free(first);
    close_scene(&s);
}

/* A2ATS to the letter: what lies 64 tokens back and more is attended at 2048. */
static void windowed_rope(void **state)
{
    static const char *const codecs[] = {"k=turbo4,v=turbo4", "k=turbo4c,v=q8", "k=f16,v=f16"};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct scene s;
        char spec[96];
        double read;
        snprintf(spec, sizeof spec, "%s,sink=4,tail=10,index=a2ats,keep=.2,rope=window", codecs[i]);
        open_scene(&s, spec, 64, 64, 2, 900, 3);
        attend(&s);
        assert_true(error_of(&s, &read) < (i < 2 ? 1e-3 : 1e-9));
        assert_true(read > 0.2 && read < 0.5);
        s.p.flags = TKV_ATTEND_EXACT | TKV_ATTEND_SELECT;
        attend(&s);
        assert_true(error_of(&s, &read) < 1e-9);
        s.p.flags = TKV_ATTEND_DENSE; /* prompts are read as the model has it */
        attend(&s);
        s.cache->spec.window_rope = 0;
        assert_true(error_of(&s, &read) < 1e-3 && read > 0.8);
        close_scene(&s);
    }
}

/* Codecs without a row order are read page by page. */
static void others_go_by_pages(void **state)
{
    struct scene s;
    (void)state;
    open_scene(&s, "k=turbo4c,v=turbo4,sink=4,tail=70,index=qvq,rest=none,keep=.1", 64, 64, 2, 700,
               2);
    assert_false(tkv_in_rows(&s.cache->layers[0]));
    expect_near(&s, true);
    close_scene(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codecs_and_shapes),
        cmocka_unit_test(masks_softcap_sinks),
        cmocka_unit_test(strict),
        cmocka_unit_test(threads_and_batches_change_nothing),
        cmocka_unit_test(tiers_change_nothing),
        cmocka_unit_test(windowed_rope),
        cmocka_unit_test(others_go_by_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
