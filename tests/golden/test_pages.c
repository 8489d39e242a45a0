/* Golden pages: see README.md here. With --write DIR it writes the pages that are missing instead.
 * */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h> /* needs those above */

#include "base/half.h"
#include "codec/codec.h"
#include "support/made_book.h"
#include "tightkv/tightkv.h"

#define TOKENS TKV_PAGE_TOKENS

static const uint32_t head_dims[] = {48, 128};

struct golden {
    const struct tkv_codec_ops *ops;
    tkv_kind kind;
    uint32_t D;
    size_t bytes;
    uint16_t *rows;
    uint8_t *page;
    uint64_t hash;
    double rel_mse;
    struct tkv_kernels kernels; /* what follows: of codecs with a book */
    struct tkv_codec_env env;
    void *model;
};

/* ---- codecs with a book ----------------------------------------------------------------------- */

/* A family of codecs, named up to the first digit, has one book: layer i is for head size i. */
static void book_of(char *path, size_t size, const char *root, const struct tkv_codec_ops *ops)
{
    const int n = (int)strcspn(ops->name, "0123456789");
    snprintf(path, size, "%s/%.*s.tkvbook", root, n, ops->name);
}

static int write_book(const char *root, const struct tkv_codec_ops *ops)
{
    char path[300];
    size_t n_bytes;
    book_of(path, sizeof path, root, ops);
    FILE *f = fopen(path, "wbx");
    if (!f)
        return 0; /* there already */
    struct made_book *book = made_book_new();
    for (uint32_t i = 0; i < sizeof head_dims / sizeof head_dims[0]; i++)
        if (ops->basis)
            made_book_tight(book, i, 1, head_dims[i], 1);
        else
            made_book_cq(book, i, 1, head_dims[i], 1);
    const uint8_t *bytes = made_book_bytes(book, &n_bytes);
    const size_t written = fwrite(bytes, 1, n_bytes, f);
    made_book_free(book);
    return fclose(f) != 0 || written != n_bytes;
}

static uint8_t *read_book(const char *root, const struct tkv_codec_ops *ops, size_t *n_bytes)
{
    enum {
        MOST = 1 << 20
    };
    char path[300];
    book_of(path, sizeof path, root, ops);
    uint8_t *bytes = malloc(MOST);
    FILE *f = fopen(path, "rb");
    if (!f)
        return bytes;
    *n_bytes = fread(bytes, 1, MOST, f);
    fclose(f);
    return bytes;
}

/* rvq's codes are a megabyte that made_book.c repeats, and its models point into them. */
static struct made_book *book_of_codes(void)
{
    static struct made_book *book;
    if (!book)
        made_book_rvq(book = made_book_new(), 0);
    return book;
}

static tkv_status bind_codes(struct golden *g)
{
    const struct tkv_place place = {.n_heads = 1};
    struct tkv_gguf file;
    size_t n_bytes;
    const uint8_t *bytes = made_book_bytes(book_of_codes(), &n_bytes);
    g->env.model = g->model = aligned_alloc(64, (g->ops->model_bytes(g->D) + 63) / 64 * 64);
    g->bytes = g->ops->page_bytes(g->D, g->kind);
    const tkv_status status = tkv_gguf_open(bytes, n_bytes, &file, NULL);
    return status == TKV_OK ? g->ops->bind(&g->env, &file, &place, g->model, NULL) : status;
}

static tkv_status bind(struct golden *g, const char *root)
{
    struct tkv_place place = {.n_heads = 1};
    struct tkv_gguf file;
    size_t n_bytes = 0, code_bytes;
    uint8_t *bytes = read_book(root, g->ops, &n_bytes);
    while (head_dims[place.layer] != g->D)
        place.layer++;
    g->model = aligned_alloc(64, (g->ops->model_bytes(g->D) + 63) / 64 * 64);
    tkv_status status = tkv_gguf_open(bytes, n_bytes, &file, NULL);
    if (status == TKV_OK)
        status = g->ops->bind(&g->env, &file, &place, g->model, NULL);
    free(bytes);
    g->env.model = g->model;
    g->bytes = g->ops->page_bytes(g->D, g->kind);
    if (status == TKV_OK && g->ops->bound_bytes)
        g->bytes = g->ops->bound_bytes(&g->env, &code_bytes);
    return status;
}

