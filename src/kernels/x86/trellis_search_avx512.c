/* The trellis search for AVX-512: 32 tokens at a time, one in each 16-bit lane.
 *
 * Levels of a rate repeat, so what each costs is reckoned once and looked up by window. Of windows
 * that the next coefficient does not tell apart only the cheapest goes on; which one that was is
 * kept as the bare masks of the comparisons, and made out on the way back, for the one stream of a
 * token that is taken. */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "base/compiler.h"
#include "format/trellis.h"
#include "kernels/kernels.h"
#include "kernels/trellis_scale.h"
#include "kernels/trellis_steps.h"

void tkv_trellis_search_avx512(struct tkv_kernels *k);

enum {
    STATES = TKV_TRELLIS_STATES,
    LANES = 32,
    ROW = LANES * sizeof(uint16_t)
};

/* The levels that a rate has, in order, and where the cost of each window's stands. */
struct rate {
    uint32_t n;
    int8_t levels[STATES];
    uint16_t at[STATES]; /* bytes from the first cost */
};

struct search {
    uint16_t best[2][STATES / 2][LANES]; /* of the coefficient at hand, and of the next */
    uint16_t costs[STATES][LANES];       /* of the coefficient's levels */
    /* [coefficient][kept window * candidates + i]: the lanes in which candidate i was cheaper than
     * those before it. Nobody asks for i = 0. 16 masks are read at a time, into the next row. */
    uint32_t won[TKV_MAX_HEAD_DIM + 1][STATES];
    struct rate rates[TKV_TRELLIS_BITS + 1];
};
_Static_assert(sizeof(struct search) <= TKV_TRELLIS_SCRATCH_BYTES, "the search's scratch");

static void open_rate(const int8_t *levels, struct rate *r)
{
    uint16_t at[STATES] = {0}; /* by level + 128; first, whether it is there */
    r->n = 0;
    memset(r->levels, 0, sizeof r->levels);
    for (uint32_t w = 0; w < STATES; w++)
        at[levels[w] + 128] = 1;
    for (int32_t i = 0; i < STATES; i++) {
        r->levels[r->n] = (int8_t)(i - 128);
        r->n += at[i];
        at[i] = (uint16_t)((r->n - 1) * ROW);
    }
    for (uint32_t w = 0; w < STATES; w++)
        r->at[w] = at[levels[w] + 128];
}

/* ---- costs --------------------------------------------------------------------------------- */

/* 16 values as tkv_trellis_scaled() makes them. */
TKV_INLINE __m256i scaled(__m512 x, __m512 reach)
{
    const __m512 most = _mm512_set1_ps(TKV_TRELLIS_MOST), y = _mm512_mul_ps(x, reach);
    const __m512 cut = _mm512_max_ps(_mm512_min_ps(y, most), _mm512_set1_ps(-TKV_TRELLIS_MOST));
    return _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(cut));
}

static __m512i scale_lanes(const float *x, float reach)
{
    const __m512 r = _mm512_set1_ps(reach);
    const __m256i low = scaled(_mm512_loadu_ps(x), r), high = scaled(_mm512_loadu_ps(x + 16), r);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static int32_t largest_lane(__m512i x)
{
    const __m512i far = _mm512_abs_epi16(x);
    return _mm512_reduce_max_epi32(_mm512_max_epi32(
        _mm512_srli_epi32(far, 16), _mm512_and_si512(far, _mm512_set1_epi32(0xffff))));
}

/* `near`: no error is beyond TKV_TRELLIS_FAR. */
TKV_INLINE void cost(__m512i x, int32_t level, bool near, uint16_t out[LANES])
{
    const __m512i e = _mm512_sub_epi16(x, _mm512_set1_epi32(level));
    const __m512i far = _mm512_abs_epi16(e);
    const __m512i cut = _mm512_min_epi16(far, _mm512_set1_epi16(TKV_TRELLIS_FAR));
    const __m512i beyond = _mm512_sub_epi16(far, cut);
    _mm512_store_si512(out, near ? _mm512_mullo_epi16(e, e)
                                 : _mm512_add_epi16(_mm512_mullo_epi16(cut, cut), beyond));
}

/* Levels to 16 bits, twice each. */
static void scale_levels(const struct rate *rate, float reach, int32_t out[STATES])
{
    const __m512 r = _mm512_set1_ps(reach);
    for (uint32_t i = 0; i < rate->n; i += 16) {
        const __m128i l = _mm_loadu_si128((const __m128i *)(const void *)(rate->levels + i));
        const __m256i x = scaled(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(l)), r);
        const __m512i once = _mm512_cvtepu16_epi32(x);
        _mm512_store_si512(out + i, _mm512_or_si512(once, _mm512_slli_epi32(once, 16)));
    }
}

