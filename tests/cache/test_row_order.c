/* Row order is no more than another place for the same bytes: a cache that keeps its blocks so gives
 * what one gives that does not, bit for bit, whatever happens to its rows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cache.h"
#include "tightkv/tightkv.h"

enum {
    HEADS = 2,
    GROUP = 3,
    SLOTS = 512,
    MOST_QUERIES = 40
};

struct pair {
    uint32_t dk, dv, rng;
    tkv_context *ctx;
    tkv_cache *cache[2]; /* the second one in row order */
};

static float gauss(struct pair *p)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        p->rng = p->rng * 1664525u + 1013904223u;
        sum += (float)(int32_t)p->rng * 0x1p-31f;
    }
    return sum;
}

static void open_pair(struct pair *p, const char *text, uint32_t dk, uint32_t dv)
{
    tkv_error err;
    tkv_spec spec;
    uint32_t layer;
    *p = (struct pair){.dk = dk, .dv = dv, .rng = 3};
    assert_int_equal(tkv_context_create(NULL, &p->ctx, &err), TKV_OK);
    assert_int_equal(tkv_spec_parse(text, &spec, &err), TKV_OK);
    const tkv_layer_params shape = {.struct_size = sizeof shape,
                                    .n_kv_heads = HEADS,
                                    .k_head_dim = dk,
                                    .v_head_dim = dv,
                                    .n_slots = SLOTS,
                                    .n_streams = 2};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tkv_cache_create(p->ctx, &spec, &p->cache[i], &err), TKV_OK);
        assert_int_equal(tkv_cache_add_layer(p->cache[i], &shape, &layer, &err), TKV_OK);
    }
    tkv_layer_use_rows(&p->cache[1]->layers[0]);
}

static void close_pair(struct pair *p)
{
    for (int i = 0; i < 2; i++)
        tkv_cache_destroy(p->cache[i]);
    tkv_context_destroy(p->ctx);
}

/* Rows at slots [first, first + n) of the first stream. */
static void write_rows(struct pair *p, int64_t first, size_t n)
{
    float *k = malloc(n * HEADS * p->dk * sizeof *k), *v = malloc(n * HEADS * p->dv * sizeof *v);
    int64_t *slots = malloc(n * sizeof *slots);
    int32_t *pos = malloc(n * sizeof *pos);
    tkv_error err;
    for (size_t i = 0; i < n * HEADS * p->dk; i++)
        k[i] = gauss(p);
    for (size_t i = 0; i < n * HEADS * p->dv; i++)
        v[i] = gauss(p);
    for (size_t i = 0; i < n; i++) {
        slots[i] = first + (int64_t)i;
        pos[i] = (int32_t)slots[i];
    }
    for (int i = 0; i < 2; i++) {
        const tkv_rows k_rows = {k, TKV_F32, HEADS * p->dk * sizeof *k},
                       v_rows = {v, TKV_F32, HEADS * p->dv * sizeof *v};
        assert_int_equal(tkv_cache_write(p->cache[i], 0, n, slots, pos, NULL, k_rows, v_rows, &err),
                         TKV_OK);
        assert_int_equal(tkv_cache_seal(p->cache[i], 0, &err), TKV_OK);
    }
    free(k), free(v), free(slots), free(pos);
}

static void compare_reads(struct pair *p)
{
    const size_t row = HEADS * (p->dk > p->dv ? p->dk : p->dv);
    float *rows[2] = {malloc(2 * SLOTS * row * sizeof(float)),
                      malloc(2 * SLOTS * row * sizeof(float))};
    int64_t slots[2 * SLOTS];
    tkv_error err;
    for (int64_t i = 0; i < 2 * SLOTS; i++)
        slots[i] = i;
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        for (int i = 0; i < 2; i++) {
            memset(rows[i], 0, 2 * SLOTS * row * sizeof(float));
            assert_int_equal(tkv_cache_read(p->cache[i], 0, (tkv_kind)kind, 2 * SLOTS, slots,
                                            rows[i], TKV_F32, row * sizeof(float), &err),
                             TKV_OK);
        }
        assert_memory_equal(rows[0], rows[1], 2 * SLOTS * row * sizeof(float));
    }
    free(rows[0]), free(rows[1]);
}

