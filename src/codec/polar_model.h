/* Codebooks of the polar codecs that do not come from a generated table. */
#ifndef TKV_POLAR_MODEL_H
#define TKV_POLAR_MODEL_H

#include <stdint.h>

#include "format/polar.h"

/* Fills p, f and unit from bits and cos_sin, as tools/gen_polar_tables.py does. */
void tkv_polar_finish(struct tkv_polar_tables *tables);

/* Codebooks of 4 codes a level from the rows [64][D] that `valid` names: 1-D k-means of the angles
 * of each level, level 1 folded into one quadrant. Deterministic, by integer histograms and
 * arithmetic that no libm enters. With too few rows the analytic codebooks. */
void tkv_polar_learn(const float *x, uint64_t valid, uint32_t D, struct tkv_polar_tables *tables);

#endif
