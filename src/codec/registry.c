/* The list of codecs, made from codecs.def. */
#include <string.h>

#include "codec/codec.h"

#define TKV_CODEC(id, name, ops) extern const struct tkv_codec_ops ops;
#include "codec/codecs.def"
#undef TKV_CODEC

static const struct tkv_codec_ops *const codecs[] = {
#define TKV_CODEC(id, name, ops) &ops,
#include "codec/codecs.def"
#undef TKV_CODEC
};

uint32_t tkv_codec_registry_count(void)
{
    return (uint32_t)(sizeof codecs / sizeof codecs[0]);
}

const struct tkv_codec_ops *tkv_codec_by_index(uint32_t i)
{
    return i < tkv_codec_registry_count() ? codecs[i] : NULL;
}

const struct tkv_codec_ops *tkv_codec_by_id(uint16_t id)
{
    for (uint32_t i = 0; i < tkv_codec_registry_count(); i++)
        if (codecs[i]->id == id)
            return codecs[i];
    return NULL;
}

const struct tkv_codec_ops *tkv_codec_by_name(const char *name)
{
    for (uint32_t i = 0; i < tkv_codec_registry_count(); i++)
        if (strcmp(codecs[i]->name, name) == 0)
            return codecs[i];
    return NULL;
}
