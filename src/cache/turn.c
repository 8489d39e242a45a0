/* Turning the keys of a page back by the angles of one position: see cache.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "cache/cache.h"

/* sin and cos of x in [-pi/4, pi/4]: Taylor to 1e-16. Library functions differ in the last bit from
 * one system to the next, and codes must not. */
static double sin_near(double x)
{
    const double y = x * x;
    double sum = 0;
    for (int n = 17; n >= 3; n -= 2)
        sum = -y / (n * (n - 1)) * (1 + sum);
    return x * (1 + sum);
}

static double cos_near(double x)
{
    const double y = x * x;
    double sum = 0;
    for (int n = 18; n >= 2; n -= 2)
        sum = -y / (n * (n - 1)) * (1 + sum);
    return 1 + sum;
}

static void angle(double x, float out[2])
{
    const double half_pi = 1.5707963267948966, rest = 6.123233995736766e-17;
    const double n = rint(x / half_pi);
    const double y = x - n * half_pi - n * rest;
    const double c = cos_near(y), s = sin_near(y);
    const double cosines[4] = {c, -s, -c, s}, sines[4] = {s, c, -s, -c};
    const unsigned quarter = (unsigned)(int64_t)fmod(n, 4.0) & 3u;
    out[0] = (float)cosines[quarter];
    out[1] = (float)-sines[quarter];
}

/* The frequencies that a book gives for a layer, or for all; none: no RoPE there. */
static bool find_freq(const tkv_cache *cache, const struct tkv_layer *layer,
                      struct tkv_gguf_tensor *out)
{
    char name[48];
    snprintf(name, sizeof name, "blk.%u.rope_freq", (unsigned)layer->shape.model_layer);
    return tkv_gguf_tensor(&cache->book->file, name, out) ||
           tkv_gguf_tensor(&cache->book->file, "rope_freq", out);
}

static tkv_status read_freq(const struct tkv_layer *layer, const struct tkv_gguf_tensor *t,
                            float *freq, tkv_error *err)
{
    if (t->type != TKV_GGUF_F32 || 2 * t->n_values > layer->head_dim[TKV_K])
        return tkv_fail(err, TKV_ERR_CORRUPT, "a book whose rope_freq does not fit the keys");
    tkv_gguf_read_f32(t, 0, t->n_values, freq);
    for (size_t i = 0; i < t->n_values; i++)
        if (!(fabsf(freq[i]) <= 8.0f))
            return tkv_fail(err, TKV_ERR_CORRUPT, "a book whose rope_freq holds %g",
                            (double)freq[i]);
    return TKV_OK;
}

static bool same_rope(const struct tkv_turns *t, uint32_t n, uint32_t half, const float *freq)
{
    return t->n_pairs == n && t->half == half && memcmp(t->freq, freq, n * sizeof *freq) == 0;
}

static tkv_status add_turns(tkv_cache *cache, uint32_t n, uint32_t half, const float *freq,
                            struct tkv_layer *layer, tkv_error *err)
{
    const tkv_allocator *a = &cache->ctx->allocator;
    struct tkv_turns *turns = tkv_alloc_zero(a, sizeof *turns);
    float *kept = tkv_alloc(a, n * sizeof *kept);
    if (!turns || !kept) {
        tkv_free(a, turns, sizeof *turns);
        tkv_free(a, kept, n * sizeof *kept);
        return tkv_fail_nomem(err, sizeof *turns + n * sizeof *kept, "RoPE turns");
    }
    memcpy(kept, freq, n * sizeof *kept);
    *turns = (struct tkv_turns){cache->turns, n, half, kept, NULL, 0};
    cache->turns = layer->turns = turns;
    return tkv_turns_reach(cache, turns, 0, err);
}

tkv_status tkv_turns_find(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err)
{
    struct tkv_gguf_tensor t;
    float freq[TKV_MAX_HEAD_DIM / 2];
    uint32_t halves = 0;
    if (!find_freq(cache, layer, &t))
        return TKV_OK;
    const tkv_status status = read_freq(layer, &t, freq, err);
    if (status != TKV_OK)
        return status;
    const uint32_t n = (uint32_t)t.n_values;
    tkv_gguf_u32(&cache->book->file, "book.rope_halves", &halves);
    for (layer->turns = cache->turns; layer->turns; layer->turns = layer->turns->next)
        if (same_rope(layer->turns, n, halves ? n : 0, freq))
            return TKV_OK;
    return add_turns(cache, n, halves ? n : 0, freq, layer, err);
}

tkv_status tkv_turns_reach(tkv_cache *cache, struct tkv_turns *turns, int32_t pos, tkv_error *err)
{
    const uint32_t wanted = (uint32_t)pos / TKV_TURN_STEP + 3;
    if (wanted <= turns->n_turns)
        return TKV_OK;
    const tkv_allocator *a = &cache->ctx->allocator;
    const size_t row = turns->n_pairs * sizeof *turns->table;
    const uint32_t n = wanted < 2 * turns->n_turns ? 2 * turns->n_turns : wanted;
    float(*table)[2] = tkv_alloc(a, n * row);
    if (!table)
        return tkv_fail_nomem(err, n * row, "RoPE turns");
    if (turns->n_turns)
        memcpy(table, turns->table, turns->n_turns * row);
    for (uint32_t i = turns->n_turns; i < n; i++)
        for (uint32_t p = 0; p < turns->n_pairs; p++)
            angle((double)turns->freq[p] * ((double)i * TKV_TURN_STEP),
                  table[(size_t)i * turns->n_pairs + p]);
    tkv_free(a, turns->table, turns->n_turns * row);
    turns->table = table;
    turns->n_turns = n;
    return TKV_OK;
}

void tkv_turns_release(tkv_cache *cache)
{
    const tkv_allocator *a = &cache->ctx->allocator;
    for (struct tkv_turns *t = cache->turns, *next; t; t = next) {
        next = t->next;
        tkv_free(a, t->table, (size_t)t->n_turns * t->n_pairs * sizeof *t->table);
        tkv_free(a, t->freq, t->n_pairs * sizeof *t->freq);
        tkv_free(a, t, sizeof *t);
    }
}

uint32_t tkv_turn_of(const struct tkv_layer *layer, const struct tkv_page *page)
{
    const struct tkv_open *info = tkv_open_info(page);
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS && layer->turns; t++) {
        if (info->pos[t] == TKV_NO_POS)
            continue;
        const int64_t middle = (int64_t)info->pos[t] - t + TKV_PAGE_TOKENS / 2;
        const int64_t turn = (middle + TKV_TURN_STEP / 2) / TKV_TURN_STEP;
        return turn < 0 ? 0 : turn < layer->turns->n_turns ? (uint32_t)turn : 0;
    }
    return info->turn;
}

void tkv_turn_rows(const tkv_cache *cache, const struct tkv_layer *layer, uint32_t turn, bool forth,
                   float *x, size_t n)
{
    const struct tkv_turns *turns = layer->turns;
    if (!turns || turn == 0)
        return;
    const float(*table)[2] = (const float(*)[2])turns->table + (size_t)turn * turns->n_pairs;
    float mirror[TKV_MAX_HEAD_DIM / 2][2];
    for (uint32_t p = 0; forth && p < turns->n_pairs; p++) {
        mirror[p][0] = table[p][0];
        mirror[p][1] = -table[p][1];
    }
    cache->ctx->kernels.turn(x, n, layer->head_dim[TKV_K], turns->half, turns->n_pairs,
                             forth ? (const float(*)[2])mirror : table);
}
