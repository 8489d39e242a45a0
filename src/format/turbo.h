/* The turbo codes: a Lloyd-Max quantiser of a unit Gaussian in 4, 3 or 2 bits, put on a grid of
 * small integers so that a decoded value is exactly level * (scale * step) and a page decodes
 * straight into an i8 tile.
 *
 * For each width, `step` = n / 2^14 and the levels were chosen together for the least error on a
 * Gaussian; that costs 0.09 %, 0.005 % and 0.0001 % of the error of the unconstrained table. n has
 * at most 9 bits, a scale 8 and a level 7, so the products are exact in f32. Thresholds are the
 * midpoints of neighbouring levels. */
#ifndef TKV_FORMAT_TURBO_H
#define TKV_FORMAT_TURBO_H

#include <stddef.h>
#include <stdint.h>

#include "tightkv/tightkv.h"

#define TKV_TURBO4_STEP (363.0f / 16384.0f)
#define TKV_TURBO3_STEP (309.0f / 16384.0f)
#define TKV_TURBO2_STEP (225.0f / 16384.0f)

/* Stored scales are an eighth: the scale of a row of a few large values may exceed 65504. */
#define TKV_TURBO_SCALE_UNIT 8.0f

static const int8_t tkv_turbo4_levels[16] = {-123, -93, -73, -57, -43, -30, -18, -6,
                                             6,    18,  30,  43,  57,  73,  93,  123};
static const int8_t tkv_turbo3_levels[8] = {-114, -71, -40, -13, 13, 40, 71, 114};
static const int8_t tkv_turbo2_levels[4] = {-110, -33, 33, 110};

static inline const int8_t *tkv_turbo_levels(uint32_t bits)
{
    return bits == 4 ? tkv_turbo4_levels : bits == 3 ? tkv_turbo3_levels : tkv_turbo2_levels;
}

static inline float tkv_turbo_step(uint32_t bits)
{
    return bits == 4 ? TKV_TURBO4_STEP : bits == 3 ? TKV_TURBO3_STEP : TKV_TURBO2_STEP;
}

/* The i-th of 2^bits - 1 thresholds, for values of unit variance. Exact. */
static inline float tkv_turbo_threshold(uint32_t bits, uint32_t i)
{
    const int8_t *level = tkv_turbo_levels(bits);
    return (float)(level[i] + level[i + 1]) * (0.5f * tkv_turbo_step(bits));
}

/* Codes are stored in *units* of 64 bytes. A unit holds, one above the other in each byte, the
 * codes of 2 groups (4 bits) or of 4 groups (2 bits; of 3 bits, the low two) of 64 codes in tile
 * order. The third bits follow all units: 8 bytes a group, in the order of the units. */
static inline uint32_t tkv_turbo_groups_per_unit(uint32_t bits)
{
    return bits == 4 ? 2 : 4;
}

static inline size_t tkv_turbo_code_bytes(uint32_t bits, uint32_t D)
{
    return (size_t)TKV_PAGE_TOKENS * D * bits / 8;
}

/* Where the groups of a page's units lie in the i8 tile, in bytes: unit i of run r, group j is at
 * r * run_step + i * unit_step + j * group_step. K units run along the dims of a block of 16
 * tokens; V units run along the channels and stack groups of 4 tokens. */
struct tkv_turbo_walk {
    size_t n_runs, n_units; /* units of one run */
    size_t run_step, unit_step, group_step;
};

static inline struct tkv_turbo_walk tkv_turbo_walk(tkv_kind kind, uint32_t D, uint32_t bits)
{
    const size_t per = tkv_turbo_groups_per_unit(bits);
    if (kind == TKV_K)
        return (struct tkv_turbo_walk){1, D / per, 0, 64 * per, 64};
    return (struct tkv_turbo_walk){16 / per, D / 16, 4 * D * per, 64, 4 * (size_t)D};
}

#endif
