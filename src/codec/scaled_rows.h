/* Row order of pages that are codes in tile order and 64 scales of f16: a row is its codes
 * (format/row_order.h), then its scale. */
#ifndef TKV_SCALED_ROWS_H
#define TKV_SCALED_ROWS_H

#include "codec/codec.h"

/* What tkv_codec_ops.to_rows and from_rows do. bits: as tkv_kernels.order_tile. */
void tkv_scaled_to_rows(const struct tkv_codec_env *env, uint32_t bits, const uint8_t *page,
                        uint8_t *rows, size_t stride);
void tkv_scaled_from_rows(const struct tkv_codec_env *env, uint32_t bits,
                          const uint8_t *const *rows, uint8_t *page);

#endif
