/* Rotation of rows of D = 2^k * m values, m in {1, 3, 5, 7}, seen as a matrix [2^k][m].
 *
 *   rotate    x *= sign;  DCT-II along b (m > 1);  Hadamard along a;  x *= 2^(-k/2)
 *   unrotate  Hadamard along a;  x *= 2^(-k/2);  transposed DCT along b (m > 1);  x *= sign
 *
 * Order, which fixes every bit: a DCT output is c0 * x0, then fmaf with b ascending; Hadamard
 * butterflies (u, v) -> (u + v, u - v) go by distance 1, 2, 4, ... in units of m. */
#include <math.h>

#include "kernels/dct_table.h"
#include "kernels/kernels.h"

void tkv_rotate_ref(struct tkv_kernels *k);

/* The power-of-two part of D. */
static uint32_t even_part(uint32_t D)
{
    return D & (0u - D);
}

/* y[c] = sum_b M[c][b] x[b] with M at (c_step, b_step) in the table: (m, 1) forward, (1, m)
 * transposed. */
static void dct_rows(float *x, uint32_t n, uint32_t m, uint32_t c_step, uint32_t b_step)
{
    const float *table = tkv_dct_table(m);
    float y[7];
    for (uint32_t a = 0; a < n; a++, x += m) {
        for (uint32_t c = 0; c < m; c++) {
            const float *row = table + c * c_step;
            y[c] = row[0] * x[0];
            for (uint32_t b = 1; b < m; b++)
                y[c] = fmaf(row[b * b_step], x[b], y[c]);
        }
        for (uint32_t c = 0; c < m; c++)
            x[c] = y[c];
    }
}

static void hadamard(float *x, uint32_t n, uint32_t m)
{
    for (uint32_t h = 1; h < n; h *= 2)
        for (uint32_t a = 0; a < n; a++) {
            if (a & h)
                continue;
            for (uint32_t b = 0; b < m; b++) {
                float *u = x + (size_t)a * m + b, *v = u + (size_t)h * m;
                const float sum = *u + *v, difference = *u - *v;
                *u = sum;
                *v = difference;
            }
        }
}

static void rotate_ref(float *restrict x, size_t n, uint32_t D, const float *restrict sign)
{
    const uint32_t even = even_part(D), m = D / even;
    const float scale = 1.0f / sqrtf((float)even);
    for (; n > 0; n--, x += D) {
        for (uint32_t i = 0; i < D; i++)
            x[i] *= sign[i];
        if (m > 1)
            dct_rows(x, even, m, m, 1);
        hadamard(x, even, m);
        for (uint32_t i = 0; i < D; i++)
            x[i] *= scale;
    }
}

static void unrotate_ref(float *restrict x, size_t n, uint32_t D, const float *restrict sign)
{
    const uint32_t even = even_part(D), m = D / even;
    const float scale = 1.0f / sqrtf((float)even);
    for (; n > 0; n--, x += D) {
        hadamard(x, even, m);
        for (uint32_t i = 0; i < D; i++)
            x[i] *= scale;
        if (m > 1)
            dct_rows(x, even, m, 1, m);
        for (uint32_t i = 0; i < D; i++)
            x[i] *= sign[i];
    }
}

void tkv_rotate_ref(struct tkv_kernels *k)
{
    k->rotate = rotate_ref;
    k->unrotate = unrotate_ref;
}
