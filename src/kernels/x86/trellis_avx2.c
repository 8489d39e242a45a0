/* Trellis codes to tiles for AVX2: a coefficient's windows of 64 tokens in two registers. And the
 * search: 16 tokens, one in each 16-bit lane. */
#include <immintrin.h>

#include "kernels/ahead.h"
#include "kernels/trellis_steps.h"

void tkv_trellis_avx2(struct tkv_kernels *k);

struct stream {
    const uint8_t *codes;
    __m256i windows[2];
};

/* 32 bits to bytes of 0 or -1. */
TKV_INLINE __m256i spread(const uint8_t *bits)
{
    int32_t word;
    memcpy(&word, bits, sizeof word);
    const __m256i byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                          2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
    const __m256i each = _mm256_shuffle_epi8(_mm256_set1_epi32(word), byte);
    return _mm256_cmpeq_epi8(_mm256_and_si256(each, bit), bit);
}

/* 256 entries: 16 shuffles by the four lowest bits, then a choice by each of the others. */
TKV_INLINE __m256i look_up(const int8_t *levels, __m256i w)
{
    const __m256i low = _mm256_and_si256(w, _mm256_set1_epi8(15));
    __m256i x[16];
    for (int i = 0; i < 16; i++)
        x[i] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(
                                       (const __m128i *)(const void *)(levels + i * 16))),
                                   low);
    const __m256i by[4] = {_mm256_slli_epi16(w, 3), _mm256_slli_epi16(w, 2),
                           _mm256_slli_epi16(w, 1), w}; /* the sign bit of a byte chooses */
    for (int level = 0, n = 8; level < 4; level++, n /= 2)
        for (int i = 0; i < n; i++)
            x[i] = _mm256_blendv_epi8(x[2 * i], x[2 * i + 1], by[level]);
    return x[0];
}

/* The levels of one more coefficient, by token. */
TKV_INLINE void next_levels(struct stream *s, uint32_t bits, __m256i x[2])
{
    for (uint32_t plane = 0; plane < bits; plane++, s->codes += sizeof(uint64_t))
        for (int i = 0; i < 2; i++)
            s->windows[i] = _mm256_sub_epi8(_mm256_add_epi8(s->windows[i], s->windows[i]),
                                            spread(s->codes + i * 4));
    for (int i = 0; i < 2; i++)
        x[i] = bits ? look_up(tkv_trellis_levels[bits], s->windows[i]) : _mm256_setzero_si256();
}

TKV_INLINE void store_lanes(void *at, size_t apart, __m256i x)
{
    uint8_t *p = at;
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(x));
    _mm_storeu_si128((__m128i *)(void *)(p + apart), _mm256_extracti128_si256(x, 1));
}

static void trellis_tile_k_avx2(const uint8_t *codes, const uint8_t *bits, uint32_t D,
                                uint8_t *tile, struct tkv_ahead *ahead)
{
    struct stream s = {codes, {_mm256_setzero_si256(), _mm256_setzero_si256()}};
    const __m256i bias = _mm256_set1_epi8((char)0x80);
    const size_t block = (size_t)D / 4 * 64;
    for (uint32_t d = 0; d < D; d += 4, tile += 64) {
        __m256i x[4][2];
        for (int i = 0; i < 4; i++) {
            next_levels(&s, bits[d + (uint32_t)i], x[i]);
            tkv_step_ahead(ahead);
        }
        for (int half = 0; half < 2; half++) {
            uint8_t *at = tile + 2 * block * (size_t)half;
            for (int i = 0; i < 4; i++)
                x[i][half] = _mm256_xor_si256(x[i][half], bias);
            /* dims of a token side by side: in lane b, tokens 16b + 0..3, 4..7, 8..11, 12..15 */
            const __m256i a = _mm256_unpacklo_epi8(x[0][half], x[1][half]);
            const __m256i b = _mm256_unpackhi_epi8(x[0][half], x[1][half]);
            const __m256i c = _mm256_unpacklo_epi8(x[2][half], x[3][half]);
            const __m256i e = _mm256_unpackhi_epi8(x[2][half], x[3][half]);
            store_lanes(at, block, _mm256_unpacklo_epi16(a, c));
            store_lanes(at + 16, block, _mm256_unpackhi_epi16(a, c));
            store_lanes(at + 32, block, _mm256_unpacklo_epi16(b, e));
            store_lanes(at + 48, block, _mm256_unpackhi_epi16(b, e));
        }
    }
}

