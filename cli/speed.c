/* Prefill and decode speed of a context at a depth. */
#include "speed.h"

#include <stdlib.h>

#include "bench_tools.h"

llama_token *speed_tokens(const struct session *s, size_t n)
{
    llama_token *ids = cli_alloc(n, sizeof(*ids));
    uint64_t x = 1;
    for (size_t i = 0; i < n; i++) {
        x = x * 6364136223846793005U + 1442695040888963407U;
        ids[i] = (llama_token)((x >> 33) % s->n_vocab);
    }
    return ids;
}

/* Brings the context to the depth. One token is decoded on it, so that what a restore puts off
 * is done before the clock starts; `keep` leaves that token in. */
static int go_to(struct session *s, struct llama_context *ctx, const struct speed_depth *depth,
                 llama_token warm, bool keep)
{
    const struct llama_api *api = &s->llama->api;
    int rc = CLI_OK;
    if (depth->n_tokens > 0)
        rc = session_restore(s, ctx, &depth->state);
    else
        api->llama_memory_clear(api->llama_get_memory(ctx), true);
    if (rc == CLI_OK)
        rc = session_decode(s, ctx, &warm, 1, NULL, NULL);
    if (rc == CLI_OK && !keep &&
        !api->llama_memory_seq_rm(api->llama_get_memory(ctx), 0, (llama_pos)depth->n_tokens, -1))
        rc = cli_fail("%s cannot forget a token; its speed is not measured", s->path);
    api->llama_synchronize(ctx);
    return rc;
}

int speed_prefill(struct session *s, struct llama_context *ctx, const struct speed_depth *depth,
                  const llama_token *ids, size_t n, double *tok_s)
{
    int rc = go_to(s, ctx, depth, ids[0], false);
    if (rc != CLI_OK)
        return rc;
    double start = cli_now();
    rc = session_decode(s, ctx, ids, n, NULL, NULL);
    s->llama->api.llama_synchronize(ctx);
    *tok_s = (double)n / (cli_now() - start);
    return rc;
}

int speed_decode(struct session *s, struct llama_context *ctx, const struct speed_depth *depth,
                 const llama_token *ids, size_t n, double *tok_s)
{
    int rc = go_to(s, ctx, depth, ids[0], true);
    double *seconds = cli_alloc(n, sizeof(*seconds));
    for (size_t i = 0; i < n && rc == CLI_OK; i++) {
        const float *logits;
        double start = cli_now();
        rc = session_decode_last(s, ctx, ids + i, 1, &logits);
        seconds[i] = cli_now() - start;
    }
    if (rc == CLI_OK)
        *tok_s = 1 / bench_median(seconds, n);
    free(seconds);
    return rc;
}
