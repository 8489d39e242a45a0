/* Trellis codes to tiles and back, one token and coefficient at a time. */
#include <math.h>
#include <string.h>

#include "format/trellis.h"
#include "kernels/kernels.h"
#include "kernels/trellis_scale.h"
#include "kernels/trellis_steps.h"

#define T TKV_PAGE_TOKENS

void tkv_trellis_ref(struct tkv_kernels *k);

/* The windows of 8 tokens, a byte each, the first token's lowest. */
struct windows {
    uint64_t of[T / 8];
};

/* Bit i to byte i, 0 or 1. */
static uint64_t spread(uint8_t bits)
{
    const uint64_t each = 0x0101010101010101u;
    const uint64_t one_a_byte = bits * each & 0x8040201008040201u;
    return (one_a_byte + 0x7f * each) >> 7 & each;
}

/* The windows of all tokens after another coefficient. */
static const uint8_t *step_windows(const uint8_t *codes, uint32_t bits, struct windows *w)
{
    for (uint32_t plane = 0; plane < bits; plane++, codes += sizeof(uint64_t))
        for (uint32_t i = 0; i < T / 8; i++)
            w->of[i] = (w->of[i] << 1 & 0xfefefefefefefefeu) | spread(codes[i]);
    return codes;
}

static int8_t level_of(const int8_t *levels, const struct windows *w, uint32_t t)
{
    return levels[w->of[t / 8] >> t % 8 * 8 & 0xff];
}

static void trellis_tile_k(const uint8_t *codes, const uint8_t *bits, uint32_t D, uint8_t *tile,
                           struct tkv_ahead *ahead)
{
    struct windows w = {{0}};
    (void)ahead;
    for (uint32_t d = 0; d < D; d++) {
        codes = step_windows(codes, bits[d], &w);
        for (uint32_t t = 0; t < T; t++)
            tile[(t / 16 * (D / 4) + d / 4) * 64 + t % 16 * 4 + d % 4] =
                (uint8_t)(level_of(tkv_trellis_levels[bits[d]], &w, t) + 128);
    }
}

static void trellis_tile_v(const uint8_t *codes, const uint8_t *bits, uint32_t D, int8_t *tile,
                           struct tkv_ahead *ahead)
{
    struct windows w = {{0}};
    (void)ahead;
    for (uint32_t d = 0; d < D; d++) {
        codes = step_windows(codes, bits[d], &w);
        for (uint32_t t = 0; t < T; t++)
            tile[(t / 4 * (D / 16) + d / 16) * 64 + d % 16 * 4 + t % 4] =
                level_of(tkv_trellis_levels[bits[d]], &w, t);
    }
}

/* --- the encoder's search (Viterbi), one token at a time --- */

enum {
    STATES = TKV_TRELLIS_STATES
};

/* The cheapest of the 2^k windows that agree in all but their k oldest bits, for each of these;
 * costs relative to the least of all. */
static void merge(const uint16_t *path, uint32_t k, uint16_t *best, uint8_t *from)
{
    const uint32_t keep = STATES >> k;
    uint16_t least = UINT16_MAX;
    for (uint32_t m = 0; m < keep; m++) {
        best[m] = path[m];
        from[m] = 0;
        for (uint32_t h = 1; h < 1u << k; h++)
            if (path[h * keep + m] < best[m]) {
                best[m] = path[h * keep + m];
                from[m] = (uint8_t)h;
            }
        least = best[m] < least ? best[m] : least;
    }
    for (uint32_t m = 0; m < keep; m++) {
        const uint16_t above = (uint16_t)(best[m] - least);
        best[m] = above < TKV_TRELLIS_LOST ? above : TKV_TRELLIS_LOST;
    }
}

static void extend(const uint16_t *best, uint32_t k, int32_t x, float reach, uint16_t *path)
{
    for (uint32_t w = 0; w < STATES; w++) {
        const int32_t e = x - tkv_trellis_scaled(tkv_trellis_levels[k][w], reach);
        const int32_t far = e < 0 ? -e : e, cut = far < TKV_TRELLIS_FAR ? far : TKV_TRELLIS_FAR;
        path[w] = (uint16_t)(best[w >> k] + cut * cut + (far - cut));
    }
}

static void search_token(const float *x, const uint8_t *bits, const float *reach, uint32_t D,
                         uint8_t *windows, uint8_t (*from)[STATES / 2])
{
    uint16_t path[STATES], best[STATES / 2];
    for (uint32_t w = 0; w < STATES; w++)
        path[w] = w == 0 ? 0 : TKV_TRELLIS_LOST;
    for (uint32_t d = 0; d < D; d++) {
        if (bits[d] == 0)
            continue;
        merge(path, bits[d], best, from[d]);
        extend(best, bits[d], tkv_trellis_scaled(x[d * T], reach[d]), reach[d], path);
    }
    uint32_t window = 0;
    for (uint32_t w = 1; w < STATES; w++)
        window = path[w] < path[window] ? w : window;
    for (uint32_t d = D; d-- > 0;) {
        windows[d * T] = (uint8_t)window;
        if (bits[d])
            window = window >> bits[d] | (uint32_t)from[d][window >> bits[d]]
                                             << (TKV_TRELLIS_WINDOW - bits[d]);
    }
}

static void trellis_codes(const float *x, const uint8_t *bits, const float *reach, uint32_t D,
                          uint8_t *windows, void *scratch)
{
    for (uint32_t t = 0; t < T; t++)
        search_token(x + t, bits, reach, D, windows + t, scratch);
}

static void trellis_fit(const float *x, const uint8_t *windows, const uint8_t *bits,
                        const float *weight, uint32_t D, float *product, float *square)
{
    tkv_trellis_fit_all(x, windows, bits, weight, D, product, square);
}

void tkv_trellis_ref(struct tkv_kernels *k)
{
    k->trellis_tile_k = trellis_tile_k;
    k->trellis_tile_v = trellis_tile_v;
    k->trellis_codes = trellis_codes;
    k->trellis_fit = trellis_fit;
}
