/* How far a long command has come. */
#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

enum { BAR_CELLS = 24 };

double cli_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void cli_progress_begin(struct cli_progress *p, cli_level level, double total)
{
    *p = (struct cli_progress){.total = total, .started = cli_now(), .shown = -1};
    p->tty = isatty(STDERR_FILENO) != 0;
    p->quiet = level < CLI_NORMAL;
}

static double share_done(const struct cli_progress *p)
{
    double share = p->total > 0 ? p->done / p->total : 1;
    return share < 1 ? share : 1;
}

static void draw_bar(const struct cli_progress *p)
{
    char bar[BAR_CELLS + 1];
    int full = (int)(share_done(p) * BAR_CELLS);
    memset(bar, '#', (size_t)full);
    memset(bar + full, '.', (size_t)(BAR_CELLS - full));
    bar[BAR_CELLS] = '\0';
    fprintf(stderr, "\r[%s] %3.0f%% %4.0f s  %-44.44s", bar, 100 * share_done(p),
            cli_now() - p->started, p->label);
    fflush(stderr);
}

/* Without a terminal: a line whenever the label changes or another tenth is done. */
static void plain_line(struct cli_progress *p, bool changed)
{
    int tenths = (int)(10 * share_done(p));
    if (!changed && tenths <= p->shown)
        return;
    p->shown = tenths;
    fprintf(stderr, "%3.0f%% %5.1f s  %s\n", 100 * share_done(p), cli_now() - p->started, p->label);
}

void cli_progress_step(struct cli_progress *p, double amount, const char *label)
{
    p->done += amount;
    bool changed = label && strcmp(label, p->label) != 0;
    if (changed)
        snprintf(p->label, sizeof(p->label), "%s", label);
    if (p->quiet)
        return;
    if (p->tty)
        draw_bar(p);
    else
        plain_line(p, changed);
}

void cli_progress_end(struct cli_progress *p)
{
    if (p->tty && !p->quiet)
        fprintf(stderr, "\r%*s\r", BAR_CELLS + 60, "");
}
