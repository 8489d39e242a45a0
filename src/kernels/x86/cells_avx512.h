/* Between rows of bytes and the cells of a tile: 16 tokens by 4 dims (K), 16 dims by 4 tokens (V). */
#ifndef TKV_CELLS_AVX512_H
#define TKV_CELLS_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#include "base/compiler.h"

/* Four registers of four rows of 16 bytes each: 128-bit lane l of v[a] is row 4 * l + a.
 * Transposing the 4 x 4 cells of 32 bits within lanes makes cell t of v[i] row t's cell i. Its own
 * inverse. */
TKV_INLINE void tkv_transpose_cells(__m512i v[4])
{
    const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm512_unpacklo_epi64(a, c);
    v[1] = _mm512_unpackhi_epi64(a, c);
    v[2] = _mm512_unpacklo_epi64(b, d);
    v[3] = _mm512_unpackhi_epi64(b, d);
}

/* Byte 4 * i + j of a V tile's cell group is byte 16 * j + i of four rows, and the other way round.
 * */
TKV_INLINE __m512i tkv_interleave_index(int inverse)
{
    _Alignas(64) uint8_t index[64];
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) {
            const int tile = 4 * i + j, row = 16 * j + i;
            index[inverse ? row : tile] = (uint8_t)(inverse ? tile : row);
        }
    return _mm512_load_si512(index);
}

#endif
