/* JSON output. cJSON prints what it is given; this adds null for "not measured". */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static void add(cJSON *object, const char *key, cJSON *item)
{
    if (!item ||
        !(key ? cJSON_AddItemToObject(object, key, item) : cJSON_AddItemToArray(object, item))) {
        cli_fail("no memory for the results");
        exit(CLI_DATA);
    }
}

void cli_json_number(cJSON *object, const char *key, double value)
{
    add(object, key, isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
}

void cli_json_text(cJSON *object, const char *key, const char *value)
{
    add(object, key, cJSON_CreateString(value));
}

void cli_json_base_name(cJSON *object, const char *key, const char *path)
{
    const char *slash = strrchr(path, '/');
    cli_json_text(object, key, slash ? slash + 1 : path);
}

cJSON *cli_json_array(cJSON *object, const char *key)
{
    cJSON *array = cJSON_CreateArray();
    add(object, key, array);
    return array;
}

cJSON *cli_json_object(cJSON *object, const char *key)
{
    cJSON *child = cJSON_CreateObject();
    add(object, key, child);
    return child;
}

static char *print(const cJSON *root)
{
    char *text = cJSON_Print(root);
    if (!text)
        cli_fail("no memory for the results");
    return text;
}

int cli_json_print(cJSON *root)
{
    char *text = print(root);
    cJSON_Delete(root);
    if (!text)
        return CLI_DATA;
    int rc = puts(text) == EOF || fflush(stdout) == EOF ? CLI_DATA : CLI_OK;
    free(text);
    return rc == CLI_OK ? rc : cli_fail("cannot write to stdout");
}

int cli_json_write(const cJSON *root, const char *path)
{
    char *text = print(root), *unfinished = cli_format("%s.new", path);
    if (!text)
        return CLI_DATA;
    FILE *f = fopen(unfinished, "w");
    bool ok = f && fprintf(f, "%s\n", text) > 0;
    if (f)
        ok = fclose(f) == 0 && ok;
    ok = ok && rename(unfinished, path) == 0;
    int rc = ok ? CLI_OK : cli_fail("cannot write %s: %s", path, strerror(errno));
    if (!ok && f)
        unlink(unfinished);
    free(unfinished);
    free(text);
    return rc;
}
