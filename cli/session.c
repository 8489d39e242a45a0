/* Models and contexts of llama.cpp. */
#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* llama.cpp pads contexts to 256 cells; asking for such a size keeps our count and its count
 * equal. */
enum {
    CTX_STEP = 256
};

int session_open(struct session *s, struct cli_llama *l, const char *path, int n_threads)
{
    *s = (struct session){
        .llama = l, .path = path, .n_threads = n_threads, .n_ubatch = SESSION_UBATCH};
    if (access(path, R_OK) != 0)
        return cli_fail("cannot open model %s: %s", path, strerror(errno));
    /* Only our device: what a real GPU would do is no part of the comparison. */
    ggml_backend_dev_t devices[2] = {NULL, NULL};
    if (l->reg && l->api.ggml_backend_reg_dev_count(l->reg) > 0)
        devices[0] = l->api.ggml_backend_reg_dev_get(l->reg, 0);
    struct llama_model_params params = l->api.llama_model_default_params();
    params.devices = devices;
    params.n_gpu_layers = devices[0] ? -1 : 0;
    cli_llama_error(true);
    s->model = l->api.llama_model_load_from_file(path, params);
    if (!s->model)
        return cli_fail("cannot load model %s: %s", path, cli_llama_error(false));
    s->vocab = l->api.llama_model_get_vocab(s->model);
    s->n_vocab = (size_t)l->api.llama_vocab_n_tokens(s->vocab);
    s->n_ctx_train = (uint32_t)l->api.llama_model_n_ctx_train(s->model);
    return CLI_OK;
}

void session_close(struct session *s)
{
    if (s->model)
        s->llama->api.llama_model_free(s->model);
    s->model = NULL;
}

static bool is_stopped(void *user)
{
    return session_stopped(user);
}

struct llama_context *session_context(struct session *s, const struct session_cache *cache,
                                      size_t n_ctx)
{
    struct cli_llama *l = s->llama;
    cli_llama_error(true);
    if (cache->spec && l->configure(cache->spec) != TKV_OK) {
        cli_fail("spec %s: %s", cache->spec, cli_llama_error(false));
        return NULL;
    }
    struct llama_context_params params = l->api.llama_context_default_params();
    params.n_ctx = (uint32_t)((n_ctx + CTX_STEP - 1) / CTX_STEP * CTX_STEP);
    params.n_batch = s->n_ubatch;
    params.n_ubatch = s->n_ubatch;
    params.n_threads = s->n_threads;
    params.n_threads_batch = s->n_threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.offload_kqv = cache->spec != NULL;
    params.type_k = cache->spec ? GGML_TYPE_F16 : cache->type;
    params.type_v = params.type_k;
    params.swa_full = s->watch != NULL;
    params.cb_eval = s->watch;
    params.cb_eval_user_data = s->watch_user;
    params.no_perf = true;
    params.abort_callback = is_stopped;
    params.abort_callback_data = s;
    struct llama_context *ctx = l->api.llama_init_from_model(s->model, params);
    if (!ctx)
        cli_fail("no context of %zu tokens for %s: %s", n_ctx, s->path, cli_llama_error(false));
    return ctx;
}

void session_free(struct session *s, struct llama_context *ctx)
{
    if (ctx)
        s->llama->api.llama_free(ctx);
}

/* One llama_decode(). */
static int decode_batch(struct session *s, struct llama_context *ctx, struct llama_batch batch)
{
    if (session_stopped(s))
        return CLI_STOPPED;
    cli_llama_error(true);
    double start = cli_now();
    int rc = s->llama->api.llama_decode(ctx, batch);
    s->llama->api.llama_synchronize(ctx);
    s->decode_seconds += cli_now() - start;
    if (session_stopped(s))
        return CLI_STOPPED;
    if (rc == 0)
        return CLI_OK;
    const char *why = cli_llama_error(false);
    return cli_fail("llama.cpp cannot decode (%d)%s%s", rc, *why ? ": " : "", why);
}

/* n tokens; `outputs` marks those whose logits are wanted. */
static int decode_ids(struct session *s, struct llama_context *ctx, const llama_token *ids,
                      size_t n, int8_t *outputs)
{
    /* llama_batch has no const; llama_decode() does not write to the tokens. */
    const struct llama_batch batch = {
        .n_tokens = (int32_t)n, .token = (llama_token *)ids, .logits = outputs};
    return decode_batch(s, ctx, batch);
}

int session_decode(struct session *s, struct llama_context *ctx, const llama_token *ids, size_t n,
                   session_logits_fn fn, void *user)
{
    int8_t *outputs = cli_alloc(s->n_ubatch, 1);
    memset(outputs, fn ? 1 : 0, s->n_ubatch);
    int rc = CLI_OK;
    for (size_t i = 0; i < n && rc == CLI_OK; i += s->n_ubatch) {
        size_t n_batch = n - i < s->n_ubatch ? n - i : s->n_ubatch;
        rc = decode_ids(s, ctx, ids + i, n_batch, outputs);
        if (rc == CLI_OK && fn)
            fn(user, s->llama->api.llama_get_logits(ctx), i, n_batch);
    }
    free(outputs);
    return rc;
}

