/* Groups of asymmetric codes (spec/FORMAT.md, kivi) to values. */
#include "kernels/kernels.h"

void tkv_kivi_ref(struct tkv_kernels *k);

/* Of 3 bits, four bytes of third bits follow the eight that hold the low two. */
static void kivi_groups_ref(const uint8_t *restrict codes, const float *restrict least,
                            const float *restrict delta, size_t n, uint32_t bits, float *restrict x)
{
    const uint32_t width = bits == 4 ? 4 : 2, mask = (1u << width) - 1u;
    for (size_t g = 0; g < n; g++, codes += 4 * bits, x += 32)
        for (size_t i = 0; i < 32; i++) {
            uint32_t code = (uint32_t)codes[i % (4 * width)] >> (i / (4 * width) * width) & mask;
            if (bits == 3)
                code |= ((uint32_t)codes[8 + i / 8] >> i % 8 & 1u) << 2;
            x[i] = (float)(int32_t)code * delta[g] + least[g];
        }
}

void tkv_kivi_ref(struct tkv_kernels *k)
{
    k->kivi_groups = kivi_groups_ref;
}
