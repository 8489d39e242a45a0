/* Codebooks of coupled channels, learned and used: what they leave of Gaussian rows, and of rows
 * whose neighbours are alike. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* needs those above */

#include "cli.h"
#include "codec/codec.h"
#include "cpu/features.h"
#include "cq_learn.h"
#include "support/made_book.h"

enum {
    D = 16,
    N_LEARN = 20000,
    N_PAGES = 64
};

static double uniform(uint64_t *rng)
{
    return ((double)(kmeans_random(rng) >> 11) + 0.5) * 0x1p-53;
}

/* Rows of D channels, each correlated by rho with the one before. */
static float *make_rows(size_t n, double rho, uint64_t seed)
{
    float *x = cli_alloc(n * D, sizeof(*x));
    for (size_t i = 0; i < n * D; i++) {
        const double g = sqrt(-2 * log(uniform(&seed))) * cos(6.283185307179586 * uniform(&seed));
        x[i] = (float)(i % D ? rho * (double)x[i - 1] + sqrt(1 - rho * rho) * g : g);
    }
    return x;
}

/* A book with one layer of one head, its values' codebooks learned from such rows. */
static struct made_book *learn(uint32_t dim, const float *x, const float *weight)
{
    float centroids[D * CQ_CODES], step[1], base[D];
    int8_t codes[D * CQ_CODES];
    float *group = cli_alloc((size_t)N_LEARN * dim, sizeof(*group));
    char name[32];
    for (uint32_t g = 0; g < D / dim; g++) {
        for (size_t i = 0; i < N_LEARN; i++)
            memcpy(group + i * dim, x + i * D + (size_t)g * dim, dim * sizeof(*group));
        const struct kmeans_rows rows = {group, weight, N_LEARN, dim};
        cq_learn(&rows, 15, g + 1, 2, centroids + (size_t)g * CQ_CODES * dim);
    }
    free(group);
    cq_round(centroids, D / dim, dim, true, &(struct cq_head){codes, step, base});
    struct made_book *book = made_book_new();
    snprintf(name, sizeof(name), "cq%u.blk.0.attn_v.codes", dim);
    made_book_add(book, TKV_GGUF_I8, (uint64_t[]){dim, CQ_CODES, D / dim}, codes, name);
    snprintf(name, sizeof(name), "cq%u.blk.0.attn_v.step", dim);
    made_book_add(book, TKV_GGUF_F32, (uint64_t[]){1, 1, 1}, step, name);
    snprintf(name, sizeof(name), "cq%u.blk.0.attn_v.base", dim);
    made_book_add(book, TKV_GGUF_F32, (uint64_t[]){D, 1, 1}, base, name);
    return book;
}

/* What coding leaves of other rows, over their squares; weight: [64] or NULL. */
static double left_over(struct made_book *book, uint32_t dim, double rho)
{
    struct tkv_kernels kernels;
    struct tkv_gguf file;
    size_t n_bytes;
    const struct tkv_codec_ops *ops = tkv_codec_by_name(dim == 4 ? "cq4" : "cq8");
    struct tkv_codec_env env = {.kernels = &kernels, .head_dim = D, .kind = TKV_V};
    void *model = aligned_alloc(64, (ops->model_bytes(D) + 63) / 64 * 64);
    uint8_t page[TKV_PAGE_TOKENS * D];
    float y[TKV_PAGE_TOKENS * D];
    double error = 0, square = 0;
    tkv_kernels_init(&kernels, tkv_cpu_features());
    const uint8_t *bytes = made_book_bytes(book, &n_bytes);
    assert_int_equal(tkv_gguf_open(bytes, n_bytes, &file, NULL), TKV_OK);
    assert_int_equal(ops->bind(&env, &file, &(struct tkv_place){.n_heads = 1}, model, NULL),
                     TKV_OK);
    env.model = model;
    float *x = make_rows(N_PAGES * TKV_PAGE_TOKENS, rho, 99);
    for (size_t p = 0; p < N_PAGES; p++) {
        float *rows = x + p * TKV_PAGE_TOKENS * D;
        ops->encode(&env, rows, UINT64_MAX, page, NULL);
        ops->decode(&env, page, y);
        for (size_t i = 0; i < TKV_PAGE_TOKENS * D; i++) {
            error += ((double)rows[i] - (double)y[i]) * ((double)rows[i] - (double)y[i]);
            square += (double)rows[i] * (double)rows[i];
        }
    }
    free(x);
    free(model);
    return error / square;
}

