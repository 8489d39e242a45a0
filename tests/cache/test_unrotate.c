/* Un-rotated keys: what the codec gets is the key before RoPE, by a plain formula; what comes back
 * and what attention reads is the key as it was written, whatever is known of its position. An
 * exact codec stands in for the learned ones. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
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
    SLOTS = 192,
    ROW = HEADS * D
};

struct rope {
    bool halves;
    uint32_t n_pairs;
    float freq[D / 2];
    int8_t axis[D / 2];
};

/* ---- a cache whose keys are coded exactly, but un-rotated --------------------------------- */

struct fixture {
    struct made_book *made;
    struct rope rope;
    tkv_context *ctx;
    tkv_book *book;
    tkv_cache *cache, *plain; /* plain: as they come */
    uint32_t n_axes;
};

static void add_layer(const struct fixture *f, tkv_cache *cache)
{
    tkv_error err;
    uint32_t layer;
    const tkv_layer_params shape = {.struct_size = sizeof(shape),
                                    .n_kv_heads = HEADS,
                                    .k_head_dim = D,
                                    .v_head_dim = D,
                                    .n_slots = SLOTS,
                                    .n_streams = 2,
                                    .model_layer = 5,
                                    .n_axes = f->n_axes};
    assert_int_equal(tkv_cache_add_layer(cache, &shape, &layer, &err), TKV_OK);
}

static void open_caches(struct fixture *f, const struct rope *rope, uint32_t n_axes,
                        const char *text)
{
    tkv_error err;
    tkv_spec spec;
    size_t n_bytes;
    *f = (struct fixture){.made = made_book_new(), .rope = *rope, .n_axes = n_axes};
    made_book_rope(f->made, rope->halves, rope->n_pairs, rope->freq, rope->axis);
    made_book_cq(f->made, 5, HEADS, D, 1);
    const uint8_t *bytes = made_book_bytes(f->made, &n_bytes);
    assert_int_equal(tkv_context_create(NULL, &f->ctx, &err), TKV_OK);
    assert_int_equal(tkv_book_open(f->ctx, bytes, n_bytes, &f->book, &err), TKV_OK);
    assert_int_equal(tkv_spec_parse(text, &spec, &err), TKV_OK);
    assert_int_equal(tkv_cache_create(f->ctx, &spec, &f->cache, &err), TKV_OK);
    assert_int_equal(tkv_cache_create(f->ctx, &spec, &f->plain, &err), TKV_OK);
    assert_int_equal(tkv_cache_set_book(f->cache, f->book, &err), TKV_OK);
    assert_int_equal(tkv_cache_set_book(f->plain, f->book, &err), TKV_OK);
    add_layer(f, f->cache);
    add_layer(f, f->plain);
    struct tkv_layer *layer = &f->cache->layers[0];
    layer->codec[TKV_SPAN_TEXT][TKV_K].unrotates = true;
    assert_int_equal(tkv_turns_find(f->cache, layer, &err), TKV_OK);
    layer->keeps_places = true;
}

static void close_caches(struct fixture *f)
{
    tkv_cache_destroy(f->cache);
    tkv_cache_destroy(f->plain);
    tkv_book_close(f->book);
    tkv_context_destroy(f->ctx);
    made_book_free(f->made);
}

static float value(uint32_t tag, uint32_t c)
{
    uint32_t x = tag * 2654435761u + c * 40503u;
    x ^= x >> 13;
    x *= 0x5bd1e995u;
    return (float)((int32_t)(x >> 20) - 2048) / 1024.0f;
}

/* RoPE as written down: pair i turns by position * frequency. */
static void rotate(const struct rope *r, const int32_t pos[TKV_N_AXES], float *x)
{
    for (uint32_t i = 0; i < r->n_pairs; i++) {
        const uint32_t a = r->halves ? i : 2 * i, b = r->halves ? i + r->n_pairs : 2 * i + 1;
        const double angle = (double)r->freq[i] * pos[r->axis[i]];
        const double u = x[a], v = x[b];
        x[a] = (float)(u * cos(angle) - v * sin(angle));
        x[b] = (float)(u * sin(angle) + v * cos(angle));
    }
}

/* Positions of 64 rows; axis by axis. */
typedef void place_fn(uint32_t t, int32_t pos[TKV_N_AXES]);

static void text_place(uint32_t t, int32_t pos[TKV_N_AXES])
{
    pos[0] = pos[1] = pos[2] = 1077 + (int32_t)t;
}

