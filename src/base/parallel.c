/* Items are taken from a shared counter, so that uneven ones balance. */
#include <stdatomic.h>

#include "base/parallel.h"

struct job {
    atomic_size_t next;
    size_t n_items;
    void (*fn)(void *arg, size_t item, uint32_t ith);
    void *arg;
};

static void work(void *arg, uint32_t ith, uint32_t nth)
{
    (void)nth;
    struct job *job = arg;
    for (;;) {
        const size_t item = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (item >= job->n_items)
            return;
        job->fn(job->arg, item, ith);
    }
}

uint32_t tkv_n_threads(const tkv_executor *executor)
{
    return executor->run && executor->n_threads > 1 ? executor->n_threads : 1;
}

void tkv_parallel(const tkv_executor *executor, size_t n_items,
                  void (*fn)(void *arg, size_t item, uint32_t ith), void *arg)
{
    if (n_items == 0)
        return;
    struct job job = {.n_items = n_items, .fn = fn, .arg = arg};
    atomic_init(&job.next, 0);
    if (n_items == 1 || tkv_n_threads(executor) == 1)
        work(&job, 0, 1);
    else
        executor->run(executor->user, work, &job);
}
