/* tightkv-ggml.h: what the llama.cpp plug-in offers beyond ggml's own interface.
 *
 * SPDX-License-Identifier: MIT
 *
 * None of these is a linked symbol: ask the registry for them by name, after the plug-in is loaded:
 *
 *     ggml_backend_reg_t reg = ggml_backend_reg_by_name(TIGHTKV_GGML_REG_NAME);
 *     tightkv_ggml_stats_fn stats = ggml_backend_reg_get_proc_address(reg, "tightkv_ggml_stats");
 *
 * All may be called between graph computations, from the thread that drives llama.cpp.
 */
#ifndef TIGHTKV_GGML_H
#define TIGHTKV_GGML_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TIGHTKV_GGML_REG_NAME "tightkv"

/* Environment variables:
 *   TIGHTKV_KV      spec or preset of every cache; the default preset without it
 *   TIGHTKV_DEVICE  1: take part although a real GPU is present; 0: stay out
 *   TIGHTKV_SIZE    nominal: report buffers at f16 size (for builds of ggml with assertions);
 *                   coded (the default): report what the coded cache needs
 *   TIGHTKV_CPU     mask of CPU levels that may be used, as tkv_context_params.cpu_mask */

/* Sums over the caches that exist. */
struct tightkv_ggml_stats {
    uint32_t struct_size;  /* set by the caller to sizeof(struct tightkv_ggml_stats) */
    uint32_t n_caches;     /* coded caches that exist */
    uint64_t n_values;     /* values held, keys and values */
    uint64_t f16_bytes;    /* what f16 takes for them */
    uint64_t sealed_bytes; /* coded pages */
    uint64_t open_bytes;   /* exact pages: sink, tail, pages not yet full */
    uint64_t meta_bytes;   /* page tables and headers */
    uint64_t plain_bytes;  /* tensors stored as they are, because they cannot be coded */
    double exact_fraction; /* since tightkv_ggml_measure(1): mean share of live rows read exactly */
    double read_fraction;  /* the same: read at all */
    uint64_t n_scored;     /* (query row, layer) pairs those means are over */
    uint64_t visual_values; /* of n_values: those of rows that came as embeddings */
    uint64_t visual_bytes;  /* of sealed_bytes and open_bytes: what these take */
    uint64_t side_bytes;    /* of sealed_bytes: scales, means, padding; the rest are codes */
    uint64_t book_bytes;    /* bases and codebooks from a book; in none of the others */
    char why_plain[256];    /* why a tensor is stored as it is; empty: none is */
    uint64_t tier_hits, tier_misses; /* as tkv_tier_stats: blocks in memory when asked for, or not */
    uint64_t tier_read_bytes, tier_written_bytes, tier_stall_ns, tier_resident_bytes;
};

/* Sets the spec of caches made from now on, instead of TIGHTKV_KV; NULL goes back to TIGHTKV_KV.
 * Returns a tkv_status; on an error the spec in force stays. */
typedef int (*tightkv_ggml_configure_fn)(const char *spec);

/* What tells a model from another, whatever its weights are quantised to. */
struct tightkv_ggml_fingerprint {
    uint32_t struct_size; /* set by the caller to sizeof(struct tightkv_ggml_fingerprint) */
    char architecture[64];
    uint64_t shapes, rope, tokenizer; /* hashes of metadata */
    uint64_t vectors;                 /* of the tensors of one dimension */
    size_t n_rows;
    float *rows; /* lengths of the rows of query and key weights */
};

/* Of the model in a GGUF file; `rows` is freed with free(). Returns a tkv_status. */
typedef int (*tightkv_ggml_fingerprint_fn)(const char *path, struct tightkv_ggml_fingerprint *out);

/* Whether the book that a cache of the model in a GGUF file would find, were none named, has what a
 * codec needs: TKV_OK, or TKV_ERR_UNSUPPORTED. */
typedef int (*tightkv_ggml_has_book_fn)(const char *path, const char *codec);

/* Fills `out`. Returns a tkv_status. */
typedef int (*tightkv_ggml_stats_fn)(struct tightkv_ggml_stats *out);

/* on = 1 resets the fractions and begins to collect them in every attention; 0 stops. Collecting
 * costs a pass over the mask a layer. Returns a tkv_status. */
typedef int (*tightkv_ggml_measure_fn)(int on);

#ifdef __cplusplus
}
#endif

#endif
