/* Writes the variant tensor by tensor: nothing but the tensor at hand is held. */
#include "harden.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct writer {
    struct harden_file *f;
    const struct harden_plan *plan;
    FILE *out;
    struct cli_progress progress;
};

/* Metadata of the variant into the context of the model's own. */
static void describe(struct harden_file *f, const struct harden_plan *p, uint64_t seed)
{
    const struct llama_api *api = f->api;
    int64_t id = api->gguf_find_key(f->gguf, "general.name");
    bool named = id >= 0 && api->gguf_get_kv_type(f->gguf, id) == GGUF_TYPE_STRING;
    char *name =
        cli_format("%s (hardened, seed %llu)", named ? api->gguf_get_val_str(f->gguf, id) : f->arch,
                   (unsigned long long)seed);
    api->gguf_set_val_str(f->gguf, "general.name", name);
    api->gguf_set_val_u64(f->gguf, "tightkv.harden.seed", seed);
    free(name);
    struct ggml_init_params params = {api->ggml_tensor_overhead() * (p->n_layers + 1), NULL, true};
    struct ggml_context *ctx = api->ggml_init(params);
    for (uint32_t i = 0; i < p->n_layers; i++) {
        const struct harden_layer *l = &p->layers[i];
        if (!l->constants || !l->new_bias[0])
            continue;
        struct ggml_tensor *t = api->ggml_new_tensor_1d(ctx, GGML_TYPE_F32, (int64_t)l->new_rows);
        api->ggml_set_name(t, l->new_bias);
        api->gguf_add_tensor(f->gguf, t);
    }
    api->ggml_free(ctx);
}

static void apply(const struct harden_file *f, const struct harden_layer *l,
                  const struct harden_edit *e, uint8_t *data)
{
    for (uint64_t i = 0; i < (uint64_t)e->n_heads * l->head_dim; i++) {
        uint8_t *row = data + (e->first_row + i) * e->row_bytes;
        uint64_t head = i / l->head_dim * l->n_heads / e->n_heads;
        uint64_t channel = head * l->head_dim + i % l->head_dim;
        int exponent = l->exponents[channel];
        if (exponent)
            harden_scale(f->api, e->type, row, e->row_bytes, e->key ? exponent : -exponent);
        if (!e->bias || !l->constants)
            continue;
        float x;
        memcpy(&x, row, sizeof(x));
        x += l->constants[channel];
        memcpy(row, &x, sizeof(x));
    }
}

static bool put(struct writer *w, const uint8_t *data, size_t n)
{
    static const uint8_t zeros[256];
    size_t step = 1u << 24;
    for (size_t at = 0; at < n; at += step) {
        size_t now = n - at < step ? n - at : step;
        if (fwrite(data + at, 1, now, w->out) != now)
            return false;
        cli_progress_step(&w->progress, (double)now, NULL);
    }
    size_t align = w->f->api->gguf_get_alignment(w->f->gguf), rest = n % align;
    for (size_t left = rest ? align - rest : 0; left;) {
        size_t now = left < sizeof(zeros) ? left : sizeof(zeros);
        if (fwrite(zeros, 1, now, w->out) != now)
            return false;
        left -= now;
    }
    return true;
}

/* A tensor of the model, hardened where the plan says so. */
static bool put_tensor(struct writer *w, int64_t tensor)
{
    const struct harden_file *f = w->f;
    size_t n = f->api->gguf_get_tensor_size(f->gguf, tensor);
    const uint8_t *data = harden_file_data(f, tensor);
    uint8_t *copy = NULL;
    for (uint32_t i = 0; i < w->plan->n_layers; i++) {
        const struct harden_layer *l = &w->plan->layers[i];
        for (size_t k = 0; k < l->n_edits; k++) {
            if (l->edits[k].tensor != tensor)
                continue;
            if (!copy)
                copy = memcpy(cli_alloc(n, 1), data, n);
            apply(f, l, &l->edits[k], copy);
        }
    }
    bool ok = put(w, copy ? copy : data, n);
    free(copy);
    return ok;
}

static bool put_new_bias(struct writer *w, const struct harden_layer *l)
{
    float *bias = cli_alloc(l->new_rows, sizeof(*bias));
    memcpy(bias + l->new_first_row, l->constants, (size_t)l->n_heads * l->head_dim * sizeof(*bias));
    bool ok = put(w, (const uint8_t *)bias, l->new_rows * sizeof(*bias));
    free(bias);
    return ok;
}

int harden_write(struct harden_file *f, const struct harden_plan *p, uint64_t seed,
                 const char *path, cli_level level)
{
    struct writer w = {.f = f, .plan = p};
    int64_t n_tensors = f->api->gguf_get_n_tensors(f->gguf);
    describe(f, p, seed);
    w.out = fopen(path, "wb");
    if (!w.out)
        return cli_fail("cannot write %s: %s", path, strerror(errno));
    cli_progress_begin(&w.progress, level, (double)f->n_bytes);
    cli_progress_step(&w.progress, 0, "writing");
    bool ok = f->api->gguf_write_to_file_ptr(f->gguf, w.out, true);
    for (int64_t i = 0; ok && i < n_tensors; i++)
        ok = put_tensor(&w, i);
    for (uint32_t i = 0; ok && i < p->n_layers; i++)
        if (p->layers[i].constants && p->layers[i].new_bias[0])
            ok = put_new_bias(&w, &p->layers[i]);
    cli_progress_end(&w.progress);
    ok = (fclose(w.out) == 0) && ok;
    return ok ? CLI_OK : cli_fail("cannot write %s: %s", path, strerror(errno));
}
