/* Books for benchmarks. GGUF's layout: ggml's docs/gguf.md. */
#include "bench_book.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_tools.h"
#include "cli.h"

enum {
    GGUF_U32 = 4,
    GGUF_STRING = 8,
    GGUF_F32 = 0,
    GGUF_I8 = 24,
    ALIGNMENT = 32,
    MOST_TENSORS = 16
};

struct bytes {
    char *at;
    size_t n;
};

struct tensor {
    char name[48];
    uint32_t type;
    size_t n_values;
    void *data; /* owned */
};

struct book {
    struct tensor tensors[MOST_TENSORS];
    uint32_t n;
    uint32_t n_heads, head_dim;
};

/* ---- the file ------------------------------------------------------------------------------ */

static void put(struct bytes *b, const void *p, size_t n)
{
    b->at = cli_grow(b->at, b->n + n, 1);
    memcpy(b->at + b->n, p, n);
    b->n += n;
}

static void put_u32(struct bytes *b, uint32_t x)
{
    const uint8_t le[4] = {(uint8_t)x, (uint8_t)(x >> 8), (uint8_t)(x >> 16), (uint8_t)(x >> 24)};
    put(b, le, sizeof(le));
}

static void put_u64(struct bytes *b, uint64_t x)
{
    put_u32(b, (uint32_t)x);
    put_u32(b, (uint32_t)(x >> 32));
}

