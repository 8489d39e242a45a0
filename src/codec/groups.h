/* Groups of asymmetric codes, least + code * delta, as kivi and kvarn store them (spec/FORMAT.md).
 * A group has 32 values, the last of a line 16 where its length asks for it. */
#ifndef TKV_CODEC_GROUPS_H
#define TKV_CODEC_GROUPS_H

#include <stddef.h>
#include <stdint.h>

#include "base/half.h"

#define TKV_GROUP 32

static inline void tkv_put_half(uint8_t *at, uint16_t h)
{
    at[0] = (uint8_t)h;
    at[1] = (uint8_t)(h >> 8);
}

static inline float tkv_get_half(const uint8_t *at)
{
    return tkv_half_to_f32((uint16_t)(at[0] | at[1] << 8));
}

/* The least and the greatest of n values, n a multiple of 8. */
void tkv_group_range(const float *x, size_t n, float *least, float *greatest);

/* n codes, 16 or 32, of 4, 3 or 2 bits to n * bits / 8 bytes. Of 3 bits the low two come first, as
 * if they were codes of 2, then the third ones, bit i that of code i. */
void tkv_group_pack(const uint8_t *code, size_t n, uint32_t bits, uint8_t *out);

/* What the kernel kivi_groups does, for one group of n values, 16 or 32. */
void tkv_group_values(const uint8_t *codes, size_t n, uint32_t bits, float least, float delta,
                      float *x);

#endif
