/* The layers of a model that calibration looks at, and room for their moments. */
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "model_layers.h"

static float *read_projection(const struct harden_file *f, uint32_t layer, uint32_t *n_embd,
                              uint32_t *n_out)
{
    int64_t id = harden_file_tensor(f, layer, "attn_output.weight");
    if (id < 0)
        return NULL;
    const int64_t *ne = f->api->gguf_get_tensor_ne(f->gguf, id);
    enum ggml_type type = f->api->gguf_get_tensor_type(f->gguf, id);
    const struct ggml_type_traits *traits = f->api->ggml_get_type_traits(type);
    const uint8_t *data = harden_file_data(f, id);
    size_t n = (size_t)(ne[0] * ne[1]);
    float *out = cli_alloc(n, sizeof(*out));
    if (type == GGML_TYPE_F32)
        memcpy(out, data, n * sizeof(*out));
    else
        traits->to_float(data, out, (int64_t)n);
    *n_out = (uint32_t)ne[0];
    *n_embd = (uint32_t)ne[1];
    return out;
}

/* Heads' moments lie side by side; the first head owns them. */
static struct cal_head *new_heads(uint32_t n, uint32_t dim, bool keys)
{
    struct cal_head *heads = cli_alloc(n, sizeof(*heads));
    const size_t square = (size_t)dim * dim;
    heads[0] = (struct cal_head){
        .dim = dim,
        .sum = cli_alloc(n * dim, sizeof(double)),
        .square = cli_alloc(n * square, sizeof(double)),
        .gradient = cli_alloc(n * square, sizeof(double)),
        .low = cli_alloc(n * dim, sizeof(double)),
        .high = cli_alloc(n * dim, sizeof(double)),
        .quantiles = cli_alloc((size_t)n * CAL_QUANTILES * dim, sizeof(double)),
        .plain_sum = keys ? cli_alloc(n * dim, sizeof(double)) : NULL,
        .plain_square = keys ? cli_alloc(n * square, sizeof(double)) : NULL,
        .query = keys ? cli_alloc(n * square, sizeof(double)) : NULL,
        .query_far = keys ? cli_alloc(n * square, sizeof(double)) : NULL,
    };
    for (uint32_t h = 1; h < n; h++) {
        const struct cal_head *first = heads;
        heads[h] = (struct cal_head){
            .dim = dim,
            .sum = first->sum + h * dim,
            .square = first->square + h * square,
            .gradient = first->gradient + h * square,
            .low = first->low + h * dim,
            .high = first->high + h * dim,
            .quantiles = first->quantiles + (size_t)h * CAL_QUANTILES * dim,
            .plain_sum = keys ? first->plain_sum + h * dim : NULL,
            .plain_square = keys ? first->plain_square + h * square : NULL,
            .query = keys ? first->query + h * square : NULL,
            .query_far = keys ? first->query_far + h * square : NULL,
        };
    }
    return heads;
}

static void free_heads(struct cal_head *h)
{
    if (!h)
        return;
    free(h->sum), free(h->square), free(h->gradient);
    free(h->low), free(h->high), free(h->quantiles);
    free(h->plain_sum), free(h->plain_square), free(h->query), free(h->query_far);
    free(h);
}

int cal_layers(struct calibration *c, const struct harden_file *f, const struct model_layers *m,
               bool visual)
{
    c->layers = cli_alloc(m->n_layers, sizeof(*c->layers));
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        if (l->n_kv_heads == 0 || l->kind == LAYER_MLA)
            continue;
        struct cal_layer *out = &c->layers[c->n_layers];
        *out = (struct cal_layer){.layer = (int)i, .n_kv_heads = l->n_kv_heads};
        out->projection = read_projection(f, i, &out->n_embd, &out->n_out);
        if (!out->projection || out->n_out % (l->n_kv_heads * l->v_head_dim) != 0) {
            free(out->projection);
            return cli_fail("%s: layer %u has no attn_output.weight as Llama's have it; this model "
                            "cannot be calibrated",
                            f->path, i);
        }
        out->group = out->n_out / (l->n_kv_heads * l->v_head_dim);
        for (int klass = 0; klass <= (visual ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT); klass++) {
            out->heads[klass][TKV_K] = new_heads(l->n_kv_heads, l->k_head_dim, true);
            out->heads[klass][TKV_V] = new_heads(l->n_kv_heads, l->v_head_dim, false);
        }
        c->n_layers++;
    }
    return c->n_layers ? CLI_OK : cli_fail("%s: no layer has a cache to be coded", f->path);
}

void cal_free(struct calibration *c)
{
    for (size_t i = 0; i < c->n_layers; i++) {
        for (int klass = 0; klass < CAL_CLASSES; klass++) {
            free_heads(c->layers[i].heads[klass][TKV_K]);
            free_heads(c->layers[i].heads[klass][TKV_V]);
        }
        free(c->layers[i].projection);
    }
    free(c->layers);
    free(c->aside.ids);
    free(c->fingerprint.rows);
}
