/* Rotation for AVX-512: order of operations as in rotate_ref.c.
 *
 * A row of n x 16 values lies in n registers. Butterflies of distance 1, 2, 4, 8 are a shuffle
 * that swaps partners and one fma, partner + (+-1) * x, which rounds once like the sum it is. Rows
 * with an odd part m > 1 are first parted into m rows of 2^k, one for each b. */
#include <immintrin.h>
#include <math.h>

#include "base/compiler.h"
#include "kernels/dct_table.h"
#include "kernels/kernels.h"

void tkv_rotate_avx512(struct tkv_kernels *k);

/* +1 where bit `h` of the lane number is clear, -1 where it is set. */
TKV_INLINE __m512 butterfly_signs(int h)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 high = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(h));
    return _mm512_mask_blend_ps(high, _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f));
}

TKV_INLINE void hadamard(__m512 *v, int n)
{
    const __m512 sign1 = butterfly_signs(1), sign2 = butterfly_signs(2);
    const __m512 sign4 = butterfly_signs(4), sign8 = butterfly_signs(8);
    for (int i = 0; i < n; i++) {
        __m512 x = v[i];
        x = _mm512_fmadd_ps(x, sign1, _mm512_permute_ps(x, 0xb1));
        x = _mm512_fmadd_ps(x, sign2, _mm512_permute_ps(x, 0x4e));
        x = _mm512_fmadd_ps(x, sign4, _mm512_shuffle_f32x4(x, x, 0xb1));
        v[i] = _mm512_fmadd_ps(x, sign8, _mm512_shuffle_f32x4(x, x, 0x4e));
    }
    for (int h = 1; h < n; h *= 2)
        for (int i = 0; i < n; i++)
            if (!(i & h)) {
                const __m512 u = v[i], w = v[i + h];
                v[i] = _mm512_add_ps(u, w);
                v[i + h] = _mm512_sub_ps(u, w);
            }
}

/* One row of 16 * n: times `before` (NULL: nothing), Hadamard, times scale, times `after`. */
TKV_INLINE void hadamard_row(float *x, int n, float scale, const float *before, const float *after)
{
    __m512 v[32];
    for (int i = 0; i < n; i++) {
        v[i] = _mm512_loadu_ps(x + i * 16);
        if (before)
            v[i] = _mm512_mul_ps(v[i], _mm512_loadu_ps(before + i * 16));
    }
    hadamard(v, n);
    for (int i = 0; i < n; i++) {
        v[i] = _mm512_mul_ps(v[i], _mm512_set1_ps(scale));
        if (after)
            v[i] = _mm512_mul_ps(v[i], _mm512_loadu_ps(after + i * 16));
        _mm512_storeu_ps(x + i * 16, v[i]);
    }
}

static void hadamard_rows(float *x, size_t n_rows, uint32_t even, const float *before,
                          const float *after)
{
    const float scale = 1.0f / sqrtf((float)even);
    for (; n_rows > 0; n_rows--, x += even)
        switch (even) {
        case 16:
            hadamard_row(x, 1, scale, before, after);
            break;
        case 32:
            hadamard_row(x, 2, scale, before, after);
            break;
        case 64:
            hadamard_row(x, 4, scale, before, after);
            break;
        case 128:
            hadamard_row(x, 8, scale, before, after);
            break;
        case 256:
            hadamard_row(x, 16, scale, before, after);
            break;
        default:
            hadamard_row(x, 32, scale, before, after);
            break;
        }
}

/* How to part 16 * m interleaved values into m registers, or to interleave them again: register i
 * of the result takes lanes `at[i]` of each of the m sources in turn, where `take[i][source]` says
 * so. */
struct shuffle {
    __m512i at[7];
    __mmask16 take[7][7];
};

static void plan_shuffles(struct shuffle *part, struct shuffle *join, uint32_t m)
{
    for (uint32_t i = 0; i < m; i++) {
        uint32_t part_at[16], join_at[16];
        for (uint32_t source = 0; source < m; source++)
            part->take[i][source] = join->take[i][source] = 0;
        for (uint32_t lane = 0; lane < 16; lane++) {
            const uint32_t apart = lane * m + i, joined = i * 16 + lane;
            part_at[lane] = apart % 16;
            join_at[lane] = joined / m;
            part->take[i][apart / 16] |= (__mmask16)(1u << lane);
            join->take[i][joined % m] |= (__mmask16)(1u << lane);
        }
        part->at[i] = _mm512_loadu_si512(part_at);
        join->at[i] = _mm512_loadu_si512(join_at);
    }
}

