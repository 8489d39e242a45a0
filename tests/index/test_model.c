/* Models of the retrieval index: codes are the nearest ones where distance is the error of scores,
 * tables are scores of what codes stand for, and books that do not fit are refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/features.h"
#include "index/index.h"
#include "support/made_book.h"

enum {
    HEADS = 2,
    ROWS = 64
};

static const struct shape {
    uint32_t D, n_codes;
} shapes[] = {{64, 16}, {128, 4096}, {80, 176}, {256, 64}};

struct fixture {
    struct made_book *made;
    struct tkv_gguf book;
    struct tkv_kernels k;
    void *room;
    struct tkv_index_model models[HEADS];
    uint32_t D, n_codes;
    uint64_t rng;
};

static double uniform(struct fixture *f)
{
    f->rng = f->rng * 6364136223846793005u + 1442695040888963407u;
    return (double)(f->rng >> 11) / 0x1p52 - 1;
}

static void open_book(struct fixture *f)
{
    size_t n_bytes;
    const uint8_t *bytes = made_book_bytes(f->made, &n_bytes);
    assert_int_equal(tkv_gguf_open(bytes, n_bytes, &f->book, NULL), TKV_OK);
}

static struct fixture bound(const struct shape *s)
{
    struct fixture f = {.D = s->D, .n_codes = s->n_codes, .rng = 7, .made = made_book_new()};
    made_book_index(f.made, 3, HEADS, s->D, s->n_codes, 0.5f);
    open_book(&f);
    tkv_kernels_init(&f.k, tkv_cpu_features());
    const size_t n_bytes = tkv_index_model_bytes(&f.book, 3, HEADS, s->D);
    assert_true(n_bytes > 0 && n_bytes % 64 == 0);
    f.room = aligned_alloc(64, n_bytes);
    memset(f.room, 0xa5, n_bytes);
    assert_int_equal(tkv_index_bind(&f.book, 3, HEADS, s->D, f.room, f.models, NULL), TKV_OK);
    return f;
}

static void release(struct fixture *f)
{
    made_book_free(f->made);
    free(f->room);
}

/* Coefficient d of a code, from the order of the kernels. */
static int code_at(const struct tkv_index_model *m, uint32_t code, uint32_t d)
{
    const size_t D = m->head_dim;
    return m->codes[code / 16 * 16 * D + d / 4 * 64 + code % 16 * 4 + d % 4] - 128;
}

/* What a code stands for. */
static void key_of(const struct tkv_index_model *m, uint32_t code, double *key)
{
    for (uint32_t i = 0; i < m->head_dim; i++) {
        key[i] = (double)m->mean[i];
        for (uint32_t j = 0; j < m->head_dim; j++)
            key[i] += code_at(m, code, j) * (double)m->ask[(size_t)i * m->head_dim + j];
    }
}

/* Keys that lie about codes, some so far out that coefficients are cut. */
static void make_keys(struct fixture *f, const struct tkv_index_model *m, float *keys)
{
    double key[TKV_MAX_HEAD_DIM];
    for (uint32_t r = 0; r < ROWS; r++) {
        const double away = r % 16 == 15 ? 4 : 0.25;
        key_of(m, r * 37 % f->n_codes, key);
        for (uint32_t d = 0; d < f->D; d++)
            keys[r * f->D + d] = (float)(key[d] + away * uniform(f));
    }
}

static int coefficient(const struct tkv_index_model *m, const float *key, uint32_t j)
{
    float sum = 0;
    for (uint32_t i = 0; i < m->head_dim; i++)
        sum = fmaf(key[i] - m->mean[i], m->to[(size_t)i * m->head_dim + j], sum);
    return (int)rintf(fminf(fmaxf(sum, -127), 127));
}

