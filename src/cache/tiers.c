/* Coded pages of a cache that has tiers: their blocks, one a KV head. */
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "cache/cache.h"

/* Blocks that are asked for at once, and that are read ahead. */
#define LIST_BLOCKS 64

struct tkv_block *tkv_tier_block_of(const struct tkv_page *page, uint32_t head)
{
    return (struct tkv_block *)page->record + head;
}

static size_t blocks_bytes(const struct tkv_layer *layer)
{
    return layer->shape.n_kv_heads * sizeof(struct tkv_block);
}

tkv_status tkv_tiers_open(tkv_cache *cache, tkv_error *err)
{
    if (!*cache->spec.spill)
        return TKV_OK;
    const struct tkv_tier_params params = {.allocator = &cache->ctx->allocator,
                                           .executor = &cache->ctx->executor,
                                           .folder = cache->spec.spill,
                                           .ram = cache->spec.ram};
    return tkv_tier_create(&params, &cache->tier, err);
}

tkv_status tkv_tiers_check(const tkv_cache *cache, const struct tkv_layer *layer, tkv_error *err)
{
    uint64_t page = 0, chunk = 0, round_pages = TKV_ROUND_PAGES;
    if (!cache->tier)
        return TKV_OK;
    if (layer->index && tkv_in_rows(layer)) /* gathers */
        round_pages =
            layer->pages_per_stream < TKV_GATHER_PAGES ? layer->pages_per_stream : TKV_GATHER_PAGES;
    for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++) {
        const uint64_t block = tkv_tier_block_bytes(cache->tier, tkv_block_bytes(layer, head));
        page += block;
        chunk = block * round_pages > chunk ? block * round_pages : chunk;
    }
    const uint64_t least = tkv_tier_least_ram(page > chunk ? page : chunk);
    if (cache->spec.ram >= least)
        return TKV_OK;
    return tkv_fail(err, TKV_ERR_INVALID,
                    "ram=%llu is too little to attend to layer %u: it takes ram=%lluK at least",
                    (unsigned long long)cache->spec.ram, layer->shape.model_layer,
                    (unsigned long long)(least + 1023) / 1024);
}

tkv_status tkv_tier_name(const struct tkv_layer *layer, const struct tkv_page *page,
                         tkv_status status, tkv_error *err)
{
    if (status != TKV_ERR_IO && status != TKV_ERR_CORRUPT)
        return status;
    tkv_error what = {""};
    if (err)
        what = *err;
    return tkv_fail(err, status, "layer %u, page %zu: %.200s", layer->shape.model_layer,
                    (size_t)(page - layer->pages), what.text);
}

static void let_heads(tkv_cache *cache, const struct tkv_page *page, uint32_t end)
{
    for (uint32_t head = 0; head < end; head++) {
        struct tkv_block *block = tkv_tier_block_of(page, head);
        tkv_tier_release(cache->tier, &block, 1, true);
    }
}

tkv_status tkv_page_hold(tkv_cache *cache, const struct tkv_layer *layer,
                         const struct tkv_page *page, tkv_error *err)
{
    struct tkv_block *list[LIST_BLOCKS];
    size_t n, failed;
    if (!cache->tier || page->state != TKV_PAGE_SEALED)
        return TKV_OK;
    for (uint32_t head = 0; head < layer->shape.n_kv_heads; head += (uint32_t)n) {
        for (n = 0; n < LIST_BLOCKS && head + n < layer->shape.n_kv_heads; n++)
            list[n] = tkv_tier_block_of(page, head + (uint32_t)n);
        const tkv_status status = tkv_tier_fetch(cache->tier, list, n, true, &failed, err);
        if (status == TKV_OK)
            continue;
        let_heads(cache, page, head);
        return tkv_tier_name(layer, page, status, err);
    }
    return TKV_OK;
}

void tkv_page_let(tkv_cache *cache, const struct tkv_layer *layer, const struct tkv_page *page)
{
    if (cache->tier && page->state == TKV_PAGE_SEALED)
        let_heads(cache, page, layer->shape.n_kv_heads);
}

void tkv_page_ahead(tkv_cache *cache, const struct tkv_layer *layer, const struct tkv_page *page,
                    size_t n_pages)
{
    const struct tkv_page *end = layer->pages + layer->shape.n_streams * layer->pages_per_stream;
    const uint32_t n_heads = layer->shape.n_kv_heads;
    struct tkv_block *list[LIST_BLOCKS];
    size_t n = 0;
    for (; cache->tier && n_pages && page < end && n + n_heads <= LIST_BLOCKS; page++, n_pages--)
        for (uint32_t head = 0; page->state == TKV_PAGE_SEALED && head < n_heads; head++)
            list[n++] = tkv_tier_block_of(page, head);
    if (n)
        tkv_tier_prefetch(cache->tier, list, n);
}

