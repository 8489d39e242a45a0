/* Pages of residual vector quantisation (FORMAT.md, rvq). */
#ifndef TKV_FORMAT_RVQ_H
#define TKV_FORMAT_RVQ_H

#include <stddef.h>
#include <stdint.h>

#include "tightkv/tightkv.h"

enum {
    TKV_RVQ_STAGES = 8,   /* at most */
    TKV_RVQ_CODES = 2048, /* of a stage */
    TKV_RVQ_DIM = 32,     /* values of a group */
    TKV_RVQ_CLASSES = 16  /* of codes, by their last bits: see tkv_kernels.rvq_nearest */
};

/* Values of one stage's codes. */
#define TKV_RVQ_BOOK_BYTES ((size_t)TKV_RVQ_CODES * TKV_RVQ_DIM)

/* The codes of one stage and group, of all tokens: 64 bytes hold bits 0 to 7, three words bits 8,
 * 9 and 10. Units lie by stage, then by group. */
#define TKV_RVQ_UNIT_BYTES (TKV_PAGE_TOKENS + 3 * sizeof(uint64_t))

static inline size_t tkv_rvq_code_bytes(uint32_t D, uint32_t n_stages)
{
    return (size_t)D / TKV_RVQ_DIM * n_stages * TKV_RVQ_UNIT_BYTES;
}

/* Where value i of group g lies in a row: keys' groups are strided, values' are not. */
static inline uint32_t tkv_rvq_channel(tkv_kind kind, uint32_t D, uint32_t g, uint32_t i)
{
    return kind == TKV_K ? i * (D / TKV_RVQ_DIM) + g : g * TKV_RVQ_DIM + i;
}

/* The nearest code of all: what tkv_kernels.rvq_nearest found for one row. */
static inline uint32_t tkv_rvq_first(const int32_t *best, const uint32_t *at)
{
    uint32_t j = 0;
    for (uint32_t i = 1; i < TKV_RVQ_CLASSES; i++)
        if (best[i] > best[j] || (best[i] == best[j] && at[i] < at[j]))
            j = i;
    return at[j];
}

static inline uint32_t tkv_rvq_code(const uint8_t *unit, uint32_t t)
{
    uint32_t code = unit[t];
    for (uint32_t i = 0; i < 3; i++)
        code |= (uint32_t)(unit[TKV_PAGE_TOKENS + 8 * i + t / 8] >> t % 8 & 1) << (8 + i);
    return code;
}

#endif
