/* RoPE as a graph of ggml's says it. */
#include "graph_rope.h"

#include <math.h>
#include <string.h>

static bool keeps_values_apart(enum ggml_op op)
{
    switch (op) {
    case GGML_OP_VIEW:
    case GGML_OP_RESHAPE:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
    case GGML_OP_CONT:
    case GGML_OP_CPY:
    case GGML_OP_DUP:
    case GGML_OP_SCALE:
    case GGML_OP_MUL:
    case GGML_OP_NORM:
    case GGML_OP_RMS_NORM:
    case GGML_OP_L2_NORM:
        return true;
    default:
        return false;
    }
}

const struct ggml_tensor *graph_rope_above(const struct ggml_tensor *rows)
{
    for (int depth = 0; rows && depth < 16; depth++) {
        if (rows->op == GGML_OP_ROPE)
            return rows;
        rows = keeps_values_apart(rows->op) ? rows->src[0] : NULL;
    }
    return NULL;
}

/* ggml's parameters of the operation. */
struct params {
    int32_t n_dims, mode, n_ctx_orig, sections[4], offset;
    float base, scale, ext_factor, beta_fast, beta_slow;
};

static struct params read_params(const struct ggml_tensor *node)
{
    const int32_t *at = node->op_params;
    struct params p = {.n_dims = at[1], .mode = at[2], .n_ctx_orig = at[4], .offset = at[15]};
    memcpy(&p.base, at + 5, sizeof(float));
    memcpy(&p.scale, at + 6, sizeof(float));
    memcpy(&p.ext_factor, at + 7, sizeof(float));
    memcpy(&p.beta_fast, at + 9, sizeof(float));
    memcpy(&p.beta_slow, at + 10, sizeof(float));
    memcpy(p.sections, at + 11, sizeof(p.sections));
    return p;
}

/* The pair that turns `turns` times over the context that the model was first trained for. */
static double pair_of(const struct params *p, double turns)
{
    const double two_pi = 6.283185307179586;
    return p->n_dims * log(p->n_ctx_orig / (turns * two_pi)) / (2 * log((double)p->base));
}

/* YaRN's share of the frequency as trained: 1 for fast pairs, 0 for slow ones, which are scaled. */
static double trained_share(const struct params *p, uint32_t pair)
{
    const double low = fmax(0, floor(pair_of(p, (double)p->beta_fast)));
    const double high = fmin(p->n_dims - 1, ceil(pair_of(p, (double)p->beta_slow)));
    const double ramp = (pair - low) / fmax(.001, high - low);
    return (1 - fmin(1, fmax(0, ramp))) * (double)p->ext_factor;
}

static double frequency(const struct params *p, uint32_t pair, double factor)
{
    const double trained = pow((double)p->base, -2.0 * pair / p->n_dims) / factor;
    const double share = p->ext_factor != 0.0f ? trained_share(p, pair) : 0;
    return trained * (share + (1 - share) * (double)p->scale);
}

enum {
    NO_AXIS = 3 /* M-RoPE's fourth position, which is always 0 */
};

/* Sections one after the other, or (Qwen3-VL) taking turns. */
static int axis_of(const struct params *p, uint32_t pair)
{
    const int32_t *s = p->sections;
    const int32_t at = (int32_t)pair % (s[0] + s[1] + s[2] + s[3]);
    if (p->mode == GGML_ROPE_TYPE_IMROPE)
        return at < 3 * s[at % 3] ? at % 3 : NO_AXIS;
    if (at < s[0])
        return 0;
    return at < s[0] + s[1] ? 1 : at < s[0] + s[1] + s[2] ? 2 : NO_AXIS;
}

static bool understood(const struct params *p, uint32_t row, uint32_t head_dim)
{
    const bool known = p->mode == GGML_ROPE_TYPE_NORMAL || p->mode == GGML_ROPE_TYPE_NEOX ||
                       p->mode == GGML_ROPE_TYPE_MROPE || p->mode == GGML_ROPE_TYPE_IMROPE;
    const int64_t sections =
        (int64_t)p->sections[0] + p->sections[1] + p->sections[2] + p->sections[3];
    return known && row == head_dim && p->offset == 0 && p->n_dims > 0 &&
           (uint32_t)p->n_dims <= head_dim && head_dim <= TKV_MAX_HEAD_DIM && p->base > 1.0f &&
           (!(p->mode & GGML_ROPE_TYPE_MROPE) || sections > 0);
}

bool graph_rope_read(const struct ggml_tensor *node, const float *factors, uint32_t head_dim,
                     struct graph_rope *out)
{
    const struct params p = read_params(node);
    if (!understood(&p, (uint32_t)node->ne[0], head_dim))
        return false;
    *out = (struct graph_rope){(uint32_t)p.n_dims / 2, p.mode != GGML_ROPE_TYPE_NORMAL, {0}, {0}};
    for (uint32_t i = 0; i < out->n_pairs; i++) {
        const int axis = p.mode & GGML_ROPE_TYPE_MROPE ? axis_of(&p, i) : 0;
        if (axis == NO_AXIS)
            continue;
        out->axis[i] = (int8_t)axis;
        out->freq[i] = (float)frequency(&p, i, factors ? (double)factors[i] : 1);
    }
    return true;
}

void graph_rope_turn(const struct graph_rope *rope, double positions, float *x)
{
    for (uint32_t i = 0; i < rope->n_pairs; i++) {
        const uint32_t a = rope->halves ? i : 2 * i, b = rope->halves ? i + rope->n_pairs : a + 1;
        const double angle = (double)rope->freq[i] * positions, c = cos(angle), s = sin(angle);
        const double u = (double)x[a], v = (double)x[b];
        x[a] = (float)(u * c - v * s);
        x[b] = (float)(u * s + v * c);
    }
}
