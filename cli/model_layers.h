/* What the header of a GGUF file says about a model's cache: one entry a layer.
 *
 * The rules are those by which llama.cpp v0.5.0 lays out its caches (its llama-hparams and the
 * files under src/models); where an architecture fixes something in code and not in the file,
 * arch_rules in model_layers.c repeats it. */
#ifndef TKV_CLI_MODEL_LAYERS_H
#define TKV_CLI_MODEL_LAYERS_H

#include <stdbool.h>
#include <stdint.h>

#include <tightkv/tightkv.h>

struct llama_api;

enum layer_kind {
    LAYER_FULL,      /* attention over the whole context */
    LAYER_WINDOW,    /* attention over a sliding window, kept in a ring of cells */
    LAYER_MLA,       /* one latent row a token, from which keys and values are made */
    LAYER_RECURRENT, /* a state of fixed size */
    LAYER_NONE,      /* reads another layer's cache, or has no attention */
    LAYER_KINDS
};

struct model_layer {
    enum layer_kind kind;
    bool windowed; /* rows in a ring of the window's size; MLA layers may be too */
    uint32_t n_kv_heads;
    uint32_t k_head_dim;
    uint32_t v_head_dim; /* 0: no values of their own (MLA) */
    uint32_t index_dim;  /* of the keys by which sparse attention chooses rows, one head; 0: none */
    uint64_t state_bytes; /* f32 state for one sequence; hybrid layers have attention too */
};

struct model_layers {
    char arch[64];
    char note[160];       /* what these figures leave out; empty: nothing */
    uint32_t window;      /* tokens of the sliding window, 0: none */
    uint32_t trained_ctx; /* tokens that the model was trained for, 0: the header does not say */
    uint32_t n_layers;
    uint32_t n_shared; /* of them, last ones that read the caches of others */
    uint32_t n_files;  /* that the weights are split into; this is one of them */
    struct model_layer *layers;
};

/* "full attention", ... for tables. */
const char *layer_kind_name(enum layer_kind kind);

/* Reads the header of a GGUF file. Nothing of the tensors is read, but the file must be long
 * enough to hold them. On failure `out` is empty and `err` holds one line. The caller frees with
 * model_layers_free(). */
bool model_layers_read(const struct llama_api *api, const char *path, struct model_layers *out,
                       tkv_error *err);

void model_layers_free(struct model_layers *m);

/* Same kind, heads, sizes and state? */
bool model_layers_same(const struct model_layer *a, const struct model_layer *b);

/* Cells that llama.cpp gives a layer for one sequence of `ctx` tokens, at its default micro-
 * batch of 512. */
uint32_t model_layer_cells(const struct model_layers *m, const struct model_layer *layer,
                           uint32_t ctx);

#endif
