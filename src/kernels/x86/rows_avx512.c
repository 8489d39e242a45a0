/* Rows of a page to codes and back, AVX-512: 16 values a register, tiles by transposing 32-bit
 * cells (K) or by one byte permutation (V). Sums keep the lanes and the tree of the reference, so
 * all of it is bit-exact. D is a multiple of 16, no more: everything goes in pieces of 16 dims. */
#include <immintrin.h>
#include <math.h>

#include "kernels/kernels.h"
#include "kernels/x86/cells_avx512.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_rows_avx512(struct tkv_kernels *k);

static void row_sum_sq_avx512(const float *restrict x, uint32_t D, float *restrict sum_sq)
{
    for (size_t t = 0; t < TOKENS; t++) {
        __m512 lanes = _mm512_setzero_ps();
        for (size_t d = t * D; d < (t + 1) * D; d += 16) {
            const __m512 v = _mm512_loadu_ps(x + d);
            lanes = _mm512_add_ps(lanes, _mm512_mul_ps(v, v));
        }
        const __m256 eight =
            _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
        const __m128 four =
            _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        sum_sq[t] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
}

static void row_range_avx512(const float *restrict x, uint32_t D, float *restrict low,
                             float *restrict high)
{
    for (size_t t = 0; t < TOKENS; t++) {
        __m512 least = _mm512_set1_ps(INFINITY), most = _mm512_setzero_ps();
        for (size_t d = t * D; d < (t + 1) * D; d += 16) {
            const __m512 a = _mm512_abs_ps(_mm512_loadu_ps(x + d));
            least = _mm512_min_ps(least, a);
            most = _mm512_max_ps(most, a);
        }
        low[t] = _mm512_reduce_min_ps(least);
        high[t] = _mm512_reduce_max_ps(most);
    }
}

static void quantize_rows_i8_avx512(const float *restrict x, const float *restrict inv, uint32_t D,
                                    int8_t *restrict codes)
{
    const __m512 top = _mm512_set1_ps(127.0f), bottom = _mm512_set1_ps(-127.0f);
    for (size_t t = 0; t < TOKENS; t++) {
        const __m512 factor = _mm512_set1_ps(inv[t]);
        for (size_t d = t * D; d < (t + 1) * D; d += 16) {
            const __m512 y = _mm512_mul_ps(_mm512_loadu_ps(x + d), factor);
            const __m512i q = _mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(y, top), bottom));
            _mm_storeu_si128((__m128i *)(codes + d), _mm512_cvtepi32_epi8(q));
        }
    }
}

/* Lane l is the 16 bytes at rows + l * step. */
static inline __m512i load_lanes(const uint8_t *rows, size_t step)
{
    const __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)rows));
    const __m512i w = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(rows + step)), 1);
    const __m512i y = _mm512_inserti32x4(w, _mm_loadu_si128((const __m128i *)(rows + 2 * step)), 2);
    return _mm512_inserti32x4(y, _mm_loadu_si128((const __m128i *)(rows + 3 * step)), 3);
}

static void rows_to_tile_avx512(const uint8_t *restrict rows, uint32_t D, tkv_kind kind,
                                uint8_t *restrict tile)
{
    const __m512i index = tkv_interleave_index(0);
    if (kind == TKV_V) {
        for (size_t t = 0; t < TOKENS; t += 4)
            for (size_t d = 0; d < D; d += 16, tile += 64)
                _mm512_storeu_si512(
                    tile, _mm512_permutexvar_epi8(index, load_lanes(rows + t * D + d, D)));
        return;
    }
    for (size_t t = 0; t < TOKENS; t += 16)
        for (size_t d = 0; d < D; d += 16, tile += 256) {
            __m512i v[4];
            for (size_t a = 0; a < 4; a++)
                v[a] = load_lanes(rows + (t + a) * D + d, 4 * (size_t)D);
            tkv_transpose_cells(v);
            for (size_t i = 0; i < 4; i++)
                _mm512_storeu_si512(tile + 64 * i, v[i]);
        }
}

/* Four rows of 16 codes to f32: lane l goes to x + l * step, times scale[l * scale_step]. */
static inline void store_lanes(__m512i v, const float *scale, size_t scale_step, float *x,
                               size_t step)
{
    _Alignas(64) __m128i lane[4];
    _mm512_store_si512(lane, v);
    for (size_t l = 0; l < 4; l++) {
        const __m512 y = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(lane[l]));
        _mm512_storeu_ps(x + l * step, _mm512_mul_ps(y, _mm512_set1_ps(scale[l * scale_step])));
    }
}

static void tile_to_rows_avx512(const uint8_t *restrict tile, uint32_t D, tkv_kind kind,
                                const float *restrict scale, float *restrict x)
{
    const __m512i index = tkv_interleave_index(1), flip = _mm512_set1_epi8((char)0x80);
    if (kind == TKV_V) {
        for (size_t t = 0; t < TOKENS; t += 4)
            for (size_t d = 0; d < D; d += 16, tile += 64) {
                const __m512i v = _mm512_permutexvar_epi8(index, _mm512_loadu_si512(tile));
                store_lanes(v, scale + t, 1, x + t * D + d, D);
            }
        return;
    }
    for (size_t t = 0; t < TOKENS; t += 16)
        for (size_t d = 0; d < D; d += 16, tile += 256) {
            __m512i v[4];
            for (size_t i = 0; i < 4; i++)
                v[i] = _mm512_xor_si512(_mm512_loadu_si512(tile + 64 * i), flip);
            tkv_transpose_cells(v);
            for (size_t a = 0; a < 4; a++)
                store_lanes(v[a], scale + t + a, 4, x + (t + a) * D + d, 4 * (size_t)D);
        }
}

/* A register of 16 tokens by 4 dims is shifted so that each dim comes out in turn, sign and all. */
static void tile_k_to_f32_avx512(const uint8_t *restrict tile, uint32_t D,
                                 const float *restrict scale, float *restrict out)
{
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    for (size_t t = 0; t < TOKENS; t += 16) {
        const __m512 s = _mm512_loadu_ps(scale + t);
        for (size_t d = 0; d < D; d += 4, tile += 64) {
            const __m512i v = _mm512_xor_si512(_mm512_load_si512(tile), flip);
            const __m512i dims[4] = {_mm512_slli_epi32(v, 24), _mm512_slli_epi32(v, 16),
                                     _mm512_slli_epi32(v, 8), v};
            for (size_t i = 0; i < 4; i++)
                _mm512_store_ps(
                    out + (d + i) * TOKENS + t,
                    _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srai_epi32(dims[i], 24)), s));
        }
    }
}

void tkv_rows_avx512(struct tkv_kernels *k)
{
    k->tile_k_to_f32 = tile_k_to_f32_avx512;
    k->row_sum_sq = row_sum_sq_avx512;
    k->row_range = row_range_avx512;
    k->quantize_rows_i8 = quantize_rows_i8_avx512;
    k->rows_to_tile = rows_to_tile_avx512;
    k->tile_to_rows = tile_to_rows_avx512;
}
