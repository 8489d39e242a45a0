/* A cache whose coded pages do not all fit into memory: what it says when something is wrong, and that
 * it goes on. */
#include <errno.h>
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
#include "tightkv/tightkv.h"

enum {
    D = 64,
    HEADS = 2,
    N_PAGES = 200,
    N = N_PAGES * TKV_PAGE_TOKENS,
    ROW = HEADS * D,
    LAYER = 5
};

struct scene {
    tkv_context *ctx;
    tkv_cache *cache;
    uint32_t layer;
    float *rows;
};

static tkv_status make_cache(struct scene *s, const char *text, tkv_error *err)
{
    tkv_spec spec;
    assert_int_equal(tkv_context_create(NULL, &s->ctx, NULL), TKV_OK);
    assert_int_equal(tkv_spec_parse(text, &spec, NULL), TKV_OK);
    return tkv_cache_create(s->ctx, &spec, &s->cache, err);
}

static tkv_status add_layer(struct scene *s, tkv_error *err)
{
    const tkv_layer_params shape = {.struct_size = sizeof(shape),
                                    .n_kv_heads = HEADS,
                                    .k_head_dim = D,
                                    .v_head_dim = D,
                                    .n_slots = N,
                                    .n_streams = 1,
                                    .model_layer = LAYER};
    return tkv_cache_add_layer(s->cache, &shape, &s->layer, err);
}

static void write_pages(struct scene *s, uint32_t first, uint32_t n)
{
    int64_t slots[TKV_PAGE_TOKENS];
    for (uint32_t page = first; page < first + n; page++) {
        float *rows = s->rows + (size_t)page * TKV_PAGE_TOKENS * ROW;
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
            slots[t] = (int64_t)page * TKV_PAGE_TOKENS + t;
        for (uint32_t i = 0; i < TKV_PAGE_TOKENS * ROW; i++)
            rows[i] = (float)((page * 7919u + i * 104729u) % 2003u) / 1000 - 1;
        const tkv_rows r = {rows, TKV_F32, ROW * sizeof(float)};
        assert_int_equal(
            tkv_cache_write(s->cache, s->layer, TKV_PAGE_TOKENS, slots, NULL, NULL, r, r, NULL),
            TKV_OK);
    }
}

static void make_scene(struct scene *s)
{
    *s = (struct scene){.rows = malloc((size_t)N * ROW * sizeof(float))};
    assert_int_equal(make_cache(s, "kv=turbo4,sink=0,tail=0,ram=700K,spill=.", NULL), TKV_OK);
    assert_int_equal(add_layer(s, NULL), TKV_OK);
}

static void fill(struct scene *s)
{
    for (uint32_t page = 0; page < N_PAGES; page += 4) {
        write_pages(s, page, 4);
        assert_int_equal(tkv_cache_seal(s->cache, s->layer, NULL), TKV_OK);
    }
}

static void free_scene(struct scene *s)
{
    tkv_cache_destroy(s->cache);
    tkv_context_destroy(s->ctx);
    free(s->rows);
}

static tkv_status read_page(struct scene *s, uint32_t page, tkv_error *err)
{
    float rows[ROW];
    const int64_t slot = (int64_t)page * TKV_PAGE_TOKENS;
    const tkv_status status =
        tkv_cache_read(s->cache, s->layer, TKV_V, 1, &slot, rows, TKV_F32, sizeof rows, err);
    for (uint32_t i = 0; i < ROW && status == TKV_OK; i++)
        assert_true(fabsf(rows[i] - s->rows[slot * ROW + i]) < 0.4f);
    return status;
}

static tkv_status attend(struct scene *s, tkv_error *err)
{
    float q[ROW], out[ROW];
    tkv_attend_params p;
    tkv_attend_params_default(&p);
    for (uint32_t i = 0; i < ROW; i++) {
        q[i] = (float)(i % 7) / 7;
        out[i] = 99;
    }
    p.layer = s->layer;
    p.n_q = 1;
    p.n_q_heads = HEADS;
    p.q = q;
    p.out = out;
    p.q_head_stride = p.out_head_stride = D * sizeof(float);
    p.n_kv = N;
    const tkv_status status = tkv_attend(s->cache, &p, err);
    for (uint32_t i = 0; i < ROW; i++)
        assert_true(status == TKV_OK ? fabsf(out[i]) < 1 : out[i] == 99);
    return status;
}

