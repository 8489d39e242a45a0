/* Statistics on disk: a GGUF file of fixed size, mapped. It holds the moments twice, so that one
 * copy is whole while the other is written, and the samples once, each in a place of its own. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "calibrate.h"
#include "journal.h"

/* Moments in memory and their two places in the file. */
struct block {
    double *values;
    size_t n;
    size_t at[2];
};

struct state {
    int64_t n_done;
    uint64_t hash; /* of all blocks */
};

struct cal_stats {
    char *path;
    int fd;
    uint8_t *map;
    size_t n_bytes;
    struct block *blocks;
    size_t n_blocks;
    double *counts; /* the last block */
    size_t n_counts;
    size_t state_at[2];
    size_t per_unit[CAL_CLASSES], n_sampled[CAL_CLASSES];
    size_t *rows_at, *weight_at; /* [layer][class][kind] */
};

/* ---- counts: single numbers, scattered over the layers ---------------------------------------- */

static void move_count(double *number, double *room, bool save)
{
    if (save)
        *room = *number;
    else
        *number = *room;
}

/* Their number; moves them where `room` is not NULL. */
static size_t move_counts(struct calibration *c, double *room, bool save)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_layers; i++) {
        struct cal_layer *l = &c->layers[i];
        for (int j = 0; j < CAL_CLASSES * 2; j++) {
            struct cal_head *heads = l->heads[j / 2][j % 2];
            for (uint32_t h = 0; heads && h < l->n_kv_heads; h++, n += 2)
                if (room) {
                    move_count(&heads[h].n, room + n, save);
                    move_count(&heads[h].n_queries, room + n + 1, save);
                }
        }
        if (room)
            move_count(&l->size, room + n, save);
        n++;
    }
    return n;
}

/* ---- the header ------------------------------------------------------------------------------- */

struct layout {
    struct calibration *c;
    struct cal_stats *s;
    struct gguf_context *gguf;
    struct ggml_context *ggml;
};

static void add_tensor(struct layout *l, enum ggml_type type, const int64_t ne[4], const char *name)
{
    const struct llama_api *api = &l->c->session->llama->api;
    struct ggml_tensor *t = api->ggml_new_tensor_4d(l->ggml, type, ne[0], ne[1], ne[2], ne[3]);
    api->ggml_set_name(t, name);
    api->gguf_add_tensor(l->gguf, t);
}

/* One block: the numbers of all heads of a layer. */
static void add_block(struct layout *l, int slot, const int64_t ne[3], double *values,
                      const char *name)
{
    if (!values)
        return;
    char full[GGML_MAX_NAME + 4];
    snprintf(full, sizeof(full), "%d.%s", slot, name);
    add_tensor(l, GGML_TYPE_F64, (int64_t[]){ne[0], ne[1], ne[2], 1}, full);
    if (slot == 0) {
        struct cal_stats *s = l->s;
        s->blocks = cli_grow(s->blocks, s->n_blocks + 1, sizeof(*s->blocks));
        s->blocks[s->n_blocks++] =
            (struct block){.values = values, .n = (size_t)(ne[0] * ne[1] * ne[2])};
    }
}

static const char *klass_suffix(int klass)
{
    return klass == TKV_SPAN_VISUAL ? ".visual" : "";
}

static void add_moments(struct layout *l, int slot, const struct cal_layer *layer, int klass,
                        tkv_kind kind)
{
    const struct cal_head *h = layer->heads[klass][kind];
    if (!h)
        return;
    const int64_t d = h->dim, n = layer->n_kv_heads;
    const struct {
        const char *name;
        double *values;
        int64_t rows;
    } fields[] = {{"sum", h->sum, 1},
                  {"square", h->square, d},
                  {"gradient", h->gradient, d},
                  {"low", h->low, 1},
                  {"high", h->high, 1},
                  {"quantiles", h->quantiles, CAL_QUANTILES},
                  {"plain_sum", h->plain_sum, 1},
                  {"plain_square", h->plain_square, d},
                  {"query", h->query, d},
                  {"query_far", h->query_far, d}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        char name[GGML_MAX_NAME];
        snprintf(name, sizeof(name), "blk.%d.attn_%c%s.%s", layer->layer, kind == TKV_K ? 'k' : 'v',
                 klass_suffix(klass), fields[i].name);
        add_block(l, slot, (int64_t[]){d, fields[i].rows, n}, fields[i].values, name);
    }
}

