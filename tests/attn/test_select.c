/* Selection against a plain one: scores as the definition has them, codes by distance, rows one by
 * one. And that the index follows its cache through all that happens to rows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cache.h"
#include "support/made_book.h"
#include "tightkv/tightkv.h"

enum {
    D = 64,
    HEADS = 2,
    GROUP = 3,
    N_CODES = 48,
    SLOTS = 640,
    STREAMS = 2,
    PAGES = SLOTS / TKV_PAGE_TOKENS,
    ROW = HEADS * D,
    LAYER = 3,
    FAR = 2048,
    WINDOW = 64,
    BANDS = 4, /* of distances below 1024 */
    MOST_QUERIES = 5
};

/* ---- a cache with an index ------------------------------------------------------------------- */

struct fixture {
    struct made_book *made;
    float freq[D / 2];
    tkv_context *ctx;
    tkv_book *book;
    tkv_cache *cache;
    struct tkv_layer *layer;
    uint32_t rng;
};

static float uniform(struct fixture *f)
{
    f->rng = f->rng * 1664525u + 1013904223u;
    return (float)(int32_t)f->rng / 2147483648.0f;
}

static tkv_layer_params shape(void)
{
    return (tkv_layer_params){.struct_size = sizeof(tkv_layer_params),
                              .n_kv_heads = HEADS,
                              .k_head_dim = D,
                              .v_head_dim = D,
                              .n_slots = SLOTS,
                              .n_streams = STREAMS,
                              .model_layer = LAYER};
}

static void open_cache(struct fixture *f, const char *text)
{
    tkv_error err;
    tkv_spec spec;
    size_t n_bytes;
    uint32_t layer;
    *f = (struct fixture){.made = made_book_new(), .rng = 7};
    for (uint32_t i = 0; i < D / 2; i++)
        f->freq[i] = powf(10000.0f, -(float)i / (D / 2));
    made_book_rope(f->made, true, D / 2, f->freq, NULL);
    made_book_index(f->made, LAYER, HEADS, D, N_CODES, 1);
    const uint8_t *bytes = made_book_bytes(f->made, &n_bytes);
    assert_int_equal(tkv_context_create(NULL, &f->ctx, &err), TKV_OK);
    assert_int_equal(tkv_book_open(f->ctx, bytes, n_bytes, &f->book, &err), TKV_OK);
    if (tkv_spec_parse(text, &spec, &err) != TKV_OK)
        fail_msg("%s: %s", text, err.text);
    assert_int_equal(tkv_cache_create(f->ctx, &spec, &f->cache, &err), TKV_OK);
    assert_int_equal(tkv_cache_set_book(f->cache, f->book, &err), TKV_OK);
    const tkv_layer_params params = shape();
    assert_int_equal(tkv_cache_add_layer(f->cache, &params, &layer, &err), TKV_OK);
    f->layer = &f->cache->layers[0];
}

static void close_cache(struct fixture *f)
{
    tkv_cache_destroy(f->cache);
    tkv_book_close(f->book);
    tkv_context_destroy(f->ctx);
    made_book_free(f->made);
}

/* Rows [first, first + n) at positions from pos on; pos < 0: unknown. */
static void write_rows(struct fixture *f, int64_t first, size_t n, int32_t pos)
{
    float *rows = malloc(n * ROW * sizeof *rows);
    int64_t *slots = malloc(n * sizeof *slots);
    int32_t *at = malloc(n * sizeof *at);
    tkv_error err;
    for (size_t i = 0; i < n * ROW; i++)
        rows[i] = 2 * uniform(f);
    for (size_t i = 0; i < n; i++) {
        slots[i] = first + (int64_t)i;
        at[i] = pos + (int32_t)i;
    }
    const tkv_rows r = {rows, TKV_F32, ROW * sizeof(float)};
    assert_int_equal(tkv_cache_write(f->cache, 0, n, slots, pos < 0 ? NULL : at, NULL, r, r, &err),
                     TKV_OK);
    assert_int_equal(tkv_cache_seal(f->cache, 0, &err), TKV_OK);
    free(rows), free(slots), free(at);
}

/* ---- the index follows the cache ------------------------------------------------------------- */

static uint64_t known(const struct fixture *f, int64_t slot)
{
    const struct tkv_codes *codes = f->layer->pages[slot / TKV_PAGE_TOKENS].codes;
    return codes ? codes->known >> slot % TKV_PAGE_TOKENS & 1 : 0;
}

