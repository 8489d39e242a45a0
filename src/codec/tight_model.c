/* Models of tight: what a book says of a head, or what serves without one. */
#include "codec/tight_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "codec/basis_i16.h"
#include "codec/book_tensor.h"
#include "format/trellis.h"

static size_t matrices_at(void)
{
    return (sizeof(struct tkv_tight) + 63) / 64 * 64;
}

size_t tkv_tight_bytes(uint32_t D)
{
    return matrices_at() + (size_t)D * D * (3 * sizeof(float) + sizeof(int16_t));
}

float *tkv_tight_matrix(const struct tkv_tight *m, uint32_t D, uint32_t i)
{
    return (float *)(void *)((uint8_t *)(uintptr_t)m + matrices_at()) + (size_t)i * D * D;
}

static void transpose(const float *x, uint32_t D, float *y)
{
    for (uint32_t i = 0; i < D; i++)
        for (uint32_t j = 0; j < D; j++)
            y[(size_t)j * D + i] = x[(size_t)i * D + j];
}

int16_t *tkv_tight_query_codes(const struct tkv_tight *m, uint32_t D)
{
    return (int16_t *)(void *)tkv_tight_matrix(m, D, 3);
}

/* ---- books ---------------------------------------------------------------------------------- */

/* A tensor of the book: n_values of every head. */
static tkv_status find(const struct tkv_gguf *book, const char *prefix,
                       const struct tkv_codec_env *env, const struct tkv_place *place,
                       const char *what, size_t n_values, struct tkv_gguf_tensor *out,
                       tkv_error *err)
{
    char name[TKV_BOOK_NAME];
    if (!tkv_book_tensor_of(book, prefix, env->kind, place, what, name, out))
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "the book has no %s: calibrate this model for this codec", name);
    if (out->n_values != n_values * place->n_heads)
        return tkv_fail(err, TKV_ERR_CORRUPT, "%s has %zu values, not %zu: a book of another model",
                        name, out->n_values, n_values * place->n_heads);
    return TKV_OK;
}

static tkv_status read_floats(const struct tkv_gguf *book, const struct tkv_codec_env *env,
                              const struct tkv_place *place, const char *what, size_t n, float *out,
                              tkv_error *err)
{
    struct tkv_gguf_tensor t;
    const tkv_status status = find(book, "", env, place, what, n, &t, err);
    if (status != TKV_OK)
        return status;
    if (t.type != TKV_GGUF_F32 && t.type != TKV_GGUF_F16)
        return tkv_fail(err, TKV_ERR_CORRUPT, "a book whose %s is not of f32 or f16", what);
    tkv_gguf_read_f32(&t, place->head * n, n, out);
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(out[i]) < 1e15f))
            return tkv_fail(err, TKV_ERR_CORRUPT, "a book whose %s holds %g", what, (double)out[i]);
    return TKV_OK;
}

static tkv_status read_bits(const struct tkv_gguf *book, const char *codec,
                            const struct tkv_codec_env *env, const struct tkv_place *place,
                            uint8_t *out, tkv_error *err)
{
    char prefix[24];
    struct tkv_gguf_tensor t;
    snprintf(prefix, sizeof prefix, "%s.", codec);
    const tkv_status status = find(book, prefix, env, place, "bits", env->head_dim, &t, err);
    if (status != TKV_OK)
        return status;
    if (t.type != TKV_GGUF_I8)
        return tkv_fail(err, TKV_ERR_CORRUPT, "a book whose bits are not of i8");
    memcpy(out, t.data + (size_t)place->head * env->head_dim, env->head_dim);
    for (uint32_t d = 0; d < env->head_dim; d++)
        if (out[d] > TKV_TRELLIS_BITS)
            return tkv_fail(err, TKV_ERR_CORRUPT, "a book with %u bits for a coefficient", out[d]);
    return TKV_OK;
}

static tkv_status read_head(const struct tkv_gguf *book, const char *codec,
                            const struct tkv_codec_env *env, const struct tkv_place *place,
                            struct tkv_tight *m, tkv_error *err)
{
    const uint32_t D = env->head_dim;
    const size_t square = (size_t)D * D;
    float *to = tkv_tight_matrix(m, D, 0), *back = tkv_tight_matrix(m, D, 1);
    tkv_status status = read_floats(book, env, place, "to", square, to, err);
    if (status == TKV_OK)
        status = read_floats(book, env, place, "back", square, back, err);
    if (status == TKV_OK)
        status = read_floats(book, env, place, "mean", D, m->mean, err);
    if (status == TKV_OK)
        status = read_floats(book, env, place, "weight", D, m->weight, err);
    if (status == TKV_OK)
        status = read_bits(book, codec, env, place, m->bits, err);
    m->gain_stride = 1;
    return status;
}

