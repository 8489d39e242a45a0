/* qjl: sign sketches of keys, after QJL (arXiv 2406.03482): the signs of 2 D projections of a row,
 * and its norm. The query stays as it is; the sum of its projections, each with the sign of the
 * row's, times the norm and sqrt(pi/2) / 2 D, is an unbiased estimate of its product with the row.
 * That is the product with one fixed vector, which is what decodes here, so that scores are those
 * of the sketch.
 *
 * As the authors advise the projections are orthonormal by the D: the coordinates of the rotated
 * row, and the same turned by 45 degrees in pairs. A pair (u, v) of coordinates has the signs of u,
 * v, u + v and u - v, which is the octant it lies in, and decodes to the middle of that octant. The
 * authors stack two independent rotations; these know a little more (relative error .285, here
 * .341), but a row that is decoded and coded again then has other signs at every sixth place.
 *
 * Page: for each pair four signs, then 64 scales as f16. In levels of the pairs, with s = 1 for a
 * positive sign and -1 for any other, u is 41 s0 + 29 (s2 + s3), v is 41 s1 + 29 (s2 - s3): 29 / 41
 * is 1 / sqrt(2), within .02%. A value is level * scale / 64. */
#include <math.h>
#include <string.h>

#include "base/bits.h"
#include "base/half.h"
#include "codec/codec.h"

#define TOKENS TKV_PAGE_TOKENS

#define LEVEL  41
#define TURNED 29 /* LEVEL / sqrt(2) */
#define STEP   0x1p-6f

/* The scale of a row of rms 1: sqrt(pi / 8) / (LEVEL * STEP). */
#define SCALE_OF_RMS 0.978196400f

/* Smaller scales have too few bits as f16 to come back the same: the row becomes zeros. */
#define SCALE_MIN 0x1p-14f

/* Rows of this rms and more keep their norm: the estimate is longer, and might leave f16's range. */
#define UNBIASED_MAX 4096.0f

static bool supports(uint32_t head_dim, tkv_kind kind)
{
    return kind == TKV_K && head_dim > 0 && head_dim <= TKV_MAX_HEAD_DIM && head_dim % 16 == 0;
}

static size_t page_bytes(uint32_t head_dim, tkv_kind kind)
{
    (void)kind;
    return (size_t)TOKENS * head_dim / 4 + 2 * TOKENS;
}

/* The byte of a token's dims d to d + 3: in the order of an i8 tile, four dims a byte. */
static size_t byte_at(size_t D, size_t t, size_t d)
{
    return (t / 16 * (D / 4) + d / 4) * 16 + t % 16;
}

static uint32_t pair_signs(float u, float v)
{
    return (uint32_t)(u > 0.0f) | (uint32_t)(v > 0.0f) << 1 | (uint32_t)(u + v > 0.0f) << 2 |
           (uint32_t)(u - v > 0.0f) << 3;
}

/* The levels of the 16 codes of a pair. */
static void pair_levels(int8_t level[16][2])
{
    for (int c = 0; c < 16; c++) {
        const int s[4] = {c & 1 ? 1 : -1, c & 2 ? 1 : -1, c & 4 ? 1 : -1, c & 8 ? 1 : -1};
        level[c][0] = (int8_t)(LEVEL * s[0] + TURNED * (s[2] + s[3]));
        level[c][1] = (int8_t)(LEVEL * s[1] + TURNED * (s[2] - s[3]));
    }
}

/* The unit that makes a row its levels, or 0 where it is not: a row that was decoded keeps its
 * scale, the rounding to f16 in between may have moved each value a little. */
static float unit_of_levels(const float *x, const float *level, size_t D, float rms)
{
    float product = 0.0f, energy = 0.0f;
    for (size_t d = 0; d < D; d++) {
        product += x[d] * level[d];
        energy += level[d] * level[d];
    }
    const float unit = product / energy, tolerance = rms * 0x1p-7f + 0x1p-23f;
    for (size_t d = 0; d < D; d++)
        if (fabsf(x[d] - unit * level[d]) > tolerance)
            return 0.0f;
    return unit;
}

