/* Which slots a query sees. */
#include <math.h>
#include <string.h>

#include "attn/attn.h"
#include "base/bits.h"
#include "base/half.h"

#define HIDDEN_F16 0xfc00u /* -inf */

/* Of 64 slots from a column on, those that are columns of the mask: [first, end). */
struct columns {
    uint32_t first, end;
};

static uint32_t clamp_slot(int64_t t)
{
    return t < 0 ? 0 : t < TKV_PAGE_TOKENS ? (uint32_t)t : TKV_PAGE_TOKENS;
}

static struct columns columns(const tkv_attend_params *p, int64_t column)
{
    return (struct columns){clamp_slot(-column), clamp_slot((int64_t)p->n_kv - column)};
}

static bool are_all(struct columns c)
{
    return c.first == 0 && c.end == TKV_PAGE_TOKENS;
}

static const uint8_t *mask_at(const tkv_attend_params *p, size_t query, int64_t column)
{
    const int64_t value = p->mask_type == TKV_F16 ? 2 : 4;
    return (const uint8_t *)p->mask + query * p->mask_stride + column * value;
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

static void load_values(const tkv_attend_params *p, size_t query, int64_t column, struct columns c,
                        float *values)
{
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
        values[t] = -INFINITY;
    const uint8_t *mask =
        mask_at(p, query, column + c.first) - c.first * (p->mask_type == TKV_F16 ? 2u : 4u);
    for (uint32_t t = c.first; t < c.end; t++) {
        if (p->mask_type == TKV_F16) {
            uint16_t h;
            memcpy(&h, mask + 2 * t, sizeof h);
            values[t] = tkv_half_to_f32(h);
        } else {
            memcpy(&values[t], mask + 4 * t, sizeof values[t]);
        }
    }
}

static enum tkv_mask_use look(const tkv_attend_params *p, size_t query, int64_t column,
                              float *values)
{
    const struct columns c = columns(p, column);
    if (!p->mask && are_all(c))
        return TKV_MASK_FREE;
    if (c.first >= c.end)
        return TKV_MASK_HIDDEN;
    if (!p->mask) {
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
            values[t] = t >= c.first && t < c.end ? 0.0f : -INFINITY;
        return TKV_MASK_MIXED;
    }
    if (are_all(c) && p->mask_type == TKV_F16) {
        const enum tkv_mask_use use = look_f16(mask_at(p, query, column));
        if (use != TKV_MASK_MIXED)
            return use;
    }
    load_values(p, query, column, c, values);
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

bool tkv_worker_mask(struct tkv_worker *w, int64_t column, const uint64_t *allow)
{
    bool any = false;
    for (uint32_t i = 0; i < w->n_queries; i++) {
        float *values = w->mask + (size_t)i * TKV_PAGE_TOKENS;
        enum tkv_mask_use use = look(w->job->p, w->first_query + i, column, values);
        if (allow)
            use = restrict_to(allow[i], use, values);
        w->mask_use[i] = (uint8_t)use;
        any |= use != TKV_MASK_HIDDEN;
    }
    return any;
}

/* Whether an f16 mask is 0 at all of these columns. */
static bool are_zeros(const uint8_t *mask, const size_t *columns, uint32_t n)
{
    uint32_t any = 0;
    for (uint32_t i = 0; i < n; i++)
        any |= tkv_load_half(mask + 2 * columns[i]);
    return any == 0;
}

void tkv_worker_mask_columns(struct tkv_worker *w, const size_t *columns, uint32_t n)
{
    const tkv_attend_params *p = w->job->p;
    const uint8_t *mask = p->mask ? mask_at(p, w->first_query, 0) : NULL;
    const bool zeros = !mask || (p->mask_type == TKV_F16 && are_zeros(mask, columns, n));
    w->mask_use[0] = zeros && n == TKV_PAGE_TOKENS ? TKV_MASK_FREE : TKV_MASK_MIXED;
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
        w->mask[t] = t < n ? 0.0f : -INFINITY;
    for (uint32_t t = 0; t < n && !zeros; t++) {
        if (p->mask_type == TKV_F16)
            w->mask[t] = tkv_half_to_f32(tkv_load_half(mask + 2 * columns[t]));
        else
            memcpy(&w->mask[t], mask + 4 * columns[t], sizeof w->mask[t]);
    }
}

uint64_t tkv_live_bits(const tkv_attend_params *p, size_t query, int64_t column)
{
    float values[TKV_PAGE_TOKENS];
    switch (look(p, query, column, values)) {
    case TKV_MASK_HIDDEN:
        return 0;
    case TKV_MASK_FREE:
        return UINT64_MAX;
    case TKV_MASK_MIXED:
        break;
    }
    uint64_t bits = 0;
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
        if (values[t] != -INFINITY)
            bits |= (uint64_t)1 << t;
    return bits;
}

uint64_t tkv_exact_bits(const tkv_cache *cache, const struct tkv_layer *layer,
                        const struct tkv_page *page, const int32_t *q_pos, size_t query)
{
    if (!q_pos || page->nonfinite)
        return UINT64_MAX;
    const tkv_spec *spec = &cache->spec;
    const struct tkv_open *info = tkv_open_info(page);
    uint64_t bits = tkv_page_waiting(layer, page);
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        const int64_t pos = info->pos[t], distance = (int64_t)q_pos[query] - pos;
        const bool sink = pos != TKV_NO_POS && pos < (int64_t)spec->sink;
        const bool tail = pos != TKV_NO_POS && distance < (int64_t)spec->tail;
        if (sink || tail)
            bits |= (uint64_t)1 << t;
    }
    return bits;
}
