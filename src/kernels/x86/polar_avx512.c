/* Polar codes with AVX-512 BW and VBMI. Bit-exact with the reference, which defines r, A and v.
 *
 * A tile is made in three passes over arrays that stay in the first-level cache:
 *
 *   radii    one float of scale a token; r, a byte for every entry, in entry order
 *   columns  A for 256 slots at a time: p by byte shuffle from 64-byte tables, put in slot order
 *   leaves   64 slots become 4 x 64 codes: f by byte shuffle from 64-byte tables, times A
 *
 * Bytes are multiplied as the even and the odd ones of 16-bit lanes (A is stored that way, each
 * with zeros in between), and the two sets of high bytes blended. Per slot of four values that is
 * about half an instruction. */
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "base/compiler.h"
#include "format/polar.h"
#include "kernels/kernels.h"

void tkv_polar_avx512(struct tkv_kernels *k);

#define TOKENS     TKV_PAGE_TOKENS
#define RADIUS_MIN 0x1p-64f
#define ODD_BYTES  0xaaaaaaaaaaaaaaaaull

/* The largest head's r and A: 2 and 16 KiB. */
struct work {
    _Alignas(64) uint8_t ratio[4 * TKV_MAX_HEAD_DIM];
    _Alignas(64) uint8_t even[16 * TKV_MAX_HEAD_DIM];
    _Alignas(64) uint8_t odd[16 * TKV_MAX_HEAD_DIM];
};

static inline __m512i choose(__m512i mask, __m512i yes, __m512i no)
{
    return _mm512_ternarylogic_epi32(mask, yes, no, 0xca);
}

static inline __m512i every_16(__m128i x)
{
    return _mm512_broadcast_i32x4(x);
}

/* --- radii --- */

static inline __m512 log_radii(const uint8_t *p)
{
    const __m512i mantissas = _mm512_loadu_si512(tkv_polar_exp2_16);
    const __m512i c = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    const __m512i zero = _mm512_setzero_si512();
    const __m512i under =
        _mm512_max_epi32(_mm512_sub_epi32(_mm512_set1_epi32(TKV_POLAR_LOG_LOW), c), zero);
    const __m512i over =
        _mm512_max_epi32(_mm512_sub_epi32(c, _mm512_set1_epi32(TKV_POLAR_LOG_HIGH)), zero);
    const __m512i extra = _mm512_sub_epi32(over, under);
    const __m512i seven = _mm512_sub_epi32(_mm512_slli_epi32(extra, 3), extra);
    const __m512i steps = _mm512_add_epi32(
        _mm512_add_epi32(c, seven), _mm512_set1_epi32(512 - TKV_POLAR_LOG_BIAS + 16 * (127 - 32)));
    const __m512i exponent = _mm512_slli_epi32(_mm512_srli_epi32(steps, 4), 23);
    const __m512i bits = _mm512_or_si512(exponent, _mm512_permutexvar_epi32(steps, mantissas));
    return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(_mm512_test_epi32_mask(c, c), bits));
}

static inline __m512 bf16_radii(const uint8_t *p)
{
    const __m256i u =
        _mm256_and_si256(_mm256_loadu_si256((const __m256i *)p), _mm256_set1_epi16(0x7fff));
    const __m256i finite = _mm256_min_epu16(u, _mm256_set1_epi16(0x7f7f));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(finite), 16));
}

TKV_INLINE __m512 radii(const uint8_t *plane, uint32_t radius_bytes, size_t i)
{
    return radius_bytes == 2 ? bf16_radii(plane + 32 * i) : log_radii(plane + 16 * i);
}

static inline __m512 inverses(__m512 largest)
{
    const __m512 floored = _mm512_max_ps(largest, _mm512_set1_ps(RADIUS_MIN));
    return _mm512_div_ps(_mm512_set1_ps(TKV_POLAR_RATIO_ONE), floored);
}

/* r of 16 tokens, [blocks][16], whatever the page holds. Returns their largest radii, as do the two
 * below. */