static void trellis_tile_v_avx2(const uint8_t *codes, const uint8_t *bits, uint32_t D, int8_t *tile,
                                struct tkv_ahead *ahead)
{
    struct stream s = {codes, {_mm256_setzero_si256(), _mm256_setzero_si256()}};
    const size_t group = (size_t)D / 16 * 64; /* of 4 tokens */
    for (uint32_t d = 0; d < D; d += 4, tile += 16) {
        __m256i x[4][2];
        for (int i = 0; i < 4; i++) {
            next_levels(&s, bits[d + (uint32_t)i], x[i]);
            tkv_step_ahead(ahead);
        }
        for (int half = 0; half < 2; half++) {
            int8_t *at = tile + 8 * group * (size_t)half;
            /* four tokens of four dims side by side: in lane b, of groups 4b + 0, 1, 2, 3 */
            const __m256i a = _mm256_unpacklo_epi32(x[0][half], x[1][half]);
            const __m256i b = _mm256_unpackhi_epi32(x[0][half], x[1][half]);
            const __m256i c = _mm256_unpacklo_epi32(x[2][half], x[3][half]);
            const __m256i e = _mm256_unpackhi_epi32(x[2][half], x[3][half]);
            store_lanes(at, 4 * group, _mm256_unpacklo_epi64(a, c));
            store_lanes(at + group, 4 * group, _mm256_unpackhi_epi64(a, c));
            store_lanes(at + 2 * group, 4 * group, _mm256_unpacklo_epi64(b, e));
            store_lanes(at + 3 * group, 4 * group, _mm256_unpackhi_epi64(b, e));
        }
    }
}

/* --- the search --- */

TKV_INLINE __m256i load(const uint16_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

TKV_INLINE __m256i cost_of(__m256i x, int16_t level, bool near)
{
    const __m256i e = _mm256_sub_epi16(x, _mm256_set1_epi16(level));
    if (near)
        return _mm256_mullo_epi16(e, e);
    const __m256i far = _mm256_abs_epi16(e);
    const __m256i cut = _mm256_min_epi16(far, _mm256_set1_epi16(TKV_TRELLIS_FAR));
    return _mm256_add_epi16(_mm256_mullo_epi16(cut, cut), _mm256_sub_epi16(far, cut));
}

static void lower(tkv_trellis_costs *best, uint32_t n, __m256i least)
{
    const __m256i lost = _mm256_set1_epi16((short)TKV_TRELLIS_LOST);
    for (uint32_t m = 0; m < n; m++) {
        const __m256i above = _mm256_sub_epi16(load(best[m]), least);
        _mm256_storeu_si256((__m256i *)(void *)best[m], _mm256_min_epu16(above, lost));
    }
}

TKV_INLINE void choose(const struct tkv_trellis_step *s, uint32_t k, bool near)
{
    const uint32_t keep = TKV_TRELLIS_STATES >> k;
    const __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)s->x);
    __m256i least = _mm256_set1_epi16(-1);
    for (uint32_t m = 0; m < keep; m++) {
        __m256i low = _mm256_add_epi16(load(s->best[m >> s->bits]), cost_of(x, s->levels[m], near));
        __m256i who = _mm256_setzero_si256();
        for (uint32_t h = 1, w = m + keep; h < 1u << k; h++, w += keep) {
            const __m256i other =
                _mm256_add_epi16(load(s->best[w >> s->bits]), cost_of(x, s->levels[w], near));
            const __m256i lower_one = _mm256_min_epu16(low, other);
            const __m256i stays = _mm256_cmpeq_epi16(lower_one, low);
            who = _mm256_blendv_epi8(_mm256_set1_epi16((short)h), who, stays);
            low = lower_one;
        }
        _mm256_storeu_si256((__m256i *)(void *)s->next[m], low);
        _mm_storeu_si128(
            (__m128i *)(void *)s->from[m],
            _mm_packus_epi16(_mm256_castsi256_si128(who), _mm256_extracti128_si256(who, 1)));
        least = _mm256_min_epu16(least, low);
    }
    lower(s->next, keep, least);
}

static void choose_avx2(const struct tkv_trellis_step *s, uint32_t k, bool near)
{
    if (near)
        choose(s, k, true);
    else
        choose(s, k, false);
}

static void trellis_codes_avx2(const float *x, const uint8_t *bits, const float *reach, uint32_t D,
                               uint8_t *windows, void *scratch)
{
    tkv_trellis_search_all(x, bits, reach, D, windows, scratch, choose_avx2);
}

static void trellis_fit_avx2(const float *x, const uint8_t *windows, const uint8_t *bits,
                             const float *weight, uint32_t D, float *product, float *square)
{
    tkv_trellis_fit_all(x, windows, bits, weight, D, product, square);
}

void tkv_trellis_avx2(struct tkv_kernels *k)
{
    k->trellis_tile_k = trellis_tile_k_avx2;
    k->trellis_tile_v = trellis_tile_v_avx2;
    k->trellis_codes = trellis_codes_avx2;
    k->trellis_fit = trellis_fit_avx2;
}
