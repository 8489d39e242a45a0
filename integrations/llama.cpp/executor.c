/* executor.c: the library's work on OpenMP threads. ggml's CPU backend uses the same runtime from
 * the same thread, so both take turns on one pool of threads. */
#ifdef _OPENMP
#include <omp.h>
#endif

#include "plugin.h"

void tkg_run_parallel(void *user, void (*fn)(void *arg, uint32_t ith, uint32_t nth), void *arg)
{
#ifdef _OPENMP
    const struct tkg_buffer *buffer = user;
#pragma omp parallel num_threads((int)buffer->n_threads)
    fn(arg, (uint32_t)omp_get_thread_num(), (uint32_t)omp_get_num_threads());
#else
    (void)user;
    fn(arg, 0, 1);
#endif
}
