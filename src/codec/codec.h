/* A codec turns a page of head vectors into a fixed number of bytes and back. Each fills one
 * tkv_codec_ops in src/codec/<name>.c; one line in codecs.def registers it.
 *
 * Rows come and go in the *basis domain*: where the codec rotates, the cache has rotated them
 * already, and the attention rotates queries and un-rotates outputs. A codec itself never
 * rotates.
 */
#ifndef TKV_CODEC_H
#define TKV_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/gguf.h"
#include "kernels/kernels.h"
#include "tightkv/tightkv.h"

enum tkv_codec_caps {
    TKV_CAP_ROTATES = 1 << 0,    /* wants its rows rotated unless TKV_CODEC_NO_ROTATION */
    TKV_CAP_WHOLE_PAGE = 1 << 1, /* statistics over the tokens of a page */
    TKV_CAP_IDEMPOTENT = 1 << 2, /* encode(f16(decode(page))) == page */
    TKV_CAP_BALANCES = 1 << 3,   /* wants key channels scaled by the cache's powers of two */
    TKV_CAP_EXACT = 1 << 4,      /* decodes to the very f16 values that went in */
    TKV_CAP_LEARNS = 1 << 5,     /* has a model learned from the first sealed pages: see learn */
    TKV_CAP_ROUNDS = 1 << 6,     /* its i8 tile is within 3 codes of decode's values */
    TKV_CAP_KEYS_ONLY = 1 << 7,  /* supports() no values */
    TKV_CAP_BOOK = 1 << 8,       /* has its models, and the basis, from a book: see bind */
    TKV_CAP_TURNS = 1 << 9,      /* wants keys turned back by their page's position: cache/turn.c */
    TKV_CAP_UNROTATES = 1 << 10, /* wants keys as before RoPE, each row turned back by the angles of
                                  * its own position; read through f32 tiles, which the attention
                                  * turns forth again */
    TKV_CAP_BOOKLESS = 1 << 11,  /* bind also makes a model without a book, at a loss */
};

/* A learned basis of one head, D x D: coefficients = values * to, values = coefficients * back. */
struct tkv_basis {
    const float *to, *back;
    const float *back_t;        /* back transposed, for queries; keys only */
    struct tkv_basis_i16 query; /* the same in integers; codes NULL: there is none */
};

/* Whose model is bound. */
struct tkv_place {
    uint32_t layer, head, n_heads;
    uint8_t klass;
    const float *sign; /* of the rotation that needs no book */
};

/* The working form that a codec offers the attention. */
enum tkv_tile_form {
    TKV_TILE_F32, /* decode into an f32 tile: every codec */
    TKV_TILE_I8,  /* i8 tile, one scale a token */
};

/* What a page looks like to the i8 attention. */
struct tkv_tile_i8 {
    const void *codes;   /* the tile: `buf` as filled, or the page's own bytes */
    uint32_t turbo_bits; /* not 0: no tile, but turbo codes of this width */
    const float *scale;  /* [64], one a token */
    const float *mean;   /* [D] added to every token, or NULL */
    uint32_t planes;     /* 1: queries and weights of 8 bits do; 2: it needs 16 */
};

struct tkv_tile_buf {
    uint8_t *codes;          /* [64 * D], 64-byte aligned */
    float *scale;            /* [64] */
    float *mean;             /* [D] */
    uint32_t n_rows;         /* that the tile is for */
    struct tkv_ahead *ahead; /* for the kernels */
};

struct tkv_codec_env {
    const struct tkv_kernels *kernels;
    uint32_t head_dim;
    tkv_kind kind;
    const void *model; /* learned model of this (layer, KV head, kind), or NULL: the built-in one */
    const uint8_t *span; /* what the page's span keeps for this (head, kind); NULL: a page alone */
    uint16_t flags;      /* TKV_CODEC_* */
    uint32_t beam;       /* as tkv_spec.beam */
};

