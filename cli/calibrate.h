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
#include "session.h"

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
    double *output_square;  /* sum of squares of the attention's output, and of its values' number */
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

struct cal_rate {
    const char *codec; /* "tight3" */
    double bits;
};

/* bases: [layer][head][K, V]. Written beside `path` first, then renamed. */
int cal_write(const struct calibration *c, struct cal_basis *bases, const struct cal_rate *rates,
              size_t n_rates, const char *path);

void cal_free(struct calibration *c);

#endif
