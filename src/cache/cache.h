/* The cache: layers x pages of 64 slots. A page is empty, open (f16 rows of every KV head, K and V)
 * or sealed (coded pages of every KV head). Pages never cross streams. Where visual rows have codecs
 * of their own, they leave their pages once their span is complete: see tkv_span. */
#ifndef TKV_CACHE_H
#define TKV_CACHE_H

#include <stdbool.h>

#include "cache/context.h"
#include "cache/pool.h"
#include "codec/codec.h"
#include "format/gguf.h"
#include "index/index.h"
#include "tier/tier.h"
#include "tightkv/tightkv.h"

#define TKV_NO_POS    (-1)
#define TKV_N_AXES    3 /* positions of a row: time, height, width */
#define TKV_N_CLASSES 2

enum tkv_page_state {
    TKV_PAGE_EMPTY = 0,
    TKV_PAGE_OPEN,
    TKV_PAGE_SEALED
};

/* A page of all KV heads of one layer. */
struct tkv_page {
    void
        *record; /* open: see tkv_open; sealed: coded [head][K page, V page], or where the cache has
                   * tiers the head's blocks: tkv_block [head] */
    uint64_t valid[2]; /* by kind: slots that hold a row here; the same for both once sealed */
    uint64_t visual;   /* slots whose rows, here, are visual */
    uint64_t spanned;  /* slots whose rows are in spans instead */
    uint8_t state;     /* tkv_page_state */
    uint8_t nonfinite; /* open for good: holds a NaN or an infinity */
    union {
        uint32_t i_open; /* open: its place in the layer's list of open pages */
        uint32_t turn;   /* sealed: see tkv_turn_of */
    };
    struct tkv_places *places; /* sealed, where positions are kept */
    struct tkv_codes *codes;   /* of its keys, in layers with an index; NULL: none yet */
};

/* Codes of a page's keys for the index. Rows of unknown position and visual rows with codecs of
 * their own have none. */
struct tkv_codes {
    uint64_t known;
    uint16_t code[]; /* [n_kv_heads][64] */
};

/* An open page's record begins with this; the rows follow: K [head][64][k_head_dim] f16, then V. */
struct tkv_open {
    int32_t pos[TKV_PAGE_TOKENS];                    /* TKV_NO_POS: unknown */
    int32_t beside[TKV_N_AXES - 1][TKV_PAGE_TOKENS]; /* M-RoPE's height and width; else as pos */
    uint64_t
        stamp[TKV_PAGE_TOKENS]; /* the stream's count of writes when the row came; 0: long ago */
    uint32_t turn; /* that it had when it was sealed, for rows whose position is not known */
};

/* A span: visual rows at consecutive slots, coded together once a text row follows them. Its pages
 * count from its first row, wherever in a page of the cache that lies. */
struct tkv_span_page {
    uint64_t live; /* rows that have not been forgotten or written anew since */
    struct tkv_places *places;
    uint32_t turn; /* see tkv_turn_of */
};

struct tkv_span {
    int64_t first; /* slot */
    uint32_t n_rows, n_live, n_pages;
    uint8_t *record; /* [head][K, V]: what stands once a span, then coded pages */
    size_t record_bytes;
    struct tkv_span_page pages[];
};

struct tkv_coding;

/* A codec as this layer uses it. */
struct tkv_layer_codec {
    const struct tkv_codec_ops *ops;
    uint16_t flags;
    bool rotates;
    bool turns;         /* keys are turned back by their page's position before the basis */
    bool unrotates;     /* keys are turned back each by its own position before the basis */
    bool learned;       /* the basis is the model's */
    size_t model_bytes; /* model of one head; 0: none */
    uint8_t *models;    /* [n_kv_heads][model_bytes]: from the book, or NULL until learned */
};

struct tkv_stream {
    uint64_t n_writes; /* rows ever written */
    uint32_t
        n_runs;   /* runs of consecutive positions in the last batch: sequences interleaved here */
    bool in_span; /* the last row written is visual: its span may go on */
};

