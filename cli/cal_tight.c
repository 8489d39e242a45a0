/* The trainer of tight: a basis for every head, and bits for its coefficients. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"

struct rate {
    const char *codec;
    double bits; /* a value, all in all */
};

static const struct rate rates[] = {
    {"tight4", 4.25}, {"tight3", 3.25}, {"tight2.5", 2.6},
    {"tight2", 2.25}, {"tight1", 1.25}, {"tight0.7", .75}};

/* The heads of a layer side by side; bases of heads are a pair of K and V apart. */
static void add_field(struct cal_book *book, const struct cal_layer *layer,
                      const struct cal_basis *bases, char kind, const char *what, size_t offset,
                      size_t rows)
{
    const size_t n_bytes = rows * bases->dim * sizeof(float);
    uint8_t *all = cli_alloc(layer->n_kv_heads, n_bytes);
    for (size_t h = 0; h < layer->n_kv_heads; h++) {
        void *part;
        memcpy(&part, (const char *)&bases[2 * h] + offset, sizeof(part));
        memcpy(all + h * n_bytes, part, n_bytes);
    }
    cal_book_add(book, GGML_TYPE_F32, (int64_t[]){bases->dim, (int64_t)rows, layer->n_kv_heads},
                 all, "blk.%d.attn_%c.%s", layer->layer, kind, what);
    free(all);
}

static void add_basis(struct cal_book *book, const struct cal_layer *layer,
                      const struct cal_basis *bases, char kind)
{
    add_field(book, layer, bases, kind, "to", offsetof(struct cal_basis, to), bases->dim);
    add_field(book, layer, bases, kind, "back", offsetof(struct cal_basis, back), bases->dim);
    add_field(book, layer, bases, kind, "mean", offsetof(struct cal_basis, mean), 1);
    add_field(book, layer, bases, kind, "weight", offsetof(struct cal_basis, weight), 1);
}

static void add_bits(struct cal_book *book, const struct cal_layer *layer,
                     const struct cal_basis *bases, char kind, const char *codec)
{
    int8_t *all = cli_alloc(layer->n_kv_heads, bases->dim);
    for (size_t h = 0; h < layer->n_kv_heads; h++)
        memcpy(all + h * bases->dim, bases[2 * h].bits, bases->dim);
    cal_book_add(book, GGML_TYPE_I8, (int64_t[]){bases->dim, 1, layer->n_kv_heads}, all,
                 "%s.blk.%d.attn_%c.bits", codec, layer->layer, kind);
    free(all);
}

static int make_bases(const struct calibration *c, struct cal_basis *bases)
{
    for (size_t i = 0, b = 0; i < c->n_layers; i++) {
        const struct cal_layer *l = &c->layers[i];
        for (uint32_t h = 0; h < l->n_kv_heads; h++) {
            int rc = cal_basis(&l->heads[TKV_SPAN_TEXT][TKV_K][h], l->size, &bases[b++]);
            if (rc == CLI_OK)
                rc = cal_basis(&l->heads[TKV_SPAN_TEXT][TKV_V][h], l->size, &bases[b++]);
            if (rc != CLI_OK)
                return rc;
        }
    }
    return CLI_OK;
}

static void add_layers(const struct calibration *c, struct cal_basis *bases, size_t n,
                       struct cal_book *book)
{
    struct cal_basis *at = bases;
    for (size_t i = 0; i < c->n_layers; at += 2 * c->layers[i++].n_kv_heads) {
        add_basis(book, &c->layers[i], at, 'k');
        add_basis(book, &c->layers[i], at + 1, 'v');
    }
    for (size_t r = 0; r < sizeof(rates) / sizeof(rates[0]); r++) {
        cal_allocate(bases, n, rates[r].bits);
        at = bases;
        for (size_t i = 0; i < c->n_layers; at += 2 * c->layers[i++].n_kv_heads) {
            add_bits(book, &c->layers[i], at, 'k', rates[r].codec);
            add_bits(book, &c->layers[i], at + 1, 'v', rates[r].codec);
        }
    }
}

int cal_train_tight(const struct calibration *c, struct cal_book *book)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_layers; i++)
        n += 2 * c->layers[i].n_kv_heads;
    struct cal_basis *bases = cli_alloc(n ? n : 1, sizeof(*bases));
    int rc = make_bases(c, bases);
    if (rc == CLI_OK)
        add_layers(c, bases, n, book);
    for (size_t i = 0; i < n; i++)
        cal_basis_free(&bases[i]);
    free(bases);
    return rc;
}
