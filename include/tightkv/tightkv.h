/* tightkv: coded key-value caches for language models, and attention on the coded form.
 *
 * Stable interface. SPDX-License-Identifier: MIT
 *
 * Conventions used throughout:
 *   - A *head vector* is the head_dim values of one token's key or value for one layer and one
 *     KV head.
 *   - A *page* is TKV_PAGE_TOKENS consecutive slots of one (layer, KV head), for K or for V.
 *   - Arrays are written [outer]...[inner]; strides are in bytes; rows may be unaligned unless a
 *     function says otherwise. Input and output arrays must not overlap.
 *   - Every function that can fail returns a tkv_status. On failure its outputs are untouched, and
 *     `err`, where it is not NULL, holds one line that names the thing and the cure.
 *   - Objects are not thread-safe: one thread at a time may use a context or a cache. Different
 *     caches of one context may be used from different threads when its executor allows it.
 *   - The library starts no threads, prints nothing, and never aborts.
 */
#ifndef TIGHTKV_H
#define TIGHTKV_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "version.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) && defined(TKV_SHARED)
#ifdef TKV_BUILDING
#define TKV_API __declspec(dllexport)
#else
#define TKV_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define TKV_API __attribute__((visibility("default")))
#else
#define TKV_API
#endif

/* Slots in a page: the unit of coding, of attention work and of storage. */
#define TKV_PAGE_TOKENS 64

/* Largest head size that any codec accepts. */
#define TKV_MAX_HEAD_DIM 512

typedef enum tkv_kind {
    TKV_K = 0, /* keys */
    TKV_V = 1  /* values */
} tkv_kind;

typedef enum tkv_type {
    TKV_F32 = 0,
    TKV_F16 = 1 /* IEEE binary16, as ggml_fp16_t */
} tkv_type;

/* Span classes: a run of tokens of one class may have codecs of its own. */
typedef enum tkv_span_class {
    TKV_SPAN_TEXT = 0,
    TKV_SPAN_VISUAL = 1
} tkv_span_class;

/* The version of the library at run time, "major.minor.patch"; static. Since 0.1. */
TKV_API const char *tkv_version(void);

/* A short English phrase for a status; static. Since 0.1. */
TKV_API const char *tkv_status_string(tkv_status status);

/* ---- context ------------------------------------------------------------------------------- */

/* Instruction-set levels, as bits of tkv_context_params.cpu_mask and of tkv_context_cpu(). The
 * portable reference is always there. Since 0.1. */
#define TKV_CPU_AVX2    (1u << 0) /* AVX2, FMA, F16C, BMI2 */
#define TKV_CPU_AVX512  (1u << 1) /* AVX-512 F, BW, VL, DQ, VNNI, VBMI, and GFNI */
#define TKV_CPU_BF16    (1u << 2) /* AVX-512 BF16 */
#define TKV_CPU_NEON    (1u << 3) /* Advanced SIMD */
#define TKV_CPU_DOTPROD (1u << 4) /* Advanced SIMD with 8-bit dot products */
#define TKV_CPU_ALL     0xffffffffu

/* Memory for everything a context owns. `alloc` returns `bytes` bytes aligned to 64, or NULL;
 * `free` receives the same byte count back. Both may be called from the thread that calls the
 * library only. */
typedef struct tkv_allocator {
    void *user;
    void *(*alloc)(void *user, size_t bytes);
    void (*free)(void *user, void *ptr, size_t bytes);
} tkv_allocator;

/* Threads, supplied by the caller. `run` calls fn(arg, ith, nth) once for every ith in [0, nth)
 * with 1 <= nth <= n_threads, on any threads, possibly at once, and returns when all calls are
 * done. */
typedef struct tkv_executor {
    void *user;
    uint32_t n_threads;
    void (*run)(void *user, void (*fn)(void *arg, uint32_t ith, uint32_t nth), void *arg);
} tkv_executor;