static void add_samples(struct layout *l, const struct cal_layer *layer, int klass, tkv_kind kind)
{
    const struct cal_head *h = layer->heads[klass][kind];
    const int64_t n = (int64_t)l->s->n_sampled[klass];
    if (!h || n == 0)
        return;
    char name[GGML_MAX_NAME];
    const char letter = kind == TKV_K ? 'k' : 'v';
    snprintf(name, sizeof(name), "blk.%d.attn_%c%s.rows", layer->layer, letter,
             klass_suffix(klass));
    add_tensor(l, GGML_TYPE_F16, (int64_t[]){h->dim, layer->n_kv_heads, n, 1}, name);
    snprintf(name, sizeof(name), "blk.%d.attn_%c%s.row_weight", layer->layer, letter,
             klass_suffix(klass));
    add_tensor(l, GGML_TYPE_F32, (int64_t[]){layer->n_kv_heads, n, 1, 1}, name);
}

static void add_all(struct layout *l)
{
    struct calibration *c = l->c;
    for (int slot = 0; slot < 2; slot++) {
        char name[16];
        for (size_t i = 0; i < c->n_layers; i++)
            for (int j = 0; j < CAL_CLASSES * 2; j++)
                add_moments(l, slot, &c->layers[i], j / 2, (tkv_kind)(j % 2));
        add_block(l, slot, (int64_t[]){(int64_t)l->s->n_counts, 1, 1}, l->s->counts, "counts");
        snprintf(name, sizeof(name), "%d.state", slot);
        add_tensor(l, GGML_TYPE_I64, (int64_t[]){2, 1, 1, 1}, name);
    }
    for (size_t i = 0; i < c->n_layers; i++)
        for (int j = 0; j < CAL_CLASSES * 2; j++)
            add_samples(l, &c->layers[i], j / 2, (tkv_kind)(j % 2));
}

static void make_header(struct layout *l, const struct cal_plan *plan)
{
    const struct llama_api *api = &l->c->session->llama->api;
    char inputs[24];
    snprintf(inputs, sizeof(inputs), "%016" PRIx64, plan->inputs);
    l->gguf = api->gguf_init_empty();
    api->gguf_set_val_str(l->gguf, "general.architecture", "tightkv-statistics");
    api->gguf_set_val_u32(l->gguf, "statistics.version", 1);
    api->gguf_set_val_str(l->gguf, "statistics.inputs", inputs);
    api->gguf_set_val_u32(l->gguf, "statistics.texts", (uint32_t)plan->n_units[TKV_SPAN_TEXT]);
    api->gguf_set_val_u32(l->gguf, "statistics.pictures", (uint32_t)plan->n_units[TKV_SPAN_VISUAL]);
    add_all(l);
}

/* ---- places ----------------------------------------------------------------------------------- */

/* Tensors are asked for in the order in which they were added. */
struct places {
    const struct llama_api *api;
    const struct gguf_context *gguf;
    size_t data_at;
    int64_t next;
};

static size_t next_place(struct places *p)
{
    return p->data_at + p->api->gguf_get_tensor_offset(p->gguf, p->next++);
}

static void find_places(struct layout *l)
{
    struct cal_stats *s = l->s;
    struct calibration *c = l->c;
    const struct llama_api *api = &c->session->llama->api;
    struct places p = {api, l->gguf, api->gguf_get_meta_size(l->gguf), 0};
    for (int slot = 0; slot < 2; slot++) {
        for (size_t i = 0; i < s->n_blocks; i++)
            s->blocks[i].at[slot] = next_place(&p);
        s->state_at[slot] = next_place(&p);
    }
    s->n_bytes = s->state_at[1] + sizeof(struct state);
    s->rows_at = cli_alloc(c->n_layers * CAL_CLASSES * 2, sizeof(size_t));
    s->weight_at = cli_alloc(c->n_layers * CAL_CLASSES * 2, sizeof(size_t));
    for (size_t i = 0; i < c->n_layers * CAL_CLASSES * 2; i++) {
        const struct cal_layer *layer = &c->layers[i / (CAL_CLASSES * 2)];
        const int klass = (int)(i / 2 % CAL_CLASSES);
        if (!layer->heads[klass][i % 2] || s->n_sampled[klass] == 0)
            continue;
        s->rows_at[i] = next_place(&p);
        s->weight_at[i] = next_place(&p);
        s->n_bytes = s->weight_at[i] + s->n_sampled[klass] * layer->n_kv_heads * sizeof(float);
    }
}

