/* Attention over a layer. One call is cut into items of (KV head, block of queries, chunk of
 * pages); an item keeps an online softmax for each of its rows, and partial results merge in the
 * order of chunks, so that neither the number of threads nor the batch size changes a result.
 *
 * A *row* is one (query token, query head of the group): row = i_query_in_block * group +
 * i_head_in_group.
 */
#ifndef TKV_ATTN_H
#define TKV_ATTN_H

#include "cache/cache.h"

/* Pages of a chunk; where rows are gathered it has TKV_GATHER_PAGES. Results depend on both. */
#define TKV_CHUNK_PAGES 32
#define TKV_BLOCK_ROWS  128 /* rows of an item, or one group when that is more */

/* How queries and accumulators relate to the rows as written. */
enum tkv_domain {
    TKV_PLAIN = 0,
    TKV_ROTATED,
    TKV_BALANCED, /* queries only: times balance, then rotated (or not, as the codec says) */
    TKV_LEARNED,  /* in a class's learned basis, or as they come; turned with the page */
    TKV_SCALED,   /* times the steps of a span's codes */
    TKV_N_DOMAINS
};

/* Accumulators: of rows as written, rotated, in the learned basis of each class, and of the codes of
 * a span. */
enum {
    TKV_ACC_PLAIN = 0,
    TKV_ACC_ROTATED,
    TKV_ACC_LEARNED,
    TKV_ACC_SCALED = TKV_ACC_LEARNED + TKV_N_CLASSES,
    TKV_N_ACC
};

/* A page as an item sees it: exact rows, coded bytes, or nothing (rows of zeros). */
struct tkv_view {
    const struct tkv_page *page; /* open rows, when it is open and `block` is NULL */
    uint8_t *block;              /* coded, of the worker's head */
    const uint8_t *const *rows;  /* [64] coded rows of blocks in row order, instead of both */
    const struct tkv_span *span; /* page i_page of it, instead of all these */
    uint32_t i_page;
    const struct tkv_places *places;
    uint32_t turn;
};

static inline uint8_t tkv_view_class(const struct tkv_view *view)
{
    return view->span ? TKV_SPAN_VISUAL : TKV_SPAN_TEXT;
}
static inline bool tkv_view_coded(const struct tkv_view *view)
{
    return view->block || view->rows || view->span;
}

/* Rows that a query head does not read, by what is expected of them: their weights come to `sum`
 * times exp(most). */
struct tkv_rest {
    float most, sum;
};

struct tkv_attend_job {
    const tkv_cache *cache;
    const struct tkv_layer *layer;
    const tkv_attend_params *p;
    uint32_t group;
    uint32_t block_queries; /* queries of a block */
    size_t n_blocks;
    size_t chunk_pages;
    size_t n_chunks; /* of pages; each span is a chunk of its own after these */
    size_t first_span, n_spans;
    bool windowed; /* rows beyond the window are attended at a constant distance: windowed.c */
    bool gathers;  /* rows of sealed pages: see gather.c */
    bool split;    /* each chunk is an item of its own */
    bool in_order; /* a thread that is through with a chunk goes on to the next */
    struct tkv_page *pages;
    size_t n_pages;
    struct tkv_coding *shadows; /* strict: open pages coded as well, [n_pages], or NULL */
    /* The (KV head, chunk), head by head, that are being computed: see rounds.h. */
    size_t first_unit, end_unit;
    /* Results that are kept until the end, [head][block][n_kept][rows][2 + v_head_dim]. n_kept: one a
     * chunk where the call is split, one where it goes in rounds; 0: none. */
    float *partials;
    size_t n_kept;
    struct tkv_rest *rest; /* [n_q][n_kv_heads][group] what is not picked; NULL: nothing counts */
    uint64_t *picked; /* [n_q][n_kv_heads][n_pages] slots that are read, outside of spans; NULL: all
                       * that are live */
    uint64_t *asked;  /* the same of which only keys were; NULL: none */
    uint8_t *scratch;
    size_t scratch_bytes; /* of one thread */
};

/* How a row's logits of a span are narrowed: s becomes low + (s - low) * keep. */
struct tkv_range {
    float low, high, keep;
};

/* Takes n <= 64 gathered rows, the others of 64 are copies of the first; and their columns. */
struct tkv_worker;
typedef void (*tkv_gather_fn)(struct tkv_worker *w, void *arg, const uint8_t *const *rows,
                              const size_t *columns, uint32_t n);

/* Rows that wait to be read: a page's worth of them comes from memory while the one before is read.
 */
struct tkv_gather {
    tkv_gather_fn read;
    void *arg;
    size_t row_bytes; /* what is read of each */
    const uint8_t *rows[2][TKV_PAGE_TOKENS];
    size_t columns[2][TKV_PAGE_TOKENS]; /* of the mask */
    uint32_t half, n;                   /* being filled */
    bool other;                         /* the other half is full */
};

