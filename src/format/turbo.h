/* The turbo codes: a Lloyd-Max quantiser of a unit Gaussian in 4, 3 or 2 bits, put on a grid of
 * small integers so that a decoded value is exactly level * (scale * step) and a page decodes
 * straight into an i8 tile.
 *
 * For each width, `step` = n / 2^14 and the levels were chosen together for the least error on a
 * Gaussian; that costs 0.09 %, 0.005 % and 0.0001 % of the error of the unconstrained table. n has at
 * most 9 bits, a scale 8 and a level 7, so the products are exact in f32. Thresholds are the midpoints
 * of neighbouring levels. */
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

/* Where group `j` of unit `u` lies in the i8 tile. K units run along the dims of a block of 16
 * tokens; V units run along the channels, and stack groups of 4 tokens. */
static inline size_t tkv_turbo_tile_offset(tkv_kind kind, uint32_t D, uint32_t bits, size_t u,
                                           size_t j)
{
    const size_t per = tkv_turbo_groups_per_unit(bits), chunks = D / 16;
    if (kind == TKV_K)
        return (u * per + j) * 64;
    return ((u / chunks * per + j) * chunks + u % chunks) * 64;
}

#endif
