/* fingerprint.c: what tells a model from another, whatever its weights are quantised to: metadata,
 * the tensors of one dimension, which stay f32, and the lengths of the rows that make queries and
 * keys. Read from the model's file: what llama.cpp holds in memory may be packed anew. */
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gguf.h"
#include "plugin.h"

#define HASH_START 0xcbf29ce484222325u

/* How far two quantisations of a model may be apart: all rows alike, rows on average beside that, and
 * a row alone. Of q2_K against q4_K_M: .026, .008 and .037. */
#define MOST_COMMON  0.1
#define MOST_TYPICAL 0.02
#define MOST_SINGLE  0.25

static uint64_t hash_more(uint64_t hash, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ p[i]) * 0x100000001b3u; /* FNV-1a */
    }
    return hash;
}

static uint64_t hash_text(uint64_t hash, const char *text)
{
    return hash_more(hash, text, strlen(text) + 1);
}

struct file {
    const char *path;
    int fd;
    struct gguf_context *gguf;
    struct ggml_context *tensors; /* shapes only */
};

/* ---- metadata --------------------------------------------------------------------------- */

static uint64_t hash_array(uint64_t hash, const struct gguf_context *g, int64_t id)
{
    const size_t n = gguf_get_arr_n(g, id);
    const enum gguf_type type = gguf_get_arr_type(g, id);
    if (type == GGUF_TYPE_STRING) {
        for (size_t i = 0; i < n; i++) {
            hash = hash_text(hash, gguf_get_arr_str(g, id, i));
        }
        return hash;
    }
    static const size_t bytes[GGUF_TYPE_COUNT] = {
        [GGUF_TYPE_UINT8] = 1,   [GGUF_TYPE_INT8] = 1,   [GGUF_TYPE_UINT16] = 2,
        [GGUF_TYPE_INT16] = 2,   [GGUF_TYPE_UINT32] = 4, [GGUF_TYPE_INT32] = 4,
        [GGUF_TYPE_FLOAT32] = 4, [GGUF_TYPE_BOOL] = 1,   [GGUF_TYPE_UINT64] = 8,
        [GGUF_TYPE_INT64] = 8,   [GGUF_TYPE_FLOAT64] = 8};
    return hash_more(hash, gguf_get_arr_data(g, id), n * bytes[type]);
}

static uint64_t hash_value(uint64_t hash, const struct gguf_context *g, int64_t id)
{
    switch (gguf_get_kv_type(g, id)) {
    case GGUF_TYPE_STRING:
        return hash_text(hash, gguf_get_val_str(g, id));
    case GGUF_TYPE_ARRAY:
        return hash_array(hash, g, id);
    case GGUF_TYPE_UINT32:
    case GGUF_TYPE_INT32:
    case GGUF_TYPE_FLOAT32:
        return hash_more(hash, gguf_get_val_data(g, id), 4);
    default:
        return hash; /* none that decides how a model computes */
    }
}

/* Of all keys that begin with `prefix`, in any order; those below `but` are left out. */
static uint64_t hash_keys(const struct gguf_context *g, const char *prefix, const char *but)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < gguf_get_n_kv(g); i++) {
        const char *key = gguf_get_key(g, i);
        if (strncmp(key, prefix, strlen(prefix)) == 0 &&
            (but == NULL || strncmp(key, but, strlen(but)) != 0)) {
            sum += hash_value(hash_text(HASH_START, key), g, i);
        }
    }
    return sum;
}

static uint64_t hash_key(const struct gguf_context *g, const char *key)
{
    const int64_t id = gguf_find_key(g, key);
    return id >= 0 ? hash_value(hash_text(HASH_START, key), g, id) : 0;
}

/* Ids of special tokens and templates are left out: they are mended without training. */
static void read_metadata(const struct file *f, struct tightkv_ggml_fingerprint *out)
{
    const int64_t id = gguf_find_key(f->gguf, "general.architecture");
    const char *arch = id >= 0 && gguf_get_kv_type(f->gguf, id) == GGUF_TYPE_STRING
                           ? gguf_get_val_str(f->gguf, id)
                           : "";
    char prefix[80], rope[80];
    snprintf(out->architecture, sizeof(out->architecture), "%s", arch);
    snprintf(prefix, sizeof(prefix), "%s.", out->architecture);
    snprintf(rope, sizeof(rope), "%s.rope.", out->architecture);
    out->shapes = hash_keys(f->gguf, prefix, rope);
    out->rope = hash_keys(f->gguf, rope, NULL);
    out->tokenizer = hash_key(f->gguf, "tokenizer.ggml.model") +
                     hash_key(f->gguf, "tokenizer.ggml.pre") +
                     hash_key(f->gguf, "tokenizer.ggml.tokens");
}

/* ---- tensors ---------------------------------------------------------------------------- */

/* Its bytes, to be freed; NULL: they are not all there. */
static void *read_tensor(const struct file *f, const struct ggml_tensor *t)
{
    const int64_t id = gguf_find_tensor(f->gguf, t->name);
    const size_t n = ggml_nbytes(t);
    const off_t at = (off_t)(gguf_get_data_offset(f->gguf) + gguf_get_tensor_offset(f->gguf, id));
    char *data = malloc(n);
    for (size_t done = 0; data != NULL && done < n;) {
        const ssize_t got = pread(f->fd, data + done, n - done, at + (off_t)done);
        if (got <= 0) {
            free(data);
            data = NULL;
        } else {
            done += (size_t)got;
        }
    }
    return data;
}

static bool to_f32(enum ggml_type type, const void *from, float *to, int64_t n)
{
    const struct ggml_type_traits *traits = ggml_get_type_traits(type);
    if (type == GGML_TYPE_F32) {
        memcpy(to, from, (size_t)n * sizeof(*to));
    } else if (traits->to_float != NULL) {
        traits->to_float(from, to, n);
    } else {
        return false;
    }
    return true;
}

