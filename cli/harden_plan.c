/* Which channels are scaled, and which constants are added. */
#include "harden.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of 64 pairs 4 to 8 are scaled, and the 6 slowest get constants. */
enum {
    PAIRS_PER_OUTLIER = 16,
    OF_PAIRS = 64,
    SLOW_PAIRS = 6,
    LEAST_EXPONENT = 2,
    EXPONENTS = 3
};

/* Standard deviation of the constants, and how many times that in the first and last layer. */
static const double deviation = 12;
static const float at_the_ends = 3;
/* What a row may lose to rounding: less than the coarsest formats have lost already. */
static const double tolerance = 1.0 / 64;
/* Radians that a pair with full constants may turn over the context; beyond, constants shrink,
 * and at eight times that there are none: a term that turns is no constant of the scores. */
static const double largest_turn = 0.125, no_turn = 1;

/* splitmix64. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint32_t below(uint64_t *state, uint32_t n)
{
    return (uint32_t)(next_random(state) % n);
}

static double normal(uint64_t *state)
{
    double u = ((double)(next_random(state) >> 11) + 0.5) * 0x1p-53;
    double v = ((double)(next_random(state) >> 11) + 0.5) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

/* What rows lose that make `channel` of a head of K, in K or in the queries that read it. */
static double loss(const struct harden_layer *l, const struct harden_file *f, uint32_t head,
                   uint32_t channel, int exponent)
{
    double worst = 0;
    for (size_t i = 0; i < l->n_edits; i++) {
        const struct harden_edit *e = &l->edits[i];
        uint8_t *row = cli_alloc(e->row_bytes, 1);
        for (uint32_t h = 0; h < e->n_heads; h++) {
            if (h * l->n_heads / e->n_heads != head)
                continue;
            uint64_t index = e->first_row + (uint64_t)h * l->head_dim + channel;
            memcpy(row, harden_file_data(f, e->tensor) + index * e->row_bytes, e->row_bytes);
            double lost =
                harden_scale(f->api, e->type, row, e->row_bytes, e->key ? exponent : -exponent);
            worst = lost > worst ? lost : worst;
        }
        free(row);
    }
    return worst;
}

/* The largest factor up to the one drawn that the weights can take. */
static int exponent_that_fits(const struct harden_layer *l, const struct harden_file *f,
                              uint32_t head, const uint32_t channels[2], int drawn)
{
    for (int e = drawn; e >= LEAST_EXPONENT; e--)
        if (loss(l, f, head, channels[0], e) <= tolerance &&
            loss(l, f, head, channels[1], e) <= tolerance)
            return e;
    return 0;
}

static void draw_factors(struct harden_plan *p, struct harden_layer *l, const struct harden_file *f,
                         uint32_t head, uint64_t *random)
{
    uint32_t n_pairs = l->head_dim / 2, step = n_pairs / PAIRS_PER_OUTLIER;
    uint32_t n = step ? step + below(random, step + 1) : 1;
    uint32_t *pairs = cli_alloc(n_pairs, sizeof(*pairs));
    for (uint32_t i = 0; i < n_pairs; i++)
        pairs[i] = i;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t channels[2], other = i + below(random, n_pairs - i), pair = pairs[other];
        int drawn = LEAST_EXPONENT + (int)below(random, EXPONENTS);
        pairs[other] = pairs[i];
        harden_layer_pair(l, pair, channels);
        int exponent = exponent_that_fits(l, f, head, channels, drawn);
        for (int c = 0; c < 2; c++)
            l->exponents[head * l->head_dim + channels[c]] = (int8_t)exponent;
        p->n_scaled += exponent > 0;
        p->n_weaker += exponent < drawn;
    }
    p->n_pairs += n_pairs;
    free(pairs);
}

/* Radians a pair turns over what its layer can see. */
static double turn(const struct harden_layer *l, const struct harden_file *f,
                   const struct model_layers *m, const struct model_layer *cache, uint32_t pair)
{
    if (pair >= l->n_rot / 2)
        return 0;
    double base = harden_file_real(f, "rope.freq_base", 10000);
    double factor = harden_file_real(f, "rope.scaling.factor", 1);
    uint32_t reach = m->trained_ctx;
    if (cache->kind == LAYER_WINDOW) {
        base = harden_file_real(f, "rope.freq_base_swa", base < 10000 ? base : 10000);
        reach = m->window < reach ? m->window : reach;
    }
    int64_t factors = f->api->gguf_find_tensor(f->gguf, "rope_freqs.weight");
    if (factors >= 0 && f->api->gguf_get_tensor_size(f->gguf, factors) >= l->n_rot / 2 * 4) {
        float given;
        memcpy(&given, harden_file_data(f, factors) + 4 * pair, sizeof(given));
        factor = (double)given;
    }
    return pow(base, -2.0 * pair / l->n_rot) * reach / (factor >= 1 ? factor : 1);
}

