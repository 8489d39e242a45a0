/* One page into the running state of an item: logits, online softmax, weighted values. */
#include <math.h>
#include <string.h>

#include "attn/attn.h"
#include "base/half.h"

#define T TKV_PAGE_TOKENS

#define LINE 64

static bool is_fused(const struct tkv_worker *w, uint8_t klass, tkv_kind kind)
{
    const struct tkv_layer_codec *codec = &w->job->layer->codec[klass][kind];
    return codec->ops->tile_i8 && !codec->unrotates && !(w->job->p->flags & TKV_ATTEND_EXACT);
}

/* About as often as the kernels of a page call tkv_step_ahead. */
static size_t count_steps(const struct tkv_worker *w, const struct tkv_page *page)
{
    const size_t D = w->job->layer->head_dim[TKV_K], n_rows = w->n_rows;
    if (page->state == TKV_PAGE_SEALED && is_fused(w, TKV_SPAN_TEXT, TKV_K))
        return D * ((n_rows + 3) / 4) + 2 * TKV_STEPS_OF_ROW * n_rows;
    return 4 * D * ((n_rows + 5) / 6) + TKV_STEPS_OF_ROW * n_rows;
}

void tkv_worker_look_ahead(struct tkv_worker *w, const struct tkv_page *page,
                           const struct tkv_page *next)
{
    const struct tkv_layer *layer = w->job->layer;
    const void *at = w->s;
    size_t bytes = 0;
    if (next && next->state == TKV_PAGE_SEALED) {
        at = tkv_page_block(layer, next, w->head);
        bytes = tkv_block_bytes(layer, w->head);
    } else if (next && next->state == TKV_PAGE_OPEN) {
        at = tkv_open_rows(layer, next, TKV_K, w->head);
        bytes = T * layer->head_dim[TKV_K] * sizeof(uint16_t); /* V's lie elsewhere */
    }
    const size_t step = bytes / count_steps(w, page) + 1;
    w->ahead = (struct tkv_ahead){.at = (uintptr_t)at, .step = step < LINE ? step : LINE};
    w->ahead_end = w->ahead.at + bytes;
}

/* The cursor for a kernel: one that has reached the end stays there. */
static struct tkv_ahead *ahead(struct tkv_worker *w)
{
    if (w->ahead.at >= w->ahead_end)
        w->ahead = (struct tkv_ahead){.at = (uintptr_t)w->s};
    return &w->ahead;
}

static const struct tkv_kernels *kernels(const struct tkv_worker *w)
{
    return &w->job->cache->ctx->kernels;
}

/* [64][D] to [D][64], 8 tokens at a time so that all of them stay near. */
static void transpose(const float *restrict x, size_t D, float *restrict y)
{
    for (size_t t = 0; t < T; t += 8)
        for (size_t c = 0; c < D; c++) {
            float column[8];
            for (size_t i = 0; i < 8; i++)
                column[i] = x[(t + i) * D + c];
            memcpy(y + c * T + t, column, sizeof column);
        }
}

struct tkv_codec_env tkv_view_env(const struct tkv_worker *w, const struct tkv_view *view,
                                  tkv_kind kind)
{
    const struct tkv_layer *layer = w->job->layer;
    struct tkv_codec_env env =
        tkv_layer_env(w->job->cache, layer, tkv_view_class(view), kind, w->head);
    env.span = view->span ? tkv_span_side(layer, view->span, kind, w->head) : NULL;
    return env;
}

static uint8_t *stored_page(const struct tkv_worker *w, const struct tkv_view *view, tkv_kind kind)
{
    const struct tkv_layer *layer = w->job->layer;
    return view->span ? tkv_span_page(layer, view->span, kind, w->head, view->i_page)
                      : tkv_block_page(layer, view->block, kind, w->head);
}

/* The page that gathered rows make. */
static const uint8_t *gathered_page(struct tkv_worker *w, const uint8_t *const *k_rows,
                                    tkv_kind kind)
{
    const struct tkv_layer *layer = w->job->layer;
    const uint8_t *rows[T];
    for (uint32_t t = 0; t < T; t++)
        rows[t] = k_rows[t] + (kind == TKV_V ? layer->row_bytes[TKV_K] : 0);
    tkv_from_rows(w->job->cache, layer, kind, w->head, rows, w->page);
    return w->page;
}