/* A literal `near` keeps its question out of the loop. */
TKV_INLINE void level_costs(__m512i lanes, const int32_t *levels, uint32_t n, bool near,
                            uint16_t (*costs)[LANES])
{
    for (uint32_t i = 0; i < n; i++)
        cost(lanes, levels[i], near, costs[i]);
}

static void find_costs(const struct rate *rate, const float *x, float reach,
                       uint16_t (*costs)[LANES])
{
    int32_t levels[STATES] __attribute__((aligned(64)));
    const __m512i lanes = scale_lanes(x, reach);
    const int32_t left = TKV_TRELLIS_FAR - largest_lane(lanes);
    scale_levels(rate, reach, levels);
    if (-(int16_t)levels[0] <= left && (int16_t)levels[rate->n - 1] <= left)
        level_costs(lanes, levels, rate->n, true, costs);
    else
        level_costs(lanes, levels, rate->n, false, costs);
}

/* ---- forth --------------------------------------------------------------------------------- */

/* A coefficient, and the one that comes after it. */
struct step {
    uint32_t bits;
    const uint16_t *at; /* [STATES], into costs */
    const uint8_t *costs;
    const uint16_t (*best)[LANES];
    __m512i least; /* of best */
    uint16_t (*next)[LANES];
    uint32_t *won;
};

TKV_INLINE __m512i best_before(struct step s, uint32_t window)
{
    const __m512i best = _mm512_load_si512(s.best[window >> s.bits]);
    return _mm512_min_epu16(_mm512_sub_epi16(best, s.least),
                            _mm512_set1_epi16((short)TKV_TRELLIS_LOST));
}

TKV_INLINE __m512i cost_of(struct step s, uint32_t window)
{
    return _mm512_load_si512(s.costs + s.at[window]);
}

/* Windows that agree in all but their `k` oldest bits: the cheapest of them goes on. Those that
 * come from the same ones follow each other. Returns the least cost. */
TKV_INLINE __m512i choose(struct step s, uint32_t k)
{
    const uint32_t keep = STATES >> k, n = 1u << k;
    const uint32_t same = keep < 1u << s.bits ? keep : 1u << s.bits;
    __m512i least = _mm512_set1_epi16(-1);
    for (uint32_t m = 0; m < keep;) {
        __m512i before[STATES];
        for (uint32_t h = 0; h < n; h++)
            before[h] = best_before(s, h * keep + m);
        for (const uint32_t end = m + same; m < end; m++) {
            uint32_t *won = s.won + ((size_t)m << k);
            __m512i low = _mm512_add_epi16(before[0], cost_of(s, m));
            for (uint32_t h = 1; h < n; h++) {
                const __m512i other = _mm512_add_epi16(before[h], cost_of(s, h * keep + m));
                _store_mask32((__mmask32 *)(won + h), _mm512_cmplt_epu16_mask(other, low));
                low = _mm512_min_epu16(low, other);
            }
            _mm512_store_si512(s.next[m], low);
            least = _mm512_min_epu16(least, low);
        }
    }
    return least;
}

/* A literal k lets the compiler unroll the inner loop. The last coefficient chooses among all. */
static __m512i choose_any(const struct step *s, uint32_t k)
{
    switch (k) {
    case 1:
        return choose(*s, 1);
    case 2:
        return choose(*s, 2);
    case 3:
        return choose(*s, 3);
    case 4:
        return choose(*s, 4);
    case 5:
        return choose(*s, 5);
    case 6:
        return choose(*s, 6);
    default:
        return choose(*s, k);
    }
}

/* ---- back ---------------------------------------------------------------------------------- */

/* Which of n <= 64 windows were cheaper than those before them, in one lane. */
TKV_INLINE uint64_t winners(const uint32_t *won, uint32_t n, __m512i lane)
{
    const uint64_t live = n < 16 ? (1u << n) - 1 : 0xffff;
    uint64_t who = 0;
    for (uint32_t h = 0; h < n; h += 16)
        who |= (_mm512_test_epi32_mask(_mm512_loadu_si512(won + h), lane) & live) << h;
    return who;
}

