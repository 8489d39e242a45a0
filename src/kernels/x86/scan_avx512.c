/* Which codes are chosen, sixteen at a time: the words of the set are gathered. */
#include <immintrin.h>
#include <math.h>

#include "base/compiler.h"
#include "kernels/kernels.h"
#include "kernels/x86/exp_avx512.h"

void tkv_scan_avx512(struct tkv_kernels *k);

TKV_INLINE uint64_t scan_16(const uint16_t *code, const uint64_t *set)
{
    const __m512i codes = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)code));
    const __m512i words = _mm512_i32gather_epi32(_mm512_srli_epi32(codes, 5), set, 4);
    const __m512i bit =
        _mm512_sllv_epi32(_mm512_set1_epi32(1), _mm512_and_si512(codes, _mm512_set1_epi32(31)));
    return _mm512_test_epi32_mask(words, bit);
}

static uint64_t index_scan(const uint16_t *code, const uint64_t *set)
{
    return scan_16(code, set) | scan_16(code + 16, set) << 16 | scan_16(code + 32, set) << 32 |
           scan_16(code + 48, set) << 48;
}

static float index_best(const float *score, const uint32_t *counts, uint32_t n)
{
    __m512 best = _mm512_set1_ps(-INFINITY);
    for (uint32_t c = 0; c < n; c += 16) {
        const __m512i count = _mm512_loadu_si512(counts + c);
        const __mmask16 held = _mm512_test_epi32_mask(count, count);
        best = _mm512_mask_max_ps(best, held, best, _mm512_loadu_ps(score + c));
    }
    return _mm512_reduce_max_ps(best);
}

static uint32_t index_above(const float *score, const uint32_t *counts, uint32_t n, float least,
                            uint32_t *codes)
{
    const __m512 bound = _mm512_set1_ps(least);
    __m512i code = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint32_t n_codes = 0;
    for (uint32_t c = 0; c < n; c += 16, code = _mm512_add_epi32(code, _mm512_set1_epi32(16))) {
        const __mmask16 high = _mm512_cmp_ps_mask(_mm512_loadu_ps(score + c), bound, _CMP_GE_OQ);
        if (high == 0)
            continue; /* as a rule */
        const __m512i count = _mm512_loadu_si512(counts + c);
        const __mmask16 taken = _mm512_mask_test_epi32_mask(high, count, count);
        _mm512_mask_compressstoreu_epi32(codes + n_codes, taken, code);
        n_codes += (uint32_t)_mm_popcnt_u32(taken);
    }
    return n_codes;
}

/* The lanes' tree, as in dot_ref.c. */
TKV_INLINE float sum_lanes(__m512 x)
{
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static float index_mass(const float *score, const uint32_t *counts, uint32_t n, float best)
{
    const __m512 base = _mm512_set1_ps(best), zero = _mm512_setzero_ps();
    __m512 sum = zero;
    for (uint32_t c = 0; c < n; c += 16) {
        const __m512 x = _mm512_min_ps(_mm512_sub_ps(_mm512_loadu_ps(score + c), base), zero);
        const __m512 count = _mm512_cvtepu32_ps(_mm512_loadu_si512(counts + c));
        sum = _mm512_fmadd_ps(count, exp_negative(x), sum);
    }
    return sum_lanes(sum);
}

void tkv_scan_avx512(struct tkv_kernels *k)
{
    k->index_mass = index_mass;
    k->index_scan = index_scan;
    k->index_best = index_best;
    k->index_above = index_above;
}