static void codes_follow_rows(void **state)
{
    struct fixture f;
    tkv_error err;
    (void)state;
    open_cache(&f, "turbo4,sink=4,tail=16,index=qvq");
    write_rows(&f, 0, 200, 0);
    write_rows(&f, SLOTS + 10, 70, 500);
    write_rows(&f, 70, 3, -1); /* in a sealed page, positions unknown */
    assert_true(!known(&f, 70) && !known(&f, 72) && known(&f, 69) && known(&f, 73));
    write_rows(&f, 71, 1, 71);
    assert_true(known(&f, 71));
    assert_int_equal(tkv_cache_copy(f.cache, 0, SLOTS + 128, 0, 128, &err), TKV_OK);
    assert_true(!known(&f, SLOTS + 128 + 70) && known(&f, SLOTS + 128 + 71));
    assert_int_equal(tkv_cache_copy(f.cache, 0, SLOTS + 300, 30, 60, &err), TKV_OK);
    assert_int_equal(tkv_cache_forget(f.cache, 0, 20, 100, &err), TKV_OK);
    assert_true(known(&f, 19) && !known(&f, 20) && !known(&f, 119) && known(&f, 120));
    assert_int_equal(tkv_cache_truncate(f.cache, 0, 128, &err), TKV_OK);
    assert_int_equal(tkv_cache_truncate(f.cache, 1, 0, &err), TKV_OK);
    close_cache(&f);
}

static void rotate(const struct fixture *f, double positions, const float *x, float *y)
{
    for (uint32_t i = 0; i < D / 2; i++) {
        const double angle = (double)f->freq[i] * positions, a = x[i], b = x[i + D / 2];
        y[i] = (float)(a * cos(angle) - b * sin(angle));
        y[i + D / 2] = (float)(a * sin(angle) + b * cos(angle));
    }
}

static void codes_are_of_keys_before_rope(void **state)
{
    struct fixture f;
    tkv_error err;
    size_t n_same = 0;
    (void)state;
    open_cache(&f, "f16,sink=0,tail=1000,index=qvq");
    write_rows(&f, 0, 300, 4000);
    for (int64_t slot = 0; slot < 300; slot++) {
        float row[ROW], key[D];
        uint16_t code;
        assert_int_equal(
            tkv_cache_read(f.cache, 0, TKV_K, 1, &slot, row, TKV_F32, sizeof row, &err), TKV_OK);
        for (uint32_t head = 0; head < HEADS; head++) {
            rotate(&f, -(4000.0 + (double)slot), row + head * D, key);
            tkv_index_encode(&f.ctx->kernels, &f.layer->index->models[head], key, 1, &code);
            const struct tkv_page *page = &f.layer->pages[slot / TKV_PAGE_TOKENS];
            n_same +=
                code == page->codes->code[head * TKV_PAGE_TOKENS + (size_t)slot % TKV_PAGE_TOKENS];
        }
    }
    assert_true(n_same >= 300 * HEADS * 99 / 100); /* a coefficient may round the other way */
    close_cache(&f);
}

/* ---- a plain selection ----------------------------------------------------------------------- */

struct call {
    struct fixture *f;
    size_t n_q, n_kv;
    int64_t first_slot;
    float q[MOST_QUERIES * HEADS * GROUP * D];
    float out[MOST_QUERIES * HEADS * GROUP * D];
    float mask[MOST_QUERIES * SLOTS];
    int32_t pos[MOST_QUERIES];
};

static tkv_attend_params params_of(struct call *c, uint32_t flags)
{
    tkv_attend_params p;
    tkv_attend_params_default(&p);
    p.n_q = (uint32_t)c->n_q;
    p.n_q_heads = HEADS * GROUP;
    p.flags = flags;
    p.q = c->q;
    p.q_head_stride = p.out_head_stride = D * sizeof(float);
    p.q_token_stride = p.out_token_stride = HEADS * GROUP * D * sizeof(float);
    p.out = c->out;
    p.first_slot = c->first_slot;
    p.n_kv = c->n_kv;
    p.mask = c->mask;
    p.mask_stride = SLOTS * sizeof(float);
    p.q_pos = c->pos;
    p.scale = 0.125f;
    return p;
}

