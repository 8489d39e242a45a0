/* config.c: the environment, and the entry points of tightkv-ggml.h. */
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

bool tkg_config_load(void)
{
    tkv_error err = {0};
    const char *text = getenv("TIGHTKV_KV");
    if (tkv_spec_parse(text, &tkg_plugin.spec, &err) != TKV_OK) {
        tkg_log(GGML_LOG_LEVEL_ERROR, "not loaded, the KV cache stays as it is: TIGHTKV_KV=%s: %s",
                text, err.text);
        return false;
    }
    const char *size = getenv("TIGHTKV_SIZE");
    tkg_plugin.nominal_size = size != NULL && strcmp(size, "nominal") == 0;
    const char *mask = getenv("TIGHTKV_CPU");
    tkg_plugin.cpu_mask = mask != NULL ? (uint32_t)strtoul(mask, NULL, 0) : TKV_CPU_ALL;
    return true;
}

int tkg_configure(const char *text)
{
    tkv_error err = {0};
    tkv_spec spec = {.struct_size = sizeof(spec)};
    const tkv_status status =
        tkv_spec_parse(text != NULL ? text : getenv("TIGHTKV_KV"), &spec, &err);
    if (status != TKV_OK) {
        tkg_log(GGML_LOG_LEVEL_ERROR, "%s", err.text);
        return status;
    }
    pthread_mutex_lock(&tkg_plugin.lock);
    tkg_plugin.spec = spec;
    pthread_mutex_unlock(&tkg_plugin.lock);
    return TKV_OK;
}

static void add_buffer(struct tightkv_ggml_stats *sum, const struct tkg_buffer *buffer)
{
    for (const struct tkg_root *r = buffer->roots; r != NULL; r = r->next) {
        if (r->storage == TKG_PLAIN) {
            sum->plain_bytes += r->row_bytes * (size_t)(r->n_slots * r->n_streams);
        }
    }
    if (buffer->why_plain[0] != '\0') {
        memcpy(sum->why_plain, buffer->why_plain, sizeof(sum->why_plain));
    }
    tkv_cache_stats s = {.struct_size = sizeof(s)};
    if (buffer->cache == NULL || tkv_cache_get_stats(buffer->cache, &s) != TKV_OK) {
        return;
    }
    sum->n_caches++;
    sum->n_values += s.n_values;
    sum->f16_bytes += s.f16_bytes;
    sum->sealed_bytes += s.sealed_bytes;
    sum->open_bytes += s.open_bytes;
    sum->meta_bytes += s.meta_bytes;
    sum->visual_values += s.visual_values;
    sum->visual_bytes += s.visual_bytes;
    sum->side_bytes += s.side_bytes;
    sum->book_bytes += s.book_bytes;
    tkv_tier_stats t = {.struct_size = sizeof(t)};
    if (tkv_cache_get_tier_stats(buffer->cache, &t) == TKV_OK) {
        sum->tier_hits += t.hits;
        sum->tier_misses += t.misses;
        sum->tier_read_bytes += t.bytes_read;
        sum->tier_written_bytes += t.bytes_written;
        sum->tier_stall_ns += t.stall_ns;
        sum->tier_resident_bytes += t.resident_bytes;
    }
}

int tkg_stats(struct tightkv_ggml_stats *out)
{
    if (out == NULL || out->struct_size < sizeof(*out)) {
        return TKV_ERR_INVALID;
    }
    struct tightkv_ggml_stats sum = {.struct_size = out->struct_size};
    pthread_mutex_lock(&tkg_plugin.lock);
    for (const struct tkg_buffer *b = tkg_plugin.buffers; b != NULL; b = b->next) {
        add_buffer(&sum, b);
    }
    sum.n_scored = tkg_plugin.n_scored;
    if (sum.n_scored > 0) {
        sum.exact_fraction = tkg_plugin.exact_sum / (double)sum.n_scored;
        sum.read_fraction = tkg_plugin.read_sum / (double)sum.n_scored;
    }
    pthread_mutex_unlock(&tkg_plugin.lock);
    *out = sum;
    return TKV_OK;
}

int tkg_measure(int on)
{
    pthread_mutex_lock(&tkg_plugin.lock);
    tkg_plugin.measuring = on != 0;
    if (on) {
        tkg_plugin.exact_sum = 0;
        tkg_plugin.read_sum = 0;
        tkg_plugin.n_scored = 0;
    }
    pthread_mutex_unlock(&tkg_plugin.lock);
    return TKV_OK;
}