/* Held-out errors of 256 codes: Lloyd-Max leaves .1175 at 2 bits and .363 at 1. */
static void leaves_what_it_should(void **state)
{
    static const struct {
        uint32_t dim;
        double rho, want;
    } cases[] = {{4, 0, .098}, {8, 0, .327}, {4, .9, .027}, {8, .9, .073}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        float *x = make_rows(N_LEARN, cases[i].rho, 7);
        struct made_book *book = learn(cases[i].dim, x, NULL);
        const double got = left_over(book, cases[i].dim, cases[i].rho);
        printf("cq%u, correlation %.1f: %.4f, %.4f expected\n", cases[i].dim, cases[i].rho, got,
               cases[i].want);
        assert_true(fabs(got / cases[i].want - 1) < .05);
        made_book_free(book);
        free(x);
    }
}

/* Rows that weigh more come out nearer. */
static void weights_count(void **state)
{
    (void)state;
    float *x = make_rows(N_LEARN, 0, 7), *weight = cli_alloc(N_LEARN, sizeof(*weight));
    float plain[CQ_CODES * 4], weighted[CQ_CODES * 4];
    double error[2] = {0, 0};
    for (size_t i = 0; i < N_LEARN; i++)
        weight[i] = x[i * 4] > 0 ? 100.0f : 1.0f;
    struct kmeans_rows rows = {x, NULL, N_LEARN, 4};
    cq_learn(&rows, 10, 1, 2, plain);
    rows.weight = weight;
    cq_learn(&rows, 10, 1, 2, weighted);
    for (int which = 0; which < 2; which++) {
        uint32_t *nearest = cli_alloc(N_LEARN, sizeof(*nearest));
        const float *c = which ? weighted : plain;
        kmeans_assign(&rows, c, CQ_CODES, 1, nearest);
        for (size_t i = 0; i < N_LEARN * 4; i++) {
            const double e = (double)x[i] - (double)c[nearest[i / 4] * 4 + i % 4];
            error[which] += (double)weight[i / 4] * e * e;
        }
        free(nearest);
    }
    assert_true(error[1] < .85 * error[0]);
    free(x), free(weight);
}

/* A channel that never changes, and centroids in 8 bits: within half a step. */
static void rounds_within_half_a_step(void **state)
{
    (void)state;
    float *x = make_rows(512, 0, 3), centroids[2 * CQ_CODES * 4], step[2], base[8];
    int8_t codes[2 * CQ_CODES * 4];
    for (size_t i = 0; i < 2 * CQ_CODES * 4; i++)
        centroids[i] = i % 4 == 2 ? 7 : x[i] * (i < CQ_CODES * 4 ? 1.0f : 50.0f) + (float)(i % 4);
    cq_round(centroids, 2, 4, false, &(struct cq_head){codes, step, base});
    for (size_t i = 0; i < 2 * CQ_CODES * 4; i++) {
        const size_t g = i / (CQ_CODES * 4);
        const float value = (float)codes[i] * step[g] + base[g * 4 + i % 4];
        assert_true(fabsf(value - centroids[i]) <= .501f * step[g]);
    }
    assert_true(step[1] > 10 * step[0]);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves_what_it_should),
        cmocka_unit_test(weights_count),
        cmocka_unit_test(rounds_within_half_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
