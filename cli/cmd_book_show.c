/* tightkv book show: what a book holds. */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* Tensors that differ in the layer's number only. */
struct group {
    char name[64]; /* "tight3.blk.*.attn_k.bits" */
    tkv_book_tensor first;
    size_t n;
    uint64_t n_bytes;
    double sum, n_values; /* of numbers that are small integers: bits */
};

struct book {
    const char *path;
    char *bytes;
    size_t n_bytes;
    tkv_context *ctx;
    tkv_book *book;
};

static const char *const keys[] = {"fingerprint.architecture", "fingerprint.shapes",
                                   "fingerprint.rope", "fingerprint.tokenizer",
                                   "fingerprint.vectors"};
enum {
    N_KEYS = sizeof(keys) / sizeof(keys[0])
};

static int open_book(struct book *b, const char *path)
{
    tkv_error err;
    *b = (struct book){.path = path};
    b->bytes = cli_read_file(path, &b->n_bytes);
    if (!b->bytes)
        return CLI_DATA;
    if (tkv_context_create(NULL, &b->ctx, &err) != TKV_OK ||
        tkv_book_open(b->ctx, b->bytes, b->n_bytes, &b->book, &err) != TKV_OK)
        return cli_fail("%s: %s", path, err.text);
    return CLI_OK;
}

static void close_book(struct book *b)
{
    tkv_book_close(b->book);
    tkv_context_destroy(b->ctx);
    free(b->bytes);
}

/* ---- groups --------------------------------------------------------------------------------- */

static void group_name(const char *name, char *out, size_t capacity)
{
    const char *layer = strstr(name, "blk.");
    const size_t n = layer ? (size_t)(layer - name) + strlen("blk.") : 0;
    const size_t digits = layer ? strspn(name + n, "0123456789") : 0;
    snprintf(out, capacity, "%.*s%s%s", (int)n, name, digits ? "*" : "", name + n + digits);
}

static bool same_shape(const tkv_book_tensor *a, const tkv_book_tensor *b)
{
    return strcmp(a->type, b->type) == 0 && memcmp(a->dims, b->dims, sizeof(a->dims)) == 0;
}

static void add_values(struct group *g, const struct book *b, const tkv_book_tensor *t)
{
    if (strcmp(t->type, "i8") != 0)
        return;
    float *values = cli_alloc((size_t)t->n_values, sizeof(*values));
    if (tkv_book_read(b->book, t->name, 0, (size_t)t->n_values, values) == TKV_OK)
        for (uint64_t i = 0; i < t->n_values; i++)
            g->sum += (double)values[i];
    g->n_values += (double)t->n_values;
    free(values);
}

static size_t find_groups(const struct book *b, struct group **out)
{
    size_t n = 0;
    tkv_book_tensor t = {.struct_size = sizeof(t)};
    *out = NULL;
    for (uint64_t i = 0; tkv_book_get_tensor(b->book, i, &t) == TKV_OK; i++) {
        char name[64];
        group_name(t.name, name, sizeof(name));
        size_t g = 0;
        while (g < n && !(strcmp((*out)[g].name, name) == 0 && same_shape(&(*out)[g].first, &t)))
            g++;
        if (g == n) {
            *out = cli_grow(*out, ++n, sizeof(**out));
            (*out)[g] = (struct group){.first = t};
            memcpy((*out)[g].name, name, sizeof(name));
        }
        (*out)[g].n++;
        (*out)[g].n_bytes += t.n_bytes;
        add_values(&(*out)[g], b, &t);
    }
    return n;
}

/* ---- printing ------------------------------------------------------------------------------- */

static char *shape_text(const tkv_book_tensor *t)
{
    char text[96];
    int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)t->dims[0]);
    for (size_t last = 3; last > 0; last--)
        if (t->dims[last] > 1) {
            for (size_t i = 1; i <= last; i++)
                n += snprintf(text + n, sizeof(text) - (size_t)n, " x %llu",
                              (unsigned long long)t->dims[i]);
            break;
        }
    return cli_format("%s", text);
}

