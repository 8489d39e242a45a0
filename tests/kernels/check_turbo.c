#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "format/turbo.h"

static const uint32_t dims[] = {16, 48, 64, 80, 96, 112, 128, 192, 256, 512};
#define N_DIMS (sizeof dims / sizeof dims[0])

/* One page at one width: codes in tile order, page codes, tile. All end at guard pages. */
struct turbo_args {
    const struct tkv_kernels *k;
    struct tkv_ahead *ahead;
    uint32_t D, bits;
    uint8_t *plain, *page, *tile;
    float *x, *inv;
    int32_t *energy;
};

static void alloc_args(struct turbo_args *a, uint32_t D, uint32_t bits)
{
    *a = (struct turbo_args){.D = D, .bits = bits};
    a->plain = check_alloc((size_t)64 * D, 1);
    a->page = check_alloc(tkv_turbo_code_bytes(bits, D), 1);
    a->tile = check_alloc((size_t)64 * D, 1);
    a->x = check_alloc((size_t)64 * D, 4);
    a->inv = check_alloc(64, 4);
    a->energy = check_alloc(64, 4);
}

static void free_args(struct turbo_args *a)
{
    check_free(a->plain, (size_t)64 * a->D, 1);
    check_free(a->page, tkv_turbo_code_bytes(a->bits, a->D), 1);
    check_free(a->tile, (size_t)64 * a->D, 1);
    check_free(a->x, (size_t)64 * a->D, 4);
    check_free(a->inv, 64, 4);
    check_free(a->energy, 64, 4);
}

/* Packing any codes and unpacking them gives their levels, for the level under test and against the
 * bytes of the reference. */
static void check_pack(struct check *c, struct turbo_args *a, tkv_kind kind, const char *what)
{
    static uint8_t want[64 * 512];
    const size_t n = (size_t)64 * a->D, code_bytes = tkv_turbo_code_bytes(a->bits, a->D);
    const int8_t *level = tkv_turbo_levels(a->bits);
    check_fill_bytes(c, a->plain, n);
    for (size_t i = 0; i < n; i++)
        a->plain[i] &= (uint8_t)((1 << a->bits) - 1);
    c->ref.turbo_pack(a->plain, a->D, kind, a->bits, want);
    c->now.turbo_pack(a->plain, a->D, kind, a->bits, a->page);
    check_bytes(c, "turbo_pack", what, a->page, want, code_bytes);

    for (size_t i = 0; i < n; i++)
        want[i] = (uint8_t)(level[a->plain[i]] + (kind == TKV_K ? 128 : 0));
    if (kind == TKV_K)
        c->now.turbo_tile_k(a->page, a->D, a->bits, a->tile, a->ahead);
    else
        c->now.turbo_tile_v(a->page, a->D, a->bits, (int8_t *)a->tile, a->ahead);
    check_bytes(c, kind == TKV_K ? "turbo_tile_k" : "turbo_tile_v", what, a->tile, want, n);
}

/* Every byte is some page: tiles of random bytes, at an address without alignment. */
static void check_any_bytes(struct check *c, struct turbo_args *a, tkv_kind kind, const char *what)
{
    static uint8_t page[64 * 256 + 1], want[64 * 512];
    check_fill_bytes(c, page, sizeof page);
    if (kind == TKV_K) {
        c->ref.turbo_tile_k(page + 1, a->D, a->bits, want, a->ahead);
        c->now.turbo_tile_k(page + 1, a->D, a->bits, a->tile, a->ahead);
    } else {
        c->ref.turbo_tile_v(page + 1, a->D, a->bits, (int8_t *)want, a->ahead);
        c->now.turbo_tile_v(page + 1, a->D, a->bits, (int8_t *)a->tile, a->ahead);
    }
    check_bytes(c, kind == TKV_K ? "turbo_tile_k" : "turbo_tile_v", what, a->tile, want,
                (size_t)64 * a->D);
}

/* Straight from any codes, as through a tile of the reference. */
static void check_fused(struct check *c, struct turbo_args *a, uint32_t n_rows, const char *what)
{
    static uint8_t page[64 * 256 + 1];
    _Alignas(64) static uint8_t tile[64 * 512];
    const size_t n = (size_t)n_rows * a->D, n_scores = (size_t)n_rows * 64;
    uint8_t *rows = check_alloc(n > n_scores ? n : n_scores, 1);
    int32_t *s = check_alloc(n_scores, 4), *want_s = malloc(n_scores * 4 + 1);
    float *acc = check_alloc(n, 4), *want_acc = malloc(n * 4 + 1), *wscale = check_alloc(n_rows, 4);
    check_fill_bytes(c, page, sizeof page);
    check_fill_bytes(c, rows, n > n_scores ? n : n_scores);
    for (size_t i = 0; i < n; i++)
        rows[i] = rows[i] == 128 ? 129 : rows[i]; /* codes of -127 .. 127 */
    check_fill(c, wscale, n_rows, FILL_UNIFORM);
    check_fill(c, acc, n, FILL_UNIFORM);
    memcpy(want_acc, acc, n * 4);

    c->ref.turbo_tile_k(page + 1, a->D, a->bits, tile, a->ahead);
    c->ref.score_i8(tile, (const int8_t *)rows, n_rows, a->D, want_s, a->ahead);
    c->now.turbo_score(page + 1, a->D, a->bits, (const int8_t *)rows, n_rows, s, a->ahead);
    check_bytes(c, "turbo_score", what, s, want_s, n_scores * 4);
    c->ref.turbo_tile_v(page + 1, a->D, a->bits, (int8_t *)tile, a->ahead);
    c->ref.wsum_i8((const int8_t *)tile, rows, wscale, n_rows, a->D, want_acc, a->ahead);
    c->now.turbo_wsum(page + 1, a->D, a->bits, rows, wscale, n_rows, acc, a->ahead);
    check_f32(c, "turbo_wsum", what, acc, want_acc, n);
    check_free(rows, n > n_scores ? n : n_scores, 1), check_free(s, n_scores, 4);
    check_free(acc, n, 4), check_free(wscale, n_rows, 4);
    free(want_s), free(want_acc);
}

