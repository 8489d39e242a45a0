/* tight: coefficients in a basis learned from the model, coded along a trellis (FORMAT.md, tight).
 *
 * A book gives each head a mean, a basis in which all coefficients have unit variance, what an error
 * of each costs, and the bits that each takes. A row is gain * levels in that basis; the gain, a
 * logarithm in 8 bits, is the one that fits best after the levels are known. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "codec/tight_model.h"
#include "format/trellis.h"

#define T TKV_PAGE_TOKENS

/* Gains: code 0 is zero, code c > 0 is 2^((c - GAIN_ONE) * stride / GAIN_STEPS). */
enum {
    GAIN_ONE = 144,
    GAIN_STEPS = 64,
    GAIN_OCTAVES = 9 /* below one */
};

static bool supports(uint32_t D, tkv_kind kind)
{
    (void)kind;
    return D > 0 && D <= TKV_MAX_HEAD_DIM && D % 16 == 0;
}

static size_t most_bytes(uint32_t D, tkv_kind kind)
{
    (void)kind;
    return T + (size_t)D * TKV_TRELLIS_BITS * sizeof(uint64_t);
}

static size_t bound_bytes(const struct tkv_codec_env *env, size_t *code_bytes)
{
    const struct tkv_tight *m = env->model;
    *code_bytes = tkv_trellis_bytes(m->bits, env->head_dim);
    return T + *code_bytes;
}

static void basis(const struct tkv_codec_env *env, struct tkv_basis *out)
{
    const uint32_t D = env->head_dim;
    const struct tkv_tight *m = env->model;
    *out = (struct tkv_basis){tkv_tight_matrix(m, D, 0),
                              tkv_tight_matrix(m, D, 1),
                              tkv_tight_matrix(m, D, 2),
                              {tkv_tight_query_codes(m, D), m->query}};
}

/* ---- gains --------------------------------------------------------------------------------- */

/* 2^(i / 64) */
static const float octave[GAIN_STEPS] = {
    1.000000000f, 1.010889286f, 1.021897149f, 1.033024879f, 1.044273782f, 1.055645178f,
    1.067140401f, 1.078760798f, 1.090507733f, 1.102382583f, 1.114386743f, 1.126521619f,
    1.138788635f, 1.151189230f, 1.163724859f, 1.176396992f, 1.189207115f, 1.202156731f,
    1.215247360f, 1.228480536f, 1.241857812f, 1.255380757f, 1.269050957f, 1.282870016f,
    1.296839555f, 1.310961212f, 1.325236643f, 1.339667524f, 1.354255547f, 1.369002423f,
    1.383909882f, 1.398979673f, 1.414213562f, 1.429613338f, 1.445180807f, 1.460917794f,
    1.476826146f, 1.492907728f, 1.509164428f, 1.525598151f, 1.542210825f, 1.559004400f,
    1.575980845f, 1.593142151f, 1.610490332f, 1.628027422f, 1.645755478f, 1.663676580f,
    1.681792831f, 1.700106354f, 1.718619298f, 1.737333835f, 1.756252160f, 1.775376493f,
    1.794709075f, 1.814252176f, 1.834008086f, 1.853979125f, 1.874167634f, 1.894575982f,
    1.915206561f, 1.936061793f, 1.957144124f, 1.978456026f};

static float gain_of(const struct tkv_tight *m, uint32_t code)
{
    if (code == 0)
        return 0.0f;
    const int32_t far = ((int32_t)code - GAIN_ONE) * m->gain_stride;
    const uint32_t e = (uint32_t)(far + GAIN_OCTAVES * GAIN_STEPS);
    const uint32_t power = e / GAIN_STEPS + 127 - GAIN_OCTAVES;
    return octave[e % GAIN_STEPS] * tkv_bits_f32(power << 23);
}

/* The code whose gain is nearest in proportion: gains are a fixed factor apart. */
static uint8_t gain_code(const struct tkv_tight *m, float gain)
{
    const float half_step = m->gain_stride == 1 ? 0.994599423f : 0.978572062f; /* down */
    uint32_t low = 0, high = 255;
    while (low < high) {
        const uint32_t middle = (low + high + 1) / 2;
        if (gain >= gain_of(m, middle) * half_step)
            low = middle;
        else
            high = middle - 1;
    }
    return (uint8_t)low;
}

/* ---- coding -------------------------------------------------------------------------------- */

