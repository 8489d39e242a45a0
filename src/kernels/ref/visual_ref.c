/* Sums over the codes of visual pages: see format/visual.h for their order. */
#include <math.h>
#include <string.h>

#include "format/visual.h"
#include "kernels/kernels.h"

void tkv_visual_ref(struct tkv_kernels *k);

/* Code i of group g. */
static int32_t code_at(const uint8_t *codes, uint32_t bits, size_t g, size_t i)
{
    const uint32_t per_unit = 8 / bits, mask = (1u << bits) - 1u;
    const size_t unit = g / per_unit, above = g % per_unit;
    return (int32_t)((uint32_t)codes[unit * TKV_VISUAL_UNIT + i] >> (above * bits) & mask);
}

static void visual_score_ref(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                             const int8_t *restrict q, uint32_t n_rows, int32_t *restrict s,
                             struct tkv_ahead *ahead)
{
    (void)ahead;
    memset(s, 0, (size_t)n_rows * TKV_PAGE_TOKENS * sizeof *s);
    for (uint32_t r = 0; r < n_rows; r++, q += D, s += TKV_PAGE_TOKENS)
        for (size_t g = 0; g < D; g++)
            for (size_t i = 0; i < 64; i++)
                s[g % 4 * 16 + i / 4] += q[g / 4 * 4 + i % 4] * code_at(codes, bits, g, i);
}

static void visual_wsum_ref(const uint8_t *restrict codes, uint32_t D, uint32_t bits,
                            const uint8_t *restrict w, const float *restrict wscale,
                            uint32_t n_rows, float *restrict acc, struct tkv_ahead *ahead)
{
    (void)ahead;
    for (uint32_t r = 0; r < n_rows; r++, w += TKV_PAGE_TOKENS, acc += D) {
        int32_t sum[TKV_MAX_HEAD_DIM] = {0};
        for (size_t g = 0; g < D; g++)
            for (size_t i = 0; i < 64; i++)
                sum[g / 16 * 16 + i / 4] += w[g % 16 * 4 + i % 4] * code_at(codes, bits, g, i);
        for (uint32_t c = 0; c < D; c++)
            acc[c] = fmaf(wscale[r], (float)sum[c], acc[c]);
    }
}

void tkv_visual_ref(struct tkv_kernels *k)
{
    k->visual_score = visual_score_ref;
    k->visual_wsum = visual_wsum_ref;
}