typedef struct tkv_context_params {
    uint32_t struct_size;    /* set by tkv_context_params_default() */
    uint32_t cpu_mask;       /* TKV_CPU_*: levels that may be used where the CPU has them */
    tkv_allocator allocator; /* all NULL: the C library's */
    tkv_executor executor;   /* run NULL: the calling thread alone */
} tkv_context_params;

typedef struct tkv_context tkv_context;

/* Fills `p` with defaults: every CPU level, C library memory, no threads. Since 0.1. */
TKV_API void tkv_context_params_default(tkv_context_params *p);

/* Creates a context: the kernel table for this CPU, the allocator, the executor.
 *   p    borrowed for the call; NULL means defaults
 *   out  receives the context; the caller destroys it after every cache made with it
 * Errors: TKV_ERR_INVALID, TKV_ERR_NOMEM. Since 0.1. */
TKV_API tkv_status tkv_context_create(const tkv_context_params *p, tkv_context **out,
                                      tkv_error *err);

/* Destroys a context; NULL is accepted. Since 0.1. */
TKV_API void tkv_context_destroy(tkv_context *ctx);

/* Replaces the executor; takes effect from the next call on. Since 0.1. */
TKV_API tkv_status tkv_context_set_executor(tkv_context *ctx, const tkv_executor *executor);

/* The CPU levels in use (TKV_CPU_* bits). Since 0.1. */
TKV_API uint32_t tkv_context_cpu(const tkv_context *ctx);

/* ---- codecs -------------------------------------------------------------------------------- */

/* A codec with its options. `id` is the wire id of spec/FORMAT.md, never reused. */
typedef struct tkv_codec {
    uint16_t id;
    uint16_t flags; /* TKV_CODEC_* */
} tkv_codec;

#define TKV_CODEC_NONE        0    /* tkv_codec.id: no codec named */
#define TKV_CODEC_NO_ROTATION (1u) /* tkv_codec.flags: rot=none, the papers' ablation */
#define TKV_CODEC_QUANTILES   (2u) /* tkv_codec.flags: ranges between quantiles, for visual codecs */

/* What a codec is, for tables and choices. Strings are static. */
typedef struct tkv_codec_info {
    uint32_t struct_size; /* set by the caller to sizeof(tkv_codec_info) */
    uint16_t id;
    const char *name;
    const char *summary;
    int whole_page; /* its statistics need the whole page */
    int idempotent; /* decode, round to f16, encode gives the same bytes */
    int rotates;    /* applies the random rotation unless told not to */
    int fused;      /* has its own attention path; the others go through decoding to f32 */
    int needs_book; /* codes in a cache only, with a book (tight*: or at a loss without one):
                     * see tkv_cache_set_book() */
} tkv_codec_info;

/* Number of codecs; indices 0..n-1 go with tkv_codec_describe(). Since 0.1. */
TKV_API uint32_t tkv_codec_count(void);

/* Describes the i-th codec. Errors: TKV_ERR_INVALID for an index out of range. Since 0.1. */
TKV_API tkv_status tkv_codec_describe(uint32_t i, tkv_codec_info *out);

/* Finds a codec by name ("turbo4"). Errors: TKV_ERR_SPEC, naming the codecs there are. Since
 * 0.1. */
TKV_API tkv_status tkv_codec_find(const char *name, tkv_codec *out, tkv_error *err);

/* Bytes of one coded page (TKV_PAGE_TOKENS head vectors), scales included; 0 when the codec
 * cannot code this head size. Where a book gives heads different numbers of bits, the mean over
 * all heads. Since 0.1. */
TKV_API size_t tkv_page_bytes(tkv_codec codec, tkv_kind kind, uint32_t head_dim);

/* Encodes pages, for callers who want a codec and no cache. Deterministic: the same bytes on
 * every CPU and with any number of threads.
 *   rows       [n_pages * TKV_PAGE_TOKENS][head_dim] f32 or f16, rows `row_stride` bytes apart,
 *              borrowed
 *   n_tokens   rows that exist; rows of the last page beyond it are coded as zeros
 *   pages      [ceil(n_tokens / TKV_PAGE_TOKENS)][tkv_page_bytes()], written
 * Errors: TKV_ERR_UNSUPPORTED (head size), TKV_ERR_NONFINITE (a NaN, an infinity, or a value
 * over 65504), TKV_ERR_RANGE (capacity), TKV_ERR_NOMEM. Since 0.1. */
