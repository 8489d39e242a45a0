/* Row order: a page with the codes of each token side by side, for readers of a few rows. A tile
 * spreads a row over the page; this is the same bits in other places, chosen so that few
 * instructions turn 64 rows, from wherever they lie, into a tile. It is how a cache may hold pages in
 * memory, never how they are saved.
 *
 * A row is D * bits / 8 bytes. With P codes of 8 / P bits to a byte (1, 2 and 4 at 8, 4 and 2 bits;
 * of 3 bits, the low two), from the low bits up, byte j has
 *   K: codes 4 * P * floor(j / 4) + j mod 4 + (0, 4, 8, 12): 4 bytes are the token's share of a unit
 *   V: codes j + (0, 1, 2, 3) * D / P: the tokens of a unit stand one above the other, and so do these
 *      channels, so that a transposition of fields makes one of the other
 * At 3 bits D / 8 bytes of third bits follow:
 *   K: bit i of byte j is of code 8 * j + i
 *   V: of the 16 channels of a unit, two bytes: bit b of byte j is of code
 *      16 * floor(j / 2) + 4 * (b mod 4) + 2 * (j mod 2) + floor(b / 4) */
#ifndef TKV_FORMAT_ROW_ORDER_H
#define TKV_FORMAT_ROW_ORDER_H

#include <stddef.h>
#include <stdint.h>

/* Codes that share a byte. */
static inline uint32_t tkv_row_fields(uint32_t bits)
{
    return bits == 8 ? 1 : bits == 4 ? 2 : 4;
}

/* Bytes of a row without third bits. */
static inline size_t tkv_row_low_bytes(uint32_t bits, uint32_t D)
{
    return D / tkv_row_fields(bits);
}

static inline size_t tkv_row_code_bytes(uint32_t bits, uint32_t D)
{
    return (size_t)D * bits / 8;
}

#endif