/* Working memory of one thread for one item. */
struct tkv_worker {
    const struct tkv_attend_job *job;
    uint32_t head;
    size_t first_query;
    uint32_t n_queries, n_rows;
    /* queries, times the logit scale, by domain; NULL where no codec asks for it */
    float *q[TKV_N_DOMAINS];
    float
        *q_far; /* [n_rows][k_head_dim] before RoPE, then turned by the constant distance; NULL: not
                   * asked for */
    float *keys;                  /* decoded for those; tkv_decode_scratch_bytes() */
    int8_t *q8[TKV_N_DOMAINS][2]; /* planes: high, low */
    float *q8_scale[TKV_N_DOMAINS][2];
    /* one page */
    uint8_t *k_tile, *v_tile;
    uint8_t *page; /* of one kind, brought to tile order */
    struct tkv_gather gather;
    float *decoded;
    float *k_scale, *v_scale, *mean;
    float *angles;     /* NULL where no codec un-rotates keys */
    float *mask;       /* [n_queries][64] */
    uint8_t *mask_use; /* [n_queries] enum tkv_mask_use */
    int32_t *si;
    float *s, *s2, *bias;
    uint8_t *w;
    float *w_scale;
    /* running state */
    struct tkv_softmax_row *state;
    /* one span: see span.c */
    float *low, *step;       /* [D], of the kind at hand */
    float *span_bias;        /* [n_rows] what the query gives with the keys' low ends */
    struct tkv_range *range; /* [n_rows] of the logits; NULL: they stay as they are */
    struct tkv_range *range_buf;
    float *acc[TKV_N_ACC]; /* [n_rows][v_head_dim]; NULL where no codec asks for it */
    bool acc_used[TKV_N_ACC];
    /* What the queries in TKV_LEARNED are made for. */
    bool learned_made;
    uint8_t learned_class;
    uint32_t learned_turn;
    struct tkv_ahead ahead; /* over the next page's bytes */
    uintptr_t ahead_end;
};

enum tkv_mask_use {
    TKV_MASK_HIDDEN, /* no slot of the page is live for this query */
    TKV_MASK_FREE,   /* all are, and nothing is added */
    TKV_MASK_MIXED   /* worker->mask holds what to add */
};

/* memory.c: pointers into one thread's scratch. */
size_t tkv_worker_bytes(const struct tkv_attend_job *job);
void tkv_worker_init(struct tkv_worker *w, const struct tkv_attend_job *job, uint8_t *scratch);

/* query.c: loads and transforms the queries of an item. */
void tkv_worker_queries(struct tkv_worker *w, uint32_t head, size_t first_query);
enum tkv_domain tkv_query_domain(const struct tkv_layer *layer, uint8_t klass);
/* Codes of the queries in a domain, their scales, and what is left over. */
void tkv_worker_quantize(struct tkv_worker *w, enum tkv_domain domain, uint32_t planes);
/* Queries for the turn of a page and, where it has one, the learned basis of a class. */
void tkv_worker_learned_queries(struct tkv_worker *w, uint8_t klass, uint32_t turn);

/* mask.c: fills worker->mask and mask_use for 64 slots, from a column of the mask on, among those
 * that `allow` has bits for (one word a query, or NULL: all). Returns whether any query sees
 * anything. The column may lie before the first or past the last one, which hides slots. */
bool tkv_worker_mask(struct tkv_worker *w, int64_t column, const uint64_t *allow);
/* The same for n <= 64 columns of the first query; the others of 64 are hidden. */
void tkv_worker_mask_columns(struct tkv_worker *w, const size_t *columns, uint32_t n);
/* Live slots of 64 for one query. */
uint64_t tkv_live_bits(const tkv_attend_params *p, size_t query, int64_t column);
/* Slots of an open page that a query may read exactly under strict: by sink and tail, and those that
 * wait for their span. */
uint64_t tkv_exact_bits(const tkv_cache *cache, const struct tkv_layer *layer,
                        const struct tkv_page *page, const int32_t *q_pos, size_t query);

/* page.c: one page into the running state. The mask must be set. `next` (may be NULL) is the page
 * after it. */
void tkv_worker_look_ahead(struct tkv_worker *w, const struct tkv_page *page,
                           const struct tkv_page *next);
void tkv_worker_page(struct tkv_worker *w, const struct tkv_view *view);
/* The logits alone, into worker->s. */
void tkv_worker_scores(struct tkv_worker *w, const struct tkv_view *view);
struct tkv_codec_env tkv_view_env(const struct tkv_worker *w, const struct tkv_view *view,
                                  tkv_kind kind);

/* windowed.c: A2ATS's windowed RoPE, read literally: beyond the window the logits of keys are those at
 * one constant distance. Slow, to compare with. */
void tkv_worker_far_queries(struct tkv_worker *w);
/* The logits of a page into worker->s. */
void tkv_worker_windowed_scores(struct tkv_worker *w, const struct tkv_view *view);

/* span.c: one span into a running state that holds nothing yet. */
void tkv_worker_span(struct tkv_worker *w, const struct tkv_span *span);
/* Whether the codes of spans go through kernels of their own. */
bool tkv_span_is_scaled(const struct tkv_worker *w, tkv_kind kind);

#endif
