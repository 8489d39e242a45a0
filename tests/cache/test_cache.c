/* What seals when, what comes back, and what copies and forgets. Random operations against a naive
 * model are in fuzz/cache_ops.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "tightkv/tightkv.h"

#define D 64

struct fixture {
    tkv_context *ctx;
    tkv_cache *cache;
    uint32_t layer;
};

static void open_cache(struct fixture *f, const char *text, uint32_t n_slots, uint32_t n_streams)
{
    tkv_error err;
    tkv_spec spec;
    const tkv_layer_params shape = {.struct_size = sizeof(shape),
                                    .n_kv_heads = 2,
                                    .k_head_dim = D,
                                    .v_head_dim = D,
                                    .n_slots = n_slots,
                                    .n_streams = n_streams};
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

/* Element c of row `tag`: any fixed, row-dependent values that f16 holds. */
static float value(uint32_t tag, uint32_t c)
{
    uint32_t x = tag * 2654435761u + c * 40503u;
    x ^= x >> 13;
    x *= 0x5bd1e995u;
    return (float)((int32_t)(x >> 20) - 2048) / 512.0f;
}

static void put_class(struct fixture *f, int64_t slot, int32_t pos, uint32_t tag, uint8_t klass)
{
    float row[2 * D];
    for (uint32_t c = 0; c < 2 * D; c++)
        row[c] = value(tag, c);
    const tkv_rows rows = {row, TKV_F32, 0};
    assert_int_equal(tkv_cache_write(f->cache, f->layer, 1, &slot, &pos, &klass, rows, rows, NULL),
                     TKV_OK);
}

static void put(struct fixture *f, int64_t slot, int32_t pos, uint32_t tag)
{
    put_class(f, slot, pos, tag, TKV_SPAN_TEXT);
}

static void seal(struct fixture *f)
{
    assert_int_equal(tkv_cache_seal(f->cache, f->layer, NULL), TKV_OK);
}

static tkv_cache_stats stats(const struct fixture *f)
{
    tkv_cache_stats s = {.struct_size = sizeof s};
    assert_int_equal(tkv_cache_get_stats(f->cache, &s), TKV_OK);
    return s;
}

/* Squared distance of the row at `slot` from row `tag`, over its norm. */
static double distance(struct fixture *f, int64_t slot, uint32_t tag)
{
    float row[2 * D];
    double error = 0, norm = 0;
    assert_int_equal(tkv_cache_read(f->cache, f->layer, TKV_K, 1, &slot, row, TKV_F32, 0, NULL),
                     TKV_OK);
    for (uint32_t c = 0; c < 2 * D; c++) {
        error += (row[c] - value(tag, c)) * (row[c] - value(tag, c));
        norm += value(tag, c) * value(tag, c);
    }
    return error / norm;
}

static void sink_and_tail_stay_exact(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "turbo4,sink=64,tail=100", 1024, 1);
    for (uint32_t t = 0; t < 512; t++) {
        put(&f, t, (int32_t)t, t);
        seal(&f);
    }
    /* page 0 holds the sink; of 512 rows the newest 100 stay: pages 1 to 5 (to slot 384) are due, 6
     * and 7 are not */
    assert_int_equal(stats(&f).n_pages_sealed, 5);
    assert_int_equal(stats(&f).n_pages_open, 3);
    /* what is not the codes of two heads' keys and values is a scale a row, of two bytes */
    assert_int_equal(stats(&f).sealed_bytes - stats(&f).side_bytes, 5 * 4 * 64 * D / 2);
    assert_int_equal(stats(&f).side_bytes, 5 * 4 * 64 * 2);
    for (uint32_t t = 0; t < 512; t++)
        if (t < 64 || t >= 384)
            assert_true(distance(&f, t, t) == 0);
        else
            assert_true(distance(&f, t, t) > 1e-4 && distance(&f, t, t) < 0.03);
    close_cache(&f);
}

/* Four sequences in one stream: a row leaves the tail after tail * 4 writes. */
static void interleaved_sequences_share_the_tail(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "turbo4,sink=0,tail=64", 1024, 1);
    float row[4 * 2 * D] = {0};
    const tkv_rows rows = {row, TKV_F32, 2 * D * sizeof(float)};
    for (int32_t step = 0; step < 80; step++) {
        const int64_t slots[4] = {4 * step, 4 * step + 1, 4 * step + 2, 4 * step + 3};
        const int32_t pos[4] = {step, step + 500, step + 1000, step + 1500};
        assert_int_equal(tkv_cache_write(f.cache, f.layer, 4, slots, pos, NULL, rows, rows, NULL),
                         TKV_OK);
        seal(&f);
        /* after step s, 4s + 4 rows; the first page (64 rows) is due when 256 came after it */
        assert_int_equal(stats(&f).n_pages_sealed, 4 * step + 4 >= 64 + 256 ? 1 : 0);
    }
    close_cache(&f);
}

