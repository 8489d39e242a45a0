#include "made_book.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "format/rvq.h"

enum {
    TEXT = 8, /* GGUF's types of values */
    U32 = 4
};

struct bytes {
    uint8_t *at;
    size_t n;
};

struct made_book {
    struct bytes infos, data, file;
    uint64_t n_tensors;
    bool rope_halves;
};

static void put(struct bytes *b, const void *p, size_t n)
{
    b->at = realloc(b->at, b->n + n);
    memcpy(b->at + b->n, p, n);
    b->n += n;
}

static void put_u32(struct bytes *b, uint32_t x)
{
    put(b, &x, sizeof x);
}

static void put_u64(struct bytes *b, uint64_t x)
{
    put(b, &x, sizeof x);
}

static void put_text(struct bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static void pad(struct bytes *b)
{
    static const uint8_t zeros[32];
    put(b, zeros, (32 - b->n % 32) % 32);
}

struct made_book *made_book_new(void)
{
    return calloc(1, sizeof(struct made_book));
}

void made_book_free(struct made_book *b)
{
    free(b->infos.at), free(b->data.at), free(b->file.at);
    free(b);
}

static size_t size_of(enum tkv_gguf_type type)
{
    switch (type) {
    case TKV_GGUF_I8:
        return 1;
    case TKV_GGUF_F16:
    case TKV_GGUF_I16:
        return 2;
    default:
        return 4;
    }
}

void made_book_add(struct made_book *b, enum tkv_gguf_type type, const uint64_t dims[3],
                   const void *data, const char *name)
{
    put_text(&b->infos, name);
    put_u32(&b->infos, 3);
    for (int i = 0; i < 3; i++)
        put_u64(&b->infos, dims[i]);
    put_u32(&b->infos, type);
    put_u64(&b->infos, b->data.n);
    put(&b->data, data, (size_t)(dims[0] * dims[1] * dims[2]) * size_of(type));
    pad(&b->data);
    b->n_tensors++;
}

const uint8_t *made_book_bytes(struct made_book *b, size_t *n_bytes)
{
    struct bytes *f = &b->file;
    f->n = 0;
    put(f, "GGUF", 4);
    put_u32(f, 3);
    put_u64(f, b->n_tensors);
    put_u64(f, 3);
    put_text(f, "general.architecture"), put_u32(f, TEXT), put_text(f, "tightkv-book");
    put_text(f, "book.version"), put_u32(f, U32), put_u32(f, 1);
    put_text(f, "book.rope_halves"), put_u32(f, U32), put_u32(f, b->rope_halves);
    if (b->infos.n)
        put(f, b->infos.at, b->infos.n);
    pad(f);
    if (b->data.n)
        put(f, b->data.at, b->data.n);
    *n_bytes = f->n;
    return f->at;
}

void made_book_rope(struct made_book *b, bool halves, uint32_t n_pairs, const float *freq,
                    const int8_t *axis)
{
    b->rope_halves = halves;
    made_book_add(b, TKV_GGUF_F32, (const uint64_t[3]){n_pairs, 1, 1}, freq, "rope_freq");
    if (axis)
        made_book_add(b, TKV_GGUF_I8, (const uint64_t[3]){n_pairs, 1, 1}, axis, "rope_axis");
}

/* ---- tight ------------------------------------------------------------------------------------ */

/* -1 to 1, from a fixed mix of what names it. */
static double made_up(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t x = a * 0x9e3779b1u ^ b * 0x85ebca77u ^ c * 0xc2b2ae3du;
    x = (x ^ x >> 15) * 0x2c1b3c6du;
    x = (x ^ x >> 12) * 0x297a2d39u;
    return (double)(x ^ x >> 15) / 0x1p31 - 1;
}

/* Three reflections of the identity: orthonormal, no two directions alike. */
static void directions(double *q, uint32_t D, uint32_t seed)
{
    double v[TKV_MAX_HEAD_DIM];
    for (size_t i = 0; i < (size_t)D * D; i++)
        q[i] = i % (D + 1) == 0;
    for (uint32_t r = 0; r < 3; r++) {
        double square = 0;
        for (uint32_t i = 0; i < D; i++) {
            v[i] = made_up(seed, r, i);
            square += v[i] * v[i];
        }
        for (uint32_t row = 0; row < D; row++) {
            double along = 0;
            for (uint32_t i = 0; i < D; i++)
                along += q[row * D + i] * v[i];
            for (uint32_t i = 0; i < D; i++)
                q[row * D + i] -= 2 * along / square * v[i];
        }
    }
}

struct tight {
    uint16_t *to, *back;
    float *mean, *weight;
};

static void fill_tight(struct tight *t, uint32_t head, uint32_t D, float rms, uint32_t seed)
{
    const size_t square = (size_t)D * D;
    double *q = malloc(square * sizeof *q);
    directions(q, D, seed + head);
    for (uint32_t i = 0; i < D; i++)
        for (uint32_t j = 0; j < D; j++) {
            const float x = (float)q[i * D + j];
            t->to[head * square + i * D + j] = tkv_f32_to_half(x / rms);
            t->back[head * square + j * D + i] = tkv_f32_to_half(x * rms);
        }
    for (uint32_t j = 0; j < D; j++) {
        t->mean[head * D + j] = (float)made_up(seed, 77, j);
        t->weight[head * D + j] = exp2f(-8 * (float)j / (float)D);
    }
    free(q);
}

static void add_bits(struct made_book *b, uint32_t layer, char kind, uint32_t n_heads, uint32_t D)
{
    static const struct {
        const char *name;
        float rate;
    } rates[] = {{"tight4", 4}, {"tight3", 3}, {"tight2.5", 2.5f},
                 {"tight2", 2}, {"tight1", 1}, {"tight0.7", 0.7f}};
    int8_t *bits = malloc((size_t)n_heads * D);
    char name[64];
    for (size_t r = 0; r < sizeof rates / sizeof rates[0]; r++) {
        for (uint32_t i = 0; i < n_heads * D; i++) {
            const float want = rates[r].rate + 4 - 8 * ((float)(i % D) + 0.5f) / (float)D;
            bits[i] = (int8_t)lroundf(fminf(fmaxf(want, 0), 7));
        }
        snprintf(name, sizeof name, "%s.blk.%u.attn_%c.bits", rates[r].name, layer, kind);
        made_book_add(b, TKV_GGUF_I8, (const uint64_t[3]){D, 1, n_heads}, bits, name);
    }
    free(bits);
}

static void add_tight(struct made_book *b, uint32_t layer, char kind, uint32_t n_heads, uint32_t D,
                      float rms)
{
    const size_t square = (size_t)n_heads * D * D;
    struct tight t = {malloc(square * 2), malloc(square * 2), malloc((size_t)n_heads * D * 4),
                      malloc((size_t)n_heads * D * 4)};
    char name[64];
    for (uint32_t head = 0; head < n_heads; head++)
        fill_tight(&t, head, D, rms, (uint32_t)kind * 1000 + D);
    const struct {
        const char *what;
        enum tkv_gguf_type type;
        uint32_t rows;
        const void *data;
    } parts[] = {{"to", TKV_GGUF_F16, D, t.to},
                 {"back", TKV_GGUF_F16, D, t.back},
                 {"mean", TKV_GGUF_F32, 1, t.mean},
                 {"weight", TKV_GGUF_F32, 1, t.weight}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        snprintf(name, sizeof name, "blk.%u.attn_%c.%s", layer, kind, parts[i].what);
        made_book_add(b, parts[i].type, (const uint64_t[3]){D, parts[i].rows, n_heads},
                      parts[i].data, name);
    }
    add_bits(b, layer, kind, n_heads, D);
    free(t.to), free(t.back), free(t.mean), free(t.weight);
}

void made_book_tight(struct made_book *b, uint32_t layer, uint32_t n_heads, uint32_t D, float rms)
{
    add_tight(b, layer, 'k', n_heads, D, rms);
    add_tight(b, layer, 'v', n_heads, D, rms);
}

/* ---- rvq -------------------------------------------------------------------------------------- */

/* An integer of about a bell's shape, mostly within +-2 * size: tests hold made-up codes fixed, so
 * no rounding may differ from one machine to the next. */
static int32_t bell(uint32_t a, uint32_t b, uint32_t c, int32_t size)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t x = a * 0x9e3779b1u ^ (b + i) * 0x85ebca77u ^ c * 0xc2b2ae3du;
        x = (x ^ x >> 15) * 0x2c1b3c6du;
        x = (x ^ x >> 12) * 0x297a2d39u;
        sum += (int32_t)(x >> 24) - 128;
    }
    return sum * size / 256;
}