/* ---- samples ---------------------------------------------------------------------------------- */

static size_t token_bytes(const struct calibration *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_layers; i++)
        for (int kind = TKV_K; kind <= TKV_V; kind++) {
            const struct cal_layer *l = &c->layers[i];
            n += l->n_kv_heads *
                 (l->heads[TKV_SPAN_TEXT][kind]->dim * sizeof(ggml_fp16_t) + sizeof(float));
        }
    return n;
}

static void plan_samples(const struct calibration *c, struct cal_stats *s,
                         const struct cal_plan *plan)
{
    size_t n_classes = 0;
    for (int klass = 0; klass < CAL_CLASSES; klass++)
        n_classes += plan->n_units[klass] > 0;
    for (int klass = 0; klass < CAL_CLASSES; klass++) {
        const size_t n = plan->n_units[klass];
        if (n == 0)
            continue;
        const size_t most = c->sample_bytes / n_classes / token_bytes(c) / n;
        s->per_unit[klass] = most < plan->n_tokens[klass] ? most : plan->n_tokens[klass];
        s->n_sampled[klass] = n * s->per_unit[klass];
    }
}

struct cal_samples cal_samples(const struct calibration *c, size_t layer, tkv_kind kind,
                               enum tkv_span_class klass)
{
    const struct cal_stats *s = c->stats;
    const struct cal_layer *l = &c->layers[layer];
    const size_t i = (layer * CAL_CLASSES + klass) * 2 + kind;
    if (!l->heads[klass][kind] || s->n_sampled[klass] == 0)
        return (struct cal_samples){0};
    return (struct cal_samples){
        .n_tokens = s->n_sampled[klass],
        .per_unit = s->per_unit[klass],
        .n_heads = l->n_kv_heads,
        .head_dim = l->heads[klass][kind]->dim,
        .rows = (ggml_fp16_t *)(void *)(s->map + s->rows_at[i]),
        .weight = (float *)(void *)(s->map + s->weight_at[i]),
    };
}

/* ---- the moments' two places -------------------------------------------------------------------- */

static uint64_t hash_slot(const struct cal_stats *s, int slot, int64_t n_done)
{
    uint64_t hash = journal_hash(JOURNAL_HASH, &n_done, sizeof(n_done));
    for (size_t i = 0; i < s->n_blocks; i++)
        hash = journal_hash(hash, s->map + s->blocks[i].at[slot], s->blocks[i].n * sizeof(double));
    return hash;
}

static int64_t whole_steps(const struct cal_stats *s, int slot)
{
    struct state state;
    memcpy(&state, s->map + s->state_at[slot], sizeof(state));
    return state.n_done > 0 && state.hash == hash_slot(s, slot, state.n_done) ? state.n_done : 0;
}

static void load(struct calibration *c)
{
    struct cal_stats *s = c->stats;
    const int64_t done[2] = {whole_steps(s, 0), whole_steps(s, 1)};
    const int slot = done[1] > done[0];
    if (done[slot] == 0)
        return;
    c->n_done = (size_t)done[slot];
    for (size_t i = 0; i < s->n_blocks; i++)
        memcpy(s->blocks[i].values, s->map + s->blocks[i].at[slot],
               s->blocks[i].n * sizeof(double));
    move_counts(c, s->counts, false);
}

int cal_stats_commit(struct calibration *c)
{
    struct cal_stats *s = c->stats;
    const int slot = (int)(++c->n_done % 2);
    struct state state = {0};
    memcpy(s->map + s->state_at[slot], &state, sizeof(state));
    move_counts(c, s->counts, true);
    for (size_t i = 0; i < s->n_blocks; i++)
        memcpy(s->map + s->blocks[i].at[slot], s->blocks[i].values,
               s->blocks[i].n * sizeof(double));
    state.n_done = (int64_t)c->n_done;
    state.hash = hash_slot(s, slot, state.n_done);
    memcpy(s->map + s->state_at[slot], &state, sizeof(state));
    if (msync(s->map, s->n_bytes, MS_ASYNC) != 0)
        return cli_fail("cannot write %s: %s", s->path, strerror(errno));
    return CLI_OK;
}

