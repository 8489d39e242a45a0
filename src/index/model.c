/* What a book knows of the retrieval index: read, and asked for codes and scores. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "index/index.h"

enum {
    TILE = TKV_PAGE_TOKENS, /* codes */
    MOST_ROWS = 64,
    MOST_QUERIES = 16,
    DEFAULT_FAR = 2048
};

/* ---- a book's tensors ------------------------------------------------------------------------ */

static bool find(const struct tkv_gguf *book, uint32_t layer, const char *what, char name[64],
                 struct tkv_gguf_tensor *out)
{
    snprintf(name, 64, "qvq.blk.%u.%s", layer, what);
    return tkv_gguf_tensor(book, name, out);
}

/* [columns][rows] of every head. */
static tkv_status find_all(const struct tkv_gguf *book, uint32_t layer, uint32_t n_heads,
                           const char *what, uint64_t rows, uint64_t columns,
                           struct tkv_gguf_tensor *out, tkv_error *err)
{
    char name[64];
    if (!find(book, layer, what, name, out))
        return tkv_fail(err, TKV_ERR_CORRUPT, "a book without %s: make it anew", name);
    if (out->dims[0] != columns || out->dims[1] != rows ||
        out->n_values != rows * columns * n_heads)
        return tkv_fail(err, TKV_ERR_CORRUPT,
                        "%s is not %llu x %llu for each of %u heads: a book of another model", name,
                        (unsigned long long)columns, (unsigned long long)rows, n_heads);
    return TKV_OK;
}

static bool fits(uint64_t n_codes)
{
    return n_codes >= 16 && n_codes <= TKV_INDEX_MOST_CODES && n_codes % 16 == 0;
}

static tkv_status find_codes(const struct tkv_gguf *book, uint32_t layer, uint32_t n_heads,
                             uint32_t head_dim, struct tkv_gguf_tensor *out, tkv_error *err)
{
    char name[64];
    if (!find(book, layer, "codes", name, out))
        return tkv_fail(err, TKV_ERR_CORRUPT, "a book without %s: make it anew", name);
    if (out->type != TKV_GGUF_I8 || !fits(out->dims[1]))
        return tkv_fail(err, TKV_ERR_CORRUPT,
                        "%s is not of i8 with a multiple of 16 codes up to %d", name,
                        TKV_INDEX_MOST_CODES);
    return find_all(book, layer, n_heads, "codes", out->dims[1], head_dim, out, err);
}

static tkv_status find_floats(const struct tkv_gguf *book, uint32_t layer, uint32_t n_heads,
                              const char *what, uint64_t rows, uint64_t columns,
                              struct tkv_gguf_tensor *out, tkv_error *err)
{
    const tkv_status status = find_all(book, layer, n_heads, what, rows, columns, out, err);
    if (status == TKV_OK && out->type != TKV_GGUF_F32 && out->type != TKV_GGUF_F16)
        return tkv_fail(err, TKV_ERR_CORRUPT, "qvq.blk.%u.%s is not of f32 or f16", layer, what);
    return status;
}

/* ---- room: of each head the mean, both matrices, norms and codes ------------------------------ */

static size_t places(size_t n_codes)
{
    return tkv_index_places((uint32_t)n_codes);
}

static size_t head_bytes(size_t n_codes, size_t D)
{
    return (D + 2 * D * D) * sizeof(float) + places(n_codes) * (sizeof(int32_t) + D);
}

size_t tkv_index_model_bytes(const struct tkv_gguf *book, uint32_t layer, uint32_t n_heads,
                             uint32_t head_dim)
{
    struct tkv_gguf_tensor codes;
    char name[64];
    if (!find(book, layer, "codes", name, &codes))
        return 0;
    /* Of what does not fit, tkv_index_bind() says so. */
    return n_heads * head_bytes(fits(codes.dims[1]) ? codes.dims[1] : 16, head_dim);
}

/* ---- binding ---------------------------------------------------------------------------------- */