void made_book_rvq(struct made_book *b, uint32_t layer)
{
    static const int32_t size[TKV_RVQ_STAGES] = {23, 19, 16, 13, 11, 9, 8, 6};
    const size_t n = TKV_RVQ_STAGES * TKV_RVQ_BOOK_BYTES;
    const float step = 1.0f / 24;
    int8_t *codes = malloc(n);
    char name[64];
    for (uint32_t kind = 0; kind < 2; kind++) {
        for (uint32_t i = 0; i < n; i++)
            codes[i] = (int8_t)bell(i, 16 * kind, 7, size[i / TKV_RVQ_BOOK_BYTES]);
        snprintf(name, sizeof name, "rvq.blk.%u.attn_%c.codes", layer, "kv"[kind]);
        made_book_add(b, TKV_GGUF_I8,
                      (const uint64_t[3]){TKV_RVQ_DIM, TKV_RVQ_CODES, TKV_RVQ_STAGES}, codes, name);
        snprintf(name, sizeof name, "rvq.blk.%u.attn_%c.step", layer, "kv"[kind]);
        made_book_add(b, TKV_GGUF_F32, (const uint64_t[3]){1, 1, 1}, &step, name);
    }
    free(codes);
}

/* ---- cq --------------------------------------------------------------------------------------- */

