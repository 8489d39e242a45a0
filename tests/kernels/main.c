/* check_kernels [--bench] [--seed=N] [--test=NAME]: exit 0 when every kernel of every level
 * agrees. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "cpu/features.h"

static const struct level {
    const char *name;
    uint32_t mask, needs;
} levels[] = {
    {"ref", 0, 0},
    {"avx2", TKV_CPU_AVX2, TKV_CPU_AVX2},
    {"avx512", TKV_CPU_AVX2 | TKV_CPU_AVX512, TKV_CPU_AVX512},
    {"avx512bf16", TKV_CPU_AVX2 | TKV_CPU_AVX512 | TKV_CPU_BF16, TKV_CPU_BF16},
    {"neon", TKV_CPU_NEON, TKV_CPU_NEON},
    {"dotprod", TKV_CPU_NEON | TKV_CPU_DOTPROD, TKV_CPU_DOTPROD},
};

static void run_level(struct check *c, const struct level *level)
{
    tkv_kernels_init(&c->now, level->mask);
    const unsigned before = c->n_checks;
    c->level = level->name;
    c->is_ref = level->mask == 0;
#define FAMILY(name) check_##name(c);
#include "families.def"
#undef FAMILY
    printf("%s: %u checks\n", level->name, c->n_checks - before);
}

int main(int argc, char **argv)
{
    struct check c = {.rng = (uint64_t)time(NULL)};
    c.ahead.at = (uintptr_t)&c;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bench") == 0)
            c.bench = true;
        else if (strncmp(argv[i], "--seed=", 7) == 0)
            c.rng = strtoull(argv[i] + 7, NULL, 10);
        else if (strncmp(argv[i], "--test=", 7) == 0)
            c.only = argv[i] + 7;
        else {
            fprintf(stderr, "usage: %s [--bench] [--seed=N] [--test=NAME]\n", argv[0]);
            return 2;
        }
    }
    printf("seed %llu\n", (unsigned long long)c.rng);
    tkv_kernels_init(&c.ref, 0);
    const uint32_t features = tkv_cpu_features();
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
        if ((features & levels[i].needs) == levels[i].needs)
            run_level(&c, &levels[i]);
    printf("%u checks, %u failed\n", c.n_checks, c.n_failures);
    return c.n_failures == 0 && c.n_checks > 0 ? 0 : 1;
}
