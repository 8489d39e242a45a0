/* GGUF: header, keys, tensor infos, data. Every length is checked before it is used. */
#include "format/gguf.h"

#include <string.h>

#include "base/half.h"
#include "base/status.h"

enum {
    KIND_U8,
    KIND_I8,
    KIND_U16,
    KIND_I16,
    KIND_U32,
    KIND_I32,
    KIND_F32,
    KIND_BOOL,
    KIND_STRING,
    KIND_ARRAY,
    KIND_U64,
    KIND_I64,
    KIND_F64,
    KIND_COUNT
};

/* Bytes of a value by kind; 0: of its own length. */
static const uint8_t kind_bytes[KIND_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* A place in the file. Past the end nothing moves and `bad` is set. */
struct cursor {
    const struct tkv_gguf *g;
    size_t at;
    bool bad;
};

static const uint8_t *take(struct cursor *c, uint64_t n)
{
    if (c->bad || n > c->g->n_bytes - c->at) {
        c->bad = true;
        return NULL;
    }
    const uint8_t *p = c->g->bytes + c->at;
    c->at += (size_t)n;
    return p;
}

static uint64_t take_number(struct cursor *c, size_t n)
{
    const uint8_t *p = take(c, n);
    uint64_t value = 0;
    for (size_t i = 0; p && i < n; i++)
        value |= (uint64_t)p[i] << (8 * i);
    return value;
}

struct text {
    const uint8_t *p;
    uint64_t n;
};

static struct text take_text(struct cursor *c)
{
    const uint64_t n = take_number(c, 8);
    return (struct text){take(c, n), n};
}

static bool text_is(struct text t, const char *s)
{
    return t.p && t.n == strlen(s) && memcmp(t.p, s, (size_t)t.n) == 0;
}

static bool copy_text(struct text t, char *buf, size_t capacity)
{
    if (!t.p || t.n >= capacity)
        return false;
    memcpy(buf, t.p, (size_t)t.n);
    buf[t.n] = '\0';
    return true;
}

static void skip_value(struct cursor *c, uint64_t kind)
{
    if (kind == KIND_STRING) {
        take_text(c);
    } else if (kind == KIND_ARRAY) {
        const uint64_t element = take_number(c, 4), n = take_number(c, 8);
        if (element == KIND_STRING) {
            for (uint64_t i = 0; i < n && !c->bad; i++)
                take_text(c);
        } else if (element >= KIND_COUNT || element == KIND_ARRAY || n > c->g->n_bytes) {
            c->bad = true; /* arrays of arrays: no book has them */
        } else {
            take(c, n * kind_bytes[element]);
        }
    } else if (kind < KIND_COUNT) {
        take(c, kind_bytes[kind]);
    } else {
        c->bad = true;
    }
}

/* The value at `key`, if it is of this kind. */
static bool find_value(const struct tkv_gguf *g, const char *key, uint64_t kind, struct cursor *out)
{
    struct cursor c = {g, g->kv_at, false};
    for (uint64_t i = 0; i < g->n_kv && !c.bad; i++) {
        const struct text name = take_text(&c);
        const uint64_t its_kind = take_number(&c, 4);
        if (text_is(name, key)) {
            *out = c;
            return its_kind == kind && !c.bad;
        }
        skip_value(&c, its_kind);
    }
    return false;
}

bool tkv_gguf_u32(const struct tkv_gguf *g, const char *key, uint32_t *out)
{
    struct cursor c;
    if (!find_value(g, key, KIND_U32, &c))
        return false;
    *out = (uint32_t)take_number(&c, 4);
    return true;
}

bool tkv_gguf_f32(const struct tkv_gguf *g, const char *key, float *out)
{
    struct cursor c;
    if (!find_value(g, key, KIND_F32, &c))
        return false;
    *out = tkv_bits_f32((uint32_t)take_number(&c, 4));
    return true;
}

bool tkv_gguf_text(const struct tkv_gguf *g, const char *key, char *buf, size_t capacity)
{
    struct cursor c;
    return find_value(g, key, KIND_STRING, &c) && copy_text(take_text(&c), buf, capacity);
}

static size_t value_bytes(uint64_t type)
{
    switch (type) {
    case TKV_GGUF_F32:
    case TKV_GGUF_I32:
        return 4;
    case TKV_GGUF_F16:
    case TKV_GGUF_I16:
        return 2;
    case TKV_GGUF_I8:
        return 1;
    default:
        return 0;
    }
}

/* One tensor info; its data must lie within the file. */
static bool take_tensor(struct cursor *c, struct text *name, struct tkv_gguf_tensor *out)
{
    *name = take_text(c);
    const uint64_t n_dims = take_number(c, 4);
    if (n_dims > TKV_GGUF_DIMS)
        return false;
    uint64_t n = 1;
    *out = (struct tkv_gguf_tensor){.n_dims = (uint32_t)n_dims};
    for (size_t i = 0; i < TKV_GGUF_DIMS; i++) {
        out->dims[i] = i < n_dims ? take_number(c, 8) : 1;
        if (out->dims[i] == 0 || out->dims[i] > c->g->n_bytes / n)
            return false;
        n *= out->dims[i];
    }
    const uint64_t type = take_number(c, 4), offset = take_number(c, 8);
    const size_t bytes = value_bytes(type), room = c->g->n_bytes - c->g->data_at;
    if (c->bad || bytes == 0 || offset > room || n > (room - offset) / bytes)
        return false;
    out->type = (enum tkv_gguf_type)type;
    out->data = c->g->bytes + c->g->data_at + offset;
    out->n_values = (size_t)n;
    return true;
}

/* Infos without the data's place: where the infos end is where the data begins. */
static bool find_data(struct tkv_gguf *g, struct cursor *c)
{
    uint32_t alignment = 32;
    tkv_gguf_u32(g, "general.alignment", &alignment);
    if (alignment == 0 || (alignment & (alignment - 1)) != 0)
        return false;
    for (uint64_t i = 0; i < g->n_tensors && !c->bad; i++) {
        take_text(c);
        take(c, take_number(c, 4) * 8);
        take(c, 4 + 8);
    }
    const size_t padding = (alignment - c->at % alignment) % alignment;
    /* A file without tensors may end before the padding. */
    g->data_at = padding > g->n_bytes - c->at ? g->n_bytes : c->at + padding;
    return !c->bad;
}

tkv_status tkv_gguf_open(const void *bytes, size_t n_bytes, struct tkv_gguf *out, tkv_error *err)
{
    struct tkv_gguf g = {.bytes = bytes, .n_bytes = n_bytes};
    struct cursor c = {&g, 0, false};
    const uint8_t *magic = take(&c, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return tkv_fail(err, TKV_ERR_CORRUPT, "not a GGUF file");
    const uint64_t version = take_number(&c, 4);
    if (version != 3)
        return tkv_fail(err, TKV_ERR_VERSION, "GGUF version %u; this reads version 3",
                        (unsigned)version);
    g.n_tensors = take_number(&c, 8);
    g.n_kv = take_number(&c, 8);
    g.kv_at = c.at;
    for (uint64_t i = 0; i < g.n_kv && !c.bad; i++) {
        take_text(&c);
        skip_value(&c, take_number(&c, 4));
    }
    g.tensors_at = c.at;
    if (c.bad || !find_data(&g, &c))
        return tkv_fail(err, TKV_ERR_CORRUPT, "a GGUF header that is cut short or not sound");
    c = (struct cursor){&g, g.tensors_at, false};
    for (uint64_t i = 0; i < g.n_tensors; i++) {
        struct text name;
        struct tkv_gguf_tensor t;
        if (!take_tensor(&c, &name, &t))
            return tkv_fail(err, TKV_ERR_CORRUPT,
                            "GGUF tensor %u is of a type that no book has, or not within the file",
                            (unsigned)i);
    }
    *out = g;
    return TKV_OK;
}

bool tkv_gguf_tensor(const struct tkv_gguf *g, const char *name, struct tkv_gguf_tensor *out)
{
    struct cursor c = {g, g->tensors_at, false};
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        struct text its_name;
        struct tkv_gguf_tensor t;
        if (!take_tensor(&c, &its_name, &t))
            return false;
        if (text_is(its_name, name)) {
            *out = t;
            return true;
        }
    }
    return false;
}

bool tkv_gguf_tensor_name(const struct tkv_gguf *g, uint64_t i, char *buf, size_t capacity)
{
    struct cursor c = {g, g->tensors_at, false};
    struct text name = {0};
    struct tkv_gguf_tensor t;
    if (i >= g->n_tensors)
        return false;
    for (uint64_t k = 0; k <= i; k++)
        if (!take_tensor(&c, &name, &t))
            return false;
    return copy_text(name, buf, capacity);
}

size_t tkv_gguf_bytes(const struct tkv_gguf_tensor *t)
{
    return t->n_values * value_bytes(t->type);
}

static uint32_t load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static float read_value(enum tkv_gguf_type type, const uint8_t *p)
{
    switch (type) {
    case TKV_GGUF_F32:
        return tkv_bits_f32(load_u32(p));
    case TKV_GGUF_F16:
        return tkv_half_to_f32(tkv_load_half(p));
    case TKV_GGUF_I8:
        return (float)(int8_t)*p;
    case TKV_GGUF_I16:
        return (float)(int16_t)tkv_load_half(p);
    case TKV_GGUF_I32:
        return (float)(int32_t)load_u32(p);
    }
    return 0;
}

void tkv_gguf_read_f32(const struct tkv_gguf_tensor *t, size_t first, size_t n, float *out)
{
    const size_t bytes = value_bytes(t->type);
    for (size_t i = 0; i < n; i++)
        out[i] = read_value(t->type, t->data + (first + i) * bytes);
}