/* Queries at positions from pos on; query i sees what `sees` says. */
static void make_call(struct call *c, struct fixture *f, size_t n_q, size_t n_kv, int32_t pos,
                      bool (*sees)(size_t query, size_t slot))
{
    *c = (struct call){.f = f, .n_q = n_q, .n_kv = n_kv};
    for (size_t i = 0; i < n_q * HEADS * GROUP * D; i++)
        c->q[i] = 3 * uniform(f);
    for (size_t i = 0; i < n_q; i++) {
        c->pos[i] = pos + (int32_t)i;
        for (size_t j = 0; j < n_kv; j++)
            c->mask[i * SLOTS + j] = sees(i, j) ? 0 : -INFINITY;
    }
}

/* A code of a band in one head's order. */
struct ranked {
    float score;
    uint32_t code;
};

static uint32_t band_of(const struct call *c, int64_t distance)
{
    uint32_t band = 0;
    while (c->f->cache->spec.index == TKV_INDEX_QVQ && distance >= 2 * WINDOW)
        distance /= 2, band++;
    return band;
}

/* A query for the keys of a band, by the definition: at the constant distance, or its mean over the
 * band's. */
static void defined_query(const struct call *c, size_t query, const float *from, uint32_t band,
                          float *q)
{
    float turned[D];
    double sum[D] = {0};
    const bool constant = c->f->cache->spec.index == TKV_INDEX_A2ATS;
    const int64_t first = constant ? FAR : WINDOW << band, n = constant ? 1 : first;
    for (int64_t distance = first; distance < first + n; distance++) {
        rotate(c->f, (double)(distance - c->pos[query]), from, turned);
        for (uint32_t d = 0; d < D; d++)
            sum[d] += (double)turned[d] / (double)n;
    }
    for (uint32_t d = 0; d < D; d++)
        q[d] = (float)(sum[d] * .125);
}

/* The same in the library's arithmetic, for scores are rounded and ranks must be the same. */
static void far_query(const struct call *c, size_t query, uint32_t q_head, uint32_t band, float *q)
{
    const float *from = c->q + (query * HEADS * GROUP + q_head) * D;
    const bool constant = c->f->cache->spec.index == TKV_INDEX_A2ATS;
    float defined[D];
    for (uint32_t d = 0; d < D; d++)
        q[d] = from[d] * .125f;
    tkv_turn_by(c->f->cache, c->f->layer, (constant ? FAR : 0) - c->pos[query], q, 1);
    if (!constant)
        c->f->ctx->kernels.turn(q, 1, D, D / 2, D / 2,
                                (const float(*)[2])c->f->layer->turns->band[band]);
    defined_query(c, query, from, band, defined);
    for (uint32_t d = 0; d < D; d++)
        assert_true(fabsf(q[d] - defined[d]) < 1e-4f);
}

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score)
                                : (x->code > y->code) - (x->code < y->code);
}

static int by_place(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b; /* score: rows before it */
    return x->score != y->score ? (x->score > y->score) - (x->score < y->score)
                                : (x->code > y->code) - (x->code < y->code);
}

struct plain {
    bool live[SLOTS], candidate[SLOTS], read[SLOTS];
    uint32_t code[SLOTS]; /* band * N_CODES + code */
    size_t n_live, n_candidates;
    uint32_t counts[BANDS * N_CODES];
};

static void look(const struct call *c, size_t query, uint32_t head, struct plain *p)
{
    const tkv_spec *spec = &c->f->cache->spec;
    *p = (struct plain){0};
    for (size_t j = 0; j < c->n_kv; j++) {
        const struct tkv_page *page =
            &c->f->layer->pages[((size_t)c->first_slot + j) / TKV_PAGE_TOKENS];
        const uint32_t t = (uint32_t)(j % TKV_PAGE_TOKENS);
        const int64_t pos = page->state ? tkv_page_pos(page, t) : -1;
        const int64_t window = spec->tail > WINDOW ? spec->tail : WINDOW;
        p->live[j] = c->mask[query * SLOTS + j] == 0;
        p->candidate[j] = p->live[j] && page->codes && page->codes->known >> t & 1 &&
                          pos >= (int64_t)spec->sink && c->pos[query] - pos >= window;
        if (p->candidate[j])
            p->code[j] = band_of(c, c->pos[query] - pos) * N_CODES +
                         page->codes->code[head * TKV_PAGE_TOKENS + t];
        p->n_live += p->live[j];
        p->n_candidates += p->candidate[j];
        p->counts[p->code[j]] += p->candidate[j];
    }
}

