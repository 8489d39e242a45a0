/* Visual spans: when they seal, what they keep once, and what cutting, overwriting, copying and
 * restoring them does. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
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
    ROW = N_HEADS * D,
    N_SLOTS = 1024,
    N_STREAMS = 2,
    FIRST = 1, /* the span's first slot and the slot after it */
    END = 257
};

struct fixture {
    tkv_context *ctx;
    tkv_cache *cache;
    uint32_t layer;
};

static void open_cache(struct fixture *f, const char *text)
{
    tkv_error err;
    tkv_spec spec;
    const tkv_layer_params shape = {.struct_size = sizeof(shape),
                                    .n_kv_heads = N_HEADS,
                                    .k_head_dim = D,
                                    .v_head_dim = D,
                                    .n_slots = N_SLOTS,
                                    .n_streams = N_STREAMS};
    assert_int_equal(tkv_context_create(NULL, &f->ctx, &err), TKV_OK);
    assert_int_equal(tkv_spec_parse(text, &spec, &err), TKV_OK);
    assert_int_equal(tkv_cache_create(f->ctx, &spec, &f->cache, &err), TKV_OK);
    assert_int_equal(tkv_cache_add_layer(f->cache, &shape, &f->layer, &err), TKV_OK);
}

static void close_cache(struct fixture *f)
{
    tkv_cache_destroy(f->cache);
    tkv_context_destroy(f->ctx);
}

/* Element c of the row written at a slot: f16 has it exactly. */
static float value(int64_t slot, uint32_t c)
{
    uint32_t x = (uint32_t)slot * 2654435761u + c * 40503u;
    x ^= x >> 13;
    x *= 0x5bd1e995u;
    return (float)((int32_t)(x >> 20) - 2048) / 512.0f;
}

static void put(struct fixture *f, int64_t first, int64_t end, uint8_t klass)
{
    for (int64_t slot = first; slot < end; slot++) {
        float row[ROW];
        const int32_t pos = (int32_t)slot;
        for (uint32_t c = 0; c < ROW; c++)
            row[c] = value(slot, c);
        const tkv_rows rows = {row, TKV_F32, sizeof row};
        assert_int_equal(
            tkv_cache_write(f->cache, f->layer, 1, &slot, &pos, &klass, rows, rows, NULL), TKV_OK);
    }
}

/* One row of text, a span of 256, text. */
static void put_all(struct fixture *f)
{
    put(f, 0, FIRST, TKV_SPAN_TEXT);
    put(f, FIRST, END, TKV_SPAN_VISUAL);
    put(f, END, END + 63, TKV_SPAN_TEXT);
}

static tkv_cache_stats stats(const struct fixture *f)
{
    tkv_cache_stats s = {.struct_size = sizeof s};
    assert_int_equal(tkv_cache_get_stats(f->cache, &s), TKV_OK);
    return s;
}

static const float *read_row(struct fixture *f, tkv_kind kind, int64_t slot)
{
    static float row[ROW];
    assert_int_equal(
        tkv_cache_read(f->cache, f->layer, kind, 1, &slot, row, TKV_F32, sizeof row, NULL), TKV_OK);
    return row;
}

static bool is_exact(struct fixture *f, tkv_kind kind, int64_t slot)
{
    const float *row = read_row(f, kind, slot);
    for (uint32_t c = 0; c < ROW; c++)
        if (row[c] != value(slot, c))
            return false;
    return true;
}

/* Rows [first, end) of a kind, in f16 as an engine saves them. */
static uint16_t *save(struct fixture *f, tkv_kind kind, int64_t first, int64_t end)
{
    uint16_t *rows = malloc((size_t)(end - first) * ROW * sizeof *rows);
    for (int64_t slot = first; slot < end; slot++)
        assert_int_equal(tkv_cache_read(f->cache, f->layer, kind, 1, &slot,
                                        rows + (slot - first) * ROW, TKV_F16, 0, NULL),
                         TKV_OK);
    return rows;
}

