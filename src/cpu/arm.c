/* CPU levels on aarch64. */
#include "cpu/features.h"
#include "tightkv/tightkv.h"

#if defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#define HWCAP_BIT_ASIMDDP (1ul << 20)
#endif

uint32_t tkv_cpu_features(void)
{
    uint32_t features = TKV_CPU_NEON; /* part of the base architecture */
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & HWCAP_BIT_ASIMDDP)
        features |= TKV_CPU_DOTPROD;
#elif defined(__APPLE__)
    features |= TKV_CPU_DOTPROD;
#endif
    return features;
}
#elif !defined(__x86_64__)
uint32_t tkv_cpu_features(void)
{
    return 0;
}
#endif
