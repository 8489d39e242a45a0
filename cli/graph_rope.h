/* RoPE as a graph of ggml's says it: what turns a pair of values of a key, and how fast.
 *
 * Every kind that llama.cpp has comes down to one number a pair: factors, linear scaling and YaRN
 * only change how far a pair turns from one position to the next. (YaRN also makes keys longer; a
 * turn back leaves that as it is.) M-RoPE has several positions a row and takes one of them for each
 * pair. */
#ifndef TKV_CLI_GRAPH_ROPE_H
#define TKV_CLI_GRAPH_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#include "tightkv/tightkv.h"
#include <ggml.h>

struct graph_rope {
    uint32_t n_pairs;                  /* 0: keys are not turned */
    bool halves;                       /* pair i is values (i, i + n_pairs), not (2 i, 2 i + 1) */
    float freq[TKV_MAX_HEAD_DIM / 2];  /* radians a position */
    int8_t axis[TKV_MAX_HEAD_DIM / 2]; /* whose position: 0 time, 1 height, 2 width */
};

/* The ROPE node that rows were made by, if nothing behind it moves values within a row; NULL:
 * none. */
const struct ggml_tensor *graph_rope_above(const struct ggml_tensor *rows);

/* What a ROPE node does to rows of head_dim; factors: [n_dims / 2] of its src[2], or NULL. False
 * for one that is not understood. */
bool graph_rope_read(const struct ggml_tensor *node, const float *factors, uint32_t head_dim,
                     struct graph_rope *out);

/* Turns one head's vector by so many positions. */
void graph_rope_turn(const struct graph_rope *rope, double positions, float *x);

#endif
