/* Divergence, perplexity and agreement against a plain computation in long double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdint.h>

#include "metrics.h"

enum { ROWS = 37, VOCAB = 301 };

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
static void run(const struct sample *s, const float *other, int n_threads, struct metrics *m)
{
    struct metrics_reference r;
    metrics_reference_init(&r, ROWS, VOCAB);
    for (size_t i = 0; i < ROWS; i += 10) {
        size_t n = ROWS - i < 10 ? ROWS - i : 10;
        metrics_reference_set(&r, s->reference + i * VOCAB, i, n, n_threads);
        metrics_add(m, &r, other + i * VOCAB, s->targets + i, i, n, n_threads);
    }
    metrics_reference_free(&r);
}

static void test_against_plain(void **state)
{
    (void)state;
    static struct sample s;
    fill(&s);
    long double kld = 0, nll = 0;
    for (size_t i = 0; i < ROWS; i++) {
        const float *other = s.other + i * VOCAB;
        kld += plain_kld(s.reference + i * VOCAB, other);
        nll += plain_lse(other) - (long double)other[s.targets[i]];
    }
    struct metrics m = {0}, threaded = {0};
    run(&s, s.other, 1, &m);
    run(&s, s.other, 3, &threaded);
    assert_int_equal(m.n, ROWS);
    assert_true(m.finite && kld > 1e-4L);
    assert_true(fabsl((long double)m.kld - kld) < 1e-12L * ROWS);
    assert_true(fabsl((long double)m.nll - nll) < 1e-10L * ROWS);
    /* Threads change nothing, not even the last bit. */
    assert_memory_equal(&m.kld, &threaded.kld, sizeof(m.kld));
    assert_memory_equal(&m.nll, &threaded.nll, sizeof(m.nll));
    metrics_free(&m);
    metrics_free(&threaded);
}

static void test_same_and_not_finite(void **state)
{
    (void)state;
    static struct sample s;
    fill(&s);
    struct metrics same = {0}, broken = {0}, flipped = {0};
    run(&s, s.reference, 2, &same);
    assert_true(same.kld == 0 && same.nll == same.nll_reference && same.n_same_top == ROWS);
    for (size_t i = 0; i < ROWS * VOCAB; i++)
        s.other[i] = -s.reference[i];
    run(&s, s.other, 2, &flipped);
    assert_int_equal(flipped.n_same_top, 0);
    s.other[5 * VOCAB + 7] = NAN;
    run(&s, s.other, 2, &broken);
    assert_false(broken.finite);
    metrics_free(&same);
    metrics_free(&broken);
    metrics_free(&flipped);
}

static void test_quantiles(void **state)
{
    (void)state;
    const float values[] = {5, 1, 4, 2, 3};
    assert_true(metrics_quantile(values, 5, .5) == 3);
    assert_true(metrics_quantile(values, 5, 0) == 1 && metrics_quantile(values, 5, 1) == 5);
    assert_true(fabs(metrics_quantile(values, 5, .9) - 4.6) < 1e-12);
    assert_true(isnan(metrics_quantile(values, 0, .5)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_plain),
                                       cmocka_unit_test(test_same_and_not_finite),
                                       cmocka_unit_test(test_quantiles)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
