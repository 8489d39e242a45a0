#include "retrieve_peers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum {
    QUEST_ROWS = 16
};

const char *retrieve_peer_name(enum retrieve_peer peer)
{
    static const char *const names[PEER_COUNT] = {"exact top-K", "page bounds", "key norms",
                                                  "recent", "random"};
    return names[peer];
}

double retrieve_peer_bits(enum retrieve_peer peer, uint32_t head_dim)
{
    switch (peer) {
    case PEER_EXACT:
        return 16.0 * head_dim;
    case PEER_PAGES:
        return 2 * 16.0 * head_dim / QUEST_ROWS;
    case PEER_NORMS:
        return 16;
    default:
        return 0;
    }
}

struct scored {
    float score;
    uint32_t row;
};

static int best_first(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score) - (x->score > y->score)
                                : (x->row > y->row) - (x->row < y->row);
}

/* Reads the candidates of the highest scores. */
static void read_best(const struct retrieve_case *c, struct scored *order, bool *read)
{
    qsort(order, c->n, sizeof(*order), best_first);
    size_t left = c->budget;
    for (size_t i = 0; i < c->n && left > 0; i++)
        if (c->candidate[order[i].row]) {
            read[order[i].row] = true;
            left--;
        }
}

/* Each row's place in the order of the head that likes it best, negated. scores: [group][n] */
static void best_places(const struct retrieve_case *c, const float *scores, struct scored *out)
{
    struct scored *order = cli_alloc(c->n, sizeof(*order));
    for (size_t i = 0; i < c->n; i++)
        out[i] = (struct scored){-INFINITY, (uint32_t)i};
    for (uint32_t g = 0; g < c->group; g++) {
        for (size_t i = 0; i < c->n; i++)
            order[i] =
                (struct scored){c->candidate[i] ? scores[g * c->n + i] : -INFINITY, (uint32_t)i};
        qsort(order, c->n, sizeof(*order), best_first);
        for (size_t i = 0; i < c->n; i++)
            out[order[i].row].score = fmaxf(out[order[i].row].score, -(float)i);
    }
    free(order);
}

/* An upper bound of a query's logits over a page, for each of its rows. */
static void page_bounds(const struct retrieve_case *c, float *scores)
{
    const uint32_t D = c->head_dim;
    float *low = cli_alloc(D, sizeof(*low)), *high = cli_alloc(D, sizeof(*high));
    for (size_t first = 0; first < c->n; first += QUEST_ROWS) {
        const size_t end = first + QUEST_ROWS < c->n ? first + QUEST_ROWS : c->n;
        memcpy(low, c->k + first * c->stride, D * sizeof(*low));
        memcpy(high, low, D * sizeof(*low));
        for (size_t i = first + 1; i < end; i++)
            for (uint32_t d = 0; d < D; d++) {
                low[d] = fminf(low[d], c->k[i * c->stride + d]);
                high[d] = fmaxf(high[d], c->k[i * c->stride + d]);
            }
        for (uint32_t g = 0; g < c->group; g++) {
            float sum = 0;
            for (uint32_t d = 0; d < D; d++)
                sum += fmaxf(c->q[g * D + d] * low[d], c->q[g * D + d] * high[d]);
            for (size_t i = first; i < end; i++)
                scores[g * c->n + i] = sum;
        }
    }
    free(low), free(high);
}

static float score_alone(enum retrieve_peer peer, const struct retrieve_case *c, size_t i)
{
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    double square = 0;
    switch (peer) {
    case PEER_NORMS:
        for (uint32_t d = 0; d < c->head_dim; d++)
            square += (double)c->k[i * c->stride + d] * (double)c->k[i * c->stride + d];
        return -(float)square;
    case PEER_RECENT:
        return (float)i;
    default:
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        return (float)(z >> 40);
    }
}

void retrieve_peer_pick(enum retrieve_peer peer, const struct retrieve_case *c, bool *read)
{
    struct scored *order = cli_alloc(c->n, sizeof(*order));
    float *scores = peer == PEER_PAGES ? cli_alloc(c->group * c->n, sizeof(*scores)) : NULL;
    if (peer == PEER_PAGES)
        page_bounds(c, scores);
    if (peer == PEER_EXACT || peer == PEER_PAGES)
        best_places(c, scores ? scores : c->logits, order);
    for (size_t i = 0; i < c->n; i++) {
        read[i] = !c->candidate[i];
        if (peer != PEER_EXACT && peer != PEER_PAGES)
            order[i] = (struct scored){score_alone(peer, c, i), (uint32_t)i};
    }
    read_best(c, order, read);
    free(order), free(scores);
}
