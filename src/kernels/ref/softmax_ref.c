/* Online softmax over 64 logits, and the 8-bit forms of weights and queries.
 *
 * Order of the sum: lane i of 16 adds elements i, i + 16, i + 32, i + 48; then lanes fold by 8,
 * 4, 2, 1. Maxima need no order. Rounding to integers is to nearest even by adding
 * TKV_ROUND_MAGIC. */
#include <math.h>

#include "base/half.h"
#include "kernels/exp_poly.h"
#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_softmax_ref(struct tkv_kernels *k);

static void scale_scores_ref(const int32_t *restrict si, const float *restrict qscale,
                             const float *restrict kscale, const float *restrict bias,
                             uint32_t n_rows, float *restrict s)
{
    for (size_t r = 0; r < n_rows; r++)
        for (size_t t = 0; t < TOKENS; t++) {
            const size_t i = r * TOKENS + t;
            s[i] = fmaf((float)si[i] * qscale[r], kscale[t], bias[r]);
        }
}

/* exp(x) for x <= 0, see exp_poly.h; a NaN stays one. */
static float exp_negative(float x)
{
    if (x < TKV_EXP_MIN)
        return 0.0f;
    const float t = fmaf(x, TKV_EXP_LOG2E, TKV_EXP_MAGIC);
    const float r = fmaf(t - TKV_EXP_MAGIC, -TKV_EXP_LN2, x);
    float p = fmaf(TKV_EXP_C5, r, TKV_EXP_C4);
    p = fmaf(p, r, TKV_EXP_C3);
    p = fmaf(p, r, TKV_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * tkv_bits_f32(tkv_f32_bits(t) << 23); /* all of MAGIC's own bits leave at the top */
}

static float fold_sum(const float *restrict x)
{
    float lane[16];
    for (size_t i = 0; i < 16; i++)
        lane[i] = ((x[i] + x[i + 16]) + x[i + 32]) + x[i + 48];
    for (size_t h = 8; h > 0; h /= 2)
        for (size_t i = 0; i < h; i++)
            lane[i] += lane[i + h];
    return lane[0];
}

static void softmax_row(float *restrict s, struct tkv_softmax_row *restrict row)
{
    float m = row->m;
    for (size_t t = 0; t < TOKENS; t++)
        m = s[t] > m ? s[t] : m;
    const float base =
        m == -INFINITY ? 0.0f : m; /* all hidden so far: -inf - 0 still gives weight 0 */
    for (size_t t = 0; t < TOKENS; t++)
        s[t] = exp_negative(s[t] - base);
    row->fix = m == row->m ? 1.0f : exp_negative(row->m - m);
    row->l = fmaf(row->l, row->fix, fold_sum(s));
    row->m = m;
}

static void softmax_ref(float *restrict s, struct tkv_softmax_row *restrict rows, uint32_t n_rows,
                        struct tkv_ahead *ahead)
{
    (void)ahead;
    for (size_t r = 0; r < n_rows; r++)
        softmax_row(s + r * TOKENS, &rows[r]);
}

/* The integer nearest to x, |x| < 2^22, as its low bits. */
static uint32_t nearest_bits(float x)
{
    return tkv_f32_bits(x + TKV_ROUND_MAGIC);
}

static float quantize_weights_row(const float *restrict p, const float *restrict vscale,
                                  uint8_t *restrict w)
{
    float x[TOKENS], max = 0.0f;
    for (size_t t = 0; t < TOKENS; t++) {
        x[t] = p[t] * vscale[t];
        x[t] = x[t] > 0.0f ? x[t] : 0.0f; /* a NaN too: the caller's sum of weights carries it */
        max = x[t] > max ? x[t] : max;
    }
    const float inverse = max < TKV_TINY ? 0.0f : 255.0f / max;
    for (size_t t = 0; t < TOKENS; t++)
        w[t] = (uint8_t)nearest_bits(x[t] * inverse);
    return max < TKV_TINY ? 0.0f : max * (1.0f / 255.0f);
}

static void quantize_weights_ref(const float *restrict p, const float *restrict vscale,
                                 uint32_t n_rows, uint8_t *restrict w, float *restrict wscale,
                                 struct tkv_ahead *ahead)
{
    (void)ahead;
    for (size_t r = 0; r < n_rows; r++)
        wscale[r] = quantize_weights_row(p + r * TOKENS, vscale, w + r * TOKENS);
}

static float quantize_row_i8_ref(const float *restrict x, uint32_t D, int8_t *restrict codes,
                                 int32_t *restrict sum)
{
    uint32_t max_bits = 0; /* magnitudes order like their bits, NaN above infinity */
    for (size_t d = 0; d < D; d++) {
        const uint32_t magnitude = tkv_f32_bits(x[d]) & 0x7fffffffu;
        max_bits = magnitude > max_bits ? magnitude : max_bits;
    }
    const float max = tkv_bits_f32(max_bits);
    const int codable = max >= TKV_TINY && max < INFINITY;
    const float inverse = codable ? 127.0f / max : 0.0f;
    *sum = 0;
    for (size_t d = 0; d < D; d++) {
        codes[d] = codable ? (int8_t)(uint8_t)nearest_bits(x[d] * inverse) : 0;
        *sum += codes[d];
    }
    return max < TKV_TINY ? 0.0f : max * (1.0f / 127.0f);
}

void tkv_softmax_ref(struct tkv_kernels *k)
{
    k->scale_scores = scale_scores_ref;
    k->softmax = softmax_ref;
    k->quantize_weights = quantize_weights_ref;
    k->quantize_row_i8 = quantize_row_i8_ref;
}
