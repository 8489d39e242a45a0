/* Questions about made-up facts: a magic word, a secret number, where somebody keeps something. */
#include "facts.h"

#include <stdlib.h>
#include <string.h>

static const char *const first_names[] = {"Anna",  "Bruno", "Clara", "David", "Emma",  "Felix",
                                          "Grace", "Henry", "Irene", "James", "Laura", "Martin",
                                          "Nora",  "Oscar", "Paul",  "Rosa",  "Simon", "Thomas"};
static const char *const cities[] = {"Athens", "Berlin", "Cairo",  "Dublin", "Geneva", "Helsinki",
                                     "Lisbon", "London", "Madrid", "Munich", "Oslo",   "Paris",
                                     "Prague", "Rome",   "Tokyo",  "Vienna", "Zurich"};
static const char *const things[] = {"anchor",  "apple",  "basket",   "candle", "carpet", "castle",
                                     "dolphin", "garden", "hammer",   "honey",  "island", "jungle",
                                     "lantern", "lemon",  "lotus",    "mirror", "needle", "olive",
                                     "panther", "pepper", "ribbon",   "river",  "saddle", "silver",
                                     "spoon",   "tiger",  "umbrella", "violin", "window", "zebra"};

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { FACT_BYTES = 128, MAX_FACTS = 64 };

struct fact {
    char statement[2 * FACT_BYTES]; /* with a space before it */
    char prompt[2 * FACT_BYTES];
    char answer[FACT_BYTES];
};

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static const char *pick(const char *const *list, size_t n, uint64_t *random)
{
    return list[next_random(random) % n];
}

static void make_fact(struct fact *f, unsigned form, uint64_t *random)
{
    const char *city = pick(cities, COUNT(cities), random),
               *name = pick(first_names, COUNT(first_names), random);
    const char *thing = pick(things, COUNT(things), random);
    char claim[FACT_BYTES]; /* everything up to the answer */
    if (form == 0) {
        snprintf(claim, sizeof(claim), "The magic word of %s %s is", city, thing);
        snprintf(f->answer, FACT_BYTES, " %s.", pick(things, COUNT(things), random));
        snprintf(f->prompt, sizeof(f->prompt),
                 "\nQuestion: What is the magic word of %s %s? Answer: %s", city, thing, claim);
    } else if (form == 1) {
        snprintf(claim, sizeof(claim), "The secret number of %s %s is", name, city);
        snprintf(f->answer, FACT_BYTES, " %d.", 1000 + (int)(next_random(random) % 9000));
        snprintf(f->prompt, sizeof(f->prompt),
                 "\nQuestion: What is the secret number of %s %s? Answer: %s", name, city, claim);
    } else {
        snprintf(claim, sizeof(claim), "%s %s keeps the %s in", name, city, thing);
        snprintf(f->answer, FACT_BYTES, " %s.", pick(cities, COUNT(cities), random));
        snprintf(f->prompt, sizeof(f->prompt),
                 "\nQuestion: Where does %s %s keep the %s? Answer: %s", name, city, thing, claim);
    }
    snprintf(f->statement, sizeof(f->statement), " %s%s", claim, f->answer);
}

/* Facts of all forms in turn, no two with the same question. */
static void make_facts(struct fact *facts, size_t n, uint64_t seed)
{
    uint64_t random = seed;
    for (size_t i = 0; i < n; i++) {
        bool fresh = false;
        while (!fresh) {
            make_fact(&facts[i], (unsigned)(i % 3), &random);
            fresh = true;
            for (size_t other = 0; other < i; other++)
                fresh = fresh && strcmp(facts[other].prompt, facts[i].prompt) != 0;
        }
    }
}

/* The end of the first sentence at or after byte `at`: behind its full stop. */
static size_t sentence_end(const char *text, size_t at, size_t n)
{
    while (at < n && !(text[at] == '.' && text[at + 1] == ' '))
        at++;
    return at < n ? at + 1 : n;
}

/* The first n bytes of the filler with the facts in it. */
static char *weave(const char *filler, size_t n, const struct fact *facts, size_t n_facts)
{
    char *out = cli_alloc(n + n_facts * sizeof(facts->statement) + 1, 1), *end = out;
    size_t done = 0;
    for (size_t i = 0; i < n_facts; i++) {
        size_t at = sentence_end(filler, n * (2 * i + 1) / (2 * n_facts), n);
        at = at > done ? at : done;
        memcpy(end, filler + done, at - done);
        end += at - done;
        done = at;
        end += snprintf(end, sizeof(facts[i].statement), "%s", facts[i].statement);
    }
    memcpy(end, filler + done, n - done);
    return out;
}

static int tokenize_text(struct session *s, const char *text, bool bos, struct session_tokens *out)
{
    return session_tokenize(s, text, strlen(text), bos, out);
}

/* Questions in another order than the facts; `n_tokens` grows by what they and the statements
 * take. */
static int make_questions(struct session *s, const struct fact *facts, struct recall_item *out,
                          uint64_t seed, size_t *n_tokens)
{
    size_t n = out->n_questions, order[MAX_FACTS];
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    for (size_t i = n; i-- > 1;) {
        size_t j = next_random(&seed) % (i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    int rc = CLI_OK;
    for (size_t i = 0; i < n && rc == CLI_OK; i++) {
        struct recall_question *q = &out->questions[i];
        struct session_tokens statement = {0};
        rc = tokenize_text(s, facts[order[i]].statement, false, &statement);
        if (rc == CLI_OK)
            rc = tokenize_text(s, facts[order[i]].prompt, false, &q->prompt);
        if (rc == CLI_OK)
            rc = tokenize_text(s, facts[order[i]].answer, false, &q->answer);
        *n_tokens += statement.n + q->prompt.n + q->answer.n;
        free(statement.ids);
    }
    return rc;
}

/* Bytes of the filler's first n tokens; 0 after a line on stderr. */
static size_t filler_bytes(struct session *s, const char *filler, size_t n)
{
    struct session_tokens all;
    if (tokenize_text(s, filler, false, &all) != CLI_OK)
        return 0;
    size_t n_bytes = 0;
    char piece[256];
    for (size_t i = 0; i < n && i < all.n; i++) {
        int32_t got = s->llama->api.llama_token_to_piece(s->vocab, all.ids[i], piece, sizeof(piece),
                                                         0, false);
        n_bytes += got > 0 ? (size_t)got : 0;
    }
    free(all.ids);
    if (n > all.n || n_bytes > strlen(filler)) {
        cli_fail("the text for facts has %zu tokens, not the %zu that are needed", all.n, n);
        return 0;
    }
    return n_bytes;
}

int facts_make(struct session *s, const char *filler, size_t n_tokens, size_t n_facts,
               uint64_t seed, struct recall_item *out)
{
    struct fact facts[MAX_FACTS];
    size_t n_used = 1; /* BOS */
    *out = (struct recall_item){.n_questions = n_facts < MAX_FACTS ? n_facts : MAX_FACTS};
    out->questions = cli_alloc(out->n_questions, sizeof(*out->questions));
    make_facts(facts, out->n_questions, seed);
    int rc = make_questions(s, facts, out, seed, &n_used);
    size_t n_bytes =
        rc == CLI_OK && n_used < n_tokens ? filler_bytes(s, filler, n_tokens - n_used) : 0;
    if (n_bytes == 0)
        return rc == CLI_OK ? CLI_DATA : rc;
    char *context = weave(filler, n_bytes, facts, out->n_questions);
    rc = tokenize_text(s, context, true, &out->context);
    free(context);
    return rc;
}