TKV_API tkv_status tkv_encode(tkv_context *ctx, tkv_codec codec, tkv_kind kind, uint32_t head_dim,
                              const void *rows, tkv_type type, size_t row_stride, size_t n_tokens,
                              void *pages, size_t capacity, tkv_error *err);

/* Decodes pages made by tkv_encode(). Any bytes are safe to decode; what is not a page of this
 * codec decodes to some numbers, NaN among them.
 *   rows  [n_tokens][head_dim] f32 or f16, written
 * Errors: TKV_ERR_UNSUPPORTED, TKV_ERR_RANGE (fewer bytes than n_tokens needs), TKV_ERR_NOMEM.
 * Since 0.1. */
TKV_API tkv_status tkv_decode(tkv_context *ctx, tkv_codec codec, tkv_kind kind, uint32_t head_dim,
                              const void *pages, size_t n_bytes, void *rows, tkv_type type,
                              size_t row_stride, size_t n_tokens, tkv_error *err);

/* For those who learn codebooks for rvq: the code nearest to each row (integers, the halved squared
 * norms of codes rounded down), the first of equals.
 *   codes    [2048][32], borrowed
 *   rows     [n_rows][32], borrowed
 *   nearest  [n_rows], written
 * Errors: TKV_ERR_INVALID. Any thread. Since 0.2. */
TKV_API tkv_status tkv_rvq_nearest(const tkv_context *ctx, const int8_t *codes, const int8_t *rows,
                                   size_t n_rows, uint16_t *nearest);

/* ---- specs --------------------------------------------------------------------------------- */

/* Room for the name of a book in a spec. */
#define TKV_SPEC_BOOK 256

#define TKV_SPEC_MOST_BEAM 8

/* tkv_spec.index. */
typedef enum tkv_index_kind {
    TKV_INDEX_NONE = 0,
    TKV_INDEX_QVQ = 1,  /* scores by code and by how far away a key is, in bands of distances */
    TKV_INDEX_A2ATS = 2 /* as published: one constant distance for all far keys */
} tkv_index_kind;

/* Room for a spec in print, and layers that it can name. */
#define TKV_SPEC_TEXT   2048
#define TKV_SPEC_LAYERS 256

/* A spec in parsed form: "k=turbo4,v=turbo3,sink=64,tail=128". */
typedef struct tkv_spec {
    uint32_t struct_size;
    tkv_codec k, v;               /* text and everything without a class of its own */
    tkv_codec visual_k, visual_v; /* id TKV_CODEC_NONE: as text */
    uint32_t sink;                /* tokens at the start of a sequence that stay exact */
    uint32_t tail;                /* newest tokens of a sequence that stay exact */
    uint32_t strict;              /* 1: no query reads more exact rows than sink and tail allow */
    char book[TKV_SPEC_BOOK];     /* the file that the caller gives to tkv_book_open(); "": none */
    uint32_t beam; /* rvq: how many choices of codes are followed at once, to TKV_SPEC_MOST_BEAM;
                    * 0 or 1: the nearest only */
    uint32_t index; /* tkv_index_kind: queries read the rows that it picks */
    float keep;     /* picked for a KV head at most, sink and tail apart: below 1 a share of the live
                     * rows, else rows. Where the book gives heads more or less, their mean; a row
                     * whose key alone is read counts half */
    float mass;     /* picked until this share of the attention is expected to be read; 0: as many
                     * as keep allows */
    uint32_t rest; /* 1: what is not picked counts too, as many rows of the layer's mean value with the
                    * weights that codes promise */
    uint64_t dense[TKV_SPEC_LAYERS / 64]; /* bits of model layers that have no index */
    uint64_t ram; /* bytes of sealed pages that are kept in memory; 0: all */
    char spill[TKV_SPEC_BOOK]; /* the folder for the others; "": none */
    uint32_t window_rope; /* 1, with TKV_INDEX_A2ATS: a row that the index may leave out is attended at
                           * the one distance at which it was scored; 0: where it stands */
} tkv_spec;

