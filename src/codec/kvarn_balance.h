/* The iteration of kvarn: factors for the tokens and the channels of a page that even out the
 * deviations of both. */
#ifndef TKV_CODEC_KVARN_BALANCE_H
#define TKV_CODEC_KVARN_BALANCE_H

#include <stddef.h>
#include <stdint.h>

#include "tightkv/tightkv.h"

#define TKV_BALANCE_LANES 16

/* A page being balanced: what tokens and channels are divided by, as factors, and the deviations
 * that are left. */
struct tkv_balance {
    const float *x; /* [64][D] */
    size_t D;
    uint64_t valid;
    float n_valid;
    float token[TKV_PAGE_TOKENS], channel[TKV_MAX_HEAD_DIM];
    float token_dev[TKV_PAGE_TOKENS], channel_dev[TKV_MAX_HEAD_DIM];
};

/* The factors of tokens (K) or channels (V), 0 for a token that does not exist. x, D, valid and
 * n_valid, not 0, are given. */
void tkv_balance_page(struct tkv_balance *b, tkv_kind kind, float *factor);

/* The sum of TKV_BALANCE_LANES values, by halves. */
float tkv_sum_lanes(const float *lane);

#endif
