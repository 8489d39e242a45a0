/* Between f16 rows and coded pages: balance, rotation, codec. And what is learned from a layer's
 * first page. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/half.h"
#include "base/status.h"
#include "cache/cache.h"

struct tkv_codec_env tkv_layer_env(const tkv_cache *cache, const struct tkv_layer *layer,
                                   uint8_t klass, tkv_kind kind, uint32_t head)
{
    const struct tkv_layer_codec *codec = &layer->codec[klass][kind];
    return (struct tkv_codec_env){
        .kernels = &cache->ctx->kernels,
        .head_dim = layer->head_dim[kind],
        .kind = kind,
        .model = codec->models ? codec->models + head * codec->model_bytes : NULL,
        .flags = codec->flags,
        .beam = cache->spec.beam,
    };
}

/* Of the rows of a page of any head size. */
static size_t rows_bytes(void)
{
    return tkv_align_up(sizeof(float) * TKV_PAGE_TOKENS * TKV_MAX_HEAD_DIM);
}

size_t tkv_decode_scratch_bytes(const struct tkv_layer *layer)
{
    return rows_bytes() + tkv_tile_room_bytes(layer);
}

size_t tkv_coding_scratch_bytes(const struct tkv_layer *layer)
{
    size_t most = 0;
    for (int klass = 0; klass < TKV_N_CLASSES; klass++) {
        for (int kind = TKV_K; kind <= TKV_V; kind++) {
            const struct tkv_codec_ops *ops = layer->codec[klass][kind].ops;
            const size_t bytes = ops->scratch_bytes ? ops->scratch_bytes(layer->head_dim[kind]) : 0;
            most = bytes > most ? bytes : most;
        }
    }
    return rows_bytes() + tkv_tile_room_bytes(layer) + tkv_align_up(most);
}

static const float *balance_of(const struct tkv_layer *layer, uint8_t klass, tkv_kind kind,
                               uint32_t head)
{
    const bool balances = kind == TKV_K && (layer->codec[klass][kind].ops->caps & TKV_CAP_BALANCES);
    return balances && layer->balance ? layer->balance + (size_t)head * layer->head_dim[TKV_K]
                                      : NULL;
}

static struct tkv_basis learned_basis(const struct tkv_layer *layer, uint8_t klass,
                                      const struct tkv_codec_env *env)
{
    struct tkv_basis basis;
    layer->codec[klass][env->kind].ops->basis(env, &basis);
    return basis;
}

/* Rows times a matrix, in place. */
static void multiply(const struct tkv_codec_env *env, const float *matrix, float *x)
{
    enum {
        ROWS = 4
    };
    float rows[ROWS * TKV_MAX_HEAD_DIM];
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t += ROWS) {
        float *at = x + (size_t)t * env->head_dim;
        memcpy(rows, at, ROWS * env->head_dim * sizeof *rows);
        env->kernels->basis(rows, ROWS, env->head_dim, matrix, at);
    }
}

static struct tkv_codec_env coded_env(const tkv_cache *cache, const struct tkv_layer *layer,
                                      const struct tkv_coded *c)
{
    struct tkv_codec_env env = tkv_layer_env(cache, layer, c->klass, c->kind, c->head);
    env.span = c->span;
    return env;
}

/* The basis domain: rows turned back and in their learned basis; or divided by the balance, then
 * rotated. */
static void to_basis(const tkv_cache *cache, const struct tkv_layer *layer,
                     const struct tkv_coded *c, float *x)
{
    const struct tkv_layer_codec *codec = &layer->codec[c->klass][c->kind];
    if (codec->turns)
        tkv_turn_rows(cache, layer, c->turn, false, x, TKV_PAGE_TOKENS);
    if (codec->unrotates && c->places)
        tkv_rotate_rows(cache, layer, c->places, false, x);
    if (codec->learned) {
        const struct tkv_codec_env env = coded_env(cache, layer, c);
        multiply(&env, learned_basis(layer, c->klass, &env).to, x);
        return;
    }
    const uint32_t D = layer->head_dim[c->kind];
    const float *balance = balance_of(layer, c->klass, c->kind, c->head);
    if (balance)
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
            for (uint32_t d = 0; d < D; d++)
                x[t * D + d] /= balance[d];
    if (codec->rotates)
        cache->ctx->kernels.rotate(x, TKV_PAGE_TOKENS, D, cache->ctx->sign);
}

/* Pages of spans never are. */
static bool is_in_rows(const struct tkv_layer *layer, const struct tkv_coded *c)
{
    return tkv_in_rows(layer) && c->klass == TKV_SPAN_TEXT;
}

