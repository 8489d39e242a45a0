/* rvq: how it packs, what its search finds, what it leaves of Gaussian rows, and which books it
 * refuses. */
#include "codec_page.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "format/rvq.h"
#include "support/made_book.h"

enum {
    D = 128,
    N_GROUPS = D / TKV_RVQ_DIM
};

static const char *const names[] = {"rvq4", "rvq6", "rvq8"};
static const uint32_t stages[] = {4, 6, 8};

static double error_with_beam(const char *name, uint32_t beam, uint64_t n_pages)
{
    struct test_page p;
    double error = 0;
    test_start(&p, name, D, TKV_V);
    p.env.beam = beam;
    for (uint64_t seed = 0; seed < n_pages; seed++) {
        test_rows(p.x, D, ROWS_GAUSSIAN, seed);
        test_encode(&p, p.x, ALL_TOKENS);
        test_decode(&p);
        error += test_rel_mse(p.x, p.y, p.n) / (double)n_pages;
    }
    test_page_free(&p);
    return error;
}

/* 46 bytes a row of 128 at 8 stages: 32 codes of 11 bits and a scale. */
static void sizes(void **state)
{
    (void)state;
    assert_int_equal(tkv_codec_by_name("rvq8")->page_bytes(128, TKV_K), TOKENS * 46);
    for (size_t i = 0; i < 3; i++)
        for (uint32_t dim = 32; dim <= 256; dim += 32)
            assert_int_equal(8 * tkv_codec_by_name(names[i])->page_bytes(dim, TKV_V),
                             TOKENS * (16 + dim / 32 * stages[i] * 11));
}

/* Code 0x5a3 is a low byte of 0xa3 and bits 8 and 10. */
static void packing(void **state)
{
    (void)state;
    uint8_t unit[TKV_RVQ_UNIT_BYTES] = {0};
    unit[0] = 0xa3;
    unit[TOKENS] = 1;
    unit[TOKENS + 16] = 1;
    unit[63] = 0xff;
    for (int plane = 0; plane < 3; plane++)
        unit[TOKENS + 8 * plane + 7] = 0x80;
    assert_int_equal(tkv_rvq_code(unit, 0), 0x5a3);
    assert_int_equal(tkv_rvq_code(unit, 1), 0);
    assert_int_equal(tkv_rvq_code(unit, 63), 2047);
}

/* What fewer stages code is what more begin with. */
static void fewer_stages_are_a_prefix(void **state)
{
    (void)state;
    struct test_page whole, part;
    test_start(&whole, "rvq8", D, TKV_K);
    test_rows(whole.x, D, ROWS_HEAVY, 1);
    test_encode(&whole, whole.x, ALL_TOKENS);
    for (size_t i = 0; i < 2; i++) {
        test_start(&part, names[i], D, TKV_K);
        test_encode(&part, whole.x, ALL_TOKENS);
        assert_memory_equal(part.page, whole.page, part.bytes);
        test_page_free(&part);
    }
    test_page_free(&whole);
}

/* The scale is the unbiased deviation, not less than what brings the largest value in reach; a row
 * of zeros is a row of zeros. */
static void scales(void **state)
{
    (void)state;
    struct test_page p;
    test_start(&p, "rvq8", D, TKV_V);
    memset(p.x, 0, p.n * sizeof *p.x);
    for (int d = 0; d < D; d++)
        p.x[D + d] = d % 2 ? 3.0f : -1.0f; /* deviation 2 * sqrt(128 / 127) */
    p.x[2 * D] = 127.0f;
    for (int d = 0; d < D; d++)
        p.x[3 * D + d] = 5.0f;
    test_encode(&p, p.x, ALL_TOKENS);
    test_decode(&p);
    const float step = 1.0f / 24;
    assert_int_equal(tkv_load_half(p.page), 0);
    assert_int_equal(tkv_load_half(p.page + 2), tkv_f32_to_half(2.0f * sqrtf(128.0f / 127)));
    assert_int_equal(tkv_load_half(p.page + 4), tkv_f32_to_half(24));
    assert_int_equal(tkv_load_half(p.page + 6), tkv_f32_to_half(5 / (127 * step)));
    for (int d = 0; d < D; d++)
        assert_true(p.y[d] == 0);
    test_page_free(&p);
}

/* Every stage takes the code nearest to what is left, the first of equals: a row that is a code of
 * the first stage has it, and where that code comes twice, the first. */
