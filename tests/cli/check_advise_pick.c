/* Which setting is chosen, from made-up figures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdint.h>

#include "advise_pick.h"

static struct advise_rung rung(double bytes, double kld, double out_error)
{
    return (struct advise_rung){.bytes = bytes,
                                .out_error = out_error,
                                .measured = !isnan(kld),
                                .kld = {kld, 0, {.9 * kld, 1.1 * kld}}};
}

static void test_pick(void **state)
{
    (void)state;
    const struct advise_rung floor = rung(1000, .0004, NAN);
    const struct advise_rung rungs[] = {rung(500, .0005, NAN), rung(300, .0008, NAN),
                                        rung(280, .01, NAN), rung(200, .2, NAN)};
    /* .00088 less the floor, four times: .00192. */
    assert_true(fabs(advise_cost(&rungs[1], &floor) - .00192) < 1e-12);
    assert_true(fabs(advise_at_most(&rungs[1], &floor) - .00232) < 1e-12);
    assert_ptr_equal(advise_pick(rungs, 4, &floor, .002), &rungs[1]);
    assert_ptr_equal(advise_pick(rungs, 4, &floor, .0019), &rungs[0]);
    assert_ptr_equal(advise_pick(rungs, 4, &floor, .05), &rungs[2]);
    assert_null(advise_pick(rungs, 4, &floor, .0001));
    /* A cache that is no smaller than f16 is no choice. */
    const struct advise_rung small_floor = rung(400, 0, NAN);
    assert_null(advise_pick(rungs, 1, &small_floor, 1));
    /* Below the floor costs nothing; what is not known may cost anything. */
    const struct advise_rung below = rung(1, .0001, NAN), unknown = rung(1, NAN, NAN);
    assert_true(advise_cost(&below, &floor) == 0);
    assert_true(isinf(advise_cost(&unknown, &floor)));
}

static void test_fit(void **state)
{
    (void)state;
    const struct advise_rung floor = rung(1000, .0001, NAN);
    const struct advise_rung rungs[] = {rung(500, .00001, NAN), rung(300, .002, NAN),
                                        rung(320, .001, NAN), rung(200, .5, NAN)};
    assert_ptr_equal(advise_fit(rungs, 4, &floor, 1000), &floor);
    assert_ptr_equal(advise_fit(rungs, 4, &floor, 999), &rungs[0]);
    assert_ptr_equal(advise_fit(rungs, 4, &floor, 330), &rungs[2]);
    assert_ptr_equal(advise_fit(rungs, 4, &floor, 310), &rungs[1]);
    /* It would fit, and is not usable. */
    assert_null(advise_fit(rungs, 4, &floor, 250));
}

static void test_estimate(void **state)
{
    (void)state;
    const struct advise_rung floor = rung(1000, .0004, NAN);
    /* Twice and half the error of outputs: once in the geometric mean. */
    struct advise_rung rungs[] = {rung(1, .0024, .001), rung(1, .0009, .001), rung(1, NAN, .003),
                                  rung(1, NAN, NAN)};
    advise_estimate(rungs, 4, &floor);
    assert_true(fabs(rungs[2].kld.mean - .0034) < 1e-12);
    assert_true(fabs(rungs[2].kld.ci.low - .0019) < 1e-12);
    assert_true(fabs(rungs[2].kld.ci.high - .0064) < 1e-12);
    assert_true(rungs[0].kld.mean == .0024 && isnan(rungs[3].kld.mean));
    /* None above the floor: no factor. */
    struct advise_rung none[] = {rung(1, .0003, .001), rung(1, NAN, .003)};
    advise_estimate(none, 2, &floor);
    assert_true(isnan(none[1].kld.mean) && isinf(advise_cost(&none[1], &floor)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pick), cmocka_unit_test(test_fit),
                                       cmocka_unit_test(test_estimate)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
