/* Texts from files: not empty, and UTF-8. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* Bytes of the character at `p`, of which `n` are left; 0: it is none. Overlong forms,
 * surrogates and what is past U+10FFFF are none. */
static size_t character(const unsigned char *p, size_t n)
{
    if (p[0] < 0x80)
        return 1;
    size_t length = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || n < length)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    bool outside = (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf4 && p[1] > 0x8f);
    return overlong || outside ? 0 : length;
}

static size_t valid_bytes(const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t length = character((const unsigned char *)text + i, n - i);
        if (length == 0)
            return i;
        i += length;
    }
    return n;
}

char *cli_read_text(const char *path, size_t *n_bytes)
{
    char *text = cli_read_file(path, n_bytes);
    if (!text)
        return NULL;
    size_t n = valid_bytes(text, *n_bytes);
    if (n == *n_bytes && n > 0)
        return text;
    if (n == *n_bytes)
        cli_fail("%s is empty", path);
    else
        cli_fail("%s is not UTF-8: byte %zu is 0x%02x; convert it with iconv -t UTF-8", path, n,
                 (unsigned char)text[n]);
    free(text);
    return NULL;
}
