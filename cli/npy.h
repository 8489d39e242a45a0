/* Arrays of floats in NumPy's file format, versions 1 and 2. */
#ifndef TKV_CLI_NPY_H
#define TKV_CLI_NPY_H

#include <stddef.h>

enum {
    NPY_MAX_DIMS = 3
};

struct npy {
    size_t shape[NPY_MAX_DIMS];
    float *values; /* freed with free() */
};

/* Reads an array of float16 or float32, in C order, that has n_dims dimensions and holds finite
 * values only. CLI_OK, or CLI_DATA after a line on stderr. */
int npy_read(const char *path, size_t n_dims, struct npy *out);

#endif