/* Parses a spec: comma-separated key=value; a codec's name at the start stands for keys and
 * values alike, a preset's name for the preset, and keys after it change it ("turbo4",
 * "small,tail=256"). Keys: k v kv visual.k visual.v visual.range sink tail rot strict
 * book beam index keep mass rest dense ram spill.
 *   text  NUL-terminated, borrowed; NULL or "" is the default preset
 * Errors: TKV_ERR_SPEC naming the word at fault and what is allowed there. Since 0.1. */
TKV_API tkv_status tkv_spec_parse(const char *text, tkv_spec *out, tkv_error *err);

/* Prints the canonical form, NUL-terminated. `buf` of TKV_SPEC_TEXT bytes always suffices.
 * Errors: TKV_ERR_RANGE when it does not fit. Since 0.1. */
TKV_API tkv_status tkv_spec_print(const tkv_spec *spec, char *buf, size_t capacity);

/* The i-th preset: its name, its spec and one sentence; the first is the default. Strings are
 * static.
 * Errors: TKV_ERR_INVALID past the last. Since 0.1. */
TKV_API tkv_status tkv_spec_preset(uint32_t i, const char **name, const char **text,
                                   const char **summary);

/* ---- cache --------------------------------------------------------------------------------- */

typedef struct tkv_cache tkv_cache;

/* What a model's calibration learned: bases, codebooks, means. */
typedef struct tkv_book tkv_book;

/* Opens a book, a GGUF file in memory.
 *   bytes  borrowed until tkv_book_close(), and must not change; codebooks are read fastest when
 *          they are aligned to 64
 *   out    receives the book; the caller closes it after every cache made with it
 * Any bytes are safe to open. Errors: TKV_ERR_CORRUPT, TKV_ERR_VERSION, TKV_ERR_NOMEM. Since
 * 0.2. */
TKV_API tkv_status tkv_book_open(tkv_context *ctx, const void *bytes, size_t n_bytes,
                                 tkv_book **out, tkv_error *err);

/* Closes a book; NULL is accepted. Since 0.2. */
TKV_API void tkv_book_close(tkv_book *book);

/* Text that a book holds under a key, NUL-terminated. Errors: TKV_ERR_RANGE when there is none of
 * this name or it does not fit. Since 0.2. */
TKV_API tkv_status tkv_book_text(const tkv_book *book, const char *key, char *buf,
                                 size_t capacity);

/* A tensor of a book. */
typedef struct tkv_book_tensor {
    uint32_t struct_size; /* set by the caller to sizeof(tkv_book_tensor) */
    char name[64];
    const char *type; /* "f32", "f16", "i8", "i16", "i32"; static */
    uint64_t dims[4]; /* the contiguous one first; 1 beyond the last */
    uint64_t n_values, n_bytes;
} tkv_book_tensor;

/* Describes the i-th tensor. Errors: TKV_ERR_RANGE past the last. Since 0.2. */
TKV_API tkv_status tkv_book_get_tensor(const tkv_book *book, uint64_t i, tkv_book_tensor *out);

/* Reads n values, from the first-th on, of the tensor `name` as f32. Errors: TKV_ERR_RANGE when
 * there is none that has them. Since 0.2. */
TKV_API tkv_status tkv_book_read(const tkv_book *book, const char *name, size_t first, size_t n,
                                 float *out);

/* Gives a cache the book that its learned codecs read, before its first layer.
 *   book  borrowed until the cache is destroyed
 * Errors: TKV_ERR_INVALID when there are layers already. Since 0.2. */
TKV_API tkv_status tkv_cache_set_book(tkv_cache *cache, const tkv_book *book, tkv_error *err);

