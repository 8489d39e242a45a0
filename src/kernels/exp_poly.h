/* The exponential of every softmax kernel, as constants: all instruction sets run the same operations in the
 * same order and so agree bit for bit.
 *
 *   t = fmaf(x, LOG2E, MAGIC)        the integer n = round(x * log2 e) sits in t's low mantissa bits
 *   n = t - MAGIC
 *   r = fmaf(n, -LN2_LO, fmaf(n, -LN2_HI, x))                              |r| <= ln 2 / 2
 *   p = 1 + r + r^2 (C2 + r (C3 + r (C4 + r (C5 + r C6))))                  Horner, each step an fmaf
 *   exp(x) = p * 2^n, 2^n made of exponent bits; 0 where x < MIN
 *
 * For x in [MIN, 0] only. The result is never subnormal, exp(0) is 1. C2..C6: minimax fit of the relative error
 * (3.1e-9) over |r| <= ln 2 / 2 with the two first coefficients held at 1. */
#ifndef TKV_EXP_POLY_H
#define TKV_EXP_POLY_H

#define TKV_EXP_LOG2E 0x1.715476p+0f
#define TKV_EXP_MAGIC 0x1.8p+23f
#define TKV_EXP_LN2_HI 0x1.62e43p-1f
#define TKV_EXP_LN2_LO -0x1.05c61p-29f
#define TKV_EXP_C2 0x1.fffffcp-2f
#define TKV_EXP_C3 0x1.555492p-3f
#define TKV_EXP_C4 0x1.5558f2p-5f
#define TKV_EXP_C5 0x1.123a2p-7f
#define TKV_EXP_C6 0x1.6a23d2p-10f
#define TKV_EXP_MIN -87.0f

#endif