static void print_table(const struct group *groups, size_t n)
{
    enum {
        COLUMNS = 6
    };
    const char **cells = cli_alloc((n + 1) * COLUMNS, sizeof(*cells));
    static const char *const head[COLUMNS] = {"tensors", "layers", "type", "shape", "KiB", "mean"};
    memcpy(cells, head, sizeof(head));
    for (size_t i = 0; i < n; i++) {
        const struct group *g = &groups[i];
        const char **row = cells + (i + 1) * COLUMNS;
        row[0] = cli_format("%s", g->name);
        row[1] = strchr(g->name, '*') ? cli_format("%zu", g->n) : cli_format("-");
        row[2] = cli_format("%s", g->first.type);
        row[3] = shape_text(&g->first);
        row[4] = cli_format("%.1f", (double)g->n_bytes / 1024);
        row[5] = g->n_values > 0 ? cli_format("%.3f", g->sum / g->n_values) : cli_format("-");
    }
    cli_table_print(cells, n + 1, COLUMNS);
    for (size_t i = COLUMNS; i < (n + 1) * COLUMNS; i++)
        free((void *)cells[i]);
    free(cells);
}

static void print_text(const struct book *b, const struct group *groups, size_t n)
{
    printf("%s: %.1f MiB\n", b->path, (double)b->n_bytes / (1 << 20));
    for (size_t i = 0; i < N_KEYS; i++) {
        char text[128];
        const char *name = strchr(keys[i], '.') + 1;
        if (tkv_book_text(b->book, keys[i], text, sizeof(text)) == TKV_OK)
            printf("%s %s\n", name, text);
        else
            printf("%s not known\n", name);
    }
    putchar('\n');
    print_table(groups, n);
}

static int print_json(const struct book *b, const struct group *groups, size_t n,
                      const struct cli_common *common)
{
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "book", common);
    cli_json_base_name(root, "file", b->path);
    cli_json_number(root, "bytes", (double)b->n_bytes);
    for (size_t i = 0; i < N_KEYS; i++) {
        char text[128];
        const char *name = strchr(keys[i], '.') + 1;
        if (tkv_book_text(b->book, keys[i], text, sizeof(text)) == TKV_OK)
            cli_json_text(root, name, text);
        else
            cJSON_AddNullToObject(root, name);
    }
    cJSON *list = cli_json_array(root, "tensors");
    for (size_t i = 0; i < n; i++) {
        cJSON *item = cli_json_object(list, NULL);
        cli_json_text(item, "name", groups[i].name);
        cli_json_number(item, "count", (double)groups[i].n);
        cli_json_text(item, "type", groups[i].first.type);
        cJSON *dims = cli_json_array(item, "dims");
        for (size_t k = 0; k < 4; k++)
            cJSON_AddItemToArray(dims, cJSON_CreateNumber((double)groups[i].first.dims[k]));
        cli_json_number(item, "bytes", (double)groups[i].n_bytes);
    }
    return cli_json_print(root);
}

int cmd_book_show(int argc, char **argv)
{
    static const char about[] = "Prints what a book of tightkv calibrate holds: which model it is "
                                "of, and its tensors, those\n"
                                "of all layers in one line; mean: of bits that coefficients get.";
    struct cli_common common;
    const struct cli_syntax syntax = {"book show", "BOOK", about, NULL, 0};
    int first = cli_parse(&syntax, &common, argc, argv);
    if (first < 0)
        return -1 - first;
    if (first + 1 != argc)
        return cli_misuse("book show", "give one BOOK");
    struct book b;
    struct group *groups = NULL;
    int rc = open_book(&b, argv[first]);
    if (rc == CLI_OK) {
        size_t n = find_groups(&b, &groups);
        if (common.json)
            rc = print_json(&b, groups, n, &common);
        else
            print_text(&b, groups, n);
    }
    free(groups);
    close_book(&b);
    return rc;
}
