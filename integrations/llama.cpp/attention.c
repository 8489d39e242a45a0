/* attention.c: the two operations that a coded cache exists for: writing rows, and attention over
 * them. */
#include <math.h>
#include <string.h>

#include "plugin.h"

/* ---- SET_ROWS --------------------------------------------------------------------------- */

static bool set_rows_fits(const struct tkg_root *root, const struct ggml_tensor *node)
{
    const struct ggml_tensor *rows = node->src[0], *index = node->src[1];
    return (size_t)node->ne[0] * sizeof(ggml_fp16_t) == root->row_bytes &&
           node->nb[1] == root->row_bytes && node->view_offs % root->row_bytes == 0 &&
           (rows->type == GGML_TYPE_F32 || rows->type == GGML_TYPE_F16) && rows->ne[2] == 1 &&
           rows->ne[3] == 1 && rows->nb[0] == ggml_type_size(rows->type) &&
           (index->type == GGML_TYPE_I64 || index->type == GGML_TYPE_I32) &&
           ggml_is_contiguous(index);
}

static const int64_t *slots_of(struct tkg_backend *be, const struct tkg_root *root,
                               const struct ggml_tensor *node)
{
    const struct ggml_tensor *index = node->src[1];
    const size_t n = (size_t)index->ne[0];
    const int64_t first = (int64_t)(node->view_offs / root->row_bytes);
    if (index->type == GGML_TYPE_I64 && first == 0) {
        return index->data;
    }
    int64_t *slots = tkg_scratch(&be->slots, n * sizeof(*slots));
    for (size_t i = 0; slots != NULL && i < n; i++) {
        slots[i] = first + (index->type == GGML_TYPE_I64 ? ((const int64_t *)index->data)[i]
                                                         : ((const int32_t *)index->data)[i]);
    }
    return slots;
}

/* Positions of the rows being written, kept for the values and for layers without a ROPE of their
 * own. */
static const int32_t *positions_for(struct tkg_backend *be, struct tkg_root *root,
                                    const struct ggml_tensor *node, const int64_t *slots, size_t n)
{
    struct tkg_cells *cells = root->cells;
    const int32_t *given = root->kind == TKV_K ? tkg_positions(node->src[0], (int64_t)n) : NULL;
    /* A layer without M-RoPE among others that have it tells the first axis alone. */
    const bool all_axes = given != NULL && tkg_position_axes(node->src[0]) == cells->n_axes;
    int32_t *pos = tkg_scratch(&be->pos, cells->n_axes * n * sizeof(*pos));
    if (pos == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < n && given != NULL; i++) {
        struct tkg_cell cell = {{0}, cells->klass[slots[i]]};
        for (uint32_t axis = 0; axis < cells->n_axes; axis++) {
            cell.pos[axis] = given[(all_axes ? axis * n : 0) + i];
        }
        tkg_cell_set(cells, slots[i], &cell);
    }
    if (tkg_cells_get(cells, slots, n, pos)) {
        return pos;
    }
    if (tkg_first_time(TKG_ONCE_NO_POSITIONS)) {
        tkg_log(GGML_LOG_LEVEL_WARN,
                "%s: no ROPE gives positions: the first tokens are coded like the others",
                root->name);
    }
    return NULL;
}

/* Classes of the rows being written: the first layer's keys tell, and all others take that over. */
static const uint8_t *classes_for(struct tkg_backend *be, struct tkg_root *root,
                                  const struct ggml_tensor *node, const int64_t *slots, size_t n)
{
    struct tkg_cells *cells = root->cells;
    uint8_t *klass = tkg_scratch(&be->klass, n);
    if (root == cells->first) {
        const uint8_t found = (uint8_t)tkg_span_class(node->src[0]);
        for (size_t i = 0; i < n; i++) {
            cells->klass[slots[i]] = found;
        }
    }
    for (size_t i = 0; klass != NULL && i < n; i++) {
        klass[i] = cells->klass[slots[i]];
    }
    return klass;
}

static bool slots_valid(const struct tkg_root *root, const int64_t *slots, size_t n)
{
    const int64_t n_cells = root->n_slots * root->n_streams;
    for (size_t i = 0; i < n; i++) {
        if (slots[i] < 0 || slots[i] >= n_cells) {
            return false;
        }
    }
    return true;
}

