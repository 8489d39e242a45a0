/* Books: GGUF files of what was learned. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"

enum { MOST_TENSORS = 16 }; /* of a layer */

struct writer {
    const struct llama_api *api;
    struct gguf_context *gguf;
    struct ggml_context *ctx;
};

static void add(struct writer *w, const char *name, enum ggml_type type, int64_t a, int64_t b,
                int64_t c, void *data)
{
    struct ggml_tensor *t = w->api->ggml_new_tensor_3d(w->ctx, type, a, b, c);
    t->data = data;
    w->api->ggml_set_name(t, name);
    w->api->gguf_add_tensor(w->gguf, t);
}

/* The heads of a layer side by side; bases of heads are `step` apart. Kept until the file is
 * written. */
static void *gather(const struct cal_basis *bases, size_t n_heads, size_t offset, size_t n_bytes)
{
    uint8_t *all = cli_alloc(n_heads, n_bytes);
    for (size_t h = 0; h < n_heads; h++) {
        void *part;
        memcpy(&part, (const char *)&bases[2 * h] + offset, sizeof(part));
        memcpy(all + h * n_bytes, part, n_bytes);
    }
    return all;
}

struct kept {
    void **items;
    size_t n;
};

static void *keep(struct kept *k, void *p)
{
    k->items = cli_grow(k->items, k->n + 1, sizeof(*k->items));
    return k->items[k->n++] = p;
}

static void add_kind(struct writer *w, struct kept *k, const struct cal_layer *layer,
                     const struct cal_basis *bases, char kind)
{
    const size_t n = layer->n_kv_heads, dim = bases->dim, square = dim * dim * sizeof(float);
    const int64_t d = (int64_t)dim, heads = (int64_t)n;
    char name[96];
#define ADD(field, what, bytes, rows)                                                              \
    snprintf(name, sizeof(name), "blk.%d.attn_%c." what, layer->layer, kind);                      \
    add(w, name, GGML_TYPE_F32, d, rows, heads,                                                    \
        keep(k, gather(bases, n, offsetof(struct cal_basis, field), bytes)))
    ADD(to, "to", square, d);
    ADD(back, "back", square, d);
    ADD(mean, "mean", dim * sizeof(float), 1);
    ADD(weight, "weight", dim * sizeof(float), 1);
#undef ADD
}

static void add_bits(struct writer *w, struct kept *k, const struct cal_layer *layer,
                     const struct cal_basis *bases, char kind, const char *codec)
{
    char name[96];
    snprintf(name, sizeof(name), "%s.blk.%d.attn_%c.bits", codec, layer->layer, kind);
    add(w, name, GGML_TYPE_I8, (int64_t)bases->dim, 1, (int64_t)layer->n_kv_heads,
        keep(k, gather(bases, layer->n_kv_heads, offsetof(struct cal_basis, bits), bases->dim)));
}

static void add_layers(struct writer *w, struct kept *k, const struct calibration *c,
                       struct cal_basis *bases, const struct cal_rate *rates, size_t n_rates)
{
    size_t n_bases = 0;
    for (size_t i = 0; i < c->n_layers; i++)
        n_bases += 2 * c->layers[i].n_kv_heads;
    struct cal_basis *at = bases;
    for (size_t i = 0; i < c->n_layers; at += 2 * c->layers[i++].n_kv_heads) {
        add_kind(w, k, &c->layers[i], at, 'k');
        add_kind(w, k, &c->layers[i], at + 1, 'v');
    }
    for (size_t r = 0; r < n_rates; r++) {
        cal_allocate(bases, n_bases, rates[r].bits);
        at = bases;
        for (size_t i = 0; i < c->n_layers; at += 2 * c->layers[i++].n_kv_heads) {
            add_bits(w, k, &c->layers[i], at, 'k', rates[r].codec);
            add_bits(w, k, &c->layers[i], at + 1, 'v', rates[r].codec);
        }
    }
}

int cal_write(const struct calibration *c, struct cal_basis *bases, const struct cal_rate *rates,
              size_t n_rates, const char *path)
{
    const struct llama_api *api = &c->session->llama->api;
    struct ggml_init_params params = {
        api->ggml_tensor_overhead() * (c->n_layers * (8 + 2 * n_rates) + 2), NULL, true};
    struct writer w = {api, api->gguf_init_empty(), api->ggml_init(params)};
    struct kept kept = {0};
    api->gguf_set_val_str(w.gguf, "general.architecture", "tightkv-book");
    api->gguf_set_val_u32(w.gguf, "book.version", 1);
    api->gguf_set_val_u32(w.gguf, "book.rope_halves", c->rope_halves);
    if (c->n_pairs)
        add(&w, "rope_freq", GGML_TYPE_F32, c->n_pairs, 1, 1, c->rope_freq);
    add_layers(&w, &kept, c, bases, rates, n_rates);
    char *draft = cli_format("%s.new", path);
    int rc = CLI_OK;
    if (!api->gguf_write_to_file(w.gguf, draft, false) || rename(draft, path) != 0)
        rc = cli_fail("cannot write %s: %s", path, strerror(errno));
    free(draft);
    for (size_t i = 0; i < kept.n; i++)
        free(kept.items[i]);
    free(kept.items);
    api->gguf_free(w.gguf);
    api->ggml_free(w.ctx);
    return rc;
}
