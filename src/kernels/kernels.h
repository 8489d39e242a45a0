/* The kernel table: every inner loop of the library, one pointer each. The reference fills all
 * of them; overlays replace some where the CPU can. Kernels allocate nothing, branch on no CPU
 * feature and know no codec, only the layouts below.
 *
 * Two working forms of a page (64 tokens x D dims, D a multiple of 16):
 *   i8 tile, K   u8, code + 128, [4 blocks of 16 tokens][D/4][16 tokens][4 dims]
 *   i8 tile, V   s8,             [16 groups of 4 tokens][D/16][16 dims][4 tokens]
 *   f32 tile, K  [D][64 tokens]  (transposed)
 *   f32 tile, V  [64 tokens][D]
 * Tiles are 64-byte aligned. In an i8 tile codes stay within -127..127.
 */
#ifndef TKV_KERNELS_H
#define TKV_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "tightkv/tightkv.h"

/* Constants of the online softmax: see tkv_kernels.softmax. */
struct tkv_softmax_row {
    float m;   /* running maximum of the logits; -INFINITY before the first page */
    float l;   /* running sum of exp(logit - m) */
    float fix; /* out: what the caller must multiply this row's accumulators with; 1 when m stood */
};

/* Memory that is needed next. It answers about as fast as a page is computed, so the two must
 * overlap; but only a dozen lines can be under way at once, and asking for more stalls. So the
 * kernels of a page ask for it bit by bit while they compute. Any address will do: asking for
 * memory that is not there does nothing. */
struct tkv_ahead {
    uintptr_t at;
    size_t step; /* bytes from one call of tkv_step_ahead (ahead.h) to the next, at most a line */
};

/* Such calls for a row in softmax, and in quantize_weights. */
#define TKV_STEPS_OF_ROW 8

/* A basis in integers, m[i][j] = codes[i / 2][j][i % 2] * scale[j]. No sum of products with
 * TKV_BASIS_MOST as the largest factor may leave 31 bits: tkv_basis_quantize() sees to it. */
struct tkv_basis_i16 {
    const int16_t *codes; /* [D/2][D][2], 64-byte aligned */
    const float *scale;   /* [D] */
};
#define TKV_BASIS_MOST 8000

/* More than any product of a code and a row. */
#define TKV_INDEX_NEVER (1 << 30)

struct tkv_polar_tables; /* format/polar.h */

/* Angle codes of 64 rows, not yet in page order. */
struct tkv_polar_rows {
    uint8_t *c1; /* [64][D/4] level 1, pair a | pair b << 4 */
    uint8_t *c2; /* [64][D/4] level 2 */
    /* [64][D/16] level 3 of columns 0, 1 | of columns 2, 3 << bits | level 4 << 2 * bits */
    uint16_t *upper;
    float *sum_sq; /* [64][D/16] the squared radius */
};

struct tkv_kernels {
    /* --- conversion and transforms --- */
    /* x of any alignment */
    void (*f16_to_f32)(const void *x, float *y, size_t n);
    /* round to nearest even; overflow becomes infinity */
    void (*f32_to_f16)(const float *x, uint16_t *y, size_t n);
    /* y[c][t] = x[t][c] for [64 tokens][D] rows, x_stride in elements, y is [D][64] */
    void (*transpose_f16)(const uint16_t *x, size_t x_stride, uint32_t D, float *y);
    /* In place on n rows of D <= TKV_MAX_HEAD_DIM: multiply by sign[D] (+-1), then an
     * orthonormal transform: Hadamard of the power-of-two part times an orthonormal DCT-II of
     * the odd part m = D / 2^k, which is 1, 3, 5 or 7; element i = a * m + b. */
    void (*rotate)(float *x, size_t n, uint32_t D, const float *sign);
    /* The inverse (transpose) of rotate. */
    void (*unrotate)(float *x, size_t n, uint32_t D, const float *sign);

