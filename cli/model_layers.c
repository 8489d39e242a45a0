/* Layers of a model from the header of its GGUF file. */
#include "model_layers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli.h"
#include "llama_load.h"

enum {
    MAX_LAYERS = 1024,
    DEFAULT_UBATCH = 512,
    CELLS_ROUND = 256
};

enum arch_flags {
    ARCH_RECURRENT = 1 << 0,   /* no attention at all */
    ARCH_NO_CACHE = 1 << 1,    /* an encoder: llama.cpp makes no cache */
    ARCH_BOTH = 1 << 2,        /* every layer has attention and a state */
    ARCH_INTERVAL = 1 << 3,    /* attention in every 4th layer (8th with ARCH_LINEAR) unless the
                                * file says otherwise */
    ARCH_FF_APART = 1 << 4,    /* layers with a feed-forward part have nothing else */
    ARCH_INDEX_CACHE = 1 << 5, /* sparse attention with a cache of its own beside K and V */
    ARCH_OPAQUE = 1 << 6,      /* a cache unlike all others */
    ARCH_LINEAR = 1 << 7,      /* layers without attention keep a matrix a head */
    ARCH_INDEX_LISTED = 1 << 8 /* the file lists the layers that have that cache */
};

/* What llama.cpp fixes in code. period: of n layers the last one (dense_first: the first) sees
 * all, 0: no layer does. window: of the sliding window where the file has none (forced: whatever
 * the file has). */
struct arch_rule {
    const char *arch;
    uint32_t flags;
    bool windows;
    uint32_t period;
    bool dense_first;
    uint32_t window;
    bool forced;
    uint32_t only_layers; /* windows only in models of this many layers; 0: in all */
    uint32_t own_layers;  /* later layers share the caches of these; 0: none does */
};

/* clang-format off */
static const struct arch_rule arch_rules[] = {
    {"afmoe", 0, true, 4, false, 0, false, 0, 0},
    {"cohere2", 0, true, 4, false, 0, false, 0, 0},
    {"cohere2moe", 0, true, 4, true, 0, false, 0, 0},
    {"exaone-moe", 0, true, 4, false, 128, false, 0, 0},
    {"exaone4", 0, true, 4, false, 4096, false, 64, 0},
    {"gemma2", 0, true, 2, false, 4096, false, 0, 0},
    {"gemma3", 0, true, 6, false, 0, false, 0, 0},
    {"gemma3n", 0, true, 5, false, 0, false, 0, 20},
    {"gpt-oss", 0, true, 2, false, 0, false, 0, 0},
    {"laguna", 0, true, 4, true, 0, false, 0, 0},
    {"lfm2", 0, true, 0, false, 0, false, 0, 0},
    {"llama4", 0, true, 4, false, 8192, true, 0, 0},
    {"mellum", 0, true, 4, false, 0, false, 0, 0},
    {"muse-glimmer", 0, true, 4, false, 0, false, 0, 0},
    {"olmo2", 0, true, 4, false, 0, false, 0, 0},
    {"plamo3", 0, true, 8, false, 0, false, 0, 0},
    {"smallthinker", 0, true, 4, true, 4096, true, 0, 0},
    {.arch = "arwkv7", .flags = ARCH_RECURRENT},
    {.arch = "mamba", .flags = ARCH_RECURRENT},
    {.arch = "mamba2", .flags = ARCH_RECURRENT},
    {.arch = "rwkv6", .flags = ARCH_RECURRENT},
    {.arch = "rwkv6qwen2", .flags = ARCH_RECURRENT},
    {.arch = "rwkv7", .flags = ARCH_RECURRENT},
    {.arch = "falcon-h1", .flags = ARCH_BOTH},
    {.arch = "minimax-01", .flags = ARCH_INTERVAL | ARCH_LINEAR},
    {.arch = "qwen35", .flags = ARCH_INTERVAL},
    {.arch = "qwen35moe", .flags = ARCH_INTERVAL},
    {.arch = "qwen3next", .flags = ARCH_INTERVAL},
    {.arch = "qwen4exp", .flags = ARCH_INTERVAL | ARCH_INDEX_CACHE},
    {.arch = "nemotron_h", .flags = ARCH_FF_APART},
    {.arch = "nemotron_h_moe", .flags = ARCH_FF_APART},
    {.arch = "deepseek32", .flags = ARCH_INDEX_CACHE},
    {.arch = "dots3note", .flags = ARCH_INDEX_CACHE | ARCH_INDEX_LISTED},
    {.arch = "glm-dsa", .flags = ARCH_INDEX_CACHE | ARCH_INDEX_LISTED},
    {.arch = "hy_v4", .flags = ARCH_INDEX_CACHE | ARCH_INDEX_LISTED},
    {.arch = "minimax-m3", .flags = ARCH_INDEX_CACHE},
    {.arch = "deepseek4", .flags = ARCH_OPAQUE},
    {.arch = "bert", .flags = ARCH_NO_CACHE},
    {.arch = "dream", .flags = ARCH_NO_CACHE},
    {.arch = "eurobert", .flags = ARCH_NO_CACHE},
    {.arch = "gemma-embedding", .flags = ARCH_NO_CACHE},
    {.arch = "jina-bert-v2", .flags = ARCH_NO_CACHE},
    {.arch = "jina-bert-v3", .flags = ARCH_NO_CACHE},
    {.arch = "llada", .flags = ARCH_NO_CACHE},
    {.arch = "llada-moe", .flags = ARCH_NO_CACHE},
    {.arch = "modern-bert", .flags = ARCH_NO_CACHE},
    {.arch = "neo-bert", .flags = ARCH_NO_CACHE},
    {.arch = "nomic-bert", .flags = ARCH_NO_CACHE},
    {.arch = "nomic-bert-moe", .flags = ARCH_NO_CACHE},
    {.arch = "rnd1", .flags = ARCH_NO_CACHE},
    {.arch = "wavtokenizer-dec", .flags = ARCH_NO_CACHE},
};
/* clang-format on */

