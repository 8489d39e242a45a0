/* book.c: what learned codecs read of a model. The book is looked for where the spec says, then
 * beside the model, then in the user's books, then among those that came with tightkv. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plugin.h"

#define BOOK_END ".tkvbook"

static char *join(const char *a, const char *b, const char *c)
{
    const size_t n = strlen(a) + strlen(b) + strlen(c) + 1;
    char *text = malloc(n);
    if (text != NULL) {
        snprintf(text, n, "%s%s%s", a, b, c);
    }
    return text;
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Codebooks are read a line of cache at a time. */
static void *alloc_lines(size_t n)
{
    const size_t line = 64;
    return aligned_alloc(line, (n + line - 1) / line * line);
}

static bool read_file(const char *name, char **bytes, size_t *n_bytes)
{
    FILE *f = fopen(name, "rb");
    if (f == NULL) {
        return false;
    }
    long size = -1;
    if (fseek(f, 0, SEEK_END) == 0) {
        size = ftell(f);
    }
    *bytes = size >= 0 && fseek(f, 0, SEEK_SET) == 0 ? alloc_lines((size_t)size + 1) : NULL;
    *n_bytes = *bytes != NULL ? fread(*bytes, 1, (size_t)size, f) : 0;
    fclose(f);
    return *bytes != NULL && *n_bytes == (size_t)size;
}

/* ---- is it of this model? --------------------------------------------------------------- */

static bool book_hash(const tkv_book *book, const char *key, uint64_t *out)
{
    char text[32];
    return tkv_book_text(book, key, text, sizeof(text)) == TKV_OK &&
           sscanf(text, "%" SCNx64, out) == 1;
}

static bool book_fingerprint(const tkv_book *book, struct tightkv_ggml_fingerprint *out)
{
    tkv_book_tensor t = {.struct_size = sizeof(t)};
    bool good = tkv_book_text(book, "fingerprint.architecture", out->architecture,
                              sizeof(out->architecture)) == TKV_OK &&
                book_hash(book, "fingerprint.shapes", &out->shapes) &&
                book_hash(book, "fingerprint.rope", &out->rope) &&
                book_hash(book, "fingerprint.tokenizer", &out->tokenizer) &&
                book_hash(book, "fingerprint.vectors", &out->vectors);
    for (uint64_t i = 0; good && tkv_book_get_tensor(book, i, &t) == TKV_OK; i++) {
        if (strcmp(t.name, "fingerprint.rows") == 0) {
            out->n_rows = (size_t)t.n_values;
            break;
        }
    }
    out->rows = malloc((out->n_rows + 1) * sizeof(*out->rows));
    return good && out->rows != NULL &&
           tkv_book_read(book, "fingerprint.rows", 0, out->n_rows, out->rows) == TKV_OK;
}

/* What differs, NULL: nothing, or nobody can tell. */
static const char *differs(const tkv_book *book, const char *path,
                           const struct tightkv_ggml_fingerprint *model)
{
    struct tightkv_ggml_fingerprint of_book = {.struct_size = sizeof(of_book)};
    const char *what = NULL;
    if (model->rows == NULL) {
        tkg_log(GGML_LOG_LEVEL_WARN,
                "the model's file is not mapped: nobody checks that %s is of this model", path);
    } else if (book_fingerprint(book, &of_book)) {
        what = tkg_fingerprint_differs(&of_book, model);
    } else {
        tkg_log(GGML_LOG_LEVEL_WARN,
                "%s does not say what model it is of: nobody checks that it is of this one", path);
    }
    tkg_fingerprint_free(&of_book);
    return what;
}

/* ---- candidates ------------------------------------------------------------------------- */

struct search {
    struct tkg_buffer *buffer;
    struct tightkv_ggml_fingerprint model; /* rows NULL: the model's file is not known */
    tkv_error *err;
    bool stop; /* do not look on */
};

