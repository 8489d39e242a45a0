/* Results into the page: the template is built from report/ and holds one marker for them. */
#include "report.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const char marker[] = "@RESULTS@";

void report_begin(struct report *r)
{
    *r = (struct report){.root = cJSON_CreateObject()};
    r->files = cli_json_array(r->root, "files");
    r->skipped = cli_json_array(r->root, "skipped");
}

void report_end(struct report *r)
{
    cJSON_Delete(r->root);
    *r = (struct report){0};
}

/* cJSON prints 15 digits where that is close; the page is to hold the very numbers of the files. */
static void keep_digits(cJSON *item)
{
    for (cJSON *child = item->child; child; child = child->next)
        keep_digits(child);
    if (!cJSON_IsNumber(item))
        return;
    item->valuestring =
        isfinite(item->valuedouble) ? cli_format("%.17g", item->valuedouble) : cli_format("null");
    item->type = (item->type & ~0xff) | cJSON_Raw;
}

void report_add(struct report *r, const char *name, cJSON *result)
{
    keep_digits(result);
    cJSON *file = cli_json_object(r->files, NULL);
    cli_json_base_name(file, "file", name);
    cJSON_AddItemToObject(file, "result", result);
    r->n_files++;
}

/* Takes `why`. */
static void skip(struct report *r, const char *path, char *why)
{
    cJSON *file = cli_json_object(r->skipped, NULL);
    cli_json_base_name(file, "file", path);
    cli_json_text(file, "why", why);
    cli_fail("%s is left out: %s", path, why);
    free(why);
}

static bool has_more(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
        at++;
    return at < end;
}

void report_add_file(struct report *r, const char *path)
{
    size_t n_bytes;
    char *text = cli_read_file(path, &n_bytes);
    if (!text) {
        r->n_broken++;
        return;
    }
    const char *end = text;
    cJSON *result = cJSON_ParseWithLengthOpts(text, n_bytes, &end, false);
    if (!result) {
        r->n_broken++;
        skip(r, path,
             cli_format("no JSON from byte %zu of %zu on; was its run cut short?",
                        (size_t)(end - text), n_bytes));
    } else if (has_more(end, text + n_bytes)) {
        cJSON_Delete(result);
        skip(r, path, cli_format("a second value begins behind its result; write one a file"));
    } else if (cJSON_IsString(cJSON_GetObjectItemCaseSensitive(result, "tightkv"))) {
        report_add(r, path, result);
    } else {
        cJSON_Delete(result);
        skip(r, path, cli_format("no result of tightkv (the key \"tightkv\" is missing)"));
    }
    free(text);
}

/* A '<' in a string could end the element that holds the JSON; elsewhere JSON has none. */
static void write_json(FILE *out, const char *json)
{
    for (const char *p = json; *p; p++) {
        if (*p == '<')
            fputs("\\u003c", out);
        else
            putc(*p, out);
    }
}

static int write_page(const struct report *r, const char *template, FILE *out)
{
    const char *at = strstr(template, marker);
    char *json = cJSON_PrintUnformatted(r->root);
    if (!at || !json) {
        free(json);
        return cli_fail(at ? "no memory for the page" : "the page's template is not complete");
    }
    fwrite(template, 1, (size_t)(at - template), out);
    write_json(out, json);
    fputs(at + strlen(marker), out);
    free(json);
    return CLI_OK;
}

int report_write(const struct report *r, const char *path)
{
    char *found = cli_find_report();
    size_t n_bytes;
    char *template = found ? cli_read_file(found, &n_bytes) : NULL;
    free(found);
    if (!template)
        return CLI_DATA;
    FILE *out = strcmp(path, "-") == 0 ? stdout : fopen(path, "wb");
    int rc =
        out ? write_page(r, template, out) : cli_fail("cannot write %s: %s", path, strerror(errno));
    free(template);
    if (!out)
        return rc;
    bool failed = ferror(out) || fflush(out) != 0;
    failed = (out != stdout && fclose(out) != 0) || failed;
    return failed ? cli_fail("cannot write %s: %s", path, strerror(errno)) : rc;
}
