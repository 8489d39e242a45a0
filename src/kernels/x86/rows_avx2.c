/* Rows of a page to codes and back, AVX2: 16 values in two registers, so that sums keep the lanes
 * and the tree of the reference; tiles by transposing 4 rows of 16 bytes. Bit-exact with the
 * reference. */
#include <immintrin.h>
#include <math.h>

#include "kernels/kernels.h"
#include "kernels/x86/cells_avx2.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_rows_avx2(struct tkv_kernels *k);

static void row_sum_sq_avx2(const float *restrict x, uint32_t D, float *restrict sum_sq)
{
    for (size_t t = 0; t < TOKENS; t++) {
        __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
        for (size_t d = t * D; d < (t + 1) * D; d += 16) {
            const __m256 a = _mm256_loadu_ps(x + d), b = _mm256_loadu_ps(x + d + 8);
            low = _mm256_add_ps(low, _mm256_mul_ps(a, a));
            high = _mm256_add_ps(high, _mm256_mul_ps(b, b));
        }
        const __m256 eight = _mm256_add_ps(low, high);
        const __m128 four =
            _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        sum_sq[t] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
}

static void row_range_avx2(const float *restrict x, uint32_t D, float *restrict low,
                           float *restrict high)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    for (size_t t = 0; t < TOKENS; t++) {
        __m256 least = _mm256_set1_ps(INFINITY), most = _mm256_setzero_ps();
        for (size_t d = t * D; d < (t + 1) * D; d += 8) {
            const __m256 a = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + d));
            least = _mm256_min_ps(least, a);
            most = _mm256_max_ps(most, a);
        }
        __m128 l = _mm_min_ps(_mm256_castps256_ps128(least), _mm256_extractf128_ps(least, 1));
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
        l = _mm_min_ps(l, _mm_movehl_ps(l, l));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        low[t] = _mm_cvtss_f32(_mm_min_ss(l, _mm_movehdup_ps(l)));
        high[t] = _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
    }
}

static inline __m256i quantize8(const float *x, __m256 factor)
{
    const __m256 y = _mm256_mul_ps(_mm256_loadu_ps(x), factor);
    return _mm256_cvtps_epi32(
        _mm256_max_ps(_mm256_min_ps(y, _mm256_set1_ps(127.0f)), _mm256_set1_ps(-127.0f)));
}

static void quantize_rows_i8_avx2(const float *restrict x, const float *restrict inv, uint32_t D,
                                  int8_t *restrict codes)
{
    for (size_t t = 0; t < TOKENS; t++) {
        const __m256 factor = _mm256_set1_ps(inv[t]);
        for (size_t d = t * D; d < (t + 1) * D; d += 16) {
            const __m256i a = quantize8(x + d, factor), b = quantize8(x + d + 8, factor);
            const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
            _mm_storeu_si128(
                (__m128i *)(codes + d),
                _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
        }
    }
}

static inline void load_four(__m128i v[4], const uint8_t *p, size_t step)
{
    for (size_t i = 0; i < 4; i++)
        v[i] = _mm_loadu_si128((const __m128i *)(p + i * step));
}

static void rows_to_tile_avx2(const uint8_t *restrict rows, uint32_t D, tkv_kind kind,
                              uint8_t *restrict tile)
{
    for (size_t t = 0; t < TOKENS; t += 4)
        for (size_t d = 0; d < D; d += 16) {
            __m128i v[4];
            load_four(v, rows + t * D + d, D);
            tkv_transpose_cells(v); /* v[i]: cell i of four dims, of tokens t..t+3 */
            for (size_t i = 0; i < 4; i++) {
                if (kind == TKV_K)
                    _mm_storeu_si128(
                        (__m128i *)(tile + t / 16 * 16 * D + (d + 4 * i) * 16 + t % 16 * 4), v[i]);
                else
                    _mm_storeu_si128((__m128i *)(tile + t * D + (d + 4 * i) * 4),
                                     tkv_transpose_bytes(v[i]));
            }
        }
}

/* 16 codes to f32, times scale. */
static inline void store_row(float *x, __m128i codes, float scale)
{
    const __m256 factor = _mm256_set1_ps(scale);
    const __m256i a = _mm256_cvtepi8_epi32(codes);
    const __m256i b = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(codes, codes));
    _mm256_storeu_ps(x, _mm256_mul_ps(_mm256_cvtepi32_ps(a), factor));
    _mm256_storeu_ps(x + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(b), factor));
}

static void tile_to_rows_avx2(const uint8_t *restrict tile, uint32_t D, tkv_kind kind,
                              const float *restrict scale, float *restrict x)
{
    const __m128i flip = _mm_set1_epi8((char)0x80);
    for (size_t t = 0; t < TOKENS; t += 4)
        for (size_t d = 0; d < D; d += 16) {
            __m128i v[4];
            if (kind == TKV_K)
                load_four(v, tile + t / 16 * 16 * D + d * 16 + t % 16 * 4, 64);
            else
                load_four(v, tile + t * D + d * 4, 16);
            for (size_t i = 0; i < 4; i++)
                v[i] = kind == TKV_K ? _mm_xor_si128(v[i], flip) : tkv_transpose_bytes(v[i]);
            tkv_transpose_cells(v);
            for (size_t i = 0; i < 4; i++)
                store_row(x + (t + i) * D + d, v[i], scale[t + i]);
        }
}

/* A register of 8 tokens by 4 dims is shifted so that each dim comes out in turn, sign and all. */
static void tile_k_to_f32_avx2(const uint8_t *restrict tile, uint32_t D,
                               const float *restrict scale, float *restrict out)
{
    const __m256i flip = _mm256_set1_epi8((char)0x80);
    for (size_t t = 0; t < TOKENS; t += 16)
        for (size_t d = 0; d < D; d += 4)
            for (size_t half = 0; half < 16; half += 8, tile += 32) {
                const __m256 s = _mm256_loadu_ps(scale + t + half);
                const __m256i v =
                    _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)tile), flip);
                const __m256i dims[4] = {_mm256_slli_epi32(v, 24), _mm256_slli_epi32(v, 16),
                                         _mm256_slli_epi32(v, 8), v};
                for (size_t i = 0; i < 4; i++) {
                    const __m256 x = _mm256_cvtepi32_ps(_mm256_srai_epi32(dims[i], 24));
                    _mm256_storeu_ps(out + (d + i) * TOKENS + t + half, _mm256_mul_ps(x, s));
                }
            }
}

void tkv_rows_avx2(struct tkv_kernels *k)
{
    k->tile_k_to_f32 = tile_k_to_f32_avx2;
    k->row_sum_sq = row_sum_sq_avx2;
    k->row_range = row_range_avx2;
    k->quantize_rows_i8 = quantize_rows_i8_avx2;
    k->rows_to_tile = rows_to_tile_avx2;
    k->tile_to_rows = tile_to_rows_avx2;
}