/* Rows that go before each code in some head's order: the least over heads. */
static void rank(const struct call *c, size_t query, uint32_t head, const struct plain *p,
                 struct ranked *order)
{
    const struct tkv_index_model *model = &c->f->layer->index->models[head];
    static struct ranked own[BANDS * N_CODES];
    for (uint32_t i = 0; i < BANDS * N_CODES; i++)
        order[i] = (struct ranked){INFINITY, i};
    for (uint32_t g = 0; g < GROUP; g++) {
        for (uint32_t band = 0; band < BANDS; band++) {
            _Alignas(64) float q[D], table[64];
            far_query(c, query, head * GROUP + g, band, q);
            tkv_index_table(&c->f->ctx->kernels, model, q, 1, table);
            for (uint32_t i = 0; i < N_CODES; i++)
                own[band * N_CODES + i] = (struct ranked){table[i], band * N_CODES + i};
        }
        qsort(own, BANDS * N_CODES, sizeof *own, by_score);
        float before = 0;
        for (uint32_t i = 0; i < BANDS * N_CODES; i++) {
            float *least = &order[own[i].code].score;
            *least = before < *least ? before : *least;
            before += (float)p->counts[own[i].code];
        }
    }
    qsort(order, BANDS * N_CODES, sizeof *order, by_place);
}

static void select_plainly(const struct call *c, size_t query, uint32_t head, struct plain *p)
{
    static struct ranked order[BANDS * N_CODES];
    const double keep = (double)c->f->cache->spec.keep;
    look(c, query, head, p);
    size_t left = (size_t)(keep < 1 ? keep * (double)p->n_live : keep);
    for (size_t j = 0; j < c->n_kv; j++)
        p->read[j] = p->live[j] && (!p->candidate[j] || p->n_candidates <= left);
    if (p->n_candidates <= left)
        return;
    rank(c, query, head, p, order);
    for (uint32_t i = 0; i < BANDS * N_CODES && left > 0; i++)
        for (size_t j = c->n_kv; j-- > 0 && left > 0;)
            if (p->candidate[j] && p->code[j] == order[i].code)
                p->read[j] = true, left--;
}

static void expect_selection(struct call *c)
{
    static struct plain p;
    static uint64_t bits[MOST_QUERIES * HEADS * PAGES];
    const tkv_attend_params params = params_of(c, TKV_ATTEND_SELECT);
    const size_t n_pages = (c->n_kv + TKV_PAGE_TOKENS - 1) / TKV_PAGE_TOKENS;
    tkv_error err;
    assert_int_equal(tkv_attend_select(c->f->cache, &params, bits, NULL, &err), TKV_OK);
    for (size_t i = 0; i < c->n_q; i++)
        for (uint32_t head = 0; head < HEADS; head++) {
            select_plainly(c, i, head, &p);
            const uint64_t *got = bits + (i * HEADS + head) * n_pages;
            for (size_t j = 0; j < c->n_kv; j++)
                if ((got[j / 64] >> j % 64 & 1) != p.read[j])
                    fail_msg("query %zu, head %u, slot %zu: %s", i, head, j,
                             p.read[j] ? "not read" : "read");
        }
}

/* ---- what queries see ------------------------------------------------------------------------ */

static bool sees_all(size_t query, size_t slot)
{
    (void)query, (void)slot;
    return true;
}

static bool sees_past(size_t query, size_t slot)
{
    return slot < 450 + 20 * query;
}

/* Two sequences in one stream. */
static bool sees_own(size_t query, size_t slot)
{
    return slot % 2 == query % 2;
}

static bool sees_few(size_t query, size_t slot)
{
    return slot >= 150 && slot < 160 + query;
}

