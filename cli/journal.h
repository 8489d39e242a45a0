/* What a long evaluation has finished, on disk, so that the same command goes on after a cut. */
#ifndef TKV_CLI_JOURNAL_H
#define TKV_CLI_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct journal {
    char *path;
    int fd; /* -1: not open */
};

/* Of a hash over `n` more bytes; begin with JOURNAL_HASH. It tells inputs apart and finds torn
 * records; it is no defence against forgery. */
#define JOURNAL_HASH (0xcbf29ce484222325U)
uint64_t journal_hash(uint64_t hash, const void *bytes, size_t n);

/* Opens or makes the journal `path`. `fingerprint` stands for everything that decides the
 * results: a journal of another one is refused, and so is one that another process has open.
 * CLI_OK, or CLI_DATA after a line on stderr. */
int journal_open(struct journal *j, const char *path, uint64_t fingerprint);

/* The next record, to be freed with free(); NULL after the last one. A record that is torn or
 * damaged ends the journal: it is cut off there. Read to the end before adding. */
void *journal_next(struct journal *j, size_t *n_bytes);

/* Adds a record. CLI_OK, or CLI_DATA after a line on stderr. */
int journal_add(struct journal *j, const void *record, size_t n_bytes);

/* Closes, and deletes the file unless it is to be kept. */
void journal_close(struct journal *j, bool keep);

#endif