static tkv_status read_floats(const struct tkv_gguf_tensor *t, size_t head, size_t n, float *out,
                              tkv_error *err)
{
    tkv_gguf_read_f32(t, head * n, n, out);
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(out[i]) < 1e15f))
            return tkv_fail(err, TKV_ERR_CORRUPT, "a book whose index holds %g", (double)out[i]);
    return TKV_OK;
}

static tkv_status read_codes(const int8_t *rows, size_t n_codes, size_t D, uint8_t *tiles,
                             int32_t *half, tkv_error *err)
{
    memset(tiles, 128, places(n_codes) * D);
    for (size_t c = 0; c < places(n_codes); c++)
        half[c] = TKV_INDEX_NEVER;
    for (size_t c = 0; c < n_codes; c++) {
        uint8_t *own = tiles + c / 16 * 16 * D + c % 16 * 4;
        int32_t square = 0;
        for (size_t d = 0; d < D; d++) {
            const int32_t x = rows[c * D + d];
            if (x == -128)
                return tkv_fail(err, TKV_ERR_CORRUPT, "a book whose index has a code of -128");
            own[d / 4 * 64 + d % 4] = (uint8_t)(x + 128);
            square += x * x;
        }
        half[c] = square / 2;
    }
    return TKV_OK;
}

struct tensors {
    struct tkv_gguf_tensor codes, to, ask, mean, share;
    bool shared; /* without, all heads read alike */
};

static tkv_status bind_head(const struct tensors *t, size_t head, uint32_t D, float far, void *room,
                            struct tkv_index_model *m, tkv_error *err)
{
    const size_t n_codes = t->codes.dims[1], square = (size_t)D * D;
    float share[2] = {1, 1}, *mean = room, *to = mean + D, *ask = to + square;
    int32_t *half = (int32_t *)(void *)(ask + square);
    uint8_t *tiles = (uint8_t *)(half + places(n_codes));
    tkv_status status = read_floats(&t->mean, head, D, mean, err);
    if (status == TKV_OK)
        status = read_floats(&t->to, head, square, to, err);
    if (status == TKV_OK)
        status = read_floats(&t->ask, head, square, ask, err);
    if (status == TKV_OK)
        status = read_codes((const int8_t *)t->codes.data + head * n_codes * D, n_codes, D, tiles,
                            half, err);
    if (status == TKV_OK && t->shared)
        status = read_floats(&t->share, head, 2, share, err);
    if (status == TKV_OK && !(share[TKV_V] >= 0 && share[TKV_K] >= share[TKV_V]))
        status = tkv_fail(err, TKV_ERR_CORRUPT, "a book whose index reads %g keys for %g values",
                          (double)share[TKV_K], (double)share[TKV_V]);
    *m = (struct tkv_index_model){
        D, (uint32_t)n_codes, far, {share[TKV_K], share[TKV_V]}, mean, to, ask, tiles, half};
    return status;
}

tkv_status tkv_index_bind(const struct tkv_gguf *book, uint32_t layer, uint32_t n_heads,
                          uint32_t head_dim, void *room, struct tkv_index_model *models,
                          tkv_error *err)
{
    struct tensors t;
    uint32_t far = DEFAULT_FAR;
    if (head_dim == 0 || head_dim % 16 != 0 || head_dim > TKV_MAX_HEAD_DIM)
        return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                        "an index of keys of %u values; a multiple of 16 up to %d can be indexed",
                        head_dim, TKV_MAX_HEAD_DIM);
    tkv_status status = find_codes(book, layer, n_heads, head_dim, &t.codes, err);
    if (status == TKV_OK)
        status = find_floats(book, layer, n_heads, "to", head_dim, head_dim, &t.to, err);
    if (status == TKV_OK)
        status = find_floats(book, layer, n_heads, "ask", head_dim, head_dim, &t.ask, err);
    if (status == TKV_OK)
        status = find_floats(book, layer, n_heads, "mean", 1, head_dim, &t.mean, err);
    char name[64];
    t.shared = find(book, layer, "share", name, &t.share);
    if (status == TKV_OK && t.shared)
        status = find_floats(book, layer, n_heads, "share", 1, 2, &t.share, err);
    (void)tkv_gguf_u32(book, "qvq.far", &far);
    for (size_t h = 0; h < n_heads && status == TKV_OK; h++)
        status =
            bind_head(&t, h, head_dim, (float)far,
                      (uint8_t *)room + h * head_bytes(t.codes.dims[1], head_dim), &models[h], err);
    return status;
}

