/* tight: what its trellis leaves, how many bytes its pages take, and which books it refuses. */
#include "codec_page.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/trellis.h"
#include "support/made_book.h"

enum {
    D = 128
};

/* Relative error of Gaussian columns at one rate. */
static double left_over(const struct tkv_kernels *k, uint32_t rate, uint64_t seed)
{
    uint8_t bits[D], *windows = malloc(TOKENS * D);
    float reach[D], *rows = malloc(TOKENS * D * sizeof *rows), *columns = malloc(TOKENS * D * 4);
    const float step = TKV_TRELLIS_STEP * tkv_trellis_unit[rate]; /* of a level */
    void *scratch = aligned_alloc(64, TKV_TRELLIS_SCRATCH_BYTES);
    double error = 0;
    memset(bits, (int)rate, sizeof bits);
    test_rows(rows, D, ROWS_GAUSSIAN, seed);
    for (int i = 0; i < TOKENS * D; i++)
        columns[i % D * TOKENS + i / D] = rows[i] / step;
    for (int d = 0; d < D; d++)
        reach[d] = 3 * step * exp2f((float)rate);
    k->trellis_codes(columns, bits, reach, D, windows, scratch);
    for (int i = 0; i < TOKENS * D; i++) {
        const double e =
            (double)(columns[i] - (float)tkv_trellis_levels[rate][windows[i]]) * (double)step;
        error += e * e / (TOKENS * D);
    }
    free(windows), free(rows), free(columns), free(scratch);
    return error;
}

/* Lloyd-Max leaves .363, .118, .0345, .0095; the limit is 4^-rate. */
static void distortion(void **state)
{
    static const double want[TKV_TRELLIS_BITS + 1] = {1,     .288,   .0784,  .0203,
                                                      .0056, .00166, .00075, .00034};
    struct test_level levels[MAX_LEVELS];
    (void)state;
    const struct tkv_kernels *k = &levels[test_levels(levels) - 1].kernels;
    for (uint32_t rate = 1; rate <= TKV_TRELLIS_BITS; rate++) {
        double got = 0;
        for (uint64_t seed = 0; seed < 8; seed++)
            got += left_over(k, rate, seed) / 8;
        printf("%u bits: %.5f, %.5f expected\n", rate, got, want[rate]);
        assert_true(fabs(got / want[rate] - 1) < 0.02);
    }
}

/* A gain a row, and the bits of the book. */
static void sizes(void **state)
{
    static const char *const names[] = {"tight4", "tight3", "tight2.5", "tight2", "tight1"};
    size_t last = 0;
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct test_page p;
        size_t code_bytes;
        test_start(&p, names[i], D, TKV_K);
        assert_int_equal(p.ops->bound_bytes(&p.env, &code_bytes), p.bytes);
        assert_int_equal(p.bytes, TOKENS + code_bytes);
        assert_true(i == 0 || p.bytes < last);
        last = p.bytes;
        test_page_free(&p);
    }
}

