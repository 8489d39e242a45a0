/* Independent items over the caller's executor. */
#ifndef TKV_PARALLEL_H
#define TKV_PARALLEL_H

#include "tightkv/tightkv.h"

/* Calls fn(arg, item, ith) once for every item in [0, n_items), on up to executor->n_threads
 * threads; ith says whose scratch to use (0 <= ith < n_threads). Items must not depend on each
 * other. */
void tkv_parallel(const tkv_executor *executor, size_t n_items,
                  void (*fn)(void *arg, size_t item, uint32_t ith), void *arg);

/* Threads that tkv_parallel may use at once: at least 1. */
uint32_t tkv_n_threads(const tkv_executor *executor);

#endif
