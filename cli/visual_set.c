/* BASE.npy and BASE.json: pictures as libmtmd would feed them, and what is asked about them. */
#include "visual_set.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "journal.h"

void visual_set_free(struct visual_set *set)
{
    for (size_t i = 0; i < set->n; i++) {
        free(set->pictures[i].text.ids);
        free(set->pictures[i].answers);
    }
    free(set->pictures);
    free(set->embeddings.values);
    *set = (struct visual_set){.n = 0};
}

/* A whole number in [0, limit). */
static bool take_index(const cJSON *item, size_t limit, size_t *out)
{
    double value = cJSON_IsNumber(item) ? item->valuedouble : -1;
    if (!(value >= 0 && value < (double)limit) || value != floor(value))
        return false;
    *out = (size_t)value;
    return true;
}

static bool take_ids(const cJSON *list, size_t n_vocab, struct session_tokens *out)
{
    const cJSON *item;
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (n < 2)
        return false;
    out->ids = cli_alloc((size_t)n, sizeof(*out->ids));
    cJSON_ArrayForEach(item, list)
    {
        size_t id;
        if (!take_index(item, n_vocab, &id))
            return false;
        out->ids[out->n++] = (llama_token)id;
    }
    return true;
}

/* An answer's first token is predicted by a token of text before it. */
static bool take_answers(const cJSON *list, struct picture *out)
{
    const cJSON *pair;
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (n < 1)
        return false;
    out->answers = cli_alloc((size_t)n, sizeof(*out->answers));
    cJSON_ArrayForEach(pair, list)
    {
        struct visual_answer *a = &out->answers[out->n_answers++];
        if (!cJSON_IsArray(pair) || cJSON_GetArraySize(pair) != 2 ||
            !take_index(cJSON_GetArrayItem(pair, 0), out->text.n, &a->first) ||
            !take_index(cJSON_GetArrayItem(pair, 1), out->text.n - a->first + 1, &a->n) ||
            a->first == 0 || a->n == 0)
            return false;
    }
    return true;
}

static int take_pictures(struct session *s, const cJSON *list, const char *path,
                         struct visual_set *set)
{
    const cJSON *item;
    size_t n = cJSON_IsArray(list) ? (size_t)cJSON_GetArraySize(list) : 0;
    if (n != set->embeddings.shape[0])
        return cli_fail("%s describes %zu pictures; its .npy holds %zu", path, n,
                        set->embeddings.shape[0]);
    set->pictures = cli_alloc(n, sizeof(*set->pictures));
    cJSON_ArrayForEach(item, list)
    {
        struct picture *p = &set->pictures[set->n];
        p->number = set->n++;
        if (!take_ids(cJSON_GetObjectItemCaseSensitive(item, "text_ids"), s->n_vocab, &p->text))
            return cli_fail("%s: text_ids of picture %zu are not two or more token ids of a model "
                            "with %zu",
                            path, set->n, s->n_vocab);
        if (!take_answers(cJSON_GetObjectItemCaseSensitive(item, "answers"), p))
            return cli_fail("%s: answers of picture %zu are not pairs [first, length] within its "
                            "text_ids, from 1 on",
                            path, set->n);
    }
    return CLI_OK;
}

static int load_json(struct session *s, const char *path, struct visual_set *set)
{
    size_t n_bytes;
    char *text = cli_read_file(path, &n_bytes);
    if (!text)
        return CLI_DATA;
    set->hash = journal_hash(set->hash, text, n_bytes);
    cJSON *list = cJSON_ParseWithLength(text, n_bytes);
    int rc = list ? take_pictures(s, list, path, set)
                  : cli_fail("%s is not JSON, or is cut short", path);
    cJSON_Delete(list);
    free(text);
    return rc;
}

static int load_npy(struct session *s, const char *path, struct visual_set *set)
{
    int n_embd = s->llama->api.llama_model_n_embd_inp(s->model);
    int rc = npy_read(path, 3, &set->embeddings);
    if (rc == CLI_OK)
        set->hash = journal_hash(set->hash, set->embeddings.values,
                                 set->embeddings.shape[0] * set->embeddings.shape[1] *
                                     set->embeddings.shape[2] * sizeof(float));
    if (rc == CLI_OK && set->embeddings.shape[2] != (size_t)n_embd)
        rc = cli_fail("%s holds embeddings of %zu values; %s takes %d", path,
                      set->embeddings.shape[2], s->path, n_embd);
    return rc;
}

/* ---- some of them ----------------------------------------------------------------------------- */

/* One of "3" and "0-11", at *at; a comma is passed over. */
static bool take_range(const char **at, size_t *first, size_t *last)
{
    char *end;
    if (**at < '0' || **at > '9')
        return false;
    *first = *last = strtoul(*at, &end, 10);
    if (*end == '-' && end[1] >= '0' && end[1] <= '9')
        *last = strtoul(end + 1, &end, 10);
    if (*end != ',' && *end != '\0')
        return false;
    *at = end + (*end == ',');
    return true;
}

static int mark_items(const char *items, size_t n, bool *marked)
{
    for (const char *at = items; *at;) {
        size_t first, last;
        if (!take_range(&at, &first, &last) || first > last)
            return cli_fail("--visual-items %s: give numbers and ranges, as in 0-11,15", items);
        if (last >= n)
            return cli_fail("--visual-items %s: there are pictures 0 to %zu", items, n - 1);
        for (size_t i = first; i <= last; i++)
            marked[i] = true;
    }
    return CLI_OK;
}

static int keep_items(struct visual_set *set, const char *items)
{
    bool *marked = cli_alloc(set->n, sizeof(*marked));
    int rc = mark_items(items, set->n, marked);
    size_t n = 0;
    for (size_t i = 0; i < set->n && rc == CLI_OK; i++) {
        struct picture picture = set->pictures[i];
        if (marked[picture.number]) {
            set->pictures[n++] = picture;
            continue;
        }
        free(picture.text.ids);
        free(picture.answers);
    }
    if (rc == CLI_OK)
        set->n = n;
    free(marked);
    set->hash = journal_hash(set->hash, items, strlen(items));
    return rc == CLI_OK && n == 0 ? cli_fail("--visual-items: no picture is left") : rc;
}

int visual_set_read(struct visual_set *set, struct session *s, const char *base, const char *items)
{
    *set = (struct visual_set){.hash = JOURNAL_HASH};
    if (s->llama->api.llama_vocab_bos(s->vocab) == LLAMA_TOKEN_NULL)
        return cli_fail("%s has no token to begin with (BOS), as --visual needs", s->path);
    char *npy = cli_format("%s.npy", base), *json = cli_format("%s.json", base);
    int rc = load_npy(s, npy, set);
    if (rc == CLI_OK)
        rc = load_json(s, json, set);
    if (rc == CLI_OK && items)
        rc = keep_items(set, items);
    free(npy);
    free(json);
    return rc;
}

const float *visual_set_rows(const struct visual_set *set, size_t i)
{
    const size_t *shape = set->embeddings.shape;
    return set->embeddings.values + set->pictures[i].number * shape[1] * shape[2];
}

size_t visual_set_tokens(const struct visual_set *set, size_t i)
{
    return 1 + set->embeddings.shape[1] + set->pictures[i].text.n;
}
