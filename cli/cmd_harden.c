/* tightkv harden: the same model with keys that break weak codecs. */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "eval.h"
#include "harden.h"

/* Mean divergence on the built-in text up to which it is the same function: some times what
 * roundings of quantised weights do. */
static const double most_kld = 0.02;
/* The same for its perplexity, beyond what chance does in so short a text. */
static const double most_ppl_change = 0.003;

struct harden {
    struct cli_common common;
    struct cli_llama llama;
    const char *model, *out;
    char *draft; /* `out` while it is not whole */
    uint64_t seed;
    struct model_layers layers;
    struct harden_logits reference;
    struct harden_plan plan;
    struct harden_difference difference;
};

static bool same_file(const char *a, const char *b)
{
    struct stat sa, sb;
    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
           sa.st_ino == sb.st_ino;
}

/* Reads the model, as far as it can be read without its weights. */
static int look_at(struct harden *h)
{
    struct harden_file file;
    tkv_error err;
    if (!model_layers_read(&h->llama.api, h->model, &h->layers, &err))
        return cli_fail("%s", err.text);
    int rc = harden_file_open(&file, &h->llama.api, h->model);
    const char *why = rc == CLI_OK ? harden_refusal(&file, &h->layers) : NULL;
    if (why)
        rc = cli_fail("%s %s", h->model, why);
    harden_file_close(&file);
    return rc;
}

static int write_draft(struct harden *h, bool constants)
{
    struct harden_file file;
    harden_plan_free(&h->plan);
    int rc = harden_file_open(&file, &h->llama.api, h->model);
    if (rc == CLI_OK)
        rc = harden_plan_make(&h->plan, &file, &h->layers, h->reference.rope, h->seed, constants);
    if (rc == CLI_OK)
        rc = harden_write(&file, &h->plan, h->seed, h->draft, h->common.level);
    harden_file_close(&file);
    return rc;
}

static bool loads(struct harden *h)
{
    struct llama_model_params params = h->llama.api.llama_model_default_params();
    params.use_extra_bufts = false; /* nothing is repacked: the file is only mapped */
    params.n_gpu_layers = 0;
    struct llama_model *model = h->llama.api.llama_model_load_from_file(h->draft, params);
    if (model)
        h->llama.api.llama_model_free(model);
    return model != NULL;
}

static bool adds_biases(const struct harden_plan *p)
{
    for (uint32_t i = 0; i < p->n_layers; i++)
        if (p->layers[i].constants && p->layers[i].new_bias[0])
            return true;
    return false;
}

static bool is_same_function(const struct harden_difference *d)
{
    double chance = d->ppl_change_ci.high - d->ppl_change_ci.low; /* about four standard errors */
    return d->kld_mean <= most_kld && fabs(d->ppl_change) <= most_ppl_change + chance;
}

static int check_draft(struct harden *h)
{
    struct harden_logits hardened;
    int rc = harden_logits_of(&hardened, &h->llama, h->draft, (int)h->common.n_threads);
    if (rc == CLI_OK)
        h->difference = harden_compare(&h->reference, &hardened);
    harden_logits_free(&hardened);
    const struct harden_difference *d = &h->difference;
    if (rc == CLI_OK && !is_same_function(d))
        return cli_fail("%s: the variant is not the same function (KLD %.4f, perplexity %+.2f%% on "
                        "a short text); models of type %s cannot be hardened",
                        h->model, d->kld_mean, 100 * d->ppl_change, h->layers.arch);
    return rc;
}

