/* Books: GGUF files of what was learned. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "calibrate.h"

struct entry {
    char name[GGML_MAX_NAME];
    enum ggml_type type;
    int64_t ne[3];
    void *data;
};

struct number {
    const char *key;
    uint32_t value;
};

struct cal_book {
    const struct calibration *calibration;
    struct entry *entries;
    struct number *numbers;
    size_t n, n_numbers;
};

static bool has_axes(const struct graph_rope *r)
{
    for (uint32_t i = 0; i < r->n_pairs; i++)
        if (r->axis[i])
            return true;
    return false;
}

/* One pairing serves all layers: no model mixes them. */
static bool pairs_halves(const struct calibration *c)
{
    for (size_t i = 0; i < c->n_layers; i++)
        if (c->layers[i].rope.n_pairs)
            return c->layers[i].rope.halves;
    return false;
}

static void add_rope(struct cal_book *b, const struct cal_layer *layer)
{
    const struct graph_rope *r = &layer->rope;
    const int64_t ne[3] = {r->n_pairs, 1, 1};
    if (r->n_pairs)
        cal_book_add(b, GGML_TYPE_F32, ne, r->freq, "blk.%d.rope_freq", layer->layer);
    if (has_axes(r))
        cal_book_add(b, GGML_TYPE_I8, ne, r->axis, "blk.%d.rope_axis", layer->layer);
}

struct cal_book *cal_book_new(const struct calibration *c)
{
    struct cal_book *b = cli_alloc(1, sizeof(*b));
    b->calibration = c;
    if (c->fingerprint.n_rows)
        cal_book_add(b, GGML_TYPE_F32, (int64_t[]){(int64_t)c->fingerprint.n_rows, 1, 1},
                     c->fingerprint.rows, "fingerprint.rows");
    for (size_t i = 0; i < c->n_layers; i++)
        add_rope(b, &c->layers[i]);
    return b;
}

void cal_book_free(struct cal_book *b)
{
    for (size_t i = 0; i < b->n; i++)
        free(b->entries[i].data);
    free(b->entries);
    free(b->numbers);
    free(b);
}

void cal_book_add(struct cal_book *b, enum ggml_type type, const int64_t ne[3], const void *data,
                  const char *name, ...)
{
    const struct llama_api *api = &b->calibration->session->llama->api;
    const size_t n_bytes = api->ggml_row_size(type, ne[0]) * (size_t)(ne[1] * ne[2]);
    b->entries = cli_grow(b->entries, b->n + 1, sizeof(*b->entries));
    struct entry *e = &b->entries[b->n++];
    *e = (struct entry){.type = type, .data = cli_alloc(n_bytes, 1)};
    memcpy(e->ne, ne, sizeof(e->ne));
    memcpy(e->data, data, n_bytes);
    va_list args;
    va_start(args, name);
    vsnprintf(e->name, sizeof(e->name), name, args);
    va_end(args);
}

const void *cal_book_find(const struct cal_book *b, const char *name, ...)
{
    char wanted[GGML_MAX_NAME];
    va_list args;
    va_start(args, name);
    vsnprintf(wanted, sizeof(wanted), name, args);
    va_end(args);
    for (size_t i = 0; i < b->n; i++)
        if (strcmp(b->entries[i].name, wanted) == 0)
            return b->entries[i].data;
    return NULL;
}

void cal_book_set(struct cal_book *b, const char *key, uint32_t value)
{
    b->numbers = cli_grow(b->numbers, b->n_numbers + 1, sizeof(*b->numbers));
    b->numbers[b->n_numbers++] = (struct number){key, value};
}

static void set_hash(const struct llama_api *api, struct gguf_context *gguf, const char *key,
                     uint64_t hash)
{
    char text[24];
    snprintf(text, sizeof(text), "%016" PRIx64, hash);
    api->gguf_set_val_str(gguf, key, text);
}

static void set_fingerprint(const struct llama_api *api, struct gguf_context *gguf,
                            const struct tightkv_ggml_fingerprint *p)
{
    api->gguf_set_val_str(gguf, "fingerprint.architecture", p->architecture);
    set_hash(api, gguf, "fingerprint.shapes", p->shapes);
    set_hash(api, gguf, "fingerprint.rope", p->rope);
    set_hash(api, gguf, "fingerprint.tokenizer", p->tokenizer);
    set_hash(api, gguf, "fingerprint.vectors", p->vectors);
}

static void fill(const struct cal_book *b, struct gguf_context *gguf, struct ggml_context *ctx)
{
    const struct calibration *c = b->calibration;
    const struct llama_api *api = &c->session->llama->api;
    api->gguf_set_val_str(gguf, "general.architecture", "tightkv-book");
    api->gguf_set_val_u32(gguf, "book.version", 1);
    api->gguf_set_val_u32(gguf, "book.rope_halves", pairs_halves(c));
    set_fingerprint(api, gguf, &c->fingerprint);
    for (size_t i = 0; i < b->n_numbers; i++)
        api->gguf_set_val_u32(gguf, b->numbers[i].key, b->numbers[i].value);
    for (size_t i = 0; i < b->n; i++) {
        const struct entry *e = &b->entries[i];
        struct ggml_tensor *t = api->ggml_new_tensor_3d(ctx, e->type, e->ne[0], e->ne[1], e->ne[2]);
        t->data = e->data;
        api->ggml_set_name(t, e->name);
        api->gguf_add_tensor(gguf, t);
    }
}

int cal_book_write(const struct cal_book *b, const char *path)
{
    const struct llama_api *api = &b->calibration->session->llama->api;
    struct gguf_context *gguf = api->gguf_init_empty();
    struct ggml_context *ctx = api->ggml_init(
        (struct ggml_init_params){api->ggml_tensor_overhead() * (b->n + 1), NULL, true});
    fill(b, gguf, ctx);
    char *draft = cli_format("%s.new", path);
    int rc = CLI_OK;
    if (!api->gguf_write_to_file(gguf, draft, false) || rename(draft, path) != 0) {
        rc = cli_fail("cannot write %s: %s", path, strerror(errno));
        unlink(draft);
    }
    free(draft);
    api->gguf_free(gguf);
    api->ggml_free(ctx);
    return rc;
}
