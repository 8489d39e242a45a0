/* Turning the keys of a page back, by the angles of one position or each by its own: see cache.h. */
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

/* What a book says of a layer, or of all; nothing: no RoPE there. */
static bool find(const tkv_cache *cache, const struct tkv_layer *layer, const char *what,
                 struct tkv_gguf_tensor *out)
{
    char name[48];
    snprintf(name, sizeof name, "blk.%u.%s", (unsigned)layer->shape.model_layer, what);
    return tkv_gguf_tensor(&cache->book->file, name, out) ||
           tkv_gguf_tensor(&cache->book->file, what, out);
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

static tkv_status read_axes(const tkv_cache *cache, const struct tkv_layer *layer, uint32_t n,
                            uint8_t *axis, tkv_error *err)
{
    struct tkv_gguf_tensor t;
    memset(axis, 0, n);
    if (!find(cache, layer, "rope_axis", &t))
        return TKV_OK;
    if (t.type != TKV_GGUF_I8 || t.n_values != n)
        return tkv_fail(err, TKV_ERR_CORRUPT, "a book whose rope_axis does not fit its rope_freq");
    memcpy(axis, t.data, n);
    for (uint32_t i = 0; i < n; i++)
        if (axis[i] >= TKV_N_AXES)
            return tkv_fail(err, TKV_ERR_CORRUPT, "a book whose rope_axis holds %u", axis[i]);
    return TKV_OK;
}

/* The RoPE of a layer, as read. */
struct rope {
    uint32_t n, half;
    float freq[TKV_MAX_HEAD_DIM / 2];
    uint8_t axis[TKV_MAX_HEAD_DIM / 2];
};

static bool same_rope(const struct tkv_turns *t, const struct rope *r)
{
    return t->n_pairs == r->n && t->half == r->half &&
           memcmp(t->freq, r->freq, r->n * sizeof *r->freq) == 0 &&
           memcmp(t->axis, r->axis, r->n) == 0;
}

static size_t near_bytes(const struct tkv_turns *t)
{
    return 2 * (size_t)t->n_pairs * TKV_TURN_NEAR * sizeof(float);
}

/* Those of all bands lie one behind the other. */
static size_t band_bytes(const struct tkv_turns *t)
{
    return (size_t)TKV_INDEX_BANDS * t->n_pairs * sizeof *t->band[0];
}

static void fill_bands(struct tkv_turns *t)
{
    for (uint32_t band = 0; band < TKV_INDEX_BANDS; band++) {
        t->band[band] = t->band[0] + (size_t)band * t->n_pairs;
        tkv_index_band_turn(band, t->freq, t->n_pairs, t->band[band]);
    }
}

static void release(const tkv_allocator *a, struct tkv_turns *t)
{
    tkv_free(a, t->table, (size_t)t->n_turns * t->n_pairs * sizeof *t->table);
    tkv_free(a, t->near, near_bytes(t));
    tkv_free(a, t->band[0], band_bytes(t));
    tkv_free(a, t->freq, t->n_pairs * sizeof *t->freq);
    tkv_free(a, t->axis, t->n_pairs);
    tkv_free(a, t, sizeof *t);
}

static void fill_near(struct tkv_turns *t)
{
    float *at = t->near;
    for (uint32_t p = 0; p < t->n_pairs; p++)
        for (uint32_t i = 0; i < TKV_TURN_NEAR; i++, at++) {
            float turn[2];
            angle((double)t->freq[p] * i, turn);
            at[0] = turn[0];
            at[(size_t)t->n_pairs * TKV_TURN_NEAR] = -turn[1];
        }
}

static tkv_status add_turns(tkv_cache *cache, const struct rope *r, struct tkv_layer *layer,
                            tkv_error *err)
{
    const tkv_allocator *a = &cache->ctx->allocator;
    struct tkv_turns *turns = tkv_alloc_zero(a, sizeof *turns);
    if (!turns)
        return tkv_fail_nomem(err, sizeof *turns, "RoPE turns");
    turns->n_pairs = r->n;
    turns->half = r->half;
    turns->freq = tkv_alloc(a, r->n * sizeof *turns->freq);
    turns->axis = tkv_alloc(a, r->n);
    turns->near = tkv_alloc(a, near_bytes(turns));
    turns->band[0] = tkv_alloc(a, band_bytes(turns));
    if (!turns->freq || !turns->axis || !turns->near || !turns->band[0]) {
        const size_t bytes = near_bytes(turns);
        release(a, turns);
        return tkv_fail_nomem(err, bytes, "RoPE turns");
    }
    memcpy(turns->freq, r->freq, r->n * sizeof *turns->freq);
    memcpy(turns->axis, r->axis, r->n);
    fill_near(turns);
    fill_bands(turns);
    turns->next = cache->turns;
    cache->turns = layer->turns = turns;
    return tkv_turns_reach(cache, turns, 0, err);
}

tkv_status tkv_turns_find(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err)
{
    struct tkv_gguf_tensor t;
    struct rope rope;
    uint32_t halves = 0;
    if (!cache->book || !find(cache, layer, "rope_freq", &t))
        return TKV_OK;
    tkv_status status = read_freq(layer, &t, rope.freq, err);
    if (status == TKV_OK)
        status = read_axes(cache, layer, (uint32_t)t.n_values, rope.axis, err);
    if (status != TKV_OK)
        return status;
    tkv_gguf_u32(&cache->book->file, "book.rope_halves", &halves);
    rope.n = (uint32_t)t.n_values;
    rope.half = halves ? rope.n : 0;
    for (layer->turns = cache->turns; layer->turns; layer->turns = layer->turns->next)
        if (same_rope(layer->turns, &rope))
            return TKV_OK;
    return add_turns(cache, &rope, layer, err);
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
        release(a, t);
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

/* cos and sin of pair p at a position, from that of its step and that within. */
static void angle_at(const struct tkv_turns *t, uint32_t p, int32_t pos, float *cos_out,
                     float *sin_out)
{
    const float(*table)[2] = (const float(*)[2])t->table;
    const uint32_t at = pos < 0 ? 0 : (uint32_t)pos;
    const float *far = table[(size_t)(at / TKV_TURN_STEP) * t->n_pairs + p];
    const float *near = t->near + (size_t)p * TKV_TURN_NEAR + at % TKV_TURN_STEP;
    const float near_sin = near[(size_t)t->n_pairs * TKV_TURN_NEAR];
    *cos_out = far[0] * near[0] + far[1] * near_sin;
    *sin_out = far[0] * near_sin - far[1] * near[0];
}

void tkv_turn_back(const tkv_cache *cache, const struct tkv_layer *layer, int32_t pos, float *x)
{
    const struct tkv_turns *turns = layer->turns;
    float turn[TKV_MAX_HEAD_DIM / 2][2];
    for (uint32_t p = 0; p < turns->n_pairs; p++) {
        angle_at(turns, p, pos, &turn[p][0], &turn[p][1]);
        turn[p][1] = -turn[p][1];
    }
    cache->ctx->kernels.turn(x, 1, layer->head_dim[TKV_K], turns->half, turns->n_pairs,
                             (const float(*)[2])turn);
}

void tkv_turn_by(const tkv_cache *cache, const struct tkv_layer *layer, double positions, float *x,
                 size_t n)
{
    const struct tkv_turns *turns = layer->turns;
    float turn[TKV_MAX_HEAD_DIM / 2][2];
    for (uint32_t p = 0; p < turns->n_pairs; p++) {
        angle((double)turns->freq[p] * positions, turn[p]);
        turn[p][1] = -turn[p][1];
    }
    cache->ctx->kernels.turn(x, n, layer->head_dim[TKV_K], turns->half, turns->n_pairs,
                             (const float(*)[2])turn);
}

struct tkv_angles tkv_page_angles(const struct tkv_turns *turns, const struct tkv_places *places,
                                  float *room)
{
    const size_t n = turns->n_pairs;
    if (places->consecutive) {
        const uint32_t first = (uint32_t)places->pos[0];
        const float *near = turns->near + first % TKV_TURN_STEP;
        return (struct tkv_angles){near, near + n * TKV_TURN_NEAR, TKV_TURN_NEAR,
                                   first / TKV_TURN_STEP};
    }
    float *cosines = room, *sines = room + n * TKV_PAGE_TOKENS;
    for (uint32_t p = 0; p < n; p++)
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
            angle_at(turns, p, tkv_place(places, turns->axis[p], t),
                     &cosines[p * TKV_PAGE_TOKENS + t], &sines[p * TKV_PAGE_TOKENS + t]);
    return (struct tkv_angles){cosines, sines, TKV_PAGE_TOKENS, 0};
}

void tkv_rotate_rows(const tkv_cache *cache, const struct tkv_layer *layer,
                     const struct tkv_places *places, bool forth, float *x)
{
    const struct tkv_turns *turns = layer->turns;
    const uint32_t D = layer->head_dim[TKV_K];
    float turn[TKV_MAX_HEAD_DIM / 2][2];
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) {
        for (uint32_t p = 0; p < turns->n_pairs; p++) {
            angle_at(turns, p, tkv_place(places, turns->axis[p], t), &turn[p][0], &turn[p][1]);
            turn[p][1] = forth ? turn[p][1] : -turn[p][1];
        }
        cache->ctx->kernels.turn(x + (size_t)t * D, 1, D, turns->half, turns->n_pairs,
                                 (const float(*)[2])turn);
    }
}
