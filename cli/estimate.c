/* Sums over the layers of a model. */
#include "estimate.h"

#include <math.h>
#include <stdlib.h>

#include "cache_size.h"
#include "cli.h"

enum {
    STEP = 256
}; /* llama.cpp rounds contexts up to this */

/* Bytes of a layer in stock llama.cpp; NaN where the type does not fit the head size. */
static double stock_bytes(const struct llama_api *api, const struct model_layer *l, uint32_t cells,
                          enum ggml_type type)
{
    int64_t block = api->ggml_blck_size(type);
    if (l->k_head_dim % block != 0 || l->v_head_dim % block != 0)
        return NAN;
    size_t token =
        api->ggml_row_size(type, l->k_head_dim) + api->ggml_row_size(type, l->v_head_dim);
    return (double)token * l->n_kv_heads * cells;
}

/* Layers that cannot be coded stay f16, as in the plug-in. */
static tkv_status layer_bytes(const struct estimator *e, const struct estimate_row *row,
                              const struct model_layer *l, uint32_t n_tokens, double *bytes,
                              tkv_error *err)
{
    uint32_t cells = model_layer_cells(e->model, l, n_tokens);
    bool coded = row->stock == GGML_TYPE_COUNT && l->kind != LAYER_MLA &&
                 cache_can_code(&row->spec, l->k_head_dim, l->v_head_dim);
    if (coded) {
        struct cache_shape shape = {l->n_kv_heads, l->k_head_dim, l->v_head_dim, cells, n_tokens};
        return cache_size(e->ctx, &row->spec, &shape, bytes, err);
    }
    *bytes =
        stock_bytes(e->api, l, cells, row->stock == GGML_TYPE_COUNT ? GGML_TYPE_F16 : row->stock);
    return TKV_OK;
}

static enum estimate_part part_of(enum layer_kind kind)
{
    return kind == LAYER_WINDOW ? PART_WINDOW : kind == LAYER_MLA ? PART_MLA : PART_FULL;
}

/* Adds `n` layers like `l`; `values` counts what their keys and values are. */
static tkv_status add_layers(const struct estimator *e, const struct estimate_row *row,
                             const struct model_layer *l, uint32_t n, uint32_t n_tokens,
                             struct estimate_bytes *out, double *values, tkv_error *err)
{
    out->parts[PART_RECURRENT] += (double)l->state_bytes * n;
    if (l->n_kv_heads == 0)
        return TKV_OK;
    double bytes;
    tkv_status status = layer_bytes(e, row, l, n_tokens, &bytes, err);
    if (status != TKV_OK)
        return status;
    out->parts[part_of(l->kind)] += bytes * n;
    struct model_layer index = {.kind = LAYER_FULL, .n_kv_heads = 1, .k_head_dim = l->index_dim};
    if (l->index_dim)
        out->parts[PART_INDEX] +=
            n * stock_bytes(e->api, &index, model_layer_cells(e->model, &index, n_tokens),
                            row->stock == GGML_TYPE_COUNT ? GGML_TYPE_F16 : row->stock);
    uint32_t cells = model_layer_cells(e->model, l, n_tokens);
    *values += (double)n * (cells < n_tokens ? cells : n_tokens) * l->n_kv_heads *
               (l->k_head_dim + l->v_head_dim);
    return TKV_OK;
}

tkv_status estimate_bytes_of(const struct estimator *e, const struct estimate_row *row,
                             uint32_t n_tokens, struct estimate_bytes *out, tkv_error *err)
{
    const struct model_layers *m = e->model;
    double values = 0;
    bool *done = cli_alloc(m->n_layers, sizeof(*done));
    tkv_status status = TKV_OK;
    *out = (struct estimate_bytes){0};
    /* Layers of one shape take the same: each shape is worked out once. */
    for (uint32_t i = 0; i < m->n_layers && status == TKV_OK; i++) {
        uint32_t n = 0;
        for (uint32_t k = i; !done[i] && k < m->n_layers; k++)
            if (!done[k] && model_layers_same(&m->layers[i], &m->layers[k])) {
                n++;
                done[k] = k != i;
            }
        if (n)
            status = add_layers(e, row, &m->layers[i], n, n_tokens, out, &values, err);
    }
    free(done);
    for (int part = 0; part < ESTIMATE_PARTS; part++)
        out->total += out->parts[part];
    out->bits_per_value =
        8 * (out->total - out->parts[PART_RECURRENT] - out->parts[PART_INDEX]) / values;
    return status;
}

tkv_status estimate_longest(const struct estimator *e, const struct estimate_row *row,
                            double budget, uint32_t *n_tokens, tkv_error *err)
{
    /* In steps of STEP; `low` fits, `high` does not. Sizes are all but linear in the context, so
     * a line through both ends finds the place in a few steps. */
    int64_t low = 0, high = ESTIMATE_MAX_CTX / STEP, at = high;
    double low_bytes = 0, high_bytes = 0;
    for (bool first = true; high - low > 1; first = false) {
        struct estimate_bytes bytes;
        tkv_status status = estimate_bytes_of(e, row, (uint32_t)(at * STEP), &bytes, err);
        if (status != TKV_OK)
            return status;
        if (bytes.total <= budget) {
            low = at;
            low_bytes = bytes.total;
            if (first)
                break;
        } else { /* NaN too */
            high = at;
            high_bytes = bytes.total;
        }
        double share = (budget - low_bytes) / (high_bytes - low_bytes);
        int64_t guess = isfinite(share) ? low + (int64_t)(share * (double)(high - low)) : low;
        at = guess <= low ? low + 1 : guess >= high ? high - 1 : guess;
    }
    *n_tokens = (uint32_t)(low * STEP);
    return TKV_OK;
}