struct tkv_codec_ops {
    const char *name;
    const char *summary;
    uint16_t id;
    uint16_t caps;
    uint32_t planes;     /* as tkv_tile_i8.planes; a tile of values may do with fewer */
    uint32_t code_bits;  /* codes of 16 values; the rest of a page is side data: scales, means */
    const char *trainer; /* TKV_CAP_BOOK: what tightkv calibrate --train calls it */
    bool (*supports)(uint32_t head_dim, tkv_kind kind);
    size_t (*page_bytes)(uint32_t head_dim, tkv_kind kind);
    /* What a page takes on average, where models decide; NULL: page_bytes. */
    size_t (*usual_bytes)(uint32_t head_dim, tkv_kind kind);
    /* Scratch bytes that encode needs, 64-byte aligned; NULL: none. */
    size_t (*scratch_bytes)(uint32_t head_dim);
    /* x: [64][D] f32 in the basis domain, finite; bit t of `valid` says that token t exists
     * (others are zeros and must not enter statistics). Writes all page_bytes. Deterministic on
     * every ISA. May destroy x. */
    void (*encode)(const struct tkv_codec_env *env, float *x, uint64_t valid, uint8_t *page,
                   void *scratch);
    /* page -> [64][D] f32, token-major for both kinds. Bit-exact on every ISA. */
    void (*decode)(const struct tkv_codec_env *env, const uint8_t *page, float *x);
    /* page -> f32 tile of the kind ([D][64] for K); NULL: the attention transposes decode's
     * output. */
    void (*tile_f32)(const struct tkv_codec_env *env, const uint8_t *page, float *tile);
    /* page -> i8 tile of the kind; NULL: the codec goes through f32. With TKV_CAP_UNROTATES only
     * ever of values. */
    void (*tile_i8)(const struct tkv_codec_env *env, const uint8_t *page, struct tkv_tile_buf *buf,
                    struct tkv_tile_i8 *out);
    /* Row order, of codecs whose rows can be read one by one: the same page with the bytes of each
     * token, page_bytes / 64, side by side. Row t goes to rows + t * stride. 64 rows make a page
     * whichever pages they come from. Both or neither. */
    void (*to_rows)(const struct tkv_codec_env *env, const uint8_t *page, uint8_t *rows,
                    size_t stride);
    void (*from_rows)(const struct tkv_codec_env *env, const uint8_t *const *rows, uint8_t *page);
    /* TKV_CAP_BOOK: fills a model of model_bytes from a book (TKV_CAP_BOOKLESS: or NULL); the bytes of a page, and of its codes
     * alone, with that model; its basis. page_bytes is what the largest model takes. */
    tkv_status (*bind)(const struct tkv_codec_env *env, const struct tkv_gguf *book,
                       const struct tkv_place *place, void *model, tkv_error *err);
    size_t (*bound_bytes)(const struct tkv_codec_env *env, size_t *code_bytes);
    void (*basis)(const struct tkv_codec_env *env, struct tkv_basis *out);
    /* Codecs whose statistics are those of a whole span; all of these or none. A page alone begins
     * with span_bytes; pages of a span do without, for the span keeps them once, made by fit from
     * its rows [n][D] of f16. Values are then low[d] + code * step[d], codes as in format/visual.h.
     * `narrows`: by how much the range of a span's logits is made smaller. */
    size_t (*span_bytes)(uint32_t head_dim, tkv_kind kind);
    void (*fit)(const struct tkv_codec_env *env, const uint16_t *rows, size_t n, void *span);
    void (*ranges)(const struct tkv_codec_env *env, float *low, float *step);
    float narrows;
    /* TKV_CAP_LEARNS: model bytes, and learning it from the first page that seals: same x as
     * encode. */
    size_t (*model_bytes)(uint32_t head_dim);
    void (*learn)(const struct tkv_codec_env *env, const float *x, uint64_t valid, void *model,
                  void *scratch);
};

/* NULL when there is none of this id / name / index. */
const struct tkv_codec_ops *tkv_codec_by_id(uint16_t id);
const struct tkv_codec_ops *tkv_codec_by_name(const char *name);
const struct tkv_codec_ops *tkv_codec_by_index(uint32_t i);
uint32_t tkv_codec_registry_count(void);

#endif