static const struct arch_rule no_rule = {0};

/* The file being read. ggml aborts on a value of another type, so each is asked for its type
 * first. */
struct header {
    const struct llama_api *api;
    const struct gguf_context *gguf;
    const char *path;
    const char *arch;
    const struct arch_rule *rule;
    uint32_t n_layers;
    tkv_error *err;
};

const char *layer_kind_name(enum layer_kind kind)
{
    static const char *const names[LAYER_KINDS] = {"full attention", "sliding window", "MLA",
                                                   "recurrent", "no cache of its own"};
    return names[kind];
}

static bool fail(const struct header *h, const char *what)
{
    if (h->err)
        snprintf(h->err->text, sizeof(h->err->text), "%.150s: %s", h->path, what);
    return false;
}

static int64_t key_id(const struct header *h, const char *suffix)
{
    char key[160];
    snprintf(key, sizeof(key), "%s.%s", h->arch, suffix);
    return h->api->gguf_find_key(h->gguf, key);
}

/* A number of the file, or `otherwise`. */
static uint32_t number(const struct header *h, const char *suffix, uint32_t otherwise)
{
    int64_t id = key_id(h, suffix);
    if (id < 0 || h->api->gguf_get_kv_type(h->gguf, id) != GGUF_TYPE_UINT32)
        return otherwise;
    return h->api->gguf_get_val_u32(h->gguf, id);
}

/* One number a layer, from an array or from one number for all. False: there is none of that
 * name and type. */
static bool numbers(const struct header *h, const char *suffix, bool arrays_only, uint32_t *out)
{
    int64_t id = key_id(h, suffix);
    if (id < 0)
        return false;
    if (h->api->gguf_get_kv_type(h->gguf, id) != GGUF_TYPE_ARRAY) {
        if (arrays_only || h->api->gguf_get_kv_type(h->gguf, id) != GGUF_TYPE_UINT32)
            return false;
        for (uint32_t i = 0; i < h->n_layers; i++)
            out[i] = h->api->gguf_get_val_u32(h->gguf, id);
        return true;
    }
    enum gguf_type type = h->api->gguf_get_arr_type(h->gguf, id);
    bool wide = type == GGUF_TYPE_UINT32 || type == GGUF_TYPE_INT32;
    if ((!wide && type != GGUF_TYPE_BOOL) || h->api->gguf_get_arr_n(h->gguf, id) < h->n_layers)
        return false;
    const uint8_t *data = h->api->gguf_get_arr_data(h->gguf, id);
    for (uint32_t i = 0; i < h->n_layers; i++) {
        if (wide)
            memcpy(&out[i], data + sizeof(*out) * i, sizeof(*out));
        else
            out[i] = data[i] != 0;
    }
    return true;
}