static void a_written_slot_reopens_its_page(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "turbo4,sink=0,tail=0", 256, 1);
    for (uint32_t t = 0; t < 64; t++)
        put(&f, t, (int32_t)t, t);
    seal(&f);
    assert_int_equal(stats(&f).n_pages_sealed, 1);
    float before[64][2 * D], after[64][2 * D];
    int64_t slots[64];
    for (int64_t t = 0; t < 64; t++)
        slots[t] = t;
    assert_int_equal(
        tkv_cache_read(f.cache, f.layer, TKV_V, 64, slots, before, TKV_F32, sizeof before[0], NULL),
        TKV_OK);
    put(&f, 10, 500, 1000);
    assert_int_equal(stats(&f).n_pages_sealed, 0);
    assert_true(distance(&f, 10, 1000) == 0);
    seal(&f);
    assert_int_equal(stats(&f).n_pages_sealed, 1);
    assert_int_equal(
        tkv_cache_read(f.cache, f.layer, TKV_V, 64, slots, after, TKV_F32, sizeof after[0], NULL),
        TKV_OK);
    for (int t = 0; t < 64; t++) /* the untouched rows have returned to the same codes */
        if (t != 10)
            assert_memory_equal(before[t], after[t], sizeof before[t]);
    assert_true(distance(&f, 10, 1000) < 0.03);
    close_cache(&f);
}

/* One text row, 100 visual ones, text: of pages 0 and 1 rows are in a span. */
static uint8_t class_of(uint32_t t)
{
    return t >= 1 && t < 101 ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
}

static void visual_rows_have_their_own_codec(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "f16,visual.k=turbo3,visual.v=turbo3,sink=0,tail=0", 256, 1);
    for (uint32_t t = 0; t < 192; t++)
        put_class(&f, t, (int32_t)t, t, class_of(t));
    seal(&f);
    assert_int_equal(stats(&f).n_pages_sealed, 5); /* two of them the span's */
    const tkv_cache_stats s = stats(&f);
    const uint64_t per_row = 2 * 2 * D, text_page = 64 * per_row * 2;
    assert_int_equal(s.visual_values, 100 * per_row);
    assert_int_equal(s.sealed_bytes, 3 * text_page + s.visual_bytes);
    assert_true(s.visual_bytes < text_page / 2);
    for (int again = 0; again < 2; again++) {
        for (uint32_t t = 0; t < 192; t++)
            if (class_of(t) == TKV_SPAN_TEXT)
                assert_true(distance(&f, t, t) == 0);
            else
                assert_true(distance(&f, t, t) > 1e-3 && distance(&f, t, t) < 0.1);
        put(&f, 0, 0, 0); /* opens a page that has rows in a span */
        assert_int_equal(stats(&f).visual_values, 100 * per_row);
        seal(&f);
    }
    assert_int_equal(stats(&f).visual_bytes, s.visual_bytes);
    assert_int_equal(tkv_cache_copy(f.cache, f.layer, 192, 0, 64, NULL), TKV_OK);
    assert_true(distance(&f, 192, 0) == 0 && distance(&f, 193, 1) > 1e-3);
    assert_int_equal(stats(&f).visual_values, 163 * per_row);
    close_cache(&f);
}

/* Without codecs of their own, visual rows share pages with text; they are still counted. */
static void visual_rows_without_a_codec_are_text(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "turbo4,sink=0,tail=0", 256, 1);
    for (uint32_t t = 0; t < 128; t++)
        put_class(&f, t, (int32_t)t, t, class_of(t));
    seal(&f);
    const tkv_cache_stats s = stats(&f);
    assert_int_equal(s.visual_values, 100 * 2 * 2 * D);
    assert_int_equal(s.visual_bytes, s.sealed_bytes / 2 * 63 / 64 + s.sealed_bytes / 2 * 37 / 64);
    close_cache(&f);
}

static void non_finite_pages_never_seal(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "turbo4,sink=0,tail=0", 256, 1);
    for (uint32_t t = 0; t < 128; t++)
        put(&f, t, (int32_t)t, t);
    float row[2 * D] = {0};
    row[5] = 1e6f; /* an infinity in f16 */
    const int64_t slot = 70;
    const tkv_rows rows = {row, TKV_F32, 0}, none = {NULL, TKV_F32, 0};
    assert_int_equal(tkv_cache_write(f.cache, f.layer, 1, &slot, NULL, NULL, none, rows, NULL),
                     TKV_OK);
    seal(&f);
    assert_int_equal(stats(&f).n_pages_sealed, 1);
    assert_int_equal(stats(&f).n_pages_unsealable, 1);
    put(&f, 70, 70, 70); /* healed */
    seal(&f);
    assert_int_equal(stats(&f).n_pages_sealed, 2);
    assert_int_equal(stats(&f).n_pages_unsealable, 0);
    close_cache(&f);
}

