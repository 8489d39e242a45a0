/* Trellis codes to tiles for AVX-512: one register holds a coefficient's windows of all 64 tokens. */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "base/compiler.h"
#include "format/trellis.h"
#include "kernels/ahead.h"
#include "kernels/kernels.h"
#include "kernels/trellis_scale.h"

void tkv_trellis_avx512(struct tkv_kernels *k);

/* What turns a page into levels: the codes so far, and the table of the rate that it is at. */
struct stream {
    const uint8_t *codes;
    size_t used; /* bytes */
    __m512i table[4];
    uint32_t bits;        /* of the table */
    uint8_t head[2 * 64]; /* zeros and the first codes: the windows before 8 bits have come */
};

static void open_stream(struct stream *s, const uint8_t *codes, const uint8_t *bits, uint32_t D)
{
    size_t n = 0;
    for (uint32_t d = 0; d < D && n < 8; d++)
        n += bits[d];
    s->codes = codes;
    s->used = 0;
    s->bits = 0;
    memset(s->head, 0, sizeof s->head);
    memcpy(s->head + 64, codes, (n < 8 ? n : 8) * sizeof(uint64_t));
}

/* The levels of one more coefficient, by token. A window is 8 words of 64 bits, one a bit: bytes
 * are put together by groups of 8 tokens, and each group's 8 x 8 bits are turned around. */
TKV_INLINE __m512i next_levels(struct stream *s, uint32_t bits)
{
    const __m512i by_group = _mm512_set_epi8(
        63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37, 29, 21, 13, 5,
        60, 52, 44, 36, 28, 20, 12, 4, 59, 51, 43, 35, 27, 19, 11, 3, 58, 50, 42, 34, 26, 18, 10, 2,
        57, 49, 41, 33, 25, 17, 9, 1, 56, 48, 40, 32, 24, 16, 8, 0);
    const __m512i token = _mm512_set1_epi64((int64_t)0x8040201008040201u);
    if (bits == 0)
        return _mm512_setzero_si512();
    if (bits != s->bits) {
        for (int i = 0; i < 4; i++)
            s->table[i] = _mm512_loadu_si512(tkv_trellis_levels[bits] + i * 64);
        s->bits = bits;
    }
    s->used += bits * sizeof(uint64_t);
    const uint8_t *words = s->used < 64 ? s->head + s->used : s->codes + s->used - 64;
    const __m512i groups = _mm512_permutexvar_epi8(by_group, _mm512_loadu_si512(words));
    const __m512i windows = _mm512_gf2p8affine_epi64_epi8(token, groups, 0);
    const __m512i low = _mm512_permutex2var_epi8(s->table[0], windows, s->table[1]);
    const __m512i high = _mm512_permutex2var_epi8(s->table[2], windows, s->table[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(windows), low, high);
}

TKV_INLINE void store_lanes(void *at, size_t apart, __m512i x)
{
    uint8_t *p = at;
    _mm_store_si128((__m128i *)(void *)p, _mm512_castsi512_si128(x));
    _mm_store_si128((__m128i *)(void *)(p + apart), _mm512_extracti32x4_epi32(x, 1));
    _mm_store_si128((__m128i *)(void *)(p + 2 * apart), _mm512_extracti32x4_epi32(x, 2));
    _mm_store_si128((__m128i *)(void *)(p + 3 * apart), _mm512_extracti32x4_epi32(x, 3));
}

static void trellis_tile_k_avx512(const uint8_t *codes, const uint8_t *bits, uint32_t D,
                                  uint8_t *tile, struct tkv_ahead *ahead)
{
    struct stream s;
    open_stream(&s, codes, bits, D);
    const __m512i bias = _mm512_set1_epi8((char)0x80);
    const size_t block = (size_t)D / 4 * 64;
    for (uint32_t d = 0; d < D; d += 4, tile += 64) {
        __m512i x[4];
        for (int i = 0; i < 4; i++) {
            x[i] = _mm512_xor_si512(next_levels(&s, bits[d + (uint32_t)i]), bias);
            tkv_step_ahead(ahead);
        }
        /* dims of a token side by side: in 128-bit lane b, tokens 16b + 0..3, 4..7, 8..11, 12..15 */
        const __m512i a = _mm512_unpacklo_epi8(x[0], x[1]), b = _mm512_unpackhi_epi8(x[0], x[1]);
        const __m512i c = _mm512_unpacklo_epi8(x[2], x[3]), e = _mm512_unpackhi_epi8(x[2], x[3]);
        store_lanes(tile, block, _mm512_unpacklo_epi16(a, c));
        store_lanes(tile + 16, block, _mm512_unpackhi_epi16(a, c));
        store_lanes(tile + 32, block, _mm512_unpacklo_epi16(b, e));
        store_lanes(tile + 48, block, _mm512_unpackhi_epi16(b, e));
    }
}

static void trellis_tile_v_avx512(const uint8_t *codes, const uint8_t *bits, uint32_t D,
                                  int8_t *tile, struct tkv_ahead *ahead)
{
    struct stream s;
    open_stream(&s, codes, bits, D);
    const size_t group = (size_t)D / 16 * 64; /* of 4 tokens */
    for (uint32_t d = 0; d < D; d += 4, tile += 16) {
        __m512i x[4];
        for (int i = 0; i < 4; i++) {
            x[i] = next_levels(&s, bits[d + (uint32_t)i]);
            tkv_step_ahead(ahead);
        }
        /* four tokens of four dims side by side: in 128-bit lane b, of groups 4b + 0, 1, 2, 3 */
        const __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]);
        const __m512i c = _mm512_unpacklo_epi32(x[2], x[3]), e = _mm512_unpackhi_epi32(x[2], x[3]);
        store_lanes(tile, 4 * group, _mm512_unpacklo_epi64(a, c));
        store_lanes(tile + group, 4 * group, _mm512_unpackhi_epi64(a, c));
        store_lanes(tile + 2 * group, 4 * group, _mm512_unpacklo_epi64(b, e));
        store_lanes(tile + 3 * group, 4 * group, _mm512_unpackhi_epi64(b, e));
    }
}

