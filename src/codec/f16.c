/* f16 and bf16: the exact codec and its wider-range cousin. A page is [64 tokens][D] of two bytes a
 * value. */
#include <string.h>

#include "base/half.h"
#include "codec/codec.h"

static bool supports(uint32_t head_dim, tkv_kind kind)
{
    (void)kind;
    return head_dim > 0 && head_dim <= TKV_MAX_HEAD_DIM && head_dim % 16 == 0;
}

static size_t page_bytes(uint32_t head_dim, tkv_kind kind)
{
    (void)kind;
    return (size_t)TKV_PAGE_TOKENS * head_dim * 2;
}

static void f16_encode(const struct tkv_codec_env *env, float *x, uint64_t valid, uint8_t *page,
                       void *scratch)
{
    (void)valid, (void)scratch;
    env->kernels->f32_to_f16(x, (uint16_t *)(void *)page, (size_t)TKV_PAGE_TOKENS * env->head_dim);
}

static void f16_decode(const struct tkv_codec_env *env, const uint8_t *page, float *x)
{
    env->kernels->f16_to_f32((const uint16_t *)(const void *)page, x,
                             (size_t)TKV_PAGE_TOKENS * env->head_dim);
}

static void f16_tile(const struct tkv_codec_env *env, const uint8_t *page, float *tile)
{
    const uint16_t *rows = (const uint16_t *)(const void *)page;
    if (env->kind == TKV_K)
        env->kernels->transpose_f16(rows, env->head_dim, env->head_dim, tile);
    else
        f16_decode(env, page, tile);
}

/* Pages are in row order as they are. */
static void to_rows(const struct tkv_codec_env *env, const uint8_t *page, uint8_t *rows,
                    size_t stride)
{
    const size_t bytes = 2 * (size_t)env->head_dim;
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++)
        memcpy(rows + t * stride, page + t * bytes, bytes);
}

static void from_rows(const struct tkv_codec_env *env, const uint8_t *const *rows, uint8_t *page)
{
    const size_t bytes = 2 * (size_t)env->head_dim;
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++)
        memcpy(page + t * bytes, rows[t], bytes);
}

static void bf16_encode(const struct tkv_codec_env *env, float *x, uint64_t valid, uint8_t *page,
                        void *scratch)
{
    (void)valid, (void)scratch;
    for (size_t i = 0; i < (size_t)TKV_PAGE_TOKENS * env->head_dim; i++) {
        const uint32_t u = tkv_f32_bits(x[i]);
        const uint32_t rounded =
            (u + 0x7fffu + ((u >> 16) & 1u)) >> 16; /* finite: cannot overflow from f16 range */
        page[2 * i] = (uint8_t)rounded;
        page[2 * i + 1] = (uint8_t)(rounded >> 8);
    }
}

static void bf16_decode(const struct tkv_codec_env *env, const uint8_t *restrict page,
                        float *restrict x)
{
    for (size_t i = 0; i < (size_t)TKV_PAGE_TOKENS * env->head_dim; i++)
        x[i] = tkv_bits_f32((uint32_t)tkv_load_half(page + 2 * i) << 16);
}

const struct tkv_codec_ops tkv_codec_f16 = {
    .name = "f16",
    .summary = "exact, as stock llama.cpp stores it",
    .id = 1,
    .caps = TKV_CAP_IDEMPOTENT | TKV_CAP_EXACT,
    .code_bits = 16 * 16,
    .supports = supports,
    .page_bytes = page_bytes,
    .encode = f16_encode,
    .decode = f16_decode,
    .tile_f32 = f16_tile,
    .to_rows = to_rows,
    .from_rows = from_rows,
};

const struct tkv_codec_ops tkv_codec_bf16 = {
    .name = "bf16",
    .summary = "8 bits of mantissa, the range of f32",
    .id = 2,
    .caps = TKV_CAP_IDEMPOTENT,
    .code_bits = 16 * 16,
    .supports = supports,
    .page_bytes = page_bytes,
    .encode = bf16_encode,
    .decode = bf16_decode,
    .to_rows = to_rows,
    .from_rows = from_rows,
};