static void compare_attention(struct pair *p, uint32_t n_q, size_t n_kv, uint32_t flags)
{
    const size_t n = (size_t)n_q * HEADS * GROUP;
    float *q = malloc(n * p->dk * sizeof *q);
    float *out[2] = {malloc(n * p->dv * sizeof(float)), malloc(n * p->dv * sizeof(float))};
    int32_t q_pos[MOST_QUERIES];
    tkv_error err;
    for (size_t i = 0; i < n * p->dk; i++)
        q[i] = gauss(p);
    for (uint32_t i = 0; i < n_q; i++)
        q_pos[i] = (int32_t)(n_kv - n_q + i);
    for (int i = 0; i < 2; i++) {
        tkv_attend_params params;
        tkv_attend_params_default(&params);
        params.n_q = n_q;
        params.n_q_heads = HEADS * GROUP;
        params.q = q;
        params.q_pos = q_pos;
        params.q_head_stride = p->dk * sizeof *q;
        params.q_token_stride = HEADS * GROUP * params.q_head_stride;
        params.n_kv = n_kv;
        params.scale = 1 / sqrtf((float)p->dk);
        params.out = out[i];
        params.out_head_stride = p->dv * sizeof(float);
        params.out_token_stride = HEADS * GROUP * params.out_head_stride;
        params.flags = flags;
        assert_int_equal(tkv_attend(p->cache[i], &params, &err), TKV_OK);
    }
    assert_memory_equal(out[0], out[1], n * p->dv * sizeof(float));
    free(q), free(out[0]), free(out[1]);
}

static void compare(struct pair *p, size_t n_kv)
{
    compare_reads(p);
    compare_attention(p, 1, n_kv, 0);
    compare_attention(p, MOST_QUERIES, n_kv, 0);
    compare_attention(p, 2, n_kv, TKV_ATTEND_EXACT);
}

static void is_what_the_other_is(const char *spec, uint32_t dk, uint32_t dv)
{
    struct pair p;
    tkv_error err;
    open_pair(&p, spec, dk, dv);
    write_rows(&p, 0, 300);
    compare(&p, 300);
    write_rows(&p, 70, 10); /* a sealed page opens */
    write_rows(&p, 300, 70);
    compare(&p, 370);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tkv_cache_copy(p.cache[i], 0, SLOTS + 64, 64, 200, &err), TKV_OK);
        assert_int_equal(tkv_cache_copy(p.cache[i], 0, 389, 5, 77, &err), TKV_OK);
        assert_int_equal(tkv_cache_forget(p.cache[i], 0, 130, 20, &err), TKV_OK);
    }
    compare(&p, 466);
    close_pair(&p);
}

static void blocks_in_rows_change_nothing(void **state)
{
    static const char *const specs[] = {
        "k=turbo4,v=turbo4,sink=4,tail=64", "k=q8,v=turbo3,sink=0,tail=0",
        "k=f16,v=turbo2,sink=4,tail=32", "k=turbo3,v=bf16,sink=0,tail=0",
        "k=turbo2,v=q8,sink=4,tail=64"};
    static const uint32_t dims[][2] = {{128, 128}, {64, 80}, {112, 96}, {256, 64}, {80, 192}};
    (void)state;
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < 5; j++)
            is_what_the_other_is(specs[i], dims[j][0], dims[j][1]);
}

static void strict_codes_in_rows_too(void **state)
{
    struct pair p;
    (void)state;
    open_pair(&p, "k=turbo4,v=turbo3,sink=4,tail=32", 128, 128);
    for (int i = 0; i < 2; i++)
        p.cache[i]->spec.strict = 1;
    write_rows(&p, 0, 200);
    compare(&p, 200);
    close_pair(&p);
}

static void other_codecs_keep_their_pages(void **state)
{
    struct pair p;
    (void)state;
    open_pair(&p, "k=turbo4c,v=turbo4,sink=0,tail=0", 64, 64);
    assert_false(tkv_in_rows(&p.cache[1]->layers[0]));
    close_pair(&p);
    is_what_the_other_is("k=turbo4,v=kivi4,sink=0,tail=0", 64, 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_in_rows_change_nothing),
        cmocka_unit_test(strict_codes_in_rows_too),
        cmocka_unit_test(other_codecs_keep_their_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
