/* Polar codes with AVX2: as polar_avx512.c, 32 slots at a time. A 64-byte table is four byte
 * shuffles and three blends here. Bit-exact with the reference, which defines r, A and v. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "format/polar.h"
#include "kernels/kernels.h"
#include "kernels/polar_steps.h"

void tkv_polar_avx2(struct tkv_kernels *k);

#define TOKENS TKV_PAGE_TOKENS

struct work {
    _Alignas(32) uint8_t ratio[4 * TKV_MAX_HEAD_DIM];
    _Alignas(
        32) uint8_t even[16 * TKV_MAX_HEAD_DIM]; /* A in the even bytes, zeros in the odd ones */
    _Alignas(32) uint8_t odd[16 * TKV_MAX_HEAD_DIM];
};

static inline __m256i choose(__m256i mask, __m256i yes, __m256i no)
{
    return _mm256_or_si256(_mm256_and_si256(mask, yes), _mm256_andnot_si256(mask, no));
}

static inline __m256i odd_bytes(__m256i x)
{
    return _mm256_and_si256(x, _mm256_set1_epi16((short)0xff00));
}

/* Bits 4 and 5 of each byte, where a blend looks. */
struct quarters {
    __m256i bit4, bit5;
};

static inline struct quarters quarters(__m256i index)
{
    return (struct quarters){_mm256_slli_epi16(index, 3), _mm256_slli_epi16(index, 2)};
}

/* table[index & 63]; `q` holds the index's bits 4 and 5. */
static inline __m256i lookup(const void *table, __m256i index, struct quarters q)
{
    const __m256i low = _mm256_and_si256(index, _mm256_set1_epi8(15));
    __m256i x[4];
    for (size_t i = 0; i < 4; i++) {
        const __m128i part = _mm_loadu_si128((const __m128i *)table + i);
        x[i] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(part), low);
    }
    return _mm256_blendv_epi8(_mm256_blendv_epi8(x[0], x[1], q.bit4),
                              _mm256_blendv_epi8(x[2], x[3], q.bit4), q.bit5);
}

/* --- columns --- */

/* 32 fields of 6 bits: 4 in 3 bytes, moved to the bytes of a dword. */
static inline __m256i take_6(const uint8_t *stream)
{
    const __m128i low = _mm_loadu_si128((const __m128i *)stream),
                  high = _mm_loadu_si128((const __m128i *)(stream + 8));
    const __m256i place = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1, 4,
                                           5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
    const __m256i w = _mm256_shuffle_epi8(_mm256_setr_m128i(low, high), place);
    const __m256i a = _mm256_and_si256(w, _mm256_set1_epi32(0x3f));
    const __m256i b = _mm256_and_si256(_mm256_slli_epi32(w, 2), _mm256_set1_epi32(0x3f00));
    const __m256i c = _mm256_and_si256(_mm256_slli_epi32(w, 4), _mm256_set1_epi32(0x3f0000));
    const __m256i d = _mm256_and_si256(_mm256_slli_epi32(w, 6), _mm256_set1_epi32(0x3f000000));
    return _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
}

/* 32 fields of 3 bits: 4 in 12 bits, the second four of 8 begin at bit 4 of a byte. */
static inline __m256i take_3(const uint8_t *stream)
{
    uint8_t bytes[16] = {0};
    memcpy(bytes, stream, 12);
    const __m256i place =
        _mm256_setr_epi8(0, 1, -1, -1, 1, 2, -1, -1, 3, 4, -1, -1, 4, 5, -1, -1, 6, 7, -1, -1, 7, 8,
                         -1, -1, 9, 10, -1, -1, 10, 11, -1, -1);
    const __m256i all = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bytes));
    const __m256i w = _mm256_srlv_epi32(_mm256_shuffle_epi8(all, place),
                                        _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4));
    const __m256i a = _mm256_and_si256(w, _mm256_set1_epi32(7));
    const __m256i b = _mm256_and_si256(_mm256_slli_epi32(w, 5), _mm256_set1_epi32(0x700));
    const __m256i c = _mm256_and_si256(_mm256_slli_epi32(w, 10), _mm256_set1_epi32(0x70000));
    const __m256i d = _mm256_and_si256(_mm256_slli_epi32(w, 15), _mm256_set1_epi32(0x7000000));
    return _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
}

