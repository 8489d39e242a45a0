/* Blocks in row order: where keys and values of a token lie side by side, a few rows of many pages
 * cost by the rows, and not by the pages. */
#include "base/alloc.h"
#include "cache/cache.h"

void tkv_layer_use_rows(struct tkv_layer *layer)
{
    const struct tkv_codec_ops *ops[2];
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        ops[kind] = layer->codec[TKV_SPAN_TEXT][kind].ops;
    if (!ops[TKV_K]->to_rows || !ops[TKV_V]->to_rows)
        return;
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        layer->row_bytes[kind] =
            ops[kind]->page_bytes(layer->head_dim[kind], (tkv_kind)kind) / TKV_PAGE_TOKENS;
}

size_t tkv_tile_room_bytes(const struct tkv_layer *layer)
{
    const size_t *row = layer->row_bytes;
    return tkv_align_up((row[TKV_K] > row[TKV_V] ? row[TKV_K] : row[TKV_V]) * TKV_PAGE_TOKENS);
}

void tkv_to_rows(const struct tkv_cache *cache, const struct tkv_layer *layer, tkv_kind kind,
                 uint32_t head, const uint8_t *tiles, uint8_t *page)
{
    const struct tkv_codec_env env = tkv_layer_env(cache, layer, TKV_SPAN_TEXT, kind, head);
    layer->codec[TKV_SPAN_TEXT][kind].ops->to_rows(&env, tiles, page, tkv_row_stride(layer));
}

void tkv_from_rows(const struct tkv_cache *cache, const struct tkv_layer *layer, tkv_kind kind,
                   uint32_t head, const uint8_t *const *rows, uint8_t *tiles)
{
    const struct tkv_codec_env env = tkv_layer_env(cache, layer, TKV_SPAN_TEXT, kind, head);
    layer->codec[TKV_SPAN_TEXT][kind].ops->from_rows(&env, rows, tiles);
}

const uint8_t *tkv_in_tiles(const struct tkv_cache *cache, const struct tkv_layer *layer,
                            tkv_kind kind, uint32_t head, const uint8_t *page, uint8_t *room)
{
    const uint8_t *rows[TKV_PAGE_TOKENS];
    if (!tkv_in_rows(layer))
        return page;
    for (size_t t = 0; t < TKV_PAGE_TOKENS; t++)
        rows[t] = page + t * tkv_row_stride(layer);
    tkv_from_rows(cache, layer, kind, head, rows, room);
    return room;
}
