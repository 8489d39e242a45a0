/* Choices among settings, from their figures. */
#ifndef TKV_CLI_ADVISE_PICK_H
#define TKV_CLI_ADVISE_PICK_H

#include <stdbool.h>
#include <stddef.h>

#include <tightkv/tightkv.h>

#include "stats.h"

/* A setting: of the ladder, or f16. */
struct advise_rung {
    const char *spec; /* as a user would type it */
    tkv_spec parsed;
    double bytes, bits;          /* of the cache at the user's context, and of a value */
    double out_error;            /* mean over layers; NaN: not surveyed */
    bool measured;               /* false: the divergence is estimated from out_error */
    struct stats_mean kld;       /* mean divergence from the model's own f16 cache */
    double same_top, ppl_change; /* NaN: not measured */
};

/* How much loss is acceptable. */
struct advise_level {
    const char *key, *name;
    double limit; /* of the divergence above the noise floor, on other texts too */
};
enum {
    ADVISE_LEVELS = 3
};
extern const struct advise_level advise_levels[ADVISE_LEVELS];

/* The divergence that another text may show at most: above the noise floor, and in all. */
double advise_cost(const struct advise_rung *rung, const struct advise_rung *floor);
double advise_at_most(const struct advise_rung *rung, const struct advise_rung *floor);

/* The smallest rung whose cost is within the limit; NULL: none. */
const struct advise_rung *advise_pick(const struct advise_rung *rungs, size_t n,
                                      const struct advise_rung *floor, double limit);

/* The rung of least cost that takes at most `bytes`; NULL: none does that is usable. */
const struct advise_rung *advise_fit(const struct advise_rung *rungs, size_t n,
                                     const struct advise_rung *floor, double bytes);

/* Estimates the divergences that were not measured: in proportion to the error of outputs, by the
 * measured ones; NaN where none of those lies above the floor. */
void advise_estimate(struct advise_rung *rungs, size_t n, const struct advise_rung *floor);

#endif
