/* Learned angle codebooks ("online" in PolarQuant), and the integer tables of any codebook. */
#include <math.h>
#include <string.h>

#include "codec/polar_model.h"

#define TOKENS       TKV_PAGE_TOKENS
#define QUARTER_TURN 1.5707963267948966
#define N_BINS       256
#define N_CODES      4
#define MIN_ROWS     8

/* Codes this far apart, in radians, survive the rounding of decoded rows to f16. */
#define MIN_GAP 0.08

struct histogram {
    float edge_tan_sq[N_BINS - 1];
    uint32_t count[4][N_BINS];
};

/* Sine by its series: within 1e-13 on [0, pi/2], and the same on every platform. */
static double sine(double x)
{
    double term = x, sum = x;
    for (int i = 2; i <= 20; i += 2) {
        term *= -x * x / (double)(i * (i + 1));
        sum += term;
    }
    return sum;
}

static double cosine(double x)
{
    return sine(QUARTER_TURN - x);
}

static double tangent_sq(double x)
{
    const double ratio = sine(x) / cosine(x);
    return ratio * ratio;
}

static void add_angle(struct histogram *h, uint32_t level, float first_sq, float second_sq)
{
    if (!(first_sq + second_sq > 0.0f))
        return;
    uint32_t bin = 0;
    for (uint32_t step = N_BINS / 2; step > 0; step /= 2)
        if (second_sq > h->edge_tan_sq[bin + step - 1] * first_sq)
            bin += step;
    h->count[level][bin]++;
}

static void add_row(struct histogram *h, const float *row, uint32_t D)
{
    const size_t J = D / 4;
    for (size_t b = 0; b < D / 16; b++) {
        float sq[4];
        for (size_t n = 0; n < 4; n++) {
            float v[4];
            for (size_t q = 0; q < 4; q++)
                v[q] = row[q * J + 4 * b + n] * row[q * J + 4 * b + n];
            add_angle(h, 0, v[0], v[1]);
            add_angle(h, 0, v[2], v[3]);
            add_angle(h, 1, v[0] + v[1], v[2] + v[3]);
            sq[n] = (v[0] + v[1]) + (v[2] + v[3]);
        }
        add_angle(h, 2, sq[0], sq[1]);
        add_angle(h, 2, sq[2], sq[3]);
        add_angle(h, 3, sq[0] + sq[1], sq[2] + sq[3]);
    }
}

/* Centres at the quantiles (2k + 1) / 8 of the histogram. */
static void start_centres(const uint32_t *count, double *centre)
{
    uint64_t total = 0, below = 0;
    for (uint32_t i = 0; i < N_BINS; i++)
        total += count[i];
    for (uint32_t i = 0, k = 0; i < N_BINS; i++) {
        below += count[i];
        while (k < N_CODES && 8 * below >= (2 * k + 1) * total)
            centre[k++] = (i + 0.5) * (QUARTER_TURN / N_BINS);
    }
}

/* One step of Lloyd's algorithm; returns how far the centres moved in all. */
static double move_centres(const uint32_t *count, double *centre)
{
    double sum[N_CODES] = {0}, weight[N_CODES] = {0}, moved = 0;
    for (uint32_t i = 0, k = 0; i < N_BINS; i++) {
        const double angle = (i + 0.5) * (QUARTER_TURN / N_BINS);
        while (k + 1 < N_CODES && angle > 0.5 * (centre[k] + centre[k + 1]))
            k++;
        sum[k] += count[i] * angle;
        weight[k] += count[i];
    }
    for (uint32_t k = 0; k < N_CODES; k++) {
        if (weight[k] == 0)
            continue;
        moved += fabs(sum[k] / weight[k] - centre[k]);
        centre[k] = sum[k] / weight[k];
    }
    return moved;
}

/* Keeps centres MIN_GAP apart and half of that inside the quadrant. */
static void spread_centres(double *centre)
{
    double low = MIN_GAP / 2;
    for (uint32_t k = 0; k < N_CODES; k++, low += MIN_GAP) {
        centre[k] = centre[k] > low ? centre[k] : low;
        low = centre[k];
    }
    double high = QUARTER_TURN - MIN_GAP / 2;
    for (uint32_t k = N_CODES; k-- > 0; high -= MIN_GAP) {
        centre[k] = centre[k] < high ? centre[k] : high;
        high = centre[k];
    }
}