/* Without a book: rows of any size, at the mean of what two neighbouring rates leave or less. */
static void without_a_book(void **state)
{
    static const struct {
        const char *name;
        double want;
    } codecs[] = {{"tight4", .00505}, {"tight3", .0184}, {"tight2", .0710}, {"tight1", .263}};
    float sign[D];
    (void)state;
    for (int d = 0; d < D; d++)
        sign[d] = d % 3 ? 1 : -1;
    for (size_t i = 0; i < 2 * sizeof codecs / sizeof codecs[0]; i++) {
        struct test_page p;
        size_t code_bytes;
        const struct tkv_place place = {.n_heads = 1, .sign = sign};
        test_start(&p, codecs[i / 2].name, D, (tkv_kind)(i % 2));
        assert_int_equal(p.ops->bind(&p.env, NULL, &place, p.model, NULL), TKV_OK);
        p.bytes = p.ops->bound_bytes(&p.env, &code_bytes);
        assert_int_equal(p.bytes % 64, 0);
        free(p.page);
        p.page = aligned_alloc(64, p.bytes + 64);
        test_rows(p.x, D, ROWS_GAUSSIAN, i);
        for (size_t j = 0; j < p.n; j++)
            p.x[j] *= exp2f((float)(j / D % 12) - 6);
        test_encode(&p, p.x, ALL_TOKENS);
        test_decode(&p);
        for (size_t j = 0; j < p.n; j++) {
            p.x[j] *= exp2f(6 - (float)(j / D % 12));
            p.y[j] *= exp2f(6 - (float)(j / D % 12));
        }
        const double got = test_rel_mse(p.x, p.y, p.n);
        printf("%s without a book: %.4f bits, %.4f\n", p.ops->name,
               8.0 * (double)p.bytes / (double)p.n, got);
        assert_true(got < 1.02 * codecs[i / 2].want && got > 0.94 * codecs[i / 2].want);
        test_page_free(&p);
    }
}

/* ---- books ------------------------------------------------------------------------------------ */

static tkv_status bind(struct made_book *book, tkv_error *err)
{
    const struct tkv_codec_ops *ops = tkv_codec_by_name("tight3");
    const struct tkv_codec_env env = {.head_dim = 16, .kind = TKV_K};
    const struct tkv_place place = {.n_heads = 1};
    void *model = aligned_alloc(64, (ops->model_bytes(16) + 63) / 64 * 64);
    struct tkv_gguf file;
    size_t n_bytes;
    const uint8_t *bytes = made_book_bytes(book, &n_bytes);
    assert_int_equal(tkv_gguf_open(bytes, n_bytes, &file, err), TKV_OK);
    const tkv_status status = ops->bind(&env, &file, &place, model, err);
    free(model);
    return status;
}

/* A book for heads of 16 with one tensor of its own. */
static void refuses(const char *name, enum tkv_gguf_type type, const uint64_t dims[3],
                    const void *data, tkv_status want)
{
    tkv_error err = {0};
    struct made_book *book = made_book_new();
    if (name)
        made_book_add(book, type, dims, data, name); /* the first of a name counts */
    if (want != TKV_ERR_UNSUPPORTED)
        made_book_tight(book, 0, 1, 16, 1);
    assert_int_equal(bind(book, &err), want);
    if (want != TKV_OK)
        printf("%s\n", err.text);
    made_book_free(book);
}

static void books(void **state)
{
    float values[256] = {0};
    int8_t bits[16] = {8};
    (void)state;
    refuses(NULL, 0, NULL, NULL, TKV_OK);
    refuses("blk.1.attn_k.to", TKV_GGUF_F32, (uint64_t[]){16, 16, 1}, values, TKV_ERR_UNSUPPORTED);
    refuses("blk.0.attn_k.to", TKV_GGUF_F32, (uint64_t[]){8, 16, 1}, values, TKV_ERR_CORRUPT);
    refuses("blk.0.attn_k.to", TKV_GGUF_I8, (uint64_t[]){16, 16, 1}, values, TKV_ERR_CORRUPT);
    refuses("tight3.blk.0.attn_k.bits", TKV_GGUF_I8, (uint64_t[]){16, 1, 1}, bits, TKV_ERR_CORRUPT);
    refuses("tight3.blk.0.attn_k.bits", TKV_GGUF_I32, (uint64_t[]){16, 1, 1}, values,
            TKV_ERR_CORRUPT);
    values[3] = NAN;
    refuses("blk.0.attn_k.weight", TKV_GGUF_F32, (uint64_t[]){16, 1, 1}, values, TKV_ERR_CORRUPT);
    refuses("blk.0.attn_k.back", TKV_GGUF_F32, (uint64_t[]){16, 16, 1}, values, TKV_ERR_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distortion),
        cmocka_unit_test(sizes),
        cmocka_unit_test(without_a_book),
        cmocka_unit_test(books),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
