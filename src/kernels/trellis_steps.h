/* The trellis search around an instruction set's own inner loop: 16 tokens at a time, a lane each.
 *
 * The cost of a window is looked at once: it goes straight into the choice among the windows that
 * the next coefficient does not tell apart, and only the chosen ones are kept. */
#ifndef TKV_TRELLIS_STEPS_H
#define TKV_TRELLIS_STEPS_H

#include <stdbool.h>
#include <string.h>

#include "base/compiler.h"
#include "format/trellis.h"
#include "kernels/kernels.h"
#include "kernels/trellis_scale.h"

#define TKV_STEPS_LANES 16

typedef uint16_t tkv_trellis_costs[TKV_STEPS_LANES];
typedef uint8_t tkv_trellis_from[TKV_STEPS_LANES];

struct tkv_trellis_search {
    tkv_trellis_costs best[2][TKV_TRELLIS_STATES / 2]; /* of a coefficient, and of the next */
    tkv_trellis_from from[TKV_MAX_HEAD_DIM][TKV_TRELLIS_STATES / 2];
    int16_t levels[TKV_MAX_HEAD_DIM][TKV_TRELLIS_STATES]; /* scaled */
};
_Static_assert(sizeof(struct tkv_trellis_search) <= TKV_TRELLIS_SCRATCH_BYTES, "the scratch");

/* A coefficient, and the one that comes after it. */
struct tkv_trellis_step {
    uint32_t bits;
    const int16_t *x;      /* [lanes] */
    const int16_t *levels; /* [states] */
    const tkv_trellis_costs *best;
    tkv_trellis_costs *next;
    tkv_trellis_from *from; /* of the next */
};

/* Windows that agree in all but their `k` oldest bits: the cheapest of them goes on, with its cost
 * less the least of all and at most TKV_TRELLIS_LOST. `near`: no error is beyond TKV_TRELLIS_FAR. */
typedef void tkv_trellis_choose(const struct tkv_trellis_step *s, uint32_t k, bool near);

TKV_INLINE int16_t tkv_trellis_largest(const int16_t *x, uint32_t n)
{
    int16_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        const int16_t far = (int16_t)(x[i] < 0 ? -x[i] : x[i]);
        most = far > most ? far : most;
    }
    return most;
}

/* The windows of the last coefficient, then those before. */
TKV_INLINE void tkv_trellis_back(const struct tkv_trellis_search *s, const uint8_t *bits,
                                 uint32_t D, const tkv_trellis_from last, uint8_t *windows)
{
    tkv_trellis_from window;
    memcpy(window, last, sizeof window);
    for (uint32_t d = D; d-- > 0;) {
        const uint32_t k = bits[d];
        memcpy(windows + (size_t)d * TKV_PAGE_TOKENS, window, sizeof window);
        for (uint32_t t = 0; t < TKV_STEPS_LANES && k; t++) {
            const uint32_t rest = (uint32_t)window[t] >> k;
            window[t] = (uint8_t)(rest | (uint32_t)s->from[d][rest][t] << (TKV_TRELLIS_WINDOW - k));
        }
    }
}

TKV_INLINE uint32_t tkv_trellis_coded(const uint8_t *bits, uint32_t d, uint32_t D)
{
    while (d < D && bits[d] == 0)
        d++;
    return d;
}

TKV_INLINE void tkv_trellis_scale_levels(struct tkv_trellis_search *s, const uint8_t *bits,
                                         const float *reach, uint32_t D)
{
    for (uint32_t d = 0; d < D; d++)
        for (uint32_t w = 0; w < TKV_TRELLIS_STATES && bits[d]; w++)
            s->levels[d][w] =
                (int16_t)tkv_trellis_scaled((float)tkv_trellis_levels[bits[d]][w], reach[d]);
}

TKV_INLINE void tkv_trellis_start(struct tkv_trellis_search *s, uint32_t d, uint32_t bits)
{
    for (uint32_t m = 0; m < (uint32_t)TKV_TRELLIS_STATES >> bits; m++)
        for (uint32_t t = 0; t < TKV_STEPS_LANES; t++) {
            s->best[0][m][t] = m ? TKV_TRELLIS_LOST : 0;
            s->from[d][m][t] = 0;
        }
}

TKV_INLINE void tkv_trellis_search_lanes(struct tkv_trellis_search *s, const float *x,
                                         const uint8_t *bits, const float *reach, uint32_t D,
                                         uint8_t *windows, tkv_trellis_choose *choose)
{
    tkv_trellis_from last[1] = {{0}};
    uint32_t d = tkv_trellis_coded(bits, 0, D), now = 0;
    if (d < D)
        tkv_trellis_start(s, d, bits[d]);
    for (uint32_t next; d < D; d = next, now = !now) {
        int16_t lanes[TKV_STEPS_LANES];
        for (uint32_t t = 0; t < TKV_STEPS_LANES; t++)
            lanes[t] = (int16_t)tkv_trellis_scaled(x[(size_t)d * TKV_PAGE_TOKENS + t], reach[d]);
        const bool near = tkv_trellis_largest(s->levels[d], TKV_TRELLIS_STATES) +
                              tkv_trellis_largest(lanes, TKV_STEPS_LANES) <=
                          TKV_TRELLIS_FAR;
        next = tkv_trellis_coded(bits, d + 1, D);
        const struct tkv_trellis_step step = {
            .bits = bits[d],
            .x = lanes,
            .levels = s->levels[d],
            .best = (const tkv_trellis_costs *)s->best[now],
            .next = s->best[!now],
            .from = next < D ? s->from[next] : last, /* at the end, one window of all */
        };
        choose(&step, next < D ? bits[next] : TKV_TRELLIS_WINDOW, near);
    }
    tkv_trellis_back(s, bits, D, last[0], windows);
}

TKV_INLINE void tkv_trellis_fit_all(const float *restrict x, const uint8_t *restrict windows,
                                    const uint8_t *bits, const float *weight, uint32_t D,
                                    float *restrict product, float *restrict square)
{
    memset(product, 0, TKV_PAGE_TOKENS * sizeof *product);
    memset(square, 0, TKV_PAGE_TOKENS * sizeof *square);
    for (uint32_t d = 0; d < D; d++, x += TKV_PAGE_TOKENS, windows += TKV_PAGE_TOKENS) {
        float level[TKV_PAGE_TOKENS];
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
            level[t] = (float)tkv_trellis_levels[bits[d]][windows[t]];
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) {
            product[t] += weight[d] * x[t] * level[t];
            square[t] += weight[d] * level[t] * level[t];
        }
    }
}

TKV_INLINE void tkv_trellis_search_all(const float *x, const uint8_t *bits, const float *reach,
                                       uint32_t D, uint8_t *windows, void *scratch,
                                       tkv_trellis_choose *choose)
{
    tkv_trellis_scale_levels(scratch, bits, reach, D);
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t += TKV_STEPS_LANES)
        tkv_trellis_search_lanes(scratch, x + t, bits, reach, D, windows + t, choose);
}

#endif
