/* Which codes are chosen: the words of the set are gathered, sixteen codes at a time. */
#include <immintrin.h>

#include "base/compiler.h"
#include "kernels/kernels.h"

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

void tkv_scan_avx512(struct tkv_kernels *k)
{
    k->index_scan = index_scan;
}
