/* kvarn4, kvarn3, kvarn2 and qjl: distortion, bytes, and what each is for. */
#include "codec_page.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/half.h"

/* A step is the range of a line over 2^bits - 1; the range of n Gaussians squared is 23.1 for the 64
 * of a key line, 28.3 for the 128 of a value line (by simulation). Rounding leaves a twelfth of a
 * squared step of all but the two ends. */
static void kvarn_distortion(void **state)
{
    static const char *const names[] = {"kvarn2", "kvarn3", "kvarn4"};
    (void)state;
    for (uint32_t bits = 2; bits <= 4; bits++)
        for (int kind = TKV_K; kind <= TKV_V; kind++) {
            const double n = kind == TKV_K ? 64 : 128, range_sq = kind == TKV_K ? 23.1 : 28.3;
            const double want = range_sq / pow((1 << bits) - 1, 2) / 12 * (n - 2) / n;
            const double got = test_distortion(names[bits - 2], 128, (tkv_kind)kind, 32);
            printf("%s %c: relative error %.5f, %.5f expected\n", names[bits - 2], "KV"[kind], got,
                   want);
            assert_true(fabs(got / want - 1) < 0.08); /* few levels do not round evenly */
        }
}

/* How much larger than the smallest tokens and channels these are, for kvarn_evens_out. */
static float size_of(size_t t, size_t d)
{
    return (float)(1 + t % 7) * (float)(1 + d % 5);
}

/* What the normalisation is for: tokens and channels of all sizes lose about the same share. */
static void kvarn_evens_out(void **state)
{
    (void)state;
    enum {
        D = 80
    };
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        struct test_page p;
        double error = 0;
        test_start(&p, "kvarn4", D, (tkv_kind)kind);
        test_rows(p.x, D, ROWS_GAUSSIAN, 1);
        for (size_t i = 0; i < p.n; i++)
            p.x[i] *= size_of(i / D, i % D);
        test_encode(&p, p.x, ALL_TOKENS);
        test_decode(&p);
        for (size_t i = 0; i < p.n; i++)
            error += pow((double)((p.y[i] - p.x[i]) / size_of(i / D, i % D)), 2);
        error /= (double)p.n;
        printf("kvarn4 %c, rows and columns of all sizes: %.5f\n", "KV"[kind], error);
        assert_true(error <
                    0.025); /* measured: .020 and .018; without the iteration .053 and .041 */
        test_page_free(&p);
    }
}

static void kvarn_bytes(void **state)
{
    (void)state;
    for (uint32_t bits = 2; bits <= 4; bits++) {
        const char *const names[] = {"kvarn2", "kvarn3", "kvarn4"};
        const struct tkv_codec_ops *ops = tkv_codec_by_name(names[bits - 2]);
        for (size_t i = 0; i < N_TEST_DIMS; i++) {
            const size_t D = test_dims[i], codes = 64 * D * bits / 8;
            assert_int_equal(ops->page_bytes(test_dims[i], TKV_K), codes + 4 * D + 2 * 64);
            assert_int_equal(ops->page_bytes(test_dims[i], TKV_V), codes + 4 * 64 + 2 * D);
        }
    }
}

/* A page that was decoded keeps its codes, though its scales are found anew. */
static void kvarn_keeps_codes(void **state)
{
    (void)state;
    enum {
        D = 96
    };
    static uint8_t before[64 * D / 2];
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        struct test_page p;
        test_start(&p, "kvarn4", D, (tkv_kind)kind);
        test_rows(p.x, D, ROWS_HEAVY, 2);
        test_to_basis(&p);
        test_encode(&p, p.x, ALL_TOKENS);
        memcpy(before, p.page, sizeof before);
        for (int cycle = 0; cycle < 3; cycle++) {
            test_decode(&p);
            test_save_and_restore(&p);
            test_encode(&p, p.x, ALL_TOKENS);
            assert_memory_equal(p.page, before, sizeof before);
        }
        test_page_free(&p);
    }
}

/* The middles of octants, as long as the estimate must be: error (pi / 8) (4 + 2 sqrt(2)) / 2 - 1,
 * gain 1. */