TKV_INLINE __m512 any_ratios(const uint8_t *plane, uint32_t radius_bytes, size_t n_blocks,
                             uint8_t *ratio)
{
    __m512 largest = _mm512_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++)
        largest = _mm512_max_ps(radii(plane, radius_bytes, b), largest);
    const __m512 inverse = inverses(largest);
    for (size_t b = 0; b < n_blocks; b++) {
        const __m512 r = _mm512_mul_ps(radii(plane, radius_bytes, b), inverse);
        _mm_storeu_si128((__m128i *)(ratio + 16 * b), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(r)));
    }
    return largest;
}

/* r of bf16 radii, two blocks at a time, where all are finite and not negative; false where some
 * are not. */
static inline bool bf16_ratios(const uint8_t *plane, size_t n_blocks, uint8_t *ratio,
                               __m512 *largest)
{
    __m256i m = _mm256_setzero_si256();
    for (size_t b = 0; b < n_blocks; b++)
        m = _mm256_max_epu16(m, _mm256_loadu_si256((const __m256i *)(plane + 32 * b)));
    if (_mm256_cmpgt_epu16_mask(m, _mm256_set1_epi16(0x7f7f)))
        return false;
    *largest = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(m), 16));
    const __m512 inverse = inverses(*largest);
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
    const __m512 even_inverse = _mm512_permutexvar_ps(evens, inverse);
    const __m512 odd_inverse =
        _mm512_permutexvar_ps(_mm512_add_epi32(evens, _mm512_set1_epi32(1)), inverse);
    for (size_t b = 0; b < n_blocks; b += 2) {
        const __mmask32 live = n_blocks - b >= 2 ? 0xffffffff : 0xffff;
        const __m512i x = _mm512_maskz_loadu_epi16(live, plane + 32 * b);
        const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
        const __m512 odd =
            _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000)));
        const __m512i r_even = _mm512_cvtps_epi32(_mm512_mul_ps(even, even_inverse));
        const __m512i r_odd = _mm512_cvtps_epi32(_mm512_mul_ps(odd, odd_inverse));
        const __m512i r = _mm512_or_si512(r_even, _mm512_slli_epi32(r_odd, 16));
        _mm256_mask_storeu_epi8(ratio + 16 * b, live, _mm512_cvtepi16_epi8(r));
    }
    return true;
}

/* r of logarithmic radii, four blocks at a time, where all codes but 0 are steps of 1/16 octave: a
 * table of differences. False where some are not. */
static inline bool log_ratios(const uint8_t *plane, size_t n_blocks, uint8_t *ratio,
                              __m512 *largest)
{
    const __m512i low = _mm512_loadu_si512(tkv_polar_log_ratio),
                  high = _mm512_loadu_si512(tkv_polar_log_ratio + 64);
    __m128i m = _mm_setzero_si128();
    for (size_t b = 0; b < n_blocks; b++)
        m = _mm_max_epu8(m, _mm_loadu_si128((const __m128i *)(plane + 16 * b)));
    const __m512i every = every_16(m);
    __mmask64 outside = _mm512_cmpgt_epu8_mask(every, _mm512_set1_epi8((char)TKV_POLAR_LOG_HIGH));
    for (size_t b = 0; b < n_blocks; b += 4) {
        const __mmask64 live =
            n_blocks - b >= 4 ? ~(__mmask64)0 : ((__mmask64)1 << 16 * (n_blocks - b)) - 1;
        const __m512i c = _mm512_maskz_loadu_epi8(live, plane + 16 * b);
        const __mmask64 nonzero = _mm512_test_epi8_mask(c, c);
        outside |= _mm512_mask_cmplt_epu8_mask(nonzero, c, _mm512_set1_epi8(TKV_POLAR_LOG_LOW));
        const __m512i steps = _mm512_sub_epi8(every, c);
        const __mmask64 seen =
            _mm512_mask_cmplt_epu8_mask(nonzero, steps, _mm512_set1_epi8((char)144));
        const __m512i index = _mm512_min_epu8(steps, _mm512_set1_epi8(127));
        const __m512i share =
            _mm512_maskz_mov_epi8(seen, _mm512_permutex2var_epi8(low, index, high));
        _mm512_mask_storeu_epi8(ratio + 16 * b, live, share);
    }
    _Alignas(16) uint8_t codes[16];
    _mm_store_si128((__m128i *)codes, m);
    *largest = log_radii(codes);
    return outside == 0;
}