/* --- the encoder's search, 32 tokens at a time, one in each 16-bit lane ---
 *
 * The cost of a window is looked at once: it goes straight into the choice among the windows that
 * the next coefficient does not tell apart, and only the chosen ones are kept. */

enum {
    STATES = TKV_TRELLIS_STATES,
    LANES = TKV_TRELLIS_LANES
};

struct search {
    uint16_t best[2][STATES / 2][LANES]; /* of the coefficient at hand, and of the next */
    uint8_t from[TKV_MAX_HEAD_DIM][STATES / 2][LANES];
};
_Static_assert(sizeof(struct search) <= TKV_TRELLIS_SCRATCH_BYTES, "the search's scratch");

/* A coefficient, and the one that comes after it. */
struct step {
    uint32_t bits;
    __m512i x;
    const int32_t *levels; /* [STATES], twice 16 bits each */
    const uint16_t (*best)[LANES];
    uint16_t (*next)[LANES];
    uint8_t (*from)[LANES]; /* of the next */
};

/* `near`: no error is beyond TKV_TRELLIS_FAR. */
TKV_INLINE __m512i cost_of(__m512i x, int32_t level, bool near)
{
    const __m512i e = _mm512_sub_epi16(x, _mm512_set1_epi32(level));
    if (near)
        return _mm512_mullo_epi16(e, e);
    const __m512i far = _mm512_abs_epi16(e);
    const __m512i cut = _mm512_min_epi16(far, _mm512_set1_epi16(TKV_TRELLIS_FAR));
    return _mm512_add_epi16(_mm512_mullo_epi16(cut, cut), _mm512_sub_epi16(far, cut));
}

/* Windows that agree in all but their `k` oldest bits: the cheapest of them goes on. */
TKV_INLINE void choose(const struct step *s, uint32_t k, bool near)
{
    const uint32_t keep = STATES >> k;
    uint32_t parent[STATES]; /* of window h * keep, less that of window 0 */
    __m512i least = _mm512_set1_epi16(-1);
    for (uint32_t h = 0; h < 1u << k; h++)
        parent[h] = h * keep >> s->bits;
    for (uint32_t m = 0; m < keep; m++) {
        const uint16_t(*best)[LANES] = s->best + (m >> s->bits);
        __m512i low = _mm512_add_epi16(_mm512_load_si512(best), cost_of(s->x, s->levels[m], near));
        __m256i who = _mm256_setzero_si256();
        for (uint32_t h = 1; h < 1u << k; h++) {
            const __m512i other = _mm512_add_epi16(_mm512_load_si512(best[parent[h]]),
                                                   cost_of(s->x, s->levels[h * keep + m], near));
            const __mmask32 better = _mm512_cmplt_epu16_mask(other, low);
            low = _mm512_min_epu16(low, other);
            who = _mm256_mask_mov_epi8(who, better, _mm256_set1_epi8((char)h));
        }
        _mm512_store_si512(s->next[m], low);
        _mm256_store_si256((__m256i *)(void *)s->from[m], who);
        least = _mm512_min_epu16(least, low);
    }
    const __m512i lost = _mm512_set1_epi16((short)TKV_TRELLIS_LOST);
    for (uint32_t m = 0; m < keep; m++) {
        const __m512i above = _mm512_sub_epi16(_mm512_load_si512(s->next[m]), least);
        _mm512_store_si512(s->next[m], _mm512_min_epu16(above, lost));
    }
}