static void expect(struct fixture *f, tkv_kind kind, int64_t first, int64_t end,
                   const uint16_t *want)
{
    uint16_t *got = save(f, kind, first, end);
    assert_memory_equal(got, want, (size_t)(end - first) * ROW * sizeof *got);
    free(got);
}

static void seals_whole_before_text(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "f16,visual.k=visual1,visual.v=visual1,sink=100,tail=500,strict=1");
    put(&f, 0, FIRST, TKV_SPAN_TEXT);
    put(&f, FIRST, END, TKV_SPAN_VISUAL);
    assert_int_equal(tkv_cache_seal(f.cache, f.layer, NULL), TKV_OK);
    assert_int_equal(stats(&f).n_pages_sealed, 0); /* more of it may follow */
    assert_true(is_exact(&f, TKV_K, END - 1));
    put(&f, END, END + 1, TKV_SPAN_TEXT);
    const tkv_cache_stats s = stats(&f);
    assert_int_equal(s.n_pages_sealed, 4); /* neither sink nor tail holds it back */
    assert_int_equal(s.visual_values, 256 * 2 * ROW);
    assert_int_equal(s.visual_bytes, s.visual_values / 8 + 2 * ROW * 2 * 2); /* codes, ranges */
    assert_true(2 * s.visual_values >= 14 * s.visual_bytes);
    assert_int_equal(s.n_values, 258 * 2 * ROW);
    assert_true(is_exact(&f, TKV_K, 0) && is_exact(&f, TKV_K, END));
    assert_true(!is_exact(&f, TKV_K, FIRST) && !is_exact(&f, TKV_V, END - 1));
    close_cache(&f);
}

/* Every channel takes two values all over the span: its least and its greatest, less the share that
 * the paper cuts off. */
static void ranges_are_the_spans(void **state)
{
    static const float keep[2] = {0.5f, 0.3f};
    (void)state;
    struct fixture f;
    open_cache(&f, "f16,visual.k=visual1,visual.v=visual1");
    put_all(&f);
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        uint16_t *rows = save(&f, (tkv_kind)kind, FIRST, END);
        for (uint32_t c = 0; c < ROW; c++) {
            float low = INFINITY, high = -INFINITY;
            for (int64_t slot = FIRST; slot < END; slot++) {
                low = fminf(low, value(slot, c));
                high = fmaxf(high, value(slot, c));
            }
            low = tkv_half_to_f32(tkv_f32_to_half(low * keep[kind]));
            high = tkv_half_to_f32(tkv_f32_to_half(high * keep[kind]));
            for (int64_t slot = FIRST; slot < END; slot++) {
                const bool upper = value(slot, c) - low > (high - low) / 2;
                const float got = tkv_half_to_f32(rows[(slot - FIRST) * ROW + c]);
                assert_true(got == (upper ? high : low));
            }
        }
        free(rows);
    }
    close_cache(&f);
}

/* One row or two are at the ends of their own ranges. */
static void short_spans_are_exact(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "f16,visual.k=visual1,visual.v=visual1");
    put(&f, 0, 60, TKV_SPAN_TEXT);
    put(&f, 60, 61, TKV_SPAN_VISUAL);
    put(&f, 61, 63, TKV_SPAN_TEXT);
    put(&f, 63, 65, TKV_SPAN_VISUAL); /* over the edge of a page */
    put(&f, 65, 70, TKV_SPAN_TEXT);
    assert_int_equal(stats(&f).n_pages_sealed, 2);
    for (int64_t slot = 0; slot < 70; slot++)
        assert_true(is_exact(&f, TKV_K, slot) && is_exact(&f, TKV_V, slot));
    close_cache(&f);
}