/* Does the file hold all the tensors that its header lists? */
static bool is_whole(const struct header *h)
{
    struct stat st;
    if (stat(h->path, &st) != 0)
        return fail(h, strerror(errno));
    uint64_t start = h->api->gguf_get_data_offset(h->gguf), end = start;
    int64_t n = h->api->gguf_get_n_tensors(h->gguf);
    for (int64_t i = 0; i < n; i++) {
        uint64_t last = start + h->api->gguf_get_tensor_offset(h->gguf, i) +
                        h->api->gguf_get_tensor_size(h->gguf, i);
        end = last > end ? last : end;
    }
    if ((uint64_t)st.st_size < end)
        return fail(h,
                    "the file is cut short: its header lists more than it holds; fetch it again");
    return true;
}

static const struct arch_rule *rule_of(const char *arch)
{
    for (size_t i = 0; i < sizeof(arch_rules) / sizeof(arch_rules[0]); i++)
        if (strcmp(arch, arch_rules[i].arch) == 0)
            return &arch_rules[i];
    return &no_rule;
}

/* Files that the model is split into. */
static uint32_t count_files(const struct header *h)
{
    int64_t id = h->api->gguf_find_key(h->gguf, "split.count");
    if (id < 0 || h->api->gguf_get_kv_type(h->gguf, id) != GGUF_TYPE_UINT16)
        return 1;
    return h->api->gguf_get_val_u16(h->gguf, id);
}

static bool read_arch(struct header *h, struct model_layers *m)
{
    int64_t id = h->api->gguf_find_key(h->gguf, "general.architecture");
    if (id < 0 || h->api->gguf_get_kv_type(h->gguf, id) != GGUF_TYPE_STRING)
        return fail(h, "the header names no architecture; this is no language model");
    snprintf(m->arch, sizeof(m->arch), "%s", h->api->gguf_get_val_str(h->gguf, id));
    h->arch = m->arch;
    h->rule = rule_of(m->arch);
    h->n_layers = number(h, "block_count", 0);
    m->trained_ctx = number(h, "context_length", 0);
    m->n_files = count_files(h);
    if (strcmp(m->arch, "clip") == 0)
        return fail(h, "this is a projector, which has no cache; name the language model");
    if (h->n_layers == 0 || h->n_layers > MAX_LAYERS)
        return fail(h,
                    "the header does not say how many layers there are; this is no language model");
    if (h->rule->flags & ARCH_OPAQUE)
        return fail(h, "the caches of this architecture are of a kind that estimate does not know");
    if (strcmp(m->arch, "qwen4exp") == 0)
        snprintf(m->note, sizeof(m->note),
                 "the history of this model's n-gram embeddings is not counted (under 1 MiB)");
    return true;
}

/* State of a recurrent layer, in bytes for one sequence: llama_hparams::n_embd_r() and
 * n_embd_s(), in f32. */
static uint64_t state_bytes(const struct header *h, uint32_t n_heads)
{
    uint64_t n_embd = number(h, "embedding_length", 0);
    uint64_t wkv = number(h, "wkv.head_size", 0), short_conv = number(h, "shortconv.l_cache", 0);
    uint64_t kda = number(h, "kda.head_dim", 0), kernel = number(h, "ssm.conv_kernel", 0);
    uint64_t inner = number(h, "ssm.inner_size", 0), state = number(h, "ssm.state_size", 0);
    uint64_t group = number(h, "ssm.group_count", 0);
    uint64_t linear = number(h, "attention.key_length", n_heads ? (uint32_t)n_embd / n_heads : 0);
    uint64_t elems;
    if (wkv)
        elems = number(h, "token_shift_count", 2) * n_embd + n_embd * wkv;
    else if (short_conv)
        elems = n_embd * (short_conv - 1) + state * inner;
    else if (h->rule->flags & ARCH_LINEAR)
        elems = linear * linear * n_heads;
    else if (kda)
        elems = 3 * (kernel ? kernel - 1 : 3) * n_heads * kda + kda * kda * n_heads;
    else
        elems = (kernel ? kernel - 1 : 0) * (inner + 2 * group * state) + state * inner;
    return elems * sizeof(float);
}

