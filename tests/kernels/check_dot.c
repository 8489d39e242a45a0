#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"

/* Rows `gap` elements further apart than they are long. */
static void check_shape(struct check *c, uint32_t D, uint32_t n_rows, size_t gap, int fill)
{
    const size_t stride = D + gap, n = n_rows ? (n_rows - 1) * stride + D : 0;
    float *a = check_alloc(D, 4), *q = check_alloc(n, 4), *out = check_alloc(n_rows, 4);
    float *want = malloc((size_t)n_rows * 4 + 1);
    char what[64];
    snprintf(what, sizeof what, "D=%u rows=%u %s", D, n_rows, check_fill_name(fill));
    check_fill(c, a, D, fill);
    check_fill(c, q, n, fill);
    c->ref.dot(a, q, stride, n_rows, D, want);
    c->now.dot(a, q, stride, n_rows, D, out);
    check_f32(c, "dot", what, out, want, n_rows);
    for (uint32_t r = 0; fill == FILL_UNIFORM && r < n_rows; r++) {
        double sum = 0;
        for (uint32_t d = 0; d < D; d++)
            sum += (double)a[d] * (double)q[r * stride + d];
        check_true(c, "dot", "sum in double", fabs((double)out[r] - sum) < 1e-4);
    }
    check_free(a, D, 4), check_free(q, n, 4), check_free(out, n_rows, 4);
    free(want);
}

void check_dot(struct check *c)
{
    if (!check_wanted(c, "dot"))
        return;
    for (uint32_t D = 16; D <= TKV_MAX_HEAD_DIM; D += 16)
        for (int fill = 0; fill < FILL_COUNT; fill++)
            check_shape(c, D, check_random(c) % 9, check_random(c) % 3, fill);
}
