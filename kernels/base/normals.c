/* normals.c - Box-Muller over blocks of 16 draws, in loops that a compiler turns into vector code: no branches, no calls.
 *
 *   x = sqrt(-2 ln u) cos(2 pi w),   u, w in (0, 1)
 *   ln u        = k ln 2 + 2 atanh((m - 1) / (m + 1)),  u = m 2^k, m in [sqrt(1/2), sqrt(2))
 *   cos(2 pi w) = sin(2 pi (|w - 1/2| - 1/4)),          Taylor's series up to x^23 on [-pi/2, pi/2] */
#include "kernels/base/normals.h"

#include <string.h>

enum { BLOCK = 16 };

/* The first two words of the draws with counters c .. c + 15: m2_rng_draw with its rounds unrolled, so that the loop over
 * the draws is the innermost. */
static void draw_block(m2_rng_key key, uint64_t c, uint32_t *restrict first, uint32_t *restrict second)
{
    uint32_t k0 = key.k[0], k1 = key.k[1], low = (uint32_t)c, high = (uint32_t)(c >> 32);
    for (uint32_t i = 0; i < BLOCK; i++) { /* c is a multiple of 16: no carry */
        uint32_t c0 = low + i, c1 = high, c2 = 0, c3 = 0;
#pragma GCC unroll 10
        for (uint32_t r = 0; r < 10; r++) {
            uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
            c0 = (uint32_t)(b >> 32) ^ c1 ^ (k0 + r * 0x9E3779B9u);
            c1 = (uint32_t)b;
            c2 = (uint32_t)(a >> 32) ^ c3 ^ (k1 + r * 0xBB67AE85u);
            c3 = (uint32_t)a;
        }
        first[i] = c0;
        second[i] = c1;
    }
}

/* ln u for u in (0, 1), normal numbers. */
static inline double log_of(double u)
{
    const uint64_t sqrt_half = 0x3fe6a09e667f3bcdu;
    uint64_t bits;
    memcpy(&bits, &u, sizeof bits);
    uint64_t up = bits - sqrt_half + ((uint64_t)1023 << 52); /* the exponent counts from sqrt(1/2) */
    int64_t k = (int64_t)(up >> 52) - 1023;
    bits -= (uint64_t)k << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    double t = (m - 1) / (m + 1), s = t * t, p = 1.0 / 23;
    for (int n = 21; n >= 1; n -= 2) p = p * s + 1.0 / n;
    return (double)(int32_t)k * 0.693147180559945309417 + 2 * t * p;
}

/* sin(2 pi x) for |x| <= 1/4. */
static inline double sine_of_turns(double x)
{
    double a = 6.283185307179586476925 * x, s = a * a, p = 1;
    for (int n = 22; n >= 2; n -= 2) p = 1 - p * s * (1 / (n * (n + 1.0)));
    return a * p;
}

static void normal_block(m2_rng_key key, uint64_t c, double *out)
{
    uint32_t first[BLOCK], second[BLOCK];
    draw_block(key, c, first, second);
    for (int i = 0; i < BLOCK; i++) {
        double u = ((double)first[i] + 0.5) * (1.0 / 4294967296.0);
        double w = ((double)second[i] + 0.5) * (1.0 / 4294967296.0);
        out[i] = sqrt(-2 * log_of(u)) * sine_of_turns(fabs(w - 0.5) - 0.25);
    }
}

void m2_rng_normals(m2_rng_key key, int64_t from, int64_t n, double *out)
{
    double block[BLOCK];
    for (int64_t at = from / BLOCK * BLOCK; at < from + n; at += BLOCK) {
        int64_t begin = at < from ? from : at, end = at + BLOCK < from + n ? at + BLOCK : from + n;
        normal_block(key, (uint64_t)at, block);
        memcpy(out + (begin - from), block + (begin - at), (size_t)(end - begin) * sizeof *out);
    }
}