/* By coefficient, so that what is done for each token is done for all of them side by side. */
struct scratch {
    float rows[TKV_MAX_HEAD_DIM * T];    /* [D][64], less the mean */
    float columns[TKV_MAX_HEAD_DIM * T]; /* [D][64], in steps */
    uint8_t windows[TKV_MAX_HEAD_DIM * T];
    uint8_t search[TKV_TRELLIS_SCRATCH_BYTES];
};

static size_t scratch_bytes(uint32_t D)
{
    (void)D;
    return sizeof(struct scratch);
}

/* [64][D] to [D][64], less the mean; 8 tokens at a time so that all of them stay near. */
static void turn_around(const struct tkv_tight *m, uint32_t D, const float *x, float *rows)
{
    for (uint32_t t = 0; t < T; t += 8)
        for (uint32_t d = 0; d < D; d++)
            for (uint32_t i = t; i < t + 8; i++)
                rows[(size_t)d * T + i] = x[(size_t)i * D + d] - m->mean[d];
}

/* One over the rms over the coefficients that are coded, in steps. A row beyond all gains is left as
 * large or small as the nearest one makes it. */
static void measure(const struct tkv_tight *m, uint32_t D, const float *rows, float inverse[T])
{
    float sum[T] = {0};
    uint32_t n = 0;
    for (uint32_t d = 0; d < D; d++) {
        const float unit = tkv_trellis_unit[m->bits[d]];
        for (uint32_t t = 0; t < T && m->bits[d]; t++)
            sum[t] += rows[(size_t)d * T + t] * rows[(size_t)d * T + t] * (unit * unit);
        n += m->bits[d] != 0;
    }
    const float least = gain_of(m, 1), most = gain_of(m, 255);
    for (uint32_t t = 0; t < T; t++) {
        const float rms = n ? sqrtf(sum[t] / (float)n) : 0.0f;
        const float gain = rms < least ? least : rms < most ? rms : most;
        inverse[t] = 1.0f / (gain * TKV_TRELLIS_STEP);
    }
}

static void normalise(const struct tkv_tight *m, uint32_t D, const float *rows, float *columns)
{
    float inverse[T];
    measure(m, D, rows, inverse);
    for (uint32_t d = 0; d < D; d++, rows += T, columns += T) {
        const float end = m->most[d];
        for (uint32_t t = 0; t < T; t++) {
            const float x = rows[t] * inverse[t], low = x < -end ? -end : x;
            columns[t] = low > end ? end : low;
        }
    }
}

/* The gains that fit best, over weighted errors. */
static void fit(const struct tkv_codec_env *env, const float *rows, const uint8_t *windows,
                uint8_t gains[T])
{
    const struct tkv_tight *m = env->model;
    float product[T], square[T];
    env->kernels->trellis_fit(rows, windows, m->bits, m->weight, env->head_dim, product, square);
    for (uint32_t t = 0; t < T; t++)
        gains[t] = gain_code(m, square[t] > 0 ? product[t] / (square[t] * TKV_TRELLIS_STEP) : 0.0f);
}

/* Bit `bit` of eight windows, the first one lowest. */
static uint8_t gather(const uint8_t *windows, uint32_t bit)
{
    uint64_t x = 0;
    for (uint32_t t = 0; t < 8; t++)
        x |= (uint64_t)windows[t] << 8 * t;
    return (uint8_t)((x >> bit & 0x0101010101010101u) * 0x0102040810204080u >> 56);
}

static void pack(const struct tkv_tight *m, uint32_t D, const uint8_t *windows, uint8_t *codes)
{
    for (uint32_t d = 0; d < D; d++, windows += T)
        for (uint32_t bit = m->bits[d]; bit-- > 0; codes += sizeof(uint64_t))
            for (uint32_t byte = 0; byte < 8; byte++)
                codes[byte] = gather(windows + byte * 8, bit);
}

static void encode(const struct tkv_codec_env *env, float *x, uint64_t valid, uint8_t *page,
                   void *scratch)
{
    const struct tkv_tight *m = env->model;
    struct scratch *s = scratch;
    const uint32_t D = env->head_dim;
    turn_around(m, D, x, s->rows);
    normalise(m, D, s->rows, s->columns);
    env->kernels->trellis_codes(s->columns, m->bits, m->reach, D, s->windows, s->search);
    fit(env, s->rows, s->windows, page);
    for (uint32_t t = 0; t < T; t++)
        page[t] = valid >> t & 1 ? page[t] : 0;
    pack(m, D, s->windows, page + T);
}

