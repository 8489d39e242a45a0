#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "format/rvq.h"

#define CLASSES TKV_RVQ_CLASSES

/* Values up to `most`: all bytes, or small ones with many ties. */
static void fill_codes(struct check *c, int8_t *codes, size_t n, int most)
{
    check_fill_bytes(c, codes, n);
    for (size_t i = 0; i < n; i++)
        codes[i] = (int8_t)(codes[i] % (most + 1));
}

static int64_t score_of(const int8_t *code, const int8_t *r)
{
    int64_t dot = 0, norm = 0;
    for (int i = 0; i < TKV_RVQ_DIM; i++) {
        dot += code[i] * r[i];
        norm += code[i] * code[i];
    }
    return dot - norm / 2;
}

static void clear_rest(int8_t *x, size_t n, size_t dims)
{
    for (size_t i = 0; i < n; i++)
        x[i] = i % TKV_RVQ_DIM < dims ? x[i] : 0;
}

/* Residuals and codes up to so much in so many dims, and with the largest sums that these have. */
static void check_nearest(struct check *c, size_t n, size_t dims, int most_r, int most_c)
{
    const size_t n_codes = TKV_RVQ_BOOK_BYTES, n_out = n * CLASSES;
    int8_t *codes = check_alloc(n_codes, 1), *r = check_alloc(n * TKV_RVQ_DIM, 1);
    int32_t *best = check_alloc(n_out, 4), *want = malloc(n_out * sizeof *want);
    uint32_t *at = check_alloc(n_out, 4), *want_at = malloc(n_out * sizeof *want_at);
    char what[48];
    snprintf(what, sizeof what, "n=%zu %zu dims to %d and %d", n, dims, most_r, most_c);
    fill_codes(c, codes, n_codes, most_c);
    fill_codes(c, r, n * TKV_RVQ_DIM, most_r);
    memset(r, -most_r, TKV_RVQ_DIM);
    memset(r + TKV_RVQ_DIM, most_r < 127 ? most_r : 127, TKV_RVQ_DIM);
    memset(codes + 5 * TKV_RVQ_DIM, -most_c, TKV_RVQ_DIM);
    memset(codes + 7 * TKV_RVQ_DIM, most_c < 127 ? most_c : 127, TKV_RVQ_DIM);
    clear_rest(codes, n_codes, dims), clear_rest(r, n * TKV_RVQ_DIM, dims);
    for (size_t i = 0; i < n_out; i++) {
        int64_t most = INT64_MIN;
        for (uint32_t code = i % CLASSES; code < TKV_RVQ_CODES; code += CLASSES) {
            const int64_t score =
                score_of(codes + code * TKV_RVQ_DIM, r + i / CLASSES * TKV_RVQ_DIM);
            if (score > most)
                most = score, want_at[i] = code;
        }
        want[i] = (int32_t)most;
    }
    c->now.rvq_nearest(codes, r, n, best, at);
    check_bytes(c, "rvq_nearest", what, best, want, n_out * sizeof *best);
    check_bytes(c, "rvq_nearest", what, at, want_at, n_out * sizeof *at);
    check_free(codes, n_codes, 1), check_free(r, n * TKV_RVQ_DIM, 1);
    check_free(best, n_out, 4), check_free(at, n_out, 4);
    free(want), free(want_at);
}

/* Read as FORMAT.md has it: bit by bit, sum by sum. */
static uint8_t byte_of(const uint8_t *codes, const int8_t *books, uint32_t n_stages, uint32_t D,
                       uint32_t t, uint32_t g, uint32_t i)
{
    int32_t sum = 0;
    for (uint32_t s = 0; s < n_stages; s++) {
        const uint8_t *unit = codes + (s * (D / 32) + g) * 88;
        uint32_t code = unit[t];
        for (uint32_t bit = 8; bit < 11; bit++)
            code |= (unit[64 + 8 * (bit - 8) + t / 8] >> t % 8 & 1u) << bit;
        sum += books[(s * 2048 + code) * 32 + i];
        sum = sum > 127 ? 127 : sum < -128 ? -128 : sum;
    }
    return (uint8_t)(sum < -127 ? -127 : sum);
}

