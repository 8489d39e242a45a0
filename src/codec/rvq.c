/* rvq: residual vector quantisation (arXiv 2410.15704; FORMAT.md, rvq).
 *
 * A row over its standard deviation is cut into groups of 32 channels; each group is a sum of codes,
 * one of 2048 a stage, each stage coding what those before left over. Codebooks are a layer's, of
 * 8-bit values in steps of the book's: what rounding a code costs, the stages after it mend, and the
 * whole search is in integers. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "codec/book_tensor.h"
#include "codec/codec.h"
#include "format/rvq.h"

#define T TKV_PAGE_TOKENS

/* What all heads of a layer share; codes stay in the book. */
struct model {
    const int8_t *books; /* [n_stages][TKV_RVQ_CODES][TKV_RVQ_DIM] */
    float step;          /* of the values of a row over its scale */
    uint32_t n_stages;
};

static size_t model_bytes(uint32_t D)
{
    (void)D;
    return sizeof(struct model);
}

static bool supports(uint32_t D, tkv_kind kind)
{
    (void)kind;
    return D > 0 && D <= TKV_MAX_HEAD_DIM && D % TKV_RVQ_DIM == 0;
}

/* ---- binding ------------------------------------------------------------------------------- */

/* "rvq.blk.3.attn_k.<what>" and its like. */
static tkv_status find(const struct tkv_gguf *book, const struct tkv_codec_env *env,
                       const struct tkv_place *place, const char *codec, const char *what,
                       struct tkv_gguf_tensor *out, tkv_error *err)
{
    char name[TKV_BOOK_NAME];
    if (tkv_book_tensor_of(book, "rvq.", env->kind, place, what, name, out))
        return TKV_OK;
    return tkv_fail(err, TKV_ERR_UNSUPPORTED,
                    "%s: the book has no %s: run tightkv calibrate MODEL --train rvq", codec, name);
}

static tkv_status bind(const char *codec, uint32_t n_stages, const struct tkv_codec_env *env,
                       const struct tkv_gguf *book, const struct tkv_place *place, void *model,
                       tkv_error *err)
{
    struct model *m = model;
    struct tkv_gguf_tensor codes, step;
    tkv_status status = find(book, env, place, codec, "codes", &codes, err);
    if (status == TKV_OK)
        status = find(book, env, place, codec, "step", &step, err);
    if (status != TKV_OK)
        return status;
    if (codes.type != TKV_GGUF_I8 || codes.n_values % TKV_RVQ_BOOK_BYTES != 0 ||
        codes.n_values / TKV_RVQ_BOOK_BYTES < n_stages)
        return tkv_fail(err, TKV_ERR_CORRUPT, "%s: a book whose codes are not [%u][%d][%d] of i8",
                        codec, n_stages, TKV_RVQ_CODES, TKV_RVQ_DIM);
    if (step.type != TKV_GGUF_F32 || step.n_values != 1)
        return tkv_fail(err, TKV_ERR_CORRUPT, "%s: a book whose step is not one f32", codec);
    tkv_gguf_read_f32(&step, 0, 1, &m->step);
    if (!(m->step >= 0x1p-10f && m->step <= 1.0f))
        return tkv_fail(err, TKV_ERR_CORRUPT, "%s: a book with steps of %g", codec,
                        (double)m->step);
    m->books = (const int8_t *)codes.data;
    m->n_stages = n_stages;
    return TKV_OK;
}

/* ---- scales -------------------------------------------------------------------------------- */

/* The unbiased standard deviation of a row; more where its largest value would not be in reach. */
static float scale_of(const float *x, uint32_t D, float largest, float step)
{
    double sum = 0, square = 0;
    for (uint32_t d = 0; d < D; d++)
        sum += (double)x[d];
    for (uint32_t d = 0; d < D; d++)
        square += ((double)x[d] - sum / D) * ((double)x[d] - sum / D);
    const float deviation = (float)sqrt(square / (D - 1)), least = largest / (127.0f * step);
    return deviation > least ? deviation : least;
}

static void quantize(const struct tkv_codec_env *env, float *x, uint8_t *scales, int8_t *rows)
{
    const struct model *m = env->model;
    const uint32_t D = env->head_dim;
    float low[T], high[T];
    env->kernels->row_range(x, D, low, high);
    for (uint32_t t = 0; t < T; t++) {
        const uint16_t half = tkv_f32_to_half(scale_of(x + (size_t)t * D, D, high[t], m->step));
        const float unit = tkv_half_to_f32(half) * m->step;
        memcpy(scales + t * sizeof half, &half, sizeof half);
        low[t] = unit > 0 ? 1.0f / unit : 0.0f;
    }
    env->kernels->quantize_rows_i8(x, low, D, rows);
}

/* ---- coding -------------------------------------------------------------------------------- */

/* A *path* is a choice of codes for one group of one token, so far. Each stage prolongs the paths
 * and keeps the nearest, `beam` at most. As many groups go together as paths have room. */
enum {
    MOST_PATHS = TKV_SPEC_MOST_BEAM * T,
    CLASSES = TKV_RVQ_CLASSES
};