static void decode(const struct tkv_codec_env *env, const uint8_t *page, float *x)
{
    const struct tkv_tight *m = env->model;
    const uint32_t D = env->head_dim;
    uint8_t windows[T] = {0};
    const uint8_t *codes = page + T;
    float gain[T];
    for (uint32_t t = 0; t < T; t++)
        gain[t] = gain_of(m, page[t]) * TKV_TRELLIS_STEP;
    for (uint32_t d = 0; d < D; d++) {
        for (uint32_t bit = 0; bit < m->bits[d]; bit++, codes += sizeof(uint64_t))
            for (uint32_t t = 0; t < T; t++)
                windows[t] = (uint8_t)(windows[t] << 1 | (codes[t / 8] >> t % 8 & 1));
        for (uint32_t t = 0; t < T; t++)
            x[(size_t)t * D + d] =
                gain[t] * (float)tkv_trellis_levels[m->bits[d]][windows[t]] + m->mean[d];
    }
}

static void tile_i8(const struct tkv_codec_env *env, const uint8_t *page, struct tkv_tile_buf *buf,
                    struct tkv_tile_i8 *out)
{
    const struct tkv_tight *m = env->model;
    const uint32_t D = env->head_dim;
    for (uint32_t t = 0; t < T; t++)
        buf->scale[t] = gain_of(m, page[t]) * TKV_TRELLIS_STEP;
    if (env->kind == TKV_K)
        env->kernels->trellis_tile_k(page + T, m->bits, D, buf->codes, buf->ahead);
    else
        env->kernels->trellis_tile_v(page + T, m->bits, D, (int8_t *)buf->codes, buf->ahead);
    *out = (struct tkv_tile_i8){buf->codes, 0, buf->scale, m->mean, env->kind == TKV_K ? 2 : 1};
}

#define TIGHT(suffix, text, wire_id, total, what)                                                  \
    static tkv_status bind_##suffix(const struct tkv_codec_env *env, const struct tkv_gguf *book,  \
                                    const struct tkv_place *place, void *model, tkv_error *err)    \
    {                                                                                              \
        static const struct tkv_tight_rate rate = {text, total};                                   \
        return tkv_tight_bind(&rate, env, book, place, model, err);                                \
    }                                                                                              \
    static size_t usual_bytes_##suffix(uint32_t D, tkv_kind kind)                                  \
    {                                                                                              \
        (void)kind;                                                                                \
        return T + tkv_tight_row_bits(total, D) * sizeof(uint64_t);                                \
    }                                                                                              \
    const struct tkv_codec_ops tkv_codec_tight##suffix = {                                         \
        .name = text,                                                                              \
        .summary = what,                                                                           \
        .id = wire_id,                                                                             \
        .caps = TKV_CAP_BOOK | TKV_CAP_BOOKLESS | TKV_CAP_TURNS | TKV_CAP_ROUNDS,                  \
        .trainer = "tight",                                                                        \
        .planes = 2,                                                                               \
        .supports = supports,                                                                      \
        .page_bytes = most_bytes,                                                                  \
        .usual_bytes = usual_bytes_##suffix,                                                       \
        .scratch_bytes = scratch_bytes,                                                            \
        .encode = encode,                                                                          \
        .decode = decode,                                                                          \
        .tile_i8 = tile_i8,                                                                        \
        .bind = bind_##suffix,                                                                     \
        .bound_bytes = bound_bytes,                                                                \
        .basis = basis,                                                                            \
        .model_bytes = tkv_tight_bytes,                                                            \
    };

TIGHT(4, "tight4", 24, 4.25, "learned basis, trellis codes, 4 bits a value")
TIGHT(3, "tight3", 25, 3.25, "learned basis, trellis codes, 3 bits a value")
TIGHT(25, "tight2.5", 26, 2.6, "learned basis, trellis codes, 2.5 bits a value")
TIGHT(2, "tight2", 27, 2.25, "learned basis, trellis codes, 2 bits a value")
TIGHT(1, "tight1", 36, 1.25, "learned basis, trellis codes, 1 bit a value: for visual spans")
TIGHT(07, "tight0.7", 37, .75, "learned basis, trellis codes, 0.7 bits a value: for visual spans")
