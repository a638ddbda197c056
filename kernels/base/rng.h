/* rng.h - counter-based randomness (Philox 4x32-10, Salmon et al. 2011). Same bits on host and device.
 *
 * There is no state: a draw is a pure function of (key, counter). The key names the purpose (seed, step, stream),
 * the counter is a *global* element index, so a draw does not depend on how the work is cut over ranks,
 * threads or microbatches, nor on being done twice (recompute, resume). */
#ifndef M2_BASE_RNG_H
#define M2_BASE_RNG_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define M2_HD __host__ __device__ static inline
#else
#define M2_HD static inline
#endif

typedef struct m2_rng_key {
    uint32_t k[2];
} m2_rng_key;
typedef struct m2_rng_block {
    uint32_t v[4];
} m2_rng_block;

M2_HD uint64_t m2_rng_mix(uint64_t x) /* splitmix64 finaliser */
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The key of one stream: e.g. (seed, step, call id) for dropout, (seed, 0, hash of name) for initialisation. */
M2_HD m2_rng_key m2_rng_make_key(uint64_t seed, uint64_t step, uint64_t stream)
{
    uint64_t h = m2_rng_mix(m2_rng_mix(m2_rng_mix(seed) ^ step) ^ stream);
    m2_rng_key key = {{(uint32_t)h, (uint32_t)(h >> 32)}};
    return key;
}

M2_HD m2_rng_block m2_rng_draw(m2_rng_key key, uint64_t counter)
{
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = 0, c3 = 0, k0 = key.k[0], k1 = key.k[1];
    for (int r = 0; r < 10; r++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    m2_rng_block out = {{c0, c1, c2, c3}};
    return out;
}

/* 32 random bits of element i: four consecutive elements share one block. */
M2_HD uint32_t m2_rng_u32(m2_rng_key key, uint64_t i)
{
    return m2_rng_draw(key, i >> 2).v[i & 3];
}

M2_HD double m2_rng_uniform(m2_rng_key key, uint64_t i) /* in (0, 1), 32 bits */
{
    return (m2_rng_u32(key, i) + 0.5) * (1.0 / 4294967296.0);
}

M2_HD double m2_rng_normal(m2_rng_key key, uint64_t i) /* Box-Muller, one normal per block */
{
    m2_rng_block b = m2_rng_draw(key, i);
    double u = (b.v[0] + 0.5) * (1.0 / 4294967296.0), w = (b.v[1] + 0.5) * (1.0 / 4294967296.0);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * w);
}
#endif