struct paths {
    int8_t left[MOST_PATHS][TKV_RVQ_DIM]; /* of the row, after the codes */
    uint16_t code[MOST_PATHS][TKV_RVQ_STAGES];
};

struct scratch {
    int8_t rows[TKV_MAX_HEAD_DIM * T];
    struct paths paths[2]; /* before a stage and after, in turn */
    int32_t best[MOST_PATHS][CLASSES];
    uint32_t at[MOST_PATHS][CLASSES];
};

static size_t scratch_bytes(uint32_t D)
{
    (void)D;
    return sizeof(struct scratch);
}

static int32_t square(const int8_t *x)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < TKV_RVQ_DIM; i++)
        sum += x[i] * x[i];
    return sum;
}

/* A path, a code to prolong it with, and the error then. */
struct step {
    int32_t error;
    uint32_t path, code;
};

/* Keeps the nearest `most` of all steps that come, in order; the first of equals. */
static uint32_t insert(struct step *kept, uint32_t n, uint32_t most, struct step s)
{
    if (n == most && s.error >= kept[n - 1].error)
        return n;
    uint32_t i = n < most ? n++ : n - 1;
    for (; i > 0 && s.error < kept[i - 1].error; i--)
        kept[i] = kept[i - 1];
    kept[i] = s;
    return n;
}

/* The steps to take from n paths of one group. */
static uint32_t choose(const struct scratch *s, const struct paths *paths, uint32_t first,
                       uint32_t n, uint32_t beam, struct step *kept)
{
    if (beam == 1) {
        kept[0] = (struct step){0, first, tkv_rvq_first(s->best[first], s->at[first])};
        return 1;
    }
    uint32_t n_kept = 0;
    for (uint32_t p = first; p < first + n; p++) {
        const int32_t norm = square(paths->left[p]);
        for (uint32_t j = 0; j < CLASSES; j++)
            n_kept =
                insert(kept, n_kept, beam, (struct step){norm - 2 * s->best[p][j], p, s->at[p][j]});
    }
    return n_kept;
}

static void prolong(const struct paths *from, const struct step *step, uint32_t stage,
                    const int8_t *codes, struct paths *to, uint32_t i)
{
    const int8_t *code = codes + (size_t)step->code * TKV_RVQ_DIM;
    memcpy(to->code[i], from->code[step->path], sizeof to->code[i]);
    to->code[i][stage] = (uint16_t)step->code;
    for (uint32_t d = 0; d < TKV_RVQ_DIM; d++) {
        const int32_t left = from->left[step->path][d] - code[d];
        to->left[i][d] = (int8_t)(left > 127 ? 127 : left < -128 ? -128 : left);
    }
}

/* Codes of n_rows vectors in s->paths[0].left. The nearest path of row i is paths[i * the number of
 * paths that it returns]. */
static const struct paths *search(const struct tkv_codec_env *env, uint32_t n_rows, uint32_t beam,
                                  struct scratch *s, uint32_t *n_paths)
{
    const struct model *m = env->model;
    uint32_t n = 1; /* paths of a row */
    for (uint32_t stage = 0; stage < m->n_stages; stage++) {
        const int8_t *codes = m->books + stage * TKV_RVQ_BOOK_BYTES;
        const struct paths *from = &s->paths[stage % 2];
        struct paths *to = &s->paths[(stage + 1) % 2];
        uint32_t n_kept = 0;
        env->kernels->rvq_nearest(codes, from->left[0], (size_t)n_rows * n, s->best[0], s->at[0]);
        for (uint32_t row = 0; row < n_rows; row++) {
            struct step kept[TKV_SPEC_MOST_BEAM];
            n_kept = choose(s, from, row * n, n, beam, kept);
            for (uint32_t i = 0; i < n_kept; i++)
                prolong(from, &kept[i], stage, codes, to, row * n_kept + i);
        }
        n = n_kept;
    }
    *n_paths = n;
    return &s->paths[m->n_stages % 2];
}

static void put_code(uint8_t *unit, uint32_t t, uint32_t code)
{
    unit[t] = (uint8_t)code;
    for (uint32_t i = 0; i < 3; i++)
        unit[T + 8 * i + t / 8] |= (uint8_t)((code >> (8 + i) & 1u) << t % 8);
}

/* Groups first to first + n. */
static void encode_groups(const struct tkv_codec_env *env, uint32_t first, uint32_t n,
                          uint32_t beam, uint8_t *codes, struct scratch *s)
{
    const struct model *m = env->model;
    const uint32_t D = env->head_dim, n_groups = D / TKV_RVQ_DIM;
    uint32_t n_paths;
    for (uint32_t i = 0; i < n * T; i++)
        for (uint32_t d = 0; d < TKV_RVQ_DIM; d++)
            s->paths[0].left[i][d] =
                s->rows[(size_t)(i % T) * D + tkv_rvq_channel(env->kind, D, first + i / T, d)];
    const struct paths *paths = search(env, n * T, beam, s, &n_paths);
    for (uint32_t i = 0; i < n * T; i++)
        for (uint32_t stage = 0; stage < m->n_stages; stage++)
            put_code(codes + (stage * n_groups + first + i / T) * TKV_RVQ_UNIT_BYTES, i % T,
                     paths->code[(size_t)i * n_paths][stage]);
}

