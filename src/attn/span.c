/* A span into the running state of an item. Codecs that narrow the logits of a span need their range
 * first, which takes a pass of its own over the keys. Codecs with ranges are post-scaled: steps and
 * low ends are folded into the query and into the sums, and no value is ever decoded. */
#include <math.h>
#include <string.h>

#include "attn/attn.h"

#define T TKV_PAGE_TOKENS

bool tkv_span_is_scaled(const struct tkv_worker *w, tkv_kind kind)
{
    return w->job->layer->codec[TKV_SPAN_VISUAL][kind].ops->ranges &&
           !(w->job->p->flags & TKV_ATTEND_EXACT);
}

/* Queries times the steps of the keys, and their products with the low ends. */
static void scale_queries(struct tkv_worker *w, const struct tkv_span *span)
{
    const struct tkv_codec_ops *ops = w->job->layer->codec[TKV_SPAN_VISUAL][TKV_K].ops;
    const struct tkv_view view = {.span = span};
    const struct tkv_codec_env env = tkv_view_env(w, &view, TKV_K);
    const uint32_t D = env.head_dim;
    ops->ranges(&env, w->low, w->step);
    for (uint32_t r = 0; r < w->n_rows; r++)
        for (uint32_t c = 0; c < D; c++)
            w->q[TKV_SCALED][(size_t)r * D + c] = w->q[TKV_PLAIN][(size_t)r * D + c] * w->step[c];
    tkv_worker_quantize(w, TKV_SCALED, ops->planes);
    env.kernels->dot(w->low, w->q[TKV_PLAIN], D, w->n_rows, D, w->span_bias);
}

/* Sums of codes to sums of values: low * sum of the weights + step * sum of weighted codes. The
 * state holds the span alone, so that its sum of weights is the span's. */
static void unscale_values(struct tkv_worker *w, const struct tkv_span *span)
{
    const struct tkv_view view = {.span = span};
    const struct tkv_codec_env env = tkv_view_env(w, &view, TKV_V);
    const uint32_t D = env.head_dim;
    w->job->layer->codec[TKV_SPAN_VISUAL][TKV_V].ops->ranges(&env, w->low, w->step);
    for (uint32_t r = 0; r < w->n_rows; r++) {
        const float *codes = w->acc[TKV_ACC_SCALED] + (size_t)r * D;
        float *out = w->acc[TKV_ACC_PLAIN] + (size_t)r * D;
        for (uint32_t c = 0; c < D; c++)
            out[c] += w->low[c] * w->state[r].l + w->step[c] * codes[c];
    }
}

static struct tkv_view view_of(const struct tkv_span *span, uint32_t i_page)
{
    const struct tkv_span_page *page = &span->pages[i_page];
    return (struct tkv_view){
        .span = span, .i_page = i_page, .places = page->places, .turn = page->turn};
}

/* The mask of a page of a span. */
static bool mask_page(struct tkv_worker *w, const struct tkv_span *span, uint32_t i_page)
{
    uint64_t allow[TKV_BLOCK_ROWS];
    const uint64_t live = span->pages[i_page].live;
    for (uint32_t i = 0; live != UINT64_MAX && i < w->n_queries; i++)
        allow[i] = live;
    return tkv_worker_mask(w, span->first - w->job->p->first_slot + (int64_t)i_page * T,
                           live != UINT64_MAX ? allow : NULL);
}

/* The range of those logits that the mask lets through. Sixteen side by side become vectors. */
static void widen(struct tkv_range *range, const float *s, const float *mask)
{
    float low[16], high[16];
    for (uint32_t i = 0; i < 16; i++)
        low[i] = INFINITY, high[i] = -INFINITY;
    for (uint32_t t = 0; t < T; t += 16)
        for (uint32_t i = 0; i < 16; i++) {
            const bool live = !mask || mask[t + i] != -INFINITY;
            const float down = live ? s[t + i] : INFINITY, up = live ? s[t + i] : -INFINITY;
            low[i] = down < low[i] ? down : low[i];
            high[i] = up > high[i] ? up : high[i];
        }
    for (uint32_t i = 0; i < 16; i++) {
        range->low = low[i] < range->low ? low[i] : range->low;
        range->high = high[i] > range->high ? high[i] : range->high;
    }
}

static void widen_page(struct tkv_worker *w)
{
    for (uint32_t r = 0; r < w->n_rows; r++) {
        const uint32_t query = r / w->job->group;
        if (w->mask_use[query] != TKV_MASK_HIDDEN)
            widen(&w->range[r], w->s + (size_t)r * T,
                  w->mask_use[query] == TKV_MASK_MIXED ? w->mask + (size_t)query * T : NULL);
    }
}

/* The logits of a span, at least to greatest, are spread over a range that is smaller by `narrows`,
 * the least staying where it is. A range that is no larger than that stays as it is: it has no
 * extremes to take back, and would turn over. */
static void find_ranges(struct tkv_worker *w, const struct tkv_span *span, float narrows)
{
    w->range = w->range_buf;
    for (uint32_t r = 0; r < w->n_rows; r++)
        w->range[r] = (struct tkv_range){INFINITY, -INFINITY, 1};
    for (uint32_t p = 0; p < span->n_pages; p++) {
        const struct tkv_view view = view_of(span, p);
        if (!mask_page(w, span, p))
            continue;
        tkv_worker_scores(w, &view);
        widen_page(w);
    }
    for (uint32_t r = 0; r < w->n_rows; r++) {
        struct tkv_range *range = &w->range[r];
        const float width = range->high - range->low;
        if (width > narrows)
            range->keep = (width - narrows) / (width + 1e-8f);
        else
            *range = (struct tkv_range){0, 0, 1};
    }
}

void tkv_worker_span(struct tkv_worker *w, const struct tkv_span *span)
{
    const float narrows = w->job->layer->codec[TKV_SPAN_VISUAL][TKV_K].ops->narrows;
    w->ahead = (struct tkv_ahead){.at = (uintptr_t)w->s}; /* a span lies in one piece */
    w->ahead_end = w->ahead.at;
    if (tkv_span_is_scaled(w, TKV_K))
        scale_queries(w, span);
    if (narrows > 0)
        find_ranges(w, span, narrows);
    for (uint32_t p = 0; p < span->n_pages; p++) {
        const struct tkv_view view = view_of(span, p);
        if (mask_page(w, span, p))
            tkv_worker_page(w, &view);
    }
    w->range = NULL;
    if (w->acc_used[TKV_ACC_SCALED])
        unscale_values(w, span);
}
