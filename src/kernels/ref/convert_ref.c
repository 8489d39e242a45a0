/* f16 and f32 rows, any n, no alignment needed. Exact, or rounded once to nearest even. A NaN
 * stays a NaN; its payload is not part of the result. */
#include "base/half.h"
#include "kernels/kernels.h"

void tkv_convert_ref(struct tkv_kernels *k);

static void f16_to_f32_ref(const void *restrict halves, float *restrict y, size_t n)
{
    const uint8_t *x = halves;
    for (size_t i = 0; i < n; i++)
        y[i] = tkv_half_to_f32(tkv_load_half(x + 2 * i));
}

static void f32_to_f16_ref(const float *restrict x, uint16_t *restrict y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = tkv_f32_to_half(x[i]);
}

static void transpose_f16_ref(const uint16_t *restrict x, size_t x_stride, uint32_t D,
                              float *restrict y)
{
    for (size_t c = 0; c < D; c++)
        for (size_t t = 0; t < TKV_PAGE_TOKENS; t++)
            y[c * TKV_PAGE_TOKENS + t] = tkv_half_to_f32(x[t * x_stride + c]);
}

void tkv_convert_ref(struct tkv_kernels *k)
{
    k->f16_to_f32 = f16_to_f32_ref;
    k->f32_to_f16 = f32_to_f16_ref;
    k->transpose_f16 = transpose_f16_ref;
}
