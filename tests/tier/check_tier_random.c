/* Random operations on a cache most of whose coded pages are in a file, and on one that is in memory:
 * every result is the same, bit for bit, whatever the disk does in between.
 *   check_tier_random [SECONDS [SEED]]
 * goes from seed to seed until the time is up, and says which seed found a difference. */
#define _GNU_SOURCE /* clock_gettime */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cache/cache.h"
#include "support/made_book.h"
#include "tightkv/tightkv.h"

enum {
    N_LAYERS = 3,
    N_STREAMS = 2,
    N_SLOTS = 48 * TKV_PAGE_TOKENS + 17,
    MAX_ROW = 3 * 64,
    MAX_BATCH = 700,
    MAX_Q = 40,
    GROUP = 2,
    N_OPS = 150
};

static const struct {
    uint32_t n_heads, dk, dv;
} shapes[N_LAYERS] = {{2, 32, 32}, {1, 64, 32}, {3, 32, 64}};

static const char *const specs[] = {
    "kv=turbo4,sink=0,tail=0",
    "kv=q8,sink=4,tail=64",
    "k=turbo4c,v=kivi4,sink=0,tail=16",
    "kv=turbo3,visual.k=visual4,visual.v=visual4,sink=2,tail=8",
    "k=polar,v=turbo2,sink=0,tail=8,strict=1",
    "kv=turbo4,sink=4,tail=64,index=qvq,keep=0.1",
    "k=q8,v=turbo4,sink=0,tail=16,index=qvq,keep=100",
};

static uint64_t seed, n_done;

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "line %d, seed %llu, operation %llu: %s\n", __LINE__,                  \
                    (unsigned long long)seed, (unsigned long long)n_done, #what);                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* ---- random numbers --------------------------------------------------------------------------- */

static uint64_t state;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % below);
}

static void draw_floats(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)draw(2001) / 1000 - 1;
}

/* ---- threads ---------------------------------------------------------------------------------- */

struct share {
    void (*fn)(void *arg, uint32_t ith, uint32_t nth);
    void *arg;
};

static void *second(void *arg)
{
    const struct share *s = arg;
    s->fn(s->arg, 1, 2);
    return NULL;
}

static void run_two(void *user, void (*fn)(void *arg, uint32_t ith, uint32_t nth), void *arg)
{
    struct share s = {fn, arg};
    pthread_t thread;
    (void)user;
    const bool two = pthread_create(&thread, NULL, second, &s) == 0;
    fn(arg, 0, two ? 2 : 1);
    if (two)
        pthread_join(thread, NULL);
}

/* ---- two caches ------------------------------------------------------------------------------- */

struct machine {
    tkv_context *ctx;
    struct made_book *made;
    tkv_book *book;
    tkv_cache *tiered, *plain;
    bool visual;
    size_t length[N_STREAMS]; /* rows that have been appended */
    int32_t next_pos[N_STREAMS];
};

/* What the index wants to know. */
static void make_book(struct machine *m)
{
    float freq[16];
    size_t n_bytes;
    m->made = made_book_new();
    for (uint32_t i = 0; i < 16; i++)
        freq[i] = powf(10000.0f, -(float)i / 16);
    made_book_rope(m->made, true, 16, freq, NULL);
    for (uint32_t i = 0; i < N_LAYERS; i++)
        made_book_index(m->made, i, shapes[i].n_heads, shapes[i].dk, 64, 1);
    const uint8_t *bytes = made_book_bytes(m->made, &n_bytes);
    CHECK(tkv_book_open(m->ctx, bytes, n_bytes, &m->book, NULL) == TKV_OK);
}

static tkv_cache *make_cache(tkv_context *ctx, const tkv_book *book, const char *text)
{
    tkv_error err;
    tkv_spec spec;
    tkv_cache *cache;
    CHECK(tkv_spec_parse(text, &spec, &err) == TKV_OK);
    CHECK(tkv_cache_create(ctx, &spec, &cache, &err) == TKV_OK);
    CHECK(tkv_cache_set_book(cache, book, &err) == TKV_OK);
    for (uint32_t i = 0; i < N_LAYERS; i++) {
        uint32_t layer;
        const tkv_layer_params shape = {.struct_size = sizeof(shape),
                                        .n_kv_heads = shapes[i].n_heads,
                                        .k_head_dim = shapes[i].dk,
                                        .v_head_dim = shapes[i].dv,
                                        .n_slots = N_SLOTS,
                                        .n_streams = N_STREAMS,
                                        .model_layer = i};
        CHECK(tkv_cache_add_layer(cache, &shape, &layer, &err) == TKV_OK);
    }
    return cache;
}

