/* fft.h - the discrete Fourier transform as a Monarch matrix: pure tables, no device, no state.
 *
 * N = N_0 N_1 ... N_{p-1} (order p; SPEC 1.2). Sign: X[k] = sum_j x[j] w_N^{jk}, w_N = exp(-2 pi i / N), unscaled.
 *
 * Stage s works on each of the N_0..N_{s-1} rows of N_s m points, m = columns(s) = N_{s+1}..N_{p-1}; a row is a
 * matrix x[j1][j0], j1 < N_s, j0 < m, F = block(N_s), T_s[k0][j0] = w_{N_s m}^{k0 j0} (twiddle):
 *     A[k0][j0] = T_s[k0][j0] sum_{j1} F[k0][j1] x[j1][j0]
 * in place: its N_s rows of m points are the rows of stage s + 1. After the last stage (m = 1, T = 1) the spectrum
 * lies in *spectrum order*: frequency k = k_0 + N_0 (k_1 + N_1 (k_2 + ...)) is at position
 * p = (..(k_0 N_1 + k_1) N_2 + ..) + k_{p-1}. Products of spectra do not care, so nothing is ever permuted back:
 * the filter's spectrum is in the same order. Inverse: the stages backwards with conj(T), conj(F), in the order
 * twiddle, block; scale 1/N.
 *
 * Real rows in complex transforms, without mirrored frequencies. `a` has L points, y = (a * k)[0:L], lags (-L, L):
 *   pair      two rows a, b with one filter: a + i b, N >= 2L - 1 (N >= L + Lk - 1 if Lk taps), zeros behind;
 *             k[-m] at N - m. Half of the outer stage's input and output rows is zero or not wanted.
 *   quarter   one row, N >= L only: a real product modulo Z^{2N} + 1 = (Z^N - i)(Z^N + i) is fixed by its residue
 *             modulo Z^N - i, a complex cyclic product after the twist t[j] = exp(+2 pi i j / (4N)):
 *                 z[j] = t[j] (c[j] + i c[j + N]),  c[0:2N] the sequence with c[2N - m] = -c[-m];  here z = t a,
 *                 zk[j] = t[j] (k[j] - i k[-(N - j)]),  y[j] = Re(conj(t[j]) IDFT(DFT(z) DFT(zk))[j]).
 *             Same work per row as `pair`, half its working set, rows need no partner. */
#ifndef M2_KERNELS_FFT_H
#define M2_KERNELS_FFT_H

#include "kernels/base/status.h"
#include <stdint.h>

enum { M2_FFT_MAX_ORDER = 12, M2_FFT_MAX_MENU = 16 };

typedef struct m2_fft {
    int64_t n;                    /* points, the product of factor[0..order-1] */
    int order;                    /* number of stages */
    int factor[M2_FFT_MAX_ORDER]; /* N_0 (outermost) ... N_{order-1} (contiguous) */
} m2_fft;

/* What a backend's stages can do: block sizes and what each costs per point, in any unit. */
typedef struct m2_fft_menu {
    int last;         /* the innermost factor is this; 0: any of `block` */
    int64_t multiple; /* N with odd factors must be a multiple of this; 0: of nothing */
    double fixed;     /* cost per point outside the stages (load, product, store, `last`) */
    int count;
    struct {
        int size;
        double cost;
    } block[M2_FFT_MAX_MENU];
} m2_fft_menu;

#ifdef __cplusplus
extern "C" {
#endif

/* The plan with these factors. M2_USAGE if order or a factor is out of range. */
M2_API m2_status m2_fft_make(int order, const int *factor, m2_fft *out) M2_MUST_USE;

/* The cheapest N >= points and its cheapest factors: odd blocks outermost (so that inner rows keep the powers of
 * two), then larger before smaller; on equal cost the smaller N, then the lower order. Cost = N (fixed + sum of the
 * blocks' costs). Any points in [1, 2^40]; M2_USAGE if the menu cannot reach it. m2_fft_exact wants N == n.
 * Pure functions: a few microseconds to a millisecond. */
M2_API m2_status m2_fft_choose(int64_t points, const m2_fft_menu *menu, m2_fft *out) M2_MUST_USE;
M2_API m2_status m2_fft_exact(int64_t n, const m2_fft_menu *menu, m2_fft *out) M2_MUST_USE;
/* The `most` cheapest plans, the cheapest first, and what each costs; *count of them. m2_fft_choose's is out[0]. */
M2_API m2_status m2_fft_list(int64_t points, const m2_fft_menu *menu, int most, m2_fft *out, double *cost,
                             int *count) M2_MUST_USE;

M2_API int64_t m2_fft_columns(const m2_fft *f, int stage);          /* m of that stage */
M2_API int64_t m2_fft_position(const m2_fft *f, int64_t frequency); /* where the spectrum keeps it */
M2_API int64_t m2_fft_frequency(const m2_fft *f, int64_t position); /* the inverse */

/* Tables: complex numbers as (re, im) pairs of doubles, correctly rounded but for rare last-bit cases (the angle is
 * reduced in integers to an eighth of the circle, and evaluated in extended precision where the machine has it). */
/* w_n^q = exp(-2 pi i q / n), any q, n < 2^60. */
M2_API void m2_fft_root(int64_t q, int64_t n, double out[2]);
M2_API void m2_fft_block(int b, double *out); /* F[k][j], b x b; symmetric */
/* T_s[k0][j0] for k0 in [0, N_s) and j0 in [from, to): out[k0 (to - from) + j0 - from]. */
M2_API void m2_fft_twiddle(const m2_fft *f, int stage, int64_t from, int64_t to, double *out);
/* t[j] = exp(+2 pi i j / (4n)), j in [from, to). */
M2_API void m2_fft_quarter(int64_t n, int64_t from, int64_t to, double *out);

#ifdef __cplusplus
}
#endif

#ifdef __CUDACC__
#define M2_FFT_ANYWHERE __host__ __device__ static inline
#else
#define M2_FFT_ANYWHERE static inline
#endif
/* Frequency-sparse filters (longconv's BAND, kernels/ops.h). Where `quarter` is a twist, frequency k of n stands for
 * (k - 1/4) / n of a turn: does it stay in a band that is this share of all? */
static inline int64_t m2_fft_band_points(int64_t length)
{
    int64_t n = 256;
    while (n < length) n *= 2;
    return n;
}

M2_FFT_ANYWHERE int m2_fft_in_band(int64_t k, int64_t n, double band)
{
    int64_t quarters = k == 0 ? 1 : 4 * k - 1 < 2 * n ? 4 * k - 1 : 4 * (n - k) + 1;
    return (double)quarters <= 2.0 * band * (double)n;
}
#endif