enum ggml_status tkg_set_rows(struct tkg_backend *be, struct ggml_tensor *node)
{
    struct tkg_root *root = tkg_root_of(node);
    if (!set_rows_fits(root, node)) {
        return tkg_fallback(be, node);
    }
    const struct ggml_tensor *rows = node->src[0];
    const size_t n = (size_t)rows->ne[1];
    const int64_t *slots = slots_of(be, root, node);
    if (slots == NULL) {
        return GGML_STATUS_ALLOC_FAILED;
    }
    const bool valid = slots_valid(root, slots, n); /* else the write refuses them, and says so */
    const uint8_t *klass = valid ? classes_for(be, root, node, slots, n) : NULL;
    if (valid && klass == NULL) {
        return GGML_STATUS_ALLOC_FAILED;
    }
    tkg_buffer_threads(root->buffer, be->n_threads);
    const struct tkg_rows put = {
        .n = n,
        .slots = slots,
        .pos = valid ? positions_for(be, root, node, slots, n) : NULL,
        .klass = klass,
        .data = rows->data,
        .type = rows->type == GGML_TYPE_F32 ? TKV_F32 : TKV_F16,
        .stride = rows->nb[1],
    };
    return tkg_rows_put(root, &put) ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
}

/* ---- FLASH_ATTN_EXT --------------------------------------------------------------------- */

/* Rows of [head_dim] of one KV head after the other, whole rows of the root, from the start of a
 * stream. */
static bool view_fits(const struct ggml_tensor *t)
{
    const size_t head_bytes = (size_t)t->ne[0] * sizeof(ggml_fp16_t);
    const size_t row_bytes = head_bytes * (size_t)t->ne[2];
    const struct ggml_tensor *leaf = tkg_leaf(t);
    return t->type == GGML_TYPE_F16 && t->nb[0] == sizeof(ggml_fp16_t) && t->nb[2] == head_bytes &&
           t->nb[1] == row_bytes && leaf->nb[1] == row_bytes &&
           (t->ne[3] == 1 || t->nb[3] == leaf->nb[2]) && t->view_offs % leaf->nb[2] == 0;
}

bool tkg_flash_attn_fits(const struct ggml_tensor *node)
{
    const struct ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2],
                             *mask = node->src[3];
    const struct ggml_tensor *sinks = node->src[4];
    return q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && node->nb[0] == sizeof(float) &&
           view_fits(k) && view_fits(v) && k->ne[2] == v->ne[2] && k->ne[1] == v->ne[1] &&
           k->ne[3] == v->ne[3] &&
           k->view_offs / tkg_leaf(k)->nb[2] == v->view_offs / tkg_leaf(v)->nb[2] &&
           q->ne[2] % k->ne[2] == 0 && q->ne[3] == k->ne[3] &&
           (mask == NULL ||
            (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1 && mask->ne[0] >= k->ne[1])) &&
           (sinks == NULL || sinks->type == GGML_TYPE_F32);
}

/* ALiBi: a factor on the mask for each head, by the rule of ggml's own kernels. */
static bool fill_slopes(struct tkg_backend *be, float max_bias, uint32_t n_heads,
                        const float **slopes)
{
    *slopes = NULL;
    if (max_bias <= 0) {
        return true;
    }
    float *s = tkg_scratch(&be->slopes, n_heads * sizeof(*s));
    if (s == NULL) {
        return false;
    }
    uint32_t n_pow2 = 1;
    while (n_pow2 * 2 <= n_heads) {
        n_pow2 *= 2;
    }
    const float m0 = powf(2.0f, -max_bias / (float)n_pow2);
    const float m1 = powf(2.0f, -(max_bias / 2.0f) / (float)n_pow2);
    for (uint32_t h = 0; h < n_heads; h++) {
        s[h] = h < n_pow2 ? powf(m0, (float)(h + 1)) : powf(m1, (float)(2 * (h - n_pow2) + 1));
    }
    *slopes = s;
    return true;
}