static void drop_ring(tkv_cache *cache)
{
    const struct tkv_tier_params params = {.allocator = &cache->ctx->allocator,
                                           .executor = &cache->ctx->executor,
                                           .folder = cache->spec.spill,
                                           .ram = cache->spec.ram,
                                           .no_ring = true};
    tkv_tier_destroy(cache->tier);
    CHECK(tkv_tier_create(&params, &cache->tier, NULL) == TKV_OK);
}

static void make_machine(struct machine *m)
{
    const char *spec = specs[draw(sizeof specs / sizeof specs[0])];
    char tiered[160];
    tkv_context_params params;
    tkv_context_params_default(&params);
    if (draw(2))
        params.executor = (tkv_executor){NULL, 2, run_two};
    const char *ram = strstr(spec, "q8") && strstr(spec, "index") ? "2M" : "1M"; /* the least */
    snprintf(tiered, sizeof tiered, "%s,ram=%s,spill=.", spec, ram);
    *m = (struct machine){.visual = strstr(spec, "visual")};
    CHECK(tkv_context_create(&params, &m->ctx, NULL) == TKV_OK);
    make_book(m);
    m->plain = make_cache(m->ctx, m->book, spec);
    m->tiered = make_cache(m->ctx, m->book, tiered);
    if (draw(2))
        drop_ring(m->tiered);
}

static void free_machine(struct machine *m)
{
    tkv_cache_destroy(m->tiered);
    tkv_cache_destroy(m->plain);
    tkv_book_close(m->book);
    made_book_free(m->made);
    tkv_context_destroy(m->ctx);
}

/* ---- a bad disk ------------------------------------------------------------------------------- */

static void bad_disk(void *user, struct tkv_moved *r)
{
    const bool *writes = user;
    if (r->write != *writes || draw(3))
        return;
    if (r->write || draw(3) == 0)
        r->result = r->write ? -ENOSPC : -EIO;
    else if (draw(2))
        r->result -= 64;
    else
        r->block->frame[draw(64)] ^= (uint8_t)(1 + draw(255));
}

static bool bad_writes = true, bad_reads = false;

static void break_disk(struct machine *m, bool *writes)
{
    m->tiered->tier->moved_hook = bad_disk;
    m->tiered->tier->hook_user = writes;
}

static void mend_disk(struct machine *m)
{
    m->tiered->tier->moved_hook = NULL;
}

static bool is_disk_error(tkv_status status)
{
    return status == TKV_ERR_IO || status == TKV_ERR_CORRUPT;
}

/* ---- operations ------------------------------------------------------------------------------- */

static void write_both(struct machine *m, uint32_t layer, size_t n, const int64_t *slots,
                       const int32_t *pos, const uint8_t *klass)
{
    static float k[MAX_BATCH * MAX_ROW], v[MAX_BATCH * MAX_ROW];
    const size_t nk = shapes[layer].n_heads * shapes[layer].dk,
                 nv = shapes[layer].n_heads * shapes[layer].dv;
    draw_floats(k, n * nk);
    draw_floats(v, n * nv);
    const tkv_rows kr = {k, TKV_F32, nk * sizeof(float)}, vr = {v, TKV_F32, nv * sizeof(float)};
    CHECK(tkv_cache_write(m->plain, layer, n, slots, pos, klass, kr, vr, NULL) == TKV_OK);
    CHECK(tkv_cache_write(m->tiered, layer, n, slots, pos, klass, kr, vr, NULL) == TKV_OK);
}

/* A page that a full disk keeps open seals later, with the same bytes. */
static void seal_both(struct machine *m, uint32_t layer)
{
    if (draw(8) == 0) {
        break_disk(m, &bad_writes);
        const tkv_status status = tkv_cache_seal(m->tiered, layer, NULL);
        CHECK(status == TKV_OK || is_disk_error(status));
        mend_disk(m);
    }
    CHECK(tkv_cache_seal(m->plain, layer, NULL) == TKV_OK);
    CHECK(tkv_cache_seal(m->tiered, layer, NULL) == TKV_OK);
}

static void append(struct machine *m)
{
    const uint32_t stream = draw(N_STREAMS);
    int64_t slots[MAX_BATCH];
    int32_t pos[MAX_BATCH];
    uint8_t klass[MAX_BATCH];
    size_t n = 1 + draw(draw(3) ? MAX_BATCH : 3);
    const uint32_t picture = draw(MAX_BATCH);
    if (n > N_SLOTS - m->length[stream])
        n = N_SLOTS - m->length[stream];
    for (size_t i = 0; i < n; i++) {
        slots[i] = (int64_t)stream * N_SLOTS + (int64_t)(m->length[stream] + i);
        pos[i] = m->next_pos[stream]++;
        klass[i] = m->visual && i >= picture && i < picture + 100 && i + 1 < n;
    }
    m->length[stream] += n;
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        write_both(m, layer, n, slots, pos, klass);
        seal_both(m, layer);
    }
}

