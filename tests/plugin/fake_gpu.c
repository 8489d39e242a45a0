/* fake_gpu.c: a machine with a GPU, as far as listing devices goes (LD_PRELOAD). */
#include <string.h>

#include "ggml-backend-impl.h"

static const char *device_name(ggml_backend_dev_t dev)
{
    (void)dev;
    return "FAKE0";
}

static enum ggml_backend_dev_type device_type(ggml_backend_dev_t dev)
{
    (void)dev;
    return GGML_BACKEND_DEVICE_TYPE_GPU;
}

static void device_memory(ggml_backend_dev_t dev, size_t *free, size_t *total)
{
    (void)dev;
    *free = *total = 1u << 20;
}

static void device_props(ggml_backend_dev_t dev, struct ggml_backend_dev_props *props)
{
    memset(props, 0, sizeof(*props));
    props->name = props->description = device_name(dev);
    props->type = device_type(dev);
    device_memory(dev, &props->memory_free, &props->memory_total);
}

static struct ggml_backend_reg reg;
static struct ggml_backend_device device = {
    .iface = {.get_name = device_name,
              .get_description = device_name,
              .get_memory = device_memory,
              .get_type = device_type,
              .get_props = device_props},
    .reg = &reg,
};

static size_t device_count(ggml_backend_reg_t r)
{
    (void)r;
    return 1;
}

static ggml_backend_dev_t device_get(ggml_backend_reg_t r, size_t i)
{
    (void)r;
    (void)i;
    return &device;
}

static const char *reg_name(ggml_backend_reg_t r)
{
    (void)r;
    return "FAKE";
}

__attribute__((constructor)) static void register_gpu(void)
{
    reg.api_version = GGML_BACKEND_API_VERSION;
    reg.iface = (struct ggml_backend_reg_i){reg_name, device_count, device_get, NULL};
    ggml_backend_register(&reg);
    ggml_backend_load_all(); /* llama.cpp does it only where nothing is registered */
}