    /* y[r][j] = sum_i x[r][i] * m[i][j], fmaf in ascending i from zero; x: [n][D], m: [D][D],
     * 64-byte aligned. y must not overlap x. */
    void (*basis)(const float *x, size_t n, uint32_t D, const float *m, float *y);
    /* The same to about 13 bits, in integers: c[i] = x[r][i] * (TKV_BASIS_MOST / max|x[r]|) to
     * nearest even, y[r][j] = (float)(sum_i c[i] * codes[i][j]) * (scale[j] * unit), unit = max|x[r]|
     * / TKV_BASIS_MOST. A row below 2^-100 counts as zeros, and one with a NaN or an infinity gives
     * NaNs. */
    void (*basis_i16)(const float *x, size_t n, uint32_t D, const struct tkv_basis_i16 *m,
                      float *y);
    /* In place on n rows of D: pair i of values (i, i + half) for i < half, or (2 * i, 2 * i + 1)
     * when half is 0, becomes (a * c - b * s, a * s + b * c), c and s = turn[i][0, 1], for
     * i < n_pairs. */
    void (*turn)(float *x, size_t n, uint32_t D, uint32_t half, uint32_t n_pairs,
                 const float (*turn)[2]);
    /* The same on an f32 tile of K, each token by its own angles: those of pair i at cos and sin
     * [i * stride + token]. */
    void (*turn_tile)(float *tile, uint32_t half, uint32_t n_pairs, const float *cos,
                      const float *sin, size_t stride);

    /* --- attention on tiles --- */
    /* s[r][t] = sum_d q[r][d] * (tile[t][d] - 128), exact in i32. q: [n_rows][D] s8. s:
     * [n_rows][64]. */
    void (*score_i8)(const uint8_t *tile, const int8_t *q, uint32_t n_rows, uint32_t D, int32_t *s,
                     struct tkv_ahead *ahead);
    /* acc[r][c] = fmaf(wscale[r], (float)sum_t w[r][t] * tile[t][c], acc[r][c]). w: [n_rows][64]
     * u8. acc: [n_rows][D] f32, 64-byte aligned. */
    void (*wsum_i8)(const int8_t *tile, const uint8_t *w, const float *wscale, uint32_t n_rows,
                    uint32_t D, float *acc, struct tkv_ahead *ahead);
    /* s[r][t] = sum_d q[r][d] * kt[d][t], fmaf in ascending d. q rows `q_stride` elements apart. */
    void (*score_f32)(const float *kt, const float *q, size_t q_stride, uint32_t n_rows, uint32_t D,
                      float *s, struct tkv_ahead *ahead);
    /* acc[r][c] += sum_t w[r][t] * v[t][c], fmaf in ascending t starting from acc. */
    void (*wsum_f32)(const float *v, const float *w, uint32_t n_rows, uint32_t D, float *acc,
                     struct tkv_ahead *ahead);
    /* out[r] = sum_c a[c] * q[r][c], in the lane order of dot_ref.c. q rows `q_stride` elements
     * apart. */
    void (*dot)(const float *a, const float *q, size_t q_stride, uint32_t n_rows, uint32_t D,
                float *out);
    /* s[r][t] = fmaf((float)si[r][t] * qscale[r], kscale[t], bias[r]) : integer scores to
     * logits' products */
    void (*scale_scores)(const int32_t *si, const float *qscale, const float *kscale,
                         const float *bias, uint32_t n_rows, float *s);
    /* One online-softmax step of each row over 64 logits; s[r][t] becomes exp(s[r][t] - m), a
     * hidden logit is -INFINITY and becomes 0. Updates m and l of rows[r], sets its fix. If all
     * are hidden and m is -INFINITY, everything becomes 0 and fix 1. A NaN logit makes l a NaN.
     * exp: exp_poly.h. */
    void (*softmax)(float *s, struct tkv_softmax_row *rows, uint32_t n_rows,
                    struct tkv_ahead *ahead);
    /* u8 weights of each row: x[t] = p[r][t] * vscale[t]; w[r][t] = round(x[t] * (255 / max x)),
     * to nearest even. wscale[r] = max x / 255, 0 when max x is below 2^-100. All inputs >= 0; a
     * NaN weighs nothing. */
    void (*quantize_weights)(const float *p, const float *vscale, uint32_t n_rows, uint8_t *w,
                             float *wscale, struct tkv_ahead *ahead);
    /* s8 query row: codes[d] = round(x[d] * (127 / max|x|)), *sum = sum of codes; returns the
     * scale max|x| / 127, 0 when max|x| is below 2^-100. A row with a NaN or an infinity gets
     * codes 0 and a scale that is one. */
    float (*quantize_row_i8)(const float *x, uint32_t D, int8_t *codes, int32_t *sum);

