/* Which codes are chosen. */
#include "kernels/kernels.h"

void tkv_scan_ref(struct tkv_kernels *k);

static uint64_t index_scan(const uint16_t *code, const uint64_t *set)
{
    uint64_t bits = 0;
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
        bits |= (set[code[t] / 64] >> code[t] % 64 & 1) << t;
    return bits;
}

void tkv_scan_ref(struct tkv_kernels *k)
{
    k->index_scan = index_scan;
}
