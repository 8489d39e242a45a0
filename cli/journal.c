/* A file of records, each with its length before it and its hash behind it. */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "cli.h"

enum {
    MAX_RECORD = 1 << 30
};

struct head {
    char magic[8];
    uint64_t fingerprint;
};

static const char magic[8] = {'t', 'k', 'v', 'j', 'r', 'n', 'l', '1'};

uint64_t journal_hash(uint64_t hash, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 0x100000001b3U; /* FNV-1a */
    return hash;
}

static bool read_all(int fd, void *to, size_t n)
{
    for (char *p = to; n > 0;) {
        ssize_t got = read(fd, p, n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        p += got;
        n -= (size_t)got;
    }
    return true;
}

static int write_all(const struct journal *j, const void *from, size_t n)
{
    for (const char *p = from; n > 0;) {
        ssize_t done = write(j->fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return cli_fail("cannot write %s: %s", j->path, strerror(errno));
        p += done;
        n -= (size_t)done;
    }
    return CLI_OK;
}

static int check_head(struct journal *j, uint64_t fingerprint)
{
    struct head head = {.fingerprint = fingerprint};
    memcpy(head.magic, magic, sizeof(magic));
    struct head found;
    if (lseek(j->fd, 0, SEEK_END) < (off_t)sizeof(head)) {
        if (ftruncate(j->fd, 0) != 0 || lseek(j->fd, 0, SEEK_SET) != 0)
            return cli_fail("cannot write %s: %s", j->path, strerror(errno));
        return write_all(j, &head, sizeof(head));
    }
    lseek(j->fd, 0, SEEK_SET);
    if (read_all(j->fd, &found, sizeof(found)) && memcmp(&found, &head, sizeof(head)) == 0)
        return CLI_OK;
    return cli_fail("%s is of other options, another model, text or build; give another -o, or "
                    "delete it to start anew",
                    j->path);
}

int journal_open(struct journal *j, const char *path, uint64_t fingerprint)
{
    *j = (struct journal){.path = cli_format("%s", path), .fd = -1};
    j->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (j->fd < 0)
        return cli_fail("cannot write %s: %s", path, strerror(errno));
    if (flock(j->fd, LOCK_EX | LOCK_NB) != 0)
        return cli_fail("%s belongs to an evaluation that is running; give another -o", path);
    return check_head(j, fingerprint);
}

void *journal_next(struct journal *j, size_t *n_bytes)
{
    off_t start = lseek(j->fd, 0, SEEK_CUR);
    uint64_t n, hash;
    char *record = NULL;
    bool whole = read_all(j->fd, &n, sizeof(n)) && n <= MAX_RECORD;
    if (whole) {
        record = cli_alloc((size_t)n, 1);
        whole = read_all(j->fd, record, (size_t)n) && read_all(j->fd, &hash, sizeof(hash)) &&
                hash == journal_hash(JOURNAL_HASH, record, (size_t)n);
    }
    if (whole) {
        *n_bytes = (size_t)n;
        return record;
    }
    free(record);
    if (ftruncate(j->fd, start) != 0)
        cli_fail("cannot write %s: %s", j->path, strerror(errno));
    lseek(j->fd, start, SEEK_SET);
    return NULL;
}

int journal_add(struct journal *j, const void *record, size_t n_bytes)
{
    uint64_t n = n_bytes, hash = journal_hash(JOURNAL_HASH, record, n_bytes);
    int rc = write_all(j, &n, sizeof(n));
    if (rc == CLI_OK)
        rc = write_all(j, record, n_bytes);
    if (rc == CLI_OK)
        rc = write_all(j, &hash, sizeof(hash));
    /* Files that cannot be synchronised, as pipes, say EINVAL or EROFS. */
    if (rc == CLI_OK && fdatasync(j->fd) != 0 && errno != EINVAL && errno != EROFS)
        rc = cli_fail("cannot write %s: %s", j->path, strerror(errno));
    return rc;
}

void journal_close(struct journal *j, bool keep)
{
    if (j->fd >= 0 && !keep)
        unlink(j->path);
    if (j->fd >= 0)
        close(j->fd);
    free(j->path);
    *j = (struct journal){.fd = -1};
}