/* ---- the file --------------------------------------------------------------------------------- */

/* Blocks of a file that does not fit on the disk would kill whoever touches them. */
static int make_file(const struct cal_stats *s, const void *header, size_t n_bytes)
{
    int error = posix_fallocate(s->fd, 0, (off_t)s->n_bytes);
    if (error == 0 && pwrite(s->fd, header, n_bytes, 0) != (ssize_t)n_bytes)
        error = errno;
    return error ? cli_fail("cannot write the statistics %s, %zu MiB: %s", s->path,
                            (s->n_bytes >> 20) + 1, strerror(error))
                 : CLI_OK;
}

static int check_file(const struct cal_stats *s, const void *header, size_t n_bytes)
{
    void *found = cli_alloc(n_bytes, 1);
    struct stat st;
    bool same = fstat(s->fd, &st) == 0 && (size_t)st.st_size == s->n_bytes &&
                pread(s->fd, found, n_bytes, 0) == (ssize_t)n_bytes &&
                memcmp(found, header, n_bytes) == 0;
    free(found);
    return same ? CLI_OK
                : cli_fail("%s holds statistics of other options, another model, text or build; "
                           "delete it to start anew, or name another file with --stats",
                           s->path);
}

static int open_file(struct cal_stats *s, const void *header, size_t n_bytes)
{
    char magic[4] = {0};
    s->fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (s->fd < 0)
        return cli_fail("cannot write %s: %s", s->path, strerror(errno));
    if (flock(s->fd, LOCK_EX | LOCK_NB) != 0)
        return cli_fail("%s belongs to a calibration that is running; name another file with "
                        "--stats",
                        s->path);
    /* The header is written last: without one nothing else is there. */
    const bool made = pread(s->fd, magic, 4, 0) < 4 || memcmp(magic, "\0\0\0\0", 4) == 0;
    int rc = made ? make_file(s, header, n_bytes) : check_file(s, header, n_bytes);
    if (rc != CLI_OK)
        return rc;
    void *map = mmap(NULL, s->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (map == MAP_FAILED)
        return cli_fail("cannot map %s: %s", s->path, strerror(errno));
    s->map = map;
    return CLI_OK;
}

int cal_stats_open(struct calibration *c, const char *path, const struct cal_plan *plan)
{
    const struct llama_api *api = &c->session->llama->api;
    struct cal_stats *s = c->stats = cli_alloc(1, sizeof(*s));
    *s = (struct cal_stats){.path = cli_format("%s", path), .fd = -1};
    plan_samples(c, s, plan);
    s->n_counts = move_counts(c, NULL, true);
    s->counts = cli_alloc(s->n_counts, sizeof(double));
    /* Of a layer: ten moments, twice, and two tensors of samples, for each class and kind. */
    const size_t most = c->n_layers * CAL_CLASSES * 2 * 22 + 4;
    struct layout l = {c, s, NULL,
                       api->ggml_init((struct ggml_init_params){
                           api->ggml_tensor_overhead() * (most + 1), NULL, true})};
    make_header(&l, plan);
    find_places(&l);
    const size_t n_bytes = api->gguf_get_meta_size(l.gguf);
    void *header = cli_alloc(n_bytes, 1);
    api->gguf_get_meta_data(l.gguf, header);
    int rc = open_file(s, header, n_bytes);
    if (rc == CLI_OK)
        load(c);
    free(header);
    api->gguf_free(l.gguf);
    api->ggml_free(l.ggml);
    return rc;
}

void cal_stats_close(struct calibration *c, bool keep)
{
    struct cal_stats *s = c->stats;
    if (!s)
        return;
    if (s->map)
        munmap(s->map, s->n_bytes);
    if (s->map && !keep)
        unlink(s->path);
    if (s->fd >= 0)
        close(s->fd);
    free(s->blocks), free(s->counts), free(s->rows_at), free(s->weight_at), free(s->path);
    free(s);
    c->stats = NULL;
}