struct tkv_layer {
    tkv_layer_params shape;
    uint32_t head_dim[2]; /* by kind */
    size_t pages_per_stream;
    struct tkv_page *pages; /* [n_streams][pages_per_stream] */
    struct tkv_stream *streams;
    struct tkv_layer_codec codec[TKV_N_CLASSES][2]; /* [class][kind] */
    bool splits; /* the classes' codecs differ: visual rows go into spans */
    /* Where the pages of each head and kind begin: [n_kv_heads][K, V], and their end. Of spans, if
     * these had one page. */
    size_t *page_at[TKV_N_CLASSES];
    size_t *side_at; /* the same of what stands once a span */
    /* Of a token in blocks in row order, which are [64][K row, V row]; 0: they are the pages as coded,
     * K then V. */
    size_t row_bytes[2];
    size_t code_bytes[TKV_N_CLASSES]; /* codes of a page of all heads, without side data */
    struct tkv_pool *open_pool, *sealed_pool;
    struct tkv_pool *block_pool; /* of the blocks of a page; NULL: the cache has no tiers */
    uint32_t *recent; /* [TKV_RECENT] blocks last read: page * n_kv_heads + head; as block_pool */
    size_t n_recent;
    size_t *open_pages; /* indices of open pages, unordered */
    size_t n_open, open_capacity;
    struct tkv_span **spans; /* in the order of their first slots */
    size_t n_spans, span_capacity;
    uint64_t n_rows[2]; /* rows held, by kind */
    /* Channel balance of keys: code k / balance, ask with q * balance. [n_kv_heads][k_head_dim];
     * NULL until the first page seals. */
    float *balance;
    /* Sums of squared query values, until balance is known. [n_kv_heads][k_head_dim] */
    float *q_square;
    uint64_t q_count;
    struct tkv_turns *turns; /* of the cache; NULL: no codec wants them, or there is no RoPE */
    bool keeps_places;       /* there is a RoPE, and a codec un-rotates keys or there is an index */
    struct tkv_layer_index *index; /* NULL: none */
};

/* Memory that grows and never shrinks. */
struct tkv_room {
    void *at;
    size_t bytes;
};

/* How many rows that may be picked have each code, by band of distance. Kept from step to step, in
 * which few rows change. */
struct tkv_tally {
    struct tkv_room room;
    bool valid;
    const struct tkv_page *pages; /* [n_pages] those it is of */
    size_t n_pages;
    int32_t q_pos;
    uint32_t n_bands, group;
    uint64_t n_lost;
};

struct tkv_layer_index {
    struct tkv_index_model *models; /* [n_kv_heads] */
    void *room;                     /* what they point into */
    size_t room_bytes;
    uint32_t n_codes;
    struct tkv_pool *pool; /* of tkv_codes */
    double *value_sum;     /* [n_kv_heads][v_head_dim] of values written */
    double n_values;
    uint64_t n_lost;        /* grows whenever a row loses its code */
    struct tkv_tally tally; /* of the last call with one query: src/attn/tally.c */
};

struct tkv_book {
    tkv_context *ctx;
    struct tkv_gguf file;
};

/* Positions of a sealed page's rows. The pages of all layers at the same slots share them. */
struct tkv_places {
    struct tkv_places *next; /* in its bucket */
    uint32_t hash, n_refs;
    uint8_t n_axes;   /* 0: none is known; 1: all axes are as the first */
    bool consecutive; /* pos is that of row 0 alone, the others count up from there */
    int32_t pos[];    /* [n_axes][64], TKV_NO_POS: unknown */
};

struct tkv_places_set {
    struct tkv_places **buckets;
    uint32_t n_buckets, n;
    size_t bytes;
};

struct tkv_cache {
    tkv_context *ctx;
    tkv_spec spec;
    struct tkv_layer *layers;
    uint32_t n_layers, layer_capacity;
    struct tkv_pool **pools;
    uint32_t n_pools, pool_capacity;
    const tkv_book *book;
    struct tkv_turns *turns; /* list */
    struct tkv_places_set places;
    struct tkv_tier *tier;     /* NULL: everything is in memory */
    struct tkv_room scratch;   /* attention and sealing */
    struct tkv_room selection; /* that of the attention call */
};

/* --- pages (pages.c) --- */

size_t tkv_open_bytes(const struct tkv_layer *layer);
/* f16 rows of one head of an open page: [64][head_dim]. */
uint16_t *tkv_open_rows(const struct tkv_layer *layer, const struct tkv_page *page, tkv_kind kind,
                        uint32_t head);