static uint32_t nearest(const struct tkv_index_model *m, const float *key)
{
    int z[TKV_MAX_HEAD_DIM];
    uint32_t best = 0;
    int64_t most = INT64_MIN;
    for (uint32_t j = 0; j < m->head_dim; j++)
        z[j] = coefficient(m, key, j);
    for (uint32_t c = 0; c < m->n_codes; c++) {
        int64_t dot = 0, square = 0;
        for (uint32_t j = 0; j < m->head_dim; j++) {
            dot += z[j] * code_at(m, c, j);
            square += code_at(m, c, j) * code_at(m, c, j);
        }
        if (dot - square / 2 > most) {
            most = dot - square / 2;
            best = c;
        }
    }
    return best;
}

static void test_nearest(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct fixture f = bound(&shapes[i]);
        float *keys = malloc(ROWS * f.D * sizeof *keys);
        uint16_t codes[ROWS + 1];
        make_keys(&f, &f.models[1], keys);
        for (size_t n = 0; n <= ROWS; n = n < 20 ? n + 1 : ROWS + (n == ROWS)) {
            memset(codes, 0xa5, sizeof codes);
            tkv_index_encode(&f.k, &f.models[1], keys, n, codes);
            assert_int_equal(codes[n], 0xa5a5);
            for (size_t r = 0; r < n; r++)
                assert_int_equal(codes[r], nearest(&f.models[1], keys + r * f.D));
        }
        free(keys);
        release(&f);
    }
}

/* For any queries q with E[q'q] = H = to to', the mean square error of scores is |z - c|^2: here for
 * the columns of `to` as queries, whose q'q add up to H. And the transposed matrix would not do. */
static void test_distance_is_error_of_scores(void **state)
{
    (void)state;
    struct fixture f = bound(&shapes[2]);
    const struct tkv_index_model *m = &f.models[0];
    double kept[TKV_MAX_HEAD_DIM], error = 0, distance = 0, wrong = 0;
    float key[TKV_MAX_HEAD_DIM];
    key_of(m, 5, kept);
    for (uint32_t d = 0; d < f.D; d++)
        key[d] = (float)(kept[d] + 0.1 * uniform(&f));
    for (uint32_t j = 0; j < f.D; j++) {
        double score = 0, z = 0, other = 0;
        for (uint32_t i = 0; i < f.D; i++) {
            const double from_mean = (double)key[i] - (double)m->mean[i];
            score += (double)m->to[i * f.D + j] * ((double)key[i] - kept[i]);
            z += from_mean * (double)m->to[i * f.D + j];
            other += from_mean * (double)m->to[j * f.D + i];
        }
        error += score * score;
        distance += (z - code_at(m, 5, j)) * (z - code_at(m, 5, j));
        wrong += (other - code_at(m, 5, j)) * (other - code_at(m, 5, j));
    }
    assert_true(fabs(error - distance) < 1e-4 * error);
    assert_true(fabs(error - wrong) > 0.1 * error);
    release(&f);
}

/* How far rounding the weights of a query may move its score of a code. */
static double slack(const struct tkv_index_model *m, const float *q, uint32_t code)
{
    double most = 0, sum = 0;
    for (uint32_t j = 0; j < m->head_dim; j++) {
        double w = 0;
        for (uint32_t i = 0; i < m->head_dim; i++)
            w += (double)q[i] * (double)m->ask[(size_t)i * m->head_dim + j];
        most = fmax(most, fabs(w));
        sum += abs(code_at(m, code, j));
    }
    return most / 127 * (sum / 2 + 1);
}