/* As its codec reads it; until the next page is asked for. */
static const uint8_t *coded_page(struct tkv_worker *w, const struct tkv_view *view, tkv_kind kind)
{
    if (view->rows)
        return gathered_page(w, view->rows, kind);
    const uint8_t *page = stored_page(w, view, kind);
    return view->span ? page
                      : tkv_in_tiles(w->job->cache, w->job->layer, kind, w->head, page, w->page);
}

/* The f32 tile of a kind; a page that is neither open nor coded is zeros. */
static const float *tile_f32(struct tkv_worker *w, const struct tkv_view *view, tkv_kind kind)
{
    const struct tkv_layer *layer = w->job->layer;
    const uint32_t D = layer->head_dim[kind];
    float *tile = (float *)(void *)(kind == TKV_K ? w->k_tile : w->v_tile);
    if (tkv_view_coded(view)) {
        const struct tkv_codec_ops *ops = layer->codec[tkv_view_class(view)][kind].ops;
        const struct tkv_codec_env env = tkv_view_env(w, view, kind);
        const uint8_t *page = coded_page(w, view, kind);
        if (ops->tile_f32) {
            ops->tile_f32(&env, page, tile);
        } else if (kind == TKV_V) {
            ops->decode(&env, page, tile);
        } else {
            ops->decode(&env, page, w->decoded);
            transpose(w->decoded, D, tile);
        }
    } else if (view->page->state == TKV_PAGE_OPEN) {
        const uint16_t *rows = tkv_open_rows(layer, view->page, kind, w->head);
        if (kind == TKV_K)
            kernels(w)->transpose_f16(rows, D, D, tile);
        else
            kernels(w)->f16_to_f32(rows, tile, (size_t)T * D);
    } else {
        memset(tile, 0, (size_t)T * D * sizeof(float));
    }
    return tile;
}

static void tile_i8(struct tkv_worker *w, const struct tkv_view *view, tkv_kind kind,
                    struct tkv_tile_i8 *tile)
{
    const struct tkv_codec_env env = tkv_view_env(w, view, kind);
    struct tkv_tile_buf buf = {
        .codes = kind == TKV_K ? w->k_tile : w->v_tile,
        .scale = kind == TKV_K ? w->k_scale : w->v_scale,
        .mean = w->mean,
        .n_rows = w->n_rows,
        .ahead = ahead(w),
    };
    w->job->layer->codec[tkv_view_class(view)][kind].ops->tile_i8(&env, coded_page(w, view, kind),
                                                                  &buf, tile);
}

static void score_tile(struct tkv_worker *w, const struct tkv_tile_i8 *tile, const int8_t *q)
{
    const struct tkv_kernels *k = kernels(w);
    const uint32_t D = w->job->layer->head_dim[TKV_K];
    if (tile->turbo_bits)
        k->turbo_score(tile->codes, D, tile->turbo_bits, q, w->n_rows, w->si, ahead(w));
    else
        k->score_i8(tile->codes, q, w->n_rows, D, w->si, ahead(w));
}

static void scores_i8(struct tkv_worker *w, const struct tkv_view *view)
{
    const struct tkv_kernels *k = kernels(w);
    const uint32_t D = w->job->layer->head_dim[TKV_K];
    const enum tkv_domain domain = tkv_query_domain(w->job->layer, tkv_view_class(view));
    struct tkv_tile_i8 tile;
    tile_i8(w, view, TKV_K, &tile);
    if (tile.mean)
        k->dot(tile.mean, w->q[domain], D, w->n_rows, D, w->bias);
    else
        memset(w->bias, 0, w->n_rows * sizeof(float));
    score_tile(w, &tile, w->q8[domain][0]);
    k->scale_scores(w->si, w->q8_scale[domain][0], tile.scale, w->bias, w->n_rows, w->s);
    if (tile.planes < 2)
        return;
    memset(w->bias, 0, w->n_rows * sizeof(float));
    score_tile(w, &tile, w->q8[domain][1]);
    k->scale_scores(w->si, w->q8_scale[domain][1], tile.scale, w->bias, w->n_rows, w->s2);
    for (size_t i = 0; i < (size_t)w->n_rows * T; i++)
        w->s[i] += w->s2[i];
}