static void a_cut_span_keeps_its_codes(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "f16,visual.k=visual1,visual.v=visual1");
    put_all(&f);
    uint16_t *before = save(&f, TKV_K, 0, END);
    assert_int_equal(tkv_cache_truncate(f.cache, 0, 100, NULL), TKV_OK);
    assert_int_equal(stats(&f).n_values, 100 * 2 * ROW);
    assert_int_equal(stats(&f).visual_values, 99 * 2 * ROW);
    expect(&f, TKV_K, 0, 100, before);
    for (uint32_t c = 0; c < ROW; c++)
        assert_true(read_row(&f, TKV_K, 100)[c] == 0);
    put(&f, 100, 160, TKV_SPAN_VISUAL); /* another span where the first one was */
    put(&f, 160, 161, TKV_SPAN_TEXT);
    expect(&f, TKV_K, 0, 100, before);
    assert_true(!is_exact(&f, TKV_K, 100) && is_exact(&f, TKV_K, 160));
    assert_int_equal(tkv_cache_forget(f.cache, f.layer, 0, 150, NULL), TKV_OK);
    assert_int_equal(stats(&f).visual_values, 10 * 2 * ROW);
    assert_int_equal(tkv_cache_truncate(f.cache, 0, 0, NULL), TKV_OK);
    assert_int_equal(stats(&f).n_values + stats(&f).sealed_bytes + stats(&f).open_bytes, 0);
    free(before);
    close_cache(&f);
}

static void text_replaces_single_rows(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "f16,visual.k=visual1,visual.v=visual1,sink=0,tail=0");
    put_all(&f);
    uint16_t *before = save(&f, TKV_V, 0, END);
    put(&f, 30, 40, TKV_SPAN_TEXT);
    assert_int_equal(stats(&f).visual_values, 246 * 2 * ROW);
    assert_int_equal(stats(&f).n_values, (END + 63) * 2 * ROW);
    expect(&f, TKV_V, 0, 30, before);
    expect(&f, TKV_V, 40, END, before + 40 * ROW);
    for (int64_t slot = 30; slot < 40; slot++)
        assert_true(is_exact(&f, TKV_K, slot) && is_exact(&f, TKV_V, slot));
    assert_int_equal(tkv_cache_seal(f.cache, f.layer, NULL), TKV_OK);
    assert_int_equal(stats(&f).n_pages_open, 0);
    assert_true(is_exact(&f, TKV_K, 35));
    free(before);
    close_cache(&f);
}

/* A part of the rows of one kind, as a state comes back: the classes are known. */
static void restore(struct fixture *f, tkv_kind kind, int64_t first, size_t n, const uint16_t *from)
{
    int64_t slots[200];
    uint8_t klass[200];
    for (size_t i = 0; i < n; i++) {
        slots[i] = first + (int64_t)i;
        klass[i] = slots[i] >= FIRST && slots[i] < END ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
    }
    const tkv_rows rows = {from + first * ROW, TKV_F16, ROW * sizeof *from}, none = {0};
    assert_int_equal(tkv_cache_write(f->cache, f->layer, n, slots, NULL, klass,
                                     kind == TKV_K ? rows : none, kind == TKV_V ? rows : none,
                                     NULL),
                     TKV_OK);
    assert_int_equal(tkv_cache_seal(f->cache, f->layer, NULL), TKV_OK);
}