static inline struct tkv_open *tkv_open_info(const struct tkv_page *page)
{
    return page->record;
}
/* A *block* is what a coded page is for one head: its keys and its values, in one piece.
 * That of a head within a record of all heads, and of a sealed page, which must be held where the
 * cache has tiers. */
uint8_t *tkv_record_block(const struct tkv_layer *layer, void *record, uint32_t head);
uint8_t *tkv_page_block(const struct tkv_layer *layer, const struct tkv_page *page, uint32_t head);
/* Bytes of a head's blocks. */
size_t tkv_block_bytes(const struct tkv_layer *layer, uint32_t head);
/* The coded page of a kind within a head's block; in row order, its first row. */
uint8_t *tkv_block_page(const struct tkv_layer *layer, uint8_t *block, tkv_kind kind,
                        uint32_t head);
/* Slots of an open page whose rows wait for their span to be complete. */
static inline uint64_t tkv_page_waiting(const struct tkv_layer *layer, const struct tkv_page *page)
{
    return layer->splits ? page->visual : 0;
}

/* The page of a slot, and the slot's row in it. The slot must be in range. */
struct tkv_page *tkv_page_of(const struct tkv_layer *layer, int64_t slot, uint32_t *row,
                             uint32_t *stream);
bool tkv_slots_valid(const struct tkv_layer *layer, int64_t first, size_t n);

/* Makes a page open: an empty one gets zero rows, a sealed one its decoded rows. */
tkv_status tkv_page_open(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page,
                         tkv_error *err);
/* Gives everything back; rows in spans stay there. */
void tkv_page_drop(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page);

/* --- row order (row_order.c) --- */

/* From now on blocks are in row order, where the codecs know one. Before anything is coded. */
void tkv_layer_use_rows(struct tkv_layer *layer);
static inline bool tkv_in_rows(const struct tkv_layer *layer)
{
    return layer->row_bytes[TKV_K] > 0;
}
/* From a row of a block to the next. */
static inline size_t tkv_row_stride(const struct tkv_layer *layer)
{
    return layer->row_bytes[TKV_K] + layer->row_bytes[TKV_V];
}
/* A page of a head, `tiles`, to where its rows are in a block; and 64 rows from anywhere to a page. */
void tkv_to_rows(const struct tkv_cache *cache, const struct tkv_layer *layer, tkv_kind kind,
                 uint32_t head, const uint8_t *tiles, uint8_t *page);
void tkv_from_rows(const struct tkv_cache *cache, const struct tkv_layer *layer, tkv_kind kind,
                   uint32_t head, const uint8_t *const *rows, uint8_t *tiles);
/* A page of a block as its codec reads it: brought to `room`, of that many bytes and 64-byte aligned,
 * if it is in row order. */
size_t tkv_tile_room_bytes(const struct tkv_layer *layer);
const uint8_t *tkv_in_tiles(const struct tkv_cache *cache, const struct tkv_layer *layer,
                            tkv_kind kind, uint32_t head, const uint8_t *page, uint8_t *room);

/* --- tiers (tiers.c): sealed pages as blocks that may be in a file --- */

/* Blocks of one KV head that attention needs in memory at once. */
#define TKV_ROUND_PAGES 32
/* The same where rows are gathered: of most pages, there are only few. */
#define TKV_GATHER_PAGES 512
/* Blocks of a layer that are remembered for the next step. */
#define TKV_RECENT 4096

/* Makes the tier that the spec asks for. */
tkv_status tkv_tiers_open(tkv_cache *cache, tkv_error *err);
/* Whether the budget is enough to work on a layer. */
tkv_status tkv_tiers_check(const tkv_cache *cache, const struct tkv_layer *layer, tkv_error *err);
struct tkv_block *tkv_tier_block_of(const struct tkv_page *page, uint32_t head);
/* Says which page of which layer a status of the tier is about. */
tkv_status tkv_tier_name(const struct tkv_layer *layer, const struct tkv_page *page,
                         tkv_status status, tkv_error *err);
/* Keeps a page in memory, if it is sealed, until it is let go. */
tkv_status tkv_page_hold(tkv_cache *cache, const struct tkv_layer *layer,
                         const struct tkv_page *page, tkv_error *err);
