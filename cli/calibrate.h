/* What a learned codec knows of a model: moments of keys and values, what errors in them cost, and
 * the bases and bits made of both.
 *
 * An error d in a cached vector costs d' F d / 2 of divergence, F the second moment of the gradient
 * of the log-probability of tokens drawn from the model. llama.cpp has no backward pass, but most
 * of F is made in the attention layer itself: a gradient that is noise when it reaches the layer's
 * output becomes, behind the output projection and the softmax, nearly what the true one becomes.
 * How large it is, layer by layer, is measured by putting noise into the outputs and looking at
 * the divergence. */
#ifndef TKV_CLI_CALIBRATE_H
#define TKV_CLI_CALIBRATE_H

#include "cli.h"
#include "graph_rope.h"
#include "harden.h"
#include "session.h"
#include "visual_set.h"

struct model_layers;

/* Classes of tokens are kept apart: the library's tkv_span_class. */
enum {
    CAL_CLASSES = 2,
    CAL_QUANTILES = 7
};

/* ---- what is gathered ----------------------------------------------------------------------- */

/* Of the keys or values of one head, [dim] or [dim][dim], row-major. Those that enter the moments
 * are turned back by the angle of the middle of their page, as the cache turns them. */
struct cal_head {
    uint32_t dim;
    double n;
    double *sum;
    double *square;   /* sum of x x' */
    double *gradient; /* sum of g g', g of unit noise in the residual stream */
    /* Of keys as they were before RoPE, or of values. */
    double *low, *high, *quantiles; /* [dim], [dim], [CAL_QUANTILES][dim]: by channel */
    /* Keys only. */
    double *plain_sum, *plain_square; /* as they were before RoPE */
    double n_queries;
    double *query;     /* sum of q q' over the queries that read this head, after RoPE */
    double *query_far; /* the same with every query turned as if CAL_FAR tokens behind its key */
};

/* The constant offset of A2ATS, and its window: queries from there on are far. */
enum {
    CAL_FAR = 2048,
    CAL_NEAR = 64
};

/* The shares below the quantiles. */
extern const double cal_shares[CAL_QUANTILES];

struct cal_layer {
    int layer; /* of the model */
    uint32_t n_kv_heads, group;
    struct cal_head *heads[CAL_CLASSES][2]; /* [class][tkv_kind][n_kv_heads]; NULL: not read */
    float *projection;                      /* [n_embd][n_q_heads * v_head_dim]: attn_output */
    uint32_t n_embd, n_out;
    double size;            /* rms of the gradient in the residual stream: cal_sizes() */
    struct graph_rope rope; /* how its keys are turned */
};

/* What the model reads in one go: tokens, and a picture behind the first of them. */
struct cal_unit {
    enum tkv_span_class klass;    /* what is learned from: the tokens of a text, or the picture's */
    struct session_tokens tokens; /* owned */
    const float *rows;            /* [n_rows][model's input size]; NULL: a text */
    size_t n_rows;
};

struct cal_stats;

struct calibration {
    struct session *session;
    struct cal_layer *layers;
    size_t n_layers;
    struct tightkv_ggml_fingerprint fingerprint;
    uint64_t seed;
    size_t sample_bytes; /* for samples of all classes together, at most */
    uint32_t index_codes;
    struct session_tokens aside; /* owned: see cal_input */
    size_t n_done;               /* steps: units read, then layers whose size was measured */
    struct cal_stats *stats;
};

/* ---- cal_layers.c --------------------------------------------------------------------------- */

/* The layers of a model that have a cache, with moments of nothing. */
int cal_layers(struct calibration *c, const struct harden_file *f, const struct model_layers *m,
               bool visual);
void cal_free(struct calibration *c);

/* ---- cal_random.c --------------------------------------------------------------------------- */

/* Random numbers of a step of the work: the same ones whenever it is done. */
uint64_t cal_random(const struct calibration *c, uint64_t stream);
/* In (0, 1). */
double cal_uniform(uint64_t *rng);

/* ---- cal_units.c ---------------------------------------------------------------------------- */

struct cal_input {
    struct cal_unit *units; /* windows of texts, then pictures */
    size_t n_units[CAL_CLASSES];
    size_t window;               /* tokens of a text's unit */
    struct session_tokens aside; /* owned: a long piece of a text, not among the units if there is
                                  * enough; fewer than CAL_LEAST_ASIDE measure nothing */
    struct visual_set pictures;
    uint64_t hash; /* of all that was read */
};

enum {
    CAL_LEAST_ASIDE = 512
};

/* Adds windows of texts, n_tokens in all, and sets a piece aside; fewer will do unless `all`. CLI_OK, or CLI_DATA after a
 * line on stderr. */
int cal_input_texts(struct cal_input *in, struct session *s, const struct cli_list *paths,
                    size_t n_tokens, bool all);
/* Adds the pictures of a visual set, after the texts. */
int cal_input_pictures(struct cal_input *in, struct session *s, const char *base,
                       const char *items);
void cal_input_free(struct cal_input *in);

/* ---- cal_moments.c: one pass over the text -------------------------------------------------- */

/* Runs unit `index` of its class through the model and adds to the moments and samples. */
int cal_moments(struct calibration *c, const struct cal_unit *unit, size_t index);

/* ---- cal_rope.c ------------------------------------------------------------------------------ */

/* How the model turns its keys: fills in every layer's rope. */
int cal_rope(struct calibration *c);

/* ---- cal_samples.c: rows of keys and values, spread over all that was read ------------------- */