/* [blocks][4 groups of 4 tokens] to [4 groups][blocks]: from the order of radii to that of V's
 * entries. */
static inline void turn_ratios(const uint8_t *ratio, size_t n_blocks, uint8_t *to)
{
    const __m512i turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    size_t b = 0;
    for (; b + 4 <= n_blocks; b += 4) {
        const __m512i x = _mm512_permutexvar_epi32(turn, _mm512_loadu_si512(ratio + 16 * b));
        _mm_storeu_si128((__m128i *)(to + 4 * b), _mm512_castsi512_si128(x));
        _mm_storeu_si128((__m128i *)(to + 4 * (n_blocks + b)), _mm512_extracti32x4_epi32(x, 1));
        _mm_storeu_si128((__m128i *)(to + 4 * (2 * n_blocks + b)), _mm512_extracti32x4_epi32(x, 2));
        _mm_storeu_si128((__m128i *)(to + 4 * (3 * n_blocks + b)), _mm512_extracti32x4_epi32(x, 3));
    }
    for (; b < n_blocks; b++)
        for (size_t i = 0; i < 4; i++)
            memcpy(to + 4 * (i * n_blocks + b), ratio + 16 * b + 4 * i, 4);
}

TKV_INLINE void make_ratios(const struct tkv_polar_tables *tables, tkv_kind kind,
                            uint32_t radius_bytes, const uint8_t *plane, size_t n_blocks,
                            uint8_t *ratio, float *scale)
{
    _Alignas(64) uint8_t unturned[TKV_MAX_HEAD_DIM];
    for (size_t group = 0; group < 4;
         group++, plane += 16 * n_blocks * radius_bytes, ratio += 16 * n_blocks) {
        uint8_t *to = kind == TKV_K ? ratio : unturned;
        __m512 largest;
        if (!(radius_bytes == 2 ? bf16_ratios : log_ratios)(plane, n_blocks, to, &largest))
            largest = any_ratios(plane, radius_bytes, n_blocks, to);
        _mm512_storeu_ps(scale + 16 * group, _mm512_mul_ps(_mm512_set1_ps(tables->unit), largest));
        if (kind == TKV_V)
            turn_ratios(unturned, n_blocks, ratio);
    }
}

/* --- columns --- */

/* 64 entries, taken from the stream so that byte 16 L + 4 k + i is entry 16 k + 4 L + i: after the
 * interleaving of four columns, register k then holds the entries 16 k .. 16 k + 15 in order.
 * Fields of 6 bits; higher bits are rubbish. */
static inline __m512i take_6(const uint8_t *stream)
{
    /* 4 entries are 3 bytes: qword 2 L + h gets those of k = 2 h and k = 2 h + 1. */
    const __m512i bytes = _mm512_maskz_loadu_epi8(0xffffffffffffull, stream);
    const __m512i place = _mm512_set_epi8(0, 0, 47, 46, 45, 35, 34, 33, 0, 0, 23, 22, 21, 11, 10, 9,
                                          0, 0, 44, 43, 42, 32, 31, 30, 0, 0, 20, 19, 18, 8, 7, 6,
                                          0, 0, 41, 40, 39, 29, 28, 27, 0, 0, 17, 16, 15, 5, 4, 3,
                                          0, 0, 38, 37, 36, 26, 25, 24, 0, 0, 14, 13, 12, 2, 1, 0);
    const __m512i shift = _mm512_set1_epi64(0x2a241e18120c0600);
    return _mm512_multishift_epi64_epi8(shift, _mm512_permutexvar_epi8(place, bytes));
}

