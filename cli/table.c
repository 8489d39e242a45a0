/* Tables for people. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

void cli_table_print(const char *const *cells, size_t n_rows, size_t n_columns)
{
    size_t *widths = cli_alloc(n_columns, sizeof(*widths));
    for (size_t i = 0; i < n_rows * n_columns; i++) {
        size_t width = strlen(cells[i]);
        if (width > widths[i % n_columns])
            widths[i % n_columns] = width;
    }
    for (size_t row = 0; row < n_rows; row++) {
        const char *const *line = cells + row * n_columns;
        printf("%-*s", (int)widths[0], line[0]);
        for (size_t col = 1; col < n_columns; col++)
            printf("  %*s", (int)widths[col], line[col]);
        putchar('\n');
    }
    free(widths);
}