static void put_text(struct bytes *b, const char *text)
{
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static void align(struct bytes *b)
{
    static const char zeros[ALIGNMENT];
    put(b, zeros, (ALIGNMENT - b->n % ALIGNMENT) % ALIGNMENT);
}

static size_t data_bytes(const struct tensor *t)
{
    return t->n_values * (t->type == GGUF_F32 ? sizeof(float) : 1);
}

static struct bytes serialise(const struct book *book)
{
    struct bytes b = {0};
    put(&b, "GGUF", 4);
    put_u32(&b, 3);
    put_u64(&b, book->n);
    put_u64(&b, 2);
    put_text(&b, "general.architecture"), put_u32(&b, GGUF_STRING), put_text(&b, "tightkv-book");
    put_text(&b, "book.version"), put_u32(&b, GGUF_U32), put_u32(&b, 1);
    uint64_t offset = 0;
    for (uint32_t i = 0; i < book->n; i++) {
        const struct tensor *t = &book->tensors[i];
        put_text(&b, t->name);
        put_u32(&b, 1), put_u64(&b, t->n_values);
        put_u32(&b, t->type), put_u64(&b, offset);
        offset += (data_bytes(t) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    for (uint32_t i = 0; i < book->n; i++) {
        align(&b);
        put(&b, book->tensors[i].data, data_bytes(&book->tensors[i]));
    }
    return b;
}

/* ---- what is in it ------------------------------------------------------------------------- */

static void *add(struct book *book, const char *name, uint32_t type, size_t n)
{
    struct tensor *t = &book->tensors[book->n++];
    *t = (struct tensor){.type = type, .n_values = n};
    snprintf(t->name, sizeof(t->name), "%s", name);
    return t->data = cli_alloc(n, type == GGUF_F32 ? sizeof(float) : 1);
}

static float *add_floats(struct book *book, char kind, const char *what, size_t n)
{
    char name[48];
    snprintf(name, sizeof(name), "blk.0.attn_%c.%s", kind, what);
    return add(book, name, GGUF_F32, book->n_heads * n);
}

/* An orthonormal matrix of each head, its own inverse: a mirror across a random plane. */
static void fill_mirrors(const struct book *book, uint64_t seed, float *to, float *back)
{
    const uint32_t d = book->head_dim;
    float *u = cli_alloc((size_t)book->n_heads * d, sizeof(*u));
    bench_fill_rows(u, book->n_heads, d, d, seed);
    for (uint32_t h = 0; h < book->n_heads; h++) {
        const float *v = u + (size_t)h * d;
        double square = 0;
        for (uint32_t i = 0; i < d; i++)
            square += (double)v[i] * v[i];
        for (uint32_t i = 0; i < d; i++)
            for (uint32_t j = 0; j < d; j++)
                *to++ = *back++ = (float)((i == j) - 2 * (double)v[i] * v[j] / square);
    }
    free(u);
}

/* log2 of what an error in coefficient i of n costs: as calibrations of real models have it, a few
 * coefficients that count for much and a slow fall. */
static double log_cost(uint32_t i, uint32_t n)
{
    return 5 * exp(-24.0 * i / n) - 7.0 * i / n;
}

/* More bits where errors cost more; returns their sum. */
static double share_out(double offset, uint32_t n, int8_t *bits)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        bits[i] = (int8_t)fmin(6, fmax(0, rint(offset + log_cost(i, n) / 2)));
        sum += bits[i];
    }
    return sum;
}

/* As many bits in all as the codec's name says. */
static void fill_bits(const struct book *book, double mean_bits, int8_t *bits)
{
    const uint32_t d = book->head_dim;
    double low = -20, high = 20;
    for (int step = 0; step < 50; step++) {
        const double middle = (low + high) / 2;
        if (share_out(middle, d, bits) > mean_bits * d)
            high = middle;
        else
            low = middle;
    }
    share_out(low, d, bits);
    for (uint32_t h = 1; h < book->n_heads; h++)
        memcpy(bits + (size_t)h * d, bits, d);
}

static void add_tight(struct book *book, char kind, const char *codec)
{
    const uint32_t d = book->head_dim;
    char name[48];
    snprintf(name, sizeof(name), "%s.blk.0.attn_%c.bits", codec, kind);
    fill_bits(book, strtod(codec + strlen("tight"), NULL),
              add(book, name, GGUF_I8, (size_t)book->n_heads * d));
    float *to = add_floats(book, kind, "to", (size_t)d * d);
    float *back = add_floats(book, kind, "back", (size_t)d * d);
    fill_mirrors(book, (uint64_t)kind, to, back);
    add_floats(book, kind, "mean", d);
    float *weight = add_floats(book, kind, "weight", d);
    for (uint32_t i = 0; i < book->n_heads * d; i++)
        weight[i] = (float)exp2(log_cost(i % d, d));
}

/* Codes of an even spread that falls from stage to stage. */
static void add_rvq(struct book *book, char kind)
{
    enum {
        STAGES = 8,
        STAGE = 2048 * 32
    };
    char name[48];
    snprintf(name, sizeof(name), "rvq.blk.0.attn_%c.codes", kind);
    int8_t *codes = add(book, name, GGUF_I8, STAGES * STAGE);
    uint32_t x = (uint32_t)kind;
    for (int i = 0; i < STAGES * STAGE; i++) {
        x = x * 1664525u + 1013904223u;
        codes[i] = (int8_t)(((int)(x >> 24) % 65 - 32) * (STAGES - i / STAGE) / STAGES);
    }
    snprintf(name, sizeof(name), "rvq.blk.0.attn_%c.step", kind);
    *(float *)add(book, name, GGUF_F32, 1) = 1.0f / 24;
}

/* Codes of an even spread. */
static void add_cq(struct book *book, char kind, const char *codec)
{
    const uint32_t d = book->head_dim, dim = codec[2] == '4' ? 4 : 8;
    const size_t n_codes = (size_t)book->n_heads * d * 256;
    char name[48];
    snprintf(name, sizeof(name), "%s.blk.0.attn_%c.codes", codec, kind);
    int8_t *codes = add(book, name, GGUF_I8, n_codes);
    uint32_t x = (uint32_t)kind;
    for (size_t i = 0; i < n_codes; i++) {
        x = x * 1664525u + 1013904223u;
        codes[i] = (int8_t)((int)(x >> 24) % 201 - 100);
    }
    const size_t n_steps = (size_t)book->n_heads * (kind == 'k' ? d / dim : 1);
    snprintf(name, sizeof(name), "%s.blk.0.attn_%c.step", codec, kind);
    float *step = add(book, name, GGUF_F32, n_steps);
    for (size_t i = 0; i < n_steps; i++)
        step[i] = 1.0f / 40;
    snprintf(name, sizeof(name), "%s.blk.0.attn_%c.base", codec, kind);
    add(book, name, GGUF_F32, (size_t)book->n_heads * d);
}

static void add_rope(struct book *book)
{
    const uint32_t n = book->head_dim / 2;
    float *freq = add(book, "rope_freq", GGUF_F32, n);
    for (uint32_t i = 0; i < n; i++)
        freq[i] = (float)pow(1e-4, (double)i / n);
}

static tkv_codec_info describe(tkv_codec codec)
{
    tkv_codec_info info;
    for (uint32_t i = 0; i < tkv_codec_count(); i++) {
        info = (tkv_codec_info){.struct_size = sizeof(info)};
        if (tkv_codec_describe(i, &info) == TKV_OK && info.id == codec.id)
            return info;
    }
    return (tkv_codec_info){.name = ""};
}

bool bench_needs_book(tkv_codec codec)
{
    return describe(codec).needs_book;
}

static struct bytes make_up(const tkv_spec *spec, uint32_t n_heads, uint32_t head_dim)
{
    const char *names[2] = {describe(spec->k).name, describe(spec->v).name};
    struct book book = {.n_heads = n_heads, .head_dim = head_dim};
    add_rope(&book);
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        if (strncmp(names[kind], "tight", strlen("tight")) == 0)
            add_tight(&book, kind == TKV_K ? 'k' : 'v', names[kind]);
        else if (strncmp(names[kind], "rvq", strlen("rvq")) == 0)
            add_rvq(&book, kind == TKV_K ? 'k' : 'v');
        else if (strncmp(names[kind], "cq", strlen("cq")) == 0)
            add_cq(&book, kind == TKV_K ? 'k' : 'v', names[kind]);
    struct bytes b = serialise(&book);
    for (uint32_t i = 0; i < book.n; i++)
        free(book.tensors[i].data);
    return b;
}

/* From the start of a line, as tkv_book_open() likes it. */
static void to_lines(struct bytes *b)
{
    const size_t line = 64;
    char *lines = aligned_alloc(line, (b->n + line - 1) / line * line);
    if (lines)
        memcpy(lines, b->at, b->n);
    free(b->at);
    b->at = lines;
}

int bench_book_open(tkv_context *ctx, const tkv_spec *spec, uint32_t n_heads, uint32_t head_dim,
                    struct bench_book *out)
{
    struct bytes b = {0};
    tkv_error err;
    *out = (struct bench_book){0};
    if (!spec->index && !bench_needs_book(spec->k) && !bench_needs_book(spec->v))
        return CLI_OK;
    if (*spec->book)
        b.at = cli_read_file(spec->book, &b.n);
    else
        b = make_up(spec, n_heads, head_dim);
    if (b.at)
        to_lines(&b);
    if (!b.at)
        return CLI_DATA;
    out->bytes = b.at;
    return tkv_book_open(ctx, b.at, b.n, &out->book, &err) == TKV_OK
               ? CLI_OK
               : cli_fail("%s: %s", *spec->book ? spec->book : "a made-up book", err.text);
}

void bench_book_close(struct bench_book *b)
{
    tkv_book_close(b->book);
    free(b->bytes);
}
