/* tightkv doctor: what works on this machine, what does not and how to mend it. One line a
 * finding. */
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "cache_size.h"
#include "cli.h"
#include "doctor.h"
#if TKV_CLI_LLAMA
#include "llama_load.h"
#include "model_layers.h"
#endif

void doctor_add(struct report *r, enum verdict verdict, const char *what, char *text, char *cure)
{
    static const char *const words[] = {"ok", "note", "broken"};
    r->broken = r->broken || verdict == BROKEN;
    if (r->checks) {
        cJSON *check = cli_json_object(r->checks, NULL);
        cli_json_text(check, "what", what);
        cli_json_text(check, "verdict", words[verdict]);
        cli_json_text(check, "text", text);
        if (cure)
            cli_json_text(check, "cure", cure);
    } else {
        printf("%-7s %-10s %s%s%s\n", words[verdict], what, text, cure ? "; " : "",
               cure ? cure : "");
    }
    free(text);
    free(cure);
}

static void check_cpu(struct report *r)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } levels[] = {{TKV_CPU_AVX2, "AVX2"},
                  {TKV_CPU_AVX512, "AVX-512"},
                  {TKV_CPU_BF16, "AVX-512 BF16"},
                  {TKV_CPU_NEON, "NEON"},
                  {TKV_CPU_DOTPROD, "NEON with dot products"}};
    tkv_context *ctx;
    tkv_context_params params;
    tkv_error err;
    tkv_context_params_default(&params);
    params.cpu_mask = r->common.cpu_mask;
    if (tkv_context_create(&params, &ctx, &err) != TKV_OK) {
        doctor_add(r, BROKEN, "CPU", cli_format("%s", err.text), NULL);
        return;
    }
    uint32_t cpu = tkv_context_cpu(ctx);
    tkv_context_destroy(ctx);
    char *names = cli_format("%s", "");
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        if (!(cpu & levels[i].bit))
            continue;
        char *longer = cli_format("%s%s%s", names, *names ? ", " : "kernels for ", levels[i].name);
        free(names);
        names = longer;
    }
    if (*names) {
        doctor_add(r, FINE, "CPU", names, NULL);
    } else {
        free(names);
        doctor_add(r, WORTH_KNOWING, "CPU", cli_format("portable kernels only"),
                   cli_format("correct but slow: use a CPU with AVX2 or NEON, or drop --cpu"));
    }
}

/* The spec that the plug-in will take: TIGHTKV_KV, else the default preset. */
static bool check_spec(struct report *r, tkv_spec *spec)
{
    const char *kv = getenv("TIGHTKV_KV");
    char canonical[TKV_SPEC_TEXT];
    tkv_error err;
    *spec = (tkv_spec){.struct_size = sizeof(*spec)};
    if (tkv_spec_parse(kv, spec, &err) != TKV_OK) {
        doctor_add(r, BROKEN, "spec", cli_format("TIGHTKV_KV=%s: %s", kv ? kv : "", err.text),
                   cli_format("set TIGHTKV_KV to a spec or preset, or unset it"));
        return false;
    }
    if (tkv_spec_print(spec, canonical, sizeof(canonical)) != TKV_OK)
        canonical[0] = '\0';
    doctor_add(r, FINE, "spec",
               cli_format("%s (%s)", canonical, kv && *kv ? "TIGHTKV_KV" : "the default preset"),
               NULL);
    return true;
}

static bool check_files(struct report *r)
{
    char *bin = cli_look_for_llama_bin(), *plugin = cli_look_for_plugin();
    bool both = bin && plugin;
    const char *llama_dir = getenv("TIGHTKV_LLAMA_DIR"), *given = getenv("TIGHTKV_PLUGIN");
    if (!bin)
        doctor_add(r, BROKEN, "llama.cpp",
                   cli_format("not found%s%s", llama_dir ? " in TIGHTKV_LLAMA_DIR=" : "",
                              llama_dir ? llama_dir : ""),
                   cli_format("run make build, or name a build of llama.cpp " TKV_LLAMA_VERSION
                              " in TIGHTKV_LLAMA_DIR"));
    if (!plugin)
        doctor_add(
            r, BROKEN, "plug-in",
            cli_format("not found%s%s", given ? " at TIGHTKV_PLUGIN=" : "", given ? given : ""),
            cli_format("run make build, or name libggml-tightkv.so in TIGHTKV_PLUGIN"));
    free(bin);
    free(plugin);
    return both;
}

