/* The file of a model: its header through ggml, its weights mapped. */
#include "harden.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int map_file(struct harden_file *f)
{
    struct stat st;
    int fd = open(f->path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int rc = cli_fail("cannot open %s: %s", f->path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    f->n_bytes = (size_t)st.st_size;
    void *map = mmap(NULL, f->n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return cli_fail("cannot read %s: %s", f->path, strerror(errno));
    f->map = map;
    return CLI_OK;
}

int harden_file_open(struct harden_file *f, const struct llama_api *api, const char *path)
{
    *f = (struct harden_file){.api = api, .path = path};
    int rc = map_file(f);
    if (rc != CLI_OK)
        return rc;
    f->gguf = api->gguf_init_from_file(path, (struct gguf_init_params){.no_alloc = true});
    if (!f->gguf)
        return cli_fail("%s: not a GGUF file, or its header is damaged; fetch it again", path);
    f->data_at = api->gguf_get_data_offset(f->gguf);
    f->arch = api->gguf_get_val_str(f->gguf, api->gguf_find_key(f->gguf, "general.architecture"));
    return CLI_OK;
}

void harden_file_close(struct harden_file *f)
{
    if (f->gguf)
        f->api->gguf_free(f->gguf);
    if (f->map)
        munmap((void *)f->map, f->n_bytes);
    *f = (struct harden_file){0};
}

static int64_t find(const struct harden_file *f, const char *suffix, enum gguf_type type)
{
    char key[160];
    snprintf(key, sizeof(key), "%s.%s", f->arch, suffix);
    int64_t id = f->api->gguf_find_key(f->gguf, key);
    return id >= 0 && f->api->gguf_get_kv_type(f->gguf, id) == type ? id : -1;
}

uint32_t harden_file_count(const struct harden_file *f, const char *suffix, uint32_t otherwise)
{
    int64_t id = find(f, suffix, GGUF_TYPE_UINT32);
    return id >= 0 ? f->api->gguf_get_val_u32(f->gguf, id) : otherwise;
}

double harden_file_real(const struct harden_file *f, const char *suffix, double otherwise)
{
    int64_t id = find(f, suffix, GGUF_TYPE_FLOAT32);
    return id >= 0 ? (double)f->api->gguf_get_val_f32(f->gguf, id) : otherwise;
}

bool harden_file_has(const struct harden_file *f, const char *key)
{
    return f->api->gguf_find_key(f->gguf, key) >= 0;
}

int64_t harden_file_tensor(const struct harden_file *f, uint32_t layer, const char *name)
{
    char full[64];
    snprintf(full, sizeof(full), "blk.%u.%s", layer, name);
    return f->api->gguf_find_tensor(f->gguf, full);
}

const uint8_t *harden_file_data(const struct harden_file *f, int64_t tensor)
{
    return f->map + f->data_at + f->api->gguf_get_tensor_offset(f->gguf, tensor);
}
