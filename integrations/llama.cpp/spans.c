/* spans.c: which rows are visual. Programs feed pictures (and sound) as batches of embeddings
 * instead of tokens. The rows do not say so, but the graph does: above the keys of a layer stands
 * either a leaf of embeddings, or the tokens that rows of the model's table were taken by.
 *
 * llama.cpp puts both inputs into every graph, computes only the one of the batch, and never uses
 * the graph of one kind for the other. So what counts is what the keys were made of, not what the
 * graph holds. */
#include <string.h>

#include "plugin.h"

/* Nodes looked at. A first layer has a dozen above its keys; where the first layer of a cache is not
 * the model's first, every layer before it is on the way, and both ways around its attention. */
#define MAX_LOOKS 4096

struct search {
    int64_t n_rows;
    int n_looks;
    bool tokens, embeddings;
};

static void look_at_leaf(const struct ggml_tensor *t, struct search *s)
{
    const bool input = (t->flags & GGML_TENSOR_FLAG_INPUT) != 0;
    /* llama.cpp's name for it; the scheduler's copies of an input have more around. */
    if (t->type == GGML_TYPE_I32 && strstr(t->name, "inp_tokens") != NULL) {
        s->tokens = true;
    }
    /* Models rename the embeddings, so these go by shape: a vector for each row. */
    if (input && t->type == GGML_TYPE_F32 && t->ne[0] > 1 && t->ne[1] == s->n_rows) {
        s->embeddings = true;
    }
}

/* The operands that rows are made of; the masks of attention look like embeddings. */
static int n_operands(const struct ggml_tensor *t)
{
    switch (t->op) {
    case GGML_OP_SOFT_MAX:
        return 1;
    case GGML_OP_FLASH_ATTN_EXT:
        return 3;
    default:
        return GGML_MAX_SRC;
    }
}

/* First operands first: they lead straight to the inputs, past weights, which are leaves. */
static void look_above(const struct ggml_tensor *t, struct search *s)
{
    if (t == NULL || s->tokens || s->n_looks++ >= MAX_LOOKS) {
        return;
    }
    if (t->op == GGML_OP_NONE) {
        look_at_leaf(t, s);
        return;
    }
    for (int i = 0; i < n_operands(t); i++) {
        look_above(t->src[i], s);
    }
}

/* Draft models take tokens and the hidden state of another model: with tokens above them, rows are
 * text. So are rows of which nothing is found. */
enum tkv_span_class tkg_span_class(const struct ggml_tensor *rows)
{
    struct search s = {.n_rows = rows->ne[1]};
    look_above(rows, &s);
    return s.embeddings && !s.tokens ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
}
