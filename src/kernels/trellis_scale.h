/* Values as the trellis search counts them. */
#ifndef TKV_TRELLIS_SCALE_H
#define TKV_TRELLIS_SCALE_H

#include <math.h>
#include <stdint.h>

#include "format/trellis.h"

/* To nearest even, within +-TKV_TRELLIS_MOST; a NaN counts as the largest. */
static inline int32_t tkv_trellis_scaled(float x, float reach)
{
    const float y = x * reach, most = TKV_TRELLIS_MOST;
    return (int32_t)rintf(y < most ? (y > -most ? y : -most) : most);
}

#endif