/* Keys as before RoPE, turned forth: by all of their angles, or by those beyond what the queries
 * are turned back by. */
static void scores_unrotated(struct tkv_worker *w, const struct tkv_view *view)
{
    const struct tkv_layer *layer = w->job->layer;
    const uint32_t D = layer->head_dim[TKV_K];
    const uint8_t klass = tkv_view_class(view);
    const struct tkv_layer_codec *codec = &layer->codec[klass][TKV_K];
    float *tile = (float *)(void *)w->k_tile;
    struct tkv_angles angles = {0};
    if (view->places)
        angles = tkv_page_angles(layer->turns, view->places, w->angles);
    tkv_worker_learned_queries(w, klass, angles.turn);
    if (codec->ops->tile_f32 && !codec->ops->basis && !codec->rotates) {
        tile_f32(w, view, TKV_K);
    } else {
        const struct tkv_coded coded = {
            .page = stored_page(w, view, TKV_K), .klass = klass, .kind = TKV_K, .head = w->head};
        tkv_decode_unrotated(w->job->cache, layer, &coded, w->decoded);
        transpose(w->decoded, D, tile);
    }
    if (view->places)
        kernels(w)->turn_tile(tile, layer->turns->half, layer->turns->n_pairs, angles.cos,
                              angles.sin, angles.stride);
    kernels(w)->score_f32(tile, w->q[TKV_LEARNED], D, w->n_rows, D, w->s, ahead(w));
}

/* Scores of a span's codes, post-scaled: the steps are in the query, the low ends in span_bias. */
static void scores_scaled(struct tkv_worker *w, const struct tkv_view *view)
{
    const struct tkv_kernels *k = kernels(w);
    const struct tkv_codec_ops *ops = w->job->layer->codec[TKV_SPAN_VISUAL][TKV_K].ops;
    for (uint32_t t = 0; t < T; t++)
        w->k_scale[t] = 1.0f;
    k->visual_score(coded_page(w, view, TKV_K), w->job->layer->head_dim[TKV_K], ops->code_bits / 16,
                    w->q8[TKV_SCALED][0], w->n_rows, w->si, ahead(w));
    k->scale_scores(w->si, w->q8_scale[TKV_SCALED][0], w->k_scale, w->span_bias, w->n_rows, w->s);
}

static void softcap_row(float *s, float cap)
{
    for (uint32_t t = 0; t < T; t++)
        s[t] = cap * tanhf(s[t] / cap);
}

void tkv_worker_scores(struct tkv_worker *w, const struct tkv_view *view)
{
    const uint8_t klass = tkv_view_class(view);
    const bool coded = tkv_view_coded(view);
    const bool unrotates = coded && w->job->layer->codec[klass][TKV_K].unrotates;
    enum tkv_domain domain = coded ? tkv_query_domain(w->job->layer, klass) : TKV_PLAIN;
    if (domain == TKV_LEARNED && !unrotates)
        tkv_worker_learned_queries(w, klass, view->turn);
    if (w->job->windowed && !view->span) {
        tkv_worker_windowed_scores(w, view);
    } else if (unrotates) {
        scores_unrotated(w, view);
    } else if (domain == TKV_SCALED && tkv_span_is_scaled(w, TKV_K)) {
        scores_scaled(w, view);
    } else if (coded && is_fused(w, klass, TKV_K)) {
        scores_i8(w, view);
    } else {
        const uint32_t D = w->job->layer->head_dim[TKV_K];
        if (domain == TKV_SCALED)
            domain = TKV_PLAIN;
        kernels(w)->score_f32(tile_f32(w, view, TKV_K), w->q[domain], D, w->n_rows, D, w->s,
                              ahead(w));
    }
    const float softcap = w->job->p->softcap;
    for (uint32_t r = 0; r < w->n_rows && softcap != 0.0f; r++)
        softcap_row(w->s + (size_t)r * T, softcap);
}

static void rescale(struct tkv_worker *w, uint32_t row, float fix)
{
    const uint32_t D = w->job->layer->head_dim[TKV_V];
    for (int i = 0; i < TKV_N_ACC; i++)
        for (uint32_t c = 0; c < D && w->acc_used[i]; c++)
            w->acc[i][(size_t)row * D + c] *= fix;
}

