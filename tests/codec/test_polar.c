/* The polar codecs: distortion against the figures of PolarQuant on ideal data, norms, round trips,
 * equal bytes and tiles on every CPU level, awkward rows, learned codebooks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "codec/codec.h"
#include "codec/polar_model.h"
#include "cpu/features.h"
#include "format/polar.h"

#define TOKENS     TKV_PAGE_TOKENS
#define MAX_VALUES (TOKENS * TKV_MAX_HEAD_DIM)

static const char *const names[] = {"polar", "polar433", "polar-online"};
static const uint32_t head_dims[] = {16, 64, 80, 96, 112, 128, 192, 256, 512};
static const uint32_t levels[] = {0, TKV_CPU_AVX2, TKV_CPU_AVX2 | TKV_CPU_AVX512, TKV_CPU_NEON,
                                  TKV_CPU_ALL};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

struct rig {
    uint64_t seed;
    struct tkv_kernels kernels;
    _Alignas(64) float x[MAX_VALUES], y[MAX_VALUES], z[MAX_VALUES], sign[TKV_MAX_HEAD_DIM];
    _Alignas(64) uint8_t page[4 * MAX_VALUES], again[4 * MAX_VALUES], tile[MAX_VALUES],
        scratch[160 * TKV_MAX_HEAD_DIM];
    float scale[TOKENS];
    struct tkv_polar_tables model;
};

static double uniform(struct rig *r)
{
    r->seed = r->seed * 6364136223846793005u + 1442695040888963407u;
    return ((double)(r->seed >> 11) + 0.5) * 0x1p-53;
}

static double gauss(struct rig *r)
{
    return sqrt(-2 * log(uniform(r))) * cos(6.283185307179586 * uniform(r));
}

static void fill_gauss(struct rig *r, uint32_t D, double sigma)
{
    for (size_t i = 0; i < (size_t)TOKENS * D; i++)
        r->x[i] = (float)(sigma * gauss(r));
}

static int set_up(void **state)
{
    struct rig *r = aligned_alloc(64, (sizeof *r + 63) / 64 * 64);
    if (!r)
        return -1;
    memset(r, 0, sizeof *r);
    r->seed = 12345;
    tkv_kernels_init(&r->kernels, tkv_cpu_features());
    for (size_t i = 0; i < TKV_MAX_HEAD_DIM; i++)
        r->sign[i] = uniform(r) < 0.5 ? -1.0f : 1.0f;
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    free(*state);
    return 0;
}

static struct tkv_codec_env env_of(const struct rig *r, uint32_t D, tkv_kind kind)
{
    return (struct tkv_codec_env){.kernels = &r->kernels, .head_dim = D, .kind = kind};
}

/* Encodes a copy of x, as encode may destroy its rows. */
static void encode(struct rig *r, const struct tkv_codec_ops *ops, const struct tkv_codec_env *env,
                   const float *x, uint8_t *page)
{
    memcpy(r->z, x, sizeof(float) * TOKENS * env->head_dim);
    ops->encode(env, r->z, UINT64_MAX, page, r->scratch);
}

