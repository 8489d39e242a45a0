/* claim.c: which operations the device takes. The scheduler aborts the program when nobody can run
 * an operation on a tensor of our memory, so everything that touches our memory is claimed (what
 * has no code of its own falls back to a CPU graph of one node), and nothing else is: weights and
 * activations stay with the CPU backend. */
#include <string.h>

#include "plugin.h"

bool tkg_supports_buft(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft)
{
    (void)dev;
    return buft == &tkg_plugin.buft || ggml_backend_buft_is_host(buft);
}

const struct ggml_tensor *tkg_leaf(const struct ggml_tensor *t)
{
    return t->view_src != NULL ? t->view_src : t;
}

/* llama.cpp asks about a weight by putting it into an empty buffer of ours; caches sit in empty
 * buffers too while it measures. Names tell them apart: not every cache tensor is called cache_*,
 * but every weight has one of these. */
static bool named_like_weight(const struct ggml_tensor *t)
{
    return t->name[0] == '\0' || strstr(t->name, ".weight") != NULL ||
           strstr(t->name, ".bias") != NULL || strncmp(t->name, "blk.", 4) == 0;
}

static bool lives_here(const struct ggml_tensor *t)
{
    if (t == NULL) {
        return false;
    }
    const struct ggml_tensor *leaf = tkg_leaf(t);
    if (!tkg_buffer_is_ours(leaf->buffer)) {
        return false;
    }
    return leaf->buffer->size > 0 || !named_like_weight(leaf);
}

static bool touches_us(const struct ggml_tensor *op)
{
    bool touches = op->view_src != NULL && lives_here(op);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        touches = touches || lives_here(op->src[i]);
    }
    return touches;
}

/* Attention shows what the cache's tensors do not say: head sizes, and which K belongs to which V.
 * llama.cpp asks about its attention nodes before it writes a single row. */
static void learn_heads(const struct ggml_tensor *op)
{
    struct tkg_root *k = tkg_root_of(op->src[1]);
    struct tkg_root *v = tkg_root_of(op->src[2]);
    if (k == NULL || v == NULL || k == v || k->storage != TKG_UNDECIDED ||
        v->storage != TKG_UNDECIDED || !tkg_flash_attn_fits(op)) {
        return;
    }
    k->kind = TKV_K;
    k->head_dim = (uint32_t)op->src[1]->ne[0];
    k->n_heads = (uint32_t)op->src[1]->ne[2];
    k->pair = v;
    v->kind = TKV_V;
    v->head_dim = (uint32_t)op->src[2]->ne[0];
    v->n_heads = (uint32_t)op->src[2]->ne[2];
    v->pair = k;
}

/* Weights are there before the first graph. */
static void learn_model(const struct ggml_tensor *op)
{
    struct tkg_root *root = tkg_root_of(op);
    if (root != NULL && !root->buffer->asked) {
        root->buffer->asked = true;
        root->buffer->model = tkg_model_path(op->src[0]);
    }
}

static void learn(const struct ggml_tensor *op)
{
    if (op->op == GGML_OP_SET_ROWS) {
        learn_model(op);
    }
    if (op->op == GGML_OP_FLASH_ATTN_EXT) {
        learn_heads(op);
    } else if (op->op == GGML_OP_SET_ROWS && op->ne[0] == 1) {
        struct tkg_root *root = tkg_root_of(op);
        if (root != NULL) {
            root->buffer->transposed = true;
        }
    } else if (op->op == GGML_OP_SET_ROWS && tkg_position_axes(op->src[0]) > 1) {
        struct tkg_root *root = tkg_root_of(op);
        if (root != NULL && root->storage == TKG_UNDECIDED) {
            root->cells->n_axes = TKG_AXES;
        }
    }
}

bool tkg_supports_op(ggml_backend_dev_t dev, const struct ggml_tensor *op)
{
    (void)dev;
    switch (op->op) {
    case GGML_OP_NONE:
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return true;
    default:
        break;
    }
    if (!touches_us(op)) {
        return false;
    }
    learn(op);
    return tkg_cpu_supports(op);
}