static void check_table(struct fixture *f, const struct tkv_index_model *m, uint32_t n)
{
    const size_t stride = tkv_index_places(f->n_codes), n_table = n * stride;
    float *q = malloc(n * f->D * sizeof *q), *table = aligned_alloc(64, n_table * sizeof *table);
    double *key = malloc(f->D * sizeof *key), square = 0, error = 0;
    for (uint32_t i = 0; i < n * f->D; i++)
        q[i] = (float)uniform(f) * 3;
    tkv_index_table(&f->k, m, q, n, table);
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t c = 0; c < f->n_codes; c += 1 + c / 50) {
            double want = 0;
            key_of(m, c, key);
            for (uint32_t d = 0; d < f->D; d++)
                want += (double)q[r * f->D + d] * key[d];
            const double off = (double)table[r * stride + c] - want;
            assert_true(fabs(off) < slack(m, q + r * f->D, c));
            error += off * off;
            square += want * want;
        }
    assert_true(error < 1e-4 * square);
    free(q), free(table), free(key);
}

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct fixture f = bound(&shapes[i]);
        check_table(&f, &f.models[0], 1);
        check_table(&f, &f.models[1], 4);
        check_table(&f, &f.models[1], 16);
        release(&f);
    }
}

/* Not a number is in one row: its code is some code, its table not numbers; others are as ever. */
static void test_not_finite(void **state)
{
    (void)state;
    struct fixture f = bound(&shapes[1]);
    float *keys = malloc(ROWS * f.D * sizeof *keys);
    const size_t stride = tkv_index_places(f.n_codes);
    float *table = aligned_alloc(64, 3 * stride * sizeof *table);
    uint16_t codes[ROWS];
    make_keys(&f, &f.models[0], keys);
    keys[f.D + 3] = NAN, keys[4 * f.D] = -INFINITY;
    tkv_index_encode(&f.k, &f.models[0], keys, ROWS, codes);
    for (uint32_t r = 0; r < ROWS; r++)
        if (r == 1 || r == 4)
            assert_true(codes[r] < f.n_codes);
        else
            assert_int_equal(codes[r], nearest(&f.models[0], keys + r * f.D));
    memset(keys + 2 * f.D, 0, f.D * sizeof *keys);
    tkv_index_table(&f.k, &f.models[0], keys, 3, table);
    for (uint32_t c = 0; c < f.n_codes; c++) {
        assert_true(isfinite(table[c]));
        assert_true(isnan(table[stride + c]));
        assert_true(table[2 * stride + c] == 0); /* nothing asked */
    }
    free(keys), free(table);
    release(&f);
}

static void test_same_on_every_cpu(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct fixture f = bound(&shapes[i]);
        const size_t n_table = 5 * tkv_index_places(f.n_codes);
        float *keys = malloc(ROWS * f.D * sizeof *keys);
        float *table[2] = {aligned_alloc(64, (n_table * 4 + 63) / 64 * 64),
                           aligned_alloc(64, (n_table * 4 + 63) / 64 * 64)};
        uint16_t codes[2][ROWS];
        struct tkv_kernels ref;
        tkv_kernels_init(&ref, 0);
        make_keys(&f, &f.models[0], keys);
        tkv_index_encode(&ref, &f.models[0], keys, ROWS, codes[0]);
        tkv_index_encode(&f.k, &f.models[0], keys, ROWS, codes[1]);
        assert_memory_equal(codes[0], codes[1], sizeof codes[0]);
        tkv_index_table(&ref, &f.models[0], keys, 5, table[0]);
        tkv_index_table(&f.k, &f.models[0], keys, 5, table[1]);
        assert_memory_equal(table[0], table[1], n_table * sizeof(float));
        free(keys), free(table[0]), free(table[1]);
        release(&f);
    }
}

/* ---- books ------------------------------------------------------------------------------------ */

static void test_no_index(void **state)
{
    (void)state;
    struct fixture f = bound(&shapes[0]);
    assert_int_equal(tkv_index_model_bytes(&f.book, 4, HEADS, f.D), 0);
    assert_true(f.models[0].far == 2048);
    release(&f);
}

