/* Sets of up to 64 slots as words. */
#ifndef TKV_BITS_H
#define TKV_BITS_H

#include <stddef.h>
#include <stdint.h>

static inline uint32_t tkv_count_bits(uint64_t bits)
{
    uint32_t n = 0;
    for (; bits != 0; bits &= bits - 1)
        n++;
    return n;
}

/* The number of the first slot of a set that is not empty. */
static inline uint32_t tkv_lowest_bit(uint64_t bits)
{
#ifdef __GNUC__
    return (uint32_t)__builtin_ctzll(bits);
#else
    return tkv_count_bits((bits & (~bits + 1)) - 1);
#endif
}

/* The number of the highest bit of what is not 0. */
static inline uint32_t tkv_highest_bit(uint64_t bits)
{
#ifdef __GNUC__
    return 63 - (uint32_t)__builtin_clzll(bits);
#else
    uint32_t n = 0;
    while (bits >>= 1)
        n++;
    return n;
#endif
}

/* The first n slots; all of them from 64 on. */
static inline uint64_t tkv_first_bits(size_t n)
{
    return n >= 64 ? UINT64_MAX : ((uint64_t)1 << n) - 1;
}

#endif