static void first_of_equals(void **state)
{
    (void)state;
    struct made_book *book = made_book_new();
    const size_t n = TKV_RVQ_STAGES * TKV_RVQ_BOOK_BYTES;
    const float step = 1.0f / 32;
    int8_t *codes = calloc(n, 1);
    for (int i = 0; i < TKV_RVQ_DIM; i++) /* the same code at three places */
        codes[1030 * 32 + i] = codes[70 * 32 + i] = codes[71 * 32 + i] = (int8_t)(i % 2 ? 32 : -32);
    made_book_add(book, TKV_GGUF_I8, (const uint64_t[3]){32, 2048, 8}, codes,
                  "rvq.blk.0.attn_v.codes");
    made_book_add(book, TKV_GGUF_F32, (const uint64_t[3]){1, 1, 1}, &step, "rvq.blk.0.attn_v.step");
    struct test_page p;
    struct tkv_gguf file;
    const struct tkv_place place = {.n_heads = 1};
    size_t n_bytes;
    test_start(&p, "rvq8", D, TKV_V);
    const uint8_t *bytes = made_book_bytes(book, &n_bytes);
    assert_int_equal(tkv_gguf_open(bytes, n_bytes, &file, NULL), TKV_OK);
    assert_int_equal(p.ops->bind(&p.env, &file, &place, p.model, NULL), TKV_OK);
    for (size_t i = 0; i < p.n; i++)
        p.x[i] = i % 2 ? 1 : -1;
    for (uint32_t beam = 1; beam <= TKV_SPEC_MOST_BEAM; beam += 3) {
        p.env.beam = beam;
        test_encode(&p, p.x, ALL_TOKENS);
        const uint8_t *unit = p.page + 2 * TOKENS;
        for (uint32_t i = 0; i < TKV_RVQ_STAGES * N_GROUPS; i++, unit += TKV_RVQ_UNIT_BYTES)
            assert_int_equal(tkv_rvq_code(unit, 5), i < N_GROUPS ? 70 : 0);
    }
    test_page_free(&p);
    made_book_free(book);
    free(codes);
}

/* More stages and wider beams leave less. */
static void beams(void **state)
{
    (void)state;
    double before = 1;
    for (size_t i = 0; i < 3; i++) {
        const double greedy = error_with_beam(names[i], 1, 4),
                     two = error_with_beam(names[i], 2, 4), four = error_with_beam(names[i], 4, 4),
                     eight = error_with_beam(names[i], 8, 4);
        printf("%s: beam 1 %.4f, 2 %.4f, 4 %.4f, 8 %.4f\n", names[i], greedy, two, four, eight);
        assert_true(greedy < before && two < greedy && four < two && eight < four);
        assert_true(error_with_beam(names[i], 0, 1) == error_with_beam(names[i], 1, 1));
        before = greedy;
    }
}

/* ---- books ------------------------------------------------------------------------------------ */

static void refuses(enum tkv_gguf_type codes_type, uint64_t n_codes, float step, tkv_status want,
                    const char *says)
{
    tkv_error err = {0};
    struct made_book *book = made_book_new();
    float *zeros = calloc((size_t)n_codes + 1, sizeof *zeros);
    const struct tkv_codec_ops *ops = tkv_codec_by_name("rvq6");
    const struct tkv_codec_env env = {.head_dim = 64, .kind = TKV_K};
    const struct tkv_place place = {.n_heads = 1};
    struct tkv_gguf file;
    size_t n_bytes;
    void *model = aligned_alloc(64, 64);
    assert_in_range(ops->model_bytes(64), 1, 64);
    if (n_codes)
        made_book_add(book, codes_type, (const uint64_t[3]){32, 2048, n_codes / 65536}, zeros,
                      "rvq.blk.0.attn_k.codes");
    made_book_add(book, TKV_GGUF_F32, (const uint64_t[3]){1, 1, 1}, &step, "rvq.blk.0.attn_k.step");
    const uint8_t *bytes = made_book_bytes(book, &n_bytes);
    assert_int_equal(tkv_gguf_open(bytes, n_bytes, &file, &err), TKV_OK);
    assert_int_equal(ops->bind(&env, &file, &place, model, &err), want);
    if (says && !strstr(err.text, says))
        fail_msg("'%s' does not say '%s'", err.text, says);
    made_book_free(book);
    free(zeros);
    free(model);
}

static void books(void **state)
{
    (void)state;
    refuses(TKV_GGUF_I8, 8 * 65536, 0.05f, TKV_OK, NULL);
    refuses(TKV_GGUF_I8, 6 * 65536, 0.05f, TKV_OK, NULL);
    refuses(TKV_GGUF_I8, 0, 0.05f, TKV_ERR_UNSUPPORTED, "tightkv calibrate MODEL --train rvq");
    refuses(TKV_GGUF_I8, 5 * 65536, 0.05f, TKV_ERR_CORRUPT, "rvq6");
    refuses(TKV_GGUF_F32, 8 * 65536, 0.05f, TKV_ERR_CORRUPT, "rvq6");
    refuses(TKV_GGUF_I8, 8 * 65536, 0, TKV_ERR_CORRUPT, "step");
    refuses(TKV_GGUF_I8, 8 * 65536, -1, TKV_ERR_CORRUPT, "step");
    refuses(TKV_GGUF_I8, 8 * 65536, NAN, TKV_ERR_CORRUPT, "step");
    refuses(TKV_GGUF_I8, 8 * 65536, INFINITY, TKV_ERR_CORRUPT, "step");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),           cmocka_unit_test(packing),
        cmocka_unit_test(scales),          cmocka_unit_test(fewer_stages_are_a_prefix),
        cmocka_unit_test(first_of_equals), cmocka_unit_test(beams),
        cmocka_unit_test(books),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
