/* Rows to retrieve from: what a model's attention layers hold after a text, and as long a cache as is
 * wanted, made of pieces of that. */
#ifndef TKV_CLI_RETRIEVE_ROWS_H
#define TKV_CLI_RETRIEVE_ROWS_H

#include "graph_rope.h"
#include "session.h"

enum {
    RETRIEVE_QUERIES = 32 /* the last tokens of the text ask */
};

struct retrieve_layer {
    int layer; /* of the model */
    uint32_t n_kv_heads, group, head_dim;
    float scale;
    struct graph_rope rope;
    float *k, *v; /* [n_tokens][n_kv_heads][head_dim], keys after RoPE; token t at position t */
    float *q;     /* [RETRIEVE_QUERIES][n_kv_heads * group][head_dim], of the last tokens */
};

struct retrieve_rows {
    struct retrieve_layer *layers; /* those with keys and values of one head size */
    size_t n_layers;
    size_t n_tokens;
};

/* Runs the model over a window. CLI_OK, or another exit code after a line on stderr. */
int retrieve_rows_capture(struct session *s, const struct session_tokens *window,
                          struct retrieve_rows *out);
void retrieve_rows_free(struct retrieve_rows *r);

/* Rows [first, first + n) of a cache of `total` tokens. The last tokens of the text are the last ones
 * here; before them come pieces from anywhere, turned to where they stand, each value moved by a
 * tenth of its row's size so that no two rows are the same. */
void retrieve_rows_make(const struct retrieve_rows *r, const struct retrieve_layer *l, size_t total,
                        size_t first, size_t n, float *k, float *v);

/* A query as if it stood behind a cache of `total` tokens. */
void retrieve_rows_query(const struct retrieve_rows *r, const struct retrieve_layer *l,
                         size_t total, size_t i, float *q);

#endif