static struct tkv_block *take_blocks(struct tkv_layer *layer)
{
    struct tkv_block *blocks = tkv_pool_take(layer->block_pool);
    if (blocks)
        memset(blocks, 0, blocks_bytes(layer));
    return blocks;
}

/* Head by head, so that neighbouring pages of a head are neighbours in the file. */
static tkv_status put_list(tkv_cache *cache, struct tkv_layer *layer, struct tkv_block **blocks,
                           const struct tkv_coding *list, size_t n, tkv_error *err)
{
    tkv_status status = TKV_OK;
    for (size_t i = 0; i < n; i++) {
        blocks[i] = take_blocks(layer);
        if (!blocks[i])
            return tkv_fail_nomem(err, blocks_bytes(layer), "a page's blocks");
    }
    for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++)
        for (size_t i = 0; i < n && status == TKV_OK; i++)
            status = tkv_tier_put(cache->tier, &blocks[i][head],
                                  tkv_record_block(layer, list[i].record, head),
                                  tkv_block_bytes(layer, head), err);
    return status;
}

tkv_status tkv_sealed_keep(tkv_cache *cache, struct tkv_layer *layer, struct tkv_coding *list,
                           size_t n, tkv_error *err)
{
    if (!cache->tier || n == 0)
        return TKV_OK;
    const size_t bytes = n * sizeof(struct tkv_block *);
    struct tkv_block **blocks = tkv_alloc_zero(&cache->ctx->allocator, bytes);
    if (!blocks)
        return tkv_fail_nomem(err, bytes, "sealing");
    const tkv_status status = put_list(cache, layer, blocks, list, n, err);
    for (size_t i = 0; i < n; i++) {
        if (status == TKV_OK) {
            tkv_pool_give(layer->sealed_pool, list[i].record);
            list[i].record = blocks[i];
        } else if (blocks[i]) {
            tkv_sealed_drop(cache, layer, blocks[i]);
        }
    }
    tkv_free(&cache->ctx->allocator, blocks, bytes);
    tkv_tier_write_behind(cache->tier);
    return status;
}

/* The source's blocks are held. */
static tkv_status copy_blocks(tkv_cache *cache, struct tkv_layer *layer,
                              const struct tkv_page *page, void **out, tkv_error *err)
{
    tkv_status status = TKV_OK;
    struct tkv_block *blocks = take_blocks(layer);
    if (!blocks)
        return tkv_fail_nomem(err, blocks_bytes(layer), "a page's blocks");
    for (uint32_t head = 0; head < layer->shape.n_kv_heads && status == TKV_OK; head++)
        status = tkv_tier_put(cache->tier, &blocks[head], tkv_page_block(layer, page, head),
                              tkv_block_bytes(layer, head), err);
    if (status == TKV_OK)
        *out = blocks;
    else
        tkv_sealed_drop(cache, layer, blocks);
    return status;
}

tkv_status tkv_sealed_copy(tkv_cache *cache, struct tkv_layer *layer, const struct tkv_page *page,
                           void **out, tkv_error *err)
{
    if (cache->tier) {
        tkv_status status = tkv_page_hold(cache, layer, page, err);
        if (status != TKV_OK)
            return status;
        status = copy_blocks(cache, layer, page, out, err);
        tkv_page_let(cache, layer, page);
        tkv_tier_write_behind(cache->tier);
        return status;
    }
    void *record = tkv_pool_take(layer->sealed_pool);
    if (!record)
        return tkv_fail_nomem(err, layer->sealed_pool->record_bytes, "a sealed page");
    memcpy(record, page->record, layer->sealed_pool->record_bytes);
    *out = record;
    return TKV_OK;
}

void tkv_sealed_drop(tkv_cache *cache, struct tkv_layer *layer, void *sealed)
{
    if (!cache->tier) {
        tkv_pool_give(layer->sealed_pool, sealed);
        return;
    }
    struct tkv_block *blocks = sealed;
    for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++)
        tkv_tier_drop(cache->tier, &blocks[head]);
    tkv_pool_give(layer->block_pool, blocks);
}

tkv_status tkv_cache_get_tier_stats(const tkv_cache *cache, tkv_tier_stats *out)
{
    if (!cache || !out || out->struct_size != sizeof *out)
        return TKV_ERR_INVALID;
    *out = cache->tier ? tkv_tier_get_stats(cache->tier)
                       : (tkv_tier_stats){.struct_size = sizeof *out};
    return TKV_OK;
}