void tkv_page_let(tkv_cache *cache, const struct tkv_layer *layer, const struct tkv_page *page);
/* Begins to read up to n_pages pages, from this one on. */
void tkv_page_ahead(tkv_cache *cache, const struct tkv_layer *layer, const struct tkv_page *page,
                    size_t n_pages);
/* Takes the records of a list to where those of sealed pages are kept. On failure they are as they
 * were. */
tkv_status tkv_sealed_keep(tkv_cache *cache, struct tkv_layer *layer, struct tkv_coding *list,
                           size_t n, tkv_error *err);
/* A copy of a sealed page's record; and giving one back. */
tkv_status tkv_sealed_copy(tkv_cache *cache, struct tkv_layer *layer, const struct tkv_page *page,
                           void **out, tkv_error *err);
void tkv_sealed_drop(tkv_cache *cache, struct tkv_layer *layer, void *sealed);

/* --- spans (spans.c) --- */

/* Codes the spans that are complete: a row of text has been written after them, and both kinds of
 * all of their rows are there and finite. */
tkv_status tkv_spans_seal(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err);
/* Before rows are written: those that are in spans return to their pages, decoded, and with a row
 * that stays visual the rest of its span. klass: [n] what they are to be, or NULL: text, if keys are
 * written, else as they are. */
tkv_status tkv_spans_lift(tkv_cache *cache, struct tkv_layer *layer, size_t n, const int64_t *slots,
                          const uint8_t *klass, bool keys, tkv_error *err);
/* Forgets rows [first, first + n) of a page where they are in spans. */
void tkv_spans_forget(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page,
                      uint32_t first, uint32_t n);
/* Whether a span goes along, coded as it is, when slots [src, src + n) are copied to dst: all of it
 * is there, and there will be within one stream. */
bool tkv_span_moves(const struct tkv_layer *layer, const struct tkv_span *span, int64_t dst,
                    int64_t src, size_t n);
/* Copies these spans; where they go nothing may be. */
tkv_status tkv_spans_copy(tkv_cache *cache, struct tkv_layer *layer, int64_t dst, int64_t src,
                          size_t n, tkv_error *err);
void tkv_spans_release(tkv_cache *cache, struct tkv_layer *layer);

/* The span that a slot's row is in, or NULL; the row's number there. */
struct tkv_span *tkv_span_of(const struct tkv_layer *layer, int64_t slot, uint32_t *row);
/* Positions of a span's row, on all axes: where only the turn is known, near enough to be turned the
 * same way again. */
void tkv_span_positions(const struct tkv_span *span, uint32_t row, int32_t pos[TKV_N_AXES]);
/* One head's share of a span: what stands there once, and a coded page. */
const uint8_t *tkv_span_side(const struct tkv_layer *layer, const struct tkv_span *span,
                             tkv_kind kind, uint32_t head);
uint8_t *tkv_span_page(const struct tkv_layer *layer, const struct tkv_span *span, tkv_kind kind,
                       uint32_t head, uint32_t i_page);
/* Decodes a page of a span: see tkv_decode_rows. */
void tkv_decode_span_page(const tkv_cache *cache, const struct tkv_layer *layer,
                          const struct tkv_span *span, tkv_kind kind, uint32_t head,
                          uint32_t i_page, float *rows);

/* --- turns (turn.c) --- */

/* RoPE turns the keys of a page by nearly the same angles. To turn all of them back by those of one
 * position, about the middle of the page, shows their statistics almost as they were before RoPE;
 * the query is turned back by as much, and no logit changes. Positions go in steps. */
#define TKV_TURN_STEP 32
/* Positions from a step on for which there is a table of their own: a page of 64 that begins
 * anywhere within the step. */
#define TKV_TURN_NEAR (TKV_TURN_STEP + TKV_PAGE_TOKENS)

struct tkv_turns {
    struct tkv_turns *next;
    uint32_t n_pairs, half; /* as tkv_kernels.turn */
    float *freq;            /* [n_pairs] */
    uint8_t *axis;          /* [n_pairs] which of a row's positions turns the pair */
    float (*table)[2];      /* [n_turns][n_pairs] cos and -sin at TKV_TURN_STEP * i */
    uint32_t n_turns;
    float (*band[TKV_INDEX_BANDS])[2]; /* [n_pairs]: see tkv_index_band_turn() */
    float *near; /* cos [n_pairs][TKV_TURN_NEAR], then sin, at positions from 0 on */
};

