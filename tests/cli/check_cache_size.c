/* cache_size() fills a small cache and scales; here the whole cache is filled and must take the
 * same bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cache_size.h"

static double filled_bytes(tkv_context *ctx, const tkv_spec *spec, const struct cache_shape *s)
{
    tkv_cache *cache = NULL;
    tkv_layer_params layer = {.struct_size = sizeof(layer),
                              .n_kv_heads = s->n_kv_heads,
                              .k_head_dim = s->k_head_dim,
                              .v_head_dim = s->v_head_dim,
                              .n_slots = s->n_slots,
                              .n_streams = 1};
    uint32_t index;
    assert_int_equal(tkv_cache_create(ctx, spec, &cache, NULL), TKV_OK);
    assert_int_equal(tkv_cache_add_layer(cache, &layer, &index, NULL), TKV_OK);
    const size_t row_elems =
        (size_t)s->n_kv_heads * (s->k_head_dim > s->v_head_dim ? s->k_head_dim : s->v_head_dim);
    float *row = calloc(row_elems, sizeof(*row));
    assert_non_null(row);
    for (size_t i = 0; i < row_elems; i++)
        row[i] = (float)(i % 17) - 8;
    for (uint32_t token = 0; token < s->n_tokens; token++) {
        const int64_t slot = token % s->n_slots;
        const int32_t pos = (int32_t)token;
        const tkv_rows rows = {row, TKV_F32, row_elems * sizeof(*row)};
        assert_int_equal(tkv_cache_write(cache, 0, 1, &slot, &pos, NULL, rows, rows, NULL), TKV_OK);
        if (token % 37 == 0 || token + 1 == s->n_tokens)
            assert_int_equal(tkv_cache_seal(cache, 0, NULL), TKV_OK);
    }
    tkv_cache_stats stats = {.struct_size = sizeof(stats)};
    assert_int_equal(tkv_cache_get_stats(cache, &stats), TKV_OK);
    tkv_cache_destroy(cache);
    free(row);
    return (double)(stats.sealed_bytes + stats.open_bytes + stats.meta_bytes);
}

static void check(const char *text, struct cache_shape shape)
{
    tkv_context *ctx = NULL;
    tkv_spec spec = {.struct_size = sizeof(spec)};
    double guessed = 0;
    assert_int_equal(tkv_context_create(NULL, &ctx, NULL), TKV_OK);
    assert_int_equal(tkv_spec_parse(text, &spec, NULL), TKV_OK);
    assert_int_equal(cache_size(ctx, &spec, &shape, &guessed, NULL), TKV_OK);
    const double exact = filled_bytes(ctx, &spec, &shape);
    assert_float_equal((float)(guessed / exact), 1, 0.005f);
    tkv_context_destroy(ctx);
}

static void test_long(void **state)
{
    (void)state;
    check("kv=turbo4,sink=64,tail=128", (struct cache_shape){3, 128, 64, 12288, 12288});
    check("kv=turbo4,sink=64,tail=128", (struct cache_shape){2, 64, 64, 9216, 9001});
    check("kv=turbo4,sink=0,tail=0", (struct cache_shape){5, 64, 64, 8192, 8192});
    check("kv=f16", (struct cache_shape){2, 64, 64, 8192, 8192});
}

static void test_short(void **state)
{
    (void)state;
    check("kv=turbo4,sink=64,tail=128", (struct cache_shape){4, 64, 64, 256, 100});
    check("kv=turbo4,sink=64,tail=128", (struct cache_shape){4, 64, 64, 2048, 2000});
    check("kv=turbo4,sink=64,tail=100000", (struct cache_shape){2, 64, 64, 4096, 4096});
}

static void test_ring(void **state)
{
    (void)state;
    check("kv=turbo4,sink=64,tail=128", (struct cache_shape){2, 64, 64, 1536, 1600});
    check("kv=turbo4,sink=64,tail=128", (struct cache_shape){2, 64, 64, 1536, 9000});
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_long), cmocka_unit_test(test_short),
                                       cmocka_unit_test(test_ring)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
