/* tightkv advise: which setting for this model? */
#include <stdlib.h>
#include <string.h>

#include "advise.h"
#include "cache_size.h"

struct advise_options {
    const char *text, *budget;
    int64_t ctx;
};

static const char about[] =
    "Looks at the keys and values that a model makes of a text, measures what coded caches cost "
    "it, and says\n"
    "which spec to take for no measurable loss, for a small one, and for the smallest cache that "
    "is "
    "still usable.";

static int parse_options(struct advise *a, struct advise_options *o, int argc, char **argv)
{
    const struct cli_option options[] = {
        {"text", 0, CLI_TEXT, &o->text, "FILE",
         "text to measure on (default: prose that comes with tightkv)", 0, 0, false},
        {"ctx", 'c', CLI_COUNT, &o->ctx, "N",
         "tokens that the cache is to hold (default: what the model was trained for)", ADVISE_LEAST,
         1 << 26, false},
        {"budget", 'b', CLI_TEXT, &o->budget, "SIZE", "memory for the cache, as 300M or 1.5G", 0, 0,
         false},
        {"quick", 0, CLI_FLAG, &a->quick, NULL, "measure two settings, estimate the others", 0, 0,
         false},
    };
    const struct cli_syntax syntax = {"advise", "MODEL [options]", about, options,
                                      sizeof(options) / sizeof(options[0])};
    int first = cli_parse(&syntax, &a->common, argc, argv);
    if (first < 0)
        return first;
    if (first + 1 != argc)
        return -1 - cli_misuse("advise", first == argc ? "which model? Give a GGUF file"
                                                       : "one model at a time");
    if (o->budget && !cli_parse_size(o->budget, &a->budget))
        return -1 - cli_misuse("advise", "--budget is a size as 300M or 1.5G, not '%s'", o->budget);
    a->path = argv[first];
    return first;
}

/* ---- the model ------------------------------------------------------------------------------ */

static int read_model(struct advise *a, const struct advise_options *o)
{
    tkv_error err;
    if (!model_layers_read(&a->llama.api, a->path, &a->model, &err))
        return cli_fail("%s", err.text);
    uint32_t trained = a->model.trained_ctx;
    a->ctx = o->ctx ? (uint32_t)o->ctx : trained;
    if (a->ctx == 0)
        return cli_misuse("advise", "the header of %s names no context length; give --ctx",
                          a->path);
    if (trained && a->ctx > trained)
        return cli_misuse("advise", "--ctx %u is more than the %u tokens that %s was trained for",
                          a->ctx, trained, a->path);
    return CLI_OK;
}

/* Can the first of the ladder code any layer? The others need no more of a head. */
static bool can_code(const struct advise *a)
{
    for (uint32_t i = 0; i < a->model.n_layers; i++) {
        const struct model_layer *l = &a->model.layers[i];
        if (l->n_kv_heads && l->kind != LAYER_MLA &&
            cache_can_code(&a->rungs[0].parsed, l->k_head_dim, l->v_head_dim))
            return true;
    }
    return false;
}

/* ---- the text ------------------------------------------------------------------------------- */

static int read_text(struct advise *a, struct session_tokens *tokens)
{
    size_t n_bytes;
    char *text = cli_read_text(a->text_path, &n_bytes);
    if (!text)
        return CLI_DATA;
    int rc = session_tokenize(&a->session, text, n_bytes, true, tokens);
    free(text);
    if (rc == CLI_OK && tokens->n < ADVISE_LEAST)
        rc = cli_fail("%s has %zu tokens; advice needs at least %d, better %d", a->text_path,
                      tokens->n, ADVISE_LEAST, ADVISE_WINDOW * ADVISE_WINDOWS);
    return rc;
}

/* Windows no longer than what the text, the user's context and the model allow. */
static void cut_windows(struct advise *a, size_t n_tokens)
{
    a->n_ctx = a->quick ? ADVISE_QUICK_WINDOW : ADVISE_WINDOW;
    a->n_ctx = a->n_ctx < a->ctx ? a->n_ctx : a->ctx;
    a->n_ctx = a->n_ctx < n_tokens ? a->n_ctx : n_tokens;
    a->n_windows = n_tokens / a->n_ctx;
    size_t most = a->quick ? 1 : ADVISE_WINDOWS;
    a->n_windows = a->n_windows < most ? a->n_windows : most;
}

static int measure(struct advise *a)
{
    struct session_tokens tokens = {0};
    int rc = session_open(&a->session, &a->llama, a->path, (int)a->common.n_threads);
    if (rc == CLI_OK)
        rc = read_text(a, &tokens);
    if (rc == CLI_OK) {
        a->weight_bytes = (double)a->llama.api.llama_model_size(a->session.model);
        cut_windows(a, tokens.n);
        rc = advise_measure(a, &tokens);
    }
    free(tokens.ids);
    return rc;
}

static int advise(struct advise *a)
{
    int rc = can_code(a) ? measure(a) : CLI_OK;
    if (rc == CLI_OK)
        rc = advise_choose(a);
    return rc == CLI_OK ? advise_print(a) : rc;
}

int cmd_advise(int argc, char **argv)
{
    struct advise a = {0};
    struct advise_options o = {0};
    int first = parse_options(&a, &o, argc, argv);
    if (first < 0)
        return -1 - first;
    char *text = o.text ? cli_format("%s", o.text) : cli_find_data("advise-text.txt");
    a.text_path = text;
    int rc = text ? advise_make_rungs(&a) : CLI_DATA;
    if (rc == CLI_OK)
        rc = cli_llama_open(&a.llama, &a.common, true);
    if (rc == CLI_OK)
        rc = read_model(&a, &o);
    if (rc == CLI_OK)
        rc = advise_add_learned(&a);
    if (rc == CLI_OK)
        rc = advise(&a);
    session_close(&a.session);
    layer_survey_free(&a.survey);
    model_layers_free(&a.model);
    free(text);
    return rc;
}
