/* The queries of an item, in every form that the layer's codecs ask for. */
#include <string.h>

#include "attn/attn.h"

enum tkv_domain tkv_query_domain(const struct tkv_layer *layer, uint8_t klass)
{
    const struct tkv_layer_codec *codec = &layer->codec[klass][TKV_K];
    if (codec->learned || codec->unrotates)
        return TKV_LEARNED;
    if (klass == TKV_SPAN_VISUAL && codec->ops->ranges)
        return TKV_SCALED;
    if (codec->ops->caps & TKV_CAP_BALANCES)
        return TKV_BALANCED;
    return codec->rotates ? TKV_ROTATED : TKV_PLAIN;
}

static void load_plain(struct tkv_worker *w)
{
    const tkv_attend_params *p = w->job->p;
    const uint32_t D = w->job->layer->head_dim[TKV_K], group = w->job->group;
    for (uint32_t i = 0; i < w->n_queries; i++) {
        for (uint32_t g = 0; g < group; g++) {
            const size_t head = (size_t)w->head * group + g;
            const uint8_t *at = (const uint8_t *)p->q + (w->first_query + i) * p->q_token_stride +
                                head * p->q_head_stride;
            const float *q = (const float *)(const void *)at;
            float *row = w->q[TKV_PLAIN] + ((size_t)i * group + g) * D;
            for (uint32_t c = 0; c < D; c++)
                row[c] = q[c] * p->scale;
        }
    }
}

void tkv_worker_quantize(struct tkv_worker *w, enum tkv_domain domain, uint32_t planes)
{
    const struct tkv_kernels *k = &w->job->cache->ctx->kernels;
    const uint32_t D = w->job->layer->head_dim[TKV_K];
    float rest[TKV_MAX_HEAD_DIM];
    for (uint32_t r = 0; r < w->n_rows; r++) {
        int32_t sum;
        const float *q = w->q[domain] + (size_t)r * D;
        int8_t *codes = w->q8[domain][0] + (size_t)r * D;
        const float scale = k->quantize_row_i8(q, D, codes, &sum);
        w->q8_scale[domain][0][r] = scale;
        if (planes < 2)
            continue;
        for (uint32_t c = 0; c < D; c++)
            rest[c] = q[c] - scale * (float)codes[c];
        w->q8_scale[domain][1][r] =
            k->quantize_row_i8(rest, D, w->q8[domain][1] + (size_t)r * D, &sum);
    }
}

static void transform(struct tkv_worker *w, enum tkv_domain domain, bool rotate,
                      const float *balance)
{
    const uint32_t D = w->job->layer->head_dim[TKV_K];
    float *q = w->q[domain];
    memcpy(q, w->q[TKV_PLAIN], (size_t)w->n_rows * D * sizeof(float));
    if (balance)
        for (uint32_t r = 0; r < w->n_rows; r++)
            for (uint32_t c = 0; c < D; c++)
                q[(size_t)r * D + c] *= balance[c];
    if (rotate)
        w->job->cache->ctx->kernels.rotate(q, w->n_rows, D, w->job->cache->ctx->sign);
}

void tkv_worker_learned_queries(struct tkv_worker *w, uint8_t klass, uint32_t turn)
{
    if (w->learned_made && w->learned_class == klass && w->learned_turn == turn)
        return;
    const struct tkv_attend_job *job = w->job;
    const struct tkv_layer_codec *codec = &job->layer->codec[klass][TKV_K];
    const struct tkv_codec_env env = tkv_layer_env(job->cache, job->layer, klass, TKV_K, w->head);
    const uint32_t D = env.head_dim, rows = TKV_PAGE_TOKENS;
    const bool fused =
        codec->ops->tile_i8 && !codec->unrotates && !(job->p->flags & TKV_ATTEND_EXACT);
    struct tkv_basis basis = {0};
    if (codec->learned && !codec->unrotates)
        codec->ops->basis(&env, &basis);
    for (uint32_t r = 0; r < w->n_rows; r += rows) {
        const uint32_t n = w->n_rows - r < rows ? w->n_rows - r : rows;
        float *q = w->q[TKV_LEARNED] + (size_t)r * D;
        memcpy(w->decoded, w->q[TKV_PLAIN] + (size_t)r * D, (size_t)n * D * sizeof(float));
        if (codec->turns || codec->unrotates)
            tkv_turn_rows(job->cache, job->layer, turn, false, w->decoded, n);
        if (basis.query.codes && fused)
            env.kernels->basis_i16(w->decoded, n, D, &basis.query, q);
        else if (basis.back_t)
            env.kernels->basis(w->decoded, n, D, basis.back_t, q);
        else
            memcpy(q, w->decoded, (size_t)n * D * sizeof(float));
    }
    if (fused)
        tkv_worker_quantize(w, TKV_LEARNED, codec->ops->planes);
    w->learned_made = true;
    w->learned_class = klass;
    w->learned_turn = turn;
}

void tkv_worker_queries(struct tkv_worker *w, uint32_t head, size_t first_query)
{
    const struct tkv_attend_job *job = w->job;
    const struct tkv_layer *layer = job->layer;
    const size_t left = job->p->n_q - first_query;
    w->head = head;
    w->first_query = first_query;
    w->n_queries = left < job->block_queries ? (uint32_t)left : job->block_queries;
    w->n_rows = w->n_queries * job->group;
    load_plain(w);
    w->learned_made = false;
    bool transformed[TKV_N_DOMAINS] = {[TKV_PLAIN] = true};
    uint32_t planes[TKV_N_DOMAINS] = {0}; /* quantized so far: classes may share a domain */
    for (uint8_t klass = 0; klass < TKV_N_CLASSES; klass++) {
        const struct tkv_layer_codec *codec = &layer->codec[klass][TKV_K];
        const enum tkv_domain domain = tkv_query_domain(layer, klass);
        const bool fused = codec->ops->tile_i8 && !(job->p->flags & TKV_ATTEND_EXACT);
        const float *balance = NULL;
        if (domain == TKV_LEARNED || domain == TKV_SCALED)
            continue; /* made page by page, or span by span */
        if (domain == TKV_BALANCED && layer->balance)
            balance = layer->balance + (size_t)head * layer->head_dim[TKV_K];
        if (!transformed[domain])
            transform(w, domain, codec->rotates, balance);
        transformed[domain] = true;
        if (fused && planes[domain] < codec->ops->planes) {
            tkv_worker_quantize(w, domain, codec->ops->planes);
            planes[domain] = codec->ops->planes;
        }
    }
    if (job->windowed)
        tkv_worker_far_queries(w);
}
