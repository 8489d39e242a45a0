/* The basis in which distances of keys are errors of scores. */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "index_learn.h"

/* Beside entries of rms 1: no direction is quite free. */
#define RIDGE 1e-6

static void multiply(bool ta, bool tb, const double *a, const double *b, uint32_t n, double *c)
{
    cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
                (int)n, (int)n, (int)n, 1, a, (int)n, b, (int)n, 0, c, (int)n);
}

/* The Cholesky factor. */
static bool factor(const double *queries, uint32_t n, double *low)
{
    double square = 0;
    for (size_t i = 0; i < (size_t)n * n; i++)
        square += queries[i] * queries[i];
    const double rms = sqrt(square) / n;
    if (!(rms > 0) || !isfinite(rms))
        return false;
    for (size_t i = 0; i < (size_t)n * n; i++)
        low[i] = queries[i] / rms + (i % (n + 1) == 0 ? RIDGE : 0);
    if (LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'L', (int)n, low, (int)n) != 0)
        return false;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i + 1; j < n; j++)
            low[(size_t)i * n + j] = 0;
    return true;
}

/* The orthonormal matrix of the discrete Hartley transform: spreads any one input over all
 * outputs. */
static void hartley(uint32_t n, double *out)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            const double a = 2 * 3.14159265358979323846 * (double)((uint64_t)i * j % n) / n;
            out[(size_t)i * n + j] = (cos(a) + sin(a)) / sqrt(n);
        }
}

/* Principal axes of keys times L, spread over all coefficients. */
static bool even_out(const double *low, const double *keys, uint32_t n, double *u, double *room)
{
    double *axes = cli_alloc((size_t)n * n, sizeof(*axes)),
           *variance = cli_alloc(n, sizeof(*variance));
    multiply(false, false, keys, low, n, room);
    multiply(true, false, low, room, n, axes);
    const bool good =
        LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', (int)n, axes, (int)n, variance) == 0;
    if (good) {
        hartley(n, room);
        multiply(false, false, axes, room, n, u);
    }
    free(axes), free(variance);
    return good;
}

bool index_basis(const double *queries, const double *keys, uint32_t dim, double *to, double *ask)
{
    const size_t square = (size_t)dim * dim;
    double *low = cli_alloc(square, sizeof(*low)), *u = cli_alloc(square, sizeof(*u));
    double *room = cli_alloc(square, sizeof(*room));
    bool good = factor(queries, dim, low) && even_out(low, keys, dim, u, room);
    if (good) {
        multiply(false, false, low, u, dim, to);
        good = LAPACKE_dtrtri(LAPACK_ROW_MAJOR, 'L', 'N', (int)dim, low, (int)dim) == 0;
        multiply(true, false, low, u, dim, ask);
    }
    free(low), free(u), free(room);
    return good;
}