/* A literal k lets the compiler unroll the inner loop. The last coefficient chooses among all. */
TKV_INLINE void choose_any(const struct step *s, uint32_t k, bool near)
{
    switch (k) {
    case 1:
        choose(s, 1, near);
        break;
    case 2:
        choose(s, 2, near);
        break;
    case 3:
        choose(s, 3, near);
        break;
    case 4:
        choose(s, 4, near);
        break;
    case 5:
        choose(s, 5, near);
        break;
    case 6:
        choose(s, 6, near);
        break;
    case 7:
        choose(s, 7, near);
        break;
    default:
        choose(s, TKV_TRELLIS_WINDOW, near);
        break;
    }
}

/* 16 values as tkv_trellis_scaled() makes them. */
TKV_INLINE __m256i scaled(__m512 x, __m512 reach)
{
    const __m512 most = _mm512_set1_ps(TKV_TRELLIS_MOST), y = _mm512_mul_ps(x, reach);
    const __m512 cut = _mm512_max_ps(_mm512_min_ps(y, most), _mm512_set1_ps(-TKV_TRELLIS_MOST));
    return _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(cut));
}

/* Levels to 16 bits, twice each; returns the largest magnitude. */
static int32_t scale_levels(const int8_t *levels, float reach, int32_t out[STATES])
{
    const __m512 r = _mm512_set1_ps(reach);
    __m512i most = _mm512_setzero_si512();
    for (int w = 0; w < STATES; w += 16) {
        const __m128i l = _mm_loadu_si128((const __m128i *)(const void *)(levels + w));
        const __m256i x = scaled(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(l)), r);
        const __m512i once = _mm512_cvtepu16_epi32(x);
        const __m512i twice = _mm512_or_si512(once, _mm512_slli_epi32(once, 16));
        _mm512_store_si512(out + w, twice);
        most = _mm512_max_epi16(most, _mm512_abs_epi16(twice));
    }
    return _mm512_reduce_max_epi32(_mm512_srli_epi32(most, 16));
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

static void one_step(struct step *s, const int8_t *levels, float reach, uint32_t next_bits)
{
    int32_t twice[STATES] __attribute__((aligned(64)));
    const int32_t most = scale_levels(levels, reach, twice);
    s->levels = twice;
    if (most + largest_lane(s->x) <= TKV_TRELLIS_FAR)
        choose_any(s, next_bits, true);
    else
        choose_any(s, next_bits, false);
}

/* The windows of the last coefficient's stream, then those before. All tokens take a step together,
 * for a token's next step waits for its last. */
static void search_back(const struct search *s, const uint8_t *bits, uint32_t D,
                        const uint8_t last[LANES], uint8_t *windows)
{
    uint8_t window[LANES];
    memcpy(window, last, sizeof window);
    for (uint32_t d = D; d-- > 0;) {
        const uint32_t k = bits[d];
        memcpy(windows + (size_t)d * TKV_PAGE_TOKENS, window, sizeof window);
        for (uint32_t t = 0; t < LANES && k; t++) {
            const uint32_t rest = (uint32_t)window[t] >> k;
            window[t] = (uint8_t)(rest | (uint32_t)s->from[d][rest][t] << (TKV_TRELLIS_WINDOW - k));
        }
    }
}

static uint32_t next_coded(const uint8_t *bits, uint32_t d, uint32_t D)
{
    while (d < D && bits[d] == 0)
        d++;
    return d;
}

static void search_lanes(struct search *s, const float *x, const uint8_t *bits, const float *reach,
                         uint32_t D, uint8_t *windows)
{
    uint8_t last[1][LANES] __attribute__((aligned(32))) = {{0}};
    uint32_t d = next_coded(bits, 0, D), now = 0;
    for (uint32_t m = 0; d < D && m < (uint32_t)STATES >> bits[d]; m++) {
        _mm512_store_si512(s->best[0][m], _mm512_set1_epi16(m ? (short)TKV_TRELLIS_LOST : 0));
        memset(s->from[d][m], 0, LANES);
    }
    for (uint32_t next; d < D; d = next, now = !now) {
        next = next_coded(bits, d + 1, D);
        struct step step = {
            .bits = bits[d],
            .x = scale_lanes(x + (size_t)d * TKV_PAGE_TOKENS, reach[d]),
            .best = (const uint16_t(*)[LANES])s->best[now],
            .next = s->best[!now],
            .from = next < D ? s->from[next] : last,
        };
        one_step(&step, tkv_trellis_levels[bits[d]], reach[d],
                 next < D ? bits[next] : TKV_TRELLIS_WINDOW);
    }
    search_back(s, bits, D, last[0], windows);
}

static void trellis_codes_avx512(const float *x, const uint8_t *bits, const float *reach,
                                 uint32_t D, uint8_t *windows, void *scratch)
{
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t += LANES)
        search_lanes(scratch, x + t, bits, reach, D, windows + t);
}

void tkv_trellis_avx512(struct tkv_kernels *k)
{
    k->trellis_tile_k = trellis_tile_k_avx512;
    k->trellis_tile_v = trellis_tile_v_avx512;
    k->trellis_codes = trellis_codes_avx512;
}
