/* The few compiler extensions that the library uses. */
#ifndef TKV_COMPILER_H
#define TKV_COMPILER_H

/* A kernel body with constant block sizes: inlined into each of its callers, so that its loops unroll and its
 * arrays live in registers. */
#if defined(__GNUC__)
#define TKV_INLINE static inline __attribute__((always_inline))
#else
#define TKV_INLINE static inline
#endif

#endif