void tkv_code_rows(const tkv_cache *cache, const struct tkv_layer *layer, const struct tkv_coded *c,
                   const uint16_t *rows, uint64_t valid, void *scratch)
{
    const struct tkv_codec_env env = coded_env(cache, layer, c);
    const bool in_rows = is_in_rows(layer, c);
    float *x = scratch;
    uint8_t *room = (uint8_t *)scratch + rows_bytes();
    uint8_t *page = in_rows ? room : c->page;
    env.kernels->f16_to_f32(rows, x, (size_t)TKV_PAGE_TOKENS * env.head_dim);
    for (uint32_t t = 0; t < TKV_PAGE_TOKENS && valid != UINT64_MAX; t++)
        if (!(valid >> t & 1))
            memset(x + (size_t)t * env.head_dim, 0, env.head_dim * sizeof *x);
    to_basis(cache, layer, c, x);
    layer->codec[c->klass][c->kind].ops->encode(&env, x, valid, page,
                                                room + tkv_tile_room_bytes(layer));
    if (in_rows)
        tkv_to_rows(cache, layer, c->kind, c->head, page, c->page);
}

void tkv_decode_unrotated(const tkv_cache *cache, const struct tkv_layer *layer,
                          const struct tkv_coded *c, float *rows)
{
    const struct tkv_codec_env env = coded_env(cache, layer, c);
    const struct tkv_layer_codec *codec = &layer->codec[c->klass][c->kind];
    const uint8_t *page = c->page;
    if (is_in_rows(layer, c))
        page = tkv_in_tiles(cache, layer, c->kind, c->head, page,
                            (uint8_t *)(void *)rows + rows_bytes());
    codec->ops->decode(&env, page, rows);
    if (codec->learned)
        multiply(&env, learned_basis(layer, c->klass, &env).back, rows);
    if (codec->rotates)
        env.kernels->unrotate(rows, TKV_PAGE_TOKENS, env.head_dim, cache->ctx->sign);
    const float *balance = balance_of(layer, c->klass, c->kind, c->head);
    if (balance)
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++)
            for (uint32_t d = 0; d < env.head_dim; d++)
                rows[t * env.head_dim + d] *= balance[d];
}

void tkv_decode_rows(const tkv_cache *cache, const struct tkv_layer *layer,
                     const struct tkv_coded *c, float *rows)
{
    const struct tkv_layer_codec *codec = &layer->codec[c->klass][c->kind];
    tkv_decode_unrotated(cache, layer, c, rows);
    if (codec->turns)
        tkv_turn_rows(cache, layer, c->turn, true, rows, TKV_PAGE_TOKENS);
    if (codec->unrotates && c->places)
        tkv_rotate_rows(cache, layer, c->places, true, rows);
}

bool tkv_page_finite(const struct tkv_layer *layer, const struct tkv_page *page)
{
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        const uint16_t *rows = tkv_open_rows(layer, page, (tkv_kind)kind, 0);
        if (!tkv_halves_finite(rows, (size_t)layer->shape.n_kv_heads * TKV_PAGE_TOKENS *
                                         layer->head_dim[kind]))
            return false;
    }
    return true;
}

/* Standard deviation of each channel over the valid rows. */
static void channel_deviation(const uint16_t *rows, uint64_t valid, uint32_t D, float *deviation)
{
    for (uint32_t c = 0; c < D; c++) {
        double sum = 0, square = 0;
        uint32_t n = 0;
        for (uint32_t t = 0; t < TKV_PAGE_TOKENS; t++) {
            if (!(valid >> t & 1))
                continue;
            const double x = tkv_half_to_f32(rows[t * D + c]);
            sum += x, square += x * x, n++;
        }
        const double mean = n ? sum / n : 0, variance = n ? square / n - mean * mean : 0;
        deviation[c] = (float)sqrt(variance > 0 ? variance : 0);
    }
}

/* The noise that a rotation spreads evenly costs least when k is divided by sqrt(deviation(k) /
 * rms(q)): minimise sum_c q_c^2 s_c^2 * sum_c d_c^2 / s_c^2 over s. Kept within 2^+-6 of the
 * median. */
