#include "codec/kvarn_balance.h"

#include <math.h>
#include <string.h>

#define TOKENS TKV_PAGE_TOKENS
#define LANES  TKV_BALANCE_LANES

/* As published: rounds, and the bounds of one step and of a scale, for a page of rms 1. */
#define ROUNDS    16
#define STEP_MIN  1e-3f
#define STEP_MAX  1e3f
#define SCALE_MIN 0.740818221f /* exp(-0.3) */
#define SCALE_MAX 22026.4658f  /* exp(10) */

/* Rounds end when the imbalance changes by less than this share. */
#define CONVERGED 1e-3f

float tkv_sum_lanes(const float *lane)
{
    float sum[LANES];
    memcpy(sum, lane, sizeof sum);
    for (size_t n = LANES / 2; n > 0; n /= 2)
        for (size_t j = 0; j < n; j++)
            sum[j] += sum[j + n];
    return sum[0];
}

/* The deviation of a token's values, channels scaled. */
static float token_deviation(const float *x, const float *channel, size_t D)
{
    float lane[LANES] = {0};
    for (size_t d = 0; d < D; d += LANES)
        for (size_t j = 0; j < LANES; j++)
            lane[j] += x[d + j] * channel[d + j];
    const float mean = tkv_sum_lanes(lane) / (float)D;
    memset(lane, 0, sizeof lane);
    for (size_t d = 0; d < D; d += LANES)
        for (size_t j = 0; j < LANES; j++) {
            const float y = x[d + j] * channel[d + j] - mean;
            lane[j] += y * y;
        }
    return sqrtf(tkv_sum_lanes(lane) / (float)D);
}

static void measure_tokens(struct tkv_balance *b)
{
    for (size_t t = 0; t < TOKENS; t++)
        if (b->valid >> t & 1)
            b->token_dev[t] = b->token[t] * token_deviation(b->x + t * b->D, b->channel, b->D);
}

static void measure_channels(struct tkv_balance *b)
{
    float mean[TKV_MAX_HEAD_DIM] = {0}, sum[TKV_MAX_HEAD_DIM] = {0};
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = 0; d < b->D; d++)
            mean[d] += b->x[t * b->D + d] * b->token[t];
    for (size_t d = 0; d < b->D; d++)
        mean[d] /= b->n_valid;
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t d = 0; b->valid >> t & 1 && d < b->D; d++) {
            const float y = b->x[t * b->D + d] * b->token[t] - mean[d];
            sum[d] += y * y;
        }
    for (size_t d = 0; d < b->D; d++)
        b->channel_dev[d] = b->channel[d] * sqrtf(sum[d] / b->n_valid);
}

static float within(float x, float least, float most)
{
    return x < least ? least : x > most ? most : x;
}

/* One step of n factors towards deviations of 1; the deviations follow. Of the first 64 those count
 * that `valid` names. */
static void step(float *factor, float *deviation, size_t n, uint64_t valid)
{
    for (size_t i = 0; i < n; i++) {
        if (i < TOKENS && !(valid >> i & 1))
            continue;
        const float by = within(deviation[i], STEP_MIN, STEP_MAX);
        const float scale = within(by / factor[i], SCALE_MIN, SCALE_MAX);
        deviation[i] /= factor[i] * scale;
        factor[i] = 1.0f / scale;
    }
}

/* The largest of n deviations over the least. */
static float spread(const float *deviation, size_t n, uint64_t valid)
{
    float low = INFINITY, high = 0.0f;
    for (size_t i = 0; i < n; i++)
        if (i >= TOKENS || valid >> i & 1) {
            low = deviation[i] < low ? deviation[i] : low;
            high = deviation[i] > high ? deviation[i] : high;
        }
    return high / (low > 1e-8f ? low : 1e-8f);
}

static float imbalance(const struct tkv_balance *b)
{
    return spread(b->token_dev, TOKENS, b->valid) + spread(b->channel_dev, b->D, UINT64_MAX);
}

void tkv_balance_page(struct tkv_balance *b, tkv_kind kind, float *factor)
{
    float *across = kind == TKV_K ? b->token : b->channel;
    const size_t n = kind == TKV_K ? TOKENS : b->D;
    for (size_t t = 0; t < TOKENS; t++)
        b->token[t] = b->valid >> t & 1 ? 1.0f : 0.0f;
    for (size_t d = 0; d < b->D; d++)
        b->channel[d] = 1.0f;
    measure_tokens(b);
    measure_channels(b);
    float before = imbalance(b);
    for (int round = 0; round < ROUNDS; round++) {
        if (kind == TKV_K) {
            step(b->token, b->token_dev, TOKENS, b->valid);
            measure_channels(b);
            step(b->channel, b->channel_dev, b->D, UINT64_MAX);
            measure_tokens(b);
        } else {
            step(b->channel, b->channel_dev, b->D, UINT64_MAX);
            measure_tokens(b);
            step(b->token, b->token_dev, TOKENS, b->valid);
            measure_channels(b);
        }
        const float now = imbalance(b);
        if (fabsf(now - before) < CONVERGED * now)
            break;
        before = now;
    }
    memcpy(factor, across, n * sizeof *factor);
}