/* The same for fields of 3 bits: 4 entries are 12 bits. */
static inline __m512i take_3(const uint8_t *stream)
{
    const __m512i bytes = _mm512_maskz_loadu_epi8(0xffffffull, stream);
    /* Two groups of 4 entries in 16-bit lanes 0 and 2 of each qword; a group starts at bit 0 or 4
     * of its byte. */
    const __m512i place =
        _mm512_set_epi8(0, 0, 23, 22, 0, 0, 17, 16, 0, 0, 11, 10, 0, 0, 5, 4, 0, 0, 22, 21, 0, 0,
                        16, 15, 0, 0, 10, 9, 0, 0, 4, 3, 0, 0, 20, 19, 0, 0, 14, 13, 0, 0, 8, 7, 0,
                        0, 2, 1, 0, 0, 19, 18, 0, 0, 13, 12, 0, 0, 7, 6, 0, 0, 1, 0);
    const __m512i shift = _mm512_set_epi64(
        0x2d2a27240d0a0704, 0x2d2a27240d0a0704, 0x2926232009060300, 0x2926232009060300,
        0x2d2a27240d0a0704, 0x2d2a27240d0a0704, 0x2926232009060300, 0x2926232009060300);
    return _mm512_multishift_epi64_epi8(shift, _mm512_permutexvar_epi8(place, bytes));
}

/* Four registers of one column each to four of slots in order. */
TKV_INLINE void interleave(tkv_kind kind, const __m512i p[4], __m512i slots[4])
{
    if (kind == TKV_K) {
        const __m512i a0 = _mm512_unpacklo_epi8(p[0], p[1]), a1 = _mm512_unpackhi_epi8(p[0], p[1]);
        const __m512i b0 = _mm512_unpacklo_epi8(p[2], p[3]), b1 = _mm512_unpackhi_epi8(p[2], p[3]);
        slots[0] = _mm512_unpacklo_epi16(a0, b0);
        slots[1] = _mm512_unpackhi_epi16(a0, b0);
        slots[2] = _mm512_unpacklo_epi16(a1, b1);
        slots[3] = _mm512_unpackhi_epi16(a1, b1);
    } else {
        const __m512i a0 = _mm512_unpacklo_epi32(p[0], p[1]),
                      a1 = _mm512_unpackhi_epi32(p[0], p[1]);
        const __m512i b0 = _mm512_unpacklo_epi32(p[2], p[3]),
                      b1 = _mm512_unpackhi_epi32(p[2], p[3]);
        slots[0] = _mm512_unpacklo_epi64(a0, b0);
        slots[1] = _mm512_unpackhi_epi64(a0, b0);
        slots[2] = _mm512_unpacklo_epi64(a1, b1);
        slots[3] = _mm512_unpackhi_epi64(a1, b1);
    }
}

/* 64 slots: r as the even and the odd bytes need it, in 16-bit lanes. */
TKV_INLINE void spread_ratios(tkv_kind kind, const uint8_t *ratio, __m512i *even, __m512i *odd)
{
    const __m512i r = every_16(_mm_loadu_si128((const __m128i *)ratio));
    if (kind == TKV_K) { /* lane L: token 4 L + i in both halves of dword i */
        const __m512i place = _mm512_add_epi8(
            every_16(_mm_setr_epi8(0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1)),
            _mm512_setr_epi32(0, 0, 0, 0, 0x00040004, 0x00040004, 0x00040004, 0x00040004,
                              0x00080008, 0x00080008, 0x00080008, 0x00080008, 0x000c000c,
                              0x000c000c, 0x000c000c, 0x000c000c));
        *even = *odd = _mm512_shuffle_epi8(r, place);
        return;
    }
    /* lane L: block L, tokens 0 and 2 or 1 and 3 of every column */
    const __m512i lane = _mm512_setr_epi32(
        0, 0, 0, 0, 0x00040004, 0x00040004, 0x00040004, 0x00040004, 0x00080008, 0x00080008,
        0x00080008, 0x00080008, 0x000c000c, 0x000c000c, 0x000c000c, 0x000c000c);
    *even = _mm512_shuffle_epi8(r, _mm512_add_epi8(_mm512_set1_epi32((int)0xff02ff00), lane));
    *odd = _mm512_shuffle_epi8(r, _mm512_add_epi8(_mm512_set1_epi32((int)0xff03ff01), lane));
}