static void balance_head(const float *deviation, const float *q_square, uint64_t q_count,
                         uint32_t D, float *balance)
{
    double log_sum = 0;
    uint32_t n = 0;
    for (uint32_t c = 0; c < D; c++) {
        const double q = q_count ? sqrt(q_square[c] / (double)q_count) : 1;
        const double ratio = q > 0 ? deviation[c] / q : 0;
        balance[c] = (float)ratio;
        if (ratio > 0 && isfinite(ratio))
            log_sum += log2(ratio), n++;
    }
    const double centre = n ? log_sum / n : 0;
    for (uint32_t c = 0; c < D; c++) {
        double e = 0;
        if (balance[c] > 0 && isfinite(balance[c]))
            e = 0.5 * (log2((double)balance[c]) - centre);
        e = e < -6 ? -6 : e > 6 ? 6 : e;
        balance[c] = (float)exp2(e);
    }
}

static tkv_status learn_balance(tkv_cache *cache, struct tkv_layer *layer,
                                const struct tkv_page *page, tkv_error *err)
{
    const uint32_t D = layer->head_dim[TKV_K], n_heads = layer->shape.n_kv_heads;
    const size_t bytes = (size_t)n_heads * D * sizeof(float);
    float *balance = tkv_alloc_zero(&cache->ctx->allocator, bytes);
    if (!balance)
        return tkv_fail_nomem(err, bytes, "a key balance");
    for (uint32_t head = 0; head < n_heads; head++) {
        float deviation[TKV_MAX_HEAD_DIM];
        channel_deviation(tkv_open_rows(layer, page, TKV_K, head), page->valid[TKV_K], D,
                          deviation);
        const float *q_square = layer->q_square ? layer->q_square + (size_t)head * D : NULL;
        balance_head(deviation, q_square, q_square ? layer->q_count : 0, D,
                     balance + (size_t)head * D);
    }
    layer->balance = balance;
    tkv_free(&cache->ctx->allocator, layer->q_square, bytes);
    layer->q_square = NULL;
    return TKV_OK;
}

static tkv_status learn_models(tkv_cache *cache, struct tkv_layer *layer, uint8_t klass,
                               tkv_kind kind, const struct tkv_page *page, tkv_error *err)
{
    struct tkv_layer_codec *codec = &layer->codec[klass][kind];
    const size_t bytes = layer->shape.n_kv_heads * codec->model_bytes;
    uint8_t *scratch = tkv_cache_scratch(cache, tkv_coding_scratch_bytes(layer));
    if (!scratch)
        return tkv_fail_nomem(err, tkv_coding_scratch_bytes(layer), "scratch");
    uint8_t *models = tkv_alloc_zero(&cache->ctx->allocator, bytes);
    if (!models)
        return tkv_fail_nomem(err, bytes, "learned codebooks");
    for (uint32_t head = 0; head < layer->shape.n_kv_heads; head++) {
        const struct tkv_codec_env env = tkv_layer_env(cache, layer, klass, kind, head);
        float *x = (float *)(void *)scratch;
        env.kernels->f16_to_f32(tkv_open_rows(layer, page, kind, head), x,
                                (size_t)TKV_PAGE_TOKENS * env.head_dim);
        to_basis(cache, layer, &(struct tkv_coded){.klass = klass, .kind = kind, .head = head}, x);
        codec->ops->learn(&env, x, page->valid[kind], models + head * codec->model_bytes,
                          scratch + rows_bytes());
    }
    codec->models = models;
    return TKV_OK;
}

bool tkv_layer_learned(const struct tkv_layer *layer, uint8_t klass)
{
    bool learned = layer->balance || !(layer->codec[klass][TKV_K].ops->caps & TKV_CAP_BALANCES);
    for (int kind = TKV_K; kind <= TKV_V; kind++)
        learned = learned && (layer->codec[klass][kind].models ||
                              !(layer->codec[klass][kind].ops->caps & TKV_CAP_LEARNS));
    return learned;
}

tkv_status tkv_layer_learn(tkv_cache *cache, struct tkv_layer *layer, uint8_t klass,
                           const struct tkv_page *page, tkv_error *err)
{
    if ((page->valid[TKV_K] & page->valid[TKV_V]) != UINT64_MAX)
        return TKV_OK;
    if (!layer->balance && (layer->codec[klass][TKV_K].ops->caps & TKV_CAP_BALANCES)) {
        const tkv_status status = learn_balance(cache, layer, page, err);
        if (status != TKV_OK)
            return status;
    }
    for (int kind = TKV_K; kind <= TKV_V; kind++) {
        const struct tkv_layer_codec *codec = &layer->codec[klass][kind];
        if (codec->models || !(codec->ops->caps & TKV_CAP_LEARNS))
            continue;
        const tkv_status status = learn_models(cache, layer, klass, (tkv_kind)kind, page, err);
        if (status != TKV_OK)
            return status;
    }
    return TKV_OK;
}
