#include "data/sampler.h"
#include "kernels/base/rng.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum { ROUNDS = 6 };

int64_t m2_sampler_permute(int64_t i, int64_t n, uint64_t key)
{
    int bits = 2; /* at least one bit on each side */
    while (bits < 62 && (int64_t)1 << bits < n) bits++;
    int low = bits / 2, high = bits - low;
    uint64_t x = (uint64_t)i;
    do { /* an unbalanced network: the halves change places and widths every round; an even number of rounds restores them */
        int a = high, b = low;
        for (int r = 0; r < ROUNDS; r++) {
            uint64_t left = x >> b, right = x & ((1ull << b) - 1);
            left ^= m2_rng_mix(key ^ m2_rng_mix(right + ((uint64_t)(r + 1) << 56))) & ((1ull << a) - 1);
            x = right << a | left;
            int t = a;
            a = b;
            b = t;
        }
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

static int64_t item_of(int64_t p, int64_t n, uint64_t seed, uint64_t stream, int shuffle)
{
    if (!shuffle) return p % n;
    return m2_sampler_permute(p % n, n, m2_rng_mix(m2_rng_mix(seed + stream) ^ (uint64_t)(p / n)));
}

int64_t m2_sampler_item(int64_t p, int64_t n, uint64_t seed, int shuffle)
{
    return item_of(p, n, seed, 0, shuffle);
}

m2_status m2_mixture_make(int stores, const int64_t *items, const double *weights, uint64_t seed, int shuffle,
                          m2_mixture *out)
{
    if (stores < 1 || stores > M2_MIXTURE_STORES)
        return m2_fail(M2_USAGE, "a mixture has 1 to %d stores, not %d", M2_MIXTURE_STORES, stores);
    *out = (m2_mixture){.stores = stores, .shuffle = shuffle, .seed = seed};
    double sum = 0, before = 0;
    for (int i = 0; i < stores; i++) {
        if (!(weights[i] > 0) || !isfinite(weights[i]))
            return m2_fail(M2_USAGE, "the weight of store %d of a mixture is %g; expected a positive number",
                           i + 1, weights[i]);
        if (items[i] < 1) return m2_fail(M2_DATA, "store %d of a mixture has no sequence", i + 1);
        sum += weights[i];
    }
    for (int i = 0; i < stores; i++) { /* rounding the running sums: every quota is within 1 of its share */
        before += weights[i];
        int64_t end = llround(before / sum * M2_MIXTURE_BLOCK), least = out->first[i] + 1;
        int64_t most = M2_MIXTURE_BLOCK - (stores - 1 - i);
        out->first[i + 1] = end < least ? least : end > most ? most : end;
        out->items[i] = items[i];
    }
    out->first[stores] = M2_MIXTURE_BLOCK;
    return M2_OK;
}

void m2_mixture_item(const m2_mixture *m, int64_t p, int *store, int64_t *sequence)
{
    int64_t block = p / M2_MIXTURE_BLOCK, place = p % M2_MIXTURE_BLOCK;
    int i = 0;
    for (int64_t left = M2_MIXTURE_BLOCK; i + 1 < m->stores; i++) {
        /* of the first `place` of the places that are left, store i has this many; is the next one its own? */
        int64_t quota = m->first[i + 1] - m->first[i], before = place * quota / left;
        int its_own = (place + 1) * quota / left > before;
        place = its_own ? before : place - before;
        left -= quota;
        if (its_own) break;
    }
    int64_t nth = block * (m->first[i + 1] - m->first[i]) + place;
    *store = i;
    *sequence = item_of(nth, m->items[i], m->seed, (uint64_t)i, m->shuffle);
}
