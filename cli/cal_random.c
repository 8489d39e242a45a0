/* Random numbers that do not depend on what was done before, so that cut work goes on the same. */
#include "calibrate.h"

/* Steele and others' SplitMix64. */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t cal_random(const struct calibration *c, uint64_t stream)
{
    uint64_t state = c->seed;
    state = next(&state) ^ c->n_done;
    state = next(&state) ^ stream;
    return next(&state);
}

double cal_uniform(uint64_t *rng)
{
    return ((double)(next(rng) >> 11) + .5) / 9007199254740992.0;
}
