/* Moments to bases, and bits for their coefficients. */
#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"

/* Share of the weights' trace that every direction gets, so that none counts for nothing. */
#define RIDGE 1e-3

/* What the trellis leaves of a unit variance at 0 to 7 bits. */
static const double left_over[] = {1, .288, .0777, .0200, .0054, .00185, .00078, .00035};
enum { MOST_BITS = 7 };

/* A page of a head begins at a multiple of 64 bytes: 8 bits of 64 tokens. */
enum { UNIT = 8 };

/* What a cache holds beside codes: a row's gain, and of a context of 2048 tokens at least the page
 * tables, in bits a value: a measure of today's tables, which books made later may follow. Without a
 * book the format says how many bits there are, whatever tables take (tkv_tight_row_bits). */
enum { GAIN_BITS = 8 };
#define TABLE_BITS .0185

static void covariance(const struct cal_head *h, double *out)
{
    for (uint32_t i = 0; i < h->dim; i++)
        for (uint32_t j = 0; j < h->dim; j++)
            out[i * h->dim + j] =
                h->square[i * h->dim + j] / h->n - h->sum[i] / h->n * (h->sum[j] / h->n);
}

/* Cholesky factor (lower) of the weights of errors. */
static bool weigh(const struct cal_head *h, double size, double *low)
{
    const uint32_t n = h->dim;
    double trace = 0;
    for (uint32_t i = 0; i < n * n; i++)
        low[i] = h->gradient[i] / h->n * size * size / 2;
    for (uint32_t i = 0; i < n; i++)
        trace += low[i * n + i];
    for (uint32_t i = 0; i < n; i++)
        low[i * n + i] += RIDGE * trace / n + 1e-30;
    if (LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'L', (int)n, low, (int)n) != 0)
        return false;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i + 1; j < n; j++)
            low[i * n + j] = 0;
    return true;
}

static void multiply(bool ta, const double *a, const double *b, uint32_t n, double *c)
{
    cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, CblasNoTrans, (int)n, (int)n, (int)n,
                1, a, (int)n, b, (int)n, 0, c, (int)n);
}

/* to = L U / rms, back = rms U' L^-1, in falling order of rms^2. u: eigenvectors as columns, in
 * rising order. */
static void fill_basis(const double *low, const double *inverse, const double *u,
                       const double *cost, double *room, struct cal_basis *out)
{
    const uint32_t n = out->dim;
    const double least = cost[n - 1] * 1e-9;
    multiply(false, low, u, n, room);
    for (uint32_t j = 0; j < n; j++) {
        const double c = cost[n - 1 - j] > least ? cost[n - 1 - j] : least;
        out->weight[j] = (float)c;
        for (uint32_t i = 0; i < n; i++)
            out->to[i * n + j] = (float)(room[i * n + n - 1 - j] / sqrt(c));
    }
    multiply(true, u, inverse, n, room);
    for (uint32_t j = 0; j < n; j++)
        for (uint32_t i = 0; i < n; i++)
            out->back[j * n + i] = (float)(room[(n - 1 - j) * n + i] * sqrt((double)out->weight[j]));
}

int cal_basis(const struct cal_head *h, double size, struct cal_basis *out)
{
    const uint32_t n = h->dim;
    const size_t square = (size_t)n * n;
    *out = (struct cal_basis){n, cli_alloc(square, 4), cli_alloc(square, 4), cli_alloc(n, 4),
                              cli_alloc(n, 4), cli_alloc(n, 1)};
    double *low = cli_alloc(square, 8), *sigma = cli_alloc(square, 8), *room = cli_alloc(square, 8);
    double *inverse = cli_alloc(square, 8), *cost = cli_alloc(n, 8);
    covariance(h, sigma);
    bool good = weigh(h, size, low);
    if (good) {
        multiply(false, sigma, low, n, room);
        multiply(true, low, room, n, sigma);
        memcpy(inverse, low, square * 8);
        good = LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', (int)n, sigma, (int)n, cost) == 0 &&
               LAPACKE_dtrtri(LAPACK_ROW_MAJOR, 'L', 'N', (int)n, inverse, (int)n) == 0 &&
               cost[n - 1] > 0;
    }
    if (good) {
        fill_basis(low, inverse, sigma, cost, room, out);
        for (uint32_t j = 0; j < n; j++) {
            double sum = 0;
            for (uint32_t i = 0; i < n; i++)
                sum += h->sum[i] / h->n * (double)out->to[i * n + j];
            out->mean[j] = (float)sum;
        }
    }
    free(low), free(sigma), free(room), free(inverse), free(cost);
    return good ? CLI_OK : cli_fail("keys or values that do not vary, or that are not finite");
}

void cal_basis_free(struct cal_basis *b)
{
    free(b->to), free(b->back), free(b->mean), free(b->weight), free(b->bits);
    *b = (struct cal_basis){0};
}

/* ---- bits ----------------------------------------------------------------------------------- */

/* What bit number b + 1 of a coefficient takes away. What is shrunk is shrunk for every token, and
 * does not average out: so the square counts too. */
static double gain(const struct cal_basis *b, uint32_t j)
{
    if (b->bits[j] == MOST_BITS)
        return 0;
    double e = left_over[b->bits[j]], f = left_over[b->bits[j] + 1];
    return (double)b->weight[j] * (e + e * e - f - f * f);
}

/* Gives a head's coefficients UNIT bits where they take away most; returns how much. */
static double give_unit(struct cal_basis *b)
{
    double all = 0;
    for (int i = 0; i < UNIT; i++) {
        uint32_t best = 0;
        for (uint32_t j = 1; j < b->dim; j++)
            if (gain(b, j) > gain(b, best))
                best = j;
        all += gain(b, best);
        if (b->bits[best] < MOST_BITS)
            b->bits[best]++;
    }
    return all;
}

static double unit_gain(const struct cal_basis *b)
{
    int8_t bits[TKV_MAX_HEAD_DIM];
    struct cal_basis trial = *b;
    trial.bits = memcpy(bits, b->bits, b->dim);
    return give_unit(&trial);
}

void cal_allocate(struct cal_basis *bases, size_t n, double total_bits)
{
    double *gains = cli_alloc(n, sizeof(*gains)), left = 0;
    for (size_t i = 0; i < n; i++) {
        left += bases[i].dim * (total_bits - TABLE_BITS) - GAIN_BITS;
        memset(bases[i].bits, 0, bases[i].dim);
        gains[i] = unit_gain(&bases[i]);
    }
    for (; left >= UNIT; left -= UNIT) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            best = gains[i] > gains[best] ? i : best;
        if (!(gains[best] > 0))
            break;
        give_unit(&bases[best]);
        gains[best] = unit_gain(&bases[best]);
    }
    free(gains);
}
