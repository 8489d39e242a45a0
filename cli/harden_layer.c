/* The tensors that make queries and keys: separate or fused projections, their biases, or the
 * norms behind them. */
#include "harden.h"

#include <string.h>

/* Elements of a tensor of one dimension are rows of one. */
static uint64_t describe(const struct harden_file *f, int64_t tensor, bool elements,
                         struct harden_edit *e)
{
    const int64_t *ne = f->api->gguf_get_tensor_ne(f->gguf, tensor);
    e->tensor = tensor;
    e->type = f->api->gguf_get_tensor_type(f->gguf, tensor);
    e->row_bytes = f->api->ggml_row_size(e->type, elements ? 1 : ne[0]);
    return (uint64_t)(elements ? ne[0] * ne[1] : ne[1]);
}

/* Rows of `name` for all heads of Q or K. False: it has no whole number of heads. */
static bool add_edit(struct harden_layer *l, const struct harden_file *f, uint32_t index,
                     const char *name, bool key)
{
    int64_t tensor = harden_file_tensor(f, index, name);
    if (tensor < 0)
        return true;
    bool bias = strstr(name, ".bias") != NULL;
    struct harden_edit e = {.key = key, .bias = bias && key};
    uint64_t n_rows = describe(f, tensor, bias || strstr(name, "_norm"), &e);
    e.n_heads = (uint32_t)(n_rows / l->head_dim);
    l->edits[l->n_edits++] = e;
    return n_rows % l->head_dim == 0 && e.n_heads > 0 &&
           (e.n_heads == 1 || e.n_heads % l->n_heads == 0);
}

/* Queries lie before keys, keys before values. */
static bool add_fused(struct harden_layer *l, const struct harden_file *f, uint32_t index,
                      const char *name, uint64_t v_rows)
{
    int64_t tensor = harden_file_tensor(f, index, name);
    if (tensor < 0)
        return true;
    bool bias = strstr(name, ".bias") != NULL;
    struct harden_edit q = {0}, k;
    uint64_t n_rows = describe(f, tensor, bias, &q), k_rows = (uint64_t)l->n_heads * l->head_dim;
    if (n_rows <= k_rows + v_rows || (n_rows - k_rows - v_rows) % k_rows != 0)
        return false;
    q.n_heads = (uint32_t)((n_rows - k_rows - v_rows) / l->head_dim);
    k = q;
    k.key = true;
    k.bias = bias;
    k.n_heads = l->n_heads;
    k.first_row = n_rows - k_rows - v_rows;
    l->edits[l->n_edits++] = q;
    l->edits[l->n_edits++] = k;
    return true;
}

static bool fail(tkv_error *err, uint32_t index, const char *what)
{
    snprintf(err->text, sizeof(err->text), "layer %u: %s", index, what);
    return false;
}

/* Constants go into the bias of the keys, or into one that is made. */
static void find_bias(struct harden_layer *l, uint32_t index, uint64_t v_rows)
{
    bool fused = l->edits[0].tensor == l->edits[1].tensor;
    for (size_t i = 0; i < l->n_edits; i++) {
        if (!l->edits[i].bias)
            continue;
        if (l->edits[i].type != GGML_TYPE_F32)
            l->refuse = "the biases of its keys are not f32";
        return;
    }
    uint64_t k_rows = (uint64_t)l->n_heads * l->head_dim;
    l->new_first_row = fused ? l->edits[1].first_row : 0;
    l->new_rows = l->new_first_row + k_rows + (fused ? v_rows : 0);
    snprintf(l->new_bias, sizeof(l->new_bias), "blk.%u.%s", index,
             fused ? "attn_qkv.bias" : "attn_k.bias");
}

static bool is_there(const struct harden_file *f, uint32_t index, const char *name)
{
    return harden_file_tensor(f, index, name) >= 0;
}