static void same_as_plain(void **state)
{
    static const char *const budgets[] = {
        "index=qvq,keep=.06", "index=qvq,keep=.3",   "index=qvq,keep=50",    "index=qvq,keep=0",
        "index=qvq,keep=1",   "index=a2ats,keep=.1", "index=qvq,keep=100000"};
    static bool (*const masks[])(size_t, size_t) = {sees_all, sees_past, sees_own, sees_few};
    (void)state;
    for (size_t b = 0; b < sizeof budgets / sizeof budgets[0]; b++) {
        struct fixture f;
        struct call c;
        char text[128];
        snprintf(text, sizeof text, "turbo4,sink=4,tail=80,%s", budgets[b]);
        open_cache(&f, text);
        write_rows(&f, 0, 333, 0);
        write_rows(&f, 333, 9, -1);
        write_rows(&f, 342, SLOTS - 342, 342);
        for (size_t m = 0; m < sizeof masks / sizeof masks[0]; m++) {
            make_call(&c, &f, 1 + m, SLOTS - 20 * m, 640, masks[m]);
            expect_selection(&c);
        }
        close_cache(&f);
    }
}

static void second_stream(void **state)
{
    struct fixture f;
    struct call c;
    (void)state;
    open_cache(&f, "turbo4,sink=0,tail=0,index=qvq,keep=.1");
    write_rows(&f, 0, 100, 0);
    write_rows(&f, SLOTS, 500, 0);
    make_call(&c, &f, 2, 448, 500, sees_all);
    c.first_slot = SLOTS + 64;
    expect_selection(&c);
    close_cache(&f);
}

/* Counts are kept from step to step: whatever happens between two steps, each reads what a plain
 * selection reads. */
static void step_by_step(void **state)
{
    struct fixture f;
    struct call c;
    tkv_error err;
    (void)state;
    open_cache(&f, "turbo4,sink=4,tail=16,index=qvq,keep=.1");
    write_rows(&f, 0, 300, 0);
    write_rows(&f, SLOTS, 200, 0);
    for (int32_t n = 300; n < 600; n++) {
        write_rows(&f, n, 1, n);
        if (n % 50 == 7) /* a sequence that jumps */
            write_rows(&f, 100 + n / 50, 1, -1);
        if (n == 350)
            assert_int_equal(tkv_cache_forget(f.cache, 0, 40, 70, &err), TKV_OK);
        if (n == 420)
            write_rows(&f, 40, 70, 40);
        if (n == 480)
            assert_int_equal(tkv_cache_copy(f.cache, 0, 128, SLOTS, 128, &err), TKV_OK);
        make_call(&c, &f, 1, (size_t)n + 1, n, n % 40 < 20 ? sees_all : sees_past);
        c.pos[0] += n % 100 == 99 ? 50 : 0;
        if (n % 60 == 30) { /* another stream in between */
            c.first_slot = SLOTS;
            c.n_kv = 200;
        }
        expect_selection(&c);
    }
    close_cache(&f);
}

/* ---- attention reads what was selected -------------------------------------------------------- */

/* Weights are of 8 bits: of the greatest among 64 rows, which are others where rows are gathered. */
static void expect_near(const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= .02f))
            fail_msg("value %zu is %g, not %g", i, (double)got[i], (double)want[i]);
}

/* Against attention on everything, whose mask leaves the rows of one KV head. */
static void attention_reads_that(void **state)
{
    static uint64_t bits[MOST_QUERIES * HEADS * PAGES];
    static const char *const specs[] = {
        "turbo4,sink=4,tail=80,index=qvq,keep=.1,rest=none",
        "f16,sink=4,tail=80,index=qvq,keep=.1,rest=none",
        "turbo4,sink=4,tail=80,index=qvq,keep=.1,rest=none,strict=1"};
    (void)state;
    for (size_t s = 0; s < sizeof specs / sizeof specs[0]; s++) {
        struct fixture f;
        struct call c, masked;
        tkv_error err;
        open_cache(&f, specs[s]);
        write_rows(&f, 0, SLOTS, 0);
        make_call(&c, &f, 3, SLOTS, 620, sees_past);
        const tkv_attend_params p = params_of(&c, TKV_ATTEND_SELECT);
        assert_int_equal(tkv_attend(f.cache, &p, &err), TKV_OK);
        assert_int_equal(tkv_attend_select(f.cache, &p, bits, NULL, &err), TKV_OK);
        for (uint32_t head = 0; head < HEADS; head++) {
            masked = c;
            for (size_t i = 0; i < c.n_q; i++)
                for (size_t j = 0; j < SLOTS; j++)
                    if (!(bits[(i * HEADS + head) * PAGES + j / 64] >> j % 64 & 1))
                        masked.mask[i * SLOTS + j] = -INFINITY;
            const tkv_attend_params dense = params_of(&masked, TKV_ATTEND_DENSE);
            assert_int_equal(tkv_attend(f.cache, &dense, &err), TKV_OK);
            for (size_t i = 0; i < c.n_q; i++)
                expect_near(c.out + (i * HEADS + head) * GROUP * D,
                            masked.out + (i * HEADS + head) * GROUP * D, GROUP * D);
        }
        close_cache(&f);
    }
}