static void set_level(struct tkv_polar_tables *tables, uint32_t level, const double *centre)
{
    for (uint32_t k = 0; k < N_CODES; k++) {
        tables->cos_sin[level][0][k] = (float)cosine(centre[k]);
        tables->cos_sin[level][1][k] = (float)sine(centre[k]);
    }
    for (uint32_t k = 0; k + 1 < N_CODES; k++)
        tables->tan_sq[level][k] = (float)tangent_sq(0.5 * (centre[k] + centre[k + 1]));
}

void tkv_polar_learn(const float *x, uint64_t valid, uint32_t D, struct tkv_polar_tables *tables)
{
    *tables = tkv_polar_222;
    struct histogram h;
    memset(&h, 0, sizeof h);
    for (uint32_t i = 1; i < N_BINS; i++)
        h.edge_tan_sq[i - 1] = (float)tangent_sq(i * (QUARTER_TURN / N_BINS));
    uint32_t n_rows = 0;
    for (size_t t = 0; t < TOKENS; t++)
        if (valid >> t & 1) {
            add_row(&h, x + t * D, D);
            n_rows++;
        }
    if (n_rows < MIN_ROWS)
        return;
    for (uint32_t level = 0; level < 4; level++) {
        double centre[N_CODES] = {0.2, 0.6, 1.0, 1.4};
        start_centres(h.count[level], centre);
        for (int i = 0; i < 100 && move_centres(h.count[level], centre) > 1e-6; i++)
            ;
        spread_centres(centre);
        set_level(tables, level, centre);
    }
    tkv_polar_finish(tables);
}

/* Levels 3 and 4 of column n for an upper index. */
static double product(const struct tkv_polar_tables *tables, uint32_t n, uint32_t index)
{
    const uint32_t bits = tables->bits, mask = (1u << bits) - 1;
    uint32_t c3 = index & mask, c4 = index >> bits & mask;
    if (bits == 2) {
        c3 = index >> (n >= 2 ? 2 : 0) & mask;
        c4 = index >> 4;
    }
    return (double)tables->cos_sin[2][n & 1][c3] * (double)tables->cos_sin[3][n >> 1][c4];
}

/* Levels 1 and 2 of quarter q for level-1 code c1. */
static double leaf(const struct tkv_polar_tables *tables, uint32_t q, uint32_t c1, uint32_t c2)
{
    const double size =
        (double)tables->cos_sin[0][q & 1][c1 & 3] * (double)tables->cos_sin[1][q >> 1][c2];
    return c1 >> (2 + (q & 1)) & 1 ? -size : size;
}

void tkv_polar_finish(struct tkv_polar_tables *tables)
{
    double p_max = 0, f_max = 0;
    for (uint32_t n = 0; n < 4; n++)
        for (uint32_t i = 0; i < 64; i++)
            p_max = fmax(p_max, product(tables, n, i));
    for (uint32_t q = 0; q < 4; q++)
        for (uint32_t i = 0; i < 4u << tables->bits; i++)
            f_max = fmax(f_max, leaf(tables, q, i & 3, i >> 2));
    for (uint32_t n = 0; n < 4; n++)
        for (uint32_t i = 0; i < 64; i++)
            tables->p[n][i] = (uint8_t)rint(127 * product(tables, n, i) / p_max);
    for (uint32_t q = 0; q < 4; q++)
        for (uint32_t c2 = 0; c2 < 1u << tables->bits; c2++)
            for (uint32_t c1 = 0; c1 < 16; c1++)
                tables->f[q][tkv_polar_leaf_index(tables->bits, q, c1, c2)] =
                    (int8_t)rint(127 * leaf(tables, q, c1, c2) / f_max);
    tables->unit = (float)(32768 * p_max * f_max / ((double)TKV_POLAR_RATIO_ONE * 127.0 * 127.0));
}
