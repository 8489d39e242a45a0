/* The trainer of tight: a basis for every head, and bits for its coefficients. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"

struct rate {
    const char *codec;
    double bits; /* a value, all in all */
};

static const struct rate rates[] = {{"tight4", 4.25}, {"tight3", 3.25}, {"tight2.5", 2.6},
                                    {"tight2", 2.25}, {"tight1", 1.25}, {"tight0.7", .75}};

/* Of a picture and a question, 440 tokens, page tables take this much more of a value than of the
 * context that rates are made for. */
static const double more_tables = .03;

/* The bases of all heads for tokens of one class: [layer][head][K, V]. */
struct bases {
    const struct calibration *c;
    const char *suffix; /* of the class, in tensors' names */
    struct cal_basis *items;
    size_t n;
};

/* One head's part of a tensor; bases of heads are a pair of K and V apart. */
static const float *field(const struct cal_basis *bases, size_t head, size_t offset)
{
    const float *part;
    memcpy(&part, (const char *)&bases[2 * head] + offset, sizeof(part));
    return part;
}

static void add_vectors(struct cal_book *book, const struct bases *b, const struct cal_layer *layer,
                        const struct cal_basis *bases, char kind, const char *what, size_t offset)
{
    const size_t n = bases->dim;
    float *all = cli_alloc(layer->n_kv_heads * n, sizeof(*all));
    for (size_t h = 0; h < layer->n_kv_heads; h++)
        memcpy(all + h * n, field(bases, h, offset), n * sizeof(*all));
    cal_book_add(book, GGML_TYPE_F32, (int64_t[]){bases->dim, 1, layer->n_kv_heads}, all,
                 "blk.%d.attn_%c%s.%s", layer->layer, kind, b->suffix, what);
    free(all);
}

static void add_matrices(struct cal_book *book, const struct bases *b,
                         const struct cal_layer *layer, const struct cal_basis *bases, char kind,
                         const char *what, size_t offset)
{
    const struct llama_api *api = &b->c->session->llama->api;
    const size_t n = (size_t)bases->dim * bases->dim;
    ggml_fp16_t *all = cli_alloc(layer->n_kv_heads * n, sizeof(*all));
    for (size_t h = 0; h < layer->n_kv_heads; h++)
        api->ggml_fp32_to_fp16_row(field(bases, h, offset), all + h * n, (int64_t)n);
    cal_book_add(book, GGML_TYPE_F16, (int64_t[]){bases->dim, bases->dim, layer->n_kv_heads}, all,
                 "blk.%d.attn_%c%s.%s", layer->layer, kind, b->suffix, what);
    free(all);
}

static void add_basis(struct cal_book *book, const struct bases *b, const struct cal_layer *layer,
                      const struct cal_basis *bases, char kind)
{
    add_matrices(book, b, layer, bases, kind, "to", offsetof(struct cal_basis, to));
    add_matrices(book, b, layer, bases, kind, "back", offsetof(struct cal_basis, back));
    add_vectors(book, b, layer, bases, kind, "mean", offsetof(struct cal_basis, mean));
    add_vectors(book, b, layer, bases, kind, "weight", offsetof(struct cal_basis, weight));
}

static void add_bits(struct cal_book *book, const struct bases *b, const struct cal_layer *layer,
                     const struct cal_basis *bases, char kind, const char *codec)
{
    int8_t *all = cli_alloc(layer->n_kv_heads, bases->dim);
    for (size_t h = 0; h < layer->n_kv_heads; h++)
        memcpy(all + h * bases->dim, bases[2 * h].bits, bases->dim);
    cal_book_add(book, GGML_TYPE_I8, (int64_t[]){bases->dim, 1, layer->n_kv_heads}, all,
                 "%s.blk.%d.attn_%c%s.bits", codec, layer->layer, kind, b->suffix);
    free(all);
}

/* The matrices as the book will hold them, in f16: what that loses is far below what coding loses.
 * The mean goes through the rounded matrix, as keys will: it may be much larger than they vary. */
static void round_basis(const struct llama_api *api, const struct cal_head *head,
                        struct cal_basis *b)
{
    for (size_t i = 0; i < (size_t)b->dim * b->dim; i++) {
        b->to[i] = api->ggml_fp16_to_fp32(api->ggml_fp32_to_fp16(b->to[i]));
        b->back[i] = api->ggml_fp16_to_fp32(api->ggml_fp32_to_fp16(b->back[i]));
    }
    for (uint32_t j = 0; j < b->dim; j++) {
        double sum = 0;
        for (uint32_t i = 0; i < b->dim; i++)
            sum += head->sum[i] / head->n * (double)b->to[i * b->dim + j];
        b->mean[j] = (float)sum;
    }
}

static int make_basis(const struct bases *b, const struct cal_head *head, double size,
                      struct cal_basis *out)
{
    int rc = cal_basis(head, size, out);
    if (rc == CLI_OK)
        round_basis(&b->c->session->llama->api, head, out);
    return rc;
}

static int make_bases(const struct bases *b, int klass)
{
    for (size_t i = 0, n = 0; i < b->c->n_layers; i++) {
        const struct cal_layer *l = &b->c->layers[i];
        for (uint32_t h = 0; h < l->n_kv_heads; h++) {
            int rc = make_basis(b, &l->heads[klass][TKV_K][h], l->size, &b->items[n++]);
            if (rc == CLI_OK)
                rc = make_basis(b, &l->heads[klass][TKV_V][h], l->size, &b->items[n++]);
            if (rc != CLI_OK)
                return rc;
        }
        if (cal_stopped(b->c) != CLI_OK)
            return CLI_STOPPED;
    }
    return CLI_OK;
}

static void add_layers(struct cal_book *book, const struct bases *b)
{
    const struct calibration *c = b->c;
    struct cal_basis *at = b->items;
    for (size_t i = 0; i < c->n_layers; at += 2 * c->layers[i++].n_kv_heads) {
        add_basis(book, b, &c->layers[i], at, 'k');
        add_basis(book, b, &c->layers[i], at + 1, 'v');
    }
    for (size_t r = 0; r < sizeof(rates) / sizeof(rates[0]); r++) {
        cal_allocate(b->items, b->n, rates[r].bits - (*b->suffix ? more_tables : 0));
        at = b->items;
        for (size_t i = 0; i < c->n_layers; at += 2 * c->layers[i++].n_kv_heads) {
            add_bits(book, b, &c->layers[i], at, 'k', rates[r].codec);
            add_bits(book, b, &c->layers[i], at + 1, 'v', rates[r].codec);
        }
    }
}

static int train_class(const struct calibration *c, int klass, struct cal_book *book)
{
    struct bases b = {.c = c, .suffix = klass == TKV_SPAN_VISUAL ? ".visual" : ""};
    for (size_t i = 0; i < c->n_layers; i++)
        b.n += 2 * c->layers[i].n_kv_heads;
    b.items = cli_alloc(b.n, sizeof(*b.items));
    int rc = make_bases(&b, klass);
    if (rc == CLI_OK)
        add_layers(book, &b);
    for (size_t i = 0; i < b.n; i++)
        cal_basis_free(&b.items[i]);
    free(b.items);
    return rc;
}

int cal_train_tight(const struct calibration *c, struct cal_book *book)
{
    int rc = train_class(c, TKV_SPAN_TEXT, book);
    if (rc == CLI_OK && c->layers[0].heads[TKV_SPAN_VISUAL][TKV_K])
        rc = train_class(c, TKV_SPAN_VISUAL, book);
    return rc;
}