/* From windows to those before them: of those that came together in one, the last that won. */
TKV_INLINE void step_back(const uint32_t won[STATES], uint32_t k, const uint8_t *windows,
                          uint8_t *before)
{
    const uint32_t n = 1u << k, some = n < 64 ? n : 64;
    __m512i lane = _mm512_set1_epi32(1);
    for (uint32_t t = 0; t < LANES; t++, lane = _mm512_add_epi32(lane, lane)) {
        const uint32_t rest = (uint32_t)windows[t] >> k;
        uint32_t h = n;
        uint64_t who;
        do {
            h -= some;
            who = winners(won + (rest << k) + h, some, lane);
        } while (h && !who);
        h += 63 - (uint32_t)__builtin_clzll(who | 1);
        before[t] = (uint8_t)(rest | h << (TKV_TRELLIS_WINDOW - k));
    }
}

static void step_back_any(const uint32_t won[STATES], uint32_t k, const uint8_t *windows,
                          uint8_t *before)
{
    switch (k) {
    case 0:
        memcpy(before, windows, LANES);
        break;
    case 1:
        step_back(won, 1, windows, before);
        break;
    case 2:
        step_back(won, 2, windows, before);
        break;
    case 3:
        step_back(won, 3, windows, before);
        break;
    case 4:
        step_back(won, 4, windows, before);
        break;
    case 5:
        step_back(won, 5, windows, before);
        break;
    case 6:
        step_back(won, 6, windows, before);
        break;
    default:
        step_back(won, k, windows, before);
        break;
    }
}

static void go_back(const struct search *s, const uint8_t *bits, uint32_t D,
                    const uint32_t last[STATES], uint8_t *windows)
{
    static const uint8_t end[LANES] = {0};
    step_back_any(last, TKV_TRELLIS_WINDOW, end, windows + (size_t)(D - 1) * TKV_PAGE_TOKENS);
    for (uint32_t d = D; d-- > 1;) {
        uint8_t *row = windows + (size_t)d * TKV_PAGE_TOKENS;
        step_back_any(s->won[d], bits[d], row, row - TKV_PAGE_TOKENS);
    }
}

static void start(struct search *s, uint32_t d, uint32_t bits)
{
    for (uint32_t m = 0; m < (uint32_t)STATES >> bits; m++)
        _mm512_store_si512(s->best[0][m], _mm512_set1_epi16(m ? (short)TKV_TRELLIS_LOST : 0));
    memset(s->won[d], 0, sizeof s->won[d]);
}

static void search_lanes(struct search *s, const float *x, const uint8_t *bits, const float *reach,
                         uint32_t D, uint8_t *windows)
{
    uint32_t last[STATES] = {0};
    uint32_t d = tkv_trellis_coded(bits, 0, D), now = 0;
    __m512i least = _mm512_setzero_si512();
    if (d < D)
        start(s, d, bits[d]);
    for (uint32_t next; d < D; d = next, now = !now) {
        const struct rate *rate = &s->rates[bits[d]];
        next = tkv_trellis_coded(bits, d + 1, D);
        find_costs(rate, x + (size_t)d * TKV_PAGE_TOKENS, reach[d], s->costs);
        const struct step step = {
            .bits = bits[d],
            .at = rate->at,
            .costs = (const uint8_t *)s->costs,
            .best = (const uint16_t(*)[LANES])s->best[now],
            .least = least,
            .next = s->best[!now],
            .won = next < D ? s->won[next] : last,
        };
        least = choose_any(&step, next < D ? bits[next] : TKV_TRELLIS_WINDOW);
    }
    go_back(s, bits, D, last, windows);
}

static void trellis_codes_avx512(const float *x, const uint8_t *bits, const float *reach,
                                 uint32_t D, uint8_t *windows, void *scratch)
{
    struct search *s = scratch;
    bool open[TKV_TRELLIS_BITS + 1] = {true};
    for (uint32_t d = 0; d < D; d++)
        if (!open[bits[d]]) {
            open_rate(tkv_trellis_levels[bits[d]], &s->rates[bits[d]]);
            open[bits[d]] = true;
        }
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t += LANES)
        search_lanes(scratch, x + t, bits, reach, D, windows + t);
}

void tkv_trellis_search_avx512(struct tkv_kernels *k)
{
    k->trellis_codes = trellis_codes_avx512;
}
