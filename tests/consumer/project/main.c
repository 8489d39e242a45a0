/* A user's first program: codes a page of keys and decodes it again. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <tightkv/tightkv.h>

enum { D = 128, N = TKV_PAGE_TOKENS };

/* Relative error of a page of waves through a codec, or -1 when a call failed. */
static double round_trip(tkv_context *ctx, tkv_codec codec, const float *rows, float *back,
                         tkv_error *err)
{
    double error = 0, power = 0;
    size_t bytes = tkv_page_bytes(codec, TKV_K, D);
    void *page = malloc(bytes);
    if (!page ||
        tkv_encode(ctx, codec, TKV_K, D, rows, TKV_F32, D * sizeof(float), N, page, bytes, err) ||
        tkv_decode(ctx, codec, TKV_K, D, page, bytes, back, TKV_F32, D * sizeof(float), N, err)) {
        free(page);
        return -1;
    }
    for (int i = 0; i < N * D; i++) {
        error += (back[i] - rows[i]) * (back[i] - rows[i]);
        power += rows[i] * rows[i];
    }
    free(page);
    return sqrt(error / power);
}

int main(void)
{
    static float rows[N * D], back[N * D];
    tkv_context *ctx = NULL;
    tkv_codec codec;
    tkv_error err = {""};
    double error = -1;
    for (int i = 0; i < N * D; i++)
        rows[i] = (float)sin(0.37 * i) + 0.25f * (float)(i % 7);
    if (!tkv_codec_find("turbo4", &codec, &err) && !tkv_context_create(NULL, &ctx, &err))
        error = round_trip(ctx, codec, rows, back, &err);
    tkv_context_destroy(ctx);
    printf("tightkv %s: turbo4, %u bytes a page, relative error %.4f %s\n", tkv_version(),
           (unsigned)tkv_page_bytes(codec, TKV_K, D), error, err.text);
    return error > 0 && error < 0.15 ? 0 : 1;
}
