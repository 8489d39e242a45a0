/* Intervals and quantiles: known values, and how often an interval holds the truth. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdint.h>

#include "stats.h"

static void test_quantiles(void **state)
{
    (void)state;
    float values[] = {5, 1, 4, 2, 3};
    assert_true(stats_quantile(values, 5, .5) == 3);
    assert_true(stats_quantile(values, 5, 0) == 1 && stats_quantile(values, 5, 1) == 5);
    assert_true(fabs(stats_quantile(values, 5, .9) - 4.6) < 1e-12);
    assert_true(isnan(stats_quantile(values, 0, .5)));
}

/* As R's prop.test(correct = FALSE) gives them. */
static void test_wilson(void **state)
{
    (void)state;
    struct stats_interval i = stats_wilson(8, 10);
    assert_true(fabs(i.low - .4901625) < 1e-6 && fabs(i.high - .9433178) < 1e-6);
    i = stats_wilson(0, 10);
    assert_true(i.low == 0 && fabs(i.high - .2775328) < 1e-6);
    i = stats_wilson(10, 10);
    assert_true(fabs(i.low - .7224672) < 1e-6 && i.high == 1);
    assert_true(isnan(stats_wilson(0, 0).low));
    i = stats_within((struct stats_interval){-.1, 1.2}, 0, 1);
    assert_true(i.low == 0 && i.high == 1);
    assert_true(isnan(stats_within((struct stats_interval){NAN, NAN}, 0, 1).low));
}

/* Four independent values: Student's t with 3 degrees of freedom. */
static void test_few_values(void **state)
{
    (void)state;
    const float values[] = {1, 2, 3, 4};
    struct stats_mean m = stats_mean_of_runs(values, 4, 1);
    assert_true(m.mean == 2.5 && fabs(m.se - sqrt(5.0 / 12)) < 1e-12);
    assert_true(fabs(m.ci.high - 2.5 - 3.182446 * m.se) < .02 * m.se);
    m = stats_mean_of_runs(values, 3, 1);
    assert_true(m.mean == 2 && isnan(m.se) && isnan(m.ci.low));
    assert_true(isnan(stats_mean_of_runs(values, 0, 1).mean));
}

enum {
    TRIALS = 400,
    LENGTH = 1024,
    RUNS = 2
};

static float next_noise(uint64_t *x)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        *x = *x * 6364136223846793005U + 1442695040888963407U;
        sum += (float)(*x >> 40) / (1 << 24) - .5F;
    }
    return sum;
}

/* Values that follow their predecessors (correlation .8) around 0: an interval for independent
 * values would hold 0 in half of the trials, this one should do so nearly as often as it says. */
static void test_coverage_of_neighbours(void **state)
{
    (void)state;
    uint64_t x = 5;
    int n_held = 0;
    for (int trial = 0; trial < TRIALS; trial++) {
        static float values[RUNS * LENGTH];
        float level = 0;
        for (size_t i = 0; i < RUNS * LENGTH; i++)
            values[i] = level = .8F * level + next_noise(&x);
        struct stats_mean m = stats_mean_of_runs(values, RUNS, LENGTH);
        n_held += m.ci.low <= 0 && 0 <= m.ci.high;
    }
    assert_in_range(n_held, TRIALS * 88 / 100, TRIALS * 99 / 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantiles), cmocka_unit_test(test_wilson),
        cmocka_unit_test(test_few_values), cmocka_unit_test(test_coverage_of_neighbours)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