static double energy(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

static double distance(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return sum;
}

/* --- sizes, tables --- */

static void test_sizes(void **state)
{
    (void)state;
    const struct tkv_codec_ops *polar = tkv_codec_by_name("polar"),
                               *p433 = tkv_codec_by_name("polar433");
    assert_non_null(polar);
    assert_non_null(p433);
    assert_int_equal(polar->id, 7);
    assert_int_equal(p433->id, 8);
    assert_int_equal(tkv_codec_by_name("polar-online")->id, 9);
    for (tkv_kind kind = TKV_K; kind <= TKV_V; kind++) {
        assert_int_equal(polar->page_bytes(128, kind), 62 * TOKENS);
        assert_int_equal(p433->page_bytes(128, kind), 61 * TOKENS);
        assert_int_equal(polar->page_bytes(80, kind), 31 * 80);
        assert_false(polar->supports(72, kind));
        for (size_t i = 0; i < COUNT(head_dims); i++)
            assert_true(p433->supports(head_dims[i], kind));
    }
}

/* The generated integers are those that a learned codebook would get. */
static void test_tables(void **state)
{
    (void)state;
    const struct tkv_polar_tables *all[] = {&tkv_polar_222, &tkv_polar_333};
    for (size_t i = 0; i < COUNT(all); i++) {
        struct tkv_polar_tables t = *all[i];
        memset(t.p, 0, sizeof t.p);
        memset(t.f, 0, sizeof t.f);
        t.unit = 0;
        tkv_polar_finish(&t);
        assert_memory_equal(t.p, all[i]->p, sizeof t.p);
        assert_memory_equal(t.f, all[i]->f, sizeof t.f);
        assert_true(fabsf(t.unit - all[i]->unit) <= 1e-9f);
    }
}

/* Slots and entries are permutations, and log radii what spec/polar.md says. */
static void test_layout(void **state)
{
    (void)state;
    for (tkv_kind kind = TKV_K; kind <= TKV_V; kind++)
        for (size_t i = 0; i < COUNT(head_dims); i++) {
            const uint32_t D = head_dims[i];
            uint8_t seen[16 * TKV_MAX_HEAD_DIM] = {0};
            for (size_t t = 0; t < TOKENS; t++)
                for (size_t j = 0; j < D / 4; j++)
                    seen[tkv_polar_slot(kind, D, t, j)]++;
            for (size_t s = 0; s < 16 * (size_t)D; s++)
                assert_int_equal(seen[s], 1);
        }
    assert_true(tkv_polar_log_radius(0) == 0.0f);
    assert_true(tkv_polar_log_radius(1) == 0x1p-15f);
    for (uint32_t c = 21; c <= 229; c++)
        assert_true(fabs((double)tkv_polar_log_radius(c) / exp2((c - 21) / 16.0 - 5) - 1) < 1e-7);
    assert_true(tkv_polar_log_radius(255) == 0x1p21f);
}

/* --- distortion on ideal data --- */

struct figures {
    double mse, gain, worst_norm;
};

static struct figures measure(struct rig *r, const char *name, uint32_t D, tkv_kind kind,
                              const void *model)
{
    const struct tkv_codec_ops *ops = tkv_codec_by_name(name);
    struct tkv_codec_env env = env_of(r, D, kind);
    env.model = model;
    double error = 0, total = 0, dot = 0, worst = 0;
    for (int i = 0; i < 80; i++) {
        fill_gauss(r, D, 1.0);
        encode(r, ops, &env, r->x, r->page);
        ops->decode(&env, r->page, r->y);
        error += distance(r->x, r->y, (size_t)TOKENS * D);
        total += energy(r->x, (size_t)TOKENS * D);
        for (size_t k = 0; k < (size_t)TOKENS * D; k++)
            dot += (double)r->x[k] * (double)r->y[k];
        for (size_t t = 0; t < TOKENS; t++) {
            const double norm = sqrt(energy(r->y + t * D, D) / energy(r->x + t * D, D));
            worst = fmax(worst, fabs(norm - 1));
        }
    }
    return (struct figures){error / total, dot / total, worst};
}

static void test_distortion(void **state)
{
    struct rig *r = *state;
    static const struct {
        const char *name;
        double mse, gain, norm;
    } want[] = {{"polar", .0321, .984, 1.0 / 256}, {"polar433", .0183, .991, .0219}};
    for (size_t i = 0; i < COUNT(want); i++)
        for (tkv_kind kind = TKV_K; kind <= TKV_V; kind++) {
            const struct figures got = measure(r, want[i].name, 128, kind, NULL);
            print_message("%s: relative error %.5f, gain %.4f, norm within %.4f\n", want[i].name,
                          got.mse, got.gain, got.worst_norm);
            assert_true(fabs(got.mse / want[i].mse - 1) < .02);
            assert_true(fabs(got.gain - want[i].gain) < .001);
            assert_true(got.worst_norm <= want[i].norm);
        }
}

/* The transform itself, before any code: angles and radius give the row back. */
static void test_transform(void **state)
{
    struct rig *r = *state;
    double worst = 0;
    for (int i = 0; i < 1000; i++) {
        double v[16], sq[16], back[16];
        for (int k = 0; k < 16; k++) {
            v[k] = gauss(r);
            sq[k] = v[k] * v[k];
        }
        /* quarter q, column n at 4q + n */
        double total = 0;
        for (int k = 0; k < 16; k++)
            total += sq[k];
        for (int n = 0; n < 4; n++) {
            const int m = n ^ 1, h = n & 2;
            double col[4];
            for (int k = 0; k < 4; k++)
                col[k] = sq[k] + sq[4 + k] + sq[8 + k] + sq[12 + k];
            const double c4 = sqrt((col[h] + col[h + 1]) / total),
                         c3 = sqrt(col[n] / (col[n] + col[m]));
            for (int q = 0; q < 4; q++) {
                const int pair = q & 2;
                const double p = sq[4 * pair + n] + sq[4 * (pair + 1) + n];
                const double angle = atan2(v[4 * (pair + 1) + n], v[4 * pair + n]);
                back[4 * q + n] =
                    sqrt(total) * c4 * c3 * sqrt(p / col[n]) * (q & 1 ? sin(angle) : cos(angle));
            }
        }
        for (int k = 0; k < 16; k++)
            worst = fmax(worst, fabs(back[k] - v[k]) / sqrt(total));
    }
    assert_true(worst < 1e-5);
}

/* --- every CPU level as the reference --- */

static const int8_t *tile_of(struct rig *r, const struct tkv_codec_ops *ops,
                             const struct tkv_codec_env *env, struct tkv_tile_i8 *out)
{
    struct tkv_ahead ahead = {.at = (uintptr_t)r->page};
    struct tkv_tile_buf buf = {.codes = r->tile, .scale = r->scale, .ahead = &ahead};
    ops->tile_i8(env, r->page, &buf, out);
    return out->codes;
}

/* A page of awkward rows: every token another scale, some structured. */
static void fill_mixed(struct rig *r, uint32_t D)
{
    fill_gauss(r, D, 1.0);
    for (size_t t = 0; t < TOKENS; t++) {
        float *x = r->x + t * D;
        const float s = (float)exp2(uniform(r) * 24 - 12);
        for (size_t d = 0; d < D; d++)
            x[d] *= s;
        switch (t % 8) {
        case 1:
            memset(x, 0, sizeof(float) * D);
            break;
        case 2: /* one value alone */
            memset(x, 0, sizeof(float) * D);
            x[t % D] = -s;
            break;
        case 3: /* an outlier channel */
            x[7] = 300 * s;
            break;
        case 4: /* f16's limits */
            for (size_t d = 0; d < D; d++)
                x[d] = d % 3 ? 65504.0f : -65504.0f;
            break;
        case 5:
            for (size_t d = 0; d < D; d++)
                x[d] *= 0x1p-24f / s;
            break;
        case 6: /* equal values: ties at every level */
            for (size_t d = 0; d < D; d++)
                x[d] = d & 1 ? s : -s;
            break;
        default:
            break;
        }
    }
}

static void test_levels(void **state)
{
    struct rig *r = *state;
    static _Alignas(64) uint8_t want_tile[MAX_VALUES];
    for (size_t n = 0; n < COUNT(names); n++)
        for (size_t i = 0; i < COUNT(head_dims); i++)
            for (tkv_kind kind = TKV_K; kind <= TKV_V; kind++) {
                const struct tkv_codec_ops *ops = tkv_codec_by_name(names[n]);
                const uint32_t D = head_dims[i];
                struct tkv_codec_env env = env_of(r, D, kind);
                if (ops->learn) {
                    fill_gauss(r, D, 3.0);
                    ops->learn(&env, r->x, UINT64_MAX, &r->model, r->scratch);
                    env.model = &r->model;
                }
                fill_mixed(r, D);
                float scale[TOKENS];
                for (size_t l = 0; l < COUNT(levels); l++) {
                    struct tkv_tile_i8 tile;
                    tkv_kernels_init(&r->kernels, tkv_cpu_features() & levels[l]);
                    encode(r, ops, &env, r->x, l ? r->again : r->page);
                    tile_of(r, ops, &env, &tile);
                    if (l == 0) {
                        memcpy(want_tile, r->tile, (size_t)TOKENS * D);
                        memcpy(scale, r->scale, sizeof scale);
                        continue;
                    }
                    assert_memory_equal(r->again, r->page, ops->page_bytes(D, kind));
                    assert_memory_equal(r->tile, want_tile, (size_t)TOKENS * D);
                    assert_memory_equal(r->scale, scale, sizeof scale);
                }
            }
}

/* Any bytes: finite scales, codes within -127..127, the same on every level, no access outside the
 * page. */
static void test_any_bytes(void **state)
{
    struct rig *r = *state;
    for (size_t n = 0; n < COUNT(names); n++)
        for (size_t i = 0; i < COUNT(head_dims); i++)
            for (tkv_kind kind = TKV_K; kind <= TKV_V; kind++) {
                const struct tkv_codec_ops *ops = tkv_codec_by_name(names[n]);
                const uint32_t D = head_dims[i];
                const struct tkv_codec_env env = env_of(r, D, kind);
                for (size_t k = 0; k < ops->page_bytes(D, kind); k++)
                    r->page[k] = (uint8_t)(uniform(r) * 256);
                uint8_t want[64] = {0};
                for (size_t l = 0; l < COUNT(levels); l++) {
                    struct tkv_tile_i8 tile;
                    tkv_kernels_init(&r->kernels, tkv_cpu_features() & levels[l]);
                    const int8_t *v = tile_of(r, ops, &env, &tile);
                    uint8_t sum[64] = {0};
                    for (size_t k = 0; k < (size_t)TOKENS * D; k++) {
                        const int code = kind == TKV_K ? (uint8_t)v[k] - 128 : v[k];
                        assert_in_range(code + 127, 0, 254);
                        sum[k % 64] = (uint8_t)(sum[k % 64] * 31 + (uint8_t)v[k]);
                    }
                    for (size_t t = 0; t < TOKENS; t++)
                        assert_true(isfinite(r->scale[t]));
                    if (l == 0)
                        memcpy(want, sum, sizeof want);
                    assert_memory_equal(sum, want, sizeof want);
                }
                ops->decode(&env, r->page, r->y);
            }
}

/* --- the i8 tile against the f32 decode --- */

static void test_tile_error(void **state)
{
    struct rig *r = *state;
    for (size_t n = 0; n < COUNT(names); n++)
        for (size_t i = 0; i < COUNT(head_dims); i++)
            for (tkv_kind kind = TKV_K; kind <= TKV_V; kind++) {
                const struct tkv_codec_ops *ops = tkv_codec_by_name(names[n]);
                const uint32_t D = head_dims[i];
                const struct tkv_codec_env env = env_of(r, D, kind);
                struct tkv_tile_i8 out;
                double own = 0, extra = 0, bias = 0, total = 0;
                for (int k = 0; k < 4; k++) {
                    fill_gauss(r, D, 10.0);
                    encode(r, ops, &env, r->x, r->page);
                    ops->decode(&env, r->page, r->y);
                    own += distance(r->x, r->y, (size_t)TOKENS * D);
                    total += energy(r->y, (size_t)TOKENS * D);
                    const int8_t *v = tile_of(r, ops, &env, &out);
                    for (size_t t = 0; t < TOKENS; t++)
                        for (size_t c = 0; c < D; c++) {
                            const size_t at =
                                kind == TKV_K ? (t / 16 * (D / 4) + c / 4) * 64 + t % 16 * 4 + c % 4
                                              : (t / 4 * D + c) * 4 + t % 4;
                            const int code = kind == TKV_K ? (uint8_t)v[at] - 128 : v[at];
                            const double e =
                                (double)code * (double)out.scale[t] - (double)r->y[t * D + c];
                            extra += e * e;
                            bias += e;
                        }
                }
                assert_true(extra < .02 * own);
                assert_true(fabs(bias) / (4.0 * TOKENS * D) <
                            .01 * sqrt(total / (4.0 * TOKENS * D)));
                if (D == 128)
                    print_message("%s %c: the tile adds %.2f%% to the error\n", names[n],
                                  "KV"[kind], 100 * extra / own);
            }
}

/* --- decoded, rounded to f16, coded again --- */

static void to_basis(struct rig *r, uint32_t D)
{
    r->kernels.rotate(r->x, TOKENS, D, r->sign);
}

static void round_rows(struct rig *r, uint32_t D)
{
    r->kernels.unrotate(r->y, TOKENS, D, r->sign);
    for (size_t i = 0; i < (size_t)TOKENS * D; i++)
        r->x[i] = tkv_half_to_f32(tkv_f32_to_half(r->y[i]));
}

/* One page through 10 cycles. */
static void cycle(struct rig *r, const char *name, uint32_t D, tkv_kind kind, const void *model)
{
    const struct tkv_codec_ops *ops = tkv_codec_by_name(name);
    struct tkv_codec_env env = env_of(r, D, kind);
    env.model = model;
    for (size_t i = 0; i < (size_t)TOKENS * D; i++)
        r->x[i] = tkv_half_to_f32(tkv_f32_to_half(r->x[i]));
    to_basis(r, D);
    encode(r, ops, &env, r->x, r->page);
    for (int i = 0; i < 10; i++) {
        ops->decode(&env, r->page, r->y);
        round_rows(r, D);
        to_basis(r, D);
        encode(r, ops, &env, r->x, r->again);
        assert_memory_equal(r->again, r->page, ops->page_bytes(D, kind));
    }
}

#define N_SHAPES 6

static void fill_rows(struct rig *r, uint32_t D, int shape)
{
    fill_gauss(r, D, 1.0);
    for (size_t t = 0; t < TOKENS; t++) {
        float *x = r->x + t * D;
        const double s = exp2(uniform(r) * 12 - 8);
        for (size_t d = 0; d < D; d++) {
            if (shape == 1) /* a constant offset far larger than the rest */
                x[d] = (float)(s * (30 * sin(1.0 + (double)d * (double)d) + (double)x[d]));
            else if (shape == 2) /* outlier channels */
                x[d] *= (float)(d % 37 == 5 ? 100 * s : s);
            else if (shape == 3) /* heavy tails */
                x[d] *= (float)(s * exp(1.5 * gauss(r)));
            else if (shape == 4) /* after rotation one value: all blocks but one are noise */
                x[d] = (float)((double)r->sign[d] * s);
            else
                x[d] *= (float)s;
        }
        for (size_t b = 0; shape == 5 && b < D / 16; b++) { /* blocks of very different sizes */
            const double share = exp2(-8 * uniform(r));
            for (size_t i = 0; i < 16; i++)
                x[i / 4 * (D / 4) + 4 * b + i % 4] *= (float)share;
        }
    }
    if (shape == 5)
        r->kernels.unrotate(r->x, TOKENS, D, r->sign);
}

static void test_cycles(void **state)
{
    struct rig *r = *state;
    for (size_t n = 0; n < 2; n++)
        for (int shape = 0; shape < N_SHAPES; shape++)
            for (int i = 0; i < 40; i++)
                cycle(r, names[n], (fill_rows(r, 128, shape), 128), (tkv_kind)(i & 1), NULL);
}

static void test_cycles_head_dims(void **state)
{
    struct rig *r = *state;
    for (size_t n = 0; n < 2; n++)
        for (size_t i = 0; i < COUNT(head_dims); i++)
            for (int shape = 0; shape < N_SHAPES; shape++) {
                fill_rows(r, head_dims[i], shape);
                cycle(r, names[n], head_dims[i], (tkv_kind)(shape & 1), NULL);
            }
}

/* --- awkward rows --- */

static void test_awkward(void **state)
{
    struct rig *r = *state;
    for (size_t n = 0; n < COUNT(names); n++) {
        const struct tkv_codec_ops *ops = tkv_codec_by_name(names[n]);
        const struct tkv_codec_env env = env_of(r, 128, TKV_K);
        fill_mixed(r, 128);
        encode(r, ops, &env, r->x, r->page);
        ops->decode(&env, r->page, r->y);
        for (size_t t = 0; t < TOKENS; t++) {
            const double e = energy(r->x + t * 128, 128),
                         d = distance(r->x + t * 128, r->y + t * 128, 128);
            if (e == 0) {
                assert_true(energy(r->y + t * 128, 128) == 0);
                continue;
            }
            /* Worst is a value alone: it decodes to the product of four cosines, .736, and error 2
             * - 2 * .736. */
            if (t % 8 != 5)
                assert_true(d < .54 * e);
            else
                assert_true(d <= e);
        }
    }
}

/* The log radius holds over the whole range of rotated f16 rows. */
static void test_range(void **state)
{
    struct rig *r = *state;
    const struct tkv_codec_ops *ops = tkv_codec_by_name("polar433");
    const struct tkv_codec_env env = env_of(r, 128, TKV_V);
    for (int e = -14; e <= 15; e++) {
        fill_gauss(r, 128, exp2(e));
        encode(r, ops, &env, r->x, r->page);
        ops->decode(&env, r->page, r->y);
        const double mse = distance(r->x, r->y, TOKENS * 128) / energy(r->x, TOKENS * 128);
        assert_true(mse < (e >= -5 && e <= 4 ? .0187 : .032));
    }
}

/* --- learned codebooks --- */

static void test_learned(void **state)
{
    struct rig *r = *state;
    const struct tkv_codec_ops *ops = tkv_codec_by_name("polar-online");
    const struct tkv_codec_env env = env_of(r, 128, TKV_K);
    assert_true(ops->model_bytes(128) >= sizeof r->model);

    fill_gauss(r, 128, 2.0);
    ops->learn(&env, r->x, UINT64_MAX, &r->model, r->scratch);
    for (int level = 0; level < 4; level++)
        for (int k = 0; k < 4; k++)
            assert_true(fabsf(r->model.cos_sin[level][0][k] - tkv_polar_222.cos_sin[level][0][k]) <
                        .03f);
    const struct figures ideal = measure(r, "polar-online", 128, TKV_K, &r->model);
    assert_true(ideal.mse < .0321 * 1.02);

    /* Angles that leave the analytic law: learning must help. */
    double error[2] = {0};
    for (int learned = 0; learned < 2; learned++) {
        struct tkv_codec_env e = env;
        e.model = learned ? &r->model : NULL;
        r->seed = 99;
        fill_gauss(r, 128, 1.0);
        for (size_t i = 0; i < TOKENS * 128; i++)
            r->x[i] *= i % 128 < 32 ? 8.0f : 1.0f;
        if (learned)
            ops->learn(&env, r->x, UINT64_MAX, &r->model, r->scratch);
        encode(r, ops, &e, r->x, r->page);
        ops->decode(&e, r->page, r->y);
        error[learned] = distance(r->x, r->y, TOKENS * 128) / energy(r->x, TOKENS * 128);
    }
    print_message("one loud quarter: analytic %.4f, learned %.4f\n", error[0], error[1]);
    assert_true(error[1] < .8 * error[0]);

    /* Too few rows: the analytic tables. Equal rows: still a usable codebook. */
    ops->learn(&env, r->x, 1, &r->model, r->scratch);
    assert_memory_equal(&r->model, &tkv_polar_222, sizeof r->model);
    for (size_t i = 0; i < TOKENS * 128; i++)
        r->x[i] = 1.0f;
    ops->learn(&env, r->x, UINT64_MAX, &r->model, r->scratch);
    for (int level = 0; level < 4; level++)
        for (int k = 0; k < 3; k++)
            assert_true(r->model.cos_sin[level][1][k] < r->model.cos_sin[level][1][k + 1]);
}

/* A codebook learned from ordinary rows is as stable as the analytic one. */
static void test_learned_cycles(void **state)
{
    struct rig *r = *state;
    const struct tkv_codec_ops *ops = tkv_codec_by_name("polar-online");
    const struct tkv_codec_env env = env_of(r, 128, TKV_K);
    struct tkv_polar_tables model;
    for (int shape = 0; shape < 4; shape++) {
        fill_rows(r, 128, shape);
        to_basis(r, 128);
        ops->learn(&env, r->x, UINT64_MAX, &model, r->scratch);
        for (int i = 0; i < 10; i++) {
            fill_rows(r, 128, i % N_SHAPES);
            cycle(r, "polar-online", 128, (tkv_kind)(i & 1), &model);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sizes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tables, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_layout, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_distortion, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_transform, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_levels, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_any_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tile_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cycles, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cycles_head_dims, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_awkward, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_range, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_learned, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_learned_cycles, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