static void check_environment(struct report *r)
{
    const char *path = getenv("GGML_BACKEND_PATH");
    if (path && *path && !strstr(path, "tightkv"))
        doctor_add(r, WORTH_KNOWING, "llama.cpp",
                   cli_format("GGML_BACKEND_PATH=%s names another plug-in", path),
                   cli_format("llama.cpp loads only one from there: unset it, or use tightkv run"));
}

#if TKV_CLI_LLAMA

static bool check_llama(struct report *r, struct cli_llama *llama)
{
    if (!check_files(r))
        return false;
    bool opened = cli_llama_open(llama, &r->common, false) == CLI_OK;
    if (!opened) {
        doctor_add(r, BROKEN, "llama.cpp",
                   cli_format("%s does not load, as said on stderr", llama->bin),
                   cli_format("run make build, or name another build of " TKV_LLAMA_VERSION
                              " in TIGHTKV_LLAMA_DIR"));
        return false;
    }
    doctor_add(r, FINE, "llama.cpp",
               cli_format("%s, ggml %s", llama->bin, llama->api.ggml_version()), NULL);
    if (llama->built_in)
        doctor_add(
            r, WORTH_KNOWING, "llama.cpp",
            cli_format("its backends are built in: programs have chosen their devices before the "
                       "plug-in comes"),
            cli_format("give them -dev TIGHTKV, or build llama.cpp with GGML_BACKEND_DL=ON"));
    ggml_backend_dev_t cpu = llama->api.ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (!cpu)
        doctor_add(r, BROKEN, "llama.cpp", cli_format("it has no CPU backend"),
                   cli_format("build it with GGML_CPU=ON"));
    return cpu != NULL;
}

static void check_gpus(struct report *r, const struct cli_llama *llama)
{
    for (size_t i = 0; i < llama->api.ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t dev = llama->api.ggml_backend_dev_get(i);
        if (llama->api.ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_GPU)
            doctor_add(r, WORTH_KNOWING, "GPU",
                       cli_format("%s: the plug-in stays out of its way",
                                  llama->api.ggml_backend_dev_description(dev)),
                       cli_format("set TIGHTKV_DEVICE=1 to use it all the same"));
    }
}

static void check_plugin(struct report *r, struct cli_llama *llama)
{
    char *path = cli_look_for_plugin();
    cli_llama_error(true);
    ggml_backend_reg_t reg = llama->api.ggml_backend_load(path);
    if (!reg) {
        const char *why = cli_llama_error(false);
        doctor_add(r, BROKEN, "plug-in",
                   cli_format("%s does not load: %s", path, *why ? why : "no reason given"),
                   cli_format("build it against this llama.cpp (make build)"));
    } else if (llama->api.ggml_backend_reg_dev_count(reg) == 0) {
        doctor_add(r, WORTH_KNOWING, "plug-in", cli_format("%s loads and stays out", path),
                   cli_format("set TIGHTKV_DEVICE=1 to make it take part"));
    } else {
        doctor_add(r, FINE, "plug-in", cli_format("%s loads", path), NULL);
    }
    free(path);
}

/* Why a layer would not be coded, and what can be done; NULL: it would. */
static const char *why_exact(const tkv_spec *spec, const struct model_layer *l, char **cure)
{
    if (l->kind == LAYER_MLA) {
        *cure = cli_format("its one row a token is small already; -ctk q8_0 halves it");
        return "MLA rows stay f16";
    }
    if (cache_can_code(spec, l->k_head_dim, l->v_head_dim))
        return NULL;
    char *names = doctor_codecs_for(l->k_head_dim, l->v_head_dim);
    *cure = *names ? cli_format("these can: %s", names)
                   : cli_format("no codec can; stock -ctk q8_0 may");
    free(names);
    return "the spec cannot code this head size, rows stay f16";
}