static void far_place(uint32_t t, int32_t pos[TKV_N_AXES])
{
    pos[0] = pos[1] = pos[2] = 131008 + (int32_t)t;
}

static void mixed_place(uint32_t t, int32_t pos[TKV_N_AXES])
{
    pos[0] = pos[1] = pos[2] = (int32_t)(t * 37 % 1999);
}

static void picture_place(uint32_t t, int32_t pos[TKV_N_AXES])
{
    pos[0] = 300;
    pos[1] = 300 + (int32_t)t / 8;
    pos[2] = 300 + (int32_t)t % 8;
}

/* Writes 64 keys from a slot on, rotated by where `place` says they are, and values; in both. */
static void write_page(struct fixture *f, int64_t first, place_fn *place, bool tell)
{
    static float k[TKV_PAGE_TOKENS][ROW], v[TKV_PAGE_TOKENS][ROW];
    int64_t slots[TKV_PAGE_TOKENS];
    int32_t told[TKV_N_AXES * TKV_PAGE_TOKENS];
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        int32_t pos[TKV_N_AXES];
        place(t, pos);
        slots[t] = first + t;
        for (uint32_t c = 0; c < ROW; c++) {
            k[t][c] = value(t, c);
            v[t][c] = value(t + 77, c);
        }
        for (uint32_t head = 0; head < HEADS; head++)
            rotate(&f->rope, pos, k[t] + head * D);
        for (uint32_t axis = 0; axis < (f->n_axes ? f->n_axes : 1); axis++)
            told[axis * TKV_PAGE_TOKENS + t] = pos[axis];
    }
    const tkv_rows keys = {k, TKV_F32, sizeof k[0]}, values = {v, TKV_F32, sizeof v[0]};
    tkv_cache *const caches[2] = {f->cache, f->plain};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tkv_cache_write(caches[i], 0, TKV_PAGE_TOKENS, slots, tell ? told : NULL,
                                         NULL, keys, values, NULL),
                         TKV_OK);
        assert_int_equal(tkv_cache_seal(caches[i], 0, NULL), TKV_OK);
    }
}

/* The codec's own rows of a sealed page are the keys before RoPE. */
static void check_unrotated(const struct fixture *f, uint32_t i_page)
{
    static float rows[TKV_PAGE_TOKENS * D];
    const struct tkv_layer *layer = &f->cache->layers[0];
    const struct tkv_page *page = &layer->pages[i_page];
    assert_int_equal(page->state, TKV_PAGE_SEALED);
    for (uint32_t head = 0; head < HEADS; head++) {
        const struct tkv_coded coded = {
            .page = tkv_block_page(layer, tkv_page_block(layer, page, head), TKV_K, head),
            .kind = TKV_K,
            .head = head};
        tkv_decode_unrotated(f->cache, layer, &coded, rows);
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
            for (uint32_t c = 0; c < D; c++)
                assert_float_equal(rows[t * D + c], value(t, head * D + c), 5e-3);
    }
}

/* Rows and attention are those of the cache that takes keys as they come. */
static void check_same(const struct fixture *f, size_t n_slots)
{
    static float q[HEADS * GROUP * D], out[2][HEADS * GROUP * D], rows[2][SLOTS * ROW];
    int64_t slots[SLOTS];
    tkv_cache *const caches[2] = {f->cache, f->plain};
    for (uint32_t i = 0; i < HEADS * GROUP * D; i++)
        q[i] = value(i / D + 500, i % D);
    for (uint32_t i = 0; i < SLOTS; i++)
        slots[i] = i;
    tkv_attend_params p;
    tkv_attend_params_default(&p);
    p.n_q = 1, p.n_q_heads = HEADS * GROUP, p.n_kv = n_slots, p.scale = 0.125f;
    p.q = q, p.q_token_stride = sizeof q, p.q_head_stride = D * sizeof(float);
    p.out_token_stride = sizeof q, p.out_head_stride = D * sizeof(float);
    for (int i = 0; i < 2; i++) {
        p.out = out[i];
        assert_int_equal(tkv_attend(caches[i], &p, NULL), TKV_OK);
        assert_int_equal(tkv_cache_read(caches[i], 0, TKV_K, n_slots, slots, rows[i], TKV_F32,
                                        ROW * sizeof(float), NULL),
                         TKV_OK);
    }
    for (size_t i = 0; i < n_slots * ROW; i++)
        assert_float_equal(rows[0][i], rows[1][i], 5e-3);
    for (uint32_t i = 0; i < HEADS * GROUP * D; i++)
        assert_float_equal(out[0][i], out[1][i], 2e-3);
}

