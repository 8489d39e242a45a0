/* A function-preserving variant of a model with the keys that break weak codecs.
 *
 * Channels of K come out of the projection (or of the norm behind it) multiplied by 4, 8 or 16,
 * the same channels of Q divided by it: scores stay. Both channels of a rotary pair get the same
 * factor, so it commutes with the rotation. The slowest pairs of K get a large constant, the same
 * for every token: a term that is all but equal in every score of a query, which softmax cancels.
 */
#ifndef TKV_CLI_HARDEN_H
#define TKV_CLI_HARDEN_H

#include "llama_load.h"
#include "model_layers.h"
#include "stats.h"

/* ---- harden_scale.c: powers of two on stored weights ---------------------------------------- */

/* Can rows of this type be multiplied without coding them anew? */
bool harden_can_scale(enum ggml_type type);

/* Multiplies a row by 2^exponent through the scales of its blocks. Returns what the scales lost
 * to rounding, relative to their root mean square: 0 where nothing, infinite after an overflow. */
double harden_scale(const struct llama_api *api, enum ggml_type type, uint8_t *row, size_t n_bytes,
                    int exponent);

/* ---- harden_file.c: the model as it lies on disk -------------------------------------------- */

struct harden_file {
    const struct llama_api *api;
    const char *path;
    struct gguf_context *gguf;
    const uint8_t *map;
    size_t n_bytes, data_at;
    const char *arch;
};

/* Maps a model's file. CLI_OK, or CLI_DATA after a line on stderr. */
int harden_file_open(struct harden_file *f, const struct llama_api *api, const char *path);
void harden_file_close(struct harden_file *f);

/* Metadata of the architecture by the key's end, or `otherwise`. */
uint32_t harden_file_count(const struct harden_file *f, const char *suffix, uint32_t otherwise);
double harden_file_real(const struct harden_file *f, const char *suffix, double otherwise);
bool harden_file_has(const struct harden_file *f, const char *key);

/* A tensor of a layer by the end of its name; -1: the file has none. */
int64_t harden_file_tensor(const struct harden_file *f, uint32_t layer, const char *name);
const uint8_t *harden_file_data(const struct harden_file *f, int64_t tensor);

/* ---- harden_layer.c: where the channels of Q and K lie -------------------------------------- */

enum {
    HARDEN_MAX_EDITS = 8
};

/* Rows of a tensor that make the channels of Q or of K, head by head. */
struct harden_edit {
    int64_t tensor;
    enum ggml_type type;
    size_t row_bytes;
    uint64_t first_row;
    uint32_t n_heads; /* 1: one set of rows for all heads, the weights of a norm */
    bool key;
    bool bias; /* of K, so that constants can be added to it */
};

struct harden_layer {
    uint32_t n_heads; /* of K; 0: this layer is left as it is */
    uint32_t head_dim, n_rot;
    bool neox;          /* the channels of a pair are n_rot / 2 apart, not neighbours */
    const char *refuse; /* why it takes no constants; NULL: it does */
    struct harden_edit edits[HARDEN_MAX_EDITS];
    size_t n_edits;
    int8_t *exponents; /* [n_heads][head_dim]: K is multiplied by 2^e */
    float *constants;  /* [n_heads][head_dim]: added to K after that */
    char new_bias[64]; /* a tensor to be made for the constants; "": none */
    uint64_t new_rows, new_first_row;
};

/* Finds the tensors of a layer with a cache of its own. False: not as llama.cpp's Llama and Qwen
 * types have them, `err` says what. */
bool harden_layer_find(struct harden_layer *l, const struct harden_file *f, uint32_t index,
                       const struct model_layer *cache, tkv_error *err);

/* The two channels of a pair. Pairs go from fast to slow; channels without rotation come last. */
void harden_layer_pair(const struct harden_layer *l, uint32_t pair, uint32_t channels[2]);

/* ---- harden_plan.c: what is drawn ----------------------------------------------------------- */

struct harden_plan {
    struct harden_layer *layers;
    uint32_t n_layers, n_hardened, n_offset; /* layers in all, with factors, with constants */
    uint64_t n_pairs, n_scaled, n_weaker;    /* pairs: all, scaled, with less than was drawn */
    double largest_constant;
    const char *refuse; /* why the last layer without constants has none; NULL: all have */
};

/* What the model as a whole rules out; NULL: nothing. */
const char *harden_refusal(const struct harden_file *f, const struct model_layers *m);

/* Draws factors and constants. CLI_OK, or CLI_DATA after a line on stderr. */
int harden_plan_make(struct harden_plan *p, const struct harden_file *f,
                     const struct model_layers *m, enum llama_rope_type rope, uint64_t seed,
                     bool constants);
void harden_plan_free(struct harden_plan *p);

/* ---- harden_write.c ------------------------------------------------------------------------- */

/* Writes the variant; the context of `f` then describes it and no longer the model. */
int harden_write(struct harden_file *f, const struct harden_plan *p, uint64_t seed,
                 const char *path, cli_level level);

/* ---- harden_check.c ------------------------------------------------------------------------- */

/* Logits of a short text. */
struct harden_logits {
    size_t n_rows, n_vocab;
    float *rows;
    llama_token *ids; /* the text: a row is of what follows its token */
    enum llama_rope_type rope;
};

/* Runs a model on a built-in text, with stock llama.cpp's f16 cache. */
int harden_logits_of(struct harden_logits *out, struct cli_llama *l, const char *path,
                     int n_threads);
void harden_logits_free(struct harden_logits *logits);

struct harden_difference {
    double kld_mean, same_top1;
    double ppl_change; /* perplexity of the text over the reference's, less 1 */
    struct stats_interval ppl_change_ci;
};
struct harden_difference harden_compare(const struct harden_logits *reference,
                                        const struct harden_logits *other);

#endif
