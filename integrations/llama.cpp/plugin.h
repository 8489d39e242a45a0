/* plugin.h: what the files of the llama.cpp plug-in share.
 *
 * ggml sees a device that can hold a KV cache and attend on it, and nothing else:
 *
 *   reg.c, device.c    what ggml enumerates: a registry with one device
 *   claim.c            which operations the device takes
 *   buffer.c           memory of that device; tensors named cache_* become roots
 *   root.c             one K or V tensor of a layer, coded or plain, decided at its first use
 *   root_io.c          its bytes, as ggml sees them (f16 rows), read and written
 *   memo.c             positions of rows that were saved, by a hash of the row
 *   graph.c            computes a graph: each node goes to
 *     attention.c        SET_ROWS and FLASH_ATTN_EXT on coded roots,
 *     shift.c            ROPE in place on a coded root (context shift), or
 *     fallback.c         anything else: a graph of one node on ggml's CPU backend
 *   book.c             what learned codecs read
 *   model.c            the model's file, from what is mapped
 *   fingerprint.c      what tells a model from another
 *   positions.c        token positions, from the ROPE node above
 *   spans.c            visual rows, from the input above
 *   watch.c            compares coded pages with what they coded
 *   config.c, log.c, version.c, executor.c
 */
#ifndef TKG_PLUGIN_H
#define TKG_PLUGIN_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ggml-backend-impl.h"
#include "ggml.h"
#include "tightkv-ggml.h"
#include <tightkv/tightkv.h>

struct tkg_buffer;
struct tkg_memo;
struct tkg_watch;

/* ---- the one registry, device and buffer type (reg.c) ----------------------------------- */

struct tkg_plugin {
    struct ggml_backend_reg reg;
    struct ggml_backend_device device;
    struct ggml_backend_buffer_type buft;
    enum ggml_backend_dev_type type;
    bool active;          /* false: no device is shown */
    pthread_mutex_t lock; /* of all below */
    tkv_spec spec;        /* of caches made from now on */
    bool nominal_size;    /* buffers are reported at f16 size */
    uint32_t cpu_mask;
    struct tkg_buffer *buffers; /* those with roots, linked by `next` */
    bool measuring;
    double exact_sum, read_sum; /* over n_scored rows */
    uint64_t n_scored;
    uint32_t logged;                                /* bits of enum tkg_once */
    uint32_t logged_ops[(GGML_OP_COUNT + 31) / 32]; /* fallbacks on coded roots */
};

extern struct tkg_plugin tkg_plugin;

void tkg_device_init(struct ggml_backend_device *device, struct ggml_backend_reg *reg);

/* ---- log.c ------------------------------------------------------------------------------ */

/* Facts that are said once a process. */
enum tkg_once {
    TKG_ONCE_SEAL_NOMEM,
    TKG_ONCE_NO_POSITIONS,
    TKG_ONCE_TYPE,
    TKG_ONCE_ATTEND_FAILED,
    TKG_ONCE_WRITE_FAILED
};

__attribute__((format(printf, 2, 3))) void tkg_log(enum ggml_log_level level, const char *format,
                                                   ...);

/* True the first time it is asked for `what`. */
bool tkg_first_time(enum tkg_once what);

/* ---- config.c, version.c ---------------------------------------------------------------- */

bool tkg_version_matches(void);      /* logs when not */
bool tkg_config_load(void);          /* from the environment; logs what is wrong */
int tkg_configure(const char *spec); /* entry points of tightkv-ggml.h */
int tkg_stats(struct tightkv_ggml_stats *out);
int tkg_measure(int on);

/* ---- roots ------------------------------------------------------------------------------ */

enum tkg_storage {
    TKG_UNDECIDED, /* no byte written yet */
    TKG_CODED,     /* in the buffer's tkv_cache */
    TKG_PLAIN      /* as ggml lays it out, in memory of its own */
};

/* Positions of a row under M-RoPE: time, height, width. (ggml has a fourth, always 0.) */
#define TKG_AXES 3

/* What is known of the cells of one llama.cpp cache: all its layers share it. */
struct tkg_cells {
    struct tkg_cells *next;
    int64_t n_slots, n_streams;
    uint32_t n_axes; /* positions of a row: 1, or TKG_AXES where a layer has M-RoPE */
    /* [n_axes][n_streams * n_slots], lazily committed. The first axis: position + 1, 0 where
     * nothing is known. */
    int32_t *pos;
    uint8_t *klass;               /* [n_streams * n_slots] tkv_span_class */
    uint32_t n_shifts;            /* context shifts applied to pos */
    const struct tkg_root *first; /* K of the lowest layer: it fills `klass` and `memo` */
    struct tkg_memo *memo;
};

/* A leaf tensor of a KV cache that might be coded. ggml_tensor.extra of the tensor and of all its
 * views points here. */
