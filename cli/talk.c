/* Lines on stderr, memory that does not fail, whole files. */
#include "cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* What cli_fail() said last: an evaluation that goes on without a row tells why at its end. */
static char last_failure[512];

const char *cli_last_failure(void)
{
    return last_failure;
}

static void print_line(const char *format, va_list args)
{
    fflush(stdout);
    fputs("tightkv: ", stderr);
    vfprintf(stderr, format, args); /* NOLINT(clang-analyzer-valist.Uninitialized): it is */
}

int cli_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(last_failure, sizeof(last_failure), format, args);
    va_end(args);
    va_start(args, format);
    print_line(format, args);
    va_end(args);
    fputc('\n', stderr);
    return CLI_DATA;
}

int cli_misuse(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_line(format, args);
    va_end(args);
    fprintf(stderr, " (see tightkv %s%s--help)\n", command ? command : "", command ? " " : "");
    return CLI_USAGE;
}

void cli_say(cli_level level, cli_level at, const char *format, ...)
{
    if (level < at)
        return;
    va_list args;
    va_start(args, format);
    print_line(format, args);
    va_end(args);
    fputc('\n', stderr);
}

static void *checked(void *ptr, size_t n, size_t size)
{
    if (!ptr) {
        cli_fail("no memory for %zu x %zu bytes; free some, or take a smaller --ctx", n, size);
        exit(CLI_DATA);
    }
    return ptr;
}

void *cli_alloc(size_t n, size_t size)
{
    return checked(calloc(n ? n : 1, size), n, size);
}

void *cli_grow(void *ptr, size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size)
        return checked(NULL, n, size);
    return checked(realloc(ptr, n && size ? n * size : 1), n, size);
}

char *cli_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
    va_end(args);
    char *text = cli_alloc((size_t)n + 1, 1);
    va_start(args, format);
    vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}

char *cli_read_file(const char *path, size_t *n_bytes)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!f) {
        cli_fail("cannot open %s: %s", path, strerror(errno));
        return NULL;
    }
    size_t n = 0, capacity = 1 << 16;
    char *text = cli_alloc(capacity, 1);
    size_t got;
    while ((got = fread(text + n, 1, capacity - n - 1, f)) > 0) {
        n += got;
        if (n + 1 == capacity)
            text = cli_grow(text, capacity *= 2, 1);
    }
    bool failed = ferror(f) != 0;
    if (f != stdin)
        fclose(f);
    if (failed) {
        cli_fail("cannot read %s: %s", path, strerror(errno));
        free(text);
        return NULL;
    }
    text[n] = '\0';
    *n_bytes = n;
    return text;
}