static void refuse(struct fixture *f, uint32_t n_heads, uint32_t D, const char *says)
{
    struct tkv_index_model models[4];
    tkv_error err;
    const size_t n_bytes = tkv_index_model_bytes(&f->book, 0, n_heads, D);
    assert_true(n_bytes > 0);
    void *room = aligned_alloc(64, (n_bytes + 63) / 64 * 64);
    assert_true(tkv_index_bind(&f->book, 0, n_heads, D, room, models, &err) < 0);
    if (!strstr(err.text, says))
        fail_msg("%s: nothing of %s", err.text, says);
    free(room);
}

static void test_other_shapes_refused(void **state)
{
    (void)state;
    struct fixture f = {.made = made_book_new()};
    made_book_index(f.made, 0, HEADS, 64, 32, 1);
    open_book(&f);
    refuse(&f, HEADS, 128, "another model");
    refuse(&f, HEADS + 1, 64, "another model");
    refuse(&f, HEADS, 72, "multiple of 16");
    made_book_free(f.made);
}

static void refuse_codes(enum tkv_gguf_type type, uint64_t n_codes, int8_t code, const char *says)
{
    struct fixture f = {.made = made_book_new()};
    int8_t *codes = malloc(n_codes * 64 * 4);
    float *matrix = calloc(64 * 64, sizeof *matrix);
    memset(codes, code, n_codes * 64 * 4);
    made_book_add(f.made, type, (const uint64_t[3]){64, n_codes, 1}, codes, "qvq.blk.0.codes");
    made_book_add(f.made, TKV_GGUF_F32, (const uint64_t[3]){64, 64, 1}, matrix, "qvq.blk.0.to");
    if (code)
        made_book_add(f.made, TKV_GGUF_F32, (const uint64_t[3]){64, 64, 1}, matrix,
                      "qvq.blk.0.ask");
    matrix[63] = NAN;
    made_book_add(f.made, TKV_GGUF_F32, (const uint64_t[3]){64, 1, 1}, matrix, "qvq.blk.0.mean");
    open_book(&f);
    refuse(&f, 1, 64, says);
    free(codes), free(matrix);
    made_book_free(f.made);
}

static void test_odd_values_refused(void **state)
{
    (void)state;
    refuse_codes(TKV_GGUF_I8, 15, 1, "multiple of 16");
    refuse_codes(TKV_GGUF_I8, 32784, 1, "multiple of 16");
    refuse_codes(TKV_GGUF_F32, 16, 1, "i8");
    refuse_codes(TKV_GGUF_I8, 16, 0, "without qvq.blk.0.ask");
    refuse_codes(TKV_GGUF_I8, 16, 1, "nan");
}

static void refuse_share(float keys, float values)
{
    struct fixture f = {.made = made_book_new()};
    made_book_index(f.made, 0, 1, 64, 16, 1);
    made_book_share(f.made, 0, 1, keys, values);
    open_book(&f);
    refuse(&f, 1, 64, keys > 1e15f ? "holds" : "keys for");
    release(&f);
}

/* Fewer keys than values, less than nothing, no number. */
static void test_odd_shares_refused(void **state)
{
    (void)state;
    refuse_share(1, 2);
    refuse_share(1, -1);
    refuse_share(INFINITY, 1);
}

static void test_code_out_of_range_refused(void **state)
{
    (void)state;
    struct fixture f = {.made = made_book_new()};
    made_book_index(f.made, 0, 1, 64, 16, 1);
    open_book(&f);
    struct tkv_gguf_tensor t;
    assert_true(tkv_gguf_tensor(&f.book, "qvq.blk.0.codes", &t));
    ((uint8_t *)(uintptr_t)t.data)[1000] = 128;
    refuse(&f, 1, 64, "-128");
    made_book_free(f.made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_distance_is_error_of_scores),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_same_on_every_cpu),
        cmocka_unit_test(test_no_index),
        cmocka_unit_test(test_other_shapes_refused),
        cmocka_unit_test(test_odd_values_refused),
        cmocka_unit_test(test_odd_shares_refused),
        cmocka_unit_test(test_code_out_of_range_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
