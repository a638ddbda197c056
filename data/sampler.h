/* sampler.h - which sequence comes when, without any state.
 *
 * A permutation of [0, n) that is a pure function of (n, key): a Feistel network over the smallest range 2^bits >= n, walked
 * until it lands inside (Black and Rogaway 2002; less than 2 steps on average). Each epoch has its own key.
 *
 * A mixture deals stores out in blocks of M2_MIXTURE_BLOCK positions, of which store i has exactly its quota, at equal
 * distances: the first store among all places, the second among those that are left, and so on. How many places of a block
 * a store has had is a formula, hence so is the position inside it, and its epochs follow one another without overlap. */
#ifndef M2_SAMPLER_H
#define M2_SAMPLER_H

#include "kernels/base/status.h"
#include <stdint.h>

enum { M2_MIXTURE_STORES = 16, M2_MIXTURE_BLOCK = 4096 };

/* Where item i of [0, n) goes. A bijection for every n >= 1 and every key. */
M2_API int64_t m2_sampler_permute(int64_t i, int64_t n, uint64_t key);

/* The sequence of [0, n) at position p = 0, 1, 2, ... of an endless stream: every epoch of n positions visits each once. */
M2_API int64_t m2_sampler_item(int64_t p, int64_t n, uint64_t seed, int shuffle);

typedef struct m2_mixture {
    int stores, shuffle;
    uint64_t seed;
    int64_t items[M2_MIXTURE_STORES];     /* sequences per store */
    int64_t first[M2_MIXTURE_STORES + 1]; /* quotas, summed: first[stores] = M2_MIXTURE_BLOCK */
} m2_mixture;

/* weights need not sum to 1; each store gets weight / sum to 1 in 4096, and at least one position in a block.
 * M2_USAGE for weights that are not positive, M2_DATA for a store without items. */
M2_API m2_status m2_mixture_make(int stores, const int64_t *items, const double *weights, uint64_t seed,
                                 int shuffle, m2_mixture *out) M2_MUST_USE;
/* Store and sequence in it at position p. */
M2_API void m2_mixture_item(const m2_mixture *m, int64_t p, int *store, int64_t *sequence);

#endif
