/* root.c: the K or V tensor of one layer, and how it is stored. A root is coded when attention has
 * shown its head size and its partner before the first byte arrives, and when the spec's codecs
 * take that head size. Otherwise it is stored plain, exactly, and the log says why. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

bool tkg_is_named_like_cache(const struct ggml_tensor *t)
{
    return t->op == GGML_OP_NONE && t->view_src == NULL && strncmp(t->name, "cache_", 6) == 0 &&
           t->ne[3] == 1 && (strstr(t->name, "k_l") || strstr(t->name, "v_l"));
}

bool tkg_is_cache_tensor(const struct ggml_tensor *t)
{
    return t->type == GGML_TYPE_F16 && tkg_is_named_like_cache(t);
}

struct tkg_root *tkg_root_of(const struct ggml_tensor *t)
{
    const struct ggml_tensor *leaf = tkg_leaf(t);
    return tkg_buffer_is_ours(leaf->buffer) ? leaf->extra : NULL;
}

static tkv_kind kind_of(const struct ggml_tensor *t)
{
    return strstr(t->name, "v_l") != NULL ? TKV_V : TKV_K;
}

static size_t whole_pages(size_t n_tokens)
{
    return (n_tokens + TKV_PAGE_TOKENS - 1) / TKV_PAGE_TOKENS * TKV_PAGE_TOKENS;
}

struct shape {
    tkv_kind kind;
    size_t row_elems, n_slots, n_streams;
};

/* What a tensor of this shape takes once its cells are full. */
static size_t estimate(const tkv_spec *spec, const struct shape *shape, uint32_t head_dim)
{
    const size_t row_bytes = shape->row_elems * sizeof(ggml_fp16_t);
    const tkv_codec codec = shape->kind == TKV_K ? spec->k : spec->v;
    const size_t page = head_dim != 0 ? tkv_page_bytes(codec, shape->kind, head_dim) : 0;
    if (page == 0) {
        return shape->n_streams * shape->n_slots * row_bytes;
    }
    const size_t exact = whole_pages(spec->sink) + whole_pages(spec->tail);
    const size_t n_open = exact < shape->n_slots ? exact : shape->n_slots;
    const size_t n_pages = whole_pages(shape->n_slots - n_open) / TKV_PAGE_TOKENS;
    const size_t n_heads = shape->row_elems / head_dim;
    return shape->n_streams * (n_pages * n_heads * page + n_open * row_bytes);
}

size_t tkg_root_estimate(const struct ggml_tensor *t)
{
    const struct shape shape = {kind_of(t), (size_t)t->ne[0], (size_t)t->ne[1], (size_t)t->ne[2]};
    /* Most models have heads of 128; where that cannot be, the largest power of two that can. */
    uint32_t head_dim = 0;
    for (uint32_t d = 128; head_dim == 0 && d >= 16; d /= 2) {
        head_dim = shape.row_elems % d == 0 ? d : 0;
    }
    return estimate(&tkg_plugin.spec, &shape, head_dim);
}

/* The cells that a tensor of this shape belongs to: one set for each shape in a buffer. */
static struct tkg_cells *cells_for(struct tkg_buffer *buffer, const struct tkg_root *root)
{
    for (struct tkg_cells *c = buffer->cells; c != NULL; c = c->next) {
        if (c->n_slots == root->n_slots && c->n_streams == root->n_streams) {
            return c;
        }
    }
    struct tkg_cells *c = calloc(1, sizeof(*c));
    if (c == NULL) {
        return NULL;
    }
    c->n_slots = root->n_slots;
    c->n_streams = root->n_streams;
    const size_t n_cells = (size_t)(c->n_slots * c->n_streams);
    c->n_axes = 1;
    c->pos = (int32_t *)tkg_map(TKG_AXES * n_cells * sizeof(*c->pos));
    c->klass = (uint8_t *)tkg_map(n_cells);
    c->memo = tkg_memo_create();
    if (c->pos == NULL || c->klass == NULL || c->memo == NULL) {
        tkg_unmap((char *)c->pos, TKG_AXES * n_cells * sizeof(*c->pos));
        tkg_unmap((char *)c->klass, n_cells);
        tkg_memo_destroy(c->memo);
        free(c);
        return NULL;
    }
    c->next = buffer->cells;
    buffer->cells = c;
    return c;
}