/* About like a Gaussian of deviation 32: a sum of four even numbers. */
static int8_t gaussian_code(uint32_t *state)
{
    const uint32_t x = *state = *state * 1664525u + 1013904223u, y = (x ^ x >> 15) * 0x2c1b3c6du;
    const int32_t sum = (int32_t)((y & 255) + (y >> 8 & 255) + (y >> 16 & 255) + (y >> 24)) - 510;
    return (int8_t)(sum * 7 / 32 < -127 ? -127 : sum * 7 / 32 > 127 ? 127 : sum * 7 / 32);
}

static void add_cq(struct made_book *b, uint32_t layer, char kind, uint32_t n_heads, uint32_t D,
                   float rms, uint32_t dim)
{
    const uint32_t n_groups = D / dim, n_steps = kind == 'k' ? n_groups : 1;
    const size_t n_codes = (size_t)n_heads * D * 256;
    int8_t *codes = malloc(n_codes);
    float *step = malloc(n_heads * n_steps * sizeof *step), *base = malloc(n_heads * D * 4);
    char name[64];
    uint32_t state = (uint32_t)kind * 1000 + D;
    for (size_t i = 0; i < n_codes; i++)
        codes[i] = gaussian_code(&state);
    for (uint32_t i = 0; i < n_heads * n_steps; i++)
        step[i] = rms / 32 * (1 + (float)(i % 5) / 8);
    for (uint32_t i = 0; i < n_heads * D; i++)
        base[i] = rms / 4 * (float)made_up(dim, 3, i);
    snprintf(name, sizeof name, "cq%u.blk.%u.attn_%c.codes", dim, layer, kind);
    made_book_add(b, TKV_GGUF_I8, (const uint64_t[3]){dim, 256, n_heads * n_groups}, codes, name);
    snprintf(name, sizeof name, "cq%u.blk.%u.attn_%c.step", dim, layer, kind);
    made_book_add(b, TKV_GGUF_F32, (const uint64_t[3]){n_steps, 1, n_heads}, step, name);
    snprintf(name, sizeof name, "cq%u.blk.%u.attn_%c.base", dim, layer, kind);
    made_book_add(b, TKV_GGUF_F32, (const uint64_t[3]){D, 1, n_heads}, base, name);
    free(codes), free(step), free(base);
}