static void check_codes(struct check *c, struct turbo_args *a, int fill, const char *what)
{
    static uint8_t want[64 * 512];
    int32_t energy[64];
    const size_t n = (size_t)64 * a->D;
    check_fill(c, a->x, n, fill);
    check_fill(c, a->inv, 64, FILL_HEAVY);
    for (size_t i = 0; i < n; i += 7) /* on a threshold, where < and <= differ */
        a->x[i] = tkv_turbo_threshold(a->bits, check_random(c) % ((1u << a->bits) - 1u));
    for (size_t t = 0; t < 64; t += 2)
        a->inv[t] = 1.0f;
    c->ref.turbo_codes(a->x, a->inv, a->D, a->bits, want, energy);
    c->now.turbo_codes(a->x, a->inv, a->D, a->bits, a->tile, a->energy);
    check_bytes(c, "turbo_codes", what, a->tile, want, n);
    check_bytes(c, "turbo_codes", "energy", a->energy, energy, sizeof energy);
    float dot[64];
    c->ref.turbo_dots(a->x, want, a->D, a->bits, dot);
    c->now.turbo_dots(a->x, want, a->D, a->bits, a->inv);
    check_bytes(c, "turbo_dots", what, a->inv, dot, sizeof dot);
}

static void bench_tile_k(void *arg)
{
    struct turbo_args *a = arg;
    a->k->turbo_tile_k(a->page, a->D, a->bits, a->tile, a->ahead);
}

static void bench_tile_v(void *arg)
{
    struct turbo_args *a = arg;
    a->k->turbo_tile_v(a->page, a->D, a->bits, (int8_t *)a->tile, a->ahead);
}

static void bench_score(void *arg)
{
    struct turbo_args *a = arg;
    a->k->turbo_score(a->page, a->D, a->bits, (const int8_t *)a->plain, 4, (int32_t *)a->x,
                      a->ahead);
}

static void bench_wsum(void *arg)
{
    struct turbo_args *a = arg;
    a->k->turbo_wsum(a->page, a->D, a->bits, a->plain, a->inv, 4, a->x, a->ahead);
}

static void bench_pack(void *arg)
{
    struct turbo_args *a = arg;
    a->k->turbo_pack(a->plain, a->D, TKV_K, a->bits, a->page);
}

static void bench_codes(void *arg)
{
    struct turbo_args *a = arg;
    a->k->turbo_codes(a->x, a->inv, a->D, a->bits, a->tile, a->energy);
}

static void bench(struct check *c, struct turbo_args *a)
{
    char unit[32];
    snprintf(unit, sizeof unit, "D=%u bits=%u", a->D, a->bits);
    a->k = &c->now;
    check_bench(c, "turbo_tile_k", unit, bench_tile_k, a);
    check_bench(c, "turbo_tile_v", unit, bench_tile_v, a);
    if (a->k->turbo_score) {
        check_bench(c, "turbo_score, 4 rows", unit, bench_score, a);
        check_bench(c, "turbo_wsum, 4 rows", unit, bench_wsum, a);
    }
    check_bench(c, "turbo_pack", unit, bench_pack, a);
    check_bench(c, "turbo_codes", unit, bench_codes, a);
}

void check_turbo(struct check *c)
{
    if (!check_wanted(c, "turbo_tile_k turbo_tile_v turbo_score turbo_wsum turbo_pack turbo_codes"))
        return;
    for (uint32_t bits = 2; bits <= 4; bits++)
        for (size_t i = 0; i < N_DIMS; i++) {
            struct turbo_args a;
            char what[32];
            alloc_args(&a, dims[i], bits);
            a.ahead = &c->ahead;
            snprintf(what, sizeof what, "D=%u bits=%u", a.D, bits);
            for (int kind = TKV_K; kind <= TKV_V; kind++) {
                check_pack(c, &a, (tkv_kind)kind, what);
                check_any_bytes(c, &a, (tkv_kind)kind, what);
            }
            for (int fill = 0; fill < FILL_NAN; fill++)
                check_codes(c, &a, fill, what);
            for (uint32_t n_rows = 0; n_rows < 10 && c->now.turbo_score; n_rows++)
                check_fused(c, &a, n_rows, what);
            if (c->bench && a.D == 128)
                bench(c, &a);
            free_args(&a);
        }
}
