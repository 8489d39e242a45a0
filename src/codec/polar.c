/* polar, polar433, polar-online: PolarQuant (arXiv 2502.02617). A block of 16 rotated coordinates
 * becomes one radius and 15 angles of a binary tree; the angles have codebooks, the radius is kept,
 * so that norms are too. Layout and tree: format/polar.h.
 *
 * Encoding knows no angles: a code is the number of thresholds whose squared tangent is below the
 * ratio of two squared radii. Radii are rounded so that rows which were decoded, rounded to f16 and
 * coded again return to the same bytes. */
#include <math.h>
#include <string.h>

#include "codec/codec.h"
#include "codec/polar_model.h"
#include "format/polar.h"

#define TOKENS     TKV_PAGE_TOKENS
#define MAX_BLOCKS (TKV_MAX_HEAD_DIM / 16)

struct work {
    struct tkv_polar_rows rows;
    uint8_t *slots; /* one plane's codes in page order */
    uint16_t *entries;
};

static bool supports(uint32_t head_dim, tkv_kind kind)
{
    (void)kind;
    return head_dim > 0 && head_dim <= TKV_MAX_HEAD_DIM && head_dim % 16 == 0;
}

static size_t scratch_bytes(uint32_t head_dim)
{
    return 80 * (size_t)head_dim;
}

static struct work split_scratch(void *scratch, uint32_t head_dim)
{
    const size_t d = head_dim;
    uint8_t *p = scratch;
    return (struct work){
        .rows = {.sum_sq = scratch,
                 .upper = (uint16_t *)(void *)(p + 16 * d),
                 .c1 = p + 32 * d,
                 .c2 = p + 48 * d},
        .entries = (uint16_t *)(void *)(p + 24 * d),
        .slots = p + 64 * d,
    };
}

/* --- radii --- */

