/* Bands of distances: where they begin, and that a query turned for one scores as the mean of its
 * distances. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "index/index.h"

enum {
    PAIRS = 40
};

static void test_edges(void **state)
{
    (void)state;
    assert_int_equal(tkv_index_band(64), 0);
    assert_int_equal(tkv_index_band(127), 0);
    assert_int_equal(tkv_index_band(128), 1);
    for (uint32_t band = 0; band < TKV_INDEX_BANDS; band++) {
        assert_int_equal(tkv_index_band(tkv_index_band_from(band)), band);
        assert_int_equal(tkv_index_band(2 * tkv_index_band_from(band) - 1), band);
    }
    assert_int_equal(tkv_index_band(UINT32_MAX), TKV_INDEX_BANDS - 1);
}

/* Frequencies from one turn in six tokens down to none at all. */
static void test_mean_of_turns(void **state)
{
    (void)state;
    float freq[PAIRS], turn[PAIRS][2];
    for (uint32_t i = 0; i < PAIRS; i++)
        freq[i] = powf(10000.0f, -(float)i / PAIRS);
    freq[PAIRS - 1] = 0;
    freq[PAIRS - 2] = 6.2831855f; /* a whole turn a token */
    for (uint32_t band = 0; band < 8; band++) {
        const uint64_t from = tkv_index_band_from(band);
        tkv_index_band_turn(band, freq, PAIRS, turn);
        for (uint32_t i = 0; i < PAIRS; i++) {
            double c = 0, s = 0;
            for (uint64_t d = from; d < 2 * from; d++) {
                c += cos((double)d * (double)freq[i]);
                s += sin((double)d * (double)freq[i]);
            }
            assert_true(fabs(c / (double)from - (double)turn[i][0]) < 1e-5);
            assert_true(fabs(s / (double)from - (double)turn[i][1]) < 1e-5);
        }
    }
}

/* By the kernel that turns queries, for either way to pair values. */
static void test_scores_of_a_band(void **state)
{
    (void)state;
    struct tkv_kernels k;
    float freq[PAIRS], turn[PAIRS][2], q[2 * PAIRS], key[2 * PAIRS];
    tkv_kernels_init(&k, 0);
    for (uint32_t i = 0; i < 2 * PAIRS; i++) {
        freq[i / 2] = powf(1000.0f, -(float)(i / 2) / PAIRS);
        q[i] = (float)(i % 7) - 3, key[i] = (float)(i % 5) - 1;
    }
    for (uint32_t half = 0; half <= PAIRS; half += PAIRS) {
        double mean = 0, got = 0;
        for (uint32_t distance = 128; distance < 256; distance++) {
            float turned[2 * PAIRS];
            memcpy(turned, q, sizeof turned);
            for (uint32_t i = 0; i < PAIRS; i++) {
                turn[i][0] = cosf((float)distance * freq[i]);
                turn[i][1] = sinf((float)distance * freq[i]);
            }
            k.turn(turned, 1, 2 * PAIRS, half, PAIRS, (const float(*)[2])turn);
            for (uint32_t i = 0; i < 2 * PAIRS; i++)
                mean += (double)turned[i] * (double)key[i] / 128;
        }
        float banded[2 * PAIRS];
        memcpy(banded, q, sizeof banded);
        tkv_index_band_turn(1, freq, PAIRS, turn);
        k.turn(banded, 1, 2 * PAIRS, half, PAIRS, (const float(*)[2])turn);
        for (uint32_t i = 0; i < 2 * PAIRS; i++)
            got += (double)banded[i] * (double)key[i];
        assert_true(fabs(got - mean) < 1e-3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_mean_of_turns),
        cmocka_unit_test(test_scores_of_a_band),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
