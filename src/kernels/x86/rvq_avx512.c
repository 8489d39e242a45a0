/* Residual codebooks for AVX-512: the search with VNNI, and pages to rows.
 *
 * Search: codes go in blocks of 128. A block is first turned so that one register holds four dims
 * of 16 codes, plus 128 as vpdpbusd wants one side unsigned; the 128 * sum(r) that this adds is
 * the same for all codes and comes off at the end. It stays in L1 while all residuals pass: four
 * of them against 32 codes have 8 sums, enough to hide the latency of vpdpbusd. Lane j of a
 * register is class j, so the best of each lane are what is asked for. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "format/rvq.h"
#include "kernels/kernels.h"
#include "kernels/x86/rvq_sums.h"

#define T TKV_PAGE_TOKENS

enum {
    BLOCK = 128, /* codes */
    ROWS = 4,    /* residuals side by side */
    CELLS = TKV_RVQ_DIM / 4
};

void tkv_rvq_avx512(struct tkv_kernels *k);

struct block {
    __m512i dims[BLOCK / 16][CELLS]; /* codes + 128 */
    __m512i half[BLOCK / 16];        /* -floor(|c|^2 / 2) */
};

/* Rows of 16 cells of 32 bits, two codes a register at first, become columns. */
TKV_INLINE void turn_codes(const int8_t *codes, __m512i out[CELLS])
{
    __m256i a[16], b[16];
    for (int i = 0; i < 16; i++)
        a[i] = _mm256_loadu_si256((const __m256i *)(const void *)(codes + i * TKV_RVQ_DIM));
    for (int i = 0; i < 16; i += 4) {
        const __m256i p = _mm256_unpacklo_epi32(a[i], a[i + 1]);
        const __m256i q = _mm256_unpackhi_epi32(a[i], a[i + 1]);
        const __m256i r = _mm256_unpacklo_epi32(a[i + 2], a[i + 3]);
        const __m256i s = _mm256_unpackhi_epi32(a[i + 2], a[i + 3]);
        b[i] = _mm256_unpacklo_epi64(p, r), b[i + 1] = _mm256_unpackhi_epi64(p, r);
        b[i + 2] = _mm256_unpacklo_epi64(q, s), b[i + 3] = _mm256_unpackhi_epi64(q, s);
    }
    for (int j = 0; j < 4; j++) { /* b[4 i + j]: cells j and 4 + j of codes 4 i to 4 i + 3 */
        const __m512i low = _mm512_inserti64x4(_mm512_castsi256_si512(b[j]), b[4 + j], 1);
        const __m512i high = _mm512_inserti64x4(_mm512_castsi256_si512(b[8 + j]), b[12 + j], 1);
        out[j] = _mm512_shuffle_i32x4(low, high, 0x88);
        out[4 + j] = _mm512_shuffle_i32x4(low, high, 0xdd);
    }
}

/* |c|^2 / 2 in words: -128 has no positive counterpart in bytes. */
TKV_INLINE __m512i minus_half_norm(const __m512i dims[CELLS])
{
    __m512i sum = _mm512_setzero_si512();
    for (int i = 0; i < CELLS; i++) {
        const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(dims[i], 8), 8);
        const __m512i odd = _mm512_srai_epi16(dims[i], 8);
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(even, even));
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(odd, odd));
    }
    return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_srli_epi32(sum, 1));
}

static void load_block(const int8_t *codes, struct block *b)
{
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    for (int i = 0; i < BLOCK / 16; i++) {
        turn_codes(codes + i * 16 * TKV_RVQ_DIM, b->dims[i]);
        b->half[i] = minus_half_norm(b->dims[i]);
        for (int d = 0; d < CELLS; d++)
            b->dims[i][d] = _mm512_xor_si512(b->dims[i][d], flip);
    }
}

TKV_INLINE __m512i four_dims(const int8_t *r, int d)
{
    int32_t cell;
    memcpy(&cell, r + 4 * d, sizeof cell);
    return _mm512_set1_epi32(cell);
}