/* One column a register, 32 entries, to four registers of slots in order. */
TKV_INLINE void interleave(tkv_kind kind, const __m256i p[4], __m256i slots[4])
{
    __m256i x[4];
    if (kind == TKV_K) {
        const __m256i a0 = _mm256_unpacklo_epi8(p[0], p[1]), a1 = _mm256_unpackhi_epi8(p[0], p[1]);
        const __m256i b0 = _mm256_unpacklo_epi8(p[2], p[3]), b1 = _mm256_unpackhi_epi8(p[2], p[3]);
        x[0] = _mm256_unpacklo_epi16(a0, b0);
        x[1] = _mm256_unpackhi_epi16(a0, b0);
        x[2] = _mm256_unpacklo_epi16(a1, b1);
        x[3] = _mm256_unpackhi_epi16(a1, b1);
    } else {
        const __m256i a0 = _mm256_unpacklo_epi32(p[0], p[1]),
                      a1 = _mm256_unpackhi_epi32(p[0], p[1]);
        const __m256i b0 = _mm256_unpacklo_epi32(p[2], p[3]),
                      b1 = _mm256_unpackhi_epi32(p[2], p[3]);
        x[0] = _mm256_unpacklo_epi64(a0, b0);
        x[1] = _mm256_unpackhi_epi64(a0, b0);
        x[2] = _mm256_unpacklo_epi64(a1, b1);
        x[3] = _mm256_unpackhi_epi64(a1, b1);
    }
    slots[0] = _mm256_permute2x128_si256(x[0], x[1], 0x20);
    slots[1] = _mm256_permute2x128_si256(x[2], x[3], 0x20);
    slots[2] = _mm256_permute2x128_si256(x[0], x[1], 0x31);
    slots[3] = _mm256_permute2x128_si256(x[2], x[3], 0x31);
}

/* r of 8 entries as the even and the odd bytes of their 32 slots need it, in 16-bit lanes. */
TKV_INLINE void spread_ratios(tkv_kind kind, const uint8_t *ratio, __m256i *even, __m256i *odd)
{
    long long bytes;
    memcpy(&bytes, ratio, 8);
    const __m256i r = _mm256_set1_epi64x(bytes);
    if (kind == TKV_K) {
        *even = *odd = _mm256_shuffle_epi8(
            r, _mm256_setr_epi8(0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1, 4, -1, 4,
                                -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1));
        return;
    }
    const __m256i lane =
        _mm256_setr_epi32(0, 0, 0, 0, 0x00040004, 0x00040004, 0x00040004, 0x00040004);
    *even = _mm256_shuffle_epi8(r, _mm256_add_epi8(_mm256_set1_epi32((int)0xff02ff00), lane));
    *odd = _mm256_shuffle_epi8(r, _mm256_add_epi8(_mm256_set1_epi32((int)0xff03ff01), lane));
}

TKV_INLINE void make_columns(const struct tkv_polar_tables *tables, tkv_kind kind, uint32_t bits,
                             const uint8_t *page, uint32_t D, struct work *w)
{
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    for (size_t e = 0; e < 4 * (size_t)D; e += 32) {
        const __m256i left = take_6(page + planes.upper + e / 8 * 6);
        __m256i right = left, p[4], slots[4];
        if (bits == 3)
            right = choose(_mm256_set1_epi8(7), take_3(page + planes.upper_b + e / 8 * 3), left);
        for (size_t n = 0; n < 4; n++)
            p[n] = lookup(tables->p[n], n < 2 ? left : right, quarters(left));
        interleave(kind, p, slots);
        for (size_t k = 0; k < 4; k++) {
            __m256i r_even, r_odd;
            spread_ratios(kind, w->ratio + e + 8 * k, &r_even, &r_odd);
            const __m256i even = _mm256_mulhrs_epi16(r_even, _mm256_slli_epi16(slots[k], 8));
            const __m256i odd = _mm256_mulhrs_epi16(r_odd, odd_bytes(slots[k]));
            _mm256_store_si256((__m256i *)(w->even + 4 * e + 32 * k), even);
            _mm256_store_si256((__m256i *)(w->odd + 4 * e + 32 * k), _mm256_slli_epi16(odd, 8));
        }
    }
}

/* --- leaves --- */

