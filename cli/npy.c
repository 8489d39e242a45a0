/* NumPy's format: eight bytes of magic and version, the length of a header, the header (a Python
 * dictionary in text: 'descr', 'fortran_order', 'shape'), the values. */
#include "npy.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

struct header {
    char dtype[8];
    bool fortran;
    size_t shape[NPY_MAX_DIMS], n_dims;
    unsigned seen; /* bits of keys */
};

/* ---- the dictionary ------------------------------------------------------------------------ */

static bool take(const char **p, const char *word)
{
    *p += strspn(*p, " \t\n");
    size_t n = strlen(word);
    if (strncmp(*p, word, n) != 0)
        return false;
    *p += n;
    return true;
}

static bool take_string(const char **p, char *out, size_t capacity)
{
    const char *quote = take(p, "'") ? "'" : take(p, "\"") ? "\"" : NULL;
    size_t n = quote ? strcspn(*p, quote) : 0;
    if (!quote || (*p)[n] == '\0' || n >= capacity)
        return false;
    memcpy(out, *p, n);
    out[n] = '\0';
    *p += n + 1;
    return true;
}

static bool take_bool(const char **p, bool *out)
{
    *out = take(p, "True");
    return *out || take(p, "False");
}

static bool take_count(const char **p, size_t *out)
{
    char *end;
    *p += strspn(*p, " \t\n");
    if (**p < '0' || **p > '9')
        return false;
    errno = 0;
    *out = strtoull(*p, &end, 10);
    *p = end;
    return errno == 0;
}

static bool take_shape(const char **p, struct header *h)
{
    if (!take(p, "("))
        return false;
    for (h->n_dims = 0; !take(p, ")"); h->n_dims++) {
        if (h->n_dims == NPY_MAX_DIMS || !take_count(p, &h->shape[h->n_dims]))
            return false;
        if (!take(p, ",")) {
            h->n_dims++;
            return take(p, ")");
        }
    }
    return true;
}

static bool take_entry(const char **p, struct header *h)
{
    char key[16];
    unsigned bit = 0;
    if (!take_string(p, key, sizeof(key)) || !take(p, ":"))
        return false;
    if (strcmp(key, "descr") == 0)
        bit = take_string(p, h->dtype, sizeof(h->dtype)) ? 1 : 0;
    else if (strcmp(key, "fortran_order") == 0)
        bit = take_bool(p, &h->fortran) ? 2 : 0;
    else if (strcmp(key, "shape") == 0)
        bit = take_shape(p, h) ? 4 : 0;
    bool fresh = bit != 0 && !(h->seen & bit);
    h->seen |= bit;
    return fresh;
}

static bool parse_header(const char *text, struct header *h)
{
    *h = (struct header){.seen = 0};
    if (!take(&text, "{"))
        return false;
    for (bool more = true; !take(&text, "}"); more = take(&text, ","))
        if (!more || !take_entry(&text, h))
            return false;
    return h->seen == 7 && text[strspn(text, " \t\n")] == '\0';
}

/* ---- the bytes ----------------------------------------------------------------------------- */

static uint32_t read_le(const uint8_t *p, size_t n_bytes)
{
    uint32_t x = 0;
    for (size_t i = 0; i < n_bytes; i++)
        x |= (uint32_t)p[i] << 8 * i;
    return x;
}

static float half_to_float(uint32_t h)
{
    int exponent = (int)(h >> 10 & 31);
    float fraction = (float)(h & 1023);
    float value = exponent == 31  ? (fraction > 0 ? NAN : INFINITY)
                  : exponent == 0 ? ldexpf(fraction, -24)
                                  : ldexpf(fraction + 1024, exponent - 25);
    return h >> 15 ? -value : value;
}

static float value_at(const uint8_t *data, size_t i, size_t item_bytes)
{
    float value;
    uint32_t bits = read_le(data + i * item_bytes, item_bytes);
    if (item_bytes == 2)
        return half_to_float(bits);
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static int check_header(const char *path, const struct header *h, size_t n_dims)
{
    if (strcmp(h->dtype, "<f2") != 0 && strcmp(h->dtype, "<f4") != 0)
        return cli_fail("%s holds values of type %s; save it as float16 or float32", path,
                        h->dtype);
    if (h->fortran)
        return cli_fail("%s is in Fortran order; save np.ascontiguousarray() of it", path);
    if (h->n_dims != n_dims)
        return cli_fail("%s has %zu dimensions where %zu are needed", path, h->n_dims, n_dims);
    return CLI_OK;
}

/* Values of the array, 0 when they cannot be as many as its shape says. */
static size_t count_values(const struct header *h, size_t limit)
{
    size_t n = 1;
    for (size_t i = 0; i < h->n_dims; i++) {
        if (h->shape[i] == 0 || n > limit / h->shape[i])
            return 0;
        n *= h->shape[i];
    }
    return n;
}

static int take_values(const char *path, const struct header *h, const uint8_t *data,
                       size_t n_bytes, struct npy *out)
{
    size_t item_bytes = h->dtype[2] == '2' ? 2 : 4, n = count_values(h, SIZE_MAX / 8);
    if (n == 0)
        return cli_fail("%s is an empty array, or one of an impossible size", path);
    if (n_bytes != n * item_bytes)
        return cli_fail("%s is %s: %zu bytes of values where its header says %zu", path,
                        n_bytes < n * item_bytes ? "cut short" : "too long", n_bytes,
                        n * item_bytes);
    memcpy(out->shape, h->shape, sizeof(out->shape));
    out->values = cli_alloc(n, sizeof(*out->values));
    for (size_t i = 0; i < n; i++) {
        out->values[i] = value_at(data, i, item_bytes);
        if (!isfinite(out->values[i])) {
            free(out->values);
            out->values = NULL;
            return cli_fail("%s holds values that are not finite", path);
        }
    }
    return CLI_OK;
}

static int parse(const char *path, const uint8_t *file, size_t n_bytes, size_t n_dims,
                 struct npy *out)
{
    static const uint8_t magic[] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    if (n_bytes < 8 || memcmp(file, magic, sizeof(magic)) != 0)
        return cli_fail("%s is not a NumPy file (.npy)", path);
    if (file[6] != 1 && file[6] != 2)
        return cli_fail("%s is in version %u of NumPy's format; 1 and 2 are known", path, file[6]);
    size_t length_bytes = file[6] == 1 ? 2 : 4, start = 8 + length_bytes;
    size_t length = n_bytes < start ? 0 : read_le(file + 8, length_bytes);
    if (n_bytes < start || length > n_bytes - start)
        return cli_fail("%s is cut short: it ends within its header", path);
    struct header h;
    char *text = cli_alloc(length + 1, 1);
    memcpy(text, file + start, length);
    text[length] = '\0';
    bool parsed = strlen(text) == length && parse_header(text, &h);
    free(text);
    if (!parsed)
        return cli_fail("%s has a header that is not one of a plain array of floats with up to %d "
                        "dimensions",
                        path, NPY_MAX_DIMS);
    int rc = check_header(path, &h, n_dims);
    return rc == CLI_OK
               ? take_values(path, &h, file + start + length, n_bytes - start - length, out)
               : rc;
}

int npy_read(const char *path, size_t n_dims, struct npy *out)
{
    size_t n_bytes;
    *out = (struct npy){.values = NULL};
    char *file = cli_read_file(path, &n_bytes);
    if (!file)
        return CLI_DATA;
    int rc = parse(path, (const uint8_t *)file, n_bytes, n_dims, out);
    free(file);
    return rc;
}