static void encode(const struct tkv_codec_env *env, float *x, uint64_t valid, uint8_t *page,
                   void *scratch)
{
    (void)valid;
    const struct model *m = env->model;
    struct scratch *s = scratch;
    const uint32_t n_groups = env->head_dim / TKV_RVQ_DIM, beam = env->beam ? env->beam : 1;
    const uint32_t together = TKV_SPEC_MOST_BEAM / beam;
    uint8_t *codes = page + T * sizeof(uint16_t);
    quantize(env, x, page, s->rows);
    memset(codes, 0, tkv_rvq_code_bytes(env->head_dim, m->n_stages));
    for (uint32_t g = 0, n; g < n_groups; g += n) {
        n = n_groups - g < together ? n_groups - g : together;
        encode_groups(env, g, n, beam, codes, s);
    }
}

static void read_units(const struct tkv_codec_env *env, const uint8_t *page, float *unit)
{
    const struct model *m = env->model;
    env->kernels->f16_to_f32(page, unit, T);
    for (uint32_t t = 0; t < T; t++)
        unit[t] *= m->step;
}

static void decode(const struct tkv_codec_env *env, const uint8_t *page, float *x)
{
    const struct model *m = env->model;
    const uint32_t D = env->head_dim;
    uint8_t rows[T * TKV_MAX_HEAD_DIM];
    float unit[T];
    read_units(env, page, unit);
    env->kernels->rvq_rows(page + T * sizeof(uint16_t), m->books, m->n_stages, D, env->kind, 0,
                           rows);
    for (size_t i = 0; i < (size_t)T * D; i++)
        x[i] = (float)(int8_t)rows[i] * unit[i / D];
}

/* Sums of codes in the order of a tile. */
static void code_tile(const struct tkv_codec_env *env, const uint8_t *page, uint8_t *tile)
{
    const struct model *m = env->model;
    const uint32_t D = env->head_dim;
    uint8_t rows[T * TKV_MAX_HEAD_DIM];
    env->kernels->rvq_rows(page + T * sizeof(uint16_t), m->books, m->n_stages, D, env->kind,
                           env->kind == TKV_K ? 0x80 : 0, rows);
    env->kernels->rows_to_tile(rows, D, env->kind, tile);
}

static void tile_f32(const struct tkv_codec_env *env, const uint8_t *page, float *tile)
{
    if (env->kind == TKV_V) {
        decode(env, page, tile);
        return;
    }
    _Alignas(64) uint8_t codes[T * TKV_MAX_HEAD_DIM];
    float unit[T];
    code_tile(env, page, codes);
    read_units(env, page, unit);
    env->kernels->tile_k_to_f32(codes, env->head_dim, unit, tile);
}

static void tile_i8(const struct tkv_codec_env *env, const uint8_t *page, struct tkv_tile_buf *buf,
                    struct tkv_tile_i8 *out)
{
    code_tile(env, page, buf->codes);
    read_units(env, page, buf->scale);
    *out = (struct tkv_tile_i8){buf->codes, 0, buf->scale, NULL, 1};
}

#define RVQ(stages, wire_id, bits, what)                                                           \
    static size_t page_bytes_##stages(uint32_t D, tkv_kind kind)                                   \
    {                                                                                              \
        (void)kind;                                                                                \
        return T * sizeof(uint16_t) + tkv_rvq_code_bytes(D, stages);                               \
    }                                                                                              \
    static tkv_status bind_##stages(const struct tkv_codec_env *env, const struct tkv_gguf *book,  \
                                    const struct tkv_place *place, void *model, tkv_error *err)    \
    {                                                                                              \
        return bind("rvq" #stages, stages, env, book, place, model, err);                          \
    }                                                                                              \
    const struct tkv_codec_ops tkv_codec_rvq##stages = {                                           \
        .name = "rvq" #stages,                                                                     \
        .summary = what,                                                                           \
        .id = wire_id,                                                                             \
        .caps = TKV_CAP_BOOK | TKV_CAP_UNROTATES,                                                  \
        .trainer = "rvq",                                                                          \
        .planes = 1,                                                                               \
        .code_bits = bits,                                                                         \
        .supports = supports,                                                                      \
        .page_bytes = page_bytes_##stages,                                                         \
        .scratch_bytes = scratch_bytes,                                                            \
        .encode = encode,                                                                          \
        .decode = decode,                                                                          \
        .tile_f32 = tile_f32,                                                                      \
        .tile_i8 = tile_i8,                                                                        \
        .bind = bind_##stages,                                                                     \
        .model_bytes = model_bytes,                                                                \
    };

/* Codes of 16 values: 11 bits a stage for 32. */
RVQ(8, 28, 44, "residual codebooks of a book, 8 stages")
RVQ(6, 29, 33, "residual codebooks of a book, 6 stages")
RVQ(4, 30, 22, "residual codebooks of a book, 4 stages")
