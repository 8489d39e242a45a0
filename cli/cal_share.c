/* How the retrieval index shares out what is read among the heads: a few look for single rows that
 * codes hide and exact keys show, most hardly notice what they miss. The model reads a text once more
 * to tell which is which. */
#include <stdlib.h>
#include <string.h>

#include "share_costs.h"

/* Of a context, over all heads. */
static const double budget = .06;

/* ---- a layer ---------------------------------------------------------------------------------- */

struct sharing {
    const struct calibration *c;
    const struct cal_book *book;
    struct share_costs *costs; /* all layers' heads one after the other */
    bool *known;               /* of a layer */
};

static size_t first_head(const struct calibration *c, size_t layer)
{
    size_t n = 0;
    for (size_t i = 0; i < layer; i++)
        n += c->layers[i].n_kv_heads;
    return n;
}

static int on_layer(void *user, const struct capture_layer *c)
{
    const struct sharing *s = user;
    size_t i = 0;
    while (i < s->c->n_layers && s->c->layers[i].layer != c->layer)
        i++;
    if (i < s->c->n_layers && !s->known[i])
        s->known[i] =
            share_costs_add(s->c, s->book, &s->c->layers[i], c, s->costs + first_head(s->c, i));
    return cal_stopped(s->c);
}

/* ---- sharing out ------------------------------------------------------------------------------ */

/* What a head reads. */
struct reading {
    int keys, values; /* levels */
};

static double read_by(struct reading r)
{
    return (share_keys[r.keys] + share_values[r.values]) / 2;
}

/* The step up by one head that saves most for what it reads, within `left`. */
static bool best_step(const struct share_costs *costs, const struct reading *at, size_t n,
                      double left, size_t *head, struct reading *to)
{
    double best = 0;
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < SHARE_KEYS; k++)
            for (int v = 0; v < SHARE_VALUES && share_values[v] <= share_keys[k]; v++) {
                const struct reading other = {k, v};
                const double more = read_by(other) - read_by(at[i]);
                const double less = costs[i].of[at[i].keys][at[i].values] - costs[i].of[k][v];
                if (more <= 0 || more > left || less <= best * more)
                    continue;
                best = less / more;
                *head = i;
                *to = other;
            }
    return best > 0;
}

/* The mean is the budget at most. */
static void share_out(const struct share_costs *costs, size_t n, struct reading *at)
{
    size_t head = 0;
    struct reading to = {0};
    memset(at, 0, n * sizeof(*at));
    double left = n > 0 ? (budget - read_by(at[0])) * (double)n : 0;
    while (best_step(costs, at, n, left, &head, &to)) {
        left -= read_by(to) - read_by(at[head]);
        at[head] = to;
    }
}

static void add_shares(const struct sharing *s, struct cal_book *book)
{
    const size_t n = first_head(s->c, s->c->n_layers);
    struct reading *at = cli_alloc(n, sizeof(*at));
    float(*shares)[2] = cli_alloc(n, sizeof(*shares));
    share_out(s->costs, n, at);
    for (size_t i = 0; i < n; i++) {
        shares[i][TKV_K] = (float)(share_keys[at[i].keys] / budget);
        shares[i][TKV_V] = (float)(share_values[at[i].values] / budget);
    }
    for (size_t i = 0; i < s->c->n_layers; i++)
        if (s->known[i])
            cal_book_add(book, GGML_TYPE_F32, (int64_t[]){2, 1, s->c->layers[i].n_kv_heads},
                         shares[first_head(s->c, i)], "qvq.blk.%d.share", s->c->layers[i].layer);
    free(at), free(shares);
}

int cal_share(const struct calibration *c, struct cal_book *book)
{
    const size_t n_heads = first_head(c, c->n_layers);
    if (c->aside.n < CAL_LEAST_ASIDE)
        return CLI_OK;
    struct sharing s = {.c = c,
                        .book = book,
                        .costs = cli_alloc(n_heads, sizeof(*s.costs)),
                        .known = cli_alloc(c->n_layers, sizeof(*s.known))};
    struct session whole = *c->session; /* every layer comes once, with all queries */
    whole.n_ubatch = (uint32_t)c->aside.n;
    const int rc = capture_run(&whole, &c->aside, on_layer, &s);
    if (rc == CLI_OK)
        add_shares(&s, book);
    free(s.costs), free(s.known);
    return rc;
}
