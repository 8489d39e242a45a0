/* Residual codebooks for AVX2: the search in words of 16 bits, and pages to rows.
 *
 * Search: codes go in blocks of 64, turned so that one register holds two dims of 8 codes as words;
 * a block stays in L1 while all residuals pass. Two registers of 8 codes are the 16 classes.
 *
 * Rows: a code is 32 bytes, one register; a group is as many saturating additions as there are
 * stages. All books of a layer's keys are 512 KiB, those of its values as much: loads come from L2,
 * and what counts is that nothing else holds them up. */
#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"
#include "format/rvq.h"
#include "kernels/kernels.h"

#define T TKV_PAGE_TOKENS

enum {
    BLOCK = 64, /* codes */
    ROWS = 4,   /* residuals side by side */
    PAIRS = TKV_RVQ_DIM / 2,
    MAX_GROUPS = TKV_MAX_HEAD_DIM / TKV_RVQ_DIM
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

/* Byte offsets into their book of the codes of tokens t to t + 15. */
TKV_INLINE void offsets(const uint8_t *unit, uint32_t t, uint32_t out[16])
{
    for (uint32_t i = 0; i < 16; i += 8) {
        uint64_t high = 0;
        for (uint32_t plane = 0; plane < 3; plane++)
            high |= _pdep_u64(unit[T + 8 * plane + (t + i) / 8], 0x0101010101010101u) << plane;
        const __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)(unit + t + i));
        const __m128i code = _mm_unpacklo_epi8(low, _mm_cvtsi64_si128((long long)high));
        _mm256_storeu_si256((__m256i *)(void *)(out + i),
                            _mm256_slli_epi32(_mm256_cvtepu16_epi32(code), 5));
    }
}

/* One group of one token. */
TKV_INLINE __m256i add_codes(const int8_t *books, uint32_t n_stages, const uint32_t *at,
                             size_t stage_step)
{
    __m256i sum = _mm256_loadu_si256((const __m256i *)(const void *)(books + *at));
    for (uint32_t s = 1; s < n_stages; s++) {
        books += TKV_RVQ_BOOK_BYTES;
        at += stage_step;
        sum =
            _mm256_adds_epi8(sum, _mm256_loadu_si256((const __m256i *)(const void *)(books + *at)));
    }
    return _mm256_max_epi8(sum, _mm256_set1_epi8(-127));
}

TKV_INLINE void store_halves(uint8_t *row, __m256i x, size_t apart)
{
    _mm_storeu_si128((__m128i *)(void *)row, _mm256_castsi256_si128(x));
    _mm_storeu_si128((__m128i *)(void *)(row + apart), _mm256_extracti128_si256(x, 1));
}

/* Four strided groups: cells of their values, the first 16 in the low halves. */
TKV_INLINE void store_four(uint8_t *row, const __m256i x[4])
{
    const __m256i a = _mm256_unpacklo_epi8(x[0], x[1]), b = _mm256_unpackhi_epi8(x[0], x[1]);
    const __m256i c = _mm256_unpacklo_epi8(x[2], x[3]), d = _mm256_unpackhi_epi8(x[2], x[3]);
    store_halves(row, _mm256_unpacklo_epi16(a, c), 64);
    store_halves(row + 16, _mm256_unpackhi_epi16(a, c), 64);
    store_halves(row + 32, _mm256_unpacklo_epi16(b, d), 64);
    store_halves(row + 48, _mm256_unpackhi_epi16(b, d), 64);
}

static void store_strided(uint8_t *row, const __m256i *x, uint32_t n_groups)
{
    uint8_t bytes[TKV_RVQ_DIM];
    for (uint32_t g = 0; g < n_groups; g++) {
        _mm256_storeu_si256((__m256i *)(void *)bytes, x[g]);
        for (uint32_t i = 0; i < TKV_RVQ_DIM; i++)
            row[(size_t)i * n_groups + g] = bytes[i];
    }
}

TKV_INLINE void sixteen_rows(const uint32_t (*at)[16], const int8_t *books, uint32_t n_stages,
                             uint32_t n_groups, tkv_kind kind, __m256i flip, uint8_t *rows)
{
    __m256i x[MAX_GROUPS];
    for (uint32_t t = 0; t < 16; t++, rows += (size_t)n_groups * TKV_RVQ_DIM) {
        for (uint32_t g = 0; g < n_groups; g++)
            x[g] = _mm256_xor_si256(add_codes(books, n_stages, &at[g][t], 16 * (size_t)n_groups),
                                    flip);
        if (kind == TKV_K && n_groups == 4)
            store_four(rows, x);
        else if (kind == TKV_K)
            store_strided(rows, x, n_groups);
        else
            for (uint32_t g = 0; g < n_groups; g++)
                _mm256_storeu_si256((__m256i *)(void *)(rows + g * TKV_RVQ_DIM), x[g]);
    }
}

static void rvq_rows_avx2(const uint8_t *restrict codes, const int8_t *restrict books,
                          uint32_t n_stages, uint32_t D, tkv_kind kind, uint8_t flip,
                          uint8_t *restrict rows)
{
    const uint32_t n_groups = D / TKV_RVQ_DIM;
    const __m256i flips = _mm256_set1_epi8((char)flip);
    uint32_t at[TKV_RVQ_STAGES * MAX_GROUPS][16];
    for (uint32_t t = 0; t < T; t += 16, rows += 16 * (size_t)D) {
        for (uint32_t i = 0; i < n_stages * n_groups; i++)
            offsets(codes + i * TKV_RVQ_UNIT_BYTES, t, at[i]);
        if (n_groups == 4 && n_stages == TKV_RVQ_STAGES) /* what nearly all models have */
            sixteen_rows(at, books, TKV_RVQ_STAGES, 4, kind, flips, rows);
        else
            sixteen_rows(at, books, n_stages, n_groups, kind, flips, rows);
    }
}

void tkv_rvq_avx2(struct tkv_kernels *k)
{
    k->rvq_nearest = rvq_nearest_avx2;
    k->rvq_rows = rvq_rows_avx2;
}
