/* Attention layers as llama.cpp computes them: its scheduler stops after every attention node,
 * when what the node read still lies where it was read. */
#include "capture.h"

#include <stdlib.h>
#include <string.h>

#include "session.h"

struct capture {
    capture_fn fn;
    void *user;
    size_t first, n_q; /* the batch being computed */
    size_t n_calls;
    int rc;
};

int capture_cache_layer(const struct ggml_tensor *t)
{
    const char *name = t->view_src ? t->view_src->name : "";
    const char *number = strstr(name, "_l");
    return strncmp(name, "cache_", 6) == 0 && number ? atoi(number + 2) : -1;
}

/* Rows of tokens with their heads side by side, as llama.cpp lays caches out for this node. */
static bool rows_fit(const struct ggml_tensor *t)
{
    return t->type == GGML_TYPE_F16 && t->nb[0] == sizeof(ggml_fp16_t) &&
           (t->ne[2] == 1 || t->nb[2] == t->nb[0] * (size_t)t->ne[0]) && t->ne[3] == 1;
}

/* A node over keys and values of a cache; compressed caches (MLA) have their values in the keys. */
static bool node_fits(const struct capture *c, const struct ggml_tensor *node)
{
    const struct ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2];
    const struct ggml_tensor *mask = node->src[3];
    return capture_cache_layer(k) >= 0 && capture_cache_layer(v) >= 0 &&
           v->view_src != k->view_src && q->type == GGML_TYPE_F32 && rows_fit(k) && rows_fit(v) &&
           k->ne[1] == v->ne[1] && k->ne[2] == v->ne[2] && q->ne[2] % k->ne[2] == 0 &&
           (size_t)q->ne[1] == c->n_q && (size_t)k->ne[1] >= c->first + c->n_q && mask &&
           mask->type == GGML_TYPE_F16 && mask->ne[2] == 1 && mask->ne[3] == 1;
}

static struct capture_layer describe(const struct capture *c, const struct ggml_tensor *node)
{
    const struct ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2];
    const struct ggml_tensor *mask = node->src[3], *sinks = node->src[4];
    float params[3];
    memcpy(params, node->op_params, sizeof(params));
    return (struct capture_layer){
        .layer = capture_cache_layer(k),
        .n_q_heads = (uint32_t)q->ne[2],
        .n_kv_heads = (uint32_t)k->ne[2],
        .k_head_dim = (uint32_t)k->ne[0],
        .v_head_dim = (uint32_t)v->ne[0],
        .first = c->first,
        .n_q = c->n_q,
        .n_cells = (size_t)k->ne[1],
        .q = q->data,
        .q_token_stride = q->nb[1],
        .q_head_stride = q->nb[2],
        .k = k->data,
        .v = v->data,
        .k_token_stride = k->nb[1],
        .v_token_stride = v->nb[1],
        .out = node->data,
        .out_token_stride = node->nb[2],
        .out_head_stride = node->nb[1],
        .mask = mask->data,
        .mask_stride = mask->nb[1],
        .sinks = sinks ? sinks->data : NULL,
        .scale = params[0],
        .max_bias = params[1],
        .softcap = params[2],
    };
}

/* Called before a node ("does it matter?") and after it. */
static bool on_node(struct ggml_tensor *node, bool ask, void *user)
{
    struct capture *c = user;
    if (node->op != GGML_OP_FLASH_ATTN_EXT || c->rc != CLI_OK || !node_fits(c, node))
        return !ask;
    if (ask)
        return true;
    struct capture_layer layer = describe(c, node);
    c->n_calls++;
    c->rc = c->fn(c->user, &layer);
    return true;
}

static int run_piece(struct session *s, struct llama_context *ctx, struct capture *c,
                     const struct capture_piece *piece)
{
    int rc = CLI_OK;
    for (size_t i = 0; i < piece->n && rc == CLI_OK; i += c->n_q) {
        c->n_q = piece->n - i < s->n_ubatch ? piece->n - i : s->n_ubatch;
        if (piece->ids)
            rc = session_decode(s, ctx, piece->ids + i, c->n_q, NULL, NULL);
        else
            rc = session_decode_embeddings(
                s, ctx, piece->rows + i * (size_t)s->llama->api.llama_model_n_embd_inp(s->model),
                c->n_q);
        rc = rc == CLI_OK ? c->rc : rc;
        c->first += c->n_q;
    }
    return rc;
}

int capture_pieces(struct session *s, const struct capture_piece *pieces, size_t n_pieces,
                   capture_fn fn, void *user)
{
    struct capture c = {.fn = fn, .user = user, .rc = CLI_OK};
    struct session watched = *s;
    watched.watch = on_node;
    watched.watch_user = &c;
    const struct session_cache stock_f16 = {.type = GGML_TYPE_F16};
    size_t n = 0;
    for (size_t i = 0; i < n_pieces; i++)
        n += pieces[i].n;
    struct llama_context *ctx = session_context(&watched, &stock_f16, n);
    int rc = ctx ? CLI_OK : CLI_DATA;
    for (size_t i = 0; i < n_pieces && rc == CLI_OK; i++)
        rc = run_piece(&watched, ctx, &c, &pieces[i]);
    session_free(&watched, ctx);
    if (rc == CLI_OK && c.n_calls == 0)
        rc = cli_fail("%s: no layer of this model has keys and values that could be looked at",
                      s->path);
    return rc;
}

int capture_run(struct session *s, const struct session_tokens *tokens, capture_fn fn, void *user)
{
    return capture_pieces(s, &(struct capture_piece){tokens->ids, NULL, tokens->n}, 1, fn, user);
}
