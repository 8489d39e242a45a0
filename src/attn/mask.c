/* Which slots a query sees. */
#include <math.h>
#include <string.h>

#include "attn/attn.h"
#include "base/bits.h"
#include "base/half.h"

#define HIDDEN_F16 0xfc00u /* -inf */

/* Columns of the mask that page i_page covers. */
static uint32_t columns(const tkv_attend_params *p, size_t i_page)
{
    const size_t left = p->n_kv - i_page * TKV_PAGE_TOKENS;
    return left < TKV_PAGE_TOKENS ? (uint32_t)left : TKV_PAGE_TOKENS;
}

static const uint8_t *mask_at(const tkv_attend_params *p, size_t query, size_t i_page)
{
    const size_t value = p->mask_type == TKV_F16 ? 2 : 4;
    return (const uint8_t *)p->mask + query * p->mask_stride + i_page * TKV_PAGE_TOKENS * value;
}

/* Whole f16 pages are mostly all 0 or all -inf: told from sixteen words. */
static enum tkv_mask_use look_f16(const uint8_t *mask)
{
    uint64_t words[TKV_PAGE_TOKENS / 4], any = 0, hidden = 0;
    memcpy(words, mask, sizeof words);
    for (int i = 0; i < TKV_PAGE_TOKENS / 4; i++) {
        any |= words[i];
        hidden |= words[i] ^ 0xfc00fc00fc00fc00u;
    }
    return any == 0 ? TKV_MASK_FREE : hidden == 0 ? TKV_MASK_HIDDEN : TKV_MASK_MIXED;
}

static void load_values(const tkv_attend_params *p, const uint8_t *mask, uint32_t n, float *values)
{
    for (uint32_t t = 0; t < n; t++) {
        if (p->mask_type == TKV_F16) {
            uint16_t h;
            memcpy(&h, mask + 2 * t, sizeof h);
            values[t] = tkv_half_to_f32(h);
        } else {
            memcpy(&values[t], mask + 4 * t, sizeof values[t]);
        }
    }
    for (uint32_t t = n; t < TKV_PAGE_TOKENS; t++)
        values[t] = -INFINITY;
}

static enum tkv_mask_use look(const tkv_attend_params *p, size_t query, size_t i_page,
                              float *values)
{
    const uint32_t n = columns(p, i_page);
    if (!p->mask && n == TKV_PAGE_TOKENS)
        return TKV_MASK_FREE;
    if (!p->mask) {
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
            values[t] = t < n ? 0.0f : -INFINITY;
        return TKV_MASK_MIXED;
    }
    const uint8_t *mask = mask_at(p, query, i_page);
    if (n == TKV_PAGE_TOKENS && p->mask_type == TKV_F16) {
        const enum tkv_mask_use use = look_f16(mask);
        if (use != TKV_MASK_MIXED)
            return use;
    }
    load_values(p, mask, n, values);
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
        if (values[t] != -INFINITY)
            return TKV_MASK_MIXED;
    return TKV_MASK_HIDDEN;
}

/* Takes away the slots without a bit. */
static enum tkv_mask_use restrict_to(uint64_t allow, enum tkv_mask_use use, float *values)
{
    if (use == TKV_MASK_HIDDEN || allow == 0)
        return TKV_MASK_HIDDEN;
    if (allow == UINT64_MAX)
        return use;
    bool any = false;
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        const float value = use == TKV_MASK_FREE ? 0.0f : values[t];
        values[t] = allow >> t & 1 ? value : -INFINITY;
        any |= values[t] != -INFINITY;
    }
    return any ? TKV_MASK_MIXED : TKV_MASK_HIDDEN;
}

bool tkv_worker_mask(struct tkv_worker *w, size_t i_page, const uint64_t *allow)
{
    bool any = false;
    for (uint32_t i = 0; i < w->n_queries; i++) {
        float *values = w->mask + (size_t)i * TKV_PAGE_TOKENS;
        enum tkv_mask_use use = look(w->job->p, w->first_query + i, i_page, values);
        if (allow)
            use = restrict_to(allow[i], use, values);
        w->mask_use[i] = (uint8_t)use;
        any |= use != TKV_MASK_HIDDEN;
    }
    return any;
}

uint64_t tkv_live_bits(const tkv_attend_params *p, size_t query, size_t i_page)
{
    float values[TKV_PAGE_TOKENS];
    switch (look(p, query, i_page, values)) {
    case TKV_MASK_HIDDEN:
        return 0;
    case TKV_MASK_FREE:
        return tkv_first_bits(columns(p, i_page));
    case TKV_MASK_MIXED:
        break;
    }
    uint64_t bits = 0;
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
        if (values[t] != -INFINITY)
            bits |= (uint64_t)1 << t;
    return bits;
}

uint64_t tkv_exact_bits(const tkv_spec *spec, const struct tkv_page *page, const int32_t *q_pos,
                        size_t query)
{
    if (!q_pos || page->nonfinite)
        return UINT64_MAX;
    const struct tkv_open *info = tkv_open_info(page);
    uint64_t bits = 0;
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        const int64_t pos = info->pos[t], distance = (int64_t)q_pos[query] - pos;
        const bool sink = pos != TKV_NO_POS && pos < (int64_t)spec->sink;
        const bool tail = pos != TKV_NO_POS && distance < (int64_t)spec->tail;
        if (sink || tail)
            bits |= (uint64_t)1 << t;
    }
    return bits;
}
