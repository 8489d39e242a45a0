/* Trellis codes to tiles for AVX-512: one register holds a coefficient's windows of all 64 tokens. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "format/trellis.h"
#include "kernels/ahead.h"
#include "kernels/kernels.h"

void tkv_trellis_avx512(struct tkv_kernels *k);

TKV_INLINE void open_table(uint32_t bits, __m512i table[4])
{
    for (int i = 0; i < 4; i++)
        table[i] = _mm512_loadu_si512(tkv_trellis_levels[bits] + i * 64);
}

TKV_INLINE __m512i look_up(const __m512i table[4], __m512i windows)
{
    const __m512i low = _mm512_permutex2var_epi8(table[0], windows, table[1]);
    const __m512i high = _mm512_permutex2var_epi8(table[2], windows, table[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(windows), low, high);
}

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
        open_table(bits, s->table);
        s->bits = bits;
    }
    s->used += bits * sizeof(uint64_t);
    const uint8_t *words = s->used < 64 ? s->head + s->used : s->codes + s->used - 64;
    const __m512i groups = _mm512_permutexvar_epi8(by_group, _mm512_loadu_si512(words));
    return look_up(s->table, _mm512_gf2p8affine_epi64_epi8(token, groups, 0));
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

/* 16 tokens to a register: sums stay in theirs. */
static void trellis_fit_avx512(const float *x, const uint8_t *windows, const uint8_t *bits,
                               const float *weight, uint32_t D, float *product, float *square)
{
    __m512 sum[4], sum_sq[4];
    __m512i table[4];
    for (int i = 0; i < 4; i++)
        sum[i] = sum_sq[i] = _mm512_setzero_ps();
    for (uint32_t d = 0; d < D; d++, x += TKV_PAGE_TOKENS, windows += TKV_PAGE_TOKENS) {
        const __m512 w = _mm512_set1_ps(weight[d]);
        open_table(bits[d], table);
        const __m512i levels = look_up(table, _mm512_loadu_si512(windows));
        const __m128i tokens[4] = {
            _mm512_castsi512_si128(levels), _mm512_extracti32x4_epi32(levels, 1),
            _mm512_extracti32x4_epi32(levels, 2), _mm512_extracti32x4_epi32(levels, 3)};
        for (int i = 0; i < 4; i++) {
            const __m512 level = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(tokens[i]));
            const __m512 weighted = _mm512_mul_ps(w, _mm512_loadu_ps(x + 16 * i));
            sum[i] = _mm512_add_ps(sum[i], _mm512_mul_ps(weighted, level));
            sum_sq[i] = _mm512_add_ps(sum_sq[i], _mm512_mul_ps(_mm512_mul_ps(w, level), level));
        }
    }
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_ps(product + 16 * i, sum[i]);
        _mm512_storeu_ps(square + 16 * i, sum_sq[i]);
    }
}

void tkv_trellis_avx512(struct tkv_kernels *k)
{
    k->trellis_tile_k = trellis_tile_k_avx512;
    k->trellis_tile_v = trellis_tile_v_avx512;
    k->trellis_fit = trellis_fit_avx512;
}