int session_decode_last(struct session *s, struct llama_context *ctx, const llama_token *ids,
                        size_t n, const float **logits)
{
    int8_t wanted = 1;
    int rc = session_decode(s, ctx, ids, n - 1, NULL, NULL);
    if (rc == CLI_OK)
        rc = decode_ids(s, ctx, ids + n - 1, 1, &wanted);
    if (rc == CLI_OK)
        *logits = s->llama->api.llama_get_logits_ith(ctx, -1);
    return rc;
}

int session_decode_embeddings(struct session *s, struct llama_context *ctx, const float *rows,
                              size_t n)
{
    size_t n_embd = (size_t)s->llama->api.llama_model_n_embd_inp(s->model);
    int8_t *outputs = cli_alloc(s->n_ubatch, 1);
    int rc = CLI_OK;
    for (size_t i = 0; i < n && rc == CLI_OK; i += s->n_ubatch) {
        const struct llama_batch batch = {
            .n_tokens = (int32_t)(n - i < s->n_ubatch ? n - i : s->n_ubatch),
            .embd = (float *)rows + i * n_embd,
            .logits = outputs,
        };
        rc = decode_batch(s, ctx, batch);
    }
    free(outputs);
    return rc;
}

int session_check_tokenizer(const struct session *s)
{
    if (s->llama->api.llama_vocab_type(s->vocab) == LLAMA_VOCAB_TYPE_NONE)
        return cli_fail("model %s has no tokenizer: it cannot read a text", s->path);
    return CLI_OK;
}

int session_tokenize(struct session *s, const char *text, size_t n_bytes, bool bos,
                     struct session_tokens *out)
{
    if (n_bytes > INT32_MAX)
        return cli_fail("a text of %zu bytes is too long; give less than 2 GiB", n_bytes);
    const struct llama_api *api = &s->llama->api;
    int rc = session_check_tokenizer(s);
    if (rc != CLI_OK)
        return rc;
    size_t capacity = n_bytes + 8;
    llama_token *ids = cli_alloc(capacity, sizeof(*ids));
    int32_t n =
        api->llama_tokenize(s->vocab, text, (int32_t)n_bytes, ids, (int32_t)capacity, bos, false);
    if (n < 0) {
        free(ids);
        return cli_fail("the model's tokenizer cannot take this text");
    }
    *out = (struct session_tokens){ids, (size_t)n};
    return CLI_OK;
}

void session_print_token(struct session *s, llama_token id, FILE *f)
{
    char piece[256];
    int32_t n = s->llama->api.llama_token_to_piece(s->vocab, id, piece, sizeof(piece), 0, false);
    if (n > 0)
        fwrite(piece, 1, (size_t)n, f);
}

int session_save(struct session *s, struct llama_context *ctx, struct session_state *state)
{
    const struct llama_api *api = &s->llama->api;
    size_t n = api->llama_state_seq_get_size(ctx, 0);
    *state = (struct session_state){cli_alloc(n, 1), 0};
    state->n_bytes = api->llama_state_seq_get_data(ctx, state->data, n, 0);
    return state->n_bytes ? CLI_OK : cli_fail("llama.cpp cannot save the state of %s", s->path);
}

int session_restore(struct session *s, struct llama_context *ctx, const struct session_state *state)
{
    const struct llama_api *api = &s->llama->api;
    api->llama_memory_clear(api->llama_get_memory(ctx), true);
    if (api->llama_state_seq_set_data(ctx, state->data, state->n_bytes, 0) == 0)
        return cli_fail("llama.cpp cannot restore a state of %s: %s", s->path,
                        cli_llama_error(false));
    return CLI_OK;
}

size_t session_argmax(const float *values, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

double session_type_bits(const struct session *s, enum ggml_type type)
{
    int64_t n = s->llama->api.ggml_blck_size(type);
    return 8.0 * (double)s->llama->api.ggml_row_size(type, n) / (double)n;
}

/* The types that a stock cache can have. */
static const struct stock_type {
    enum ggml_type type;
    double code_bits;
} stock_types[] = {{GGML_TYPE_F32, 32}, {GGML_TYPE_F16, 16}, {GGML_TYPE_BF16, 16},
                   {GGML_TYPE_Q8_0, 8}, {GGML_TYPE_Q4_0, 4}, {GGML_TYPE_Q4_1, 4},
                   {GGML_TYPE_Q5_0, 5}, {GGML_TYPE_Q5_1, 5}, {GGML_TYPE_IQ4_NL, 4}};

enum {
    N_STOCK_TYPES = sizeof(stock_types) / sizeof(stock_types[0])
};

double session_type_code_bits(enum ggml_type type)
{
    for (size_t i = 0; i < N_STOCK_TYPES; i++)
        if (stock_types[i].type == type)
            return stock_types[i].code_bits;
    return 0;
}

bool session_find_type(const struct cli_llama *l, const char *name, enum ggml_type *type)
{
    for (size_t i = 0; i < N_STOCK_TYPES; i++) {
        if (strcmp(l->api.ggml_type_name(stock_types[i].type), name) != 0)
            continue;
        *type = stock_types[i].type;
        return true;
    }
    return false;
}
