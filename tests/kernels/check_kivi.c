#include <stdio.h>

#include "check.h"

struct kivi_args {
    const struct tkv_kernels *k;
    size_t n;
    uint32_t bits;
    uint8_t *codes;
    float *least, *delta, *x;
};

static void run(void *arg)
{
    struct kivi_args *a = arg;
    a->k->kivi_groups(a->codes, a->least, a->delta, a->n, a->bits, a->x);
}

static void check_groups(struct check *c, size_t n, uint32_t bits, int fill)
{
    char what[64];
    float want[32 * 40];
    struct kivi_args a = {&c->now,
                          n,
                          bits,
                          check_alloc(n, 4 * bits),
                          check_alloc(n, 4),
                          check_alloc(n, 4),
                          check_alloc(32 * n, 4)};
    snprintf(what, sizeof what, "%zu groups of %u bits, %s", n, bits, check_fill_name(fill));
    check_fill_bytes(c, a.codes, n * 4 * bits);
    check_fill(c, a.least, n, fill);
    check_fill(c, a.delta, n, fill);
    run(&a);
    for (size_t i = 0; i < 32 * n; i++) {
        const size_t g = i / 32, at = i % 32;
        const uint32_t width = bits == 4 ? 4 : 2;
        const uint8_t *codes = a.codes + g * 4 * bits;
        uint32_t code = (uint32_t)codes[at % (4 * width)] >> (at / (4 * width) * width);
        code &= (1u << width) - 1u;
        if (bits == 3)
            code += 4 * ((uint32_t)codes[8 + at / 8] >> at % 8 & 1u);
        want[i] = (float)code * a.delta[g] + a.least[g];
    }
    check_f32(c, "kivi_groups", what, a.x, want, 32 * n);
    check_free(a.codes, n, 4 * bits), check_free(a.least, n, 4);
    check_free(a.delta, n, 4), check_free(a.x, 32 * n, 4);
}

void check_kivi(struct check *c)
{
    if (!check_wanted(c, "kivi_groups"))
        return;
    for (uint32_t bits = 2; bits <= 4; bits++)
        for (size_t n = 0; n < 40; n++)
            check_groups(c, n, bits, (int)(n % FILL_COUNT));
    for (uint32_t bits = 2; c->bench && bits <= 4; bits++) {
        char unit[32];
        struct kivi_args a = {&c->now,
                              256,
                              bits,
                              check_alloc(256, 4 * bits),
                              check_alloc(256, 4),
                              check_alloc(256, 4),
                              check_alloc(256, 128)};
        snprintf(unit, sizeof unit, "a page, %u bits", bits);
        check_bench(c, "kivi_groups", unit, run, &a);
        check_free(a.codes, 256, 4 * bits), check_free(a.least, 256, 4);
        check_free(a.delta, 256, 4), check_free(a.x, 256, 128);
    }
}