static struct rope make_rope(bool halves, uint32_t n_pairs, bool axes)
{
    struct rope r = {.halves = halves, .n_pairs = n_pairs};
    for (uint32_t i = 0; i < n_pairs; i++) {
        r.freq[i] = (float)pow(10000, -(double)i / n_pairs);
        r.axis[i] = axes ? (int8_t)(i % 3) : 0;
    }
    return r;
}

/* ---- tests -------------------------------------------------------------------------------- */

static void keys_lose_their_rotation(void **state)
{
    (void)state;
    static place_fn *const places[] = {text_place, far_place, mixed_place, picture_place};
    for (int i = 0; i < 16; i++) {
        struct fixture f;
        const bool axes = i & 2;
        const struct rope rope = make_rope(i & 1, axes ? D / 2 : D / 4, axes);
        open_caches(&f, &rope, axes ? TKV_N_AXES : 0, "kv=f16,sink=0,tail=0");
        write_page(&f, 0, places[i / 4], true);
        if (axes || places[i / 4] != picture_place)
            check_unrotated(&f, 0);
        check_same(&f, TKV_PAGE_TOKENS);
        close_caches(&f);
    }
}

static void unknown_positions_cost_nothing(void **state)
{
    (void)state;
    struct fixture f;
    const struct rope rope = make_rope(true, D / 2, false);
    open_caches(&f, &rope, 0, "kv=f16,sink=0,tail=0");
    write_page(&f, 0, text_place, false);
    write_page(&f, 64, text_place, true);
    check_same(&f, 128);
    close_caches(&f);
}

/* Pages that seal again know where their rows were; copies share positions; all go in the end. */
static void positions_live_as_long_as_pages(void **state)
{
    (void)state;
    struct fixture f;
    const struct rope rope = make_rope(true, D / 2, true);
    open_caches(&f, &rope, TKV_N_AXES, "kv=f16,sink=0,tail=0");
    write_page(&f, 0, picture_place, true);
    tkv_cache *const caches[2] = {f.cache, f.plain};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tkv_cache_copy(caches[i], 0, SLOTS, 0, 64, NULL), TKV_OK);
        assert_int_equal(tkv_cache_copy(caches[i], 0, 67, 3, 61, NULL), TKV_OK);
        assert_int_equal(tkv_cache_copy(caches[i], 0, 64, 0, 3, NULL), TKV_OK);
        assert_int_equal(tkv_cache_seal(caches[i], 0, NULL), TKV_OK);
    }
    assert_int_equal(f.cache->places.n, 1);
    assert_int_equal(f.cache->layers[0].pages[0].places->n_refs, 3);
    check_same(&f, 128);
    check_unrotated(&f, 1);
    static uint8_t row[ROW * 2];
    const int64_t slot = 5;
    for (int i = 0; i < 2; i++) {
        int32_t pos[TKV_N_AXES];
        picture_place(5, pos);
        const tkv_rows rows = {row, TKV_F16, 0};
        assert_int_equal(tkv_cache_read(caches[i], 0, TKV_K, 1, &slot, row, TKV_F16, 0, NULL),
                         TKV_OK);
        assert_int_equal(tkv_cache_write(caches[i], 0, 1, &slot, pos, NULL, rows,
                                         (tkv_rows){NULL, TKV_F16, 0}, NULL),
                         TKV_OK);
        assert_int_equal(tkv_cache_seal(caches[i], 0, NULL), TKV_OK);
    }
    check_unrotated(&f, 0);
    assert_int_equal(f.cache->places.n, 1);
    assert_int_equal(tkv_cache_forget(f.cache, 0, 0, 2 * SLOTS, NULL), TKV_OK);
    assert_int_equal(f.cache->places.n, 0);
    assert_int_equal(f.cache->places.bytes, 0);
    close_caches(&f);
}