/* Scores of a code for one query head; what the test's own selection goes by. */
static double code_score(const struct call *c, uint32_t q_head, uint32_t code)
{
    _Alignas(64) float q[D], table[64];
    far_query(c, 0, q_head, code / N_CODES, q);
    tkv_index_table(&c->f->ctx->kernels, &c->f->layer->index->models[q_head / GROUP], q, 1, table);
    return (double)table[code % N_CODES];
}

/* One query head, in double: rows that are read as they are, and the mean value for the others, by
 * the scores of their codes. */
static void attend_plainly(const struct call *c, const struct plain *p, uint32_t q_head,
                           const float *k, const float *v, double *out)
{
    const uint32_t head = q_head / GROUP;
    double sum = 0, mean[D] = {0};
    memset(out, 0, D * sizeof *out);
    for (size_t j = 0; j < c->n_kv; j++)
        for (uint32_t d = 0; d < D; d++)
            mean[d] += (double)v[j * ROW + head * D + d] / (double)c->n_kv;
    for (size_t j = 0; j < c->n_kv; j++) {
        double logit = 0;
        for (uint32_t d = 0; d < D; d++)
            logit += .125 * (double)c->q[q_head * D + d] * (double)k[j * ROW + head * D + d];
        const double weight = exp(p->read[j] ? logit : code_score(c, q_head, p->code[j]));
        sum += weight;
        for (uint32_t d = 0; d < D; d++)
            out[d] += weight * (p->read[j] ? (double)v[j * ROW + head * D + d] : mean[d]);
    }
    for (uint32_t d = 0; d < D; d++)
        out[d] /= sum;
}

static void what_is_not_read_counts_too(void **state)
{
    static struct plain p;
    static float rows[2][SLOTS * ROW];
    static int64_t slots[SLOTS];
    static const char *const specs[] = {"f16,sink=4,tail=80,index=qvq,keep=.1",
                                        "f16,sink=4,tail=80,index=qvq,keep=.1,strict=1",
                                        "f16,sink=4,tail=80,index=qvq,keep=0"};
    (void)state;
    for (size_t s = 0; s < sizeof specs / sizeof specs[0]; s++) {
        struct fixture f;
        struct call c;
        tkv_error err;
        double want[D];
        open_cache(&f, specs[s]);
        write_rows(&f, 0, SLOTS, 0);
        for (int64_t i = 0; i < SLOTS; i++)
            slots[i] = i;
        for (int kind = TKV_K; kind <= TKV_V; kind++)
            assert_int_equal(tkv_cache_read(f.cache, 0, (tkv_kind)kind, SLOTS, slots, rows[kind],
                                            TKV_F32, ROW * sizeof(float), &err),
                             TKV_OK);
        make_call(&c, &f, 1, SLOTS, SLOTS, sees_all);
        const tkv_attend_params params = params_of(&c, TKV_ATTEND_SELECT);
        assert_int_equal(tkv_attend(f.cache, &params, &err), TKV_OK);
        for (uint32_t q_head = 0; q_head < HEADS * GROUP; q_head++) {
            select_plainly(&c, 0, q_head / GROUP, &p);
            attend_plainly(&c, &p, q_head, rows[TKV_K], rows[TKV_V], want);
            for (uint32_t d = 0; d < D; d++)
                assert_true(fabs((double)c.out[q_head * D + d] - want[d]) < 2e-3);
        }
        close_cache(&f);
    }
}

