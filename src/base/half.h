/* IEEE binary16 in plain C: exact both ways, rounding to nearest even. */
#ifndef TKV_HALF_H
#define TKV_HALF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t tkv_f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float tkv_bits_f32(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* To 8 significant bits, to nearest even. */
static inline float tkv_round_8_bits(float x)
{
    const uint32_t u = tkv_f32_bits(x);
    return tkv_bits_f32((u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u);
}

static inline float tkv_half_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
    if (exponent == 31)
        return tkv_bits_f32(sign | 0x7f800000u | (mantissa << 13));
    if (exponent == 0) { /* subnormal: mantissa * 2^-24, exact in f32 */
        const float magnitude = (float)mantissa * 0x1p-24f;
        return tkv_bits_f32(sign | tkv_f32_bits(magnitude));
    }
    return tkv_bits_f32(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

static inline uint16_t tkv_f32_to_half(float x)
{
    const uint32_t u = tkv_f32_bits(x), magnitude = u & 0x7fffffffu;
    const uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: adding 0.5 lets the hardware round to 2^-24 */
        const float shifted = tkv_bits_f32(magnitude) + 0.5f;
        return (uint16_t)(sign | (tkv_f32_bits(shifted) - 0x3f000000u));
    }
    const uint32_t odd = (magnitude >> 13) & 1u;
    return (uint16_t)(sign | ((magnitude + 0x0fffu + odd - 0x38000000u) >> 13));
}

static inline uint16_t tkv_load_half(const void *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}

static inline bool tkv_halves_finite(const uint16_t *x, size_t n)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++)
        bad |= (x[i] & 0x7c00u) == 0x7c00u;
    return !bad;
}

#endif
