/* What tight knows of a head: tight_model.c makes it, from a book or without one. */
#ifndef TKV_TIGHT_MODEL_H
#define TKV_TIGHT_MODEL_H

#include "codec/codec.h"

/* A head's model; the matrices follow. Coefficients are those of the book over their rates' units:
 * levels all count in the same steps. */
struct tkv_tight {
    uint8_t bits[TKV_MAX_HEAD_DIM];
    uint8_t gain_stride;            /* 1: gains 64 to an octave; 4: 16, and they reach farther */
    float mean[TKV_MAX_HEAD_DIM];   /* coefficients of the mean */
    float weight[TKV_MAX_HEAD_DIM]; /* what a unit error costs */
    float reach[TKV_MAX_HEAD_DIM];  /* tkv_kernels.trellis_codes */
    float most[TKV_MAX_HEAD_DIM];   /* the largest level, in steps */
    float query[TKV_MAX_HEAD_DIM];  /* tkv_basis_i16.scale, whose codes follow the matrices */
    float matrices[];               /* to, back, back transposed: [D][D] each */
};

/* One of a family of rates. */
struct tkv_tight_rate {
    const char *name;
    double total_bits; /* a value, with gains and the tables of a cache of 2048 tokens */
};

size_t tkv_tight_bytes(uint32_t D);
/* Code bits of a row: on average over the heads of a book, and of every head without one. */
uint32_t tkv_tight_row_bits(double total_bits, uint32_t D);
/* 0: to, 1: back, 2: back transposed. */
float *tkv_tight_matrix(const struct tkv_tight *m, uint32_t D, uint32_t i);

int16_t *tkv_tight_query_codes(const struct tkv_tight *m, uint32_t D);

/* book: NULL for the model that needs none. */
tkv_status tkv_tight_bind(const struct tkv_tight_rate *rate, const struct tkv_codec_env *env,
                          const struct tkv_gguf *book, const struct tkv_place *place,
                          struct tkv_tight *m, tkv_error *err);

#endif
