/* Which codes are chosen. */
#include <math.h>
#include <string.h>

#include "kernels/exp_poly.h"
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

static float exp_negative(float x)
{
    if (x < TKV_EXP_MIN)
        return 0;
    const float t = fmaf(x, TKV_EXP_LOG2E, TKV_EXP_MAGIC);
    const float r = fmaf(t - TKV_EXP_MAGIC, -TKV_EXP_LN2, x);
    float p = fmaf(TKV_EXP_C5, r, TKV_EXP_C4), power;
    p = fmaf(p, r, TKV_EXP_C3);
    p = fmaf(p, r, TKV_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    uint32_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits <<= 23;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static float index_mass(const float *score, const uint32_t *counts, uint32_t n, float best)
{
    float lane[16] = {0};
    for (uint32_t c = 0; c < n; c++) {
        const float x = score[c] - best;
        lane[c % 16] = fmaf((float)counts[c], exp_negative(x < 0 ? x : 0), lane[c % 16]);
    }
    for (uint32_t half = 8; half; half /= 2)
        for (uint32_t i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

void tkv_scan_ref(struct tkv_kernels *k)
{
    k->index_mass = index_mass;
    k->index_scan = index_scan;
    k->index_best = index_best;
    k->index_above = index_above;
}
