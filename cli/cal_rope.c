/* How a model turns its keys: as the ROPE nodes of its graph say, layer by layer. */
#include <string.h>

#include "calibrate.h"
#include "capture.h"

struct probe {
    struct calibration *c;
    bool strange; /* a ROPE that is not understood was seen */
};

static struct cal_layer *find_layer(const struct calibration *c, int number)
{
    for (size_t i = 0; i < c->n_layers; i++)
        if (c->layers[i].layer == number)
            return &c->layers[i];
    return NULL;
}

static void read_layer(struct probe *p, struct cal_layer *layer, const struct ggml_tensor *rope,
                       uint32_t head_dim)
{
    const struct llama_api *api = &p->c->session->llama->api;
    const struct ggml_tensor *factors = rope->src[2];
    float values[TKV_MAX_HEAD_DIM / 2];
    const size_t n = factors ? (size_t)factors->ne[0] : 0;
    const bool fits = n <= sizeof(values) / sizeof(values[0]);
    if (factors && fits)
        api->ggml_backend_tensor_get(factors, values, 0, n * sizeof(*values));
    if (!fits || !graph_rope_read(rope, factors ? values : NULL, head_dim, &layer->rope))
        p->strange = true;
}

/* Looks at every write of keys before it is done, and stops at none. */
static bool on_node(struct ggml_tensor *node, bool ask, void *user)
{
    struct probe *p = user;
    if (!ask || node->op != GGML_OP_SET_ROWS || !node->view_src ||
        strncmp(node->view_src->name, "cache_k", 7) != 0)
        return !ask;
    struct cal_layer *layer = find_layer(p->c, capture_cache_layer(node));
    const struct ggml_tensor *rope = graph_rope_above(node->src[0]);
    if (layer && rope)
        read_layer(p, layer, rope, (uint32_t)node->view_src->ne[0] / layer->n_kv_heads);
    return false;
}

int cal_rope(struct calibration *c)
{
    struct probe probe = {.c = c};
    struct session watched = *c->session;
    watched.watch = on_node;
    watched.watch_user = &probe;
    const struct session_cache stock_f16 = {.type = GGML_TYPE_F16};
    const llama_token any = 0;
    struct llama_context *ctx = session_context(&watched, &stock_f16, 64);
    int rc = ctx ? session_decode(&watched, ctx, &any, 1, NULL, NULL) : CLI_DATA;
    session_free(&watched, ctx);
    if (probe.strange)
        cli_say(CLI_NORMAL, CLI_NORMAL,
                "%s: keys are turned in a way that is not understood; codecs that want them as "
                "before RoPE get some as they are",
                c->session->path);
    return rc;
}