/* Sets attends[i] and remembers[i]: which layers have attention, which a state. */
static void find_recurrent(const struct header *h, const uint32_t *kv_heads, bool *attends,
                           bool *remembers)
{
    uint32_t *flags = cli_alloc(h->n_layers, sizeof(*flags)),
             *ff = cli_alloc(h->n_layers, sizeof(*ff));
    uint32_t rule = h->rule->flags,
             interval = number(h, "full_attention_interval", rule & ARCH_LINEAR ? 8 : 4);
    bool listed = numbers(h, "attention.recurrent_layers", false, flags);
    bool has_state = state_bytes(h, 1) > 0 || rule & ARCH_INTERVAL;
    if (!numbers(h, "feed_forward_length", false, ff))
        memset(ff, 0, h->n_layers * sizeof(*ff));
    for (uint32_t i = 0; i < h->n_layers; i++) {
        bool recurrent = kv_heads[i] == 0 && has_state;
        if (rule & ARCH_INTERVAL)
            recurrent = listed ? flags[i] != 0 : interval && (i + 1) % interval != 0;
        if (rule & ARCH_FF_APART && ff[i] != 0)
            recurrent = false;
        remembers[i] = recurrent || rule & (ARCH_RECURRENT | ARCH_BOTH);
        attends[i] = kv_heads[i] != 0 && !recurrent && !(rule & (ARCH_RECURRENT | ARCH_NO_CACHE)) &&
                     !(rule & ARCH_FF_APART && ff[i] != 0);
    }
    free(flags);
    free(ff);
}

/* Sets windowed[i] and the window of the model. */
static void find_windows(const struct header *h, struct model_layers *m, uint32_t *windowed)
{
    const struct arch_rule *rule = h->rule;
    uint32_t period = rule->period, given = number(h, "attention.sliding_window", UINT32_MAX);
    bool listed = numbers(h, "attention.sliding_window_pattern", true, windowed);
    if (!listed)
        memset(windowed, 0, h->n_layers * sizeof(*windowed));
    if ((!rule->windows && !listed) || given == 0 ||
        (rule->only_layers && rule->only_layers != h->n_layers))
        given = 0;
    else if (rule->forced || given == UINT32_MAX)
        given = rule->window;
    m->window = given;
    if (given == 0) {
        memset(windowed, 0, h->n_layers * sizeof(*windowed));
        return;
    }
    if (listed)
        return;
    period = number(h, "attention.sliding_window_pattern", period);
    for (uint32_t i = 0; i < h->n_layers; i++)
        windowed[i] =
            period == 0 || (rule->dense_first ? i % period != 0 : i % period < period - 1);
}

/* Sets index_dim of the layers whose sparse attention keeps keys of its own to choose rows by. */
static void find_indexes(const struct header *h, struct model_layers *m)
{
    uint32_t dim = number(h, "attention.indexer.key_length", 0);
    /* hy_v4 may be dense. */
    if (!(h->rule->flags & ARCH_INDEX_CACHE) ||
        (strcmp(h->arch, "hy_v4") == 0 && number(h, "attention.indexer.top_k", 0) == 0))
        return;
    bool msa = strcmp(h->arch, "minimax-m3") == 0;
    uint32_t first = msa ? number(h, "leading_dense_block_count", 0) : 0;
    uint32_t *types = cli_alloc(h->n_layers, sizeof(*types));
    bool listed =
        h->rule->flags & ARCH_INDEX_LISTED && numbers(h, "attention.indexer.types", false, types);
    for (uint32_t i = first; i < h->n_layers; i++)
        if (m->layers[i].n_kv_heads && (!listed || types[i]))
            /* llama.cpp gives minimax-m3's index values too, which nothing reads. */
            m->layers[i].index_dim = dim + (msa ? m->layers[i].v_head_dim : 0);
    free(types);
}

static void fill_layer(const struct header *h, bool windowed, struct model_layer *layer,
                       uint32_t n_heads)
{
    uint32_t n_embd = number(h, "embedding_length", 0), even = n_heads ? n_embd / n_heads : 0;
    uint32_t k = number(h, "attention.key_length", even),
             v = number(h, "attention.value_length", even);
    bool mla =
        number(h, "attention.key_length_mla", 0) && number(h, "attention.value_length_mla", 0);
    layer->k_head_dim = windowed ? number(h, "attention.key_length_swa", k) : k;
    layer->v_head_dim = windowed ? number(h, "attention.value_length_swa", v) : v;
    layer->kind = windowed ? LAYER_WINDOW : LAYER_FULL;
    layer->windowed = windowed;
    if (mla) {
        layer->kind = LAYER_MLA;
        layer->v_head_dim = 0;
    }
}