static void mask_row(const struct tkv_worker *w, uint32_t row)
{
    const float *mask = w->mask + (size_t)(row / w->job->group) * T, *slopes = w->job->p->slopes;
    const float slope = slopes ? slopes[w->head * w->job->group + row % w->job->group] : 1.0f;
    float *s = w->s + (size_t)row * T;
    for (uint32_t t = 0; t < T; t++) /* a hidden row may hold anything, NaN too */
        s[t] = mask[t] == -INFINITY ? -INFINITY : s[t] + slope * mask[t];
}

static void narrow_row(float *s, const struct tkv_range *range)
{
    for (uint32_t t = 0; t < T; t++)
        s[t] = range->low + (s[t] - range->low) * range->keep;
}

/* Logits to weights relative to the running maxima, for rows of queries that see something of the
 * page. */
static void weights_of(struct tkv_worker *w, uint32_t first, uint32_t n)
{
    kernels(w)->softmax(w->s + (size_t)first * T, w->state + first, n, ahead(w));
    for (uint32_t r = first; r < first + n; r++)
        if (w->state[r].fix != 1.0f)
            rescale(w, r, w->state[r].fix);
}

static void weights(struct tkv_worker *w)
{
    const uint32_t group = w->job->group;
    uint32_t done = 0; /* rows; the ones from here on that are ready go in one call */
    for (uint32_t r = 0; r < w->n_rows && w->range; r++)
        narrow_row(w->s + (size_t)r * T, &w->range[r]);
    for (uint32_t query = 0; query < w->n_queries; query++) {
        const uint32_t first = query * group;
        if (w->mask_use[query] == TKV_MASK_HIDDEN) {
            weights_of(w, done, first - done);
            memset(w->s + (size_t)first * T, 0, (size_t)group * T * sizeof(float));
            done = first + group;
        }
        for (uint32_t r = first; r < first + group && w->mask_use[query] == TKV_MASK_MIXED; r++)
            mask_row(w, r);
    }
    weights_of(w, done, w->n_rows - done);
}

/* acc += sum_t p[t] * mean for every row. */
static void add_mean(struct tkv_worker *w, const float *mean, float *acc)
{
    const uint32_t D = w->job->layer->head_dim[TKV_V];
    float ones[T];
    for (uint32_t t = 0; t < T; t++)
        ones[t] = 1.0f;
    kernels(w)->dot(ones, w->s, T, w->n_rows, T, w->bias);
    for (uint32_t r = 0; r < w->n_rows; r++)
        for (uint32_t c = 0; c < D; c++)
            acc[(size_t)r * D + c] += w->bias[r] * mean[c];
}

static void sum_tile(struct tkv_worker *w, const struct tkv_tile_i8 *tile, float *acc)
{
    const struct tkv_kernels *k = kernels(w);
    const uint32_t D = w->job->layer->head_dim[TKV_V];
    if (tile->turbo_bits)
        k->turbo_wsum(tile->codes, D, tile->turbo_bits, w->w, w->w_scale, w->n_rows, acc, ahead(w));
    else
        k->wsum_i8(tile->codes, w->w, w->w_scale, w->n_rows, D, acc, ahead(w));
}

/* The weights that 8 bits leave over, all >= 0: first codes are taken half a step low, so that the
 * rest never turns negative. */
static void two_planes(struct tkv_worker *w, const struct tkv_tile_i8 *tile, float *acc)
{
    float ones[T], x[T];
    for (uint32_t t = 0; t < T; t++)
        ones[t] = 1.0f;
    for (int plane = 0; plane < 2; plane++) {
        for (uint32_t r = 0; r < w->n_rows; r++) {
            float *p = w->s + (size_t)r * T, most = 0;
            for (uint32_t t = 0; t < T && plane == 0; t++) {
                p[t] *= tile->scale[t];
                most = p[t] > most ? p[t] : most;
            }
            for (uint32_t t = 0; t < T; t++) {
                const float low = plane == 0 ? p[t] - most / 510.0f : p[t];
                x[t] = low > 0 ? low : 0;
            }
            uint8_t *codes = w->w + (size_t)r * T;
            kernels(w)->quantize_weights(x, ones, 1, codes, &w->w_scale[r], ahead(w));
            for (uint32_t t = 0; t < T; t++)
                p[t] -= w->w_scale[r] * (float)codes[t];
        }
        sum_tile(w, tile, acc);
    }
}