/* ROWS residuals against a block whose first code is `first`. */
TKV_INLINE void search_rows(const struct block *b, uint32_t first, const int8_t *r, int32_t *best,
                            uint32_t *at)
{
    __m512i most[ROWS], where[ROWS], sum[2][ROWS];
    __m512i code =
        _mm512_add_epi32(_mm512_set1_epi32((int)first),
                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (int i = 0; i < ROWS; i++) {
        most[i] = _mm512_loadu_si512(best + i * TKV_RVQ_CLASSES);
        where[i] = _mm512_loadu_si512(at + i * TKV_RVQ_CLASSES);
    }
    for (int pair = 0; pair < BLOCK / 16; pair += 2) {
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < 2; j++)
                sum[j][i] = b->half[pair + j];
        for (int d = 0; d < CELLS; d++)
            for (int i = 0; i < ROWS; i++) {
                const __m512i dims = four_dims(r + i * TKV_RVQ_DIM, d);
                for (int j = 0; j < 2; j++)
                    sum[j][i] = _mm512_dpbusd_epi32(sum[j][i], b->dims[pair + j][d], dims);
            }
        for (int j = 0; j < 2; j++) {
            for (int i = 0; i < ROWS; i++) {
                const __mmask16 more = _mm512_cmpgt_epi32_mask(sum[j][i], most[i]);
                most[i] = _mm512_max_epi32(sum[j][i], most[i]);
                where[i] = _mm512_mask_mov_epi32(where[i], more, code);
            }
            code = _mm512_add_epi32(code, _mm512_set1_epi32(16));
        }
    }
    for (int i = 0; i < ROWS; i++) {
        _mm512_storeu_si512(best + i * TKV_RVQ_CLASSES, most[i]);
        _mm512_storeu_si512(at + i * TKV_RVQ_CLASSES, where[i]);
    }
}

static void rvq_nearest_avx512(const int8_t *restrict codes, const int8_t *restrict r, size_t n,
                               int32_t *restrict best, uint32_t *restrict at)
{
    struct block block;
    for (size_t i = 0; i < n; i++)
        _mm512_storeu_si512(best + i * TKV_RVQ_CLASSES, _mm512_set1_epi32(INT32_MIN));
    for (uint32_t first = 0; first < TKV_RVQ_CODES; first += BLOCK) {
        load_block(codes + (size_t)first * TKV_RVQ_DIM, &block);
        for (size_t i = 0; i < n; i += ROWS)
            search_rows(&block, first, r + i * TKV_RVQ_DIM, best + i * TKV_RVQ_CLASSES,
                        at + i * TKV_RVQ_CLASSES);
    }
    for (size_t i = 0; i < n; i++) {
        int32_t sum = 0;
        for (int d = 0; d < TKV_RVQ_DIM; d++)
            sum += r[i * TKV_RVQ_DIM + (size_t)d];
        int32_t *own = best + i * TKV_RVQ_CLASSES;
        _mm512_storeu_si512(
            own, _mm512_sub_epi32(_mm512_loadu_si512(own), _mm512_set1_epi32(128 * sum)));
    }
}

/* Byte offsets into their book of the codes of a unit: the high bits are masks. */
TKV_INLINE void offsets(const uint8_t *unit, uint16_t out[T])
{
    for (uint32_t t = 0; t < T; t += 32) {
        const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(unit + t));
        __m512i at = _mm512_slli_epi16(_mm512_cvtepu8_epi16(low), 5);
        for (uint32_t plane = 0; plane < 3; plane++) {
            uint32_t bits;
            memcpy(&bits, unit + T + 8 * plane + t / 8, sizeof bits);
            const __m512i high = _mm512_set1_epi16((short)(1u << (13 + plane)));
            at = _mm512_mask_add_epi16(at, (__mmask32)bits, at, high);
        }
        _mm512_storeu_si512(out + t, at);
    }
}

static void rvq_rows_avx512(const uint8_t *restrict codes, const int8_t *restrict books,
                            uint32_t n_stages, uint32_t D, tkv_kind kind, uint8_t flip,
                            uint8_t *restrict rows)
{
    tkv_rvq_sum_rows(codes, books, n_stages, D, kind, flip, rows, offsets);
}

void tkv_rvq_avx512(struct tkv_kernels *k)
{
    k->rvq_rows = rvq_rows_avx512;
    k->rvq_nearest = rvq_nearest_avx512;
}
