/* model.c: the file of the model whose cache this is. Nothing tells a device, but llama.cpp maps
 * weights from the file unless told otherwise, and the graph above a layer's keys leads to some:
 * the system knows what is mapped at their address. Linux only; elsewhere, and where weights were
 * read instead (--no-mmap), there is no answer. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

/* Nodes looked at, and leaves asked about: some are packed anew and mapped nowhere. */
enum {
    MAX_LOOKS = 64,
    MAX_LEAVES = 16
};

struct leaves {
    int n_looks, n;
    uintptr_t address[MAX_LEAVES];
};

static void find_leaves(const struct ggml_tensor *t, struct leaves *l)
{
    if (t == NULL || l->n_looks++ >= MAX_LOOKS) {
        return;
    }
    const struct ggml_tensor *leaf = tkg_leaf(t);
    if (leaf->op == GGML_OP_NONE) {
        if (leaf->data != NULL && l->n < MAX_LEAVES) {
            l->address[l->n++] = (uintptr_t)leaf->data;
        }
        return;
    }
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        find_leaves(t->src[i], l);
    }
}

static bool holds_one(const struct leaves *l, uintptr_t first, uintptr_t end)
{
    for (int i = 0; i < l->n; i++) {
        if (l->address[i] >= first && l->address[i] < end) {
            return true;
        }
    }
    return false;
}

static bool is_gguf(const char *path)
{
    char magic[4] = {0};
    FILE *f = fopen(path, "rb");
    const bool good = f != NULL && fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
    if (f != NULL) {
        fclose(f);
    }
    return good;
}

char *tkg_model_path(const struct ggml_tensor *rows)
{
    struct leaves leaves = {0};
    find_leaves(rows, &leaves);
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4400], *found = NULL;
    while (maps != NULL && found == NULL && fgets(line, sizeof(line), maps) != NULL) {
        uintptr_t first, end;
        const char *path = strchr(line, '/');
        if (path == NULL || sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &first, &end) != 2) {
            continue;
        }
        line[strcspn(line, "\n")] = '\0';
        if (holds_one(&leaves, first, end) && is_gguf(path)) {
            found = strdup(path);
        }
    }
    if (maps != NULL) {
        fclose(maps);
    }
    return found;
}
