/* Prefill and decode speed of a context at a depth. */
#ifndef TKV_CLI_SPEED_H
#define TKV_CLI_SPEED_H

#include "session.h"

enum { SPEED_PREFILL = 512 };

/* A depth to measure at: what the context is brought back to before each measurement. */
struct speed_depth {
    size_t n_tokens;
    struct session_state state; /* unused when n_tokens is 0 */
};

/* Tokens without meaning, the same every time: speed does not depend on them. Freed with free(). */
llama_token *speed_tokens(const struct session *s, size_t n);

/* Tokens a second of n tokens in batches, and of n tokens one by one (the median step), at this
 * depth. */
int speed_prefill(struct session *s, struct llama_context *ctx, const struct speed_depth *depth,
                  const llama_token *ids, size_t n, double *tok_s);
int speed_decode(struct session *s, struct llama_context *ctx, const struct speed_depth *depth,
                 const llama_token *ids, size_t n, double *tok_s);

#endif
