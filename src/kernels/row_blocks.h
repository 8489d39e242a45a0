/* How tile kernels cut their rows into register blocks, and call the body of each size. */
#ifndef TKV_ROW_BLOCKS_H
#define TKV_ROW_BLOCKS_H

#include <stdint.h>

/* Rows of the next block when `left` remain: blocks of 6, but no thin one at the end (8 = 4 + 4).
 * */
static inline uint32_t tkv_row_block(uint32_t left)
{
    return left <= 6 ? left : left >= 12 ? 6 : (left + 1) / 2;
}

/* BODY(n) is the call with a literal number of rows. */
/* clang-format off */
#define TKV_SWITCH_ROWS(n, BODY) \
    switch (n) {                 \
    case 1: BODY(1); break;      \
    case 2: BODY(2); break;      \
    case 3: BODY(3); break;      \
    case 4: BODY(4); break;      \
    case 5: BODY(5); break;      \
    default: BODY(6); break;     \
    }
/* clang-format on */

#endif
