/* The search for a key's code in the retrieval index, with AVX-512 and VNNI.
 *
 * A tile of 64 codes stays in L1 while all rows pass, four of them side by side: 16 accumulators,
 * each register of codes serves four rows and each of a row four registers of codes. Codes are kept
 * as code + 128; the 128 * sum(row) that this adds is the same for all of a row's. Lanes keep the
 * best of the codes that are theirs. */
#include "kernels/kernels.h"
#include "kernels/x86/vnni_avx512.h"

#define TILE TKV_PAGE_TOKENS

enum {
    ROWS = 4,
    MOST_ROWS = 64
};

void tkv_index_avx512(struct tkv_kernels *k);

struct best {
    __m512i most, where;
};

/* `chains` sums of each row and block run side by side: one row alone has too few. */
TKV_INLINE void search_rows(const uint8_t *tile, const int32_t *half, uint32_t first, uint32_t D,
                            const int8_t *row, int rows, int chains, struct best *best)
{
    __m512i sum[2][ROWS][4];
    for (int b = 0; b < 4; b++)
        for (int r = 0; r < rows; r++) {
            sum[0][r][b] =
                _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_load_si512(half + 16 * b));
            sum[1][r][b] = _mm512_setzero_si512();
        }
    for (size_t d = 0; d < D; d += (size_t)(4 * chains))
        for (int i = 0; i < chains; i++) {
            const size_t at = d + (size_t)(4 * i);
            __m512i codes[4];
            for (size_t b = 0; b < 4; b++) {
                codes[b] = _mm512_load_si512(tile + b * 16 * D + at * 16);
                TKV_HOLD(codes[b]);
            }
            for (int r = 0; r < rows; r++) {
                const __m512i x = tkv_broadcast4(row + (size_t)r * D + at);
                for (int b = 0; b < 4; b++)
                    tkv_dot4(&sum[i][r][b], codes[b], x);
            }
        }
    __m512i code =
        _mm512_add_epi32(_mm512_set1_epi32((int32_t)first),
                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (int b = 0; b < 4; b++) {
        for (int r = 0; r < rows; r++) {
            const __m512i score = _mm512_add_epi32(sum[0][r][b], sum[1][r][b]);
            const __mmask16 more = _mm512_cmpgt_epi32_mask(score, best[r].most);
            best[r].most = _mm512_max_epi32(score, best[r].most);
            best[r].where = _mm512_mask_mov_epi32(best[r].where, more, code);
        }
        code = _mm512_add_epi32(code, _mm512_set1_epi32(16));
    }
}

static void search_tile(const uint8_t *tile, const int32_t *half, uint32_t first, uint32_t D,
                        const int8_t *rows, size_t n, struct best *best)
{
    size_t r = 0;
    for (; r + ROWS <= n; r += ROWS)
        search_rows(tile, half, first, D, rows + r * D, ROWS, 1, best + r);
    switch (n - r) {
    case 3:
        search_rows(tile, half, first, D, rows + r * D, 3, 1, best + r);
        break;
    case 2:
        search_rows(tile, half, first, D, rows + r * D, 2, 2, best + r);
        break;
    case 1:
        search_rows(tile, half, first, D, rows + r * D, 1, 2, best + r);
        break;
    default:
        break;
    }
}

/* The first of the lanes with the most; code numbers are not negative. */
TKV_INLINE uint16_t first_of_best(const struct best *b)
{
    const __m512i most = _mm512_set1_epi32(_mm512_reduce_max_epi32(b->most));
    return (uint16_t)_mm512_mask_reduce_min_epu32(_mm512_cmpeq_epi32_mask(b->most, most), b->where);
}

static void index_nearest_avx512(const uint8_t *restrict tiles, const int32_t *restrict half,
                                 uint32_t n_codes, uint32_t D, const int8_t *restrict rows,
                                 size_t n, uint16_t *restrict nearest)
{
    struct best best[MOST_ROWS];
    for (size_t r = 0; r < n; r++)
        best[r] = (struct best){_mm512_set1_epi32(INT32_MIN), _mm512_setzero_si512()};
    for (uint32_t c = 0; c < n_codes; c += TILE)
        search_tile(tiles + (size_t)c * D, half + c, c, D, rows, n, best);
    for (size_t r = 0; r < n; r++)
        nearest[r] = first_of_best(&best[r]);
}

void tkv_index_avx512(struct tkv_kernels *k)
{
    k->index_nearest = index_nearest_avx512;
}