static uint32_t bf16_bits(float x)
{
    const uint32_t u = tkv_f32_bits(x);
    return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

/* Rows that were decoded and rounded to f16 carry noise which the rotation spreads over their
 * blocks: 5e-5 of the largest radius in each value, and up to 4e-4 of it in a radius where one
 * value makes the row. So small radii need a coarser grid than their own 8 bits, and blocks below
 * about 1/32 of the largest become zero, for there the noise would reach the angles of the smallest
 * pairs.
 *
 * Here: bf16 for the larger ones, multiples of `unit` below 128 of them; never one after the other.
 */
static void round_radii_16(float *radius, size_t n, uint8_t *code)
{
    float largest = 0.0f;
    for (size_t b = 0; b < n; b++)
        largest = radius[b] > largest ? radius[b] : largest;
    const float power = tkv_bits_f32(bf16_bits(largest) << 16 & 0x7f800000u);
    const float unit = power * 0x1p-9f > 0x1p-21f ? power * 0x1p-9f : 0x1p-21f;
    const float magic = unit * 0x1.8p23f; /* adding it drops the bits below unit */
    for (size_t b = 0; b < n; b++) {
        const float r = radius[b] < 128.0f * unit ? (radius[b] + magic) - magic : radius[b];
        const uint32_t u = r >= 16.0f * unit ? bf16_bits(r) : 0;
        code[16 * 2 * b] = (uint8_t)u;
        code[16 * 2 * b + 1] = (uint8_t)(u >> 8);
        radius[b] = tkv_bits_f32(u << 16);
    }
}

/* round(16 * log2 r) + TKV_POLAR_LOG_BIAS. */
static int32_t log_steps(float r)
{
    /* 2^((i + 1/2) / 16) as mantissas; the last is never reached. */
    static const uint32_t threshold[17] = {
        0x02cd87, 0x08980f, 0x0ea43a, 0x14f4f0, 0x1b8d3a, 0x227044, 0x29a15b, 0x3123f6, 0x38fbb0,
        0x412c4d, 0x49b9be, 0x52a81e, 0x5bfbb8, 0x65b907, 0x6fe4ba, 0x7a83b3, 0xffffff,
    };
    const uint32_t u = tkv_f32_bits(r), mantissa = u & 0x7fffffu;
    /* log2(1 + x) >= x: a start at or below the answer, at most two steps from it. */
    uint32_t k = mantissa >> 19;
    while (mantissa >= threshold[k])
        k++;
    return 16 * ((int32_t)(u >> 23) - 127) + (int32_t)k + TKV_POLAR_LOG_BIAS;
}

static uint8_t log_code(float r)
{
    if (r < 0x1p-16f)
        return 0;
    const int32_t steps = log_steps(r);
    int32_t code = steps;
    if (steps < TKV_POLAR_LOG_LOW)
        code = TKV_POLAR_LOG_LOW - ((TKV_POLAR_LOG_LOW - steps + 4) >> 3);
    else if (steps > TKV_POLAR_LOG_HIGH)
        code = TKV_POLAR_LOG_HIGH + ((steps - TKV_POLAR_LOG_HIGH + 4) >> 3);
    return (uint8_t)(code < 0 ? 0 : code > 255 ? 255 : code);
}

/* The same for logarithmic radii, whose steps are wide enough for any noise. */
static void round_radii_8(float *radius, size_t n, uint8_t *code)
{
    int32_t largest = INT32_MIN;
    for (size_t b = 0; b < n; b++) {
        code[16 * b] = log_code(radius[b]);
        const int32_t steps = tkv_polar_log_steps(code[16 * b]);
        largest = steps > largest ? steps : largest;
    }
    for (size_t b = 0; b < n; b++) {
        if (tkv_polar_log_steps(code[16 * b]) < largest - 5 * 16)
            code[16 * b] = 0;
        radius[b] = code[16 * b] ? 1.0f : 0.0f;
    }
}

/* The codes of a block without a radius are zeros. */
static void clear_block(struct tkv_polar_rows *rows, uint32_t D, size_t t, size_t b)
{
    memset(rows->c1 + t * (D / 4) + 4 * b, 0, 4);
    memset(rows->c2 + t * (D / 4) + 4 * b, 0, 4);
    rows->upper[t * (D / 16) + b] = 0;
}

static void code_radii(const struct tkv_polar_tables *tables, uint32_t D,
                       struct tkv_polar_rows *rows, uint8_t *plane)
{
    const size_t n_blocks = D / 16;
    for (size_t t = 0; t < TOKENS; t++) {
        float radius[MAX_BLOCKS];
        for (size_t b = 0; b < n_blocks; b++)
            radius[b] = sqrtf(rows->sum_sq[t * n_blocks + b]);
        uint8_t *code = plane + tkv_polar_radius_index(D, t, 0) * tables->radius_bytes;
        if (tables->radius_bytes == 2)
            round_radii_16(radius, n_blocks, code);
        else
            round_radii_8(radius, n_blocks, code);
        for (size_t b = 0; b < n_blocks; b++)
            if (radius[b] == 0.0f)
                clear_block(rows, D, t, b);
    }
}

/* --- packing --- */

/* [64][D/4] codes to slot order. */
static void to_slots(tkv_kind kind, uint32_t D, const uint8_t *rows, uint8_t *slots)
{
    const size_t J = D / 4;
    for (size_t t = 0; t < TOKENS; t += 4)
        for (size_t j = 0; j < J; j += 4)
            for (size_t i = 0; i < 4; i++) {
                uint8_t *to = slots + tkv_polar_slot(kind, D, t + (kind == TKV_K ? i : 0),
                                                     j + (kind == TKV_K ? 0 : i));
                const uint8_t *from = rows + t * J + j;
                if (kind == TKV_K)
                    memcpy(to, from + i * J, 4);
                else
                    for (size_t k = 0; k < 4; k++)
                        to[k] = from[k * J + i];
            }
}

/* Low two bits of n codes to 2 bits each; bit 2, where there is a plane for it, to 1 bit each. */
static void pack_level_2(const uint8_t *codes, size_t n, uint8_t *low, uint8_t *high)
{
    for (size_t i = 0; i < n / 4; i++) {
        const uint8_t *c = codes + 4 * i;
        low[i] = (uint8_t)((c[0] & 3) | (c[1] & 3) << 2 | (c[2] & 3) << 4 | (c[3] & 3) << 6);
    }
    for (size_t i = 0; high && i < n / 8; i++) {
        uint32_t byte = 0;
        for (size_t k = 0; k < 8; k++)
            byte |= (uint32_t)(codes[8 * i + k] >> 2) << k;
        high[i] = (uint8_t)byte;
    }
}

/* 6-bit fields, 4 in 3 bytes. */
static void pack_6(const uint16_t *v, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i += 4, v += 4, out += 3) {
        out[0] = (uint8_t)(v[0] | v[1] << 6);
        out[1] = (uint8_t)(v[1] >> 2 | v[2] << 4);
        out[2] = (uint8_t)(v[2] >> 4 | v[3] << 2);
    }
}

