/* What a spec does to one attention layer: errors of its keys, its values and its output on the
 * model's own queries. */
#ifndef TKV_CLI_LAYER_ERROR_H
#define TKV_CLI_LAYER_ERROR_H

#include <tightkv/tightkv.h>

#include "capture.h"

/* Relative squared errors, |x - x^|^2 / |x|^2; NaN where nothing was coded. */
struct head_error {
    double k, v, out;
};

struct layer_error {
    struct head_error all;
    uint32_t n_heads;
    struct head_error *heads; /* [n_heads] KV heads, owned */
};

/* A layer's exact rows and outputs, with which caches of any spec are compared. */
struct layer_probe {
    tkv_context *ctx;
    const struct capture_layer *layer;         /* borrowed */
    float *slopes;                             /* [n_q_heads] ALiBi; NULL: none */
    float *k, *v;                              /* [n_q][n_kv_heads][head_dim], the rows in f32 */
    size_t first_query, query_step, n_queries; /* the sampled ones */
    float *out;                                /* [n_queries][n_q_heads][v_head_dim] */
};

/* Prepares to measure a layer that was captured whole, from token 0 on in one batch. Queries are
 * sampled from the second half. TKV_ERR_UNSUPPORTED for a layer whose attention is not what
 * llama.cpp computed: it does more than the library knows of. */
tkv_status layer_probe_open(tkv_context *ctx, const struct capture_layer *layer,
                            struct layer_probe *out, tkv_error *err);

/* Sends the layer through a cache of this spec, as strictly as it says. */
tkv_status layer_probe_measure(const struct layer_probe *probe, const tkv_spec *spec,
                               struct layer_error *out, tkv_error *err);

void layer_probe_close(struct layer_probe *probe);
void layer_error_free(struct layer_error *error);

#endif
