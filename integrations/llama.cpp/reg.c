/* reg.c: the entry point that ggml calls after dlopen(), and the registry it gets. */
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

struct tkg_plugin tkg_plugin = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char *reg_name(ggml_backend_reg_t reg)
{
    (void)reg;
    return TIGHTKV_GGML_REG_NAME;
}

static size_t reg_device_count(ggml_backend_reg_t reg)
{
    (void)reg;
    return tkg_plugin.active ? 1 : 0;
}

static ggml_backend_dev_t reg_device(ggml_backend_reg_t reg, size_t index)
{
    (void)reg;
    return tkg_plugin.active && index == 0 ? &tkg_plugin.device : NULL;
}

typedef void (*any_function)(void);

static any_function find_function(const char *name)
{
    static const struct {
        const char *name;
        any_function fn;
    } functions[] = {
        {"ggml_backend_set_n_threads", (any_function)tkg_backend_set_n_threads},
        {"tightkv_ggml_configure", (any_function)tkg_configure},
        {"tightkv_ggml_fingerprint", (any_function)tkg_fingerprint},
        {"tightkv_ggml_has_book", (any_function)tkg_has_book},
        {"tightkv_ggml_stats", (any_function)tkg_stats},
        {"tightkv_ggml_measure", (any_function)tkg_measure},
    };
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        if (strcmp(name, functions[i].name) == 0) {
            return functions[i].fn;
        }
    }
    return NULL;
}

static void *reg_proc_address(ggml_backend_reg_t reg, const char *name)
{
    (void)reg;
    /* ggml hands functions out as void *; C11 has no cast for it, POSIX promises that the bits fit.
     */
    const any_function fn = find_function(name);
    void *p;
    memcpy(&p, &fn, sizeof(p));
    return p;
}

/* The name of a real GPU that is there, NULL when there is none. */
static const char *real_gpu(void)
{
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        const ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        const enum ggml_backend_dev_type type = ggml_backend_dev_type(dev);
        if (dev != &tkg_plugin.device &&
            (type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU)) {
            return ggml_backend_dev_name(dev);
        }
    }
    return NULL;
}

/* Whether to show the device, and as what: an integrated GPU is left alone by programs that look
 * for a GPU to compute on; next to a real one only the type GPU gets layers. */
static void decide_activity(void)
{
    const char *wish = getenv("TIGHTKV_DEVICE");
    const char *gpu = real_gpu();
    tkg_plugin.active = wish != NULL ? strcmp(wish, "0") != 0 : gpu == NULL;
    tkg_plugin.type = gpu != NULL ? GGML_BACKEND_DEVICE_TYPE_GPU : GGML_BACKEND_DEVICE_TYPE_IGPU;
    if (tkg_plugin.active) {
        return;
    }
    if (wish != NULL) {
        tkg_log(GGML_LOG_LEVEL_WARN, "staying out (TIGHTKV_DEVICE=%s)", wish);
    } else {
        tkg_log(GGML_LOG_LEVEL_WARN,
                "staying out: %s is a real GPU, whose layers keep their cache there; "
                "TIGHTKV_DEVICE=1 with "
                "-dev TIGHTKV uses the coded cache in main memory instead",
                gpu);
    }
}

__attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void);

ggml_backend_reg_t ggml_backend_init(void)
{
    if (tkg_plugin.reg.api_version != 0) {
        return &tkg_plugin.reg;
    }
    if (!tkg_version_matches() || !tkg_config_load()) {
        return NULL;
    }
    tkg_plugin.reg = (struct ggml_backend_reg){
        .api_version = GGML_BACKEND_API_VERSION,
        .iface = {reg_name, reg_device_count, reg_device, reg_proc_address},
    };
    tkg_device_init(&tkg_plugin.device, &tkg_plugin.reg);
    tkg_buft_init(&tkg_plugin.buft, &tkg_plugin.device);
    decide_activity();
    return &tkg_plugin.reg;
}
