/* Between rows of bytes and the cells of a tile, for AVX2: four rows of 16 bytes at a time. */
#ifndef TKV_CELLS_AVX2_H
#define TKV_CELLS_AVX2_H

#include <immintrin.h>

#include "base/compiler.h"

/* Transposes 4 x 4 cells of 32 bits. Its own inverse. */
TKV_INLINE void tkv_transpose_cells(__m128i v[4])
{
    const __m128i a = _mm_unpacklo_epi32(v[0], v[1]), b = _mm_unpackhi_epi32(v[0], v[1]);
    const __m128i c = _mm_unpacklo_epi32(v[2], v[3]), d = _mm_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm_unpacklo_epi64(a, c);
    v[1] = _mm_unpackhi_epi64(a, c);
    v[2] = _mm_unpacklo_epi64(b, d);
    v[3] = _mm_unpackhi_epi64(b, d);
}

/* Byte 4 * i + j to byte 4 * j + i: a cell of four channels by four tokens either way round. */
TKV_INLINE __m128i tkv_transpose_bytes(__m128i v)
{
    return _mm_shuffle_epi8(v, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
}

#endif