static bool read_layers(struct header *h, struct model_layers *m)
{
    uint32_t n = h->n_layers;
    uint32_t *heads = cli_alloc(n, sizeof(*heads)), *kv_heads = cli_alloc(n, sizeof(*kv_heads));
    uint32_t *windowed = cli_alloc(n, sizeof(*windowed));
    bool *attends = cli_alloc(n, sizeof(*attends)), *remembers = cli_alloc(n, sizeof(*remembers));
    bool ok = numbers(h, "attention.head_count", false, heads);
    if (!ok)
        memset(heads, 0, n * sizeof(*heads));
    if (!numbers(h, "attention.head_count_kv", false, kv_heads)) {
        ok = ok && key_id(h, "attention.head_count_kv") < 0;
        memcpy(kv_heads, heads, n * sizeof(*kv_heads));
    }
    find_recurrent(h, kv_heads, attends, remembers);
    find_windows(h, m, windowed);

    uint32_t trunk =
        n - (number(h, "nextn_predict_layers", 0) < n ? number(h, "nextn_predict_layers", 0) : 0);
    uint32_t own = n - (number(h, "attention.shared_kv_layers", 0) < n
                            ? number(h, "attention.shared_kv_layers", 0)
                            : 0);
    if (h->rule->own_layers && h->rule->own_layers < own)
        own = h->rule->own_layers;
    m->n_shared = n - own;
    m->layers = cli_alloc(n, sizeof(*m->layers));
    m->n_layers = n;
    for (uint32_t i = 0; i < n; i++) {
        struct model_layer *layer = &m->layers[i];
        *layer = (struct model_layer){.kind = LAYER_NONE};
        if (i >= trunk)
            continue;
        if (remembers[i]) {
            layer->kind = LAYER_RECURRENT;
            layer->state_bytes = state_bytes(h, heads[0]);
        }
        if (i < own && attends[i]) {
            layer->n_kv_heads = kv_heads[i];
            fill_layer(h, windowed[i] != 0, layer, heads[0]);
            ok = ok && layer->k_head_dim != 0;
        }
    }
    find_indexes(h, m);
    free(heads), free(kv_heads), free(windowed), free(attends), free(remembers);
    return ok || h->rule->flags & ARCH_RECURRENT
               ? true
               : fail(h, "the header does not give the heads of its attention");
}

bool model_layers_read(const struct llama_api *api, const char *path, struct model_layers *out,
                       tkv_error *err)
{
    struct header h = {.api = api, .path = path, .err = err};
    *out = (struct model_layers){0};
    FILE *f = fopen(path, "rb");
    if (!f)
        return fail(&h, strerror(errno));
    fclose(f);
    struct gguf_context *gguf =
        api->gguf_init_from_file(path, (struct gguf_init_params){.no_alloc = true});
    if (!gguf)
        return fail(&h, "not a GGUF file, or its header is damaged; fetch it again");
    h.gguf = gguf;
    bool ok = read_arch(&h, out) && is_whole(&h) && read_layers(&h, out);
    api->gguf_free(gguf);
    if (!ok)
        model_layers_free(out);
    return ok;
}

void model_layers_free(struct model_layers *m)
{
    free(m->layers);
    *m = (struct model_layers){0};
}

bool model_layers_same(const struct model_layer *a, const struct model_layer *b)
{
    return a->kind == b->kind && a->windowed == b->windowed && a->n_kv_heads == b->n_kv_heads &&
           a->k_head_dim == b->k_head_dim && a->v_head_dim == b->v_head_dim &&
           a->index_dim == b->index_dim && a->state_bytes == b->state_bytes;
}

uint32_t model_layer_cells(const struct model_layers *m, const struct model_layer *layer,
                           uint32_t ctx)
{
    uint64_t cells = ctx;
    if (layer->windowed && (uint64_t)m->window + DEFAULT_UBATCH < cells)
        cells = (uint64_t)m->window + DEFAULT_UBATCH;
    return (uint32_t)((cells + CELLS_ROUND - 1) / CELLS_ROUND * CELLS_ROUND);
}