/* Level 2 of 32 slots: its low two bits in bits 4 and 5, its third, if any, in bits 2 and 3. */
TKV_INLINE __m256i level_2(uint32_t bits, const uint8_t *low, const uint8_t *high, size_t n_slots)
{
    uint64_t word = 0;
    uint32_t third = 0;
    memcpy(&word, low, n_slots / 4);
    const __m256i place = _mm256_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4,
                                           4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
    const __m256i x = _mm256_shuffle_epi8(_mm256_set1_epi64x((long long)word), place);
    const __m256i a = _mm256_and_si256(_mm256_slli_epi16(x, 4), _mm256_set1_epi32(0x30));
    const __m256i b = _mm256_and_si256(_mm256_slli_epi16(x, 2), _mm256_set1_epi32(0x3000));
    const __m256i c = _mm256_and_si256(x, _mm256_set1_epi32(0x300000));
    const __m256i d = _mm256_and_si256(_mm256_srli_epi16(x, 2), _mm256_set1_epi32(0x30000000));
    const __m256i two = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
    if (bits == 2)
        return two;
    memcpy(&third, high, n_slots / 8);
    const __m256i bytes = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                           2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    const __m256i y =
        _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)third), bytes), bit);
    return _mm256_or_si256(two,
                           _mm256_and_si256(_mm256_cmpeq_epi8(y, bit), _mm256_set1_epi8(0x0c)));
}

/* A times f, rounded, and for K with the tile's offset of 128 on top. */
TKV_INLINE __m256i leaf(tkv_kind kind, __m256i even, __m256i odd, __m256i f)
{
    const __m256i round = _mm256_set1_epi16((short)(kind == TKV_K ? 0x8080 : 0x0080));
    const __m256i a = _mm256_add_epi16(_mm256_maddubs_epi16(even, f), round);
    const __m256i b = _mm256_add_epi16(_mm256_maddubs_epi16(odd, f), round);
    return _mm256_or_si256(_mm256_srli_epi16(a, 8), odd_bytes(b));
}

/* The four quarters of n_slots (16 or 32) slots; quarters are `step` bytes apart in the tile. */
TKV_INLINE void leaves(const struct tkv_polar_tables *tables, tkv_kind kind, uint32_t bits,
                       const struct tkv_polar_planes *planes, const uint8_t *page,
                       const struct work *w, size_t slot, size_t n_slots, uint8_t *tile,
                       size_t step)
{
    __m256i c1;
    if (n_slots == 32)
        c1 = _mm256_loadu_si256((const __m256i *)(page + planes->c1 + slot));
    else
        c1 = _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *)(page + planes->c1 + slot)));
    const __m256i c2 =
        level_2(bits, page + planes->c2 + slot / 4, page + planes->c2_high + slot / 8, n_slots);
    const __m256i even = _mm256_loadu_si256((const __m256i *)(w->even + slot));
    const __m256i odd = _mm256_loadu_si256((const __m256i *)(w->odd + slot));
    const __m256i cosine_mask = _mm256_set1_epi8(bits == 3 ? 7 : 15),
                  sine_mask = _mm256_set1_epi8(bits == 3 ? 11 : 15);
    const struct quarters q = quarters(c2);
    for (size_t i = 0; i < 4; i++) {
        const __m256i index =
            choose(i & 1 ? sine_mask : cosine_mask, i < 2 ? c1 : _mm256_srli_epi16(c1, 4), c2);
        const __m256i value = leaf(kind, even, odd, lookup(tables->f[i], index, q));
        if (n_slots == 32)
            _mm256_storeu_si256((__m256i *)(tile + i * step), value);
        else
            _mm_storeu_si128((__m128i *)(tile + i * step), _mm256_castsi256_si128(value));
    }
}

TKV_INLINE void tile_k(const struct tkv_polar_tables *tables, uint32_t bits, const uint8_t *page,
                       uint32_t D, uint8_t *tile, float *scale)
{
    struct work w;
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    const size_t n_blocks = D / 16;
    tkv_polar_ratios(tables, TKV_K, bits == 3 ? 1 : 2, page + planes.radius, n_blocks, w.ratio,
                     scale);
    make_columns(tables, TKV_K, bits, page, D, &w);
    for (size_t group = 0; group < 4; group++)
        for (size_t i = 0; i < 2 * n_blocks; i++)
            leaves(tables, TKV_K, bits, &planes, page, &w, (2 * group * n_blocks + i) * 32, 32,
                   tile + (8 * group * n_blocks + i) * 32, n_blocks * 64);
}

TKV_INLINE void tile_v(const struct tkv_polar_tables *tables, uint32_t bits, const uint8_t *page,
                       uint32_t D, uint8_t *tile, float *scale)
{
    struct work w;
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    tkv_polar_ratios(tables, TKV_V, bits == 3 ? 1 : 2, page + planes.radius, D / 16, w.ratio,
                     scale);
    make_columns(tables, TKV_V, bits, page, D, &w);
    for (size_t group = 0; group < 16; group++) {
        const size_t first = group * D;
        uint8_t *to = tile + group * 4 * D;
        size_t i = 0;
        for (; i + 32 <= D; i += 32)
            leaves(tables, TKV_V, bits, &planes, page, &w, first + i, 32, to + i, D);
        if (i < D)
            leaves(tables, TKV_V, bits, &planes, page, &w, first + i, 16, to + i, D);
    }
}