static void values_i8(struct tkv_worker *w, const struct tkv_view *view, float *acc)
{
    struct tkv_tile_i8 tile;
    tile_i8(w, view, TKV_V, &tile);
    if (tile.mean)
        add_mean(w, tile.mean, acc);
    if (tile.planes > 1) {
        two_planes(w, &tile, acc);
        return;
    }
    kernels(w)->quantize_weights(w->s, tile.scale, w->n_rows, w->w, w->w_scale, ahead(w));
    sum_tile(w, &tile, acc);
}

static bool some_weigh_nothing(const struct tkv_worker *w)
{
    size_t n = 0;
    for (size_t i = 0; i < (size_t)w->n_rows * T; i++)
        n += w->s[i] == 0.0f;
    return n > 0;
}

static bool holds_nonfinite(const struct tkv_worker *w, const struct tkv_view *view)
{
    if (tkv_view_coded(view) || view->page->state != TKV_PAGE_OPEN)
        return false; /* only finite rows are coded */
    return !tkv_halves_finite(tkv_open_rows(w->job->layer, view->page, TKV_V, w->head),
                              (size_t)T * w->job->layer->head_dim[TKV_V]);
}

/* wsum_f32 that leaves out rows of weight 0, whose product with an infinity would be NaN. */
static void wsum_live(const struct tkv_worker *w, const float *v, float *acc)
{
    const uint32_t D = w->job->layer->head_dim[TKV_V];
    for (uint32_t r = 0; r < w->n_rows; r++)
        for (uint32_t t = 0; t < T; t++) {
            const float p = w->s[(size_t)r * T + t];
            for (uint32_t c = 0; c < D && p != 0.0f; c++)
                acc[(size_t)r * D + c] = fmaf(p, v[(size_t)t * D + c], acc[(size_t)r * D + c]);
        }
}

static int acc_of(const struct tkv_worker *w, const struct tkv_view *view)
{
    const uint8_t klass = tkv_view_class(view);
    const struct tkv_layer_codec *codec = &w->job->layer->codec[klass][TKV_V];
    if (!tkv_view_coded(view))
        return TKV_ACC_PLAIN;
    if (codec->learned)
        return TKV_ACC_LEARNED + klass;
    if (view->span && codec->ops->ranges && tkv_span_is_scaled(w, TKV_V))
        return TKV_ACC_SCALED;
    return codec->rotates ? TKV_ACC_ROTATED : TKV_ACC_PLAIN;
}

/* Sums of a span's codes: steps and low ends come in when the span is through. */
static void values_scaled(struct tkv_worker *w, const struct tkv_view *view, float *acc)
{
    const struct tkv_kernels *k = kernels(w);
    const struct tkv_codec_ops *ops = w->job->layer->codec[TKV_SPAN_VISUAL][TKV_V].ops;
    for (uint32_t t = 0; t < T; t++)
        w->v_scale[t] = 1.0f;
    k->quantize_weights(w->s, w->v_scale, w->n_rows, w->w, w->w_scale, ahead(w));
    k->visual_wsum(coded_page(w, view, TKV_V), w->job->layer->head_dim[TKV_V], ops->code_bits / 16,
                   w->w, w->w_scale, w->n_rows, acc, ahead(w));
}

static void values(struct tkv_worker *w, const struct tkv_view *view)
{
    const uint32_t D = w->job->layer->head_dim[TKV_V];
    const int which = acc_of(w, view);
    float *acc = w->acc[which];
    w->acc_used[which] = true;
    if (which == TKV_ACC_SCALED)
        values_scaled(w, view, acc);
    else if (tkv_view_coded(view) && is_fused(w, tkv_view_class(view), TKV_V))
        values_i8(w, view, acc);
    else if (some_weigh_nothing(w) && holds_nonfinite(w, view))
        wsum_live(w, tile_f32(w, view, TKV_V), acc);
    else
        kernels(w)->wsum_f32(tile_f32(w, view, TKV_V), w->s, w->n_rows, D, acc, ahead(w));
}

void tkv_worker_page(struct tkv_worker *w, const struct tkv_view *view)
{
    tkv_worker_scores(w, view);
    weights(w);
    values(w, view);
}
