#include <math.h>

#include "check.h"

enum {
    T = TKV_PAGE_TOKENS,
    WORDS = 64
};

static void check_set(struct check *c, unsigned one_in)
{
    uint16_t *code = check_alloc(T, 2);
    uint64_t *set = check_alloc(WORDS, 8), want = 0;
    for (uint32_t t = 0; t < T; t++)
        code[t] = (uint16_t)(check_random(c) % (64 * WORDS));
    code[3] = 64 * WORDS - 1, code[17] = 0;
    for (uint32_t i = 0; i < 64 * WORDS; i++)
        set[i / 64] |= (uint64_t)(check_random(c) % one_in == 0) << i % 64;
    for (uint32_t t = 0; t < T; t++)
        if (set[code[t] / 64] >> code[t] % 64 & 1)
            want |= (uint64_t)1 << t;
    check_true(c, "index_scan", "64 codes", c->now.index_scan(code, set) == want);
    check_free(code, T, 2), check_free(set, WORDS, 8);
}

/* Scores with equals among them; every fourth code or so has no rows. */
static void check_list(struct check *c, uint32_t n)
{
    float *score = check_alloc(n, 4);
    uint32_t *counts = check_alloc(n, 4), *got = check_alloc(n, 4), *want = check_alloc(n, 4);
    for (uint32_t i = 0; i < n; i++) {
        score[i] = (float)(int32_t)(check_random(c) % 64) - 32;
        counts[i] = check_random(c) % 4;
    }
    check_true(c, "index_best", "scores",
               c->now.index_best(score, counts, n) == c->ref.index_best(score, counts, n));
    const float mass[2] = {c->now.index_mass(score, counts, n, 31),
                           c->ref.index_mass(score, counts, n, 31)};
    double want_mass = 0;
    for (uint32_t i = 0; i < n; i++)
        want_mass += counts[i] * exp((double)score[i] - 31);
    check_f32(c, "index_mass", "scores", &mass[0], &mass[1], 1);
    check_true(c, "index_mass", "of the definition",
               fabs((double)mass[1] - want_mass) < 1e-5 * (1 + want_mass));
    for (float least = -40; least < 40; least += 7) {
        const uint32_t n_got = c->now.index_above(score, counts, n, least, got);
        const uint32_t n_want = c->ref.index_above(score, counts, n, least, want);
        check_true(c, "index_above", "how many", n_got == n_want);
        check_bytes(c, "index_above", "codes", got, want, n_want * sizeof *want);
        for (uint32_t i = 0, at = 0; i < n; i++) /* and the reference by what it is said to do */
            if (counts[i] && score[i] >= least)
                check_true(c, "index_above", "is listed", at < n_want && want[at++] == i);
    }
    check_free(score, n, 4), check_free(counts, n, 4), check_free(got, n, 4),
        check_free(want, n, 4);
}

void check_scan(struct check *c)
{
    const bool lists = check_wanted(c, "index_above") || check_wanted(c, "index_best") ||
                       check_wanted(c, "index_mass");
    for (uint32_t n = 16; lists && n <= 1024; n *= 4)
        check_list(c, n);
    for (unsigned one_in = 1; check_wanted(c, "index_scan") && one_in < 40; one_in += 3)
        check_set(c, one_in);
}