/* The cache's turns for the RoPE that the book names for a layer, made when they are new. */
tkv_status tkv_turns_find(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err);
/* Makes turns up to a position there. */
tkv_status tkv_turns_reach(tkv_cache *cache, struct tkv_turns *turns, int32_t pos, tkv_error *err);
void tkv_turns_release(tkv_cache *cache);
/* The turn of an open page; 0 where no position is known. */
uint32_t tkv_turn_of(const struct tkv_layer *layer, const struct tkv_page *page);
/* One row of keys turned back by its own position, within reach. */
void tkv_turn_back(const tkv_cache *cache, const struct tkv_layer *layer, int32_t pos, float *x);
/* n rows of queries turned forth by any number of positions, on all axes. */
void tkv_turn_by(const tkv_cache *cache, const struct tkv_layer *layer, double positions, float *x,
                 size_t n);
/* Turns n rows of keys back, or (by its mirror) forth again. */
void tkv_turn_rows(const tkv_cache *cache, const struct tkv_layer *layer, uint32_t turn, bool forth,
                   float *x, size_t n);

/* Un-rotated keys: every row turned back by all of its own angles. They are made of two tables, one
 * in steps and one of the positions within, so that a long context takes little memory. Reading a
 * page whose positions count up, the query is turned by the step, and the rows by a part of the
 * second table as it stands; of other pages the angles are put together anew each time. A row whose
 * position is not known is left as it is. */
struct tkv_angles {
    const float *cos, *sin; /* [n_pairs][64], rows `stride` floats apart */
    size_t stride;
    uint32_t turn; /* of the queries */
};
/* Floats of room that tkv_page_angles() may need. */
static inline size_t tkv_angles_floats(const struct tkv_turns *turns)
{
    return 2 * (size_t)turns->n_pairs * TKV_PAGE_TOKENS;
}
struct tkv_angles tkv_page_angles(const struct tkv_turns *turns, const struct tkv_places *places,
                                  float *room);
/* Turns the 64 rows of a page back, or forth again. */
void tkv_rotate_rows(const tkv_cache *cache, const struct tkv_layer *layer,
                     const struct tkv_places *places, bool forth, float *x);

/* --- positions of sealed pages (places.c) --- */

/* Those of an open page; to be dropped as often as taken or held. NULL: no memory. */
struct tkv_places *tkv_places_take(tkv_cache *cache, const struct tkv_page *page);
static inline struct tkv_places *tkv_places_hold(struct tkv_places *places)
{
    if (places)
        places->n_refs++;
    return places;
}
void tkv_places_drop(tkv_cache *cache, struct tkv_places *places);
/* Position of a row on an axis; TKV_NO_POS: unknown. */
static inline int32_t tkv_place(const struct tkv_places *p, uint32_t axis, uint32_t t)
{
    if (p->consecutive)
        return p->pos[0] + (int32_t)t;
    if (p->n_axes == 0)
        return TKV_NO_POS;
    return p->pos[(p->n_axes > 1 ? axis * TKV_PAGE_TOKENS : 0) + t];
}
/* The positions of a page that opens again. */
void tkv_places_restore(const struct tkv_places *places, struct tkv_open *info);
void tkv_places_release(tkv_cache *cache);

/* Position of a page's row on the first axis; TKV_NO_POS: unknown. */
int32_t tkv_page_pos(const struct tkv_page *page, uint32_t t);

/* --- codes for the index (codes.c) --- */

/* Gives a layer its index, where the spec wants one there. */
tkv_status tkv_codes_bind(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err);
void tkv_codes_release(tkv_cache *cache, struct tkv_layer *layer);
/* Room for a page's codes. */
tkv_status tkv_codes_open(struct tkv_layer *layer, struct tkv_page *page, tkv_error *err);
/* Codes n keys that have just been stored in open pages with codes. */
void tkv_codes_write(const tkv_cache *cache, struct tkv_layer *layer, size_t n,
                     const int64_t *slots);
