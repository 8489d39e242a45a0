/* Windowed RoPE in the softmax itself (A2ATS, arXiv 2502.12665, equation 11 to the letter). */
#include <string.h>

#include "attn/attn.h"

#define T TKV_PAGE_TOKENS

void tkv_worker_far_queries(struct tkv_worker *w)
{
    const struct tkv_attend_job *job = w->job;
    const uint32_t D = job->layer->head_dim[TKV_K];
    const double far = (double)job->layer->index->models[w->head].far;
    memcpy(w->q_far, w->q[TKV_PLAIN], (size_t)w->n_rows * D * sizeof *w->q_far);
    for (uint32_t i = 0; i < w->n_queries; i++)
        tkv_turn_by(job->cache, job->layer, far - job->p->q_pos[w->first_query + i],
                    w->q_far + (size_t)i * job->group * D, job->group);
}

/* Keys of a page as they were written, [64][k_head_dim]. */
static void decode_keys(struct tkv_worker *w, const struct tkv_view *view)
{
    const struct tkv_layer *layer = w->job->layer;
    if (!view->block) {
        w->job->cache->ctx->kernels.f16_to_f32(tkv_open_rows(layer, view->page, TKV_K, w->head),
                                               w->keys, (size_t)T * layer->head_dim[TKV_K]);
        return;
    }
    const struct tkv_coded coded = {
        .page = tkv_block_page(layer, view->block, TKV_K, w->head),
        .places = view->places,
        .turn = view->turn,
        .klass = TKV_SPAN_TEXT,
        .kind = TKV_K,
        .head = w->head,
    };
    tkv_decode_rows(w->job->cache, layer, &coded, w->keys);
}

void tkv_worker_windowed_scores(struct tkv_worker *w, const struct tkv_view *view)
{
    const struct tkv_attend_job *job = w->job;
    const struct tkv_kernels *k = &job->cache->ctx->kernels;
    const uint32_t D = job->layer->head_dim[TKV_K];
    decode_keys(w, view);
    for (uint32_t t = 0; t < T; t++) {
        const float *key = w->keys + (size_t)t * D;
        const int64_t pos = tkv_page_pos(view->page, t);
        float plain[TKV_MAX_HEAD_DIM];
        memcpy(plain, key, D * sizeof *plain);
        if (pos >= 0)
            tkv_turn_by(job->cache, job->layer, -(double)pos, plain, 1);
        for (uint32_t r = 0; r < w->n_rows; r++) {
            const int64_t q_pos = job->p->q_pos[w->first_query + r / job->group];
            const bool far = pos >= 0 && q_pos - pos >= TKV_INDEX_NEAR;
            const float *q = (far ? w->q_far : w->q[TKV_PLAIN]) + (size_t)r * D;
            k->dot(far ? plain : key, q, D, 1, D, w->s + (size_t)r * T + t);
        }
    }
}