/* Opens `path`; a book of another model is closed again and named in err. */
static bool try_book(struct search *s, const char *path)
{
    struct tkg_buffer *b = s->buffer;
    if (!read_file(path, &b->book_bytes, &b->book_n_bytes)) {
        snprintf(s->err->text, sizeof(s->err->text), "cannot read the book %.180s: %s", path,
                 strerror(errno));
        tkg_book_close(b);
        return false;
    }
    tkv_error err = {{0}};
    if (tkv_book_open(b->ctx, b->book_bytes, b->book_n_bytes, &b->book, &err) != TKV_OK) {
        snprintf(s->err->text, sizeof(s->err->text), "%.120s: %.120s", path, err.text);
        tkg_book_close(b);
        return false;
    }
    const char *what = differs(b->book, path, &s->model);
    if (what != NULL) {
        snprintf(s->err->text, sizeof(s->err->text),
                 "%.120s is of another model (%s): make one with tightkv calibrate", path, what);
        tkg_book_close(b);
        return false;
    }
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The books in a folder, by name; their number. */
static size_t list_books(const char *folder, char ***out)
{
    DIR *d = opendir(folder);
    size_t n = 0;
    *out = NULL;
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char **grown =
            ends_with(e->d_name, BOOK_END) ? realloc(*out, (n + 1) * sizeof(*grown)) : NULL;
        if (grown != NULL) {
            *out = grown;
            grown[n] = join(folder, "/", e->d_name);
            n += grown[n] != NULL;
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    if (n > 0) {
        qsort(*out, n, sizeof(**out), by_name);
    }
    return n;
}

/* A book of this model in a folder of books of any model. */
static bool try_folder(struct search *s, char *folder)
{
    char **books = NULL;
    bool found = false;
    const size_t n = folder != NULL && s->model.rows != NULL ? list_books(folder, &books) : 0;
    for (size_t i = 0; i < n; i++) {
        found = found || try_book(s, books[i]);
        free(books[i]);
    }
    free(books);
    free(folder);
    return found;
}

static bool try_beside_model(struct search *s)
{
    const char *model = s->buffer->model;
    if (model == NULL) {
        return false;
    }
    const size_t n = strlen(model) - (ends_with(model, ".gguf") ? strlen(".gguf") : 0);
    char *path = join(model, BOOK_END, "");
    if (path != NULL) {
        memcpy(path + n, BOOK_END, sizeof(BOOK_END));
    }
    const bool found = path != NULL && access(path, F_OK) == 0;
    const bool good = found && try_book(s, path);
    free(path);
    s->stop = found && !good; /* it is meant for this model, and does not fit */
    return good;
}

static char *user_books(void)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    if (data != NULL && *data != '\0') {
        return join(data, "/tightkv/books", "");
    }
    return home != NULL ? join(home, "/.local/share/tightkv/books", "") : NULL;
}

/* models/ of the installation that the plug-in lies in, or of the checkout that it was built from. */
static bool try_installed(struct search *s)
{
    const char *given = getenv("TIGHTKV_DATA");
    if (given != NULL && *given != '\0') {
        return try_folder(s, join(given, "", ""));
    }
    Dl_info info;
    char *self = dladdr((void *)&tkg_plugin, &info) != 0 ? strdup(info.dli_fname) : NULL;
    char *slash = self != NULL ? strrchr(self, '/') : NULL;
    if (slash != NULL) {
        *slash = '\0';
    }
    const bool found = slash != NULL && try_folder(s, join(self, "/../share/tightkv/models", ""));
    free(self);
    return found || try_folder(s, join(TKG_MODELS_DIR, "", ""));
}

/* ---- the whole -------------------------------------------------------------------------- */

static bool wants_book(tkv_codec codec)
{
    for (uint32_t i = 0; i < tkv_codec_count(); i++) {
        tkv_codec_info info = {.struct_size = sizeof(info)};
        if (tkv_codec_describe(i, &info) == TKV_OK && info.id == codec.id) {
            return info.needs_book;
        }
    }
    return false;
}

/* Codecs that can do without say so once; the others fail with a message of their own. */
static void tell_missing(const struct tkg_buffer *b)
{
    const tkv_spec *spec = &b->spec;
    if (!wants_book(spec->k) && !wants_book(spec->v) && !wants_book(spec->visual_k) &&
        !wants_book(spec->visual_v)) {
        return;
    }
    if (b->model != NULL) {
        tkg_log(GGML_LOG_LEVEL_WARN,
                "no book for this model: codecs that can do without lose four times as much or "
                "more; run tightkv calibrate %s --text FILE -o BOOK",
                b->model);
    } else {
        tkg_log(GGML_LOG_LEVEL_WARN,
                "no book: what model this is cannot be told, as its file is not mapped; name one "
                "with book=FILE, or codecs that can do without lose four times as much or more");
    }
}

/* Opens the first book that is of this model. */
static bool look_around(struct search *s)
{
    return try_beside_model(s) ||
           (!s->stop && (try_folder(s, user_books()) || try_installed(s)));
}

/* Opens the book that the spec names or that is found; false where one that was meant for the model
 * is not of it. */
static bool find_book(struct search *s)
{
    const struct tkg_buffer *b = s->buffer;
    if (b->spec.book[0] != '\0') {
        return try_book(s, b->spec.book);
    }
    const bool found = look_around(s);
    if (!found && !s->stop) {
        tell_missing(b);
    }
    return found || !s->stop;
}

static bool has_index(const tkv_book *book)
{
    const char *prefix = "qvq.";
    tkv_book_tensor t = {.struct_size = sizeof(t)};
    for (uint64_t i = 0; tkv_book_get_tensor(book, i, &t) == TKV_OK; i++) {
        if (strncmp(t.name, prefix, strlen(prefix)) == 0) {
            return true;
        }
    }
    return false;
}

/* A cache without its index is only slower: it reads everything. */
static void check_index(struct tkg_buffer *b)
{
    if (!b->spec.index || (b->book != NULL && has_index(b->book))) {
        return;
    }
    tkg_log(GGML_LOG_LEVEL_ERROR,
            "index=qvq: %s, so every token reads the whole cache; run tightkv calibrate %s --text "
            "FILE --index -o BOOK",
            b->book != NULL ? "the model's book has no index" : "there is no book of this model",
            b->model != NULL ? b->model : "MODEL");
    b->spec.index = 0;
}

bool tkg_book_open(struct tkg_buffer *buffer, tkv_error *err)
{
    const tkv_spec *spec = &buffer->spec;
    if (spec->book[0] == '\0' && !spec->index && !wants_book(spec->k) && !wants_book(spec->v) &&
        !wants_book(spec->visual_k) && !wants_book(spec->visual_v)) {
        return true;
    }
    struct search s = {.buffer = buffer, .model = {.struct_size = sizeof(s.model)}, .err = err};
    if (buffer->model != NULL && tkg_fingerprint(buffer->model, &s.model) != TKV_OK) {
        tkg_log(GGML_LOG_LEVEL_WARN, "%s: not all of its tensors are there", buffer->model);
    }
    const bool good = find_book(&s);
    tkg_fingerprint_free(&s.model);
    if (!good) {
        tkg_log(GGML_LOG_LEVEL_ERROR, "%s", err->text);
        return false;
    }
    check_index(buffer);
    return true;
}

void tkg_book_close(struct tkg_buffer *buffer)
{
    tkv_book_close(buffer->book);
    free(buffer->book_bytes);
    buffer->book = NULL;
    buffer->book_bytes = NULL;
}

static bool has_codec(const tkv_book *book, const char *codec)
{
    const size_t n = strlen(codec);
    tkv_book_tensor t = {.struct_size = sizeof(t)};
    for (uint64_t i = 0; tkv_book_get_tensor(book, i, &t) == TKV_OK; i++) {
        if (strncmp(t.name, codec, n) == 0 && t.name[n] == '.') {
            return true;
        }
    }
    return false;
}

int tkg_has_book(const char *path, const char *codec)
{
    tkv_error err = {{0}};
    struct tkg_buffer buffer = {.model = strdup(path)};
    struct search s = {.buffer = &buffer, .model = {.struct_size = sizeof(s.model)}, .err = &err};
    const bool has = buffer.model != NULL &&
                     tkv_context_create(NULL, &buffer.ctx, &err) == TKV_OK &&
                     tkg_fingerprint(path, &s.model) == TKV_OK && look_around(&s) &&
                     has_codec(buffer.book, codec);
    tkg_book_close(&buffer);
    tkg_fingerprint_free(&s.model);
    tkv_context_destroy(buffer.ctx);
    free(buffer.model);
    return has ? TKV_OK : TKV_ERR_UNSUPPORTED;
}