static void check_pages(struct check *c, uint32_t D, uint32_t n_stages, tkv_kind kind, int most)
{
    const uint32_t n_groups = D / 32;
    const size_t n_bytes = tkv_rvq_code_bytes(D, n_stages), n = (size_t)64 * D;
    const size_t n_books = n_stages * TKV_RVQ_BOOK_BYTES;
    uint8_t *codes = check_alloc(n_bytes, 1), *rows = check_alloc(n, 1), *want = malloc(n);
    int8_t *books = check_alloc(n_books, 1);
    char what[48];
    snprintf(what, sizeof what, "D=%u stages=%u %s to %d", D, n_stages, kind == TKV_K ? "K" : "V",
             most);
    check_fill_bytes(c, codes, n_bytes);
    fill_codes(c, books, n_books, most);
    for (uint32_t flip = 0; flip <= 0x80; flip += 0x80) {
        for (uint32_t t = 0; t < 64; t++)
            for (uint32_t g = 0; g < n_groups; g++)
                for (uint32_t i = 0; i < 32; i++)
                    want[t * D + (kind == TKV_K ? i * n_groups + g : g * 32 + i)] =
                        (uint8_t)(byte_of(codes, books, n_stages, D, t, g, i) ^ flip);
        c->now.rvq_rows(codes, books, n_stages, D, kind, (uint8_t)flip, rows);
        check_bytes(c, "rvq_rows", what, rows, want, n);
    }
    check_free(codes, n_bytes, 1), check_free(rows, n, 1), check_free(books, n_books, 1);
    free(want);
}

struct bench {
    struct check *c;
    int8_t *books, *r;
    uint8_t *codes, *rows;
    int32_t *best;
    uint32_t *at;
};

static void bench_nearest(void *arg)
{
    struct bench *b = arg;
    b->c->now.rvq_nearest(b->books, b->r, 256, b->best, b->at);
}

static void bench_k(void *arg)
{
    struct bench *b = arg;
    b->c->now.rvq_rows(b->codes, b->books, 8, 128, TKV_K, 0x80, b->rows);
}

static void bench_v(void *arg)
{
    struct bench *b = arg;
    b->c->now.rvq_rows(b->codes, b->books, 8, 128, TKV_V, 0, b->rows);
}

static void bench(struct check *c)
{
    struct bench b = {.c = c};
    b.books = check_alloc(8 * TKV_RVQ_BOOK_BYTES, 1), b.r = check_alloc(256 * 32, 1);
    b.codes = check_alloc(tkv_rvq_code_bytes(128, 8), 1), b.rows = check_alloc(64 * 128, 1);
    b.best = check_alloc(256 * CLASSES, 4), b.at = check_alloc(256 * CLASSES, 4);
    fill_codes(c, b.books, 8 * TKV_RVQ_BOOK_BYTES, 40); /* as books are from the second stage on */
    fill_codes(c, b.r, 256 * 32, 40);
    check_fill_bytes(c, b.codes, tkv_rvq_code_bytes(128, 8));
    check_bench(c, "rvq_nearest", "page of 128, a stage", bench_nearest, &b);
    check_bench(c, "rvq_rows", "page of 128, keys", bench_k, &b);
    check_bench(c, "rvq_rows", "page of 128, values", bench_v, &b);
    check_free(b.books, 8 * TKV_RVQ_BOOK_BYTES, 1), check_free(b.r, 256 * 32, 1);
    check_free(b.codes, tkv_rvq_code_bytes(128, 8), 1), check_free(b.rows, 64 * 128, 1);
    check_free(b.best, 256 * CLASSES, 4), check_free(b.at, 256 * CLASSES, 4);
}

void check_rvq(struct check *c)
{
    static const uint32_t dims[] = {32, 64, 96, 128, 256, 512};
    if (!check_wanted(c, "rvq"))
        return;
    check_nearest(c, 4, 32, 128, 128);
    check_nearest(c, 20, 32, 1, 1);
    check_nearest(c, 300, 32, 30, 30);
    for (int sum = 63; sum <= 65; sum++) /* scores that words hold, and that they do not */
        for (int r = 8; r <= 56; r += 12)
            check_nearest(c, 4, 32, r, sum - r);
    for (int most = 62; most <= 66; most++) { /* the same of products */
        check_nearest(c, 4, 2, most, 127);
        check_nearest(c, 4, 2, 128, most);
    }
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (int kind = TKV_K; kind <= TKV_V; kind++)
            check_pages(c, dims[i], i % 2 ? 8 : 4, (tkv_kind)kind, kind == TKV_K ? 1 : 128);
    check_pages(c, 128, 6, TKV_K, 128);
    if (c->bench)
        bench(c);
}
