/* What evaluation by text and by recall share. */
#include "eval.h"

void eval_measure_begin(struct eval *e, struct eval_row *row)
{
    if (row->cache.spec)
        e->session->llama->measure(1);
}

static int plugin_stats(struct eval *e, struct eval_row *row, struct tightkv_ggml_stats *out)
{
    *out = (struct tightkv_ggml_stats){.struct_size = sizeof(*out)};
    if (e->session->llama->stats(out) != TKV_OK || out->n_caches == 0)
        return cli_fail("%s: the plug-in holds no coded cache for %s; tightkv doctor tells why",
                        row->kv, e->session->path);
    return CLI_OK;
}

int eval_measure_end(struct eval *e, struct eval_row *row)
{
    if (!row->cache.spec) {
        /* Stock attention reads every row, as the cache holds it. */
        row->exact_sum += row->cache.type == GGML_TYPE_F16 || row->cache.type == GGML_TYPE_F32;
        row->read_sum += 1;
        row->n_measured += 1;
        return CLI_OK;
    }
    struct tightkv_ggml_stats st;
    int rc = plugin_stats(e, row, &st);
    e->session->llama->measure(0);
    row->exact_sum += st.exact_fraction * (double)st.n_scored;
    row->read_sum += st.read_fraction * (double)st.n_scored;
    row->n_measured += (double)st.n_scored;
    return rc;
}

int eval_add_usage(struct eval *e, struct eval_row *row, struct llama_context *ctx,
                   struct eval_usage *usage)
{
    usage->n_contexts++;
    if (!row->cache.spec) {
        /* What llama.cpp would save of a stock cache is its rows, and a few bytes a token for
         * positions. */
        double bytes = (double)e->session->llama->api.llama_state_seq_get_size(ctx, 0);
        usage->bytes += bytes;
        usage->n_values += 8 * bytes / session_type_bits(e->session, row->cache.type);
        return CLI_OK;
    }
    struct tightkv_ggml_stats st;
    int rc = plugin_stats(e, row, &st);
    /* What the plug-in could not code counts as the f16 that it is. */
    usage->bytes += (double)(st.sealed_bytes + st.open_bytes + st.meta_bytes + st.plain_bytes);
    usage->n_values += (double)st.n_values + (double)st.plain_bytes / 2;
    return rc;
}