/* ---- what is refused -------------------------------------------------------------------------- */

static void bad_folder_is_named(void **state)
{
    struct scene s = {0};
    tkv_error err;
    (void)state;
    assert_int_equal(make_cache(&s, "turbo4,ram=1M,spill=no/such/folder", &err), TKV_ERR_IO);
    assert_null(s.cache);
    assert_non_null(strstr(err.text, "spill=no/such/folder"));
    assert_non_null(strstr(err.text, "No such file or directory; name a folder"));
    free_scene(&s);
}

static void small_ram_says_the_least(void **state)
{
    struct scene s = {0};
    tkv_error err;
    unsigned least = 0;
    char text[64];
    (void)state;
    assert_int_equal(make_cache(&s, "kv=turbo4,sink=0,tail=0,ram=100K,spill=.", NULL), TKV_OK);
    assert_int_equal(add_layer(&s, &err), TKV_ERR_INVALID);
    const char *says = strstr(err.text, "it takes ram=");
    assert_non_null(says);
    assert_int_equal(sscanf(says, "it takes ram=%uK at least", &least), 1);
    free_scene(&s);
    for (unsigned ram = least - 1; ram <= least; ram++) {
        s = (struct scene){0};
        snprintf(text, sizeof text, "kv=turbo4,sink=0,tail=0,ram=%uK,spill=.", ram);
        assert_int_equal(make_cache(&s, text, NULL), TKV_OK);
        assert_int_equal(add_layer(&s, &err), ram < least ? TKV_ERR_INVALID : TKV_OK);
        free_scene(&s);
    }
}

/* ---- what goes wrong later -------------------------------------------------------------------- */

struct fault {
    const struct tkv_block *block;
    bool flip;
};

static void inject(void *user, struct tkv_moved *m)
{
    const struct fault *f = user;
    if (m->write || m->block != f->block)
        return;
    if (f->flip)
        m->block->frame[77] ^= 4;
    else
        m->result = -EIO;
}

static void break_page(struct scene *s, struct fault *f, uint32_t page)
{
    f->block = tkv_tier_block_of(&s->cache->layers[0].pages[page], 1);
    assert_int_equal(f->block->state, TKV_BLOCK_ABSENT);
    s->cache->tier->moved_hook = inject;
    s->cache->tier->hook_user = f;
}

static void page_is_named(struct scene *s, bool flip, tkv_status expected)
{
    struct fault f = {.flip = flip};
    tkv_error err;
    break_page(s, &f, 3);
    assert_int_equal(read_page(s, 3, &err), expected);
    assert_non_null(strstr(err.text, "layer 5, page 3: the spill file in ."));
    assert_int_equal(attend(s, &err), expected);
    assert_non_null(strstr(err.text, "layer 5, page 3: "));
    /* A write would have to open the page: it is refused, and the page is as it was. */
    const int64_t slot = 3 * TKV_PAGE_TOKENS;
    const tkv_rows r = {s->rows, TKV_F32, ROW * sizeof(float)};
    assert_int_equal(tkv_cache_write(s->cache, s->layer, 1, &slot, NULL, NULL, r, r, &err),
                     expected);
    for (uint32_t page = 0; page < N_PAGES; page++)
        if (page != 3)
            assert_int_equal(read_page(s, page, &err), TKV_OK);
    s->cache->tier->moved_hook = NULL;
    assert_int_equal(read_page(s, 3, &err), TKV_OK);
    assert_int_equal(attend(s, &err), TKV_OK);
}

static void failed_read_names_its_page(void **state)
{
    struct scene s;
    (void)state;
    make_scene(&s);
    fill(&s);
    page_is_named(&s, false, TKV_ERR_IO);
    free_scene(&s);
    make_scene(&s);
    fill(&s);
    page_is_named(&s, true, TKV_ERR_CORRUPT);
    free_scene(&s);
}