/* ---- codes of keys ---------------------------------------------------------------------------- */

/* Rounds to nearest even, within +-127; what is not a number becomes one. */
static int8_t round_i8(float x)
{
    x = x > -127.0f ? x : -127.0f;
    x = x < 127.0f ? x : 127.0f;
    /* leaves an integer in the low bits */
    const float y = x + 12582912.0f;
    return (int8_t)(y - 12582912.0f);
}

void tkv_index_encode(const struct tkv_kernels *k, const struct tkv_index_model *m,
                      const float *keys, size_t n, uint16_t *codes)
{
    enum {
        AT_ONCE = 16 /* rows: what lies on the stack */
    };
    const uint32_t D = m->head_dim;
    _Alignas(64) float x[AT_ONCE * TKV_MAX_HEAD_DIM], z[AT_ONCE * TKV_MAX_HEAD_DIM];
    _Alignas(64) int8_t rows[MOST_ROWS * TKV_MAX_HEAD_DIM];
    for (size_t first = 0; first < n; first += AT_ONCE) {
        const size_t n_rows = n - first < AT_ONCE ? n - first : AT_ONCE;
        for (size_t r = 0; r < n_rows; r++)
            for (size_t d = 0; d < D; d++)
                x[r * D + d] = keys[(first + r) * D + d] - m->mean[d];
        k->basis(x, n_rows, D, m->to, z);
        for (size_t i = 0; i < n_rows * D; i++)
            rows[first * D + i] = round_i8(z[i]);
    }
    k->index_nearest(m->codes, m->half, (uint32_t)places(m->n_codes), D, rows, n, codes);
}

/* ---- scores of codes -------------------------------------------------------------------------- */

void tkv_index_table(const struct tkv_kernels *k, const struct tkv_index_model *m, const float *q,
                     size_t n, float *table)
{
    const uint32_t D = m->head_dim, n_rows = (uint32_t)n;
    _Alignas(64) float w[MOST_QUERIES * TKV_MAX_HEAD_DIM];
    _Alignas(64) int8_t w8[MOST_QUERIES * TKV_MAX_HEAD_DIM];
    _Alignas(64) int32_t dots[MOST_QUERIES * TILE];
    _Alignas(64) float scores[MOST_QUERIES * TILE], one[TILE];
    float scale[MOST_QUERIES], bias[MOST_QUERIES];
    int32_t unused;
    k->basis(q, n, D, m->ask, w);
    k->dot(m->mean, q, D, n_rows, D, bias);
    for (size_t r = 0; r < n; r++)
        scale[r] = k->quantize_row_i8(w + r * D, D, w8 + r * D, &unused);
    for (size_t c = 0; c < TILE; c++)
        one[c] = 1;
    struct tkv_ahead ahead = {.at = (uintptr_t)m->codes + (size_t)TILE * D,
                              .step = n < 8 ? 64 : 512 / n};
    for (size_t c = 0; c < m->n_codes; c += TILE) {
        k->score_i8(m->codes + c * D, w8, n_rows, D, dots, &ahead);
        k->scale_scores(dots, scale, one, bias, n_rows, scores);
        for (size_t r = 0; r < n; r++)
            memcpy(table + r * places(m->n_codes) + c, scores + r * TILE, TILE * sizeof *table);
    }
}
