/* Turbo codes to levels in registers. vpermb looks at the low six bits of an index only: fields
 * that stand in them need no masking. `bits` and `j` are constants wherever these are inlined. */
#ifndef TKV_TURBO_LEVELS_AVX512_H
#define TKV_TURBO_LEVELS_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "format/turbo.h"

struct tkv_levels {
    __m512i table[3]; /* levels of fields that begin at bits 0, 2 and 4 */
    __m512i bytes;    /* 0 .. 63 */
};

TKV_INLINE struct tkv_levels tkv_levels_avx512(uint32_t bits, int bias)
{
    struct tkv_levels l;
    int64_t level[2] = {0};
    memcpy(level, tkv_turbo_levels(bits), (size_t)1 << bits);
    const __m128i biased =
        _mm_add_epi8(_mm_set_epi64x(level[1], level[0]), _mm_set1_epi8((char)bias));
    const __m512i levels = _mm512_castsi128_si512(biased);
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    const __m512i of_eight = _mm512_set1_epi64(0x0706050403020100);
    const __m512i eights = _mm512_setr_epi64(
        0, 0x0808080808080808, 0x1010101010101010, 0x1818181818181818, 0x2020202020202020,
        0x2828282828282828, 0x3030303030303030, 0x3838383838383838);
    l.bytes = _mm512_or_si512(eights, of_eight);
    for (int i = 0; i < 3; i++) {
        const __m512i field = _mm512_srl_epi16(l.bytes, _mm_cvtsi32_si128(2 * i));
        l.table[i] = _mm512_permutexvar_epi8(_mm512_and_si512(field, mask), levels);
    }
    return l;
}

/* x with the 64 third bits of a group at bit `place` of its bytes. */
TKV_INLINE __m512i tkv_put_third(const struct tkv_levels *l, __m512i x, const uint8_t *third,
                                 int place)
{
    int64_t bits;
    memcpy(&bits, third, sizeof bits);
    const __m512i from = _mm512_sub_epi8(l->bytes, _mm512_set1_epi8((char)place));
    const __m512i at_place = _mm512_multishift_epi64_epi8(from, _mm512_set1_epi64(bits));
    const __m512i mask = _mm512_set1_epi8((char)(1 << place));
    return _mm512_ternarylogic_epi64(x, at_place, mask, 0xd8); /* mask ? at_place : x */
}

/* The levels of group j of a unit; `third` are the unit's third bits. A third bit goes where it
 * makes one field with the two others. */
TKV_INLINE __m512i tkv_group_levels(const struct tkv_levels *l, uint32_t bits, const uint8_t *unit,
                                    const uint8_t *third, uint32_t j)
{
    const uint32_t shift = bits == 4 ? 4 * j : 2 * j; /* where the field begins */
    __m512i x = _mm512_loadu_si512(unit);
    if (shift + bits > 6)
        x = _mm512_srli_epi16(x, 4);
    const uint32_t place = shift + bits > 6 ? shift - 4 : shift;
    if (bits == 3)
        x = tkv_put_third(l, x, third + 8 * j, (int)place + 2);
    return _mm512_permutexvar_epi8(x, l->table[place / 2]);
}

#endif
