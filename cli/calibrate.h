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
#include "harden.h"
#include "session.h"

/* Classes of tokens are kept apart: the library's tkv_span_class. */
enum {
    CAL_CLASSES = 2
};

/* ---- cal_moments.c: one pass over the text -------------------------------------------------- */

/* Of the keys or values of one head, [dim] or [dim][dim], row-major. */
struct cal_head {
    uint32_t dim;
    double n;
    double *sum;
    double *square;   /* sum of x x' */
    double *gradient; /* sum of g g', g of unit noise in the residual stream */
};

struct cal_layer {
    int layer; /* of the model */
    uint32_t n_kv_heads, group;
    struct cal_head *k, *v; /* [n_kv_heads] */
    double *output_square; /* sum of squares of the attention's output, and of its values' number */
    double n_output;
    float *projection; /* [n_embd][n_q_heads * v_head_dim]: attn_output */
    uint32_t n_embd, n_out;
    double size; /* rms of the gradient in the residual stream: cal_sizes() */
};

struct calibration {
    struct session *session;
    struct cal_layer *layers;
    size_t n_layers;
    float *rope_freq; /* [n_pairs] */
    uint32_t n_pairs;
    bool rope_halves;
    uint64_t rng;
};

/* Runs windows of the text through the model and adds to the moments. */
int cal_moments(struct calibration *c, const struct session_tokens *window);

/* ---- cal_rope.c ------------------------------------------------------------------------------ */

/* How the model turns its keys: fills in rope_freq, n_pairs and rope_halves. */
int cal_rope(struct calibration *c, const struct harden_file *f, uint32_t head_dim);

/* ---- cal_samples.c: rows of keys and values, spread over all that was read ------------------- */

/* Of the keys or the values of one layer, of tokens of one class. */
struct cal_samples {
    size_t n_tokens; /* 0: there are none */
    uint32_t n_heads, head_dim;
    const ggml_fp16_t *rows; /* [n_tokens][n_heads][head_dim]; keys as they were before RoPE */
    const float *weight;     /* [n_tokens][n_heads] what an error in the row costs beside others of
                              * the layer: mean square of its gradient */
};

/* `layer` indexes c->layers; borrowed from c. */
struct cal_samples cal_samples(const struct calibration *c, size_t layer, tkv_kind kind,
                               enum tkv_span_class klass);

/* ---- cal_size.c: noise in, divergence out --------------------------------------------------- */

/* Fills in every layer's size. */
int cal_sizes(struct calibration *c, const struct session_tokens *window);

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

/* Gives every coefficient of all bases its bits, `mean_bits` a value on average. */
void cal_allocate(struct cal_basis *bases, size_t n, double mean_bits);

/* ---- cal_book.c: the file ------------------------------------------------------------------- */

struct cal_book;

struct cal_book *cal_book_new(const struct calibration *c);
void cal_book_free(struct cal_book *b);

/* Adds a tensor under a printf-like name; ne: as ggml has it, the contiguous one first. The data is
 * copied. */
void cal_book_add(struct cal_book *b, enum ggml_type type, const int64_t ne[3], const void *data,
                  const char *name, ...) CLI_PRINTF(5, 6);

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

/* ---- cal_tight.c ------------------------------------------------------------------------------ */

int cal_train_tight(const struct calibration *c, struct cal_book *book);

void cal_free(struct calibration *c);

#endif
