/* spectra.h - products of spectra, a piece at a time, for m2i_fft_run. Included by files that twice.h compiles, where REAL
 * is defined; VEC and LANES are the vector of that type and its lanes. */

/* z = z K, ctx the spectrum K of a filter. */
static void NAME(times_k)(void *ctx, void *piece, int64_t first, int64_t count)
{
    VEC *z = piece;
    const VEC *k = (const VEC *)((const REAL *)ctx + 2 * first);
    for (int64_t i = 0; i < 2 * count / LANES; i += 2) {
        VEC x = z[i], y = z[i + 1];
        z[i] = x * k[i] - y * k[i + 1];
        z[i + 1] = x * k[i + 1] + y * k[i];
    }
}

typedef struct NAME(spectra) {
    REAL *k, *a, *g, *sum; /* sum NULL: no gradient of the filter is wanted */
} NAME(spectra);

/* sum += z conj(A), z = z conj(K). */
static void NAME(adjoint)(void *ctx, void *piece, int64_t first, int64_t count)
{
    const NAME(spectra) *s = ctx;
    VEC *z = piece, *sum = s->sum ? (VEC *)(s->sum + 2 * first) : NULL;
    const VEC *k = (const VEC *)(s->k + 2 * first), *a = (const VEC *)(s->a + 2 * first);
    for (int64_t i = 0; i < 2 * count / LANES; i += 2) {
        VEC x = z[i], y = z[i + 1];
        if (sum) sum[i] += x * a[i] + y * a[i + 1], sum[i + 1] += y * a[i] - x * a[i + 1];
        z[i] = x * k[i] + y * k[i + 1];
        z[i + 1] = y * k[i] - x * k[i + 1];
    }
}
