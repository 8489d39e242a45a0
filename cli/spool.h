/* Rows of floats in a temporary file that nobody else sees, for what would not fit in memory. */
#ifndef TKV_CLI_SPOOL_H
#define TKV_CLI_SPOOL_H

#include <stddef.h>

struct spool {
    int fd;
    size_t row_bytes;
};

/* Makes the file in TMPDIR, else /tmp; it is gone when the program ends, however that happens.
 * CLI_OK, or CLI_DATA after a line on stderr; after either, spool_close(). */
int spool_open(struct spool *s, size_t row_floats);
void spool_close(struct spool *s);

/* Rows [first, first + n). CLI_OK, or CLI_DATA after a line on stderr. Reading is safe from
 * several threads. */
int spool_write(struct spool *s, size_t first, size_t n, const float *rows);
int spool_read(const struct spool *s, size_t first, size_t n, float *rows);

#endif
