/* Ctrl-C and SIGTERM, for commands that keep what they have done. */
#include <signal.h>

#include "session.h"

static volatile sig_atomic_t stopped;

static void on_signal(int signal)
{
    (void)signal;
    stopped = 1;
}

void session_catch_signals(struct session *s)
{
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    s->stop = &stopped;
}

bool session_stopped(const struct session *s)
{
    return s->stop && *s->stop;
}
