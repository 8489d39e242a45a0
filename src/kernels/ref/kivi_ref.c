/* Groups of asymmetric codes (spec/FORMAT.md, kivi) to values. */
#include "kernels/kernels.h"

void tkv_kivi_ref(struct tkv_kernels *k);

static void kivi_groups_ref(const uint8_t *restrict codes, const float *restrict least,
                            const float *restrict delta, size_t n, uint32_t bits, float *restrict x)
{
    const uint32_t mask = (1u << bits) - 1u;
    for (size_t g = 0; g < n; g++, codes += 4 * bits)
        for (uint32_t shift = 0; shift < 8; shift += bits)
            for (size_t i = 0; i < 4 * bits; i++, x++) {
                const uint32_t code = (uint32_t)codes[i] >> shift & mask;
                *x = (float)(int32_t)code * delta[g] + least[g];
            }
}

void tkv_kivi_ref(struct tkv_kernels *k)
{
    k->kivi_groups = kivi_groups_ref;
}
