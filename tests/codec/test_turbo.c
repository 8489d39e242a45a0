/* turbo4, turbo3, turbo2 and the centred forms: distortion, norms, bytes. */
#include "codec_page.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/half.h"
#include "format/turbo.h"

#define D       128
#define N_PAGES 64 /* 4096 rows */

static void start(struct test_page *p, const char *name, tkv_kind kind)
{
    static struct tkv_kernels kernels;
    struct test_level levels[MAX_LEVELS];
    kernels = levels[test_levels(levels) - 1].kernels;
    test_page_init(p, tkv_codec_by_name(name), &kernels, D, kind);
}

static double dot(const float *a, const float *b)
{
    double sum = 0;
    for (size_t d = 0; d < D; d++)
        sum += (double)a[d] * (double)b[d];
    return sum;
}

/* Mean over Gaussian rows of ||x - y||^2 / ||x||^2 and of <x, y> / ||x||^2, and the largest
 * relative error of a norm. */
struct figures {
    double mse, gain, norm;
};

static struct figures measure(const char *name, tkv_kind kind)
{
    struct figures f = {0};
    struct test_page p;
    start(&p, name, kind);
    for (uint64_t seed = 0; seed < N_PAGES; seed++) {
        test_rows(p.x, D, ROWS_GAUSSIAN, seed);
        test_encode(&p, p.x, ALL_TOKENS);
        test_decode(&p);
        for (size_t t = 0; t < TOKENS; t++) {
            const float *x = p.x + t * D, *y = p.y + t * D;
            f.mse += test_rel_mse(x, y, D) / (N_PAGES * TOKENS);
            f.gain += dot(x, y) / dot(x, x) / (N_PAGES * TOKENS);
            f.norm = fmax(f.norm, fabs(sqrt(dot(y, y) / dot(x, x)) - 1));
        }
    }
    test_page_free(&p);
    return f;
}

/* A Lloyd-Max table of mean squared error m has error 2 - 2 * sqrt(1 - m) and gain sqrt(1 - m)
 * where norms are kept (keys), error m / (1 - m) and gain 1 where the gain is (values). For D =
 * 128, m is .0093, .0340, .1160. */
static void distortion(void **state)
{
    static const struct {
        const char *name;
        double key_error, key_gain, value_error;
    } want[] = {
        {"turbo4", 0.00919, 0.9954, 0.0092},
        {"turbo3", 0.0339, 0.983, 0.0347},
        {"turbo2", 0.1192, 0.940, 0.1310},
    };
    (void)state;
    for (size_t i = 0; i < 3; i++)
        for (int kind = TKV_K; kind <= TKV_V; kind++) {
            const bool keys = kind == TKV_K;
            const double error = keys ? want[i].key_error : want[i].value_error;
            const double gain = keys ? want[i].key_gain : 1;
            const struct figures f = measure(want[i].name, (tkv_kind)kind);
            printf("%s: relative error %.5f, gain %.4f, norms within %.4f\n", want[i].name, f.mse,
                   f.gain, f.norm);
            assert_true(fabs(f.mse / error - 1) < 0.02);
            assert_true(fabs(f.gain / gain - 1) < 0.002);
            if (keys)
                assert_true(f.norm < 1.0 / 256); /* half a step of 8 significant bits */
        }
}

/* A large constant vector in every key costs the plain form its error, and the centred one nothing.
 * */
static void centring(void **state)
{
    (void)state;
    double error[2];
    for (int centred = 0; centred < 2; centred++) {
        struct test_page p;
        start(&p, centred ? "turbo4c" : "turbo4", TKV_K);
        test_rows(p.x, D, ROWS_GAUSSIAN, 5);
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t d = 0; d < D; d++)
                p.x[t * D + d] += d % 32 == 3 ? 300.0f : 0.0f;
        test_encode(&p, p.x, ALL_TOKENS);
        test_decode(&p);
        error[centred] = 0;
        for (size_t i = 0; i < p.n; i++)
            error[centred] += pow((double)p.x[i] - (double)p.y[i], 2) / (double)p.n;
        test_page_free(&p);
    }
    assert_true(error[0] > 5.0); /* more than all that varies */
    assert_true(error[1] < 0.012);
}