/* Takes n values that have just been stored in open pages into the layer's mean. */
void tkv_codes_mean(const tkv_cache *cache, struct tkv_layer *layer, size_t n,
                    const int64_t *slots);
/* Forgets those of some rows of a page; of all, and gives the room back. */
void tkv_codes_forget(struct tkv_layer *layer, struct tkv_page *page, uint64_t rows);
void tkv_codes_drop(struct tkv_layer *layer, struct tkv_page *page);
/* Copies a page's codes to one that has room for them and no codes. */
void tkv_codes_copy(struct tkv_layer *layer, struct tkv_page *dst, const struct tkv_page *src);
/* Bytes of a page's codes. */
size_t tkv_codes_bytes(const struct tkv_layer *layer);
/* --- coding (coding.c) --- */

/* Bytes of scratch that coding one head's page needs. */
size_t tkv_coding_scratch_bytes(const struct tkv_layer *layer);
/* The models that a layer's codecs read from the cache's book. */
tkv_status tkv_layer_bind(tkv_cache *cache, struct tkv_layer *layer, tkv_error *err);
struct tkv_codec_env tkv_layer_env(const tkv_cache *cache, const struct tkv_layer *layer,
                                   uint8_t klass, tkv_kind kind, uint32_t head);
/* A coded page of one head, and what goes with it. */
struct tkv_coded {
    uint8_t *page;
    const uint8_t *span; /* tkv_codec_env.span */
    const struct tkv_places *places;
    uint32_t turn;
    uint8_t klass; /* whose codecs */
    tkv_kind kind;
    uint32_t head;
};
/* Codes the valid ones of 64 rows [64][head_dim] of f16. Balance and models must
 * be known. */
void tkv_code_rows(const tkv_cache *cache, const struct tkv_layer *layer,
                   const struct tkv_coded *coded, const uint16_t *rows, uint64_t valid,
                   void *scratch);
/* Decodes to f32 rows [64][head_dim] as they were written. Of pages in a block, `rows` lie in
 * tkv_decode_scratch_bytes() of scratch. */
size_t tkv_decode_scratch_bytes(const struct tkv_layer *layer);
void tkv_decode_rows(const tkv_cache *cache, const struct tkv_layer *layer,
                     const struct tkv_coded *coded, float *rows);
/* The same, but keys that were un-rotated, or turned, stay so. */
void tkv_decode_unrotated(const tkv_cache *cache, const struct tkv_layer *layer,
                          const struct tkv_coded *coded, float *rows);
/* Learns what the layer's codecs learn from their first full page, if they have not; before, they
 * do without. */
tkv_status tkv_layer_learn(tkv_cache *cache, struct tkv_layer *layer, uint8_t klass,
                           const struct tkv_page *page, tkv_error *err);
/* Whether they have; what is coded before must not be read after. */
bool tkv_layer_learned(const struct tkv_layer *layer, uint8_t klass);
bool tkv_page_finite(const struct tkv_layer *layer, const struct tkv_page *page);

/* --- coding pages on all threads (seal.c) --- */

/* An open page and the record that its codes go to; no record: it holds non-finite values. */
struct tkv_coding {
    struct tkv_page *page;
    void *record;
    struct tkv_places *places;
    uint32_t turn;
};

/* Takes a record for an open page, and lets the layer learn from it if it has not learned. */
tkv_status tkv_coding_begin(tkv_cache *cache, struct tkv_layer *layer, struct tkv_page *page,
                            struct tkv_coding *out, tkv_error *err);
/* Codes the pages of the list that have a record. */
tkv_status tkv_code_pages(tkv_cache *cache, const struct tkv_layer *layer,
                          const struct tkv_coding *list, size_t n, tkv_error *err);
/* Gives the record back. */
void tkv_coding_drop(tkv_cache *cache, struct tkv_layer *layer, const struct tkv_coding *coding);

/* At least `bytes` of a room of the cache's, 64-byte aligned, what it held is lost; NULL: no memory.
 */
void *tkv_cache_room(tkv_cache *cache, struct tkv_room *room, size_t bytes);
static inline void *tkv_cache_scratch(tkv_cache *cache, size_t bytes)
{
    return tkv_cache_room(cache, &cache->scratch, bytes);
}

#endif
