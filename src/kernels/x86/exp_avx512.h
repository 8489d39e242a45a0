/* exp_poly.h with AVX-512. */
#ifndef TKV_EXP_AVX512_H
#define TKV_EXP_AVX512_H

#include <immintrin.h>

#include "base/compiler.h"
#include "kernels/exp_poly.h"

TKV_INLINE __m512 exp_negative(__m512 x)
{
    const __mmask16 live = _mm512_cmp_ps_mask(x, _mm512_set1_ps(TKV_EXP_MIN), _CMP_NLT_UQ);
    const __m512 magic = _mm512_set1_ps(TKV_EXP_MAGIC);
    const __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(TKV_EXP_LOG2E), magic);
    const __m512 r = _mm512_fmadd_ps(_mm512_sub_ps(t, magic), _mm512_set1_ps(-TKV_EXP_LN2), x);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(TKV_EXP_C5), r, _mm512_set1_ps(TKV_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(TKV_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(TKV_EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    const __m512i power = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_maskz_mul_ps(live, p, _mm512_castsi512_ps(power));
}

#endif
