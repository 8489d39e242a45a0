/* CPU levels on x86-64: every instruction of a level and the operating system's saving of its
 * registers. */
#include "cpu/features.h"
#include "tightkv/tightkv.h"

#if defined(__x86_64__)
#include <cpuid.h>

struct regs {
    uint32_t a, b, c, d;
};

static struct regs cpuid(uint32_t leaf, uint32_t sub)
{
    struct regs r = {0, 0, 0, 0};
    if (!__get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d))
        return (struct regs){0, 0, 0, 0};
    return r;
}

static uint64_t xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32) | lo;
}

static int has(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

uint32_t tkv_cpu_features(void)
{
    const struct regs l1 = cpuid(1, 0), l7 = cpuid(7, 0), l7s1 = cpuid(7, 1);
    const uint32_t osxsave = 1u << 27, avx = 1u << 28, fma = 1u << 12, f16c = 1u << 29;
    if (!has(l1.c, osxsave | avx | fma | f16c))
        return 0;
    const uint64_t saved = xcr0();
    if ((saved & 0x6) != 0x6) /* xmm and ymm */
        return 0;
    uint32_t features = 0;
    const uint32_t avx2 = 1u << 5, bmi2 = 1u << 8;
    if (!has(l7.b, avx2 | bmi2))
        return 0;
    features |= TKV_CPU_AVX2;
    const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    const uint32_t vbmi = 1u << 1, gfni = 1u << 8, vnni = 1u << 11;
    if ((saved & 0xe0) == 0xe0 /* opmask and zmm */ && has(l7.b, f | dq | bw | vl) &&
        has(l7.c, vbmi | gfni | vnni)) {
        features |= TKV_CPU_AVX512;
        if (has(l7s1.a, 1u << 5))
            features |= TKV_CPU_BF16;
    }
    return features;
}
#endif
