/* tightkv advise: choices from figures.
 *
 * Texts differ: on prose, on raw Wikipedia and on its own samples the same setting of the embedded
 * model diverged by up to 3.5 times more or less. So four times the upper end of the measured
 * interval is what another text may show, and levels are limits of that (nats a token, above the
 * noise floor):
 *
 *   .002  a benchmark cannot tell: perplexity moves by less than its own error on any set of a few
 *         thousand questions. Stock q8_0, called lossless everywhere, is at .00006 to .0006 on the
 *         embedded model and its hardened twin.
 *   .01   less than what stock q4_0 does to a model that takes it well (.011).
 *   .05   where facts begin to be lost: on the models measured, recall is whole below .04 and
 *         falls between .05 and .08.
 *
 * Noise and coding are unrelated errors of the same logits: divergences add, so the floor is
 * taken off. */
#include "advise_pick.h"

#include <math.h>

static const double other_texts = 4;

const struct advise_level advise_levels[ADVISE_LEVELS] = {
    {"no_loss", "no measurable loss", .002},
    {"small", "small loss", .01},
    {"usable", "smallest usable", .05},
};

double advise_cost(const struct advise_rung *rung, const struct advise_rung *floor)
{
    double cost = other_texts * (rung->kld.ci.high - floor->kld.mean);
    if (isnan(cost))
        return INFINITY;
    return cost > 0 ? cost : 0;
}

double advise_at_most(const struct advise_rung *rung, const struct advise_rung *floor)
{
    return advise_cost(rung, floor) + floor->kld.mean;
}

const struct advise_rung *advise_pick(const struct advise_rung *rungs, size_t n,
                                      const struct advise_rung *floor, double limit)
{
    const struct advise_rung *best = NULL;
    for (size_t i = 0; i < n; i++)
        if (advise_cost(&rungs[i], floor) <= limit && rungs[i].bytes < floor->bytes &&
            (!best || rungs[i].bytes < best->bytes))
            best = &rungs[i];
    return best;
}

const struct advise_rung *advise_fit(const struct advise_rung *rungs, size_t n,
                                     const struct advise_rung *floor, double bytes)
{
    const double usable = advise_levels[ADVISE_LEVELS - 1].limit;
    const struct advise_rung *best = NULL;
    if (floor->bytes <= bytes)
        return floor;
    for (size_t i = 0; i < n; i++)
        if (rungs[i].bytes <= bytes && advise_cost(&rungs[i], floor) <= usable &&
            (!best || advise_cost(&rungs[i], floor) < advise_cost(best, floor)))
            best = &rungs[i];
    return best;
}

void advise_estimate(struct advise_rung *rungs, size_t n, const struct advise_rung *floor)
{
    double log_sum = 0, n_measured = 0;
    for (size_t i = 0; i < n; i++) {
        double above = rungs[i].kld.mean - floor->kld.mean;
        if (rungs[i].measured && above > 0 && rungs[i].out_error > 0) {
            log_sum += log(above / rungs[i].out_error);
            n_measured++;
        }
    }
    /* Nothing lies above the floor: nothing to go by, and what was not measured stays unknown. */
    double factor = n_measured > 0 ? exp(log_sum / n_measured) : (double)NAN;
    for (size_t i = 0; i < n; i++) {
        if (rungs[i].measured)
            continue;
        double above = factor * rungs[i].out_error;
        rungs[i].kld.mean = floor->kld.mean + above;
        rungs[i].kld.ci =
            (struct stats_interval){floor->kld.mean + above / 2, floor->kld.mean + above * 2};
    }
}
