/* Tile kernels for AVX2 and FMA. D a multiple of 16.
 *
 * Scores: 4 rows x 16 tokens. vpmaddubsw saturates unless one side stays within 127, so with x =
 * code the product is |x| * (q with the sign of x): 2 * 127 * 127 fits in 16 bits. Weighted
 * sums: weights reach 255, where no sign trick helps, so both sides are widened to 16 bits; 2
 * rows x 16 channels, tokens summed in pairs. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/ahead.h"
#include "kernels/row_blocks.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_tile_avx2(struct tkv_kernels *k);

TKV_INLINE __m256i load256(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

TKV_INLINE __m256i broadcast4(const void *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

/* One block of 16 tokens: block is [D/4][16 tokens][4 dims]. */
TKV_INLINE void score_i8_block(const uint8_t *block, const int8_t *q, uint32_t D, int32_t *s,
                               int rows, struct tkv_ahead *ahead)
{
    const __m256i ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi8((char)0x80);
    __m256i acc[4][2];
    for (int r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_si256();
    for (size_t d = 0; d < D; d += 4) {
        __m256i x[2], magnitude[2];
        for (size_t h = 0; h < 2; h++) {
            x[h] = _mm256_xor_si256(load256(block + d * 16 + h * 32), offset);
            magnitude[h] = _mm256_abs_epi8(x[h]);
        }
        for (int r = 0; r < rows; r++) {
            const __m256i qr = broadcast4(q + (size_t)r * D + d);
            for (int h = 0; h < 2; h++) {
                const __m256i pairs =
                    _mm256_maddubs_epi16(magnitude[h], _mm256_sign_epi8(qr, x[h]));
                acc[r][h] = _mm256_add_epi32(acc[r][h], _mm256_madd_epi16(pairs, ones));
            }
        }
        tkv_step_ahead(ahead);
    }
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++)
            _mm256_storeu_si256((__m256i *)(void *)(s + r * TOKENS + h * 8), acc[r][h]);
}

static void score_i8_avx2(const uint8_t *restrict tile, const int8_t *restrict q, uint32_t n_rows,
                          uint32_t D, int32_t *restrict s, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (size_t r = 0; r < n_rows; r += 4, q += (size_t)4 * D, s += 4 * TOKENS)
        for (size_t t = 0; t < TOKENS; t += 16)
            switch (n_rows - r) {
            case 1:
                score_i8_block(tile + t * D, q, D, s + t, 1, &cursor);
                break;
            case 2:
                score_i8_block(tile + t * D, q, D, s + t, 2, &cursor);
                break;
            case 3:
                score_i8_block(tile + t * D, q, D, s + t, 3, &cursor);
                break;
            default:
                score_i8_block(tile + t * D, q, D, s + t, 4, &cursor);
                break;
            }
    *ahead = cursor;
}

/* 16 channels; w16 is [rows][64]. sum[r][i] holds channels 4i .. 4i + 3, even and odd pairs of
 * tokens apart. */
TKV_INLINE void wsum_i8_block(const int8_t *tile, const uint16_t *w16, const float *wscale,
                              uint32_t D, float *acc, int rows, struct tkv_ahead *ahead)
{
    __m256i sum[2][4];
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++)
            sum[r][i] = _mm256_setzero_si256();
    for (size_t t = 0; t < TOKENS; t += 4) {
        __m256i w[2];
        for (int r = 0; r < rows; r++) {
            int64_t four;
            memcpy(&four, w16 + r * TOKENS + t, sizeof four);
            w[r] = _mm256_set1_epi64x(four);
        }
        for (size_t i = 0; i < 4; i++) {
            const int8_t *codes = tile + t * D + i * 16;
            const __m256i x =
                _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(const void *)codes));
            for (int r = 0; r < rows; r++)
                sum[r][i] = _mm256_add_epi32(sum[r][i], _mm256_madd_epi16(w[r], x));
        }
        tkv_step_ahead(ahead);
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 2; i++) {
            const __m256i pairs = _mm256_hadd_epi32(sum[r][2 * i], sum[r][2 * i + 1]);
            const __m256 x = _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(pairs, 0xd8));
            float *out = acc + (size_t)r * D + i * 8;
            _mm256_storeu_ps(out,
                             _mm256_fmadd_ps(_mm256_set1_ps(wscale[r]), x, _mm256_loadu_ps(out)));
        }
}

