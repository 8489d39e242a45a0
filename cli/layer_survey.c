/* One pass over a window of a text, layer by layer: only one layer's rows are held at a time. */
#include "layer_survey.h"

#include <math.h>
#include <stdlib.h>

#include "bench_tools.h"

struct survey_job {
    tkv_context *ctx;
    const tkv_spec *specs;
    struct cli_progress *progress;
    struct layer_survey *out;
    double work_of_spec; /* a layer's share of the progress of one spec */
};

/* A layer under a spec costs about this share of what the model's own pass costs. */
static const double spec_share = .1;

double layer_survey_work(size_t n_tokens, size_t n_specs)
{
    return (double)n_tokens * (1 + spec_share * (double)n_specs);
}

static bool seen(const struct layer_survey *survey, int layer)
{
    for (size_t i = 0; i < survey->n_layers; i++)
        if (survey->layers[i].layer == layer)
            return true;
    return false;
}

static struct kv_stats *stats_of(const float *rows, size_t n_rows, uint32_t n_heads, uint32_t dim)
{
    struct kv_stats *stats = cli_alloc(n_heads, sizeof(*stats));
    for (uint32_t h = 0; h < n_heads; h++)
        kv_stats_of(rows + (size_t)h * dim, n_rows, dim, (size_t)n_heads * dim, &stats[h]);
    return stats;
}

static int fail(tkv_status status, const tkv_error *err)
{
    return cli_fail("%s", err->text[0] ? err->text : tkv_status_string(status));
}

static int survey_layer(struct survey_job *job, const struct layer_probe *probe)
{
    const struct capture_layer *l = probe->layer;
    struct layer_survey *out = job->out;
    out->layers = cli_grow(out->layers, out->n_layers + 1, sizeof(*out->layers));
    struct surveyed_layer *layer = &out->layers[out->n_layers++];
    *layer = (struct surveyed_layer){
        .layer = l->layer,
        .n_kv_heads = l->n_kv_heads,
        .k = stats_of(probe->k, l->n_q, l->n_kv_heads, l->k_head_dim),
        .v = stats_of(probe->v, l->n_q, l->n_kv_heads, l->v_head_dim),
        .errors = cli_alloc(out->n_specs, sizeof(*layer->errors)),
    };
    for (size_t i = 0; i < out->n_specs; i++) {
        tkv_error err = {{0}};
        tkv_status status = layer_probe_measure(probe, &job->specs[i], &layer->errors[i], &err);
        if (status == TKV_ERR_UNSUPPORTED)
            layer->errors[i].all = (struct head_error){NAN, NAN, NAN};
        else if (status != TKV_OK)
            return fail(status, &err);
        if (job->progress)
            cli_progress_step(job->progress, job->work_of_spec, NULL);
    }
    return CLI_OK;
}

static int on_layer(void *user, const struct capture_layer *l)
{
    struct survey_job *job = user;
    if (seen(job->out, l->layer))
        return CLI_OK;
    struct layer_probe probe;
    tkv_error err = {{0}};
    tkv_status status = layer_probe_open(job->ctx, l, &probe, &err);
    if (status == TKV_ERR_UNSUPPORTED) {
        snprintf(job->out->note, sizeof(job->out->note), "%s", err.text);
        return CLI_OK;
    }
    if (status != TKV_OK)
        return fail(status, &err);
    int rc = survey_layer(job, &probe);
    layer_probe_close(&probe);
    return rc;
}

int layer_survey_run(struct session *s, const struct session_tokens *window, const tkv_spec *specs,
                     size_t n_specs, struct cli_progress *progress, struct layer_survey *out)
{
    *out = (struct layer_survey){.n_specs = n_specs};
    uint32_t n_threads = (uint32_t)s->n_threads;
    tkv_context_params params;
    tkv_error err = {{0}};
    tkv_context_params_default(&params);
    bench_executor(&params.executor, &n_threads);
    struct survey_job job = {.specs = specs, .progress = progress, .out = out};
    tkv_status status = tkv_context_create(&params, &job.ctx, &err);
    if (status != TKV_OK)
        return fail(status, &err);
    /* In one batch, so that every layer comes once and whole. */
    struct session whole = *s;
    whole.n_ubatch = (uint32_t)window->n;
    job.work_of_spec = spec_share * (double)window->n / s->llama->api.llama_model_n_layer(s->model);
    int rc = capture_run(&whole, window, on_layer, &job);
    if (progress)
        cli_progress_step(progress, (double)window->n, NULL);
    tkv_context_destroy(job.ctx);
    return rc;
}

double layer_survey_out_error(const struct layer_survey *survey, size_t i_spec)
{
    double sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < survey->n_layers; i++) {
        const struct layer_error *e = &survey->layers[i].errors[i_spec];
        if (e->n_heads > 0) {
            sum += e->all.out;
            n++;
        }
    }
    return n > 0 ? sum / (double)n : NAN;
}

void layer_survey_free(struct layer_survey *survey)
{
    for (size_t i = 0; i < survey->n_layers; i++) {
        struct surveyed_layer *l = &survey->layers[i];
        for (size_t spec = 0; spec < survey->n_specs; spec++)
            layer_error_free(&l->errors[spec]);
        free(l->errors);
        free(l->k);
        free(l->v);
    }
    free(survey->layers);
    *survey = (struct layer_survey){0};
}
