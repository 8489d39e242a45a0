/* Statistics of rows against what numpy says of the same rows:
 *   m, s, r = a.mean(0), a.std(0), a - a.mean(0); n = norm(a, axis=1)
 *   sqrt((m**2).sum() / (s**2).sum()), (abs(m) / s).max(), s.max() / median(s),
 *   (r**4).mean() / (r**2).mean()**2, n.std() / n.mean() */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdint.h>

#include "kv_stats.h"

enum {
    ROWS = 201,
    CHANNELS = 24,
    STRIDE = 31
};

/* Cubes of uniform numbers, wider by the channel; one channel far from zero. */
static void fill(float *rows)
{
    uint64_t x = 11;
    for (size_t i = 0; i < ROWS; i++) {
        for (size_t c = 0; c < CHANNELS; c++) {
            x = x * 6364136223846793005U + 1442695040888963407U;
            float u = (float)(x >> 40) / (1 << 24) - .5F;
            rows[i * STRIDE + c] = u * u * u * (float)(c + 1) + (c == 5 ? 9 : 0);
        }
    }
}

static void assert_close(double got, double expected)
{
    assert_true(fabs(got - expected) < 1e-6 * expected);
}

static void test_against_numpy(void **state)
{
    (void)state;
    static float rows[ROWS * STRIDE];
    struct kv_stats s;
    fill(rows);
    kv_stats_of(rows, ROWS, CHANNELS, STRIDE, &s);
    assert_close(s.offset, 2.77500970193481);
    assert_close(s.worst_offset, 30.4817453763934);
    assert_close(s.outlier, 1.91266998276185);
    assert_close(s.kurtosis, 6.61055509047098);
    assert_close(s.norm_spread, 0.0383748572771383);
}

static void test_zeros(void **state)
{
    (void)state;
    static const float rows[4 * 8];
    struct kv_stats s;
    kv_stats_of(rows, 4, 8, 8, &s);
    assert_true(isnan(s.offset) && isnan(s.outlier) && isnan(s.kurtosis) && isnan(s.norm_spread));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_numpy),
                                       cmocka_unit_test(test_zeros)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
