/* Fills the kernel table for a CPU: the reference, then each overlay that the features allow. */
#include "kernels/kernels.h"

#define TKV_REF(family) void tkv_##family##_ref(struct tkv_kernels *k);
#define TKV_AVX2(family) void tkv_##family##_avx2(struct tkv_kernels *k);
#define TKV_AVX512(family) void tkv_##family##_avx512(struct tkv_kernels *k);
#define TKV_NEON(family) void tkv_##family##_neon(struct tkv_kernels *k);
#define TKV_DOTPROD(family) void tkv_##family##_dotprod(struct tkv_kernels *k);
#include "kernels/overlays.def"

void tkv_kernels_init(struct tkv_kernels *k, uint32_t features)
{
    (void)features;
#define TKV_REF(family) tkv_##family##_ref(k);
#include "kernels/overlays.def"
#ifdef TKV_HAVE_AVX2
    if (features & TKV_CPU_AVX2) {
#define TKV_AVX2(family) tkv_##family##_avx2(k);
#include "kernels/overlays.def"
    }
#endif
#ifdef TKV_HAVE_AVX512
    if (features & TKV_CPU_AVX512) {
#define TKV_AVX512(family) tkv_##family##_avx512(k);
#include "kernels/overlays.def"
    }
#endif
#ifdef TKV_HAVE_NEON
    if (features & TKV_CPU_NEON) {
#define TKV_NEON(family) tkv_##family##_neon(k);
#include "kernels/overlays.def"
    }
    if (features & TKV_CPU_DOTPROD) {
#define TKV_DOTPROD(family) tkv_##family##_dotprod(k);
#include "kernels/overlays.def"
    }
#endif
}
