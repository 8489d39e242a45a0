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

void check_scan(struct check *c)
{
    for (unsigned one_in = 1; check_wanted(c, "index_scan") && one_in < 40; one_in += 3)
        check_set(c, one_in);
}