static void encode_in_basis(struct golden *g)
{
    const size_t n = (size_t)TOKENS * g->D;
    float *x = aligned_alloc(64, n * sizeof *x), *y = aligned_alloc(64, n * sizeof *y);
    const size_t room = g->ops->scratch_bytes ? g->ops->scratch_bytes(g->D) : 0;
    void *scratch = aligned_alloc(64, (room + 63) / 64 * 64);
    struct tkv_basis basis;
    for (size_t i = 0; i < n; i++)
        x[i] = y[i] = tkv_half_to_f32(g->rows[i]);
    if (g->ops->basis) {
        g->ops->basis(&g->env, &basis);
        g->kernels.basis(x, TOKENS, g->D, basis.to, y);
    }
    g->ops->encode(&g->env, y, UINT64_MAX, g->page, scratch);
    free(x), free(y), free(scratch);
}

static void leave_basis(const struct golden *g, float *x)
{
    struct tkv_basis basis;
    if (!g->ops->basis)
        return;
    float *y = aligned_alloc(64, (size_t)TOKENS * g->D * sizeof *y);
    memcpy(y, x, (size_t)TOKENS * g->D * sizeof *y);
    g->ops->basis(&g->env, &basis);
    g->kernels.basis(y, TOKENS, g->D, basis.back, x);
    free(y);
}

/* ---- all codecs ------------------------------------------------------------------------------- */

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void make_rows(struct golden *g)
{
    uint64_t state = 1000 * (uint64_t)g->kind + g->D;
    for (int t = 0; t < TOKENS; t++)
        for (uint32_t d = 0; d < g->D; d++) {
            const uint64_t r = splitmix64(&state);
            const int32_t s =
                (int32_t)((r & 0xffff) + (r >> 16 & 0xffff) + (r >> 32 & 0xffff) + (r >> 48));
            const float x = ldexpf((float)(s - 131070), 5 * t % 7 - 19) + (d == 5 ? 16.0f : 0.0f);
            g->rows[(size_t)t * g->D + d] = tkv_f32_to_half(x);
        }
}

static uint64_t fnv1a64(const void *data, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
    return hash;
}

static tkv_context *context(uint32_t cpu_mask)
{
    tkv_context *ctx;
    tkv_context_params params;
    tkv_context_params_default(&params);
    params.cpu_mask = cpu_mask;
    return tkv_context_create(&params, &ctx, NULL) == TKV_OK ? ctx : NULL;
}

static tkv_codec codec_of(const struct golden *g)
{
    return (tkv_codec){.id = g->ops->id};
}

static tkv_status encode_rows(struct golden *g, tkv_context *ctx)
{
    g->bytes = tkv_page_bytes(codec_of(g), g->kind, g->D);
    g->page = malloc(g->bytes);
    return tkv_encode(ctx, codec_of(g), g->kind, g->D, g->rows, TKV_F16, sizeof(uint16_t) * g->D,
                      TOKENS, g->page, g->bytes, NULL);
}

/* Makes the input and encodes it. */
static tkv_status encode(struct golden *g, const char *root, const struct tkv_codec_ops *ops,
                         tkv_kind kind, uint32_t D, uint32_t cpu_mask)
{
    tkv_context *ctx = context(cpu_mask);
    *g = (struct golden){.ops = ops, .kind = kind, .D = D};
    g->rows = malloc(sizeof(uint16_t) * TOKENS * D);
    make_rows(g);
    tkv_kernels_init(&g->kernels, tkv_context_cpu(ctx));
    g->env = (struct tkv_codec_env){.kernels = &g->kernels, .head_dim = D, .kind = kind};
    const bool has_codes = strncmp(ops->name, "rvq", 3) == 0;
    tkv_status status = has_codes                  ? bind_codes(g)
                        : ops->caps & TKV_CAP_BOOK ? bind(g, root)
                                                   : encode_rows(g, ctx);
    if (status == TKV_OK && ops->caps & TKV_CAP_BOOK) {
        g->page = malloc(g->bytes);
        encode_in_basis(g);
    }
    tkv_context_destroy(ctx);
    return status;
}

static double rel_mse(const struct golden *g, const float *x)
{
    double error = 0, energy = 0;
    for (size_t i = 0; i < (size_t)TOKENS * g->D; i++) {
        const double want = (double)tkv_half_to_f32(g->rows[i]);
        error += (want - (double)x[i]) * (want - (double)x[i]);
        energy += want * want;
    }
    return error / energy;
}