static void overwrite(struct machine *m)
{
    const uint32_t stream = draw(N_STREAMS), layer = draw(N_LAYERS);
    const size_t n = 1 + draw(3);
    int64_t slots[3];
    int32_t pos[3];
    for (size_t i = 0; i < n; i++) {
        slots[i] = (int64_t)stream * N_SLOTS + draw(N_SLOTS);
        pos[i] = m->next_pos[stream]++;
    }
    write_both(m, layer, n, slots, pos, NULL);
    seal_both(m, layer);
}

static void truncate_both(struct machine *m)
{
    const uint32_t stream = draw(N_STREAMS);
    const size_t n = draw(4) ? m->length[stream] - m->length[stream] / (4 + draw(60)) : draw(200);
    CHECK(tkv_cache_truncate(m->plain, stream, n, NULL) == TKV_OK);
    CHECK(tkv_cache_truncate(m->tiered, stream, n, NULL) == TKV_OK);
    m->length[stream] = n < m->length[stream] ? n : m->length[stream];
}

static void forget_both(struct machine *m)
{
    const uint32_t layer = draw(N_LAYERS);
    const int64_t first = draw(N_SLOTS);
    const size_t n = draw(300) < N_SLOTS - (size_t)first ? draw(300) : 1;
    if ((size_t)first + n > N_SLOTS)
        return;
    CHECK(tkv_cache_forget(m->plain, layer, first, n, NULL) == TKV_OK);
    CHECK(tkv_cache_forget(m->tiered, layer, first, n, NULL) == TKV_OK);
}

/* A fork: what one stream begins with, the other gets; or a shorter run that lines up with nothing. */
static void copy_both(struct machine *m)
{
    const bool pages = draw(3) != 0;
    const int64_t from = pages ? 0 : draw(N_SLOTS - 80),
                  to = pages ? N_SLOTS : N_SLOTS + draw(2900);
    const size_t n = pages ? (size_t)64 * draw(48) : draw(80);
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        CHECK(tkv_cache_copy(m->plain, layer, to, from, n, NULL) == TKV_OK);
        CHECK(tkv_cache_copy(m->tiered, layer, to, from, n, NULL) == TKV_OK);
    }
    const size_t end = (size_t)(to - N_SLOTS) + n;
    m->length[1] = end > m->length[1] ? end : m->length[1];
}

static void attend_both(struct machine *m)
{
    static float q[MAX_Q * 3 * GROUP * 64], mask[MAX_Q * N_SLOTS];
    static float out[2][MAX_Q * 3 * GROUP * 64];
    const uint32_t layer = draw(N_LAYERS), stream = draw(N_STREAMS),
                   n_heads = shapes[layer].n_heads;
    int32_t q_pos[MAX_Q];
    tkv_attend_params p;
    tkv_attend_params_default(&p);
    p.layer = layer;
    p.n_q = draw(2) ? 1 : 1 + draw(MAX_Q);
    p.n_q_heads = n_heads * GROUP;
    p.q = q;
    p.q_head_stride = shapes[layer].dk * sizeof(float);
    p.q_token_stride = p.n_q_heads * p.q_head_stride;
    p.out_head_stride = shapes[layer].dv * sizeof(float);
    p.out_token_stride = p.n_q_heads * p.out_head_stride;
    const uint32_t first = 64 * draw(4);
    p.first_slot = (int64_t)stream * N_SLOTS + first;
    p.n_kv = 1 + draw(N_SLOTS - first);
    p.q_pos = q_pos;
    p.flags = draw(3) ? TKV_ATTEND_SELECT : 0;
    draw_floats(q, p.n_q * p.n_q_heads * shapes[layer].dk);
    for (uint32_t i = 0; i < p.n_q; i++)
        q_pos[i] = m->next_pos[stream] + (int32_t)i;
    if (draw(3)) { /* some pages are hidden altogether */
        const uint32_t from = draw((uint32_t)p.n_kv), to = draw((uint32_t)p.n_kv);
        for (size_t i = 0; i < p.n_q * p.n_kv; i++)
            mask[i] = (i % p.n_kv >= from && i % p.n_kv < to) || draw(9) == 0 ? -INFINITY : 0;
        p.mask = mask;
        p.mask_stride = p.n_kv * sizeof(float);
    }
    memset(out, 0, sizeof out);
    if (draw(4) == 0) {
        p.out = out[0]; /* a balance is learned from every call */
        CHECK(tkv_attend(m->plain, &p, NULL) == TKV_OK);
        break_disk(m, &bad_reads);
        p.out = out[1];
        const tkv_status status = tkv_attend(m->tiered, &p, NULL);
        CHECK(status == TKV_OK || is_disk_error(status));
        if (status != TKV_OK)
            for (size_t i = 0; i < sizeof out[1] / sizeof out[1][0]; i++)
                CHECK(out[1][i] == 0);
        mend_disk(m);
    }
    p.out = out[0];
    CHECK(tkv_attend(m->plain, &p, NULL) == TKV_OK);
    p.out = out[1];
    CHECK(tkv_attend(m->tiered, &p, NULL) == TKV_OK);
    CHECK(memcmp(out[0], out[1], sizeof out[0]) == 0);
}