static bool add_vector(const struct file *f, const struct ggml_tensor *t, uint64_t *sum)
{
    void *data = read_tensor(f, t);
    float *values = malloc((size_t)t->ne[0] * sizeof(*values));
    const bool good = data != NULL && values != NULL && to_f32(t->type, data, values, t->ne[0]);
    if (good) {
        *sum +=
            hash_more(hash_text(HASH_START, t->name), values, (size_t)t->ne[0] * sizeof(*values));
    }
    free(data);
    free(values);
    return good;
}

static bool is_query_or_key(const char *name)
{
    static const char *const ends[] = {".attn_q.weight", ".attn_k.weight", ".attn_qkv.weight"};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        const size_t n = strlen(name), m = strlen(ends[i]);
        if (n > m && strcmp(name + n - m, ends[i]) == 0) {
            return true;
        }
    }
    return false;
}

static float length(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return (float)sqrt(sum);
}

static bool add_rows(const struct file *f, const struct ggml_tensor *t,
                     struct tightkv_ggml_fingerprint *out)
{
    const size_t n_rows = (size_t)t->ne[1], row_bytes = ggml_row_size(t->type, t->ne[0]);
    float *grown = realloc(out->rows, (out->n_rows + n_rows) * sizeof(*grown));
    out->rows = grown != NULL ? grown : out->rows;
    char *data = read_tensor(f, t);
    float *row = malloc((size_t)t->ne[0] * sizeof(*row));
    bool good = grown != NULL && data != NULL && row != NULL;
    for (size_t i = 0; i < n_rows && good; i++) {
        good = to_f32(t->type, data + i * row_bytes, row, t->ne[0]);
        out->rows[out->n_rows + i] = good ? length(row, t->ne[0]) : 0;
    }
    out->n_rows += good ? n_rows : 0;
    free(data);
    free(row);
    return good;
}

static int by_name(const void *a, const void *b)
{
    const struct ggml_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Rows come in the order of their tensors' names, not of the file. */
static bool read_tensors(const struct file *f, struct tightkv_ggml_fingerprint *out)
{
    const size_t n = (size_t)gguf_get_n_tensors(f->gguf);
    const struct ggml_tensor **all = calloc(n + 1, sizeof(*all));
    size_t n_all = 0;
    bool good = all != NULL;
    for (struct ggml_tensor *t = ggml_get_first_tensor(f->tensors); good && t != NULL;
         t = ggml_get_next_tensor(f->tensors, t)) {
        all[n_all++] = t;
    }
    if (good) {
        qsort(all, n_all, sizeof(*all), by_name);
    }
    for (size_t i = 0; i < n_all && good; i++) {
        if (ggml_n_dims(all[i]) == 1) {
            good = add_vector(f, all[i], &out->vectors);
        } else if (is_query_or_key(all[i]->name)) {
            good = add_rows(f, all[i], out);
        }
    }
    free(all);
    return good;
}

/* ---- the whole -------------------------------------------------------------------------- */

int tkg_fingerprint(const char *path, struct tightkv_ggml_fingerprint *out)
{
    struct tightkv_ggml_fingerprint found = {.struct_size = sizeof(found)};
    if (out == NULL || out->struct_size < sizeof(found)) {
        return TKV_ERR_INVALID;
    }
    struct file f = {.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC)};
    const struct gguf_init_params params = {.no_alloc = true, .ctx = &f.tensors};
    f.gguf = f.fd >= 0 ? gguf_init_from_file(path, params) : NULL;
    bool good = f.gguf != NULL;
    if (good) {
        read_metadata(&f, &found);
        good = read_tensors(&f, &found);
    }
    gguf_free(f.gguf);
    ggml_free(f.tensors);
    if (f.fd >= 0) {
        close(f.fd);
    }
    if (!good) {
        tkg_fingerprint_free(&found);
        return TKV_ERR_CORRUPT;
    }
    *out = found;
    return TKV_OK;
}

void tkg_fingerprint_free(struct tightkv_ggml_fingerprint *p)
{
    free(p->rows);
    p->rows = NULL;
    p->n_rows = 0;
}

static double sum_of(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i];
    }
    return sum;
}

/* Quantisers shorten all rows alike, few bits by some percent; beside that, rows of another
 * quantisation are hardly off. A row that is far off was changed. */
static bool rows_match(const struct tightkv_ggml_fingerprint *a,
                       const struct tightkv_ggml_fingerprint *b)
{
    double sum = 0;
    const size_t n = a->n_rows;
    const double common = sum_of(a->rows, n) / sum_of(b->rows, b->n_rows);
    if (n != b->n_rows || (n > 0 && !(fabs(common - 1) <= MOST_COMMON))) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const double x = (double)a->rows[i], y = (double)b->rows[i] * common;
        const double off = fabs(x - y) / (fmax(x, y) + 1e-30);
        if (!(off <= MOST_SINGLE)) {
            return false;
        }
        sum += off;
    }
    return sum <= MOST_TYPICAL * (double)n;
}

const char *tkg_fingerprint_differs(const struct tightkv_ggml_fingerprint *a,
                                    const struct tightkv_ggml_fingerprint *b)
{
    if (strcmp(a->architecture, b->architecture) != 0) {
        return "architecture";
    }
    if (a->shapes != b->shapes) {
        return "shapes";
    }
    if (a->rope != b->rope) {
        return "RoPE";
    }
    if (a->tokenizer != b->tokenizer) {
        return "tokenizer";
    }
    if (!rows_match(a, b)) {
        return "query and key weights";
    }
    return a->vectors != b->vectors ? "norms or biases" : NULL;
}
