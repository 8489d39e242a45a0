/* No memory, at every allocation in turn: a scenario of every call that allocates is run with the
 * n-th allocation failing, for every n until nothing fails any more. A call that fails says
 * TKV_ERR_NOMEM, leaves its outputs alone and loses nothing: called again with memory at hand it
 * succeeds, and everything ends as in a run without failure. Nothing leaks, and every block is
 * given back with the size that it was asked for with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tightkv/tightkv.h"

enum {
    D = 64,
    N_HEADS = 2,
    GROUP = 2,
    N_SLOTS = 256,
    N_STREAMS = 2,
    N_ROWS = 224,
    N_ALL = N_SLOTS * N_STREAMS,
    ALIGNMENT = 64,
    SENTINEL = 0xa5
};

/* Allocation `fail_at` (from 1) fails, and, when `stays_down`, every later one; 0: none. */
struct memory {
    size_t n_allocations, fail_at, n_blocks, n_bytes;
    int stays_down, n_bad_frees;
};

static void *limited_alloc(void *user, size_t bytes)
{
    struct memory *m = user;
    m->n_allocations++;
    if (m->fail_at &&
        (m->n_allocations == m->fail_at || (m->stays_down && m->n_allocations > m->fail_at)))
        return NULL;
    char *p = aligned_alloc(ALIGNMENT, (bytes + 2 * ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (!p)
        abort();
    memcpy(p, &bytes, sizeof bytes);
    m->n_blocks++;
    m->n_bytes += bytes;
    return p + ALIGNMENT;
}

static void limited_free(void *user, void *ptr, size_t bytes)
{
    struct memory *m = user;
    size_t asked;
    if (!ptr)
        return;
    memcpy(&asked, (char *)ptr - ALIGNMENT, sizeof asked);
    m->n_bad_frees += asked != bytes;
    m->n_blocks--;
    m->n_bytes -= asked;
    free((char *)ptr - ALIGNMENT);
}

/* What a run leaves behind. */
struct result {
    float rows[2][N_ALL * N_HEADS * D];
    float out[2 * N_HEADS * GROUP * D];
    unsigned char page[1 << 15];
    float page_rows[TKV_PAGE_TOKENS * D];
};

struct scenario {
    struct memory memory;
    const char *spec;
    tkv_context *ctx;
    tkv_cache *cache;
    uint32_t layer;
    tkv_codec codec;
    float data[N_ROWS * N_HEADS * D];
    struct result result;
};

static int all_sentinel(const void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (((const unsigned char *)p)[i] != SENTINEL)
            return 0;
    return 1;
}

/* --- the steps; each is one call --- */

static tkv_status make_context(struct scenario *s)
{
    tkv_context_params p;
    tkv_context_params_default(&p);
    p.allocator = (tkv_allocator){&s->memory, limited_alloc, limited_free};
    tkv_status status = tkv_context_create(&p, &s->ctx, NULL);
    assert_true((status == TKV_OK) == (s->ctx != NULL));
    return status;
}

static tkv_status make_cache(struct scenario *s)
{
    tkv_spec spec;
    assert_int_equal(tkv_spec_parse(s->spec, &spec, NULL), TKV_OK);
    s->codec = spec.k;
    tkv_status status = tkv_cache_create(s->ctx, &spec, &s->cache, NULL);
    assert_true((status == TKV_OK) == (s->cache != NULL));
    return status;
}

static tkv_status add_layer(struct scenario *s)
{
    const tkv_layer_params p = {.struct_size = sizeof(p),
                                .n_kv_heads = N_HEADS,
                                .k_head_dim = D,
                                .v_head_dim = D,
                                .n_slots = N_SLOTS,
                                .n_streams = N_STREAMS};
    return tkv_cache_add_layer(s->cache, &p, &s->layer, NULL);
}

static tkv_status write_at(struct scenario *s, int64_t first, int64_t step, size_t n)
{
    int64_t slots[N_ROWS];
    int32_t pos[N_ROWS];
    const tkv_rows rows = {s->data, TKV_F32, N_HEADS * D * sizeof(float)};
    for (size_t i = 0; i < n; i++) {
        slots[i] = first + (int64_t)i * step;
        pos[i] = (int32_t)i;
    }
    return tkv_cache_write(s->cache, s->layer, n, slots, pos, NULL, rows, rows, NULL);
}

static tkv_status write_run(struct scenario *s)
{
    return write_at(s, 0, 1, N_ROWS);
}

/* Into sealed pages: they open again. */
static tkv_status write_scattered(struct scenario *s)
{
    return write_at(s, 190, -31, 6);
}

static tkv_status seal(struct scenario *s)
{
    return tkv_cache_seal(s->cache, s->layer, NULL);
}

static tkv_status copy_pages(struct scenario *s)
{
    return tkv_cache_copy(s->cache, s->layer, N_SLOTS, 0, 2 * TKV_PAGE_TOKENS, NULL);
}

static tkv_status copy_unaligned(struct scenario *s)
{
    return tkv_cache_copy(s->cache, s->layer, N_SLOTS + 135, 7, 70, NULL);
}

static tkv_status forget(struct scenario *s)
{
    return tkv_cache_forget(s->cache, s->layer, 20, 10, NULL);
}

static tkv_status truncate_stream(struct scenario *s)
{
    return tkv_cache_truncate(s->cache, 0, 205, NULL);
}

static tkv_status attend_with(struct scenario *s, uint32_t flags, float *out)
{
    tkv_attend_params p;
    const size_t bytes = sizeof s->result.out / 2;
    tkv_attend_params_default(&p);
    p.layer = s->layer;
    p.n_q = 1;
    p.n_q_heads = N_HEADS * GROUP;
    p.flags = flags;
    p.q = s->data;
    p.q_head_stride = p.out_head_stride = D * sizeof(float);
    p.q_token_stride = p.out_token_stride = N_HEADS * GROUP * D * sizeof(float);
    p.out = out;
    p.n_kv = 128;
    p.first_slot = N_SLOTS;
    p.scale = 0.125f;
    memset(out, SENTINEL, bytes);
    tkv_status status = tkv_attend(s->cache, &p, NULL);
    assert_true(status == TKV_OK || all_sentinel(out, bytes));
    return status;
}

static tkv_status attend(struct scenario *s)
{
    return attend_with(s, 0, s->result.out);
}

static tkv_status attend_exact(struct scenario *s)
{
    return attend_with(s, TKV_ATTEND_EXACT, s->result.out + N_HEADS * GROUP * D);
}

static tkv_status read_kind(struct scenario *s, tkv_kind kind)
{
    int64_t slots[N_ALL];
    for (int i = 0; i < N_ALL; i++)
        slots[i] = i;
    memset(s->result.rows[kind], SENTINEL, sizeof s->result.rows[kind]);
    tkv_status status = tkv_cache_read(s->cache, s->layer, kind, N_ALL, slots, s->result.rows[kind],
                                       TKV_F32, N_HEADS * D * sizeof(float), NULL);
    assert_true(status == TKV_OK ||
                all_sentinel(s->result.rows[kind], sizeof s->result.rows[kind]));
    return status;
}

static tkv_status read_keys(struct scenario *s)
{
    return read_kind(s, TKV_K);
}

static tkv_status read_values(struct scenario *s)
{
    return read_kind(s, TKV_V);
}

static tkv_status encode(struct scenario *s)
{
    struct result *r = &s->result;
    memset(r->page, SENTINEL, sizeof r->page);
    tkv_status status = tkv_encode(s->ctx, s->codec, TKV_K, D, s->data, TKV_F32, D * sizeof(float),
                                   TKV_PAGE_TOKENS, r->page, sizeof r->page, NULL);
    assert_true(status == TKV_OK || all_sentinel(r->page, sizeof r->page));
    return status;
}

static tkv_status decode(struct scenario *s)
{
    struct result *r = &s->result;
    memset(r->page_rows, SENTINEL, sizeof r->page_rows);
    tkv_status status = tkv_decode(s->ctx, s->codec, TKV_K, D, r->page, sizeof r->page,
                                   r->page_rows, TKV_F32, D * sizeof(float), TKV_PAGE_TOKENS, NULL);
    assert_true(status == TKV_OK || all_sentinel(r->page_rows, sizeof r->page_rows));
    return status;
}

static tkv_status (*const steps[])(struct scenario *) = {
    make_context, make_cache, add_layer,    add_layer,       encode,          decode,
    write_run,    seal,       copy_pages,   copy_unaligned,  write_scattered, forget,
    seal,         attend,     attend_exact, truncate_stream, read_keys,       read_values,
};
enum {
    N_STEPS = sizeof steps / sizeof steps[0]
};

/* Runs the scenario, each failed step once more. Returns the number of steps that failed at first.
 * */
static int run(struct scenario *s, const char *spec, size_t fail_at)
{
    int n_failed = 0;
    memset(s, 0, sizeof *s);
    s->spec = spec;
    s->memory.fail_at = fail_at;
    for (size_t i = 0; i < N_ROWS * N_HEADS * D; i++)
        s->data[i] = (float)(i * 2654435761u % 2001) / 1000.0f - 1.0f;
    for (size_t i = 0; i < N_STEPS; i++) {
        tkv_status status = steps[i](s);
        if (status != TKV_OK) {
            assert_int_equal(status, TKV_ERR_NOMEM);
            n_failed++;
            assert_int_equal(steps[i](s), TKV_OK);
        }
    }
    return n_failed;
}

static void tear_down(struct scenario *s)
{
    tkv_cache_destroy(s->cache);
    tkv_context_destroy(s->ctx);
    assert_int_equal(s->memory.n_blocks, 0);
    assert_int_equal(s->memory.n_bytes, 0);
    assert_int_equal(s->memory.n_bad_frees, 0);
}

/* No long tails: a copy that is done twice writes twice, and so ages what is in the tail. */
static const char *const specs[] = {
    "kv=turbo4,sink=0,tail=0",
    "kv=f16,sink=0,tail=0",
    "k=kivi4,v=q8,sink=8,tail=16",
    "k=turbo4c,v=turbo4,sink=64,tail=0",
    "kv=turbo4,sink=0,tail=0,ram=1M,spill=.",
};

static void test_fails_once(void **state)
{
    struct scenario *whole = malloc(sizeof *whole), *broken = malloc(sizeof *broken);
    (void)state;
    assert_true(whole && broken);
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        assert_int_equal(run(whole, specs[i], 0), 0);
        const size_t n_allocations = whole->memory.n_allocations;
        tear_down(whole);
        assert_true(n_allocations > 8);
        for (size_t n = 1; n <= n_allocations; n++) {
            assert_int_equal(run(broken, specs[i], n), 1);
            tear_down(broken);
            assert_memory_equal(&broken->result, &whole->result, sizeof whole->result);
        }
    }
    free(whole);
    free(broken);
}

/* Memory that never comes back: each step fails or succeeds, and what stands is taken down without
 * a leak. */
static void test_stays_down(void **state)
{
    struct scenario *s = malloc(sizeof *s);
    (void)state;
    assert_non_null(s);
    for (size_t n = 1;; n++) {
        int n_failed = 0;
        memset(s, 0, sizeof *s);
        s->spec = specs[0];
        s->memory = (struct memory){.fail_at = n, .stays_down = 1};
        for (size_t i = 0; i < N_STEPS && (i == 0 || s->ctx) && (i <= 1 || s->cache); i++)
            n_failed += steps[i](s) == TKV_ERR_NOMEM;
        tear_down(s);
        if (n_failed == 0)
            break;
    }
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fails_once),
        cmocka_unit_test(test_stays_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
