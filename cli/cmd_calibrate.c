/* tightkv calibrate: what learned codecs need to know of a model. */
#include <stdlib.h>
#include <string.h>

#include "calibrate.h"
#include "harden.h"
#include "model_layers.h"

enum {
    WINDOW = 2048
};

struct options {
    struct cli_common common;
    struct cli_list texts, trainers;
    const char *out;
    int64_t n_tokens;
};

static const char about[] =
    "Runs a text through a model and writes a book: bases in which keys and values take few bits,\n"
    "and which error costs how much. Learned codecs (tight4, tight3, tight2.5, tight2) read it.";

static int parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){.n_tokens = 24576};
    const struct cli_option options[] = {
        {"text", 0, CLI_LIST, &o->texts, "FILE", "text to learn from; may be given again", 0, 0,
         false},
        {"output", 'o', CLI_TEXT, &o->out, "FILE", "the book", 0, 0, false},
        {"tokens", 0, CLI_COUNT, &o->n_tokens, "N", "tokens to learn from (24576)", WINDOW, 1 << 24,
         false},
        {"train", 0, CLI_LIST, &o->trainers, "LIST", "what to train (tight)", 0, 0, true},
    };
    const struct cli_syntax syntax = {"calibrate", "MODEL --text FILE -o BOOK [options]", about,
                                      options, sizeof(options) / sizeof(options[0])};
    int first = cli_parse(&syntax, &o->common, argc, argv);
    if (first < 0)
        return first;
    if (first + 1 != argc)
        return -1 - cli_misuse("calibrate", "give one MODEL");
    if (o->texts.n == 0 || !o->out)
        return -1 - cli_misuse("calibrate", "give --text FILE and -o BOOK");
    for (size_t i = 0; i < o->trainers.n; i++)
        if (!cal_trainer(o->trainers.items[i]))
            return -1 - cli_misuse("calibrate", "--train %s: there is no such trainer",
                                   o->trainers.items[i]);
    return first;
}

/* ---- the model ------------------------------------------------------------------------------ */

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

static struct cal_head *new_heads(uint32_t n, uint32_t dim)
{
    struct cal_head *heads = cli_alloc(n, sizeof(*heads));
    for (uint32_t i = 0; i < n; i++)
        heads[i] = (struct cal_head){dim, 0, cli_alloc(dim, 8), cli_alloc((size_t)dim * dim, 8),
                                     cli_alloc((size_t)dim * dim, 8)};
    return heads;
}

static int describe_layers(struct calibration *c, const struct harden_file *f,
                           const struct model_layers *m)
{
    c->layers = cli_alloc(m->n_layers, sizeof(*c->layers));
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const struct model_layer *l = &m->layers[i];
        if (l->n_kv_heads == 0 || l->kind == LAYER_MLA)
            continue;
        struct cal_layer *out = &c->layers[c->n_layers];
        *out = (struct cal_layer){.layer = (int)i, .n_kv_heads = l->n_kv_heads};
        out->projection = read_projection(f, i, &out->n_embd, &out->n_out);
        if (!out->projection || out->n_out % (l->n_kv_heads * l->v_head_dim) != 0)
            return cli_fail("%s: layer %u has no attn_output.weight as Llama's have it; this model "
                            "cannot be calibrated",
                            f->path, i);
        out->group = out->n_out / (l->n_kv_heads * l->v_head_dim);
        out->k = new_heads(l->n_kv_heads, l->k_head_dim);
        out->v = new_heads(l->n_kv_heads, l->v_head_dim);
        c->n_layers++;
    }
    return c->n_layers ? CLI_OK : cli_fail("%s: no layer has a cache to be coded", f->path);
}

void cal_free(struct calibration *c)
{
    for (size_t i = 0; i < c->n_layers; i++) {
        struct cal_layer *l = &c->layers[i];
        for (uint32_t h = 0; h < l->n_kv_heads; h++) {
            free(l->k[h].sum), free(l->k[h].square), free(l->k[h].gradient);
            free(l->v[h].sum), free(l->v[h].square), free(l->v[h].gradient);
        }
        free(l->k), free(l->v), free(l->projection);
    }
    free(c->layers), free(c->rope_freq);
}

/* ---- the work ------------------------------------------------------------------------------- */

static int learn(struct calibration *c, const struct options *o)
{
    struct session_tokens text;
    size_t n_bytes;
    char *bytes = cli_read_text(o->texts.items[0], &n_bytes);
    if (!bytes)
        return CLI_DATA;
    int rc = session_tokenize(c->session, bytes, n_bytes, true, &text);
    free(bytes);
    if (rc != CLI_OK)
        return rc;
    size_t n_windows = text.n / WINDOW, wanted = (size_t)o->n_tokens / WINDOW;
    n_windows = n_windows < wanted ? n_windows : wanted;
    if (n_windows == 0)
        rc = cli_fail("%s: %zu tokens; at least %d are needed", o->texts.items[0], text.n, WINDOW);
    for (size_t i = 0; i < n_windows && rc == CLI_OK; i++) {
        cli_say(o->common.level, CLI_NORMAL, "window %zu of %zu", i + 1, n_windows);
        rc = cal_moments(c, &(struct session_tokens){text.ids + i * WINDOW, WINDOW});
    }
    if (rc == CLI_OK)
        rc = cal_sizes(c, &(struct session_tokens){text.ids, WINDOW / 2});
    free(text.ids);
    return rc;
}

static int train(const struct calibration *c, const struct options *o)
{
    struct cal_book *book = cal_book_new(c);
    int rc = CLI_OK;
    if (o->trainers.n == 0)
        rc = cal_train_tight(c, book);
    for (size_t i = 0; i < o->trainers.n && rc == CLI_OK; i++)
        rc = cal_trainer(o->trainers.items[i])->train(c, book);
    if (rc == CLI_OK)
        rc = cal_book_write(book, o->out);
    cal_book_free(book);
    return rc;
}

static int calibrate(struct calibration *c, const struct options *o, const struct harden_file *f,
                     const struct model_layers *layers)
{
    int rc = describe_layers(c, f, layers);
    if (rc == CLI_OK)
        rc = cal_rope(c, f, c->layers[0].k[0].dim);
    if (rc == CLI_OK)
        rc = learn(c, o);
    return rc == CLI_OK ? train(c, o) : rc;
}

int cmd_calibrate(int argc, char **argv)
{
    struct options o;
    int first = parse(&o, argc, argv);
    if (first < 0)
        return -1 - first;
    struct cli_llama llama;
    struct session session = {0};
    struct calibration c = {.session = &session, .rng = 1};
    struct model_layers layers = {0};
    struct harden_file file = {0};
    tkv_error err;
    int rc = cli_llama_open(&llama, &o.common, false);
    if (rc == CLI_OK && !model_layers_read(&llama.api, argv[first], &layers, &err))
        rc = cli_fail("%s", err.text);
    if (rc == CLI_OK)
        rc = session_open(&session, &llama, argv[first], (int)o.common.n_threads);
    if (rc == CLI_OK)
        rc = harden_file_open(&file, &llama.api, argv[first]);
    if (rc == CLI_OK)
        rc = calibrate(&c, &o, &file, &layers);
    cal_free(&c);
    if (file.path)
        harden_file_close(&file);
    model_layers_free(&layers);
    session_close(&session);
    cli_list_free(&o.texts);
    cli_list_free(&o.trainers);
    return rc;
}