    /* --- the 64 rows of a page to codes and back --- */
    /* sum_sq[t] = sum of x[t][d]^2: lane d % 16 first, then a tree over lanes (+8, +4, +2, +1). */
    void (*row_sum_sq)(const float *x, uint32_t D, float *sum_sq);
    /* the least and the largest |x[t][d]| of each row */
    void (*row_range)(const float *x, uint32_t D, float *low, float *high);
    /* codes[t][d] = x[t][d] * inv[t] rounded to nearest even, within -127..127 */
    void (*quantize_rows_i8)(const float *x, const float *inv, uint32_t D, int8_t *codes);
    /* [64][D] bytes to the order of a tile of the kind; and an i8 tile back to rows: code *
     * scale[t]. The tile may be a page's own bytes, so it need not be aligned. */
    void (*rows_to_tile)(const uint8_t *rows, uint32_t D, tkv_kind kind, uint8_t *tile);
    void (*tile_to_rows)(const uint8_t *tile, uint32_t D, tkv_kind kind, const float *scale,
                         float *x);
    /* An i8 tile of keys to an f32 tile: (code - 128) * scale[t]. Both aligned. */
    void (*tile_k_to_f32)(const uint8_t *tile, uint32_t D, const float *scale, float *out);

    /* --- row order (format/row_order.h) --- */
    /* The codes of 64 rows to a page's codes in tile order. bits: 8 (an i8 tile), or those of turbo
     * codes: 4, 3, 2. Rows may lie anywhere, at any alignment. */
    void (*order_tile)(const uint8_t *const *rows, uint32_t D, tkv_kind kind, uint32_t bits,
                       uint8_t *codes);
    /* And back: row t goes to rows + t * stride. */
    void (*order_rows)(const uint8_t *codes, uint32_t D, tkv_kind kind, uint32_t bits,
                       uint8_t *rows, size_t stride);

    /* --- turbo: Lloyd-Max codes of 4, 3 or 2 bits (format/turbo.h) --- */
    /* Page codes to an i8 tile of the kind. bits: 2, 3 or 4. */
    void (*turbo_tile_k)(const uint8_t *codes, uint32_t D, uint32_t bits, uint8_t *tile,
                         struct tkv_ahead *ahead);
    void (*turbo_tile_v)(const uint8_t *codes, uint32_t D, uint32_t bits, int8_t *tile,
                         struct tkv_ahead *ahead);
    /* What turbo_tile_k and score_i8, turbo_tile_v and wsum_i8 give, without a tile between them;
     * best for few rows. NULL where there is nothing to gain. */
    void (*turbo_score)(const uint8_t *codes, uint32_t D, uint32_t bits, const int8_t *q,
                        uint32_t n_rows, int32_t *s, struct tkv_ahead *ahead);
    void (*turbo_wsum)(const uint8_t *codes, uint32_t D, uint32_t bits, const uint8_t *w,
                       const float *wscale, uint32_t n_rows, float *acc, struct tkv_ahead *ahead);
    /* Codes in tile order, one a byte, to page codes. */
    void (*turbo_pack)(const uint8_t *tile, uint32_t D, tkv_kind kind, uint32_t bits,
                       uint8_t *codes);
    /* codes[t][d] = number of turbo thresholds below x[t][d] * inv[t]; energy[t] = sum of
     * squared levels. */
    void (*turbo_codes)(const float *x, const float *inv, uint32_t D, uint32_t bits, uint8_t *codes,
                        int32_t *energy);
    /* dot[t] = sum of levels[t][d] * x[t][d], the levels of the codes: lane d % 16 first, by fmaf,
     * then a tree over lanes (+8, +4, +2, +1). */
    void (*turbo_dots)(const float *x, const uint8_t *codes, uint32_t D, uint32_t bits, float *dot);

