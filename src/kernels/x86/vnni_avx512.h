/* Sums of products of bytes with VNNI, for kernels on i8 tiles. */
#ifndef TKV_VNNI_AVX512_H
#define TKV_VNNI_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "base/compiler.h"

/* Four bytes in every 32-bit lane. */
TKV_INLINE __m512i tkv_broadcast4(const void *p)
{
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}

/* acc += sums of four products, u unsigned, s signed. By hand because gcc copies the accumulator
 * into a fresh register before its builtin and then runs out of registers. */
TKV_INLINE void tkv_dot4(__m512i *acc, __m512i u, __m512i s)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(u), "v"(s));
}

/* -128 * sum of D codes: what the bias of key tiles adds to a score. */
TKV_INLINE int32_t tkv_minus_128_sum(const int8_t *q, uint32_t D)
{
    const __m512i offset = _mm512_set1_epi8((char)0x80);
    __m512i sum = _mm512_setzero_si512();
    for (uint32_t d = 0; d < D; d += 64) {
        const __mmask64 live = D - d >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (D - d)) - 1;
        sum = _mm512_dpbusd_epi32(sum, offset, _mm512_maskz_loadu_epi8(live, q + d));
    }
    return -_mm512_reduce_add_epi32(sum);
}

#endif