static void polar_tile_k_avx2(const struct tkv_polar_tables *tables, const uint8_t *page,
                              uint32_t D, uint8_t *tile, float *scale)
{
    if (tables->bits == 2)
        tile_k(tables, 2, page, D, tile, scale);
    else
        tile_k(tables, 3, page, D, tile, scale);
}

static void polar_tile_v_avx2(const struct tkv_polar_tables *tables, const uint8_t *page,
                              uint32_t D, int8_t *tile, float *scale)
{
    if (tables->bits == 2)
        tile_v(tables, 2, page, D, (uint8_t *)tile, scale);
    else
        tile_v(tables, 3, page, D, (uint8_t *)tile, scale);
}

/* --- rows to codes --- */

TKV_INLINE __m256i count_above(const float *tan_sq, size_t n, __m256 first, __m256 second)
{
    __m256i code = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i++) {
        const __m256 edge = _mm256_mul_ps(_mm256_set1_ps(tan_sq[i]), first);
        code = _mm256_sub_epi32(code, _mm256_castps_si256(_mm256_cmp_ps(second, edge, _CMP_GT_OQ)));
    }
    return code;
}

TKV_INLINE __m256i code_pair(const struct tkv_polar_tables *tables, __m256 x, __m256 y,
                             __m256 *sum_sq)
{
    const __m256 x_sq = _mm256_mul_ps(x, x), y_sq = _mm256_mul_ps(y, y), zero = _mm256_setzero_ps();
    const __m256i x_below = _mm256_castps_si256(_mm256_cmp_ps(x, zero, _CMP_LT_OQ));
    const __m256i y_below = _mm256_castps_si256(_mm256_cmp_ps(y, zero, _CMP_LT_OQ));
    *sum_sq = _mm256_add_ps(x_sq, y_sq);
    return _mm256_or_si256(count_above(tables->tan_sq[0], 3, x_sq, y_sq),
                           _mm256_or_si256(_mm256_and_si256(x_below, _mm256_set1_epi32(4)),
                                           _mm256_and_si256(y_below, _mm256_set1_epi32(8))));
}

/* The low bytes of 8 dwords, to n of 4 or 8. */
static inline void store_bytes(uint8_t *to, __m256i x, size_t n)
{
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const long long bytes = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
    memcpy(to, &bytes, n);
}

TKV_INLINE void code_rows(const struct tkv_polar_tables *tables, uint32_t bits, const float *x,
                          uint32_t D, struct tkv_polar_rows *out)
{
    const size_t J = D / 4;
    for (size_t t = 0; t < TOKENS; t++, x += D) {
        _Alignas(32) float column_sq[TKV_MAX_HEAD_DIM / 4 + 4];
        for (size_t j = 0; j < J; j += 8) {
            const size_t n = J - j >= 8 ? 8 : 4;
            const __m256i live = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n),
                                                    _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
            __m256 v[4], a_sq, b_sq;
            for (size_t q = 0; q < 4; q++)
                v[q] = _mm256_maskload_ps(x + q * J + j, live);
            const __m256i a = code_pair(tables, v[0], v[1], &a_sq),
                          b = code_pair(tables, v[2], v[3], &b_sq);
            store_bytes(out->c1 + t * J + j, _mm256_or_si256(a, _mm256_slli_epi32(b, 4)), n);
            store_bytes(out->c2 + t * J + j,
                        count_above(tables->tan_sq[1], (1u << bits) - 1, a_sq, b_sq), n);
            _mm256_store_ps(column_sq + j, _mm256_add_ps(a_sq, b_sq));
        }
        tkv_polar_code_upper(tables, bits, column_sq, D / 16, out->upper + t * (D / 16),
                             out->sum_sq + t * (D / 16));
    }
}

static void polar_codes_avx2(const struct tkv_polar_tables *tables, const float *x, uint32_t D,
                             struct tkv_polar_rows *out)
{
    if (tables->bits == 2)
        code_rows(tables, 2, x, D, out);
    else
        code_rows(tables, 3, x, D, out);
}

void tkv_polar_avx2(struct tkv_kernels *k)
{
    k->polar_codes = polar_codes_avx2;
    k->polar_tile_k = polar_tile_k_avx2;
    k->polar_tile_v = polar_tile_v_avx2;
}