struct tkg_root {
    struct tkg_root *next;
    struct tkg_buffer *buffer;
    struct tkg_root *pair; /* V of this K and the other way round, once attention has shown it */
    struct tkg_cells *cells;
    struct tkg_watch *watch; /* of K */
    enum tkg_storage storage;
    tkv_kind kind;
    char name[GGML_MAX_NAME];
    uint32_t head_dim, n_heads; /* 0: not known yet */
    uint32_t layer;             /* of the tkv_cache, when coded */
    int64_t n_slots, n_streams;
    size_t row_bytes;
    size_t reported_bytes; /* its share of the buffer's size */
    struct {
        int64_t dst, src, n;
    } copied; /* the last copy of K, which took V with it */
    uint32_t n_shifts;
    char *plain; /* when plain: its bytes */
    size_t plain_mapped;
};

/* The root under a tensor or a view of one; NULL when it has none. */
struct tkg_root *tkg_root_of(const struct ggml_tensor *t);

/* The leaf below a chain of views. */
const struct ggml_tensor *tkg_leaf(const struct ggml_tensor *t);

struct tkg_root *tkg_root_create(struct tkg_buffer *buffer, const struct ggml_tensor *t);
void tkg_root_destroy(struct tkg_root *root);

/* What an f16 tensor of a cache takes once coded: an estimate from its shape alone. */
size_t tkg_root_estimate(const struct ggml_tensor *t);
bool tkg_is_named_like_cache(const struct ggml_tensor *t);
bool tkg_is_cache_tensor(const struct ggml_tensor *t);

/* ---- buffers ---------------------------------------------------------------------------- */

struct tkg_buffer {
    struct tkg_buffer *next;
    struct ggml_backend_buffer *ggml; /* set when the first root arrives */
    char *base;
    size_t mapped;
    struct tkg_root *roots; /* in order of creation */
    struct tkg_cells *cells;
    bool settled;
    char why_plain[256]; /* why some roots are plain */
    bool transposed;     /* values are written one element at a time: flash attention is off */
    bool exact;          /* keys are stored as they come: nothing to watch */
    tkv_spec spec;
    tkv_context *ctx;
    tkv_cache *cache;
    char *model;    /* the model's file; NULL: not known */
    bool asked;     /* for it */
    tkv_book *book; /* over book_bytes */
    char *book_bytes;
    size_t book_n_bytes;
    uint32_t n_threads; /* the context's executor */
};

ggml_backend_buffer_t tkg_buffer_alloc(ggml_backend_buffer_type_t buft, size_t bytes);
void tkg_buft_init(struct ggml_backend_buffer_type *buft, struct ggml_backend_device *device);
bool tkg_buffer_is_ours(const struct ggml_backend_buffer *buffer);

/* Memory that is committed where it is touched; NULL when there is none. */
char *tkg_map(size_t bytes);
void tkg_unmap(char *p, size_t bytes);
void tkg_map_clear(char *p, size_t bytes); /* gives the pages back: they read as zeros */

/* Decides for every root of the buffer how it is stored, and logs it; once. */
void tkg_buffer_settle(struct tkg_buffer *buffer);

/* The file that the model's weights are mapped from, by the graph above a layer's keys; NULL when
 * it cannot be told. To be freed. */
char *tkg_model_path(const struct ggml_tensor *rows);

/* Entry points of tightkv-ggml.h. */
int tkg_has_book(const char *path, const char *codec);
int tkg_fingerprint(const char *path, struct tightkv_ggml_fingerprint *out);
void tkg_fingerprint_free(struct tightkv_ggml_fingerprint *p);
/* The first thing in which two models differ; NULL: none. */
const char *tkg_fingerprint_differs(const struct tightkv_ggml_fingerprint *a,
                                    const struct tightkv_ggml_fingerprint *b);

/* Opens the model's book, where the spec names one or needs one, before there is a cache. False:
 * there is none, or it is of another model; err says what to do. A spec whose index is in no book goes
 * on without, which is logged. */
bool tkg_book_open(struct tkg_buffer *buffer, tkv_error *err);
void tkg_book_close(struct tkg_buffer *buffer);

/* Threads for the library's work on this buffer. */
void tkg_buffer_threads(struct tkg_buffer *buffer, uint32_t n_threads);

/* ---- root_io.c: a root as bytes of its nominal f16 layout ---------------------------------- */

bool tkg_rows_read(struct tkg_root *root, size_t offset, size_t bytes, void *out);
bool tkg_rows_write(struct tkg_root *root, size_t offset, size_t bytes, const void *in);
bool tkg_rows_copy(struct tkg_root *root, int64_t dst, int64_t src, int64_t n);
void tkg_rows_forget(struct tkg_root *root);

