/* Rows of floats in a temporary file that nobody else sees. */
#include "spool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static const char *folder(void)
{
    const char *given = getenv("TMPDIR");
    return given && *given ? given : "/tmp";
}

int spool_open(struct spool *s, size_t row_floats)
{
    *s = (struct spool){.fd = -1, .row_bytes = row_floats * sizeof(float)};
    char *path = cli_format("%s/tightkv-XXXXXX", folder());
    s->fd = mkstemp(path);
    int rc = s->fd >= 0 ? CLI_OK
                        : cli_fail("cannot make a temporary file in %s: %s; name a folder with "
                                   "room in TMPDIR",
                                   folder(), strerror(errno));
    if (rc == CLI_OK)
        unlink(path);
    free(path);
    return rc;
}

void spool_close(struct spool *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

int spool_write(struct spool *s, size_t first, size_t n, const float *rows)
{
    const char *from = (const char *)rows;
    size_t left = n * s->row_bytes, at = first * s->row_bytes;
    while (left > 0) {
        ssize_t done = pwrite(s->fd, from, left, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return cli_fail("no room for %zu MiB of logits in %s: %s; name a folder with room in "
                            "TMPDIR",
                            ((first + n) * s->row_bytes >> 20) + 1, folder(), strerror(errno));
        from += done;
        at += (size_t)done;
        left -= (size_t)done;
    }
    return CLI_OK;
}

int spool_read(const struct spool *s, size_t first, size_t n, float *rows)
{
    char *to = (char *)rows;
    size_t left = n * s->row_bytes, at = first * s->row_bytes;
    while (left > 0) {
        ssize_t done = pread(s->fd, to, left, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return cli_fail("cannot read logits back from %s: %s", folder(),
                            done < 0 ? strerror(errno) : "the file ends early");
        to += done;
        at += (size_t)done;
        left -= (size_t)done;
    }
    return CLI_OK;
}