/* The shape of one layer. Layers of one cache may differ. */
typedef struct tkv_layer_params {
    uint32_t struct_size;
    uint32_t n_kv_heads;
    uint32_t k_head_dim;
    uint32_t v_head_dim;
    uint32_t n_slots;     /* slots of one stream */
    uint32_t n_streams;   /* unrelated sequences; slot s of stream i is i * n_slots + s */
    uint32_t model_layer; /* the layer's number in the model: what a book knows it by */
    uint32_t n_axes;      /* positions of a row: 0 or 1, or 3 for M-RoPE: time, height, width */
} tkv_layer_params;

/* Creates an empty cache.
 *   spec  borrowed for the call. sink and tail are what stays exact; everything else seals. With ram
 *         and spill, coded pages take at most so much memory, but for visual spans; the others are
 *         in one file without a name in that folder, and calls that need them read them back
 * Errors: TKV_ERR_INVALID, TKV_ERR_NOMEM, TKV_ERR_IO (no file can be made in the folder). Later calls
 * that read or write rows may then give TKV_ERR_IO (a read or a write failed: the disk is full, say)
 * and TKV_ERR_CORRUPT (a page came back with other bytes): nothing is lost but what the disk has
 * lost, other pages can be read, and a later call tries again. Since 0.1. */
TKV_API tkv_status tkv_cache_create(tkv_context *ctx, const tkv_spec *spec, tkv_cache **out,
                                    tkv_error *err);

/* Destroys a cache and everything in it; NULL is accepted. Since 0.1. */
TKV_API void tkv_cache_destroy(tkv_cache *cache);

/* Adds a layer; its index (0, 1, ...) goes to `layer`. Commits no memory for rows.
 * Errors: TKV_ERR_UNSUPPORTED when the spec's codecs cannot code these head sizes (names them),
 * TKV_ERR_INVALID (also when ram is too small for the layer: says what it needs), TKV_ERR_NOMEM.
 * Since 0.1. */
TKV_API tkv_status tkv_cache_add_layer(tkv_cache *cache, const tkv_layer_params *params,
                                       uint32_t *layer, tkv_error *err);

/* Rows to write: [n_rows][n_kv_heads * head_dim] of `type`, `stride` bytes apart. */
typedef struct tkv_rows {
    const void *data; /* borrowed; NULL: this kind is not written */
    tkv_type type;
    size_t stride;
} tkv_rows;

/* Writes rows at slots, in any order; a slot of a sealed page re-opens its page. Rows are kept
 * exact (as f16) until their page seals: see tkv_cache_seal(). Keys and values may come in one
 * call or two. Where the spec has codecs for visual rows, the visual rows of a stream seal as soon
 * as a text row is written there: each run of consecutive slots is a span and is coded as one.
 *   slots   [n_rows] global slot numbers, borrowed
 *   pos     [n_axes][n_rows] positions in their sequences, borrowed; NULL: unknown (treated as
 *           newest, never sink). Sink and tail go by the first axis. Codecs that code keys as
 *           before RoPE turn each row back by its positions when its page seals and forth again
 *           when it is read, by the RoPE that the book names: a row with a wrong or unknown
 *           position comes back all the same, but may take a larger error
 *   klass   [n_rows] tkv_span_class, borrowed; NULL: all text
 * Errors: TKV_ERR_RANGE (a slot out of range, nothing written), TKV_ERR_NOMEM. Values out of
 * range for f16 become infinities, as stock f16 caches make them; a page that holds a non-finite
 * value never seals. Since 0.1. */
TKV_API tkv_status tkv_cache_write(tkv_cache *cache, uint32_t layer, size_t n_rows,
                                   const int64_t *slots, const int32_t *pos, const uint8_t *klass,
                                   tkv_rows k, tkv_rows v, tkv_error *err);

/* Seals the pages of a layer that are full and wholly older than the tail, and returns their
 * exact rows to the pool. To be called after the layer's attention has run. Pages with a sink
 * row stay exact; visual rows that have codecs of their own seal by span, whatever sink and tail.
 * Errors: TKV_ERR_NOMEM, TKV_ERR_IO (pages that could not be sealed stay open; nothing is lost).
 * Since 0.1. */
