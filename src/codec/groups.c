#include "codec/groups.h"

#include <string.h>

/* Eight minima and maxima side by side, which compilers turn into vectors. */
void tkv_group_range(const float *x, size_t n, float *least, float *greatest)
{
    float low[8], high[8];
    for (size_t j = 0; j < 8; j++)
        low[j] = high[j] = x[j];
    for (size_t i = 8; i < n; i += 8)
        for (size_t j = 0; j < 8; j++) {
            low[j] = x[i + j] < low[j] ? x[i + j] : low[j];
            high[j] = x[i + j] > high[j] ? x[i + j] : high[j];
        }
    *least = low[0], *greatest = high[0];
    for (size_t j = 1; j < 8; j++) {
        *least = low[j] < *least ? low[j] : *least;
        *greatest = high[j] > *greatest ? high[j] : *greatest;
    }
}

void tkv_group_pack(const uint8_t *code, size_t n, uint32_t bits, uint8_t *out)
{
    const uint32_t width = bits == 4 ? 4 : 2, mask = (1u << width) - 1u;
    const size_t n_low = n * width / 8;
    memset(out, 0, n * bits / 8);
    for (size_t shift = 0, i = 0; i < n; shift += width)
        for (size_t j = 0; j < n_low; j++, i++)
            out[j] = (uint8_t)(out[j] | (code[i] & mask) << shift);
    for (size_t i = 0; bits == 3 && i < n; i++)
        out[n_low + i / 8] = (uint8_t)(out[n_low + i / 8] | (code[i] >> 2 & 1) << i % 8);
}

void tkv_group_values(const uint8_t *codes, size_t n, uint32_t bits, float least, float delta,
                      float *x)
{
    const uint32_t width = bits == 4 ? 4 : 2, mask = (1u << width) - 1u;
    const size_t n_low = n * width / 8;
    for (size_t i = 0; i < n; i++) {
        uint32_t code = (uint32_t)codes[i % n_low] >> (i / n_low * width) & mask;
        if (bits == 3)
            code |= ((uint32_t)codes[n_low + i / 8] >> i % 8 & 1u) << 2;
        x[i] = (float)(int32_t)code * delta + least;
    }
}