static void fractions_count_what_is_read(void **state)
{
    struct fixture f;
    struct call c;
    tkv_error err;
    double exact, read;
    (void)state;
    open_cache(&f, "turbo4,sink=0,tail=0,index=qvq,keep=.1");
    write_rows(&f, 0, SLOTS, 0);
    make_call(&c, &f, 1, SLOTS, SLOTS, sees_all);
    tkv_attend_params p = params_of(&c, TKV_ATTEND_SELECT);
    assert_int_equal(tkv_attend_fractions(f.cache, &p, &exact, &read, &err), TKV_OK);
    /* the window: 64 rows, the query's own not among the written ones */
    assert_float_equal(read, (double)(SLOTS / 10 + WINDOW - 1) / SLOTS, 1e-9);
    p.flags = 0; /* few rows: all are read */
    assert_int_equal(tkv_attend_fractions(f.cache, &p, &exact, &read, &err), TKV_OK);
    assert_float_equal(read, 1, 0);
    p.flags = TKV_ATTEND_SELECT;
    p.q_pos = NULL;
    assert_int_equal(tkv_attend_fractions(f.cache, &p, &exact, &read, &err), TKV_OK);
    assert_float_equal(read, 1, 0);
    close_cache(&f);
}

/* The share of attention that the codes promise decides, keep is the most. */
static void mass_decides(void **state)
{
    static const float masses[] = {.2f, .5f, .8f};
    double last = 0;
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct fixture f;
        struct call c;
        char text[128];
        double exact, read;
        tkv_error err;
        snprintf(text, sizeof text, "turbo4,sink=0,tail=0,index=qvq,keep=.9,mass=%g",
                 (double)masses[i]);
        open_cache(&f, text);
        write_rows(&f, 0, SLOTS, 0);
        make_call(&c, &f, 1, SLOTS, SLOTS, sees_all);
        const tkv_attend_params p = params_of(&c, TKV_ATTEND_SELECT);
        assert_int_equal(tkv_attend_fractions(f.cache, &p, &exact, &read, &err), TKV_OK);
        assert_true(read > last && read < .95);
        last = read;
        close_cache(&f);
    }
}

static void a_query_that_is_no_number_reads_all(void **state)
{
    static uint64_t bits[HEADS * PAGES];
    struct fixture f;
    struct call c;
    tkv_error err;
    (void)state;
    open_cache(&f, "turbo4,sink=0,tail=0,index=qvq,keep=.1");
    write_rows(&f, 0, SLOTS, 0);
    make_call(&c, &f, 1, SLOTS, SLOTS, sees_all);
    c.q[5] = NAN; /* of head 0 */
    const tkv_attend_params p = params_of(&c, TKV_ATTEND_SELECT);
    assert_int_equal(tkv_attend_select(f.cache, &p, bits, NULL, &err), TKV_OK);
    for (size_t j = 0; j < PAGES; j++)
        assert_true(bits[j] == UINT64_MAX);
    assert_true(bits[PAGES] != UINT64_MAX);
    close_cache(&f);
}

/* ---- layers without ------------------------------------------------------------------------- */

static tkv_status add_other_layer(struct fixture *f, uint32_t model_layer, uint32_t n_axes,
                                  tkv_error *err)
{
    uint32_t layer;
    tkv_layer_params params = shape();
    params.model_layer = model_layer;
    params.n_axes = n_axes;
    const tkv_status status = tkv_cache_add_layer(f->cache, &params, &layer, err);
    f->layer = &f->cache->layers[0];
    return status;
}

static void layers_without_an_index(void **state)
{
    struct fixture f;
    tkv_error err;
    (void)state;
    open_cache(&f, "turbo4,index=qvq,dense=7-9");
    assert_int_equal(add_other_layer(&f, LAYER + 1, 1, &err), TKV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "calibrate --index"));
    assert_int_equal(add_other_layer(&f, LAYER, 3, &err), TKV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "M-RoPE"));
    assert_int_equal(add_other_layer(&f, 8, 1, &err), TKV_OK);
    assert_null(f.cache->layers[1].index);
    assert_non_null(f.cache->layers[0].index);
    close_cache(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_follow_rows),
        cmocka_unit_test(codes_are_of_keys_before_rope),
        cmocka_unit_test(same_as_plain),
        cmocka_unit_test(second_stream),
        cmocka_unit_test(step_by_step),
        cmocka_unit_test(attention_reads_that),
        cmocka_unit_test(what_is_not_read_counts_too),
        cmocka_unit_test(fractions_count_what_is_read),
        cmocka_unit_test(mass_decides),
        cmocka_unit_test(a_query_that_is_no_number_reads_all),
        cmocka_unit_test(layers_without_an_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