/* The channel means of a decoded page are those of the page, but for f16. */
static void means_are_kept(void **state)
{
    (void)state;
    struct test_page p;
    start(&p, "turbo3c", TKV_K);
    test_rows(p.x, D, ROWS_OFFSET, 9);
    test_encode(&p, p.x, ALL_TOKENS);
    test_decode(&p);
    for (size_t d = 0; d < D; d++) {
        double before = 0, after = 0;
        for (size_t t = 0; t < TOKENS; t++) {
            before += (double)p.x[t * D + d] / TOKENS;
            after += (double)p.y[t * D + d] / TOKENS;
        }
        assert_true(fabs(before - after) <= fabs(before) * 0x1p-11 + 1e-4);
    }
    test_page_free(&p);
}

/* The bytes of one row, against the words of the format: codes by thresholds, units, planes, scale.
 * */
static uint32_t stored_code(const struct test_page *p, uint32_t bits, size_t t, size_t d)
{
    const size_t per = bits == 4 ? 2 : 4, width = bits == 4 ? 4 : 2;
    size_t unit, level, at;
    if (p->env.kind == TKV_K) {
        const size_t group = t / 16 * (D / 4) + d / 4;
        unit = group / per, level = group % per, at = t % 16 * 4 + d % 4;
    } else {
        const size_t group = t / 4;
        unit = group / per * (D / 16) + d / 16, level = group % per, at = d % 16 * 4 + t % 4;
    }
    uint32_t code = (uint32_t)p->page[unit * 64 + at] >> (width * level) & ((1u << width) - 1);
    if (bits == 3)
        code |= (uint32_t)(p->page[16 * D + (unit * per + level) * 8 + at / 8] >> (at % 8) & 1)
                << 2;
    return code;
}

static void layout(void **state)
{
    (void)state;
    for (uint32_t run = 0; run < 6; run++) {
        const uint32_t bits = 2 + run / 2;
        const char *const names[] = {"turbo2", "turbo3", "turbo4"};
        struct test_page p;
        start(&p, names[bits - 2], (tkv_kind)(run % 2));
        assert_int_equal(p.bytes, TOKENS * (D * bits / 8 + 2));
        test_rows(p.x, D, ROWS_GAUSSIAN, run);
        test_encode(&p, p.x, ALL_TOKENS);
        for (size_t t = 0; t < TOKENS; t++) {
            const double rms = sqrt(dot(p.x + t * D, p.x + t * D) / D);
            double energy = 0, product = 0;
            for (size_t d = 0; d < D; d++) {
                const double y = (double)p.x[t * D + d] / rms;
                const uint32_t code = stored_code(&p, bits, t, d);
                assert_true(code == 0 || y > (double)tkv_turbo_threshold(bits, code - 1) - 1e-5);
                assert_true(code == (1u << bits) - 1 ||
                            y < (double)tkv_turbo_threshold(bits, code) + 1e-5);
                const double level = tkv_turbo_levels(bits)[code] * (double)tkv_turbo_step(bits);
                energy += level * level;
                product += level * y;
            }
            const uint8_t *at = p.page + D * 8 * bits + 2 * t;
            const uint16_t half = (uint16_t)(at[0] | at[1] << 8);
            assert_int_equal(half & 7, 0); /* 8 significant bits */
            const double scale = 8.0 * (double)tkv_half_to_f32(half);
            const double want = run % 2 == TKV_K ? rms / sqrt(energy / D) : rms * D / product;
            assert_true(fabs(scale / want - 1) < 1.0 / 256);
        }
        test_page_free(&p);
    }
}

/* Rows that no scale can hold become zeros; the largest ones stay finite and near. */
static void extremes(void **state)
{
    (void)state;
    struct test_page p;
    start(&p, "turbo4", TKV_V);
    memset(p.x, 0, p.n * sizeof(float));
    for (size_t d = 0; d < D; d++) {
        p.x[d] = 1e-7f;
        p.x[D + d] = d % 3 ? 65504.0f : -65504.0f;
        p.x[2 * D + d] = d == 7 ? 741000.0f : 0.0f; /* 65504 * sqrt(128) in one coordinate */
    }
    test_encode(&p, p.x, ALL_TOKENS);
    test_decode(&p);
    for (size_t d = 0; d < D; d++)
        assert_true(p.y[d] == 0.0f && p.y[3 * D + d] == 0.0f);
    assert_true(test_rel_mse(p.x + D, p.y + D, D) < 1e-4);
    assert_true(fabs(sqrt(dot(p.y + 2 * D, p.y + 2 * D)) / 741000.0 - 1) < 1.0 / 256);
    test_page_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distortion), cmocka_unit_test(centring), cmocka_unit_test(means_are_kept),
        cmocka_unit_test(layout),     cmocka_unit_test(extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