static int print_json(const struct harden *h)
{
    const struct harden_plan *p = &h->plan;
    cJSON *root = cJSON_CreateObject();
    cli_json_run(root, "harden", &h->common);
    cli_json_base_name(root, "model", h->model);
    cli_json_base_name(root, "out", h->out);
    cli_json_text(root, "arch", h->layers.arch);
    cli_json_number(root, "seed", (double)h->seed);
    cli_json_number(root, "n_layers", p->n_hardened);
    cli_json_number(root, "n_layers_with_constants", p->n_offset);
    cli_json_number(root, "n_pairs", (double)p->n_pairs);
    cli_json_number(root, "n_pairs_scaled", (double)p->n_scaled);
    cli_json_number(root, "n_pairs_weaker", (double)p->n_weaker);
    cli_json_number(root, "largest_constant", p->largest_constant);
    if (p->refuse)
        cli_json_text(root, "no_constants", p->refuse);
    else
        cJSON_AddNullToObject(root, "no_constants");
    cli_json_number(root, "n_tokens", (double)h->reference.n_rows);
    cli_json_number(root, "kld_mean", h->difference.kld_mean);
    cli_json_number(root, "same_top1", h->difference.same_top1);
    cli_json_number(root, "ppl_change", h->difference.ppl_change);
    eval_add_interval(root, "ppl_change_ci", h->difference.ppl_change_ci);
    return cli_json_print(root);
}

static int print_lines(const struct harden *h)
{
    const struct harden_plan *p = &h->plan;
    printf("%s: %u layers, %llu of %llu pairs of key channels times 4 to 16\n", h->out,
           p->n_hardened, (unsigned long long)p->n_scaled, (unsigned long long)p->n_pairs);
    if (p->n_weaker)
        printf("  %llu of those drawn got a smaller factor or none, for what their weights would "
               "lose to rounding\n",
               (unsigned long long)p->n_weaker);
    if (p->n_offset)
        printf("  constants of up to %.1f on the slowest pairs of %u layers\n", p->largest_constant,
               p->n_offset);
    if (p->refuse)
        printf("  no constants in %u layers: %s\n", p->n_hardened - p->n_offset, p->refuse);
    printf(
        "  the same function: KLD %.6f, perplexity %+.2f%%, the same first token in %.1f%%, over "
        "%zu tokens with an f16 cache\n",
        h->difference.kld_mean, 100 * h->difference.ppl_change, 100 * h->difference.same_top1,
        h->reference.n_rows);
    return fflush(stdout) == 0 ? CLI_OK : cli_fail("cannot write to stdout");
}

static int harden(struct harden *h)
{
    if (same_file(h->model, h->out))
        return cli_misuse("harden", "OUT is MODEL; give the variant a name of its own");
    int rc = cli_llama_open(&h->llama, &h->common, false);
    if (rc != CLI_OK)
        return rc;
    rc = look_at(h);
    if (rc == CLI_OK)
        rc = harden_logits_of(&h->reference, &h->llama, h->model, (int)h->common.n_threads);
    if (rc == CLI_OK)
        rc = write_draft(h, true);
    /* Architectures that read their own tensors take no others: only llama.cpp knows which. */
    if (rc == CLI_OK && adds_biases(&h->plan) && !loads(h))
        rc = write_draft(h, false);
    if (rc == CLI_OK)
        rc = check_draft(h);
    if (rc == CLI_OK && rename(h->draft, h->out) != 0)
        rc = cli_fail("cannot rename %s to %s: %s", h->draft, h->out, strerror(errno));
    if (rc != CLI_OK) {
        unlink(h->draft);
        return rc;
    }
    return h->common.json ? print_json(h) : print_lines(h);
}

int cmd_harden(int argc, char **argv)
{
    int64_t seed = 1;
    const struct cli_option options[] = {
        {"seed", 's', CLI_COUNT, &seed, "S", "which channels are hit, and how hard (1)", 0,
         INT64_MAX, false},
    };
    const struct cli_syntax syntax = {
        "harden", "MODEL OUT [options]",
        "Writes a variant of a GGUF model that computes the same with an f16 cache, but whose "
        "keys\n"
        "have the outliers on which weak codecs collapse: a hard test for any cache.",
        options, sizeof(options) / sizeof(options[0])};
    struct harden h = {0};
    int first = cli_parse(&syntax, &h.common, argc, argv);
    if (first < 0)
        return -1 - first;
    if (first + 2 != argc)
        return cli_misuse(syntax.command, "give a GGUF file and the name of the one to write");
    h.model = argv[first];
    h.out = argv[first + 1];
    h.seed = (uint64_t)seed;
    h.draft = cli_format("%s.tmp", h.out);
    int rc = harden(&h);
    harden_plan_free(&h.plan);
    harden_logits_free(&h.reference);
    model_layers_free(&h.layers);
    free(h.draft);
    return rc;
}
