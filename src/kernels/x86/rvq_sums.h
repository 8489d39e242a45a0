/* Sums of codes of a page, in registers of AVX2 for both instruction sets: a code is 32 bytes, and
 * a register of two would cost a shuffle a code. A group is as many saturating additions as there are
 * stages. All books of a layer's keys are 512 KiB, those of its values as much: loads come from L2,
 * and what counts is that nothing else holds them up. */
#ifndef TKV_RVQ_SUMS_H
#define TKV_RVQ_SUMS_H

#include <immintrin.h>

#include "base/compiler.h"
#include "format/rvq.h"

enum {
    TKV_RVQ_MAX_GROUPS = TKV_MAX_HEAD_DIM / TKV_RVQ_DIM
};

_Static_assert(TKV_RVQ_BOOK_BYTES <= 1 << 16, "offsets into a book are words");

/* One group of one token: its stages' offsets lie `stage_step` rows apart. */
TKV_INLINE __m256i tkv_rvq_add_codes(const int8_t *books, uint32_t n_stages, const uint16_t *at,
                                     size_t stage_step)
{
    __m256i sum = _mm256_loadu_si256((const __m256i *)(const void *)(books + *at));
    for (uint32_t s = 1; s < n_stages; s++) {
        books += TKV_RVQ_BOOK_BYTES;
        at += stage_step * TKV_PAGE_TOKENS;
        sum =
            _mm256_adds_epi8(sum, _mm256_loadu_si256((const __m256i *)(const void *)(books + *at)));
    }
    return _mm256_max_epi8(sum, _mm256_set1_epi8(-127));
}

TKV_INLINE void tkv_rvq_store_halves(uint8_t *row, __m256i x, size_t apart)
{
    _mm_storeu_si128((__m128i *)(void *)row, _mm256_castsi256_si128(x));
    _mm_storeu_si128((__m128i *)(void *)(row + apart), _mm256_extracti128_si256(x, 1));
}

/* Four strided groups: cells of their values, the first 16 in the low halves. */
TKV_INLINE void tkv_rvq_store_four(uint8_t *row, const __m256i x[4])
{
    const __m256i a = _mm256_unpacklo_epi8(x[0], x[1]), b = _mm256_unpackhi_epi8(x[0], x[1]);
    const __m256i c = _mm256_unpacklo_epi8(x[2], x[3]), d = _mm256_unpackhi_epi8(x[2], x[3]);
    tkv_rvq_store_halves(row, _mm256_unpacklo_epi16(a, c), 64);
    tkv_rvq_store_halves(row + 16, _mm256_unpackhi_epi16(a, c), 64);
    tkv_rvq_store_halves(row + 32, _mm256_unpacklo_epi16(b, d), 64);
    tkv_rvq_store_halves(row + 48, _mm256_unpackhi_epi16(b, d), 64);
}

static inline void tkv_rvq_store_strided(uint8_t *row, const __m256i *x, uint32_t n_groups)
{
    uint8_t bytes[TKV_RVQ_DIM];
    for (uint32_t g = 0; g < n_groups; g++) {
        _mm256_storeu_si256((__m256i *)(void *)bytes, x[g]);
        for (uint32_t i = 0; i < TKV_RVQ_DIM; i++)
            row[(size_t)i * n_groups + g] = bytes[i];
    }
}

TKV_INLINE void tkv_rvq_sum_all(const uint16_t (*at)[TKV_PAGE_TOKENS], const int8_t *books,
                                uint32_t n_stages, uint32_t n_groups, tkv_kind kind, __m256i flip,
                                uint8_t *rows)
{
    __m256i x[TKV_RVQ_MAX_GROUPS];
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++, rows += (size_t)n_groups * TKV_RVQ_DIM) {
        for (uint32_t g = 0; g < n_groups; g++)
            x[g] = _mm256_xor_si256(tkv_rvq_add_codes(books, n_stages, &at[g][t], n_groups), flip);
        if (kind == TKV_K && n_groups == 4)
            tkv_rvq_store_four(rows, x);
        else if (kind == TKV_K)
            tkv_rvq_store_strided(rows, x, n_groups);
        else
            for (uint32_t g = 0; g < n_groups; g++)
                _mm256_storeu_si256((__m256i *)(void *)(rows + g * TKV_RVQ_DIM), x[g]);
    }
}

/* Byte offsets into their book of the codes of a unit. */
typedef void tkv_rvq_offsets(const uint8_t *unit, uint16_t out[TKV_PAGE_TOKENS]);

/* tkv_kernels.rvq_rows, but for what is best in each instruction set. */
TKV_INLINE void tkv_rvq_sum_rows(const uint8_t *codes, const int8_t *books, uint32_t n_stages,
                                 uint32_t D, tkv_kind kind, uint8_t flip, uint8_t *rows,
                                 tkv_rvq_offsets *offsets)
{
    const uint32_t n_groups = D / TKV_RVQ_DIM;
    const __m256i flips = _mm256_set1_epi8((char)flip);
    uint16_t at[TKV_RVQ_STAGES * TKV_RVQ_MAX_GROUPS][TKV_PAGE_TOKENS]; /* by stage and group */
    for (uint32_t i = 0; i < n_stages * n_groups; i++)
        offsets(codes + i * TKV_RVQ_UNIT_BYTES, at[i]);
    const uint16_t(*all)[TKV_PAGE_TOKENS] = (const uint16_t(*)[TKV_PAGE_TOKENS])at;
    if (n_groups == 4 && n_stages == TKV_RVQ_STAGES) /* what nearly all models have */
        tkv_rvq_sum_all(all, books, TKV_RVQ_STAGES, 4, kind, flips, rows);
    else
        tkv_rvq_sum_all(all, books, n_stages, n_groups, kind, flips, rows);
}

#endif