static void qjl_distortion(void **state)
{
    (void)state;
    enum {
        D = 128
    };
    struct test_page p;
    double mse = 0, gain = 0;
    test_start(&p, "qjl", D, TKV_K);
    for (uint64_t seed = 0; seed < 32; seed++) {
        test_rows(p.x, D, ROWS_GAUSSIAN, seed);
        test_encode(&p, p.x, ALL_TOKENS);
        test_decode(&p);
        mse += test_rel_mse(p.x, p.y, p.n) / 32;
        double product = 0, energy = 0;
        for (size_t i = 0; i < p.n; i++) {
            product += (double)p.x[i] * (double)p.y[i];
            energy += (double)p.x[i] * (double)p.x[i];
        }
        gain += product / energy / 32;
    }
    printf("qjl: relative error %.4f, gain %.4f\n", mse, gain);
    assert_true(fabs(mse / 0.3408 - 1) < 0.02);
    assert_true(fabs(gain - 1) < 0.005);
    test_page_free(&p);
}

/* Scores of decoded rows are those of the sketch: sqrt(pi/2)/m * |k| * sum of +-(S q)_i over the m =
 * 2 D rows of S, sqrt(D) times the unit vectors and those turned by 45 degrees in pairs. */
static void qjl_estimates(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_TEST_DIMS; i++) {
        const uint32_t D = test_dims[i];
        const double turn = sqrt(0.5);
        struct test_page p, queries;
        test_start(&p, "qjl", D, TKV_K);
        test_start(&queries, "qjl", D, TKV_K);
        test_rows(p.x, D, ROWS_HEAVY, i);
        test_rows(queries.x, D, ROWS_GAUSSIAN, 100 + i);
        test_encode(&p, p.x, ALL_TOKENS);
        test_decode(&p);
        for (size_t t = 0; t < TOKENS; t++) {
            const float *k = p.x + t * D, *q = queries.x + t * D, *decoded = p.y + t * D;
            double norm = 0, sum = 0, got = 0, size = 0;
            for (size_t d = 0; d < D; d += 2) {
                const double ku = k[d], kv = k[d + 1], qu = q[d], qv = q[d + 1];
                norm += ku * ku + kv * kv;
                sum += copysign(1, ku) * qu + copysign(1, kv) * qv;
                sum += copysign(turn, ku + kv) * (qu + qv) + copysign(turn, ku - kv) * (qu - qv);
                got += (double)decoded[d] * qu + (double)decoded[d + 1] * qv;
                size += qu * qu + qv * qv;
            }
            const double want = sqrt(acos(0)) / (2 * D) * sqrt(norm) * sqrt(D) * sum;
            assert_true(fabs(got - want) < 0.004 * sqrt(norm * size)); /* 8 bits of the norm */
        }
        test_page_free(&p), test_page_free(&queries);
    }
}

static void qjl_refuses_values(void **state)
{
    (void)state;
    tkv_context *ctx;
    tkv_codec qjl;
    tkv_error err = {""};
    static float rows[64 * 64];
    static uint8_t page[4096];
    assert_int_equal(tkv_context_create(NULL, &ctx, &err), TKV_OK);
    assert_int_equal(tkv_codec_find("qjl", &qjl, &err), TKV_OK);
    assert_int_equal(tkv_page_bytes(qjl, TKV_V, 64), 0);
    assert_int_equal(tkv_page_bytes(qjl, TKV_K, 64), 64 * 64 / 4 + 128);
    assert_int_equal(tkv_encode(ctx, qjl, TKV_V, 64, rows, TKV_F32, sizeof(float) * 64, 64, page,
                                sizeof page, &err),
                     TKV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "keys only"));

    /* a spec made by hand, past the parser */
    tkv_spec spec;
    tkv_cache *cache;
    uint32_t layer;
    const tkv_layer_params shape = {sizeof shape, 1, 64, 64, 64, 1, 0, 0};
    assert_int_equal(tkv_spec_parse("k=qjl,v=turbo4", &spec, &err), TKV_OK);
    spec.v = spec.k;
    assert_int_equal(tkv_cache_create(ctx, &spec, &cache, &err), TKV_OK);
    assert_int_equal(tkv_cache_add_layer(cache, &shape, &layer, &err), TKV_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "keys only"));
    tkv_cache_destroy(cache);
    tkv_context_destroy(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kvarn_distortion),   cmocka_unit_test(kvarn_evens_out),
        cmocka_unit_test(kvarn_bytes),        cmocka_unit_test(kvarn_keeps_codes),
        cmocka_unit_test(qjl_distortion),     cmocka_unit_test(qjl_estimates),
        cmocka_unit_test(qjl_refuses_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
