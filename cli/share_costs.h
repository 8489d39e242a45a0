/* What it costs a head to look at the keys of some rows of a context, best first by their codes, and to
 * read of these the values of some, best first by what they weigh. */
#ifndef TKV_CLI_SHARE_COSTS_H
#define TKV_CLI_SHARE_COSTS_H

#include "calibrate.h"
#include "capture.h"

enum {
    SHARE_KEYS = 15,
    SHARE_VALUES = 10
};

/* Shares of a context whose keys, and whose values, are read; rising. */
extern const double share_keys[SHARE_KEYS], share_values[SHARE_VALUES];

/* Squares of divergence, summed over queries: one that misses what it looks for loses more than its
 * output's error says, as all that follows is built on it. */
struct share_costs {
    double of[SHARE_KEYS][SHARE_VALUES];
};

/* Adds those of each KV head of a layer, [n_kv_heads], for queries of the context's second half. False:
 * the book has no index for the layer, or its groups are larger than any known. */
bool share_costs_add(const struct calibration *c, const struct cal_book *book,
                     const struct cal_layer *layer, const struct capture_layer *rows,
                     struct share_costs *costs);

#endif
