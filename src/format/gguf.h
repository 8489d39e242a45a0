/* GGUF files, version 3, read from memory without trusting a byte of them: what books are kept in.
 * Layout: ggml's docs/gguf.md. Little-endian. */
#ifndef TKV_GGUF_H
#define TKV_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tightkv/tightkv.h"

/* ggml's tensor types that a book may use. */
enum tkv_gguf_type {
    TKV_GGUF_F32 = 0,
    TKV_GGUF_F16 = 1,
    TKV_GGUF_I8 = 24,
    TKV_GGUF_I16 = 25,
    TKV_GGUF_I32 = 26
};

enum {
    TKV_GGUF_DIMS = 4
};

/* A whole file, checked once; all that follows reads within it. */
struct tkv_gguf {
    const uint8_t *bytes; /* borrowed */
    size_t n_bytes;
    uint64_t n_kv, n_tensors;
    size_t kv_at, tensors_at, data_at;
};

struct tkv_gguf_tensor {
    enum tkv_gguf_type type;
    uint32_t n_dims;
    uint64_t dims[TKV_GGUF_DIMS]; /* as GGUF has them: the contiguous one first; 1 beyond n_dims */
    const uint8_t *data;          /* perhaps unaligned */
    size_t n_values;
};

/* Checks the header and every tensor's place. Errors: TKV_ERR_CORRUPT, TKV_ERR_VERSION. */
tkv_status tkv_gguf_open(const void *bytes, size_t n_bytes, struct tkv_gguf *out, tkv_error *err);

/* Values by key; false when there is none of this type. Text is cut at its first NUL, and false
 * when it does not fit. */
bool tkv_gguf_u32(const struct tkv_gguf *g, const char *key, uint32_t *out);
bool tkv_gguf_f32(const struct tkv_gguf *g, const char *key, float *out);
bool tkv_gguf_text(const struct tkv_gguf *g, const char *key, char *buf, size_t capacity);

bool tkv_gguf_tensor(const struct tkv_gguf *g, const char *name, struct tkv_gguf_tensor *out);
/* The i-th tensor's name, NUL-terminated; false past the last or when it does not fit. */
bool tkv_gguf_tensor_name(const struct tkv_gguf *g, uint64_t i, char *buf, size_t capacity);

/* Bytes of a tensor's data. */
size_t tkv_gguf_bytes(const struct tkv_gguf_tensor *t);

/* Values [first, first + n) as f32; n_values must cover them. */
void tkv_gguf_read_f32(const struct tkv_gguf_tensor *t, size_t first, size_t n, float *out);

#endif