/* Of the keys or the values of one layer, of tokens of one class. */
struct cal_samples {
    size_t n_tokens; /* 0: there are none */
    size_t per_unit; /* of them, one after the other, are from one unit */
    uint32_t n_heads, head_dim;
    ggml_fp16_t *rows; /* [n_tokens][n_heads][head_dim]; keys as they were before RoPE */
    float *weight;     /* [n_tokens][n_heads] what an error in the row costs beside others of the
                        * layer: mean square of its gradient */
};

/* `layer` indexes c->layers; they lie in the statistics' file and are not to be changed. */
struct cal_samples cal_samples(const struct calibration *c, size_t layer, tkv_kind kind,
                               enum tkv_span_class klass);

/* Chooses k of n tokens, one out of every n/k, in rising order. */
void cal_sample_choose(uint64_t rng, size_t n, size_t k, uint32_t *tokens);

/* Fills in every head's quantiles. */
void cal_quantiles(struct calibration *c);

/* ---- cal_stats.c: the file of the statistics ------------------------------------------------- */

/* What the statistics are of. */
struct cal_plan {
    uint64_t inputs;              /* a hash of model, texts, pictures and seed */
    size_t n_units[CAL_CLASSES];  /* texts' windows, pictures */
    size_t n_tokens[CAL_CLASSES]; /* of a unit, of this class */
};

/* Opens the statistics at `path`, or makes them; what they hold is in c then, c->n_done what was
 * finished. They are refused where they are of another plan. */
int cal_stats_open(struct calibration *c, const char *path, const struct cal_plan *plan);

/* One more step is done: on disk, whatever happens next. */
int cal_stats_commit(struct calibration *c);

void cal_stats_close(struct calibration *c, bool keep);

/* ---- cal_size.c: noise in, divergence out --------------------------------------------------- */

/* How many layers are measured. */
size_t cal_size_steps(const struct calibration *c);

/* Fills in every layer's size, if it is not known yet; calls `done` after each that was measured. */
typedef int (*cal_done_fn)(void *user);
int cal_sizes(struct calibration *c, const struct session_tokens *window, cal_done_fn done,
              void *user);

/* ---- cal_basis.c: moments to bases ---------------------------------------------------------- */

/* One head's basis: coefficients of unit variance, in falling order of what an error costs. */
struct cal_basis {
    uint32_t dim;
    float *to, *back; /* [dim][dim] */
    float *mean;      /* [dim] coefficients of the mean */
    float *weight;    /* [dim] cost of a unit error, in divergence a token */
    int8_t *bits;     /* [dim] as cal_allocate() left them */
};

int cal_basis(const struct cal_head *head, double size, struct cal_basis *out);
void cal_basis_free(struct cal_basis *b);

/* Gives every coefficient of all bases its bits, so that caches of 2048 tokens and more take at most
 * `total_bits` a value in all. */
void cal_allocate(struct cal_basis *bases, size_t n, double total_bits);

/* ---- cal_book.c: the file ------------------------------------------------------------------- */

struct cal_book;

struct cal_book *cal_book_new(const struct calibration *c);
void cal_book_free(struct cal_book *b);

/* Adds a tensor under a printf-like name; ne: as ggml has it, the contiguous one first. The data is
 * copied. */
void cal_book_add(struct cal_book *b, enum ggml_type type, const int64_t ne[3], const void *data,
                  const char *name, ...) CLI_PRINTF(5, 6);

/* What was added under a printf-like name; NULL: nothing. */
const void *cal_book_find(const struct cal_book *b, const char *name, ...) CLI_PRINTF(2, 3);

/* Adds a number; the key is borrowed. */
void cal_book_set(struct cal_book *b, const char *key, uint32_t value);

/* Written beside `path` first, then renamed. */
int cal_book_write(const struct cal_book *b, const char *path);

/* ---- cal_train.c: statistics to tensors ----------------------------------------------------- */

struct cal_trainer {
    const char *name; /* as --train has it */
    const char *summary;
    int (*train)(const struct calibration *c, struct cal_book *book);
};

/* By name; NULL: there is none. */
const struct cal_trainer *cal_trainer(const char *name);

/* CLI_STOPPED after Ctrl-C or SIGTERM, else CLI_OK: what trainers ask at every layer. */
int cal_stopped(const struct calibration *c);

/* ---- cal_tight.c ------------------------------------------------------------------------------ */

int cal_train_tight(const struct calibration *c, struct cal_book *book);

/* ---- cal_rvq.c -------------------------------------------------------------------------------- */

int cal_train_rvq(const struct calibration *c, struct cal_book *book);

/* ---- cal_cq.c -------------------------------------------------------------------------------- */

/* All rows count alike, which left less error where it was tried; or by what their errors cost. */
int cal_train_cq(const struct calibration *c, struct cal_book *book);
int cal_train_cq_weighted(const struct calibration *c, struct cal_book *book);

/* ---- cal_index.c ------------------------------------------------------------------------------ */

/* CLI_OK, or CLI_DATA after a line on stderr: of keys that cannot be indexed, or too few. Tells as
 * soon as the statistics are open. */
int cal_index_check(const struct calibration *c);
/* c->index_codes for every head, made for queries at all distances; or for those at CAL_FAR, as
 * A2ATS has it. */
int cal_train_index(const struct calibration *c, struct cal_book *book);
int cal_train_index_far(const struct calibration *c, struct cal_book *book);

/* The mean of cosine and sine of each pair over distances [from, from + n), and a vector turned by
 * that. */
void cal_mean_turn(const struct graph_rope *rope, double from, double n, double (*turn)[2]);
void cal_turn_mean(const struct graph_rope *rope, const double (*turn)[2], float *x);

/* ---- cal_share.c ------------------------------------------------------------------------------ */

/* Adds to a book with an index how it shares out what is read. */
int cal_share(const struct calibration *c, struct cal_book *book);

#endif