static void restored_spans_come_back(void **state)
{
    static const char *const specs[] = {
        "f16,visual.k=visual1,visual.v=visual1",
        "f16,visual.k=visual2,visual.v=visual4,sink=0,tail=0",
        "f16,visual.k=visual1,visual.v=visual2,visual.range=quantiles"};
    (void)state;
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        struct fixture f;
        open_cache(&f, specs[i]);
        put_all(&f);
        uint16_t *rows[2] = {save(&f, TKV_K, 0, END + 63), save(&f, TKV_V, 0, END + 63)};
        const uint64_t bytes = stats(&f).visual_bytes;
        for (int cycle = 0; cycle < 3; cycle++) {
            if (cycle != 1) /* onto nothing, onto itself, onto nothing */
                assert_int_equal(tkv_cache_truncate(f.cache, 0, 0, NULL), TKV_OK);
            for (int kind = TKV_K; kind <= TKV_V; kind++)
                for (int64_t slot = 0; slot < END + 63; slot += 160)
                    restore(&f, (tkv_kind)kind, slot, 160, rows[kind]);
            expect(&f, TKV_K, 0, END + 63, rows[TKV_K]);
            expect(&f, TKV_V, 0, END + 63, rows[TKV_V]);
            assert_int_equal(stats(&f).visual_bytes, bytes); /* one span still */
        }
        free(rows[0]);
        free(rows[1]);
        close_cache(&f);
    }
}

static void copies_take_spans_along(void **state)
{
    static const int64_t to[] = {N_SLOTS, N_SLOTS + 37};
    (void)state;
    struct fixture f;
    open_cache(&f, "f16,visual.k=visual1,visual.v=visual1");
    put_all(&f);
    uint16_t *before = save(&f, TKV_K, 0, END + 63);
    const uint64_t bytes = stats(&f).visual_bytes;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(tkv_cache_copy(f.cache, f.layer, to[i], 0, END + 63, NULL), TKV_OK);
        expect(&f, TKV_K, to[i], to[i] + END + 63, before);
        assert_int_equal(stats(&f).visual_bytes, 2 * bytes);
        assert_int_equal(stats(&f).n_values, 2 * (END + 63) * 2 * ROW);
        assert_int_equal(tkv_cache_truncate(f.cache, 1, 0, NULL), TKV_OK);
    }
    /* half of it goes as rows, and is a span of its own when text follows */
    assert_int_equal(tkv_cache_copy(f.cache, f.layer, N_SLOTS, 64, 128, NULL), TKV_OK);
    expect(&f, TKV_K, N_SLOTS, N_SLOTS + 128, before + 64 * ROW);
    assert_int_equal(stats(&f).visual_values, (256 + 128) * 2 * ROW);
    put(&f, N_SLOTS + 128, N_SLOTS + 129, TKV_SPAN_TEXT);
    expect(&f, TKV_K, N_SLOTS, N_SLOTS + 128, before + 64 * ROW);
    free(before);
    close_cache(&f);
}

static void non_finite_spans_stay_exact(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "f16,visual.k=visual1,visual.v=visual1,sink=0,tail=0");
    put(&f, 0, 100, TKV_SPAN_VISUAL);
    const int64_t slot = 70;
    const uint8_t visual = TKV_SPAN_VISUAL;
    float row[ROW] = {INFINITY};
    const tkv_rows rows = {row, TKV_F32, sizeof row}, none = {0};
    assert_int_equal(tkv_cache_write(f.cache, f.layer, 1, &slot, NULL, &visual, none, rows, NULL),
                     TKV_OK);
    put(&f, 100, 101, TKV_SPAN_TEXT);
    assert_int_equal(stats(&f).sealed_bytes, 0);
    assert_int_equal(stats(&f).n_pages_unsealable, 1);
    assert_true(is_exact(&f, TKV_K, 0));
    put(&f, 70, 71, TKV_SPAN_VISUAL); /* healed */
    put(&f, 101, 102, TKV_SPAN_TEXT);
    assert_int_equal(stats(&f).n_pages_unsealable, 0);
    assert_true(!is_exact(&f, TKV_K, 0));
    close_cache(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seals_whole_before_text),   cmocka_unit_test(ranges_are_the_spans),
        cmocka_unit_test(short_spans_are_exact),     cmocka_unit_test(a_cut_span_keeps_its_codes),
        cmocka_unit_test(text_replaces_single_rows), cmocka_unit_test(restored_spans_come_back),
        cmocka_unit_test(copies_take_spans_along),   cmocka_unit_test(non_finite_spans_stay_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
