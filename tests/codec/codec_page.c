#include "codec_page.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "cpu/features.h"
#include "support/made_book.h"

#define N_GUARD 64

size_t test_levels(struct test_level *levels)
{
    static const struct {
        const char *name;
        uint32_t mask, needs;
    } all[MAX_LEVELS] = {
        {"ref", 0, 0},
        {"avx2", TKV_CPU_AVX2, TKV_CPU_AVX2},
        {"avx512", TKV_CPU_AVX2 | TKV_CPU_AVX512, TKV_CPU_AVX512},
        {"neon", TKV_CPU_NEON | TKV_CPU_DOTPROD, TKV_CPU_NEON},
    };
    const uint32_t features = tkv_cpu_features();
    size_t n = 0;
    for (size_t i = 0; i < MAX_LEVELS; i++)
        if ((features & all[i].needs) == all[i].needs) {
            levels[n].name = all[i].name;
            tkv_kernels_init(&levels[n].kernels, all[i].mask & features);
            n++;
        }
    return n;
}

struct random {
    uint64_t state;
    double spare; /* Gaussians come in pairs */
    bool has_spare;
};

static double uniform(struct random *r) /* splitmix64 */
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
}

/* Marsaglia's polar method. */
static double gaussian(struct random *r)
{
    if (r->has_spare) {
        r->has_spare = false;
        return r->spare;
    }
    double a, b, s;
    do {
        a = 2.0 * uniform(r) - 1.0;
        b = 2.0 * uniform(r) - 1.0;
        s = a * a + b * b;
    } while (s >= 1.0 || s == 0.0);
    const double factor = sqrt(-2.0 * log(s) / s);
    r->spare = b * factor;
    r->has_spare = true;
    return a * factor;
}

const char *test_rows_name(int rows)
{
    static const char *const names[ROWS_COUNT] = {"gaussian", "heavy", "outlier", "offset",
                                                  "scales",   "zero",  "tiny",    "big",
                                                  "flat",     "sparse"};
    return names[rows];
}

static double one_value(struct random *r, int rows, double row_scale, double constant, bool outlier)
{
    const double g = gaussian(r);
    switch (rows) {
    case ROWS_HEAVY:
        return g / sqrt(-0.5 * log(uniform(r) * uniform(r)));
    case ROWS_OUTLIER:
        return outlier ? 40.0 + 4.0 * g : g;
    case ROWS_OFFSET:
        return 20.0 * constant + g;
    case ROWS_SCALES:
        return row_scale * g;
    case ROWS_ZERO:
        return 0.0;
    case ROWS_TINY:
        return g * 1e-6;
    case ROWS_BIG:
        return fmax(fmin(g * 2e4, 4e4), -4e4);
    case ROWS_FLAT:
        return g > 0.0 ? 1.0 : -1.0;
    case ROWS_SPARSE:
        return uniform(r) < 0.02 ? g : 0.0;
    default:
        return g;
    }
}

void test_rows(float *x, uint32_t D, int rows, uint64_t seed)
{
    struct random r = {.state = seed * 1000003 + (uint64_t)rows};
    double constant[TKV_MAX_HEAD_DIM];
    for (uint32_t d = 0; d < D; d++)
        constant[d] = gaussian(&r);
    const uint32_t outlier = (uint32_t)(uniform(&r) * D);
    for (size_t t = 0; t < TOKENS; t++) {
        const double row_scale = pow(10.0, 8.0 * uniform(&r) - 4.0);
        for (uint32_t d = 0; d < D; d++)
            x[t * D + d] = (float)one_value(&r, rows, row_scale, constant[d], d == outlier);
    }
}

/* rvq's models point into the book, which is one for all sizes: made once, and never freed. */
static struct made_book *book_of_codes(void)
{
    static struct made_book *book;
    if (!book)
        made_book_rvq(book = made_book_new(), 0);
    return book;
}

/* Models of the codecs that have theirs from a book: Gaussian rows count as of unit variance. */
static void bind(struct test_page *p, uint32_t D)
{
    const bool has_codes = strncmp(p->ops->name, "rvq", 3) == 0;
    size_t n_bytes, code_bytes;
    struct tkv_gguf file;
    const struct tkv_place place = {.n_heads = 1};
    struct made_book *book = has_codes ? book_of_codes() : made_book_new();
    if (strncmp(p->ops->name, "cq", 2) == 0)
        made_book_cq(book, 0, 1, D, 1.0f);
    else if (!has_codes)
        made_book_tight(book, 0, 1, D, 1.0f);
    const uint8_t *bytes = made_book_bytes(book, &n_bytes);
    assert_int_equal(tkv_gguf_open(bytes, n_bytes, &file, NULL), TKV_OK);
    p->env.model = p->model = aligned_alloc(64, (p->ops->model_bytes(D) + 63) / 64 * 64);
    assert_int_equal(p->ops->bind(&p->env, &file, &place, p->model, NULL), TKV_OK);
    if (p->ops->bound_bytes) {
        p->bytes = p->ops->bound_bytes(&p->env, &code_bytes);
        assert_in_range(code_bytes, 1, p->bytes);
    }
    if (!has_codes)
        made_book_free(book);
}

