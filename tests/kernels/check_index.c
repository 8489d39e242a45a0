#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum {
    MOST_ROWS = 64
};

struct search {
    struct check *c;
    uint32_t D, n_codes;
    uint8_t *tiles;
    int32_t *half;
    int8_t *rows;
    size_t n;
    uint16_t nearest[MOST_ROWS];
};

static int code_at(const struct search *s, uint32_t code, uint32_t d)
{
    return s->tiles[(size_t)(code / 16 * 16) * s->D + d / 4 * 64 + code % 16 * 4 + d % 4] - 128;
}

/* Of `left_out` places at the end no code is. */
static struct search search_new(struct check *c, uint32_t D, uint32_t n_codes, uint32_t left_out,
                                bool ties)
{
    const size_t n = (size_t)n_codes * D;
    struct search s = {c,
                       D,
                       n_codes,
                       check_alloc(n, 1),
                       check_alloc(n_codes, 4),
                       check_alloc((size_t)MOST_ROWS * D, 1),
                       MOST_ROWS,
                       {0}};
    check_fill_bytes(c, s.tiles, n);
    check_fill_bytes(c, s.rows, (size_t)MOST_ROWS * D);
    for (size_t i = 0; i < n; i++)
        s.tiles[i] = (uint8_t)(ties ? 127 + s.tiles[i] % 3 : s.tiles[i] == 0 ? 1 : s.tiles[i]);
    for (size_t i = 0; i < (size_t)MOST_ROWS * D; i++)
        s.rows[i] = (int8_t)(ties ? s.rows[i] % 2 : s.rows[i] == -128 ? -127 : s.rows[i]);
    memset(s.rows, 127, D), memset(s.rows + D, -127, D); /* the largest sums there are */
    for (uint32_t i = 0; i < n_codes; i++) {
        int32_t square = 0;
        for (uint32_t d = 0; d < D; d++)
            square += code_at(&s, i, d) * code_at(&s, i, d);
        s.half[i] = i < n_codes - left_out ? square / 2 : TKV_INDEX_NEVER;
    }
    return s;
}

static void search_free(struct search *s)
{
    check_free(s->tiles, (size_t)s->n_codes * s->D, 1), check_free(s->half, s->n_codes, 4);
    check_free(s->rows, (size_t)MOST_ROWS * s->D, 1);
}

static void find(const struct search *s, uint16_t *want)
{
    for (size_t r = 0; r < MOST_ROWS; r++) {
        int64_t most = INT64_MIN;
        for (uint32_t i = 0; i < s->n_codes; i++) {
            int64_t score = -s->half[i];
            for (uint32_t d = 0; d < s->D; d++)
                score += s->rows[r * s->D + d] * code_at(s, i, d);
            if (score > most)
                most = score, want[r] = (uint16_t)i;
        }
    }
}

static void check_nearest(struct check *c, uint32_t D, uint32_t n_codes, uint32_t left_out,
                          bool ties)
{
    struct search s = search_new(c, D, n_codes, left_out, ties);
    uint16_t want[MOST_ROWS];
    char what[64];
    find(&s, want);
    for (size_t n = 0; n <= MOST_ROWS; n = n < 10 ? n + 1 : n + 27) {
        snprintf(what, sizeof what, "D=%u codes=%u n=%zu%s", D, n_codes, n, ties ? " ties" : "");
        memset(s.nearest, 0xff, sizeof s.nearest);
        c->now.index_nearest(s.tiles, s.half, n_codes, D, s.rows, n, s.nearest);
        check_bytes(c, "index_nearest", what, s.nearest, want, n * sizeof *want);
        check_true(c, "index_nearest", what, n == MOST_ROWS || s.nearest[n] == 0xffff);
    }
    search_free(&s);
}

static void bench_nearest(void *arg)
{
    struct search *s = arg;
    s->c->now.index_nearest(s->tiles, s->half, s->n_codes, s->D, s->rows, s->n, s->nearest);
}

void check_index(struct check *c)
{
    static const uint32_t dims[] = {16, 64, 80, 128, 256, 512};
    if (!check_wanted(c, "index"))
        return;
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        check_nearest(c, dims[i], 64, 48, false);
        check_nearest(c, dims[i], 320, 16, true);
    }
    check_nearest(c, 64, 32768, 0, true);
    if (!c->bench)
        return;
    struct search s = search_new(c, 128, 4096, 0, false);
    check_bench(c, "index_nearest", "64 keys of 128, 4096 codes", bench_nearest, &s);
    s.n = 1;
    check_bench(c, "index_nearest", "a key of 128, 4096 codes", bench_nearest, &s);
    search_free(&s);
}
