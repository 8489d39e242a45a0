/* Cache bytes of a model, stock and coded, at any context; and the context that a memory holds. */
#ifndef TKV_CLI_ESTIMATE_H
#define TKV_CLI_ESTIMATE_H

#include "llama_load.h"
#include "model_layers.h"

enum estimate_part {
    PART_FULL,
    PART_WINDOW,
    PART_MLA,
    PART_INDEX, /* keys by which sparse attention chooses rows */
    PART_RECURRENT,
    ESTIMATE_PARTS
};

enum {
    ESTIMATE_MAX_CTX = 1 << 26
};

/* A kind of cache. */
struct estimate_row {
    char *name; /* "stock:f16", or a spec as given */
    tkv_spec spec;
    enum ggml_type stock; /* GGML_TYPE_COUNT: a coded cache */
};

/* NaN where the type does not fit the head size. */
struct estimate_bytes {
    double parts[ESTIMATE_PARTS];
    double total;
    double bits_per_value; /* of keys and values */
};

/* What the sums are made with. */
struct estimator {
    const struct llama_api *api;
    const struct model_layers *model;
    tkv_context *ctx;
};

/* Bytes when a context of `n_tokens` of one sequence is full. */
tkv_status estimate_bytes_of(const struct estimator *e, const struct estimate_row *row,
                             uint32_t n_tokens, struct estimate_bytes *out, tkv_error *err);

/* The longest context, in steps of 256 tokens, whose cache takes at most `budget` bytes: 0 where
 * none does, ESTIMATE_MAX_CTX where all do. */
tkv_status estimate_longest(const struct estimator *e, const struct estimate_row *row,
                            double budget, uint32_t *n_tokens, tkv_error *err);

#endif
