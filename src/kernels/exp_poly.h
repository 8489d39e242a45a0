/* The exponential of every softmax kernel, as constants: all instruction sets run the same
 * operations in the same order and so agree bit for bit.
 *
 *   t = fmaf(x, LOG2E, MAGIC)     n + 127 with n = round(x * log2 e) sits in t's low mantissa bits
 *   r = fmaf(t - MAGIC, -LN2, x)  |r| <= ln 2 / 2
 *   p = 1 + r + r^2 (C2 + r (C3 + r (C4 + r C5)))   Horner, each step an fmaf
 *   exp(x) = p * 2^n, 2^n being t's bits moved into the exponent field; 0 where x < MIN
 *
 * For x in [MIN, 0] only. The result is never subnormal, exp(0) is 1. Relative error: 1.05e-7 of
 * the polynomial (minimax fit with the two first coefficients held at 1) and 1.9e-9 |n| of the
 * rounded LN2. */
#ifndef TKV_EXP_POLY_H
#define TKV_EXP_POLY_H

#define TKV_EXP_LOG2E 0x1.715476p+0f
#define TKV_EXP_MAGIC (0x1.8p+23f + 127.0f)
#define TKV_EXP_LN2   0x1.62e43p-1f
#define TKV_EXP_C2    0x1.fffdfcp-2f
#define TKV_EXP_C3    0x1.5557bp-3f
#define TKV_EXP_C4    0x1.572a66p-5f
#define TKV_EXP_C5    0x1.106254p-7f
#define TKV_EXP_MIN   -87.0f

/* Adding this to |x| < 2^22 leaves the integer nearest to x, ties to even, in the low bits. */
#define TKV_ROUND_MAGIC 0x1.8p+23f

/* A maximum below this counts as zero where it is to be divided by: its reciprocal would
 * overflow. */
#define TKV_TINY 0x1p-100f

#endif
