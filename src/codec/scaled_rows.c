/* Codes and scales side by side, and apart. */
#include "codec/scaled_rows.h"

#include <string.h>

#include "format/row_order.h"

#define SCALE 2 /* bytes */

void tkv_scaled_to_rows(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                        uint8_t *rows, size_t stride)
{
    const size_t codes = tkv_row_code_bytes(bits, env->head_dim);
    env->kernels->order_rows(page, env->head_dim, env->kind, bits, rows, stride);
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++)
        memcpy(rows + t * stride + codes, page + TKV_PAGE_TOKENS * codes + SCALE * t, SCALE);
}

void tkv_scaled_from_rows(const struct tkv_codec_env *env, uint32_t bits,
                          const uint8_t *const *rows, uint8_t *page)
{
    const size_t codes = tkv_row_code_bytes(bits, env->head_dim);
    env->kernels->order_tile(rows, env->head_dim, env->kind, bits, page);
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++)
        memcpy(page + TKV_PAGE_TOKENS * codes + SCALE * t, rows[t] + codes, SCALE);
}
