/* The command line as text that a shell takes again, without the folders of this machine. */
#include <string.h>

#include "cli.h"

static const char plain[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:=,@%+-";

/* The part of a word that may be a path: behind "--option=" or "-o". */
static const char *path_of(const char *word)
{
    const char *equals = strchr(word, '=');
    if (strncmp(word, "--", 2) == 0)
        return equals ? equals + 1 : word;
    return word[0] == '-' && word[1] ? word + 2 : word;
}

struct line {
    char *at, *end;
};

static void put(struct line *line, const char *text, size_t n)
{
    for (size_t i = 0; i < n && line->at < line->end; i++)
        *line->at++ = text[i];
    *line->at = '\0';
}

/* Inside single quotes only a single quote is special. */
static void put_quoted(struct line *line, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\'')
            put(line, "'\\''", 4);
        else
            put(line, text + i, 1);
    }
}

static void put_word(struct line *line, const char *word)
{
    const char *path = path_of(word), *base = path, *end = path + strlen(path);
    while (end > path + 1 && end[-1] == '/')
        end--;
    for (const char *p = path; p + 1 < end; p++)
        base = *p == '/' ? p + 1 : base;
    bool quote = !*word || word[strspn(word, plain)];
    put(line, quote ? " '" : " ", quote ? 2 : 1);
    put_quoted(line, word, (size_t)(path - word));
    put_quoted(line, base, (size_t)(end - base));
    put(line, "'", quote);
}

void cli_command_line(const char *command, int argc, char **argv, char *out, size_t capacity)
{
    struct line line = {out, out + capacity - 1};
    put(&line, "tightkv ", 8);
    put(&line, command, strlen(command));
    for (int i = 1; i < argc; i++)
        put_word(&line, argv[i]);
}
