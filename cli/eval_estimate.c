/* How long an evaluation will take: a few tokens through every cache before it starts.
 *
 * A token costs the same everywhere but for attention, which grows with its depth: time per
 * token is a line in the depth. Two runs of batches, one behind the other, give the line, and a
 * few single tokens behind them the price of decoding one by one. The fastest batch of a run
 * counts: others may have had to share the processors. */
#include <math.h>
#include <stdlib.h>

#include "eval.h"

enum {
    MIN_TOKENS = 8192, /* less is done soon */
    SHARE = 16,        /* of all tokens, at most */
    MAX_PROBE = 1024,
    N_STEPS = 2,
    N_SINGLE = 2
};

struct eval_cost {
    double batched; /* seconds a token at depth 0, in batches */
    double single;  /* one at a time */
    double deeper;  /* more for every token of depth */
};

/* Seconds a token of the fastest of n_steps batches of n_step tokens. */
static int timed(struct eval *e, struct llama_context *ctx, const llama_token *ids, size_t n_steps,
                 size_t n_step, double *seconds)
{
    int rc = CLI_OK;
    *seconds = INFINITY;
    for (size_t i = 0; i < n_steps && rc == CLI_OK; i++) {
        double before = e->session->decode_seconds;
        rc = session_decode(e->session, ctx, ids + i * n_step, n_step, NULL, NULL);
        *seconds = fmin(*seconds, (e->session->decode_seconds - before) / (double)n_step);
    }
    return rc;
}

/* `ids` are 2 * N_STEPS * n_step + N_SINGLE. */
static int probe(struct eval *e, const struct eval_row *row, const llama_token *ids, size_t n_step,
                 struct eval_cost *cost)
{
    size_t n_half = N_STEPS * n_step;
    double shallow, deep, single;
    struct llama_context *ctx = eval_context(e, row, 2 * n_half + N_SINGLE);
    int rc = ctx ? timed(e, ctx, ids, N_STEPS, n_step, &shallow) : CLI_DATA;
    if (rc == CLI_OK)
        rc = timed(e, ctx, ids + n_half, N_STEPS, n_step, &deep);
    if (rc == CLI_OK)
        rc = timed(e, ctx, ids + 2 * n_half, N_SINGLE, 1, &single);
    session_free(e->session, ctx);
    if (rc != CLI_OK)
        return rc;
    double half = (double)n_half;
    cost->deeper = deep > shallow ? (deep - shallow) / half : 0;
    cost->batched = fmax(shallow - cost->deeper * half / 2, 0);
    cost->single = fmax(single - cost->deeper * 2 * half, 0);
    return CLI_OK;
}

double eval_seconds(const struct eval *e, size_t row, struct eval_work work)
{
    const struct eval_cost *cost = &e->costs[row];
    double n = (double)work.n_batched, n_single = (double)work.n_single;
    return n * (cost->batched + cost->deeper * n / 2) +
           n_single * (cost->single + cost->deeper * (n + n_single / 2));
}

static size_t tokens_of(const struct eval_part *part, size_t unit)
{
    struct eval_work work = part->ops->work(part, unit);
    return work.n_batched + work.n_single;
}

size_t eval_longest(const struct eval *e)
{
    size_t longest = 0;
    for (size_t i = 0; i < e->n_parts; i++)
        for (size_t unit = 0; unit < e->parts[i].n_units; unit++) {
            size_t n = tokens_of(&e->parts[i], unit);
            longest = n > longest ? n : longest;
        }
    return longest;
}

static double all_tokens(const struct eval *e)
{
    double n = 0;
    for (size_t i = 0; i < e->n_parts; i++)
        for (size_t unit = 0; unit < e->parts[i].n_units; unit++)
            n += (double)tokens_of(&e->parts[i], unit);
    return n;
}

int eval_estimate(struct eval *e)
{
    double total = all_tokens(e);
    size_t n_probe = eval_longest(e) / 2;
    if ((double)n_probe > total / SHARE)
        n_probe = (size_t)(total / SHARE);
    if (n_probe > MAX_PROBE)
        n_probe = MAX_PROBE;
    if (total < MIN_TOKENS || n_probe < 2 * N_STEPS)
        return CLI_OK;
    llama_token *ids = cli_alloc(n_probe + N_SINGLE, sizeof(*ids));
    for (size_t i = 0; i < n_probe + N_SINGLE; i++)
        ids[i] = (llama_token)(i * 7 % e->session->n_vocab);
    e->costs = cli_alloc(1 + e->n_rows, sizeof(*e->costs));
    struct eval_cost cold; /* the weights come from the disk once */
    int rc = probe(e, NULL, ids, 1, &cold);
    if (rc == CLI_OK)
        rc = probe(e, NULL, ids, n_probe / (2 * N_STEPS), &e->costs[0]);
    for (size_t i = 0; i < e->n_rows && rc == CLI_OK; i++) {
        rc = probe(e, &e->rows[i], ids, n_probe / (2 * N_STEPS), &e->costs[1 + i]);
        rc = eval_row_failed(&e->rows[i], rc);
    }
    free(ids);
    return rc;
}