void made_book_cq(struct made_book *b, uint32_t layer, uint32_t n_heads, uint32_t D, float rms)
{
    for (uint32_t dim = 4; dim <= 8; dim += 4) {
        add_cq(b, layer, 'k', n_heads, D, rms, dim);
        add_cq(b, layer, 'v', n_heads, D, rms, dim);
    }
}

/* ---- the retrieval index ---------------------------------------------------------------------- */

/* A lower triangle, and its inverse transposed: L X = I, row by row. */
static void triangle(float *to, float *ask, uint32_t D, float rms, uint32_t seed)
{
    double *x = calloc((size_t)D * D, sizeof *x);
    for (uint32_t i = 0; i < D; i++)
        for (uint32_t j = 0; j < D; j++) {
            const double size = 32 / (double)rms * (i == j ? 1 + 0.5 * (i % 3) : 2.0 / D);
            const double made = i == j ? 1 : made_up(seed, i, j);
            to[(size_t)i * D + j] = j <= i ? (float)(size * made) : 0;
        }
    for (uint32_t i = 0; i < D; i++)
        for (uint32_t j = 0; j <= i; j++) {
            double sum = i == j;
            for (uint32_t k = j; k < i; k++)
                sum -= (double)to[(size_t)i * D + k] * x[(size_t)k * D + j];
            x[(size_t)i * D + j] = sum / (double)to[(size_t)i * D + i];
            ask[(size_t)j * D + i] = (float)x[(size_t)i * D + j];
        }
    free(x);
}

void made_book_index(struct made_book *b, uint32_t layer, uint32_t n_heads, uint32_t D,
                     uint32_t n_codes, float rms)
{
    const size_t square = (size_t)D * D, n = (size_t)n_heads * n_codes * D;
    float *to = calloc(n_heads * square, 4), *ask = calloc(n_heads * square, 4);
    float *mean = malloc((size_t)n_heads * D * 4);
    int8_t *codes = malloc(n);
    uint32_t state = D + layer;
    char name[64];
    for (uint32_t h = 0; h < n_heads; h++)
        triangle(to + h * square, ask + h * square, D, rms, 100 * layer + h);
    for (size_t i = 0; i < n; i++)
        codes[i] = gaussian_code(&state);
    for (uint32_t i = 0; i < n_heads * D; i++)
        mean[i] = rms * (float)made_up(layer, 5, i);
    const struct {
        const char *what;
        enum tkv_gguf_type type;
        uint32_t rows;
        const void *data;
    } parts[] = {{"codes", TKV_GGUF_I8, n_codes, codes},
                 {"to", TKV_GGUF_F32, D, to},
                 {"ask", TKV_GGUF_F32, D, ask},
                 {"mean", TKV_GGUF_F32, 1, mean}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        snprintf(name, sizeof name, "qvq.blk.%u.%s", layer, parts[i].what);
        made_book_add(b, parts[i].type, (const uint64_t[3]){D, parts[i].rows, n_heads},
                      parts[i].data, name);
    }
    free(to), free(ask), free(mean), free(codes);
}

void made_book_share(struct made_book *b, uint32_t layer, uint32_t n_heads, float keys,
                     float values)
{
    float *share = malloc((size_t)n_heads * 2 * sizeof *share);
    char name[64];
    for (uint32_t h = 0; h < n_heads; h++) {
        share[2 * h] = keys;
        share[2 * h + 1] = values;
    }
    snprintf(name, sizeof name, "qvq.blk.%u.share", layer);
    made_book_add(b, TKV_GGUF_F32, (const uint64_t[3]){2, 1, n_heads}, share, name);
    free(share);
}
