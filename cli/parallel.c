/* Rows shared out over threads. */
#include "parallel.h"

#include <pthread.h>

#include "cli.h"

enum { MAX_THREADS = 64 };

struct share {
    void (*fn)(void *user, size_t first, size_t last);
    void *user;
    size_t first, last;
};

static void *run_share(void *arg)
{
    struct share *s = arg;
    s->fn(s->user, s->first, s->last);
    return NULL;
}

void parallel_for(size_t n, int n_threads, void (*fn)(void *user, size_t first, size_t last),
                  void *user)
{
    size_t n_shares = n_threads < 1 ? 1 : n_threads > MAX_THREADS ? MAX_THREADS : (size_t)n_threads;
    struct share shares[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    bool started[MAX_THREADS] = {false};
    for (size_t i = 0; i < n_shares; i++) {
        shares[i] = (struct share){fn, user, n * i / n_shares, n * (i + 1) / n_shares};
        if (i > 0)
            started[i] = pthread_create(&threads[i], NULL, run_share, &shares[i]) == 0;
    }
    for (size_t i = 0; i < n_shares; i++)
        if (!started[i])
            run_share(&shares[i]);
    for (size_t i = 1; i < n_shares; i++)
        if (started[i])
            pthread_join(threads[i], NULL);
}