TKV_INLINE void make_columns(const struct tkv_polar_tables *tables, tkv_kind kind, uint32_t bits,
                             const uint8_t *page, uint32_t D, struct work *w)
{
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    __m512i table[4];
    for (size_t n = 0; n < 4; n++)
        table[n] = _mm512_loadu_si512(tables->p[n]);
    for (size_t e = 0; e < 4 * (size_t)D; e += 64) {
        const __m512i left = take_6(page + planes.upper + e / 8 * 6);
        __m512i right = left, p[4], slots[4];
        if (bits == 3)
            right = choose(_mm512_set1_epi8(7), take_3(page + planes.upper_b + e / 8 * 3), left);
        for (size_t n = 0; n < 4; n++)
            p[n] = _mm512_permutexvar_epi8(n < 2 ? left : right, table[n]);
        interleave(kind, p, slots);
        for (size_t k = 0; k < 4; k++) {
            __m512i r_even, r_odd;
            spread_ratios(kind, w->ratio + e + 16 * k, &r_even, &r_odd);
            /* mulhrs with p in the high byte: (r * p * 256 + 2^14) >> 15 */
            const __m512i even = _mm512_mulhrs_epi16(r_even, _mm512_slli_epi16(slots[k], 8));
            const __m512i odd =
                _mm512_mulhrs_epi16(r_odd, _mm512_maskz_mov_epi8(ODD_BYTES, slots[k]));
            _mm512_store_si512(w->even + 4 * e + 64 * k, even);
            _mm512_store_si512(w->odd + 4 * e + 64 * k, _mm512_slli_epi16(odd, 8));
        }
    }
}

/* --- leaves --- */

/* Level 2 of 64 slots: its low two bits in bits 4 and 5, its third, if any, in bits 2 and 3; other
 * bits are rubbish. */
TKV_INLINE __m512i level_2(uint32_t bits, const uint8_t *low, const uint8_t *high, __mmask64 live)
{
    const __m512i shift = _mm512_set1_epi64(0x0a08060402003e3c);
    const __m128i packed =
        _mm_maskz_loadu_epi16((__mmask8)_pext_u64(live, 0x0101010101010101u), low);
    const __m512i two = _mm512_multishift_epi64_epi8(shift, _mm512_cvtepu16_epi64(packed));
    if (bits == 2)
        return two;
    uint64_t third = 0;
    if (live == ~(__mmask64)0)
        memcpy(&third, high, 8);
    else
        memcpy(&third, high, (size_t)_mm_popcnt_u64(live) / 8);
    return choose(_mm512_set1_epi8(0x30), two, _mm512_movm_epi8(third));
}

/* A times f, rounded, and for K with the tile's offset of 128 on top. Odd bytes stay where the
 * product has them, the high halves; even ones come down by a multiplication that rounds: (a * 128
 * + 2^14) >> 15. */
TKV_INLINE __m512i leaf(tkv_kind kind, __m512i even, __m512i odd, __m512i f)
{
    const __m512i round = _mm512_set1_epi16((short)(kind == TKV_K ? 0x8080 : 0x0080));
    const __m512i a = _mm512_mulhrs_epi16(_mm512_maddubs_epi16(even, f), _mm512_set1_epi16(128));
    const __m512i b = _mm512_add_epi16(_mm512_maddubs_epi16(odd, f), round);
    if (kind == TKV_K)
        return _mm512_mask_add_epi8(b, ~ODD_BYTES, a, _mm512_set1_epi8((char)128));
    return _mm512_mask_mov_epi8(b, ~ODD_BYTES, a);
}

/* The four quarters of the slots `live`, the first of which is `slot`; quarters are `step` bytes
 * apart in the tile. */
TKV_INLINE void leaves(const __m512i f[4], tkv_kind kind, uint32_t bits,
                       const struct tkv_polar_planes *planes, const uint8_t *page,
                       const struct work *w, size_t slot, __mmask64 live, uint8_t *tile,
                       size_t step)
{
    const __m512i c1 = _mm512_maskz_loadu_epi8(live, page + planes->c1 + slot);
    const __m512i c2 =
        level_2(bits, page + planes->c2 + slot / 4, page + planes->c2_high + slot / 8, live);
    const __m512i even = _mm512_loadu_si512(w->even + slot),
                  odd = _mm512_loadu_si512(w->odd + slot);
    const __m512i code[2] = {c1, _mm512_srli_epi16(c1, 4)};
    const __m512i cosine_mask = _mm512_set1_epi8(bits == 3 ? 7 : 15),
                  sine_mask = _mm512_set1_epi8(bits == 3 ? 11 : 15);
    for (size_t q = 0; q < 4; q++) {
        const __m512i index = choose(q & 1 ? sine_mask : cosine_mask, code[q >> 1], c2);
        const __m512i value = leaf(kind, even, odd, _mm512_permutexvar_epi8(index, f[q]));
        _mm512_mask_storeu_epi8(tile + q * step, live, value);
    }
}