struct tkg_root *tkg_root_create(struct tkg_buffer *buffer, const struct ggml_tensor *t)
{
    struct tkg_root *root = calloc(1, sizeof(*root));
    if (root == NULL) {
        return NULL;
    }
    root->buffer = buffer;
    root->kind = kind_of(t);
    root->n_slots = t->ne[1];
    root->n_streams = t->ne[2];
    root->row_bytes = t->nb[1];
    root->reported_bytes = ggml_backend_buft_get_alloc_size(&tkg_plugin.buft, t);
    snprintf(root->name, sizeof(root->name), "%s", t->name);
    root->cells = cells_for(buffer, root);
    if (root->cells == NULL) {
        free(root);
        return NULL;
    }
    struct tkg_root **last = &buffer->roots;
    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = root;
    return root;
}

void tkg_root_destroy(struct tkg_root *root)
{
    tkg_watch_destroy(root->watch);
    tkg_unmap(root->plain, root->plain_mapped);
    free(root);
}

/* ---- deciding --------------------------------------------------------------------------- */

static size_t nominal_bytes(const struct tkg_root *root)
{
    return root->row_bytes * (size_t)(root->n_slots * root->n_streams);
}

static void make_plain(struct tkg_root *root)
{
    root->storage = TKG_PLAIN;
    root->plain_mapped = nominal_bytes(root);
    root->plain = tkg_map(root->plain_mapped);
    root->buffer->ggml->size += root->plain_mapped - root->reported_bytes;
    root->reported_bytes = root->plain_mapped;
}

static bool create_cache(struct tkg_buffer *buffer, tkv_error *err)
{
    tkv_context_params params;
    tkv_context_params_default(&params);
    params.cpu_mask = tkg_plugin.cpu_mask;
    params.executor = (tkv_executor){buffer, buffer->n_threads, tkg_run_parallel};
    tkv_codec f16;
    buffer->exact = tkv_codec_find("f16", &f16, NULL) == TKV_OK && buffer->spec.k.id == f16.id;
    if (tkv_context_create(&params, &buffer->ctx, err) != TKV_OK) {
        return false;
    }
    if (!tkg_book_open(buffer, err) ||
        tkv_cache_create(buffer->ctx, &buffer->spec, &buffer->cache, err) != TKV_OK ||
        (buffer->book != NULL && tkv_cache_set_book(buffer->cache, buffer->book, err) != TKV_OK)) {
        tkv_cache_destroy(buffer->cache);
        tkg_book_close(buffer);
        buffer->cache = NULL;
        tkv_context_destroy(buffer->ctx);
        buffer->ctx = NULL;
        return false;
    }
    return true;
}

/* The model's layer, from a name such as cache_k_l3. */
static uint32_t layer_number(const struct tkg_root *root)
{
    const char *mark = strstr(root->name, "_l");
    return mark != NULL ? (uint32_t)strtoul(mark + 2, NULL, 10) : 0;
}

/* Why a pair cannot be coded, or NULL when it now is. */
static const char *make_coded(struct tkg_root *k, tkv_error *err)
{
    struct tkg_root *v = k->pair;
    if (k->buffer->transposed) {
        return "flash attention is off (-fa off)";
    }
    if (v == NULL || v->pair != k || k->storage != TKG_UNDECIDED || v->storage != TKG_UNDECIDED) {
        return "attention does not read it as plain keys and values";
    }
    const size_t head_bytes = sizeof(ggml_fp16_t) * k->n_heads;
    if (k->n_heads != v->n_heads || k->cells != v->cells ||
        head_bytes * k->head_dim != k->row_bytes || head_bytes * v->head_dim != v->row_bytes) {
        return "its keys and values differ in shape";
    }
    if (k->n_streams > 1 && k->n_slots % TKV_PAGE_TOKENS != 0) {
        return "its streams do not end at whole pages";
    }
    if (k->buffer->cache == NULL && !create_cache(k->buffer, err)) {
        return err->text;
    }
    const tkv_layer_params layer = {
        .struct_size = sizeof(layer),
        .n_kv_heads = k->n_heads,
        .k_head_dim = k->head_dim,
        .v_head_dim = v->head_dim,
        .n_slots = (uint32_t)k->n_slots,
        .n_streams = (uint32_t)k->n_streams,
        .model_layer = layer_number(k),
        .n_axes = k->cells->n_axes,
    };
    if (tkv_cache_add_layer(k->buffer->cache, &layer, &k->layer, err) != TKV_OK) {
        return err->text;
    }
    v->layer = k->layer;
    k->storage = TKG_CODED;
    v->storage = TKG_CODED;
    if (k->cells->first == NULL) {
        k->cells->first = k;
    }
    return NULL;
}

