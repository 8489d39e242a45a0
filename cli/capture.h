/* What each attention layer of a model sees: queries, keys, values, mask and output, as stock
 * llama.cpp computes them over f16 keys and values. */
#ifndef TKV_CLI_CAPTURE_H
#define TKV_CLI_CAPTURE_H

#include <stddef.h>
#include <stdint.h>

struct session;
struct session_tokens;

/* One layer in one batch. Pointers are llama.cpp's and hold during the call only; strides are in
 * bytes. Cells lie in the order of tokens, in layers with a sliding window too: token t of the
 * text is cell t, and cells past the batch hold nothing and are hidden by the mask. */
struct capture_layer {
    int layer; /* of the model, as llama.cpp counts; several may read one layer's cache */
    uint32_t n_q_heads, n_kv_heads, k_head_dim, v_head_dim; /* query head h reads KV head h / G */
    size_t first, n_q; /* the queries are those of tokens [first, first + n_q) */
    size_t n_cells;    /* columns of the mask; at least first + n_q */

    const float *q; /* [n_q][n_q_heads][k_head_dim], after RoPE */
    size_t q_token_stride, q_head_stride;
    const void *k, *v; /* f16 [n_cells][n_kv_heads][head_dim], heads of a token side by side */
    size_t k_token_stride, v_token_stride;
    const float *out; /* [n_q][n_q_heads][v_head_dim] */
    size_t out_token_stride, out_head_stride;
    const void *mask; /* f16 [n_q][n_cells], added to the logits: causal, and the window */
    size_t mask_stride;
    const float *sinks;             /* [n_q_heads] extra logits of the softmax; NULL: none */
    float scale, softcap, max_bias; /* as of ggml_flash_attn_ext(); 0: none */
};

struct ggml_tensor;
/* The layer whose cache a tensor is a view of, as in "cache_k_l7"; -1 when it is none. */
int capture_cache_layer(const struct ggml_tensor *t);

/* CLI_OK, or another exit code after a line on stderr: no more calls follow then. */
typedef int (*capture_fn)(void *user, const struct capture_layer *layer);

/* Runs the model over tokens in batches of s->n_ubatch and calls fn for every attention layer of
 * each batch, in the order of computation. Layers without keys and values of their own in an f16
 * cache (recurrent ones, and compressed caches that hold no values) are passed over. */
int capture_run(struct session *s, const struct session_tokens *tokens, capture_fn fn, void *user);

/* The same for tokens and embeddings one after the other; each piece is a batch of its own. */
struct capture_piece {
    const int32_t *ids; /* tokens, or NULL: */
    const float *rows;  /* [n][input size of the model] */
    size_t n;
};
int capture_pieces(struct session *s, const struct capture_piece *pieces, size_t n_pieces,
                   capture_fn fn, void *user);

#endif