TKV_INLINE void shuffle(const struct shuffle *s, const __m512 *x, __m512 *y, uint32_t m)
{
    for (uint32_t i = 0; i < m; i++) {
        y[i] = _mm512_permutexvar_ps(s->at[i], x[0]);
        for (uint32_t j = 1; j < m; j++)
            y[i] = _mm512_mask_permutexvar_ps(y[i], s->take[i][j], s->at[i], x[j]);
    }
}

/* y[c] = sum_b M[c][b] x[b]; steps as in the reference. */
TKV_INLINE void dct(const __m512 *x, __m512 *y, uint32_t m, uint32_t c_step, uint32_t b_step)
{
    const float *table = tkv_dct_table(m);
    for (uint32_t c = 0; c < m; c++) {
        y[c] = _mm512_mul_ps(_mm512_set1_ps(table[c * c_step]), x[0]);
        for (uint32_t b = 1; b < m; b++) {
            const __m512 entry = _mm512_set1_ps(table[c * c_step + b * b_step]);
            y[c] = _mm512_fmadd_ps(entry, x[b], y[c]);
        }
    }
}

/* One register per b of 16 values of a, from x [.][m] to split [m][even]: signs, then the DCT. */
TKV_INLINE void enter(const struct shuffle *part, const float *x, const float *sign, float *split,
                      uint32_t even, uint32_t m)
{
    __m512 v[7], apart[7];
    for (uint32_t i = 0; i < m; i++) {
        v[i] = _mm512_loadu_ps(x + i * 16);
        if (sign)
            v[i] = _mm512_mul_ps(v[i], _mm512_loadu_ps(sign + i * 16));
    }
    shuffle(part, v, apart, m);
    if (sign)
        dct(apart, v, m, m, 1);
    for (uint32_t c = 0; c < m; c++)
        _mm512_storeu_ps(split + c * even, sign ? v[c] : apart[c]);
}

/* Back from split to x: the transposed DCT, then signs. */
TKV_INLINE void leave(const struct shuffle *join, const float *split, const float *sign, float *x,
                      uint32_t even, uint32_t m)
{
    __m512 v[7], apart[7];
    for (uint32_t b = 0; b < m; b++)
        apart[b] = _mm512_loadu_ps(split + b * even);
    if (sign)
        dct(apart, v, m, 1, m);
    shuffle(join, sign ? v : apart, sign ? apart : v, m);
    for (uint32_t i = 0; i < m; i++) {
        if (sign)
            v[i] = _mm512_mul_ps(apart[i], _mm512_loadu_ps(sign + i * 16));
        _mm512_storeu_ps(x + i * 16, v[i]);
    }
}

/* n rows with odd part m > 1; `before` is the signs for rotate, `after` for unrotate, the other
 * NULL. */
TKV_INLINE void odd_rows(float *x, size_t n, uint32_t even, uint32_t m, const float *before,
                         const float *after)
{
    struct shuffle part, join;
    float split[TKV_MAX_HEAD_DIM]; /* [m][even] */
    plan_shuffles(&part, &join, m);
    for (; n > 0; n--, x += even * m) {
        for (uint32_t a = 0; a < even; a += 16)
            enter(&part, x + a * m, before ? before + a * m : NULL, split + a, even, m);
        hadamard_rows(split, m, even, NULL, NULL);
        for (uint32_t a = 0; a < even; a += 16)
            leave(&join, split + a, after ? after + a * m : NULL, x + a * m, even, m);
    }
}

TKV_INLINE void transform(float *x, size_t n, uint32_t D, const float *before, const float *after)
{
    const uint32_t even = D & (0u - D);
    switch (D / even) {
    case 1:
        hadamard_rows(x, n, D, before, after);
        break;
    case 3:
        odd_rows(x, n, even, 3, before, after);
        break;
    case 5:
        odd_rows(x, n, even, 5, before, after);
        break;
    default:
        odd_rows(x, n, even, 7, before, after);
        break;
    }
}

static void rotate_avx512(float *restrict x, size_t n, uint32_t D, const float *restrict sign)
{
    transform(x, n, D, sign, NULL);
}

static void unrotate_avx512(float *restrict x, size_t n, uint32_t D, const float *restrict sign)
{
    transform(x, n, D, NULL, sign);
}

void tkv_rotate_avx512(struct tkv_kernels *k)
{
    k->rotate = rotate_avx512;
    k->unrotate = unrotate_avx512;
}