void test_page_init(struct test_page *p, const struct tkv_codec_ops *ops,
                    const struct tkv_kernels *kernels, uint32_t D, tkv_kind kind)
{
    const size_t n = (size_t)TOKENS * D;
    struct random r = {.state = 7};
    *p = (struct test_page){
        .ops = ops, .env = {.kernels = kernels, .head_dim = D, .kind = kind}, .n = n};
    p->bytes = ops->page_bytes(D, kind);
    if (ops->caps & TKV_CAP_BOOK)
        bind(p, D);
    p->page = aligned_alloc(64, (p->bytes + N_GUARD + 63) / 64 * 64);
    p->x = aligned_alloc(64, n * sizeof(float));
    p->y = aligned_alloc(64, n * sizeof(float));
    p->tile = aligned_alloc(64, n * sizeof(float));
    p->buf.codes = aligned_alloc(64, n);
    p->buf.scale = aligned_alloc(64, TOKENS * sizeof(float));
    p->buf.mean = aligned_alloc(64, D * sizeof(float));
    p->ahead = (struct tkv_ahead){.at = (uintptr_t)p->page};
    p->buf.n_rows = TOKENS;
    p->buf.ahead = &p->ahead;
    p->sign = malloc(D * sizeof(float));
    const size_t scratch = ops->scratch_bytes ? ops->scratch_bytes(D) : 0;
    p->scratch = aligned_alloc(64, (scratch + 63) / 64 * 64);
    for (uint32_t d = 0; d < D; d++)
        p->sign[d] = uniform(&r) < 0.5 ? -1.0f : 1.0f;
}

void test_page_free(struct test_page *p)
{
    free(p->page), free(p->x), free(p->y), free(p->tile), free(p->sign), free(p->scratch);
    free(p->buf.codes), free(p->buf.scale), free(p->buf.mean), free(p->model);
}

void test_encode(struct test_page *p, const float *x, uint64_t valid)
{
    memcpy(p->tile, x, p->n * sizeof *x); /* encode may destroy its input */
    memset(p->page, 0xa5, p->bytes + N_GUARD);
    p->ops->encode(&p->env, p->tile, valid, p->page, p->scratch);
    for (size_t i = 0; i < N_GUARD; i++)
        assert_int_equal(p->page[p->bytes + i], 0xa5);
}

void test_decode(struct test_page *p)
{
    p->ops->decode(&p->env, p->page, p->y);
}

static void round_to_f16(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = tkv_half_to_f32(tkv_f32_to_half(x[i]));
}

/* p->x times a matrix of the learned basis. */
static void multiply(struct test_page *p, const float *matrix)
{
    memcpy(p->tile, p->x, p->n * sizeof *p->x);
    p->env.kernels->basis(p->tile, TOKENS, p->env.head_dim, matrix, p->x);
}

void test_to_basis(struct test_page *p)
{
    struct tkv_basis basis;
    round_to_f16(p->x, p->n);
    if (p->ops->basis) {
        p->ops->basis(&p->env, &basis);
        multiply(p, basis.to);
    }
    if (p->ops->caps & TKV_CAP_ROTATES)
        p->env.kernels->rotate(p->x, TOKENS, p->env.head_dim, p->sign);
}

void test_save_and_restore(struct test_page *p)
{
    struct tkv_basis basis;
    memcpy(p->x, p->y, p->n * sizeof *p->x);
    if (p->ops->basis) {
        p->ops->basis(&p->env, &basis);
        multiply(p, basis.back);
    }
    if (p->ops->caps & TKV_CAP_ROTATES)
        p->env.kernels->unrotate(p->x, TOKENS, p->env.head_dim, p->sign);
    test_to_basis(p);
}

double test_rel_mse(const float *a, const float *b, size_t n)
{
    double error = 0, energy = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        energy += (double)a[i] * (double)a[i];
    }
    return energy > 0 ? error / energy : error > 0 ? INFINITY : 0;
}

void test_start(struct test_page *p, const char *name, uint32_t D, tkv_kind kind)
{
    static struct tkv_kernels kernels;
    struct test_level levels[MAX_LEVELS];
    kernels = levels[test_levels(levels) - 1].kernels;
    test_page_init(p, tkv_codec_by_name(name), &kernels, D, kind);
}

double test_distortion(const char *name, uint32_t D, tkv_kind kind, uint64_t n_pages)
{
    struct test_page p;
    double mse = 0;
    test_start(&p, name, D, kind);
    for (uint64_t seed = 0; seed < n_pages; seed++) {
        test_rows(p.x, D, ROWS_GAUSSIAN, seed);
        test_encode(&p, p.x, ALL_TOKENS);
        test_decode(&p);
        mse += test_rel_mse(p.x, p.y, p.n) / (double)n_pages;
    }
    test_page_free(&p);
    return mse;
}
