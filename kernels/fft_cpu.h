/* fft_cpu.h - Monarch DFT stages on the CPU, for rows that stay in cache. Private to kernels/ and its tests.
 *
 * V = lanes of a vector. A *bundle* is `rows` rows of n points side by side, transformed together: one row if n is a
 * multiple of 4V, else the 4V / n short rows that fill the vectors of the last stage. Memory: 2 * points reals, 64-byte
 * aligned, vectors of V real parts and V imaginary parts in turn: point p has its real part at 2 (p - p % V) + p % V and
 * its imaginary part V behind. The order of a spectrum has no name; all bundles of one plan have it, so products of
 * spectra need none. */
#ifndef M2_KERNELS_FFT_CPU_H
#define M2_KERNELS_FFT_CPU_H

#include "kernels/base/dtype.h"
#include "kernels/fft.h"

#if defined(__AVX512F__)
enum { M2I_VECTOR = 64 };
#elif defined(__AVX__)
enum { M2I_VECTOR = 32 };
#else
enum { M2I_VECTOR = 16 };
#endif

/* Vectors, and the same at any address; FN-like suffixes as twice.h makes them. */
typedef float m2i_vec_f32 __attribute__((vector_size(M2I_VECTOR), may_alias));
typedef double m2i_vec_f64 __attribute__((vector_size(M2I_VECTOR), may_alias));
typedef float m2i_vec_any_f32 __attribute__((vector_size(M2I_VECTOR), may_alias, aligned(4)));
typedef double m2i_vec_any_f64 __attribute__((vector_size(M2I_VECTOR), may_alias, aligned(8)));

typedef struct m2i_fft {
    m2_fft plan;
    m2_dtype dtype;
    int lanes;            /* V */
    int64_t rows, points; /* of a bundle; points = rows * n */
    /* Stage s: [vector of columns][k0 >= 1][re, im][V]; the last stage: see fft_cpu.c. */
    void *twiddle[M2_FFT_MAX_ORDER];
    /* t[j] = low[j % V] high[j / V]: low re[V], im[V], then (re, im) of each high. */
    void *quarter;
    int32_t *frequency; /* of each point of a row's spectrum; NULL until m2i_fft_get_band asked for it */
    struct m2i_fft *next;
} m2i_fft;

/* What is done with a piece of the spectrum between the transforms: z points to `count` points from `first` on. */
typedef void (*m2i_fft_point)(void *ctx, void *z, int64_t first, int64_t count);

/* The plan for rows of at least `points` points in f32 or f64 that is the cheapest but `which`, or the plan given. Tables
 * are built once per process and kept; thread-safe, so that a workspace query can build what a run will use. */
m2_status m2i_fft_get(int64_t points, m2_dtype dtype, int which, const m2i_fft **out) M2_MUST_USE;
m2_status m2i_fft_get_plan(const m2_fft *plan, m2_dtype dtype, const m2i_fft **out) M2_MUST_USE;

/* A bundle in place: forward if `forward`, then `point` on every piece (NULL: nothing), then the inverse times n if
 * `inverse`. Pieces that fit the first-level cache go through all of it before the next one is touched. */
void m2i_fft_run(const m2i_fft *f, void *z, int forward, m2i_fft_point point, void *ctx, int inverse);

/* The plan for rows of exactly `points`, a power of two that is a multiple of 4V, with its frequencies. */
m2_status m2i_fft_get_band(int64_t points, m2_dtype dtype, const m2i_fft **out) M2_MUST_USE;

/* The cheapest plans, and the seconds that a forward and an inverse transform of a row are expected to take on one
 * core; at most M2I_FFT_CHOICES. Returns how many, 0 if none will do. */
enum { M2I_FFT_CHOICES = 8 };
int m2i_fft_choices(int64_t points, m2_dtype dtype, m2_fft plan[M2I_FFT_CHOICES], double seconds[M2I_FFT_CHOICES]);

/* FLOPs of one transform of a row of at least `points` points; builds no tables. */
double m2i_fft_flops(int64_t points, m2_dtype dtype);
#endif
