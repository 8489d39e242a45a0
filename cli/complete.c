/* Completion of prompts on a coded cache. */
#include "complete.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session.h"

struct completer {
    const struct complete_options *options;
    struct session session;
    struct llama_context *ctx;
    struct llama_sampler *sampler;
    size_t n_ctx;
};

static struct llama_sampler *make_sampler(const struct llama_api *api,
                                          const struct complete_options *o)
{
    struct llama_sampler *chain =
        api->llama_sampler_chain_init(api->llama_sampler_chain_default_params());
    if (o->temperature <= 0) {
        api->llama_sampler_chain_add(chain, api->llama_sampler_init_greedy());
        return chain;
    }
    api->llama_sampler_chain_add(chain, api->llama_sampler_init_top_p(0.95F, 1));
    api->llama_sampler_chain_add(chain, api->llama_sampler_init_temp((float)o->temperature));
    api->llama_sampler_chain_add(chain, api->llama_sampler_init_dist((uint32_t)o->seed));
    return chain;
}

/* Samples until n_predict tokens, the end of the text or the end of the context. */
static int generate(struct completer *c, size_t n_used)
{
    struct session *s = &c->session;
    const struct llama_api *api = &s->llama->api;
    for (int64_t i = 0; i < c->options->n_predict && n_used < c->n_ctx; i++, n_used++) {
        llama_token id = api->llama_sampler_sample(c->sampler, c->ctx, -1);
        if (api->llama_vocab_is_eog(s->vocab, id))
            break;
        session_print_token(s, id, stdout);
        fflush(stdout);
        const float *logits;
        int rc = session_decode_last(s, c->ctx, &id, 1, &logits);
        if (rc != CLI_OK)
            return rc;
    }
    putchar('\n');
    return CLI_OK;
}

static int complete(struct completer *c, const char *prompt)
{
    struct session *s = &c->session;
    const struct llama_api *api = &s->llama->api;
    struct session_tokens tokens;
    const float *logits;
    int rc = session_tokenize(s, prompt, strlen(prompt), true, &tokens);
    if (rc != CLI_OK)
        return rc;
    if (tokens.n == 0 || tokens.n >= c->n_ctx) {
        rc = cli_fail("a prompt has 1 to %zu tokens, this one %zu", c->n_ctx - 1, tokens.n);
    } else {
        api->llama_memory_clear(api->llama_get_memory(c->ctx), true);
        rc = session_decode_last(s, c->ctx, tokens.ids, tokens.n, &logits);
    }
    if (rc == CLI_OK)
        fputs(prompt, stdout);
    if (rc == CLI_OK)
        rc = generate(c, tokens.n);
    free(tokens.ids);
    return rc;
}

/* Prompts from stdin, a line each. */
static int complete_lines(struct completer *c)
{
    bool tty = isatty(STDIN_FILENO) != 0;
    char *line = NULL;
    size_t capacity = 0;
    int rc = CLI_OK;
    while (rc == CLI_OK) {
        if (tty)
            fputs("> ", stderr);
        ssize_t n = getline(&line, &capacity, stdin);
        if (n <= 0)
            break;
        line[strcspn(line, "\n")] = '\0';
        if (*line)
            rc = complete(c, line);
    }
    free(line);
    return rc;
}

static int open_completer(struct completer *c, struct cli_llama *llama, const char *model)
{
    const struct complete_options *o = c->options;
    const char *kv = o->kv ? o->kv : getenv("TIGHTKV_KV");
    int rc = cli_llama_open(llama, &o->common, true);
    if (rc == CLI_OK)
        rc = session_open(&c->session, llama, model, (int)o->common.n_threads);
    if (rc != CLI_OK)
        return rc;
    c->n_ctx = c->session.n_ctx_train;
    c->ctx = session_context(&c->session, &(struct session_cache){.spec = kv ? kv : ""}, c->n_ctx);
    c->sampler = make_sampler(&llama->api, o);
    return c->ctx ? CLI_OK : CLI_DATA;
}

int complete_run(const struct complete_options *o)
{
    struct cli_llama llama = {0};
    struct completer c = {.options = o};
    char *model = o->model ? cli_format("%s", o->model) : cli_find_data(CLI_MODEL);
    int rc = model ? open_completer(&c, &llama, model) : CLI_DATA;
    if (rc == CLI_OK)
        rc = o->prompt ? complete(&c, o->prompt) : complete_lines(&c);
    if (c.sampler)
        llama.api.llama_sampler_free(c.sampler);
    session_free(&c.session, c.ctx);
    session_close(&c.session);
    free(model);
    return rc;
}
