/* q8, kivi4 and kivi2: distortion and bytes. */
#include "codec_page.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/half.h"

/* 1/12 of the squared step, over all steps of a page. */
static double expected_q8(const struct test_page *p)
{
    double sum = 0, energy = 0;
    for (size_t i = 0; i < p->n; i++)
        energy += (double)p->x[i] * (double)p->x[i];
    for (size_t t = 0; t < TOKENS; t++) {
        const uint8_t *at = p->page + p->n + 2 * t;
        const double step = (double)tkv_half_to_f32((uint16_t)(at[0] | at[1] << 8)) / 4;
        sum += step * step / 12 * p->env.head_dim;
    }
    return sum / energy;
}

static void q8_distortion(void **state)
{
    (void)state;
    struct test_page p;
    test_start(&p, "q8", 128, TKV_K);
    assert_int_equal(p.bytes, 64 * 130);
    test_rows(p.x, 128, ROWS_SCALES, 1);
    test_encode(&p, p.x, ALL_TOKENS);
    test_decode(&p);
    const double mse = test_rel_mse(p.x, p.y, p.n);
    assert_true(fabs(mse / expected_q8(&p) - 1) < 0.05);
    test_page_free(&p);
    const double gaussian = test_distortion("q8", 128, TKV_V, 64);
    printf("q8: relative error %.2e\n", gaussian);
    assert_true(gaussian < 5e-5);
}

/* The largest code of a row is 127, whatever its scale; the page is the tile. */
static void q8_codes(void **state)
{
    (void)state;
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        enum {
            D = 96
        };
        struct test_page p;
        test_start(&p, "q8", D, (tkv_kind)kind);
        test_rows(p.x, D, ROWS_SCALES, 2);
        test_encode(&p, p.x, ALL_TOKENS);
        for (size_t t = 0; t < TOKENS; t++) {
            int largest = 0;
            for (size_t d = 0; d < D; d++) {
                const size_t at = kind == TKV_K
                                      ? ((t / 16 * (D / 4) + d / 4) * 16 + t % 16) * 4 + d % 4
                                      : ((t / 4 * (D / 16) + d / 16) * 16 + d % 16) * 4 + t % 4;
                const int code = kind == TKV_K ? p.page[at] - 128 : (int8_t)p.page[at];
                largest = code < 0 ? (-code > largest ? -code : largest)
                                   : (code > largest ? code : largest);
            }
            assert_int_equal(largest, 127);
        }
        struct tkv_tile_i8 tile;
        p.ops->tile_i8(&p.env, p.page, &p.buf, &tile);
        assert_ptr_equal(tile.codes, p.page);
        test_page_free(&p);
    }
}

/* Asymmetric codes over groups of 32 Gaussian values. */
static void kivi_distortion(void **state)
{
    (void)state;
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        const double four = test_distortion("kivi4", 128, (tkv_kind)kind, 64);
        const double two = test_distortion("kivi2", 128, (tkv_kind)kind, 64);
        printf("kivi4: relative error %.5f, kivi2: %.5f\n", four, two);
        assert_true(fabs(four / 0.00612 - 1) < 0.02);
        assert_true(fabs(two / 0.155 - 1) < 0.02);
    }
}

static void kivi_bytes(void **state)
{
    (void)state;
    const struct tkv_codec_ops *four = tkv_codec_by_name("kivi4");
    const struct tkv_codec_ops *two = tkv_codec_by_name("kivi2");
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        assert_int_equal(four->page_bytes(128, (tkv_kind)kind), 64 * 128 * 5 / 8);
        assert_int_equal(two->page_bytes(128, (tkv_kind)kind), 64 * 128 * 3 / 8);
    }
    assert_int_equal(four->page_bytes(80, TKV_K), 64 * 80 * 5 / 8);
    assert_int_equal(four->page_bytes(80, TKV_V), 64 * (40 + 3 * 4)); /* groups of 32, 32, 16 */
}

/* Each group spans its own range: its least value is exact, its largest nearly, nothing lies
 * outside. */
static void kivi_ranges(void **state)
{
    (void)state;
    enum {
        D = 80
    };
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        struct test_page p;
        test_start(&p, "kivi4", D, (tkv_kind)kind);
        test_rows(p.x, D, ROWS_OUTLIER, 4);
        test_to_basis(&p); /* to f16 */
        test_encode(&p, p.x, ALL_TOKENS);
        test_decode(&p);
        const size_t n_lines = kind == TKV_K ? D : TOKENS, n_values = kind == TKV_K ? TOKENS : D;
        for (size_t l = 0; l < n_lines; l++)
            for (size_t g = 0; g < n_values; g += 32) {
                float low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
                for (size_t i = g; i < g + 32 && i < n_values; i++) {
                    const size_t at = kind == TKV_K ? i * D + l : l * D + i;
                    low[0] = fminf(low[0], p.x[at]), low[1] = fminf(low[1], p.y[at]);
                    high[0] = fmaxf(high[0], p.x[at]), high[1] = fmaxf(high[1], p.y[at]);
                }
                assert_true(low[0] == low[1]);
                assert_true(fabsf(high[0] - high[1]) <= 0x1p-10f * (high[0] - low[0]));
            }
        test_page_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(q8_distortion),   cmocka_unit_test(q8_codes),
        cmocka_unit_test(kivi_distortion), cmocka_unit_test(kivi_bytes),
        cmocka_unit_test(kivi_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