/* Decodes g->page: the hash in the basis, the error of the rows. */
static void decode(struct golden *g, uint32_t cpu_mask)
{
    const size_t n = (size_t)TOKENS * g->D;
    tkv_context *ctx = context(cpu_mask);
    float *x = aligned_alloc(64, n * sizeof *x);
    g->ops->decode(&g->env, g->page, x);
    g->hash = fnv1a64(x, n * sizeof *x);
    if (g->ops->basis)
        leave_basis(g, x);
    else if (!g->model)
        tkv_decode(ctx, codec_of(g), g->kind, g->D, g->page, g->bytes, x, TKV_F32, g->D * sizeof *x,
                   TOKENS, NULL);
    g->rel_mse = rel_mse(g, x);
    free(x);
    tkv_context_destroy(ctx);
}

static void release(struct golden *g)
{
    free(g->rows), free(g->page), free(g->model);
}

static void folder_of(char *path, size_t size, const char *root, const struct tkv_codec_ops *ops)
{
    snprintf(path, size, "%s/%s/v1", root, ops->name);
}

static const uint32_t masks[] = {0, TKV_CPU_AVX2, TKV_CPU_ALL};

/* One line of a manifest. */
static void check_line(const char *folder, const struct tkv_codec_ops *ops, const char *line)
{
    char kind, file[64], path[512];
    unsigned D;
    unsigned long long hash;
    double rel_mse;
    assert_int_equal(sscanf(line, "%c %u %63s %llx %lf", &kind, &D, file, &hash, &rel_mse), 5);
    snprintf(path, sizeof path, "%s/%s", folder, file);
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        struct golden g;
        assert_int_equal(encode(&g, GOLDEN_DIR, ops, kind == 'K' ? TKV_K : TKV_V, D, masks[i]),
                         TKV_OK);
        uint8_t *stored = malloc(g.bytes + 1);
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        assert_int_equal(fread(stored, 1, g.bytes + 1, f), g.bytes);
        fclose(f);
        assert_memory_equal(g.page, stored, g.bytes);
        memcpy(g.page, stored, g.bytes);
        decode(&g, masks[i]);
        assert_true(g.hash == hash);
        assert_true(fabs(g.rel_mse - rel_mse) <= 1e-4 * rel_mse);
        free(stored);
        release(&g);
    }
}

/* Every codec has golden pages, and they hold on every CPU level. */
static void golden_pages(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < tkv_codec_registry_count(); i++) {
        const struct tkv_codec_ops *ops = tkv_codec_by_index(i);
        char folder[256], path[300], line[256];
        size_t n_lines = 0;
        folder_of(folder, sizeof folder, GOLDEN_DIR, ops);
        snprintf(path, sizeof path, "%s/manifest", folder);
        FILE *f = fopen(path, "r");
        if (!f)
            fail_msg("%s has no golden pages: %s is missing", ops->name, path);
        for (; fgets(line, sizeof line, f); n_lines++)
            check_line(folder, ops, line);
        fclose(f);
        assert_true(n_lines >=
                    (ops->caps & TKV_CAP_KEYS_ONLY || !ops->supports(48, TKV_K) ? 2 : 4));
    }
}

static int write_codec(const char *root, const struct tkv_codec_ops *ops)
{
    char folder[256], path[300];
    snprintf(path, sizeof path, "%s/%s", root, ops->name);
    mkdir(path, 0777);
    folder_of(folder, sizeof folder, root, ops);
    mkdir(folder, 0777);
    snprintf(path, sizeof path, "%s/manifest", folder);
    FILE *manifest = fopen(path, "wx");
    if (!manifest)
        return 0; /* there already: golden pages do not change */
    if (ops->basis && write_book(root, ops) != 0)
        return 1;
    for (size_t i = 0; i < 2 * sizeof head_dims / sizeof head_dims[0]; i++) {
        struct golden g;
        char file[32];
        if (!ops->supports(head_dims[i / 2], (tkv_kind)(i % 2)))
            continue;
        if (encode(&g, root, ops, (tkv_kind)(i % 2), head_dims[i / 2], TKV_CPU_ALL) != TKV_OK)
            return 1;
        decode(&g, TKV_CPU_ALL);
        snprintf(file, sizeof file, "%c%u.page", i % 2 ? 'V' : 'K', g.D);
        snprintf(path, sizeof path, "%s/%s", folder, file);
        FILE *f = fopen(path, "wbx");
        if (!f || fwrite(g.page, 1, g.bytes, f) != g.bytes || fclose(f) != 0)
            return 1;
        fprintf(manifest, "%c %u %s %016llx %.6e\n", file[0], g.D, file, (unsigned long long)g.hash,
                g.rel_mse);
        release(&g);
    }
    return fclose(manifest) != 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write") == 0) {
        int failed = 0;
        for (uint32_t i = 0; i < tkv_codec_registry_count(); i++)
            failed |= write_codec(argv[2], tkv_codec_by_index(i));
        return failed;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_pages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
