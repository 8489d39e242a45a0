/* JSON output. cJSON prints what it is given; this adds null for "not measured". */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

int cli_json_print(cJSON *root)
{
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return cli_fail("no memory for the results");
    int rc = puts(text) == EOF || fflush(stdout) == EOF ? CLI_DATA : CLI_OK;
    free(text);
    return rc == CLI_OK ? rc : cli_fail("cannot write to stdout");
}