static void check_layers(struct report *r, const struct model_layer *l, uint32_t first, uint32_t n,
                         const tkv_spec *spec)
{
    char *which =
        n > 1 ? cli_format("layers %u-%u", first, first + n - 1) : cli_format("layer %u", first);
    char *cure = NULL;
    const char *exact = l->n_kv_heads ? why_exact(spec, l, &cure) : NULL;
    if (!l->n_kv_heads)
        doctor_add(r, FINE, "model",
                   cli_format("%s: %s, nothing to code", which, layer_kind_name(l->kind)), NULL);
    else
        doctor_add(r, exact ? WORTH_KNOWING : FINE, "model",
                   cli_format("%s: %s, heads of %u and %u: %s%s", which, layer_kind_name(l->kind),
                              l->k_head_dim, l->v_head_dim, exact ? exact : "coded",
                              l->index_dim ? "; their index keys stay f16" : ""),
                   cure);
    free(which);
}

static void check_model(struct report *r, const struct cli_llama *llama, const char *path,
                        const tkv_spec *spec)
{
    struct model_layers m;
    tkv_error err;
    if (!model_layers_read(&llama->api, path, &m, &err)) {
        doctor_add(r, BROKEN, "model", cli_format("%s", err.text), NULL);
        return;
    }
    /* Neighbours of one shape are one finding. */
    for (uint32_t i = 0, n; i < m.n_layers; i += n) {
        for (n = 1; i + n < m.n_layers && model_layers_same(&m.layers[i], &m.layers[i + n]);)
            n++;
        check_layers(r, &m.layers[i], i, n, spec);
    }
    doctor_check_keys(r, &llama->api, path, m.n_layers, spec);
    if (strcmp(m.arch, "grok") == 0)
        doctor_add(r, WORTH_KNOWING, "model",
                   cli_format("llama.cpp turns flash attention off for grok: its caches stay f16"),
                   cli_format("run it without the plug-in"));
    if (m.note[0])
        doctor_add(r, WORTH_KNOWING, "model", cli_format("%s", m.note), NULL);
    model_layers_free(&m);
}

static void check_all(struct report *r, const char *model)
{
    struct cli_llama llama = {0};
    tkv_spec spec;
    check_cpu(r);
    bool spec_ok = check_spec(r, &spec);
    check_environment(r);
    doctor_check_settings(r);
    if (spec_ok)
        doctor_check_codecs(r, &spec);
    if (check_llama(r, &llama)) {
        check_gpus(r, &llama);
        if (spec_ok)
            check_plugin(r, &llama);
        if (spec_ok && model)
            check_model(r, &llama, model, &spec);
    }
}

#else

static void check_all(struct report *r, const char *model)
{
    tkv_spec spec;
    (void)model;
    check_cpu(r);
    check_spec(r, &spec);
    check_environment(r);
    check_files(r);
    doctor_add(r, BROKEN, "command",
               cli_format("built without llama.cpp: eval, demo and estimate are not there"),
               cli_format("run make build"));
}

#endif

int cmd_doctor(int argc, char **argv)
{
    const struct cli_syntax syntax = {
        "doctor", "[MODEL] [options]",
        "Checks CPU, llama.cpp and plug-in, and for a GGUF file which layers would be "
        "coded. Exits with 1 when something is broken.",
        NULL, 0};
    struct report r = {0};
    int first = cli_parse(&syntax, &r.common, argc, argv);
    if (first < 0)
        return -1 - first;
    if (first + 1 < argc)
        return cli_misuse(syntax.command, "one model at a time");
    cJSON *root = r.common.json ? cJSON_CreateObject() : NULL;
    if (root)
        cli_json_run(root, "doctor", &r.common);
    r.checks = root ? cli_json_array(root, "checks") : NULL;
    check_all(&r, first < argc ? argv[first] : NULL);
    if (root) {
        cJSON_AddBoolToObject(root, "works", !r.broken);
        int rc = cli_json_print(root);
        if (rc != CLI_OK)
            return rc;
    }
    return r.broken ? CLI_DATA : CLI_OK;
}
