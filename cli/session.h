/* A model in llama.cpp and contexts on it, each with a cache of its own kind. */
#ifndef TKV_CLI_SESSION_H
#define TKV_CLI_SESSION_H

#include <signal.h>

#include "llama_load.h"

enum {
    SESSION_UBATCH = 512
};

struct session {
    struct cli_llama *llama;
    struct llama_model *model;
    const struct llama_vocab *vocab;
    const char *path;
    size_t n_vocab;
    uint32_t n_ctx_train;
    int n_threads;
    uint32_t n_ubatch;
    /* Where set, sees the nodes that contexts made from now on compute. Their layers with a
     * sliding window then keep every cell, in order. */
    ggml_backend_sched_eval_callback watch;
    void *watch_user;
    const volatile sig_atomic_t *stop; /* not 0: decoding gives up with CLI_STOPPED; may be NULL */
    double decode_seconds;             /* spent inside llama.cpp, from the start on */
};

/* A kind of cache: coded by the plug-in, or stock llama.cpp on the CPU. */
struct session_cache {
    const char *spec;    /* NULL: stock */
    enum ggml_type type; /* stock: of keys and values */
};

struct session_tokens {
    llama_token *ids; /* freed with free() */
    size_t n;
};

/* ---- stop.c: the first Ctrl-C or SIGTERM ends a run in good order, a second one the program ---- */

/* Sets `stop`. */
void session_catch_signals(struct session *s);
bool session_stopped(const struct session *s);

/* ---- session.c ---- */

/* Loads a model; coded caches need l->reg. CLI_OK, or CLI_DATA after a line on stderr. */
int session_open(struct session *s, struct cli_llama *l, const char *path, int n_threads);
void session_close(struct session *s);

/* A context for n_ctx tokens of one sequence; NULL after a line on stderr. Freed with
 * session_free(). */
struct llama_context *session_context(struct session *s, const struct session_cache *cache,
                                      size_t n_ctx);
void session_free(struct session *s, struct llama_context *ctx);

/* Decodes tokens after those in the context. Where `fn` is not NULL every token gives a row of
 * n_vocab logits: fn(user, logits, i, n) is called with those of tokens [i, i + n). */
typedef void (*session_logits_fn)(void *user, const float *logits, size_t i, size_t n);
int session_decode(struct session *s, struct llama_context *ctx, const llama_token *ids, size_t n,
                   session_logits_fn fn, void *user);

/* Decodes tokens and gives the last one's logits in `logits` (of llama.cpp, valid until the next
 * decode). */
int session_decode_last(struct session *s, struct llama_context *ctx, const llama_token *ids,
                        size_t n, const float **logits);

/* Decodes n embeddings, of the model's input size, after what is in the context: a picture's, as
 * libmtmd feeds them. */
int session_decode_embeddings(struct session *s, struct llama_context *ctx, const float *rows,
                              size_t n);

/* CLI_OK when the model can read a text; else CLI_DATA after a line on stderr. */
int session_check_tokenizer(const struct session *s);

/* Tokens of a text, BOS first when asked and the model wants it. */
int session_tokenize(struct session *s, const char *text, size_t n_bytes, bool bos,
                     struct session_tokens *out);

/* Writes a token's text to `f`. */
void session_print_token(struct session *s, llama_token id, FILE *f);

/* The state of the context's sequence, as llama.cpp saves it; freed with free(). */
struct session_state {
    uint8_t *data;
    size_t n_bytes;
};
int session_save(struct session *s, struct llama_context *ctx, struct session_state *state);
int session_restore(struct session *s, struct llama_context *ctx,
                    const struct session_state *state);

/* Index of the largest of n values, the first among equals. */
size_t session_argmax(const float *values, size_t n);

/* Bits a value that a stock type takes. */
double session_type_bits(const struct session *s, enum ggml_type type);

/* Of these, those of codes; the others are scales. */
double session_type_code_bits(enum ggml_type type);

/* A stock cache type by ggml's name ("q8_0"); false when ggml has none that a cache can have. */
bool session_find_type(const struct cli_llama *l, const char *name, enum ggml_type *type);

#endif