/* Signs of row t to the page. Returns the stored scale. */
static uint16_t encode_row(const float *x, size_t D, size_t t, float sum_sq, int8_t pairs[16][2],
                           uint8_t *page)
{
    const float rms = sqrtf(sum_sq / (float)D);
    float level[TKV_MAX_HEAD_DIM], energy = 0.0f;
    for (size_t d = 0; d < D; d += 4) {
        const uint32_t a = pair_signs(x[d], x[d + 1]), b = pair_signs(x[d + 2], x[d + 3]);
        page[byte_at(D, t, d)] = (uint8_t)(a | b << 4);
        level[d] = pairs[a][0], level[d + 1] = pairs[a][1];
        level[d + 2] = pairs[b][0], level[d + 3] = pairs[b][1];
    }
    for (size_t d = 0; d < D; d++)
        energy += level[d] * level[d];
    const float unit = unit_of_levels(x, level, D, rms);
    float scale = rms * SCALE_OF_RMS;
    if (rms >= UNBIASED_MAX)
        scale = sqrtf(sum_sq / energy) / STEP;
    else if (unit > 0.0f)
        scale = unit / STEP;
    scale = tkv_round_8_bits(scale);
    return scale < SCALE_MIN ? 0 : tkv_f32_to_half(fminf(scale, 65280.0f));
}

static void encode(const struct tkv_codec_env *env, float *x, uint64_t valid, uint8_t *page,
                   void *scratch)
{
    const size_t D = env->head_dim;
    float sum_sq[TOKENS];
    uint16_t scale[TOKENS];
    int8_t pairs[16][2];
    (void)valid;
    (void)scratch;
    pair_levels(pairs);
    env->kernels->row_sum_sq(x, env->head_dim, sum_sq);
    for (size_t t = 0; t < TOKENS; t++)
        scale[t] = encode_row(x + t * D, D, t, sum_sq[t], pairs, page);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = 0; scale[t] == 0 && d < D; d += 4)
            page[byte_at(D, t, d)] = 0;
    memcpy(page + TOKENS * D / 4, scale, sizeof scale);
}

/* The i8 tile, and its scales. */
static void read_tile(const struct tkv_codec_env *env, const uint8_t *page, uint8_t *tile,
                      float *scale)
{
    const size_t n = (size_t)TOKENS * env->head_dim / 4;
    int8_t pairs[16][2];
    uint8_t shifted[16][2];
    pair_levels(pairs);
    for (size_t c = 0; c < 16; c++)
        for (size_t i = 0; i < 2; i++)
            shifted[c][i] = (uint8_t)(pairs[c][i] + 128);
    for (size_t i = 0; i < n; i++) {
        memcpy(tile + 4 * i, shifted[page[i] & 15], 2);
        memcpy(tile + 4 * i + 2, shifted[page[i] >> 4], 2);
    }
    env->kernels->f16_to_f32(page + n, scale, TOKENS);
    for (size_t t = 0; t < TOKENS; t++)
        scale[t] *= STEP;
}

static void decode(const struct tkv_codec_env *env, const uint8_t *page, float *x)
{
    _Alignas(64) uint8_t tile[TOKENS * TKV_MAX_HEAD_DIM];
    float scale[TOKENS];
    read_tile(env, page, tile, scale);
    env->kernels->tile_to_rows(tile, env->head_dim, TKV_K, scale, x);
}

static void tile_i8(const struct tkv_codec_env *env, const uint8_t *page, struct tkv_tile_buf *buf,
                    struct tkv_tile_i8 *out)
{
    read_tile(env, page, buf->codes, buf->scale);
    *out = (struct tkv_tile_i8){.codes = buf->codes, .scale = buf->scale, .planes = 1};
}

const struct tkv_codec_ops tkv_codec_qjl = {
    .name = "qjl",
    .summary = "keys only: signs of 2 projections a channel, and the norm",
    .id = 17,
    .caps = TKV_CAP_ROTATES | TKV_CAP_IDEMPOTENT | TKV_CAP_KEYS_ONLY,
    .code_bits = 16 * 2,
    .planes = 1,
    .supports = supports,
    .page_bytes = page_bytes,
    .encode = encode,
    .decode = decode,
    .tile_i8 = tile_i8,
};