TKV_INLINE void load_leaves(const struct tkv_polar_tables *tables, __m512i f[4])
{
    for (size_t q = 0; q < 4; q++)
        f[q] = _mm512_loadu_si512(tables->f[q]);
}

TKV_INLINE void tile_k(const struct tkv_polar_tables *tables, uint32_t bits, const uint8_t *page,
                       uint32_t D, uint8_t *tile, float *scale)
{
    struct work w;
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    const size_t n_blocks = D / 16;
    make_ratios(tables, TKV_K, bits == 3 ? 1 : 2, page + planes.radius, n_blocks, w.ratio, scale);
    make_columns(tables, TKV_K, bits, page, D, &w);
    __m512i f[4];
    load_leaves(tables, f);
    for (size_t group = 0; group < 4; group++)
        for (size_t b = 0; b < n_blocks; b++)
            leaves(f, TKV_K, bits, &planes, page, &w, (group * n_blocks + b) * 64, ~(__mmask64)0,
                   tile + (4 * group * n_blocks + b) * 64, n_blocks * 64);
}

TKV_INLINE void tile_v(const struct tkv_polar_tables *tables, uint32_t bits, const uint8_t *page,
                       uint32_t D, uint8_t *tile, float *scale)
{
    struct work w;
    const struct tkv_polar_planes planes = tkv_polar_planes(D, bits);
    make_ratios(tables, TKV_V, bits == 3 ? 1 : 2, page + planes.radius, D / 16, w.ratio, scale);
    make_columns(tables, TKV_V, bits, page, D, &w);
    __m512i f[4];
    load_leaves(tables, f);
    const __mmask64 rest = ((__mmask64)1 << D % 64) - 1;
    for (size_t group = 0; group < 16; group++) {
        const size_t first = group * D;
        uint8_t *to = tile + group * 4 * D;
        for (size_t i = 0; i < D / 64; i++)
            leaves(f, TKV_V, bits, &planes, page, &w, first + 64 * i, ~(__mmask64)0, to + 64 * i,
                   D);
        if (rest)
            leaves(f, TKV_V, bits, &planes, page, &w, first + D / 64 * 64, rest, to + D / 64 * 64,
                   D);
    }
}

static void polar_tile_k_avx512(const struct tkv_polar_tables *tables, const uint8_t *page,
                                uint32_t D, uint8_t *tile, float *scale)
{
    if (tables->bits == 2)
        tile_k(tables, 2, page, D, tile, scale);
    else
        tile_k(tables, 3, page, D, tile, scale);
}

static void polar_tile_v_avx512(const struct tkv_polar_tables *tables, const uint8_t *page,
                                uint32_t D, int8_t *tile, float *scale)
{
    if (tables->bits == 2)
        tile_v(tables, 2, page, D, (uint8_t *)tile, scale);
    else
        tile_v(tables, 3, page, D, (uint8_t *)tile, scale);
}

/* --- rows to codes --- */

/* The number of thresholds below (second / first)^2. */
TKV_INLINE __m512i count_above(const float *tan_sq, size_t n, __m512 first, __m512 second)
{
    __m512i code = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i++) {
        const __m512 edge = _mm512_mul_ps(_mm512_set1_ps(tan_sq[i]), first);
        const __mmask16 above = _mm512_cmp_ps_mask(second, edge, _CMP_GT_OQ);
        code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(1));
    }
    return code;
}

