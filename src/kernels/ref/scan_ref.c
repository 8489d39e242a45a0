/* Which codes are chosen. */
#include <math.h>

#include "kernels/kernels.h"

void tkv_scan_ref(struct tkv_kernels *k);

static uint64_t index_scan(const uint16_t *code, const uint64_t *set)
{
    uint64_t bits = 0;
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
        bits |= (set[code[t] / 64] >> code[t] % 64 & 1) << t;
    return bits;
}

static float index_best(const float *score, const uint32_t *counts, uint32_t n)
{
    float best = -INFINITY;
    for (uint32_t c = 0; c < n; c++)
        if (counts[c] && score[c] > best)
            best = score[c];
    return best;
}

static uint32_t index_above(const float *score, const uint32_t *counts, uint32_t n, float least,
                            uint32_t *codes)
{
    uint32_t n_codes = 0;
    for (uint32_t c = 0; c < n; c++)
        if (counts[c] && score[c] >= least)
            codes[n_codes++] = c;
    return n_codes;
}

void tkv_scan_ref(struct tkv_kernels *k)
{
    k->index_scan = index_scan;
    k->index_best = index_best;
    k->index_above = index_above;
}