static void wsum_i8_avx2(const int8_t *restrict tile, const uint8_t *restrict w,
                         const float *restrict wscale, uint32_t n_rows, uint32_t D,
                         float *restrict acc, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    uint16_t w16[2 * TOKENS];
    for (size_t r = 0; r < n_rows; r += 2, w += 2 * TOKENS, wscale += 2, acc += (size_t)2 * D) {
        const size_t rows = n_rows - r == 1 ? 1 : 2;
        for (size_t i = 0; i < rows * TOKENS; i += 16) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(w + i));
            _mm256_storeu_si256((__m256i *)(void *)(w16 + i), _mm256_cvtepu8_epi16(bytes));
        }
        for (size_t c = 0; c < D; c += 16)
            if (rows == 2)
                wsum_i8_block(tile + c * 4, w16, wscale, D, acc + c, 2, &cursor);
            else
                wsum_i8_block(tile + c * 4, w16, wscale, D, acc + c, 1, &cursor);
    }
    *ahead = cursor;
}

/* acc[r][j] (+)= sum_i a[r * a_stride + i] * b[i * b_stride + j], i ascending, for 8 * cols
 * values of j. Scores are queries times the transposed tile, weighted sums are weights times the
 * tile. */
TKV_INLINE void multiply_block(const float *a, size_t a_stride, const float *b, size_t b_stride,
                               size_t n, float *acc, size_t acc_stride, int from_acc, int rows,
                               size_t cols, struct tkv_ahead *ahead)
{
    __m256 sum[6][8];
    for (int r = 0; r < rows; r++)
        for (size_t j = 0; j < cols; j++)
            sum[r][j] = from_acc ? _mm256_loadu_ps(acc + (size_t)r * acc_stride + j * 8)
                                 : _mm256_setzero_ps();
    for (size_t i = 0; i < n; i++) {
        __m256 x[8];
        for (size_t j = 0; j < cols; j++) {
            x[j] = _mm256_load_ps(b + i * b_stride + j * 8);
            if (rows > 1)
                TKV_HOLD(x[j]);
        }
        for (int r = 0; r < rows; r++) {
            const __m256 ar = _mm256_set1_ps(a[(size_t)r * a_stride + i]);
            for (size_t j = 0; j < cols; j++)
                sum[r][j] = _mm256_fmadd_ps(ar, x[j], sum[r][j]);
        }
        tkv_step_ahead(ahead);
    }
    for (int r = 0; r < rows; r++)
        for (size_t j = 0; j < cols; j++)
            _mm256_storeu_ps(acc + (size_t)r * acc_stride + j * 8, sum[r][j]);
}

/* All n_j columns (a multiple of 16). Few rows take more columns at a time, for enough
 * independent chains. */
TKV_INLINE void multiply_rows(const float *a, size_t a_stride, const float *b, size_t n_j, size_t n,
                              float *acc, int from_acc, int rows, struct tkv_ahead *ahead)
{
    size_t j = 0;
    if (rows == 1)
        for (; j + 64 <= n_j; j += 64)
            multiply_block(a, a_stride, b + j, n_j, n, acc + j, n_j, from_acc, rows, 8, ahead);
    if (rows <= 3)
        for (; j + 32 <= n_j; j += 32)
            multiply_block(a, a_stride, b + j, n_j, n, acc + j, n_j, from_acc, rows,
                           rows <= 3 ? 4 : 2, ahead);
    for (; j < n_j; j += 16)
        multiply_block(a, a_stride, b + j, n_j, n, acc + j, n_j, from_acc, rows, 2, ahead);
}

static void score_f32_avx2(const float *restrict kt, const float *restrict q, size_t q_stride,
                           uint32_t n_rows, uint32_t D, float *restrict s, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = tkv_row_block(n_rows - r);
#define BODY(rows)                                                                                 \
    multiply_rows(q + r * q_stride, q_stride, kt, TOKENS, D, s + (size_t)r * TOKENS, 0, rows,      \
                  &cursor)
        TKV_SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = cursor;
}

static void wsum_f32_avx2(const float *restrict v, const float *restrict w, uint32_t n_rows,
                          uint32_t D, float *restrict acc, struct tkv_ahead *ahead)
{
    struct tkv_ahead cursor = *ahead;
    for (uint32_t r = 0, n; r < n_rows; r += n) {
        n = tkv_row_block(n_rows - r);
#define BODY(rows)                                                                                 \
    multiply_rows(w + (size_t)r * TOKENS, TOKENS, v, D, TOKENS, acc + (size_t)r * D, 1, rows,      \
                  &cursor)
        TKV_SWITCH_ROWS(n, BODY)
#undef BODY
    }
    *ahead = cursor;
}

void tkv_tile_avx2(struct tkv_kernels *k)
{
    k->score_i8 = score_i8_avx2;
    k->wsum_i8 = wsum_i8_avx2;
    k->score_f32 = score_f32_avx2;
    k->wsum_f32 = wsum_f32_avx2;
}
