/* Rows shared out over threads. */
#ifndef TKV_CLI_PARALLEL_H
#define TKV_CLI_PARALLEL_H

#include <stddef.h>

/* Calls fn(user, first, last) on ranges that cover [0, n) once, on up to n_threads threads. */
void parallel_for(size_t n, int n_threads, void (*fn)(void *user, size_t first, size_t last),
                  void *user);

#endif