/* Whole rows to write. */
struct tkg_rows {
    size_t n;
    const int64_t *slots;
    const int32_t *pos;   /* [n_axes of the cells][n]; NULL: unknown */
    const uint8_t *klass; /* tkv_span_class */
    const void *data;
    tkv_type type;
    size_t stride;
};
bool tkg_rows_put(struct tkg_root *root, const struct tkg_rows *rows);

/* A spill file failed: the request that needs it fails, others go on. */
static inline bool tkg_is_disk_error(tkv_status status)
{
    return status == TKV_ERR_IO || status == TKV_ERR_CORRUPT;
}

/* Lets the layer's full pages seal; harmless when none are. False: the disk failed. */
bool tkg_rows_seal(struct tkg_root *root);

/* ---- memo.c ----------------------------------------------------------------------------- */

struct tkg_memo *tkg_memo_create(void);
void tkg_memo_destroy(struct tkg_memo *memo);
struct tkg_cell {
    int32_t pos[TKG_AXES];
    uint8_t klass; /* tkv_span_class */
};
void tkg_memo_add(struct tkg_memo *memo, const void *row, size_t bytes, struct tkg_cell cell);
bool tkg_memo_find(const struct tkg_memo *memo, const void *row, size_t bytes,
                   struct tkg_cell *cell);

/* ---- the backend (graph.c) -------------------------------------------------------------- */

struct tkg_scratch {
    void *data;
    size_t bytes;
};

struct tkg_backend {
    uint32_t n_threads;
    ggml_backend_t cpu; /* private, made at the first fallback */
    uint32_t cpu_threads;
    struct ggml_context *graph_ctx;
    struct ggml_cgraph *graph; /* of one node */
    struct tkg_scratch slots, pos, klass, slopes;
};

ggml_backend_t tkg_backend_create(struct ggml_backend_device *device);
void tkg_backend_set_n_threads(ggml_backend_t backend, int n_threads);

/* At least `bytes` bytes that live until the next call with the same scratch; NULL: no memory. */
void *tkg_scratch(struct tkg_scratch *s, size_t bytes);

enum ggml_status tkg_set_rows(struct tkg_backend *be, struct ggml_tensor *node);
enum ggml_status tkg_flash_attn(struct tkg_backend *be, struct ggml_tensor *node);
enum ggml_status tkg_shift(struct tkg_backend *be, struct ggml_tensor *node);
enum ggml_status tkg_fallback(struct tkg_backend *be, struct ggml_tensor *node);

/* True when tkg_flash_attn() can do this node, whose K and V are coded. */
bool tkg_flash_attn_fits(const struct ggml_tensor *node);

/* Runs one node, all of whose operands are plain memory, on the CPU backend. */
enum ggml_status tkg_cpu_compute(struct tkg_backend *be, struct ggml_tensor *node);
bool tkg_cpu_supports(const struct ggml_tensor *node);

/* ---- claim.c ---------------------------------------------------------------------------- */

bool tkg_supports_op(ggml_backend_dev_t dev, const struct ggml_tensor *op);
bool tkg_supports_buft(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft);

/* ---- positions.c ------------------------------------------------------------------------ */

/* The positions of the ROPE node that `t` was made with: the tensor, or its first n numbers, after
 * which those of M-RoPE's other axes follow. NULL: there are none. */
struct ggml_tensor *tkg_positions_tensor(const struct ggml_tensor *t);
const int32_t *tkg_positions(const struct ggml_tensor *t, int64_t n);

/* How many positions that node takes of a row. */
uint32_t tkg_position_axes(const struct ggml_tensor *t);

/* What is known of n cells, as [n_axes][n]; false when one of them is not known. */
bool tkg_cells_get(const struct tkg_cells *cells, const int64_t *slots, size_t n, int32_t *pos);

/* One cell's. */
void tkg_cell_get(const struct tkg_cells *cells, int64_t slot, struct tkg_cell *out);
void tkg_cell_set(struct tkg_cells *cells, int64_t slot, const struct tkg_cell *cell);

/* ---- spans.c ---------------------------------------------------------------------------- */

/* The class of rows being written, from the graph above them. */
enum tkv_span_class tkg_span_class(const struct ggml_tensor *rows);

/* ---- watch.c ---------------------------------------------------------------------------- */

/* Rows as they are written; queries as they come; and, after sealing, the comparison. */
void tkg_watch_rows(struct tkg_root *k, const struct tkg_rows *rows);
void tkg_watch_forget(struct tkg_root *k);
void tkg_watch_query(struct tkg_root *k, const tkv_attend_params *p);
void tkg_watch_destroy(struct tkg_watch *watch);

/* ---- executor.c ------------------------------------------------------------------------- */

void tkg_run_parallel(void *user, void (*fn)(void *arg, uint32_t ith, uint32_t nth), void *arg);

#endif