/* Under strict pages are coded before they are full: rows that are not there yet do not count. */
static void strict_reads_the_same(void **state)
{
    (void)state;
    struct fixture f;
    const struct rope rope = make_rope(false, D / 2, false);
    open_caches(&f, &rope, 0, "kv=f16,sink=0,tail=0,strict=1");
    write_page(&f, 0, text_place, true);
    write_page(&f, 64, text_place, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(tkv_cache_forget(i ? f.plain : f.cache, 0, 100, SLOTS - 100, NULL),
                         TKV_OK);
    check_same(&f, 100);
    close_caches(&f);
}

/* Attention as written down, over the rows that a cache reads back. */
static void plain_attention(tkv_cache *cache, const tkv_attend_params *p, float *out)
{
    static float k[SLOTS * ROW], v[SLOTS * ROW];
    int64_t slots[SLOTS];
    for (uint32_t i = 0; i < SLOTS; i++)
        slots[i] = i;
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        assert_int_equal(tkv_cache_read(cache, 0, (tkv_kind)kind, p->n_kv, slots,
                                        kind == TKV_K ? k : v, TKV_F32, ROW * sizeof(float), NULL),
                         TKV_OK);
    for (uint32_t h = 0; h < p->n_q_heads; h++) {
        double sum = 0, weighted[D] = {0};
        for (size_t t = 0; t < p->n_kv; t++) {
            const size_t at = t * ROW + h / GROUP * D;
            double logit = 0;
            for (uint32_t c = 0; c < D; c++)
                logit += (double)p->q[h * D + c] * (double)k[at + c];
            const double w = exp(logit * (double)p->scale);
            sum += w;
            for (uint32_t c = 0; c < D; c++)
                weighted[c] += w * (double)v[at + c];
        }
        for (uint32_t c = 0; c < D; c++)
            out[h * D + c] = (float)(weighted[c] / sum);
    }
}

/* A codec that is made for it, on pages of every sort: attention reads what a reader of rows gets. */
static void coupled_channels(void **state)
{
    (void)state;
    static float q[HEADS * GROUP * D], out[HEADS * GROUP * D], want[HEADS * GROUP * D];
    static const char *const specs[] = {"kv=cq4,sink=0,tail=0", "kv=cq8,sink=0,tail=0"};
    for (uint32_t i = 0; i < HEADS * GROUP * D; i++)
        q[i] = value(i / D + 500, i % D);
    for (int i = 0; i < 4; i++) {
        struct fixture f;
        const struct rope rope = make_rope(i & 1, D / 2, true);
        open_caches(&f, &rope, TKV_N_AXES, specs[i / 2]);
        write_page(&f, 0, text_place, true);
        write_page(&f, 64, picture_place, true);
        write_page(&f, 128, mixed_place, false);
        assert_int_equal(f.cache->layers[0].pages[2].state, TKV_PAGE_SEALED);
        tkv_attend_params p;
        tkv_attend_params_default(&p);
        p.n_q = 1, p.n_q_heads = HEADS * GROUP, p.n_kv = SLOTS, p.scale = 0.125f;
        p.q = q, p.q_token_stride = sizeof q, p.q_head_stride = D * sizeof(float);
        p.out = out, p.out_token_stride = sizeof q, p.out_head_stride = D * sizeof(float);
        plain_attention(f.cache, &p, want);
        for (uint32_t exact = 0; exact < 2; exact++) {
            p.flags = exact ? TKV_ATTEND_EXACT : 0;
            assert_int_equal(tkv_attend(f.cache, &p, NULL), TKV_OK);
            for (uint32_t c = 0; c < HEADS * GROUP * D; c++)
                assert_float_equal(out[c], want[c], exact ? 1e-4f : 1e-2f);
        }
        close_caches(&f);
    }
}

/* Without a book the codec is named, and what to run. */
static void a_book_is_needed(void **state)
{
    (void)state;
    tkv_context *ctx;
    tkv_spec spec;
    tkv_cache *cache;
    tkv_error err;
    uint32_t layer;
    const tkv_layer_params shape = {.struct_size = sizeof(shape),
                                    .n_kv_heads = 1,
                                    .k_head_dim = D,
                                    .v_head_dim = D,
                                    .n_slots = 64,
                                    .n_streams = 1};
    assert_int_equal(tkv_context_create(NULL, &ctx, &err), TKV_OK);
    assert_int_equal(tkv_spec_parse("kv=cq8", &spec, &err), TKV_OK);
    assert_int_equal(tkv_cache_create(ctx, &spec, &cache, &err), TKV_OK);
    assert_int_equal(tkv_cache_add_layer(cache, &shape, &layer, &err), TKV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "cq8"));
    assert_non_null(strstr(err.text, "tightkv calibrate"));
    tkv_cache_destroy(cache);
    tkv_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_lose_their_rotation),
        cmocka_unit_test(unknown_positions_cost_nothing),
        cmocka_unit_test(positions_live_as_long_as_pages),
        cmocka_unit_test(strict_reads_the_same),
        cmocka_unit_test(coupled_channels),
        cmocka_unit_test(a_book_is_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
