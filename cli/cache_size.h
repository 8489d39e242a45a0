/* Bytes that a coded cache of a given shape takes, found by filling a small one. */
#ifndef TKV_CLI_CACHE_SIZE_H
#define TKV_CLI_CACHE_SIZE_H

#include <stdbool.h>
#include <stdint.h>

#include <tightkv/tightkv.h>

/* One layer after `n_tokens` of one sequence went through its `n_slots` slots, in order and over
 * again. */
struct cache_shape {
    uint32_t n_kv_heads, k_head_dim, v_head_dim;
    uint32_t n_slots;
    uint32_t n_tokens;
};

/* Can this spec code heads of these sizes? */
bool cache_can_code(const tkv_spec *spec, uint32_t k_head_dim, uint32_t v_head_dim);

/* Sealed pages, open pages and page tables of one layer, in bytes. */
tkv_status cache_size(tkv_context *ctx, const tkv_spec *spec, const struct cache_shape *shape,
                      double *n_bytes, tkv_error *err);

#endif