    /* --- kivi, kvarn: asymmetric codes (FORMAT.md, kivi) --- */
    /* n groups of 32 values: x = code * delta[g] + least[g]. bits: 4, 3 or 2. */
    void (*kivi_groups)(const uint8_t *codes, const float *least, const float *delta, size_t n,
                        uint32_t bits, float *x);

    /* --- visual: whole numbers of 1, 2 or 4 bits (format/visual.h) --- */
    /* s[r][t] = sum_d q[r][d] * code[t][d], exact in i32. */
    void (*visual_score)(const uint8_t *codes, uint32_t D, uint32_t bits, const int8_t *q,
                         uint32_t n_rows, int32_t *s, struct tkv_ahead *ahead);
    /* acc[r][c] = fmaf(wscale[r], (float)sum_t w[r][t] * code[t][c], acc[r][c]) */
    void (*visual_wsum)(const uint8_t *codes, uint32_t D, uint32_t bits, const uint8_t *w,
                        const float *wscale, uint32_t n_rows, float *acc, struct tkv_ahead *ahead);

    /* --- trellis: coefficients that share bits (format/trellis.h) --- */
    /* Page codes to an i8 tile of the kind: levels in steps. bits: [D], of each coefficient. */
    void (*trellis_tile_k)(const uint8_t *codes, const uint8_t *bits, uint32_t D, uint8_t *tile,
                           struct tkv_ahead *ahead);
    void (*trellis_tile_v)(const uint8_t *codes, const uint8_t *bits, uint32_t D, int8_t *tile,
                           struct tkv_ahead *ahead);
    /* The streams nearest to x [D][64], values in steps: windows[d][t] is the last 8 bits after
     * coefficient d. An error of e steps in coefficient d costs (e * reach[d])^2, where value and
     * level times reach[d] are rounded to integers within TKV_TRELLIS_MOST; best when that is
     * around 3^2, see format/trellis.h. The lowest window wins a tie. scratch: TKV_TRELLIS_SCRATCH_BYTES, 64-byte
     * aligned. */
    void (*trellis_codes)(const float *x, const uint8_t *bits, const float *reach, uint32_t D,
                          uint8_t *windows, void *scratch);
    /* product[t] = sum_d weight[d] * x[d][t] * level, square[t] = sum_d weight[d] * level * level,
     * level that of windows[d][t]; from the left, d ascending. */
    void (*trellis_fit)(const float *x, const uint8_t *windows, const uint8_t *bits,
                        const float *weight, uint32_t D, float *product, float *square);

    /* --- rvq: residual codebooks of 8-bit values (format/rvq.h) --- */
    /* For each residual r[i], i < n (a multiple of 4), and each class j of TKV_RVQ_CLASSES: of the
     * codes whose index is j modulo the number of classes, the one with the most
     * r c - floor(|c|^2 / 2), the first of equals. best[i][j] is that, at[i][j] the code's index.
     * codes: [TKV_RVQ_CODES][TKV_RVQ_DIM]. r: [n][TKV_RVQ_DIM] */
    void (*rvq_nearest)(const int8_t *codes, const int8_t *r, size_t n, int32_t *best,
                        uint32_t *at);
    /* Page codes to rows [64][D]: the codes of a group summed up stage by stage, each sum kept
     * within -128..127 and the last above -128, each byte ^ flip. books: [n_stages][codes] */
    void (*rvq_rows)(const uint8_t *codes, const int8_t *books, uint32_t n_stages, uint32_t D,
                     tkv_kind kind, uint8_t flip, uint8_t *rows);

