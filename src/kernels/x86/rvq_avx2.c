/* Residual codebooks for AVX2: the search in words of 16 bits, and pages to rows.
 *
 * Search: codes go in blocks of 64, turned so that one register holds two dims of 8 codes as words;
 * a block stays in L1 while all residuals pass. Two registers of 8 codes are the 16 classes. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "format/rvq.h"
#include "kernels/kernels.h"
#include "kernels/x86/rvq_sums.h"

#define T TKV_PAGE_TOKENS

enum {
    BLOCK = 64, /* codes */
    ROWS = 4,   /* residuals side by side */
    PAIRS = TKV_RVQ_DIM / 2
};

void tkv_rvq_avx2(struct tkv_kernels *k);

/* ---- the search ---------------------------------------------------------------------------- */

struct block {
    __m256i pair[BLOCK / 8][PAIRS];
    __m256i half[BLOCK / 8]; /* -floor(|c|^2 / 2) */
};

/* Eight codes as words, pairs of dims: rows become columns. */
TKV_INLINE void turn_half(const int8_t *codes, __m256i out[8])
{
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i++)
        a[i] = _mm256_cvtepi8_epi16(
            _mm_loadu_si128((const __m128i *)(const void *)(codes + i * TKV_RVQ_DIM)));
    for (int i = 0; i < 8; i += 4) {
        const __m256i p = _mm256_unpacklo_epi32(a[i], a[i + 1]);
        const __m256i q = _mm256_unpackhi_epi32(a[i], a[i + 1]);
        const __m256i r = _mm256_unpacklo_epi32(a[i + 2], a[i + 3]);
        const __m256i s = _mm256_unpackhi_epi32(a[i + 2], a[i + 3]);
        b[i] = _mm256_unpacklo_epi64(p, r), b[i + 1] = _mm256_unpackhi_epi64(p, r);
        b[i + 2] = _mm256_unpacklo_epi64(q, s), b[i + 3] = _mm256_unpackhi_epi64(q, s);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_permute2x128_si256(b[i], b[4 + i], 0x20);
        out[4 + i] = _mm256_permute2x128_si256(b[i], b[4 + i], 0x31);
    }
}

static void load_block(const int8_t *codes, struct block *b)
{
    for (int i = 0; i < BLOCK / 8; i++, codes += 8 * TKV_RVQ_DIM) {
        turn_half(codes, b->pair[i]);
        turn_half(codes + PAIRS, b->pair[i] + PAIRS / 2);
        __m256i norm = _mm256_setzero_si256();
        for (int p = 0; p < PAIRS; p++)
            norm = _mm256_add_epi32(norm, _mm256_madd_epi16(b->pair[i][p], b->pair[i][p]));
        b->half[i] = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_srli_epi32(norm, 1));
    }
}

/* ROWS residuals against every other eight codes, which are those of one half of the classes. */
TKV_INLINE void search_half(const struct block *b, uint32_t first, int half,
                            int16_t r[ROWS][TKV_RVQ_DIM], int32_t *best, uint32_t *at)
{
    __m256i most[ROWS], where[ROWS], sum[ROWS];
    __m256i code = _mm256_add_epi32(_mm256_set1_epi32((int)first + 8 * half),
                                    _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (int i = 0; i < ROWS; i++) {
        most[i] = _mm256_loadu_si256((__m256i *)(void *)(best + i * TKV_RVQ_CLASSES));
        where[i] = _mm256_loadu_si256((__m256i *)(void *)(at + i * TKV_RVQ_CLASSES));
    }
    for (int eight = half; eight < BLOCK / 8; eight += 2) {
        for (int i = 0; i < ROWS; i++)
            sum[i] = b->half[eight];
        for (int p = 0; p < PAIRS; p++) {
            const __m256i dims = b->pair[eight][p];
            for (int i = 0; i < ROWS; i++) {
                int32_t two;
                memcpy(&two, &r[i][2 * p], sizeof two);
                sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(dims, _mm256_set1_epi32(two)));
            }
        }
        for (int i = 0; i < ROWS; i++) {
            const __m256i more = _mm256_cmpgt_epi32(sum[i], most[i]);
            most[i] = _mm256_max_epi32(sum[i], most[i]);
            where[i] = _mm256_blendv_epi8(where[i], code, more);
        }
        code = _mm256_add_epi32(code, _mm256_set1_epi32(16));
    }
    for (int i = 0; i < ROWS; i++) {
        _mm256_storeu_si256((__m256i *)(void *)(best + i * TKV_RVQ_CLASSES), most[i]);
        _mm256_storeu_si256((__m256i *)(void *)(at + i * TKV_RVQ_CLASSES), where[i]);
    }
}

static void rvq_nearest_avx2(const int8_t *restrict codes, const int8_t *restrict r, size_t n,
                             int32_t *restrict best, uint32_t *restrict at)
{
    struct block block;
    for (size_t i = 0; i < n * TKV_RVQ_CLASSES; i++)
        best[i] = INT32_MIN;
    for (uint32_t first = 0; first < TKV_RVQ_CODES; first += BLOCK) {
        load_block(codes + (size_t)first * TKV_RVQ_DIM, &block);
        for (size_t i = 0; i < n; i += ROWS) {
            int16_t wide[ROWS][TKV_RVQ_DIM];
            for (size_t d = 0; d < (size_t)ROWS * TKV_RVQ_DIM; d++)
                wide[d / TKV_RVQ_DIM][d % TKV_RVQ_DIM] = r[i * TKV_RVQ_DIM + d];
            for (int half = 0; half < 2; half++)
                search_half(&block, first, half, wide, best + i * TKV_RVQ_CLASSES + 8 * half,
                            at + i * TKV_RVQ_CLASSES + 8 * half);
        }
    }
}

/* ---- pages to rows ------------------------------------------------------------------------- */

/* Byte offsets into their book of the codes of a unit. */
TKV_INLINE void offsets(const uint8_t *unit, uint16_t out[T])
{
    for (uint32_t t = 0; t < T; t += 8) {
        uint64_t high = 0;
        for (uint32_t plane = 0; plane < 3; plane++)
            high |= _pdep_u64(unit[T + 8 * plane + t / 8], 0x0101010101010101u) << plane;
        const __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)(unit + t));
        const __m128i code = _mm_unpacklo_epi8(low, _mm_cvtsi64_si128((long long)high));
        _mm_storeu_si128((__m128i *)(void *)(out + t), _mm_slli_epi16(code, 5));
    }
}

static void rvq_rows_avx2(const uint8_t *restrict codes, const int8_t *restrict books,
                          uint32_t n_stages, uint32_t D, tkv_kind kind, uint8_t flip,
                          uint8_t *restrict rows)
{
    const uint32_t n_units = n_stages * (D / TKV_RVQ_DIM);
    uint16_t at[TKV_RVQ_STAGES * TKV_RVQ_MAX_GROUPS][T];
    for (uint32_t i = 0; i < n_units; i++)
        offsets(codes + i * TKV_RVQ_UNIT_BYTES, at[i]);
    tkv_rvq_sum_rows((const uint16_t(*)[T])at, books, n_stages, D, kind, flip, rows);
}

void tkv_rvq_avx2(struct tkv_kernels *k)
{
    k->rvq_nearest = rvq_nearest_avx2;
    k->rvq_rows = rvq_rows_avx2;
}