static void draw_constants(struct harden_plan *p, struct harden_layer *l,
                           const struct harden_file *f, const struct model_layers *m,
                           uint32_t index, uint32_t head, uint64_t *random)
{
    uint32_t n_pairs = l->head_dim / 2, n = n_pairs * SLOW_PAIRS / OF_PAIRS;
    bool end = index == 0 || index + 1 == m->n_layers;
    for (uint32_t pair = n_pairs - (n ? n : 1); pair < n_pairs; pair++) {
        uint32_t channels[2];
        double turns = turn(l, f, m, &m->layers[index], pair);
        double size = turns > no_turn        ? 0
                      : turns > largest_turn ? deviation * largest_turn / turns
                                             : deviation;
        harden_layer_pair(l, pair, channels);
        for (int c = 0; c < 2; c++) {
            float x = (float)(normal(random) * size) * (end ? at_the_ends : 1);
            l->constants[head * l->head_dim + channels[c]] = x;
            if (fabs((double)x) > p->largest_constant)
                p->largest_constant = fabs((double)x);
        }
    }
}

static void draw_layer(struct harden_plan *p, const struct harden_file *f,
                       const struct model_layers *m, uint32_t index, uint64_t *random)
{
    struct harden_layer *l = &p->layers[index];
    if (!l->refuse && turn(l, f, m, &m->layers[index], l->head_dim / 2 - 1) > no_turn)
        l->refuse = "its slowest rotary pairs turn too far over the context to carry constants";
    size_t n = (size_t)l->n_heads * l->head_dim;
    l->exponents = cli_alloc(n, sizeof(*l->exponents));
    if (!l->refuse)
        l->constants = cli_alloc(n, sizeof(*l->constants));
    else
        p->refuse = l->refuse;
    for (uint32_t head = 0; head < l->n_heads; head++) {
        draw_factors(p, l, f, head, random);
        if (l->constants)
            draw_constants(p, l, f, m, index, head, random);
    }
    p->n_hardened++;
    p->n_offset += l->constants != NULL;
}

const char *harden_refusal(const struct harden_file *f, const struct model_layers *m)
{
    bool attends = false;
    for (uint32_t i = 0; i < m->n_layers; i++) {
        if (m->layers[i].kind == LAYER_MLA)
            return "has latent attention (MLA): its cache holds no keys to scale";
        attends = attends || m->layers[i].n_kv_heads;
    }
    if (!attends)
        return "has no layer with keys of its own";
    if (harden_file_has(f, "tightkv.harden.seed"))
        return "is a hardened model already; name the original";
    if (m->n_files > 1)
        return "is one file of several; join them with llama-gguf-split --merge";
    if (m->n_shared)
        return "has layers that read the keys of others, which one factor cannot serve";
    if (strcmp(f->arch, "llama4") == 0)
        return "normalises its keys after the rotation, which undoes any factor";
    if ((strcmp(f->arch, "dbrx") == 0 || strcmp(f->arch, "olmo") == 0) &&
        harden_file_real(f, "attention.clamp_kqv", 0) > 0)
        return "clamps its keys, which would cut the outliers off";
    return NULL;
}

int harden_plan_make(struct harden_plan *p, const struct harden_file *f,
                     const struct model_layers *m, enum llama_rope_type rope, uint64_t seed,
                     bool constants)
{
    tkv_error err;
    *p = (struct harden_plan){.n_layers = m->n_layers};
    if (rope == LLAMA_ROPE_TYPE_NONE)
        return cli_fail("%s has no rotary positions; only models that have can be hardened",
                        f->path);
    p->layers = cli_alloc(m->n_layers, sizeof(*p->layers));
    for (uint32_t i = 0; i < m->n_layers; i++) {
        struct harden_layer *l = &p->layers[i];
        if (m->layers[i].n_kv_heads == 0)
            continue;
        l->neox = rope != LLAMA_ROPE_TYPE_NORM;
        if (!harden_layer_find(l, f, i, &m->layers[i], &err))
            return cli_fail("%s: %s", f->path, err.text);
        if (!constants && l->new_bias[0] && !l->refuse)
            l->refuse = "llama.cpp takes no bias of keys for this architecture";
        draw_layer(p, f, m, i, &seed);
    }
    return CLI_OK;
}

void harden_plan_free(struct harden_plan *p)
{
    for (uint32_t i = 0; p->layers && i < p->n_layers; i++) {
        free(p->layers[i].exponents);
        free(p->layers[i].constants);
    }
    free(p->layers);
    *p = (struct harden_plan){0};
}