TKV_INLINE __m512i code_pair(const struct tkv_polar_tables *tables, __m512 x, __m512 y,
                             __m512 *sum_sq)
{
    const __m512 x_sq = _mm512_mul_ps(x, x), y_sq = _mm512_mul_ps(y, y), zero = _mm512_setzero_ps();
    *sum_sq = _mm512_add_ps(x_sq, y_sq);
    __m512i code = count_above(tables->tan_sq[0], 3, x_sq, y_sq);
    code = _mm512_mask_or_epi32(code, _mm512_cmp_ps_mask(x, zero, _CMP_LT_OQ), code,
                                _mm512_set1_epi32(4));
    return _mm512_mask_or_epi32(code, _mm512_cmp_ps_mask(y, zero, _CMP_LT_OQ), code,
                                _mm512_set1_epi32(8));
}

/* Levels 3 and 4 of four blocks of four columns; `live` names the blocks. */
TKV_INLINE void code_upper(const struct tkv_polar_tables *tables, uint32_t bits, __m512 column_sq,
                           __mmask8 live, uint16_t *upper, float *sum_sq)
{
    const size_t n = (1u << bits) - 1;
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512 beside = _mm512_permute_ps(column_sq, 0xb1);
    const __m512 half = _mm512_add_ps(column_sq, beside), other = _mm512_permute_ps(half, 0x4e);
    const __m512i c3 = count_above(tables->tan_sq[2], n, column_sq, beside);
    const __m512i c4 = count_above(tables->tan_sq[3], n, half, other);
    const __m512i c3_right = _mm512_slli_epi32(_mm512_shuffle_epi32(c3, (_MM_PERM_ENUM)0x4e), bits);
    const __m512i code =
        _mm512_or_si512(_mm512_or_si512(c3, c3_right), _mm512_slli_epi32(c4, 2 * bits));
    const __m128i codes = _mm512_castsi512_si128(_mm512_permutexvar_epi32(firsts, code));
    const __m512 sums = _mm512_permutexvar_ps(firsts, _mm512_add_ps(half, other));
    _mm_mask_storeu_epi16(upper, live, _mm_packus_epi32(codes, codes));
    /* Not the low quarter by a narrower store: compilers make vextractf32x4 of it, whose mask hides
     * no faults. */
    _mm512_mask_storeu_ps(sum_sq, live, sums);
}

TKV_INLINE void code_rows(const struct tkv_polar_tables *tables, uint32_t bits, const float *x,
                          uint32_t D, struct tkv_polar_rows *out)
{
    const size_t J = D / 4;
    for (size_t t = 0; t < TOKENS; t++, x += D)
        for (size_t j = 0; j < J; j += 16) {
            const __mmask16 live = (__mmask16)(J - j >= 16 ? 0xffffu : (1u << (J - j)) - 1u);
            __m512 v[4], a_sq, b_sq;
            for (size_t q = 0; q < 4; q++)
                v[q] = _mm512_maskz_loadu_ps(live, x + q * J + j);
            const __m512i a = code_pair(tables, v[0], v[1], &a_sq),
                          b = code_pair(tables, v[2], v[3], &b_sq);
            const __m512i c1 = _mm512_or_si512(a, _mm512_slli_epi32(b, 4));
            const __m512i c2 = count_above(tables->tan_sq[1], (1u << bits) - 1, a_sq, b_sq);
            _mm_mask_storeu_epi8(out->c1 + t * J + j, live, _mm512_cvtepi32_epi8(c1));
            _mm_mask_storeu_epi8(out->c2 + t * J + j, live, _mm512_cvtepi32_epi8(c2));
            const __mmask8 blocks = (__mmask8)_pext_u32(live, 0x1111);
            const size_t at = (t * J + j) / 4;
            code_upper(tables, bits, _mm512_add_ps(a_sq, b_sq), blocks, out->upper + at,
                       out->sum_sq + at);
        }
}

static void polar_codes_avx512(const struct tkv_polar_tables *tables, const float *x, uint32_t D,
                               struct tkv_polar_rows *out)
{
    if (tables->bits == 2)
        code_rows(tables, 2, x, D, out);
    else
        code_rows(tables, 3, x, D, out);
}

void tkv_polar_avx512(struct tkv_kernels *k)
{
    k->polar_codes = polar_codes_avx512;
    k->polar_tile_k = polar_tile_k_avx512;
    k->polar_tile_v = polar_tile_v_avx512;
}
