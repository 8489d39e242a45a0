/* Where in its context the answer to a question stands, and recall by that. */
#include <cjson/cJSON.h>
#include <math.h>

#include "eval.h"

struct place {
    double share;    /* of the context before it */
    size_t distance; /* tokens between it and the question */
};

/* Token i from the end of what the question states: its prompt and the answer. */
static llama_token from_end(const struct recall_question *q, size_t i)
{
    return i < q->answer.n ? q->answer.ids[q->answer.n - 1 - i]
                           : q->prompt.ids[q->prompt.n - 1 - (i - q->answer.n)];
}

/* How many tokens before `end` of the context are the statement's last ones. */
static size_t matching(const struct session_tokens *context, size_t end,
                       const struct recall_question *q)
{
    size_t n = 0, most = q->prompt.n + q->answer.n;
    while (n < most && n < end && context->ids[end - 1 - n] == from_end(q, n))
        n++;
    return n;
}

/* A question ends with a statement that its answer completes: the fact is where the context has
 * most of that statement's end, the answer and a token before it at the least. */
static bool find_place(const struct recall_item *item, size_t question, struct place *out)
{
    const struct recall_question *q = &item->questions[question];
    size_t most = q->answer.n, place = 0;
    for (size_t end = 1; end <= item->context.n; end++) {
        size_t n = matching(&item->context, end, q);
        if (n <= most)
            continue;
        most = n;
        place = end;
    }
    out->share = (double)place / (double)item->context.n;
    out->distance = item->context.n - place;
    for (size_t i = 0; i < question; i++)
        out->distance += item->questions[i].prompt.n + item->questions[i].answer.n;
    return place > 0;
}

struct bucket {
    double first, last;
    size_t n, n_right, n_right_f16;
};

enum {
    N_DEPTHS = 5,
    N_DISTANCES = 24,
    FIRST_DISTANCE = 256
};

struct buckets {
    struct bucket depths[N_DEPTHS], distances[N_DISTANCES];
    size_t n_distances; /* up to the last that has any */
};

/* 0 to 255, 256 to 511, 512 to 1023, and so on. */
static void init(struct buckets *b)
{
    *b = (struct buckets){.n_distances = 0};
    for (size_t i = 0; i < N_DEPTHS; i++) {
        b->depths[i].first = (double)i / N_DEPTHS;
        b->depths[i].last = (double)(i + 1) / N_DEPTHS;
    }
    double end = FIRST_DISTANCE;
    for (size_t i = 0; i < N_DISTANCES; i++, end *= 2) {
        b->distances[i].first = i ? end / 2 : 0;
        b->distances[i].last = end - 1;
    }
}

static void count(struct bucket *bucket, bool right, bool right_f16)
{
    bucket->n++;
    bucket->n_right += right;
    bucket->n_right_f16 += right_f16;
}

static void take_item(struct buckets *b, const struct recall_item *item, const bool *right,
                      const bool *right_f16)
{
    for (size_t i = 0; i < item->n_questions; i++) {
        struct place place;
        if (!find_place(item, i, &place))
            continue;
        size_t depth = (size_t)(place.share * N_DEPTHS), distance = 0;
        count(&b->depths[depth < N_DEPTHS ? depth : N_DEPTHS - 1], right[i], right_f16[i]);
        while (distance + 1 < N_DISTANCES && b->distances[distance].last < (double)place.distance)
            distance++;
        count(&b->distances[distance], right[i], right_f16[i]);
        if (distance + 1 > b->n_distances)
            b->n_distances = distance + 1;
    }
}

static void add_list(cJSON *json, const char *key, const struct bucket *buckets, size_t n)
{
    if (n == 0) {
        cli_json_number(json, key, NAN);
        return;
    }
    cJSON *list = cli_json_array(json, key);
    for (size_t i = 0; i < n; i++) {
        cJSON *bucket = cli_json_object(list, NULL);
        cli_json_number(bucket, "first", buckets[i].first);
        cli_json_number(bucket, "last", buckets[i].last);
        cli_json_number(bucket, "n", (double)buckets[i].n);
        cli_json_number(bucket, "right", (double)buckets[i].n_right);
        cli_json_number(bucket, "right_f16", (double)buckets[i].n_right_f16);
    }
}

void eval_recall_add_places(const struct eval *e, const struct eval_part *part,
                            const struct eval_row *row, cJSON *json)
{
    const struct recall_set *set = part->state;
    struct buckets b;
    init(&b);
    for (size_t unit = 0; unit < part->n_units; unit++) {
        const struct eval_record *record = eval_record_of(e, part, unit, row);
        const struct eval_record *f16 = eval_record_of(e, part, unit, NULL);
        if (record && f16)
            take_item(&b, &set->items[unit], record->data, f16->data);
    }
    add_list(json, "recall_by_depth", b.depths, b.n_distances ? N_DEPTHS : 0);
    add_list(json, "recall_by_distance", b.distances, b.n_distances);
}
