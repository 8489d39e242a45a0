/* Divergence, perplexity and agreement against a plain computation in long double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdint.h>

#include "metrics.h"

enum {
    ROWS = 37,
    VOCAB = 301
};

struct sample {
    float reference[ROWS * VOCAB], other[ROWS * VOCAB];
    int32_t targets[ROWS];
};

static void fill(struct sample *s)
{
    uint64_t x = 3;
    for (size_t i = 0; i < ROWS * VOCAB; i++) {
        x = x * 6364136223846793005U + 1442695040888963407U;
        s->reference[i] = (float)(x >> 40) / (1 << 20) - 8;
        s->other[i] = s->reference[i] + .01F * (float)((x >> 20) % 16);
    }
    for (int32_t i = 0; i < ROWS; i++)
        s->targets[i] = (i * 97) % VOCAB;
}

static long double plain_lse(const float *row)
{
    long double sum = 0;
    for (size_t i = 0; i < VOCAB; i++)
        sum += expl((long double)row[i]);
    return logl(sum);
}

static long double plain_kld(const float *p, const float *q)
{
    long double kld = 0, lse_p = plain_lse(p), lse_q = plain_lse(q);
    for (size_t i = 0; i < VOCAB; i++)
        kld += expl((long double)p[i] - lse_p) *
               ((long double)p[i] - lse_p - ((long double)q[i] - lse_q));
    return kld;
}

/* In pieces of 10 rows, as batches come. */
static void run(const struct sample *s, const float *other, int n_threads,
                struct metrics_token out[ROWS])
{
    struct metrics_reference r;
    assert_int_equal(metrics_reference_init(&r, ROWS, VOCAB), 0);
    for (size_t i = 0; i < ROWS; i += 10) {
        size_t n = ROWS - i < 10 ? ROWS - i : 10;
        assert_int_equal(metrics_reference_set(&r, s->reference + i * VOCAB, i, n, n_threads), 0);
    }
    for (size_t i = 0; i < ROWS; i += 10) {
        size_t n = ROWS - i < 10 ? ROWS - i : 10;
        assert_int_equal(
            metrics_score(&r, other + i * VOCAB, s->targets + i, i, n, n_threads, out + i), 0);
    }
    metrics_reference_free(&r);
}

/* How many are larger, or as large and earlier. */
static size_t rank_of(const float *row, size_t v)
{
    size_t rank = 0;
    for (size_t i = 0; i < VOCAB; i++)
        rank += row[i] > row[v] || (row[i] == row[v] && i < v);
    return rank;
}

static size_t plain_common(const float *p, const float *q)
{
    size_t n = 0;
    for (size_t v = 0; v < VOCAB; v++)
        n += rank_of(p, v) < METRICS_TOP && rank_of(q, v) < METRICS_TOP;
    return n;
}

static void test_against_plain(void **state)
{
    (void)state;
    static struct sample s;
    fill(&s);
    struct metrics_token tokens[ROWS], threaded[ROWS];
    run(&s, s.other, 1, tokens);
    run(&s, s.other, 3, threaded);
    size_t n_partial = 0;
    for (size_t i = 0; i < ROWS; i++) {
        const float *ref = s.reference + i * VOCAB, *other = s.other + i * VOCAB;
        long double kld = plain_kld(ref, other);
        long double nll = plain_lse(other) - (long double)other[s.targets[i]];
        assert_true(kld > 1e-6L && fabsl((long double)tokens[i].kld - kld) < 1e-6L * kld);
        assert_true(fabsl((long double)tokens[i].nll - nll) < 1e-6L * nll);
        assert_int_equal(tokens[i].n_top, plain_common(ref, other));
        n_partial += tokens[i].n_top > 0 && tokens[i].n_top < METRICS_TOP;
    }
    assert_true(n_partial > 0);
    /* Threads change nothing, not even the last bit. */
    assert_memory_equal(tokens, threaded, sizeof(tokens));
}

static void test_same_and_not_finite(void **state)
{
    (void)state;
    static struct sample s;
    fill(&s);
    struct metrics_token tokens[ROWS];
    run(&s, s.reference, 2, tokens);
    for (size_t i = 0; i < ROWS; i++) {
        assert_true(tokens[i].kld == 0 && tokens[i].nll == tokens[i].nll_reference);
        assert_true(tokens[i].same_top == 1 && tokens[i].n_top == METRICS_TOP);
    }
    for (size_t i = 0; i < ROWS * VOCAB; i++)
        s.other[i] = -s.reference[i];
    run(&s, s.other, 2, tokens);
    for (size_t i = 0; i < ROWS; i++)
        assert_int_equal(tokens[i].same_top, 0);
    s.other[5 * VOCAB + 7] = NAN;
    run(&s, s.other, 2, tokens);
    for (size_t i = 0; i < ROWS; i++)
        assert_int_equal(!isfinite(tokens[i].kld), i == 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_plain),
                                       cmocka_unit_test(test_same_and_not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
