/* The search for a key's code in the retrieval index, with AVX2: 16 codes against 4 rows. The sums
 * are those of score_i8 in tile_avx2.c: |code| times the row with the signs of the code, 2 * 127 *
 * 127 in 16 bits. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/kernels.h"

#define TILE TKV_PAGE_TOKENS

enum {
    ROWS = 4,
    MOST_ROWS = 64
};

void tkv_index_avx2(struct tkv_kernels *k);

/* Codes of a lane of the upper half are 8 more. */
struct best {
    __m256i most[2], where[2];
};

TKV_INLINE __m256i load256(const void *p)
{
    return _mm256_load_si256((const __m256i *)p);
}

TKV_INLINE __m256i broadcast4(const void *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

TKV_INLINE void keep(struct best *b, int h, __m256i score, __m256i code)
{
    const __m256i more = _mm256_cmpgt_epi32(score, b->most[h]);
    b->most[h] = _mm256_blendv_epi8(b->most[h], score, more);
    b->where[h] = _mm256_blendv_epi8(b->where[h], code, more);
}

/* block: [D/4][16 codes][4 dims] */
TKV_INLINE void search_rows(const uint8_t *block, const int32_t *half, uint32_t first, uint32_t D,
                            const int8_t *row, int rows, struct best *best)
{
    const __m256i ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi8((char)0x80);
    __m256i sum[ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++)
            sum[r][h] = _mm256_sub_epi32(_mm256_setzero_si256(), load256(half + 8 * h));
    for (size_t d = 0; d < D; d += 4) {
        __m256i x[2], size[2];
        for (size_t h = 0; h < 2; h++) {
            x[h] = _mm256_xor_si256(load256(block + d * 16 + h * 32), offset);
            size[h] = _mm256_abs_epi8(x[h]);
        }
        for (int r = 0; r < rows; r++) {
            const __m256i y = broadcast4(row + (size_t)r * D + d);
            for (int h = 0; h < 2; h++) {
                const __m256i pairs = _mm256_maddubs_epi16(size[h], _mm256_sign_epi8(y, x[h]));
                sum[r][h] = _mm256_add_epi32(sum[r][h], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
    const __m256i code = _mm256_add_epi32(_mm256_set1_epi32((int32_t)first),
                                          _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (int r = 0; r < rows; r++) {
        keep(&best[r], 0, sum[r][0], code);
        keep(&best[r], 1, sum[r][1], _mm256_add_epi32(code, _mm256_set1_epi32(8)));
    }
}

static void search_block(const uint8_t *block, const int32_t *half, uint32_t first, uint32_t D,
                         const int8_t *rows, size_t n, struct best *best)
{
    size_t r = 0;
    for (; r + ROWS <= n; r += ROWS)
        search_rows(block, half, first, D, rows + r * D, ROWS, best + r);
    for (; r < n; r++)
        search_rows(block, half, first, D, rows + r * D, 1, best + r);
}

static uint16_t first_of_best(const struct best *b)
{
    int32_t most[16];
    uint32_t where[16], at = 0;
    memcpy(most, b->most, sizeof most);
    memcpy(where, b->where, sizeof where);
    for (uint32_t i = 1; i < 16; i++)
        if (most[i] > most[at] || (most[i] == most[at] && where[i] < where[at]))
            at = i;
    return (uint16_t)where[at];
}

static void index_nearest_avx2(const uint8_t *restrict tiles, const int32_t *restrict half,
                               uint32_t n_codes, uint32_t D, const int8_t *restrict rows, size_t n,
                               uint16_t *restrict nearest)
{
    struct best best[MOST_ROWS];
    const __m256i least = _mm256_set1_epi32(INT32_MIN), zero = _mm256_setzero_si256();
    for (size_t r = 0; r < n; r++)
        best[r] = (struct best){{least, least}, {zero, zero}};
    for (uint32_t c = 0; c < n_codes; c += 16)
        search_block(tiles + (size_t)c * D, half + c, c, D, rows, n, best);
    for (size_t r = 0; r < n; r++)
        nearest[r] = first_of_best(&best[r]);
}

void tkv_index_avx2(struct tkv_kernels *k)
{
    k->index_nearest = index_nearest_avx2;
}