static void copies_between_streams(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "turbo4,sink=16,tail=0", 256, 3);
    for (uint32_t t = 0; t < 150; t++)
        put(&f, t, (int32_t)t, t);
    seal(&f);
    assert_int_equal(tkv_cache_copy(f.cache, f.layer, 256, 0, 256, NULL),
                     TKV_OK); /* page by page */
    assert_int_equal(tkv_cache_copy(f.cache, f.layer, 512 + 33, 0, 150, NULL),
                     TKV_OK); /* row by row */
    float a[2 * D], b[2 * D], c[2 * D];
    for (int64_t t = 0; t < 150; t++) {
        const int64_t second = 256 + t, third = 512 + 33 + t;
        assert_int_equal(tkv_cache_read(f.cache, f.layer, TKV_K, 1, &t, a, TKV_F32, 0, NULL),
                         TKV_OK);
        assert_int_equal(tkv_cache_read(f.cache, f.layer, TKV_K, 1, &second, b, TKV_F32, 0, NULL),
                         TKV_OK);
        assert_int_equal(tkv_cache_read(f.cache, f.layer, TKV_K, 1, &third, c, TKV_F32, 0, NULL),
                         TKV_OK);
        assert_memory_equal(a, b, sizeof a);
        for (uint32_t i = 0; i < 2 * D; i++) /* through f16 */
            assert_true(c[i] == tkv_half_to_f32(tkv_f32_to_half(a[i])));
    }
    assert_int_equal(stats(&f).n_values, 3 * 150 * 2 * 2 * D);
    assert_int_equal(tkv_cache_copy(f.cache, f.layer, 10, 0, 20, NULL), TKV_ERR_INVALID);
    assert_int_equal(tkv_cache_copy(f.cache, f.layer, 700, 0, 100, NULL), TKV_ERR_RANGE);
    close_cache(&f);
}

static void forgetting_gives_memory_back(void **state)
{
    (void)state;
    struct fixture f;
    open_cache(&f, "turbo4,sink=0,tail=0", 200, 2); /* a stream's last page is short */
    for (uint32_t t = 0; t < 400; t++)
        put(&f, t, (int32_t)(t % 200), t);
    seal(&f);
    assert_int_equal(stats(&f).n_values, 400 * 2 * 2 * D);
    assert_int_equal(tkv_cache_truncate(f.cache, 0, 100, NULL), TKV_OK);
    assert_int_equal(stats(&f).n_values, 300 * 2 * 2 * D);
    float row[2 * D];
    const int64_t gone = 150, kept = 99, other = 350;
    assert_int_equal(tkv_cache_read(f.cache, f.layer, TKV_K, 1, &gone, row, TKV_F32, 0, NULL),
                     TKV_OK);
    for (uint32_t c = 0; c < 2 * D; c++)
        assert_true(row[c] == 0);
    assert_true(distance(&f, kept, 99) < 0.03);
    assert_true(distance(&f, other, 350) < 0.03);
    assert_int_equal(tkv_cache_forget(f.cache, f.layer, 0, 400, NULL), TKV_OK);
    const tkv_cache_stats s = stats(&f);
    assert_int_equal(s.n_values + s.open_bytes + s.sealed_bytes + s.n_pages_open + s.n_pages_sealed,
                     0);
    assert_int_equal(tkv_cache_forget(f.cache, f.layer, 399, 2, NULL), TKV_ERR_RANGE);
    assert_int_equal(tkv_cache_truncate(f.cache, 2, 0, NULL), TKV_ERR_RANGE);
    close_cache(&f);
}

static void a_bad_slot_writes_nothing(void **state)
{
    (void)state;
    struct fixture f;
    tkv_error err;
    open_cache(&f, "turbo4", 100, 1);
    float row[2 * 2 * D] = {0};
    const int64_t slots[2] = {5, 100};
    const tkv_rows rows = {row, TKV_F32, 2 * D * sizeof(float)};
    assert_int_equal(tkv_cache_write(f.cache, f.layer, 2, slots, NULL, NULL, rows, rows, &err),
                     TKV_ERR_RANGE);
    assert_non_null(strstr(err.text, "slot 100"));
    assert_int_equal(stats(&f).n_values, 0);
    const tkv_layer_params odd = {.struct_size = sizeof(odd),
                                  .n_kv_heads = 1,
                                  .k_head_dim = 72,
                                  .v_head_dim = 64,
                                  .n_slots = 64,
                                  .n_streams = 1};
    uint32_t layer;
    assert_int_equal(tkv_cache_add_layer(f.cache, &odd, &layer, &err), TKV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "72"));
    close_cache(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sink_and_tail_stay_exact),
        cmocka_unit_test(interleaved_sequences_share_the_tail),
        cmocka_unit_test(a_written_slot_reopens_its_page),
        cmocka_unit_test(visual_rows_have_their_own_codec),
        cmocka_unit_test(visual_rows_without_a_codec_are_text),
        cmocka_unit_test(non_finite_pages_never_seal),
        cmocka_unit_test(copies_between_streams),
        cmocka_unit_test(forgetting_gives_memory_back),
        cmocka_unit_test(a_bad_slot_writes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