static bool find_projections(struct harden_layer *l, const struct harden_file *f, uint32_t index,
                             uint64_t v_rows, tkv_error *err)
{
    bool fused = is_there(f, index, "attn_qkv.weight");
    if (!fused && !(is_there(f, index, "attn_q.weight") && is_there(f, index, "attn_k.weight")))
        return fail(err, index, "its attention has no attn_q and attn_k, or attn_qkv");
    bool ok = fused ? add_fused(l, f, index, "attn_qkv.weight", v_rows) &&
                          add_fused(l, f, index, "attn_qkv.bias", v_rows)
                    : add_edit(l, f, index, "attn_q.weight", false) &&
                          add_edit(l, f, index, "attn_k.weight", true);
    ok = ok && add_edit(l, f, index, "attn_q.bias", false) &&
         add_edit(l, f, index, "attn_k.bias", true);
    if (!ok)
        return fail(err, index, "its projections have no whole number of heads");
    find_bias(l, index, v_rows);
    return true;
}

static bool find_norms(struct harden_layer *l, const struct harden_file *f, uint32_t index,
                       tkv_error *err)
{
    l->refuse = "its keys are normalised after the projection, which would drown constants";
    /* One set of weights for all heads: one set of factors. */
    const int64_t *ne =
        f->api->gguf_get_tensor_ne(f->gguf, harden_file_tensor(f, index, "attn_k_norm.weight"));
    if (ne[0] * ne[1] == l->head_dim)
        l->n_heads = 1;
    bool ok = is_there(f, index, "attn_q_norm.weight") &&
              add_edit(l, f, index, "attn_q_norm.weight", false) &&
              add_edit(l, f, index, "attn_q_norm.bias", false) &&
              add_edit(l, f, index, "attn_k_norm.weight", true) &&
              add_edit(l, f, index, "attn_k_norm.bias", true);
    /* Factors by head need as many sets for Q. */
    for (size_t i = 0; ok && i < l->n_edits; i++)
        ok = l->n_heads == 1 || l->edits[i].n_heads >= l->n_heads;
    return ok || fail(err, index, "the norms of its queries and keys are of unlike kinds");
}

/* The architectures whose scores go through tanh; others may have the key and ignore it. */
static bool is_capped(const struct harden_file *f)
{
    return strcmp(f->arch, "gemma2") == 0 || strcmp(f->arch, "grok") == 0;
}

bool harden_layer_find(struct harden_layer *l, const struct harden_file *f, uint32_t index,
                       const struct model_layer *cache, tkv_error *err)
{
    bool swa = cache->kind == LAYER_WINDOW;
    l->n_heads = cache->n_kv_heads;
    l->head_dim = cache->k_head_dim;
    l->n_rot = harden_file_count(f, "rope.dimension_count", l->head_dim);
    if (swa)
        l->n_rot = harden_file_count(f, "rope.dimension_count_swa", l->n_rot);
    if (l->head_dim % 2 || l->n_rot % 2 || l->n_rot > l->head_dim)
        return fail(err, index, "its channels do not go in pairs");
    bool ok =
        is_there(f, index, "attn_k_norm.weight")
            ? find_norms(l, f, index, err)
            : find_projections(l, f, index, (uint64_t)cache->v_head_dim * cache->n_kv_heads, err);
    for (size_t i = 0; ok && i < l->n_edits; i++)
        if (!harden_can_scale(l->edits[i].type)) {
            snprintf(err->text, sizeof(err->text),
                     "layer %u: weights of type %s cannot be multiplied without coding them anew; "
                     "take a file with another type for attention",
                     index, f->api->ggml_type_name(l->edits[i].type));
            return false;
        }
    if (ok && !l->refuse && is_there(f, index, "attn_sinks.weight"))
        l->refuse = "its attention has sinks, against which constants do not cancel";
    if (ok && !l->refuse && is_capped(f))
        l->refuse = "its scores are capped, after which constants do not cancel";
    return ok;
}

void harden_layer_pair(const struct harden_layer *l, uint32_t pair, uint32_t channels[2])
{
    uint32_t half = l->n_rot / 2;
    if (pair >= half || !l->neox) {
        channels[0] = 2 * pair;
        channels[1] = 2 * pair + 1;
    } else {
        channels[0] = pair;
        channels[1] = pair + half;
    }
}