/* 3-bit fields, 8 in 3 bytes. */
static void pack_3(const uint16_t *v, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i += 8, v += 8, out += 3) {
        uint32_t word = 0;
        for (size_t k = 0; k < 8; k++)
            word |= (uint32_t)v[k] << (3 * k);
        out[0] = (uint8_t)word;
        out[1] = (uint8_t)(word >> 8);
        out[2] = (uint8_t)(word >> 16);
    }
}

static void pack_upper(uint32_t bits, tkv_kind kind, uint32_t D, const struct work *w,
                       const struct tkv_polar_planes *planes, uint8_t *page)
{
    const size_t n_blocks = D / 16, n = TOKENS * n_blocks;
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t b = 0; b < n_blocks; b++)
            w->entries[tkv_polar_entry(kind, D, t, b)] = w->rows.upper[t * n_blocks + b];
    if (bits == 2) {
        pack_6(w->entries, n, page + planes->upper);
        return;
    }
    uint16_t *part = w->rows.upper; /* its content is in entries now */
    for (size_t i = 0; i < n; i++)
        part[i] = (uint16_t)((w->entries[i] & 7) | (w->entries[i] >> 6) << 3);
    pack_6(part, n, page + planes->upper);
    for (size_t i = 0; i < n; i++)
        part[i] = w->entries[i] >> 3 & 7;
    pack_3(part, n, page + planes->upper_b);
}

/* --- the codec --- */

static const struct tkv_polar_tables *tables_of(const struct tkv_codec_env *env, uint32_t bits)
{
    if (bits == 3)
        return &tkv_polar_333;
    return env->model ? env->model : &tkv_polar_222;
}

static void encode(const struct tkv_codec_env *env, uint32_t bits, const float *x, uint8_t *page,
                   void *scratch)
{
    const struct tkv_polar_tables *tables = tables_of(env, bits);
    const uint32_t D = env->head_dim;
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    struct work w = split_scratch(scratch, D);
    env->kernels->polar_codes(tables, x, D, &w.rows);
    code_radii(tables, D, &w.rows, page + planes.radius);
    to_slots(env->kind, D, w.rows.c1, page + planes.c1);
    to_slots(env->kind, D, w.rows.c2, w.slots);
    pack_level_2(w.slots, 16 * (size_t)D, page + planes.c2,
                 bits == 3 ? page + planes.c2_high : NULL);
    pack_upper(bits, env->kind, D, &w, &planes, page);
}

/* `bits` bits from bit i * bits of a little-endian stream. */
static uint32_t take(const uint8_t *stream, size_t i, uint32_t bits)
{
    const size_t at = i * bits, byte = at / 8;
    uint32_t word = stream[byte];
    if (at % 8 + bits > 8)
        word |= (uint32_t)stream[byte + 1] << 8;
    return word >> at % 8 & ((1u << bits) - 1);
}

/* Radii of the four columns of an entry: from the block's radius down levels 4 and 3. */
static void decode_columns(const struct tkv_polar_tables *tables,
                           const struct tkv_polar_planes *planes, const uint8_t *page, size_t entry,
                           float radius, float column[4])
{
    const uint32_t upper = take(page + planes->upper, entry, 6);
    uint32_t c3[2] = {upper & 3, upper >> 2 & 3}, c4 = upper >> 4;
    if (tables->bits == 3) {
        c3[0] = upper & 7;
        c3[1] = take(page + planes->upper_b, entry, 3);
        c4 = upper >> 3;
    }
    for (uint32_t h = 0; h < 2; h++) {
        const float r = radius * tables->cos_sin[3][h][c4];
        column[2 * h] = r * tables->cos_sin[2][0][c3[h]];
        column[2 * h + 1] = r * tables->cos_sin[2][1][c3[h]];
    }
}

/* The four leaves of a column, J apart. */
static void decode_leaves(const struct tkv_polar_tables *tables,
                          const struct tkv_polar_planes *planes, const uint8_t *page, size_t slot,
                          float radius, float *x, size_t J)
{
    uint32_t c2 = page[planes->c2 + slot / 4] >> slot % 4 * 2 & 3;
    if (tables->bits == 3)
        c2 |= (uint32_t)(page[planes->c2_high + slot / 8] >> slot % 8 & 1) << 2;
    for (uint32_t q = 0; q < 4; q++) {
        const uint32_t c1 = (uint32_t)page[planes->c1 + slot] >> (q >= 2 ? 4 : 0) & 15;
        const float r = radius * tables->cos_sin[1][q >> 1][c2] * tables->cos_sin[0][q & 1][c1 & 3];
        x[q * J] = c1 >> (2 + (q & 1)) & 1 ? -r : r;
    }
}

