/* Which rows others would read, at as many rows as the index: for comparison, from exact logits. */
#ifndef TKV_CLI_RETRIEVE_PEERS_H
#define TKV_CLI_RETRIEVE_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum retrieve_peer {
    PEER_EXACT,  /* the rows of the highest logits: no index does better */
    PEER_PAGES,  /* Quest: channel-wise least and largest key of 16 rows bound their logits */
    PEER_NORMS,  /* keys of the least norm draw most attention (2406.11430) */
    PEER_RECENT, /* StreamingLLM: sinks, and a longer window */
    PEER_RANDOM,
    PEER_COUNT
};

/* Name, and what it keeps of a key, in bits. */
const char *retrieve_peer_name(enum retrieve_peer peer);
double retrieve_peer_bits(enum retrieve_peer peer, uint32_t head_dim);

/* One query of one KV head. */
struct retrieve_case {
    size_t n; /* rows it sees */
    uint32_t group, head_dim;
    const float *q; /* [group][head_dim] */
    const float *k; /* rows of head_dim, `stride` floats apart */
    size_t stride;
    const float *logits;   /* [group][n] */
    const bool *candidate; /* [n]: the others are read in any case */
    size_t budget;         /* candidates to read, for the group together */
};

/* Sets read[n]: what is read, as many candidates as the budget has. */
void retrieve_peer_pick(enum retrieve_peer peer, const struct retrieve_case *c, bool *read);

#endif