/* A page that is lost can still be forgotten, and its place be used. */
static void lost_page_can_go(void **state)
{
    struct scene s;
    struct fault f = {0};
    (void)state;
    make_scene(&s);
    fill(&s);
    break_page(&s, &f, 3);
    assert_int_equal(tkv_cache_forget(s.cache, s.layer, 3 * TKV_PAGE_TOKENS, TKV_PAGE_TOKENS, NULL),
                     TKV_OK);
    assert_int_equal(attend(&s, NULL), TKV_OK);
    s.cache->tier->moved_hook = NULL;
    write_pages(&s, 3, 1);
    assert_int_equal(tkv_cache_seal(s.cache, s.layer, NULL), TKV_OK);
    assert_int_equal(read_page(&s, 3, NULL), TKV_OK);
    free_scene(&s);
}

static int full(void *user, uint64_t bytes)
{
    (void)user, (void)bytes;
    return ENOSPC;
}

/* Pages that cannot go to a full disk stay open; everything can be read, and goes on when there is
 * space. */
static void full_disk_loses_nothing(void **state)
{
    struct scene s;
    tkv_error err;
    tkv_cache_stats stats = {.struct_size = sizeof stats};
    uint32_t n_failed = 0;
    (void)state;
    make_scene(&s);
    s.cache->tier->spill.grow_hook = full;
    for (uint32_t page = 0; page < N_PAGES; page += 4) {
        write_pages(&s, page, 4);
        const tkv_status status = tkv_cache_seal(s.cache, s.layer, &err);
        n_failed += status != TKV_OK;
        if (status != TKV_OK) {
            assert_int_equal(status, TKV_ERR_IO);
            assert_non_null(strstr(err.text, "spill=.: writing failed: No space left on device"));
        }
    }
    assert_true(n_failed > 0);
    assert_int_equal(tkv_cache_get_stats(s.cache, &stats), TKV_OK);
    assert_int_equal(stats.n_pages_open + stats.n_pages_sealed, N_PAGES);
    assert_int_equal(attend(&s, &err), TKV_OK);
    for (uint32_t page = 0; page < N_PAGES; page++)
        assert_int_equal(read_page(&s, page, &err), TKV_OK);
    s.cache->tier->spill.grow_hook = NULL;
    assert_int_equal(tkv_cache_seal(s.cache, s.layer, &err), TKV_OK);
    assert_int_equal(tkv_cache_get_stats(s.cache, &stats), TKV_OK);
    assert_int_equal(stats.n_pages_sealed, N_PAGES);
    for (uint32_t page = 0; page < N_PAGES; page++)
        assert_int_equal(read_page(&s, page, &err), TKV_OK);
    free_scene(&s);
}

/* Attention over everything, again and again, finds what fits. */
static void stats_tell(void **state)
{
    struct scene s;
    tkv_tier_stats t = {.struct_size = sizeof t};
    (void)state;
    make_scene(&s);
    fill(&s);
    for (int i = 0; i < 3; i++)
        assert_int_equal(attend(&s, NULL), TKV_OK);
    assert_int_equal(tkv_cache_get_tier_stats(s.cache, &t), TKV_OK);
    assert_int_equal(t.hits + t.misses, 3 * N_PAGES * HEADS);
    assert_true(t.misses > 0 && t.hits > N_PAGES * HEADS / 4);
    assert_true(t.bytes_read >= t.misses * 4352 && t.bytes_written > 0 && t.file_bytes > 0);
    assert_true(t.resident_bytes > 0 && t.resident_bytes <= 700 << 10);
    t.struct_size = 4;
    assert_int_equal(tkv_cache_get_tier_stats(s.cache, &t), TKV_ERR_INVALID);
    free_scene(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_folder_is_named),        cmocka_unit_test(small_ram_says_the_least),
        cmocka_unit_test(failed_read_names_its_page), cmocka_unit_test(lost_page_can_go),
        cmocka_unit_test(full_disk_loses_nothing),    cmocka_unit_test(stats_tell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