static void measure(tkv_cache *cache, const tkv_attend_params *p)
{
    double exact, read;
    if (tkv_attend_fractions(cache, p, &exact, &read, NULL) != TKV_OK) {
        return;
    }
    pthread_mutex_lock(&tkg_plugin.lock);
    tkg_plugin.exact_sum += exact * p->n_q;
    tkg_plugin.read_sum += read * p->n_q;
    tkg_plugin.n_scored += p->n_q;
    pthread_mutex_unlock(&tkg_plugin.lock);
}

/* Everything of the call that does not depend on the stream. */
static bool fill_params(struct tkg_backend *be, const struct ggml_tensor *node,
                        tkv_attend_params *p)
{
    const struct ggml_tensor *q = node->src[0], *mask = node->src[3], *sinks = node->src[4];
    float max_bias;
    tkv_attend_params_default(p);
    memcpy(&p->scale, (const float *)node->op_params + 0, sizeof(float));
    memcpy(&max_bias, (const float *)node->op_params + 1, sizeof(float));
    memcpy(&p->softcap, (const float *)node->op_params + 2, sizeof(float));
    p->n_q = (uint32_t)q->ne[1];
    p->n_q_heads = (uint32_t)q->ne[2];
    p->q_token_stride = q->nb[1];
    p->q_head_stride = q->nb[2];
    p->out_token_stride = node->nb[2];
    p->out_head_stride = node->nb[1];
    p->n_kv = (size_t)node->src[1]->ne[1];
    p->mask_type = TKV_F16;
    p->mask_stride = mask != NULL ? mask->nb[1] : 0;
    p->sinks = sinks != NULL ? sinks->data : NULL;
    return fill_slopes(be, max_bias, p->n_q_heads, &p->slopes);
}

static enum ggml_status attend_stream(struct tkg_root *k, const struct ggml_tensor *node,
                                      int64_t i_stream, tkv_attend_params *p)
{
    const struct ggml_tensor *q = node->src[0], *mask = node->src[3];
    const int64_t n_all = q->ne[1] * q->ne[3];
    const int32_t *q_pos = tkg_positions(q, n_all);
    p->layer = k->layer;
    p->q = (const float *)((const char *)q->data + (size_t)i_stream * q->nb[3]);
    p->out = (float *)((char *)node->data + (size_t)i_stream * node->nb[3]);
    p->first_slot =
        ((int64_t)(node->src[1]->view_offs / tkg_leaf(node->src[1])->nb[2]) + i_stream) *
        k->n_slots;
    p->mask = mask != NULL
                  ? (const char *)mask->data + (size_t)(i_stream % mask->ne[3]) * mask->nb[3]
                  : NULL;
    p->q_pos = q_pos != NULL ? q_pos + i_stream * q->ne[1] : NULL;
    p->flags =
        tkg_plugin.measuring ? TKV_ATTEND_SELECT : 0; /* what is scored, whatever the batch */
    tkv_error err = {{0}};
    const tkv_status status = tkv_attend(k->buffer->cache, p, &err);
    if (status != TKV_OK) {
        if (tkg_first_time(TKG_ONCE_ATTEND_FAILED) || tkg_is_disk_error(status)) {
            tkg_log(GGML_LOG_LEVEL_ERROR, "%s: attention failed: %s", k->name, err.text);
        }
        return status == TKV_ERR_NOMEM ? GGML_STATUS_ALLOC_FAILED : GGML_STATUS_FAILED;
    }
    if (tkg_plugin.measuring) {
        measure(k->buffer->cache, p);
    }
    return GGML_STATUS_SUCCESS;
}

enum ggml_status tkg_flash_attn(struct tkg_backend *be, struct ggml_tensor *node)
{
    struct tkg_root *k = tkg_root_of(node->src[1]);
    tkv_attend_params p;
    if (!fill_params(be, node, &p)) {
        return GGML_STATUS_ALLOC_FAILED;
    }
    tkg_buffer_threads(k->buffer, be->n_threads);
    for (int64_t i = 0; i < node->src[0]->ne[3]; i++) {
        const enum ggml_status status = attend_stream(k, node, i, &p);
        if (status != GGML_STATUS_SUCCESS) {
            return status;
        }
    }
    const bool sealed = tkg_rows_seal(k);
    tkg_watch_query(k, &p);
    return sealed ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
}