static void read_both(struct machine *m)
{
    static uint16_t rows[2][MAX_BATCH * MAX_ROW];
    const uint32_t layer = draw(N_LAYERS);
    const tkv_kind kind = draw(2) ? TKV_K : TKV_V;
    const size_t stride =
        2 * shapes[layer].n_heads * (kind == TKV_K ? shapes[layer].dk : shapes[layer].dv);
    const size_t n = 1 + draw(MAX_BATCH);
    const int64_t first = draw(N_STREAMS * N_SLOTS - MAX_BATCH);
    int64_t slots[MAX_BATCH];
    const bool run = draw(2);
    for (size_t i = 0; i < n; i++)
        slots[i] = run ? first + (int64_t)i : draw(N_STREAMS * N_SLOTS);
    if (draw(4) == 0) {
        break_disk(m, &bad_reads);
        const tkv_status status =
            tkv_cache_read(m->tiered, layer, kind, n, slots, rows[1], TKV_F16, stride, NULL);
        CHECK(status == TKV_OK || is_disk_error(status));
        mend_disk(m);
    }
    CHECK(tkv_cache_read(m->plain, layer, kind, n, slots, rows[0], TKV_F16, stride, NULL) ==
          TKV_OK);
    CHECK(tkv_cache_read(m->tiered, layer, kind, n, slots, rows[1], TKV_F16, stride, NULL) ==
          TKV_OK);
    CHECK(memcmp(rows[0], rows[1], n * stride) == 0);
}

static void compare_stats(const struct machine *m)
{
    tkv_cache_stats a = {.struct_size = sizeof a}, b = a;
    tkv_tier_stats t = {.struct_size = sizeof t};
    CHECK(tkv_cache_get_stats(m->plain, &a) == TKV_OK);
    CHECK(tkv_cache_get_stats(m->tiered, &b) == TKV_OK);
    CHECK(tkv_cache_get_tier_stats(m->tiered, &t) == TKV_OK);
    CHECK(a.n_values == b.n_values && a.sealed_bytes == b.sealed_bytes);
    CHECK(a.open_bytes == b.open_bytes && a.n_pages_sealed == b.n_pages_sealed);
    CHECK(t.resident_bytes <= m->tiered->spec.ram);
    for (uint32_t i = 0; i < N_LAYERS; i++)
        for (size_t j = 0; j < N_STREAMS * m->tiered->layers[i].pages_per_stream; j++) {
            const struct tkv_page *page = &m->tiered->layers[i].pages[j];
            for (uint32_t head = 0; page->state == TKV_PAGE_SEALED && head < shapes[i].n_heads;
                 head++)
                CHECK(tkv_tier_block_of(page, head)->pins == 0);
        }
}

static void run_seed(uint64_t *n_misses)
{
    static void (*const ops[])(struct machine *) = {
        append,      append,      append,      append,      overwrite, truncate_both,
        forget_both, attend_both, attend_both, attend_both, read_both, copy_both,
    };
    struct machine m;
    state = seed * 0x9e3779b97f4a7c15u + 1;
    make_machine(&m);
    for (n_done = 0; n_done < N_OPS; n_done++) {
        ops[draw(sizeof ops / sizeof ops[0])](&m);
        compare_stats(&m);
    }
    *n_misses += tkv_tier_get_stats(m.tiered->tier).misses;
    free_machine(&m);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    const double seconds = argc > 1 ? strtod(argv[1], NULL) : 10, begin = now();
    uint64_t n_seeds = 0, n_misses = 0;
    seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL);
    printf("from seed %llu on\n", (unsigned long long)seed);
    do {
        run_seed(&n_misses);
        seed++;
        n_seeds++;
    } while (now() - begin < seconds);
    printf("%llu seeds, %llu blocks read back\n", (unsigned long long)n_seeds,
           (unsigned long long)n_misses);
    return n_misses == 0;
}
