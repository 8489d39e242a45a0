/* The attention that a selection reads, by exact logits over rows as they were written. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "retrieve.h"
#include "stats.h"

/* Working memory for one query. */
struct work {
    float *q, *out;
    uint64_t *bits, *keys; /* [n_kv_heads][words] rows that are read, and of which only keys are */
    float *logits;         /* [group][n] */
    double *weights;       /* [group][n] */
    bool *candidate, *read;
};

struct sums {
    double n, rows, near, index, peer[PEER_COUNT];
    float *read; /* [n] shares of rows */
};

const double retrieve_quantiles[RETRIEVE_QUANTILES] = {0, .1, .5, .9, 1};

static void fill_logits(const struct retrieve_layer *l, const float *q, const float *k, size_t n,
                        struct work *w)
{
    const size_t stride = (size_t)l->n_kv_heads * l->head_dim;
    for (uint32_t g = 0; g < l->group; g++) {
        double most = -INFINITY, sum = 0;
        for (size_t j = 0; j < n; j++) {
            float dot = 0;
            for (uint32_t d = 0; d < l->head_dim; d++)
                dot += q[g * l->head_dim + d] * k[j * stride + d];
            w->logits[g * n + j] = dot * l->scale;
            most = fmax(most, (double)(dot * l->scale));
        }
        for (size_t j = 0; j < n; j++)
            sum += w->weights[g * n + j] = exp((double)w->logits[g * n + j] - most);
        for (size_t j = 0; j < n; j++)
            w->weights[g * n + j] /= sum;
    }
}

/* Mean over the group. */
static double mass_of(const struct work *w, const bool *read, bool wanted, size_t n, uint32_t group)
{
    double sum = 0;
    for (uint32_t g = 0; g < group; g++)
        for (size_t j = 0; j < n; j++)
            sum += read[j] == wanted ? w->weights[g * n + j] : 0;
    return sum / group;
}

/* Rows that may be left out: what the library reads with keep=0 is read in any case. */
static bool is_candidate(const tkv_spec *spec, int32_t pos, size_t j)
{
    const uint32_t window = spec->tail > 64 ? spec->tail : 64;
    return j >= spec->sink && (size_t)pos - j >= window;
}

static void add_head(const struct retrieve_cache *c, const struct retrieve_layer *l, uint32_t head,
                     int32_t pos, struct work *w, struct sums *sums)
{
    const size_t n = (size_t)pos + 1;
    const float *k = l->k + (size_t)head * l->head_dim;
    const float *q = w->q + (size_t)head * l->group * l->head_dim;
    const size_t words = (n + 63) / 64;
    const uint64_t *bits = w->bits + head * words, *keys = w->keys + head * words;
    size_t n_picked = 0, n_keys = 0;
    fill_logits(l, q, k, n, w);
    for (size_t j = 0; j < n; j++) {
        w->candidate[j] = is_candidate(&c->spec, pos, j);
        w->read[j] = bits[j / 64] >> j % 64 & 1;
        n_picked += w->read[j] && w->candidate[j];
        n_keys += keys[j / 64] >> j % 64 & 1;
    }
    const size_t n_rows = n_picked + n_keys / 2; /* a key is half a row */
    sums->read = cli_grow(sums->read, (size_t)sums->n + 1, sizeof(*sums->read));
    sums->read[(size_t)sums->n] = (float)n_rows / (float)n;
    sums->n += 1;
    sums->rows += (double)n_rows / (double)n;
    sums->near += mass_of(w, w->candidate, false, n, l->group);
    sums->index += mass_of(w, w->read, true, n, l->group);
    const struct retrieve_case one = {
        .n = n,
        .group = l->group,
        .head_dim = l->head_dim,
        .q = q,
        .k = k,
        .stride = (size_t)l->n_kv_heads * l->head_dim,
        .logits = w->logits,
        .candidate = w->candidate,
        .budget = n_rows,
    };
    for (int peer = 0; peer < PEER_COUNT; peer++) {
        retrieve_peer_pick((enum retrieve_peer)peer, &one, w->read);
        sums->peer[peer] += mass_of(w, w->read, true, n, l->group);
    }
}

static int add_query(const struct retrieve_cache *c, const struct retrieve_rows *rows,
                     size_t i_layer, size_t i, struct work *w, struct sums *sums)
{
    const struct retrieve_layer *l = &rows->layers[i_layer];
    int32_t pos;
    tkv_error err;
    tkv_attend_params p = retrieve_call(c, rows, i_layer, i, &pos, w->q, w->out);
    p.flags = TKV_ATTEND_SELECT;
    if (tkv_attend_select(c->cache, &p, w->bits, w->keys, &err) != TKV_OK)
        return cli_fail("selecting: %s", err.text);
    for (uint32_t head = 0; head < l->n_kv_heads; head++)
        add_head(c, l, head, pos, w, sums);
    return CLI_OK;
}

int retrieve_measure_mass(const struct retrieve_cache *c, const struct retrieve_rows *rows,
                          struct cli_progress *progress, struct retrieve_mass *out)
{
    struct sums s = {0};
    int rc = CLI_OK;
    for (size_t i_layer = 0; i_layer < c->n_layers && rc == CLI_OK; i_layer++) {
        const struct retrieve_layer *l = &rows->layers[i_layer];
        const size_t n_q = (size_t)l->n_kv_heads * l->group * l->head_dim, n = c->n_tokens;
        struct work w = {
            .q = cli_alloc(n_q, sizeof(float)),
            .out = cli_alloc(n_q, sizeof(float)),
            .bits = cli_alloc(l->n_kv_heads * (n / 64 + 1), sizeof(uint64_t)),
            .keys = cli_alloc(l->n_kv_heads * (n / 64 + 1), sizeof(uint64_t)),
            .logits = cli_alloc(l->group * n, sizeof(float)),
            .weights = cli_alloc(l->group * n, sizeof(double)),
            .candidate = cli_alloc(n, sizeof(bool)),
            .read = cli_alloc(n, sizeof(bool)),
        };
        for (size_t i = 0; i < RETRIEVE_QUERIES && rc == CLI_OK; i++)
            rc = add_query(c, rows, i_layer, i, &w, &s);
        free(w.q), free(w.out), free(w.bits), free(w.keys), free(w.logits), free(w.weights);
        free(w.candidate), free(w.read);
        cli_progress_step(progress, 1.0 / (double)c->n_layers, NULL);
    }
    *out = (struct retrieve_mass){
        .read_fraction = s.rows / s.n, .near = s.near / s.n, .index = s.index / s.n};
    for (int i = 0; i < RETRIEVE_QUANTILES; i++)
        out->read[i] = stats_quantile(s.read, (size_t)s.n, retrieve_quantiles[i]);
    free(s.read);
    for (int peer = 0; peer < PEER_COUNT; peer++)
        out->peer[peer] = s.peer[peer] / s.n;
    return rc;
}
