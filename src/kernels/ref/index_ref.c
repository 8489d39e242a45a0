/* The search for a key's code in the retrieval index, one code at a time. All in integers. */
#include "kernels/kernels.h"

#define TOKENS TKV_PAGE_TOKENS

void tkv_index_ref(struct tkv_kernels *k);

static int32_t dot(const uint8_t *tile, size_t code, const int8_t *row, size_t D)
{
    const uint8_t *own = tile + code / 16 * 16 * D + code % 16 * 4;
    int32_t sum = 0;
    for (size_t d = 0; d < D; d++)
        sum += row[d] * (own[d / 4 * 64 + d % 4] - 128);
    return sum;
}

static void index_nearest(const uint8_t *tiles, const int32_t *half, uint32_t n_codes, uint32_t D,
                          const int8_t *rows, size_t n, uint16_t *nearest)
{
    for (size_t r = 0; r < n; r++) {
        int32_t most = INT32_MIN;
        for (uint32_t c = 0; c < n_codes; c++) {
            const uint8_t *tile = tiles + (size_t)(c / TOKENS * TOKENS) * D;
            const int32_t score = dot(tile, c % TOKENS, rows + r * D, D) - half[c];
            if (score > most) {
                most = score;
                nearest[r] = (uint16_t)c;
            }
        }
    }
}

void tkv_index_ref(struct tkv_kernels *k)
{
    k->index_nearest = index_nearest;
}
