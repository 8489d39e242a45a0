/* device.c: the device as ggml enumerates it. Its memory is main memory. */
#include <string.h>

#include "plugin.h"

static const char *device_name(ggml_backend_dev_t dev)
{
    (void)dev;
    return "TIGHTKV";
}

static const char *device_description(ggml_backend_dev_t dev)
{
    (void)dev;
    return "coded KV cache in main memory";
}

static void device_memory(ggml_backend_dev_t dev, size_t *free, size_t *total)
{
    (void)dev;
    *free = 0;
    *total = 0;
    const ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (cpu != NULL) {
        ggml_backend_dev_memory(cpu, free, total);
    }
}

static enum ggml_backend_dev_type device_type(ggml_backend_dev_t dev)
{
    (void)dev;
    return tkg_plugin.type;
}

static void device_props(ggml_backend_dev_t dev, struct ggml_backend_dev_props *props)
{
    memset(props, 0, sizeof(*props));
    props->name = device_name(dev);
    props->description = device_description(dev);
    props->type = device_type(dev);
    device_memory(dev, &props->memory_free, &props->memory_total);
    /* Weights stay with the CPU, so nothing here stands against mapping them. */
    props->caps.mmap_support = true;
}

static ggml_backend_t device_init_backend(ggml_backend_dev_t dev, const char *params)
{
    (void)params;
    return tkg_backend_create(dev);
}

static ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t dev)
{
    (void)dev;
    return &tkg_plugin.buft;
}

void tkg_device_init(struct ggml_backend_device *device, struct ggml_backend_reg *reg)
{
    *device = (struct ggml_backend_device){
        .iface =
            {
                .get_name = device_name,
                .get_description = device_description,
                .get_memory = device_memory,
                .get_type = device_type,
                .get_props = device_props,
                .init_backend = device_init_backend,
                .get_buffer_type = device_buffer_type,
                .supports_op = tkg_supports_op,
                .supports_buft = tkg_supports_buft,
            },
        .reg = reg,
    };
}