TKV_API tkv_status tkv_cache_seal(tkv_cache *cache, uint32_t layer, tkv_error *err);

/* Reads rows back, decoded; slots that hold nothing read as zeros.
 *   rows  [n_rows][n_kv_heads * head_dim] of `type`, `stride` bytes apart, written; in part, when a
 *         page cannot be read back from the spill file
 * Errors: TKV_ERR_RANGE, TKV_ERR_NOMEM, TKV_ERR_IO, TKV_ERR_CORRUPT. Since 0.1. */
TKV_API tkv_status tkv_cache_read(tkv_cache *cache, uint32_t layer, tkv_kind kind, size_t n_rows,
                                  const int64_t *slots, void *rows, tkv_type type, size_t stride,
                                  tkv_error *err);

/* Copies slots [src, src + n) to [dst, dst + n) within a layer, coded bytes as they are where
 * pages line up. The ranges must not overlap. Errors: TKV_ERR_RANGE, TKV_ERR_NOMEM. Since 0.1. */
TKV_API tkv_status tkv_cache_copy(tkv_cache *cache, uint32_t layer, int64_t dst, int64_t src,
                                  size_t n, tkv_error *err);

/* Forgets slots [first, first + n) of a layer: they read as zeros, and pages left empty give
 * their memory back. Errors: TKV_ERR_RANGE, TKV_ERR_NOMEM. Since 0.1. */
TKV_API tkv_status tkv_cache_forget(tkv_cache *cache, uint32_t layer, int64_t first, size_t n,
                                    tkv_error *err);

/* Drops every row of every layer at or past `n_slots` of stream `stream`. Since 0.1. */
TKV_API tkv_status tkv_cache_truncate(tkv_cache *cache, uint32_t stream, size_t n_slots,
                                      tkv_error *err);

/* Bytes and pages in use, over all layers. */
typedef struct tkv_cache_stats {
    uint32_t struct_size;  /* set by the caller */
    uint64_t n_values;     /* values held: rows x head_dim, K and V */
    uint64_t f16_bytes;    /* what an f16 cache of the same rows would hold */
    uint64_t sealed_bytes; /* coded pages */
    uint64_t open_bytes;   /* exact pages: sink, tail, pages not yet full */
    uint64_t meta_bytes;   /* page tables and headers */
    uint64_t pool_bytes;   /* all memory taken for pages, free records included */
    uint64_t n_pages_sealed;
    uint64_t n_pages_open;
    uint64_t n_pages_unsealable; /* open for good: they hold a non-finite value */
    uint64_t visual_values;      /* of n_values: those of visual rows */
    uint64_t visual_bytes;       /* of sealed_bytes and open_bytes: what visual rows take. Pages
                                  * that they share with text count by rows, spans as they are */
    uint64_t side_bytes;         /* of sealed_bytes: scales, means, padding; the rest are codes */
    uint64_t book_bytes;         /* bases and codebooks from a book; in none of the others */
    uint64_t index_bytes;        /* of meta_bytes: codes of the retrieval index, and their counts */
} tkv_cache_stats;

TKV_API tkv_status tkv_cache_get_stats(const tkv_cache *cache, tkv_cache_stats *out);

/* Where the coded pages of a cache with ram= and spill= are, and what came and went since it was
 * made. They are moved in blocks: keys and values of one page and KV head. All zeros for other
 * caches. */
typedef struct tkv_tier_stats {
    uint32_t struct_size;    /* set by the caller */
    uint32_t io_uring;       /* 1: blocks are read and written through io_uring */
    uint64_t hits;           /* blocks that were asked for and were in memory, or on their way */
    uint64_t misses;         /* that had to be read */
    uint64_t bytes_read;     /* from the file */
    uint64_t bytes_written;  /* to it */
    uint64_t stall_ns;       /* spent waiting for the file */
    uint64_t resident_bytes; /* blocks in memory, at most ram */
    uint64_t file_bytes;     /* size of the file */
} tkv_tier_stats;