    /* --- cq: coupled channels (format/cq.h) --- */
    /* The codes of 64 tokens for one group of `dim` channels, 4 or 8: the centroid i with the most
     * sum_j x[j] * c[i][j] + offset[i]. x: [dim / 2][64][2], in eighths of a step, within
     * TKV_CQ_MOST; centroids: [256][dim], in steps, times 256; offset[i] is -1024 |c|^2 + 255 - i,
     * so that the low byte tells which it was, and the first of equals wins. */
    void (*cq_nearest)(const int16_t *x, const int16_t *centroids, const int32_t *offset,
                       uint32_t dim, uint8_t *codes);
    /* Page codes [D / dim][64] to an f32 tile of K, value * step[d] + base[d], or an i8 tile of V.
     * values: [D][256], what a code means for a channel. */
    void (*cq_tile_k)(const uint8_t *codes, const int8_t *values, const float *step,
                      const float *base, uint32_t D, uint32_t dim, float *tile);
    void (*cq_tile_v)(const uint8_t *codes, const int8_t *values, uint32_t D, uint32_t dim,
                      int8_t *tile);

    /* --- the retrieval index (index/index.h) --- */
    /* For each of n <= 64 rows the code with the most r c - half[c], the first of equals. Codes lie
     * in i8 tiles of K, 64-byte aligned; n_codes: a multiple of 64. 0 <= half[c] <= TKV_INDEX_NEVER,
     * which is that of places no code is at, all of them zeros there. rows: [n][D], within -127..127 */
    void (*index_nearest)(const uint8_t *tiles, const int32_t *half, uint32_t n_codes, uint32_t D,
                          const int8_t *rows, size_t n, uint16_t *nearest);
    /* Which of 64 codes are in a set: bit t of the result is bit code[t] of `set`. */
    uint64_t (*index_scan)(const uint16_t *code, const uint64_t *set);
    /* The best score among n codes with a count, -INFINITY when there is none; n: a multiple of
     * 16. */
    float (*index_best)(const float *score, const uint32_t *counts, uint32_t n);
    /* Lists the codes with a count whose score is at least `least`, in rising order; returns how
     * many. codes: [n] */
    uint32_t (*index_above)(const float *score, const uint32_t *counts, uint32_t n, float least,
                            uint32_t *codes);
    /* sum of counts[c] * exp(min(score[c] - best, 0)): lane c % 16 first, by fmaf, then a tree over
     * lanes (+8, +4, +2, +1). exp: exp_poly.h. n: a multiple of 16 */
    float (*index_mass)(const float *score, const uint32_t *counts, uint32_t n, float best);

    /* --- polar: angle codes over blocks of 16 (FORMAT.md, polar) --- */
    /* Rows [64][D] to angle codes and squared radii; every sum and product in the reference's
     * order. */
    void (*polar_codes)(const struct tkv_polar_tables *tables, const float *x, uint32_t D,
                        struct tkv_polar_rows *out);
    /* Page to an i8 tile and one scale a token: value = code * scale, within 1.5% of the codec's
     * own error. */
    void (*polar_tile_k)(const struct tkv_polar_tables *tables, const uint8_t *page, uint32_t D,
                         uint8_t *tile, float *scale);
    void (*polar_tile_v)(const struct tkv_polar_tables *tables, const uint8_t *page, uint32_t D,
                         int8_t *tile, float *scale);
};

/* Fills the table for a CPU mask: reference first, then overlays from low to high. */
void tkv_kernels_init(struct tkv_kernels *k, uint32_t features);

#endif