/* ---- without a book ------------------------------------------------------------------------- */

/* Pages begin at multiples of 64 bytes. What is left for page tables is a constant of the format:
 * stored pages must be read the same when tables grow. */
uint32_t tkv_tight_row_bits(double total_bits, uint32_t D)
{
    const double tables = 0.0145, gain = 8;
    return (uint32_t)(((total_bits - tables) * (double)D - gain) / 8) * 8;
}

/* The rotation that other codecs use, no mean, all coefficients alike, gains that reach far. */
static void fall_back(const struct tkv_tight_rate *rate, const struct tkv_codec_env *env,
                      const struct tkv_place *place, struct tkv_tight *m)
{
    const uint32_t D = env->head_dim, n = tkv_tight_row_bits(rate->total_bits, D);
    float *to = tkv_tight_matrix(m, D, 0), *back = tkv_tight_matrix(m, D, 1);
    for (size_t i = 0; i < (size_t)D * D; i++)
        to[i] = i % (D + 1) == 0;
    env->kernels->rotate(to, D, D, place->sign);
    transpose(to, D, back);
    for (uint32_t d = 0; d < D; d++) {
        m->bits[d] = (uint8_t)(n / D + (d < n % D));
        m->mean[d] = 0;
        m->weight[d] = 1;
    }
    m->gain_stride = 4;
}

/* ---- what follows from it ------------------------------------------------------------------- */

/* The search counts well when a usual error costs about 3^2; all levels times 31 stay in range. */
static void set_reach(struct tkv_tight *m, uint32_t D)
{
    double cost = 0;
    uint32_t n = 0;
    for (uint32_t d = 0; d < D; d++) {
        const double unit = (double)tkv_trellis_unit[m->bits[d]];
        if (m->bits[d])
            cost += (double)m->weight[d] / (unit * unit) * 1.3 / (double)(1u << 2 * m->bits[d]),
                n++;
    }
    const double usual = n ? sqrt(cost / n) / (double)TKV_TRELLIS_STEP : 1;
    for (uint32_t d = 0; d < D; d++)
        m->reach[d] = (float)fmin(31, usual > 0 ? 3.0 * sqrt((double)m->weight[d]) / usual : 0);
}

/* A value beyond all levels must not make all of them equally far. */
static float largest_level(uint32_t bits)
{
    int32_t low = 0, high = 0;
    for (uint32_t w = 0; w < TKV_TRELLIS_STATES; w++) {
        const int32_t level = tkv_trellis_levels[bits][w];
        low = level < low ? level : low;
        high = level > high ? level : high;
    }
    return (float)(-low < high ? -low : high);
}

/* One level is to be worth the same at every rate: the rest of its unit goes into the basis. */
static void fold_units(struct tkv_tight *m, uint32_t D)
{
    for (uint32_t d = 0; d < D; d++) {
        const float unit = tkv_trellis_unit[m->bits[d]];
        for (uint32_t i = 0; i < D; i++) {
            tkv_tight_matrix(m, D, 0)[(size_t)i * D + d] /= unit;
            tkv_tight_matrix(m, D, 1)[(size_t)d * D + i] *= unit;
        }
        m->mean[d] /= unit;
        m->weight[d] *= unit * unit;
    }
}

/* No coefficient is quite free. */
static void bound_weights(struct tkv_tight *m, uint32_t D)
{
    float most = 0;
    for (uint32_t d = 0; d < D; d++)
        most = fmaxf(most, m->weight[d]);
    const float least = most > 0 ? most * 1e-9f : 1;
    for (uint32_t d = 0; d < D; d++)
        m->weight[d] = fmaxf(m->weight[d], least);
}

tkv_status tkv_tight_bind(const struct tkv_tight_rate *rate, const struct tkv_codec_env *env,
                          const struct tkv_gguf *book, const struct tkv_place *place,
                          struct tkv_tight *m, tkv_error *err)
{
    const uint32_t D = env->head_dim;
    if (book) {
        const tkv_status status = read_head(book, rate->name, env, place, m, err);
        if (status != TKV_OK)
            return status;
    } else {
        fall_back(rate, env, place, m);
    }
    bound_weights(m, D);
    fold_units(m, D);
    transpose(tkv_tight_matrix(m, D, 1), D, tkv_tight_matrix(m, D, 2));
    tkv_basis_quantize(tkv_tight_matrix(m, D, 2), D, tkv_tight_query_codes(m, D), m->query);
    for (uint32_t d = 0; d < D; d++)
        m->most[d] = largest_level(m->bits[d]);
    set_reach(m, D);
    return TKV_OK;
}
