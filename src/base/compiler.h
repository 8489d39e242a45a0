/* The few compiler extensions that the library uses. */
#ifndef TKV_COMPILER_H
#define TKV_COMPILER_H

/* A kernel body with constant block sizes: inlined into each of its callers, so that its loops
 * unroll and its arrays live in registers. */
#if defined(__GNUC__)
#define TKV_INLINE static inline __attribute__((always_inline))
#else
#define TKV_INLINE static inline
#endif

/* Keeps a loaded vector in its register: left alone, compilers load it again for each use, and
 * loads are what runs out first. */
#if defined(__GNUC__) && defined(__x86_64__)
#define TKV_HOLD(x) __asm__("" : "+v"(x))
#else
#define TKV_HOLD(x) ((void)0)
#endif

/* Before a loop of at most 8 turns: unrolled, so that its variable is a constant in each. */
#if defined(__clang__)
#define TKV_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define TKV_UNROLL _Pragma("GCC unroll 8")
#else
#define TKV_UNROLL
#endif

/* Asks for the cache line at p, whatever p is. */
#if defined(__GNUC__)
#define TKV_PREFETCH(p) __builtin_prefetch(p)
#else
#define TKV_PREFETCH(p) ((void)(p))
#endif

#endif