static void decode(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page, float *x)
{
    const struct tkv_polar_tables *tables = tables_of(env, bits);
    const uint32_t D = env->head_dim;
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t b = 0; b < D / 16; b++) {
            const uint8_t *code =
                page + planes.radius + tkv_polar_radius_index(D, t, b) * tables->radius_bytes;
            const float radius =
                bits == 3 ? tkv_polar_log_radius(*code) : tkv_polar_bf16_radius(code);
            float column[4];
            decode_columns(tables, &planes, page, tkv_polar_entry(env->kind, D, t, b), radius,
                           column);
            for (size_t n = 0; n < 4; n++)
                decode_leaves(tables, &planes, page, tkv_polar_slot(env->kind, D, t, 4 * b + n),
                              column[n], x + t * D + 4 * b + n, D / 4);
        }
}

static void tile_i8(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                    struct tkv_tile_buf *buf, struct tkv_tile_i8 *out)
{
    const struct tkv_polar_tables *tables = tables_of(env, bits);
    if (env->kind == TKV_K)
        env->kernels->polar_tile_k(tables, page, env->head_dim, buf->codes, buf->scale);
    else
        env->kernels->polar_tile_v(tables, page, env->head_dim, (int8_t *)buf->codes, buf->scale);
    *out = (struct tkv_tile_i8){.codes = buf->codes, .scale = buf->scale, .planes = 1};
}

static size_t model_bytes(uint32_t head_dim)
{
    (void)head_dim;
    return sizeof(struct tkv_polar_tables);
}

static void learn(const struct tkv_codec_env *env, const float *x, uint64_t valid, void *model,
                  void *scratch)
{
    (void)scratch;
    tkv_polar_learn(x, valid, env->head_dim, model);
}

/* The operations of one width; codec.h gives their meaning. */
#define POLAR(bits)                                                                                \
    static size_t page_bytes_##bits(uint32_t head_dim, tkv_kind kind)                              \
    {                                                                                              \
        (void)kind;                                                                                \
        return tkv_polar_planes(head_dim, bits).end;                                               \
    }                                                                                              \
    static void encode_##bits(const struct tkv_codec_env *env, float *x, uint64_t valid,           \
                              uint8_t *page, void *scratch)                                        \
    {                                                                                              \
        (void)valid;                                                                               \
        encode(env, bits, x, page, scratch);                                                       \
    }                                                                                              \
    static void decode_##bits(const struct tkv_codec_env *env, const uint8_t *page, float *x)      \
    {                                                                                              \
        decode(env, bits, page, x);                                                                \
    }                                                                                              \
    static void tile_i8_##bits(const struct tkv_codec_env *env, const uint8_t *page,               \
                               struct tkv_tile_buf *buf, struct tkv_tile_i8 *out)                  \
    {                                                                                              \
        tile_i8(env, bits, page, buf, out);                                                        \
    }

#define POLAR_OPS(bits)                                                                            \
    .planes = 1, .code_bits = 8 * 4 + (4 + 2 + 1) * bits, .supports = supports,                    \
    .page_bytes = page_bytes_##bits, .scratch_bytes = scratch_bytes, .encode = encode_##bits,      \
    .decode = decode_##bits, .tile_i8 = tile_i8_##bits

POLAR(2)
POLAR(3)

const struct tkv_codec_ops tkv_codec_polar = {
    .name = "polar",
    .summary = "PolarQuant: blocks of 16, angles of 4, 2, 2, 2 bits, 16-bit radius",
    .id = 7,
    .caps = TKV_CAP_ROTATES | TKV_CAP_ROUNDS | TKV_CAP_IDEMPOTENT,
    POLAR_OPS(2),
};

const struct tkv_codec_ops tkv_codec_polar433 = {
    .name = "polar433",
    .summary = "polar with angles of 4, 3, 3, 3 bits and an 8-bit logarithmic radius",
    .id = 8,
    .caps = TKV_CAP_ROTATES | TKV_CAP_ROUNDS | TKV_CAP_IDEMPOTENT,
    POLAR_OPS(3),
};

const struct tkv_codec_ops tkv_codec_polar_online = {
    .name = "polar-online",
    .summary = "polar with angle codebooks learned from the first sealed page of a head",
    .id = 9,
    /* Not idempotent: learned cells may be so narrow, or so near an axis, that f16 noise leaves
     * them. */
    .caps = TKV_CAP_ROTATES | TKV_CAP_ROUNDS | TKV_CAP_LEARNS,
    .model_bytes = model_bytes,
    .learn = learn,
    POLAR_OPS(2),
};