/* Errors: TKV_ERR_INVALID. Since 0.2. */
TKV_API tkv_status tkv_cache_get_tier_stats(const tkv_cache *cache, tkv_tier_stats *out);

/* ---- attention ----------------------------------------------------------------------------- */

#define TKV_ATTEND_EXACT  (1u) /* f32 arithmetic on decoded pages: slow, to compare with */
#define TKV_ATTEND_SELECT (2u) /* every query reads what the index picks; without it only calls of
                                * few queries that see many rows do */
#define TKV_ATTEND_DENSE  (4u) /* the index is not asked */

typedef struct tkv_attend_params {
    uint32_t struct_size;
    uint32_t layer;
    uint32_t n_q;       /* query tokens */
    uint32_t n_q_heads; /* a multiple of the layer's n_kv_heads; head h reads KV head h / group */
    uint32_t flags;     /* TKV_ATTEND_* */
    tkv_type mask_type;
    const float *q;          /* [n_q][n_q_heads][k_head_dim], borrowed */
    size_t q_token_stride;   /* bytes */
    size_t q_head_stride;    /* bytes */
    float *out;              /* [n_q][n_q_heads][v_head_dim], written */
    size_t out_token_stride; /* bytes */
    size_t out_head_stride;  /* bytes */
    int64_t first_slot;      /* column 0 of the mask; a multiple of TKV_PAGE_TOKENS */
    size_t n_kv;             /* columns of the mask, or the length when there is none */
    const void *mask;        /* [n_q][n_kv] added to the logits, -inf hides; NULL: all are live */
    size_t mask_stride;      /* bytes between mask rows */
    const int32_t *q_pos;    /* [n_q] positions, needed by strict and the index; NULL: newest,
                              * which read everything */
    float scale;             /* of the logits, usually 1/sqrt(k_head_dim) */
    float softcap;           /* 0: none; else logits become softcap * tanh(logit / softcap) */
    const float *slopes;     /* [n_q_heads] factor on the mask (ALiBi); NULL: 1 */
    const float *sinks;      /* [n_q_heads] extra logit in each softmax's denominator; NULL: none */
} tkv_attend_params;

/* Fills `p` with zeros and defaults (scale 1). Since 0.1. */
TKV_API void tkv_attend_params_default(tkv_attend_params *p);

/* Attention of n_q tokens over one layer. A query row whose mask hides everything gives zeros.
 * Results do not depend on the number of threads nor on how queries are batched.
 * Errors: TKV_ERR_INVALID, TKV_ERR_RANGE, TKV_ERR_NOMEM, TKV_ERR_IO, TKV_ERR_CORRUPT. Since 0.1. */
TKV_API tkv_status tkv_attend(tkv_cache *cache, const tkv_attend_params *p, tkv_error *err);

/* How the rows of an attention call would be read: the mean share of live rows that a query
 * reads exactly, and reads at all; a row of which the key alone is read counts half. Same arguments
 * as tkv_attend(); q and out may be NULL. Since 0.1. */
TKV_API tkv_status tkv_attend_fractions(tkv_cache *cache, const tkv_attend_params *p,
                                        double *exact_fraction, double *read_fraction,
                                        tkv_error *err);

/* The rows that attention reads, sink and tail among them: bit t of bits[i][h][j] is slot
 * first_slot + 64 j + t for query i and KV head h. All live rows where the index is not asked: in
 * layers without one, without q_pos, and as flags say.
 *   p     as for tkv_attend(); out may be NULL
 *   bits  [n_q][n_kv_heads][ceil(n_kv / 64)], written
 *   keys  the same for rows of which only the key is read, to choose those; NULL: not wanted
 * Errors: as tkv_attend(). Since 0.2. */
TKV_API tkv_status tkv_attend_select(tkv_cache *cache, const tkv_attend_params *p, uint64_t *bits,
                                     uint64_t *keys, tkv_error *err);

#ifdef __cplusplus
}
#endif

#endif