struct settled {
    uint32_t n_coded, n_plain;
    size_t coded_bytes, coded_f16_bytes, plain_bytes;
    const struct tkg_root *coded, *plain; /* one of each, to name */
    char why[256];
};

/* The size that the buffer reports, now that the head size is known. */
static void correct_report(struct tkg_root *root, struct settled *s)
{
    const struct shape shape = {root->kind, root->row_bytes / sizeof(ggml_fp16_t),
                                (size_t)root->n_slots, (size_t)root->n_streams};
    const size_t coded = estimate(&root->buffer->spec, &shape, root->head_dim);
    if (!tkg_plugin.nominal_size) {
        root->buffer->ggml->size += coded - root->reported_bytes;
        root->reported_bytes = coded;
    }
    s->n_coded++;
    s->coded = root;
    s->coded_bytes += coded;
    s->coded_f16_bytes += nominal_bytes(root);
}

static void log_settled(const struct tkg_buffer *buffer, const struct settled *s)
{
    const double mib = 1024.0 * 1024.0;
    char spec[TKV_SPEC_TEXT] = "";
    if (tkv_spec_print(&buffer->spec, spec, sizeof(spec)) != TKV_OK) {
        spec[0] = '\0';
    }
    /* A warning: programs hide less, and who reads a coded cache should know. */
    if (s->n_coded > 0) {
        tkg_log(GGML_LOG_LEVEL_WARN,
                "KV cache %s: %u layers of %u heads of %u, %.2f bits a value when full, %.1f MiB "
                "where f16 takes %.1f",
                spec, s->n_coded / 2, s->coded->n_heads, s->coded->head_dim,
                16.0 * (double)s->coded_bytes / (double)s->coded_f16_bytes,
                (double)s->coded_bytes / mib, (double)s->coded_f16_bytes / mib);
    }
    if (s->n_plain > 0) {
        tkg_log(GGML_LOG_LEVEL_WARN, "%u of %u cache tensors stay f16 (%s, %.1f MiB): %s",
                s->n_plain, s->n_plain + s->n_coded, s->plain->name, (double)s->plain_bytes / mib,
                s->why);
    }
}

void tkg_buffer_settle(struct tkg_buffer *buffer)
{
    if (buffer->settled) {
        return;
    }
    buffer->settled = true;
    struct settled s = {.why = "its partner has another type"};
    for (struct tkg_root *r = buffer->roots; r != NULL; r = r->next) {
        tkv_error err = {{0}};
        if (r->storage != TKG_UNDECIDED) {
            continue;
        }
        const char *why = r->kind == TKV_K ? make_coded(r, &err) : NULL;
        if (why != NULL) {
            snprintf(s.why, sizeof(s.why), "%s", why);
        }
    }
    for (struct tkg_root *r = buffer->roots; r != NULL; r = r->next) {
        if (r->storage == TKG_CODED) {
            correct_report(r, &s);
            continue;
        }
        make_plain(r);
        s.n_plain++;
        s.plain = r;
        s.plain_bytes += nominal_bytes(r);
    }
    if (s.n_plain > 0) {
        memcpy(buffer->why_plain, s.why, sizeof(s.why));
    }
    log_settled(buffer, &s);
}

void tkg_buffer_threads(struct tkg_buffer *buffer, uint32_t n_threads)
{
    if (buffer->n_threads == n_threads) {
        return;
    }
    buffer->n_threads = n_threads;
    const tkv_executor executor = {buffer, n_threads, tkg_run_parallel};
    if (buffer->ctx != NULL && tkv_context_set_executor(buffer->ctx, &executor) != TKV_OK) {
        buffer->n_threads = 1;
    }
}
