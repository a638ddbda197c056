/* Monarch DFT: tables against their definitions, whole transforms of order 1 to 4 against FFTW and the defining sum. */
#include "kernels/fft.h"
#include "kernels/fft_cpu.h"

#include <CUnit/Basic.h>
#include <complex.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef M2_FFTW
#include <fftw3.h>
#endif

typedef double complex cplx;
static const double two_pi = 6.283185307179586476925286766559;

static double noise(uint64_t i) /* in (-1, 1) */
{
    i = (i + 1) * 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 31)) * 0xbf58476d1ce4e5b9u;
    return (double)(int64_t)(i ^ (i >> 29)) / 9223372036854775808.0;
}

static cplx *random_row(int64_t n)
{
    cplx *x = malloc(sizeof(cplx) * (size_t)n);
    for (int64_t i = 0; i < n; i++) x[i] = noise(2 * (uint64_t)i) + I * noise(2 * (uint64_t)i + 1);
    return x;
}

static double distance(int64_t n, const cplx *a, const cplx *b) /* relative L2 */
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += creal((a[i] - b[i]) * conj(a[i] - b[i]));
        s += creal(b[i] * conj(b[i]));
    }
    return sqrt(d / s);
}

/* The definition: the sum over j, with the table's own root for w^{jk}, whose quality roots() checks. */
static void dft_by_sum(int64_t n, const cplx *x, cplx *out)
{
    for (int64_t k = 0; k < n; k++) {
        out[k] = 0;
        for (int64_t j = 0; j < n; j++) {
            double w[2];
            m2_fft_root(j * k, n, w);
            out[k] += x[j] * (w[0] + I * w[1]);
        }
    }
}

/* The stages of fft.h as they are written there: block products, twiddles, nothing permuted. */
static void dft_by_stages(const m2_fft *f, cplx *x)
{
    for (int s = 0; s < f->order; s++) {
        int64_t b = f->factor[s], m = m2_fft_columns(f, s);
        cplx *block = malloc(sizeof(cplx) * (size_t)(b * b)),
             *twiddle = malloc(sizeof(cplx) * (size_t)(b * m));
        cplx *y = malloc(sizeof(cplx) * (size_t)(b * m));
        m2_fft_block((int)b, (double *)block);
        m2_fft_twiddle(f, s, 0, m, (double *)twiddle);
        for (int64_t row = 0; row < f->n / (b * m); row++) {
            cplx *r = x + row * b * m;
            for (int64_t k = 0; k < b; k++)
                for (int64_t j = 0; j < m; j++) {
                    y[k * m + j] = 0;
                    for (int64_t i = 0; i < b; i++) y[k * m + j] += block[k * b + i] * r[i * m + j];
                    y[k * m + j] *= twiddle[k * m + j];
                }
            memcpy(r, y, sizeof(cplx) * (size_t)(b * m));
        }
        free(block);
        free(twiddle);
        free(y);
    }
}

static void to_natural_order(const m2_fft *f, const cplx *spectrum, cplx *out)
{
    for (int64_t p = 0; p < f->n; p++) out[m2_fft_frequency(f, p)] = spectrum[p];
}

/* FFTW, or the sum where it is not there. */
static void dft_by_library(int64_t n, cplx *x, cplx *out)
{
#ifdef M2_FFTW
    fftw_plan p =
        fftw_plan_dft_1d((int)n, (fftw_complex *)x, (fftw_complex *)out, FFTW_FORWARD, FFTW_ESTIMATE);
    fftw_execute(p);
    fftw_destroy_plan(p);
#else
    dft_by_sum(n, x, out);
#endif
}

static const struct {
    int order, factor[4];
} plans[] = {
    {1, {1}},
    {1, {8}},
    {1, {13}},
    {1, {128}},
    {2, {16, 16}},
    {2, {16, 32}},
    {2, {64, 16}},
    {2, {3, 16}},
    {2, {128, 128}},
    {3, {16, 16, 16}},
    {3, {32, 16, 8}},
    {3, {5, 8, 16}},
    {3, {64, 32, 32}},
    {4, {16, 16, 8, 8}},
    {4, {4, 4, 4, 4}},
    {4, {7, 3, 8, 16}},
    {4, {16, 16, 16, 16}},
};

static void transforms(void)
{
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        m2_fft f;
        CU_ASSERT_FATAL(m2_fft_make(plans[i].order, plans[i].factor, &f) == M2_OK);
        int64_t n = f.n;
        cplx *x = random_row(n), *y = malloc(sizeof(cplx) * (size_t)n),
             *want = malloc(sizeof(cplx) * (size_t)n);
        memcpy(want, x, sizeof(cplx) * (size_t)n);
        dft_by_stages(&f, want);
        to_natural_order(&f, want, y);
        if (n <= 4096) {
            dft_by_sum(n, x, want);
            CU_ASSERT(distance(n, y, want) < 1e-14);
        }
#ifdef M2_FFTW
        dft_by_library(n, x, want);
        CU_ASSERT(distance(n, y, want) < 1e-14);
#endif
        free(x);
        free(y);
        free(want);
    }
}

static cplx get(const m2i_fft *f, const void *z, int64_t p)
{
    int64_t v = f->lanes, i = 2 * (p - p % v) + p % v;
    if (f->dtype == M2_F64) return ((const double *)z)[i] + I * ((const double *)z)[i + v];
    return ((const float *)z)[i] + I * ((const float *)z)[i + v];
}

static void put(const m2i_fft *f, void *z, int64_t p, cplx x)
{
    int64_t v = f->lanes, i = 2 * (p - p % v) + p % v;
    if (f->dtype == M2_F64)
        ((double *)z)[i] = creal(x), ((double *)z)[i + v] = cimag(x);
    else
        ((float *)z)[i] = (float)creal(x), ((float *)z)[i + v] = (float)cimag(x);
}

/* Every row of a bundle against FFTW or the sum, and back. The transform of an impulse at 1 is w^k: it tells the frequency k at
 * every place of the spectrum, whose order has no name; each must occur once per row. */
static void check_cpu(const m2_fft *plan, m2_dtype dtype)
{
    const m2i_fft *f;
    CU_ASSERT_FATAL(m2i_fft_get_plan(plan, dtype, &f) == M2_OK);
    int64_t n = plan->n, *frequency = malloc(sizeof *frequency * (size_t)f->points);
    size_t bytes = (size_t)(2 * f->points * m2_dtype_size(dtype));
    void *z = aligned_alloc(64, (bytes + 63) / 64 * 64);
    char *seen = calloc((size_t)n, 1);
    cplx *x = random_row(f->points), *want = malloc(sizeof(cplx) * (size_t)n),
         *y = malloc(sizeof(cplx) * (size_t)n);
    for (int64_t p = 0; p < f->points; p++) put(f, z, p, p % n == 1 || n == 1);
    m2i_fft_run(f, z, 1, NULL, NULL, 0);
    for (int64_t p = 0; p < f->points; p++) {
        frequency[p] = ((int64_t)llround(-carg(get(f, z, p)) / two_pi * (double)n) + n) % n;
        CU_ASSERT(seen[frequency[p]]++ < f->rows);
    }
    for (int64_t row = 0; row < f->rows;
         row++) { /* a row alone in its bundle: the other rows' places hold zeros */
        for (int64_t p = 0; p < f->points; p++) put(f, z, p, p / n == row ? x[p] : 0);
        m2i_fft_run(f, z, 1, NULL, NULL, 0);
        memset(y, 0, sizeof(cplx) * (size_t)n);
        for (int64_t p = 0; p < f->points; p++) y[frequency[p]] += get(f, z, p);
        dft_by_library(n, x + row * n, want);
        CU_ASSERT(distance(n, y, want) < (dtype == M2_F64 ? 1e-15 : 4e-7));
    }
    for (int64_t p = 0; p < f->points; p++) put(f, z, p, x[p]);
    m2i_fft_run(f, z, 1, NULL, NULL, 0);
    m2i_fft_run(f, z, 0, NULL, NULL, 1);
    for (int64_t p = 0; p < f->points; p++) x[p] *= (double)n;
    cplx *back = malloc(sizeof(cplx) * (size_t)f->points);
    for (int64_t p = 0; p < f->points; p++) back[p] = get(f, z, p);
    CU_ASSERT(distance(f->points, back, x) < (dtype == M2_F64 ? 1e-15 : 4e-7));
    free(back);
    free(frequency);
    free(seen);
    free(x);
    free(y);
    free(want);
    free(z);
}

/* Orders 1 to 4 and more of the CPU's stages; the last factor is the number of lanes. */
static void cpu_stages(void)
{
    static const int outer[][5] = {
        {0},    {2},       {3},       {8},          {2, 2},       {8, 4},          {5, 4},
        {7, 8}, {4, 8, 8}, {3, 8, 8}, {8, 8, 8, 2}, {4, 8, 7, 5}, {2, 4, 8, 8, 8}, {8, 8, 8, 7, 3},
    };
    for (m2_dtype t = M2_F32; t <= M2_F64; t++)
        for (size_t i = 0; i < sizeof outer / sizeof *outer; i++) {
            int factor[6], order = 0;
            while (order < 5 && outer[i][order]) factor[order] = outer[i][order], order++;
            factor[order++] = (int)(M2I_VECTOR / m2_dtype_size(t));
            m2_fft f;
            CU_ASSERT_FATAL(m2_fft_make(order, factor, &f) == M2_OK);
            int quad = 4 * factor[order - 1];
            if (f.n % quad == 0 || quad % f.n == 0) check_cpu(&f, t);
        }
    const m2i_fft *unused;
    m2_fft f;
    CU_ASSERT(m2_fft_make(2, (const int[2]){11, M2I_VECTOR / 4}, &f) == M2_OK);
    CU_ASSERT(m2i_fft_get_plan(&f, M2_F32, &unused) == M2_USAGE);
    CU_ASSERT(m2_fft_make(1, (const int[1]){6}, &f) == M2_OK);
    CU_ASSERT(m2i_fft_get_plan(&f, M2_F32, &unused) == M2_USAGE);
    CU_ASSERT(m2i_fft_get(100, M2_BF16, 0, &unused) == M2_USAGE);
    for (int64_t points = 1; points < 300000; points = points * 5 / 4 + 1)
        for (m2_dtype t = M2_F32; t <= M2_F64; t++) {
            const m2i_fft *g;
            CU_ASSERT_FATAL(m2i_fft_get(points, t, 0, &g) == M2_OK);
            CU_ASSERT(g->plan.n >= points && (points < 16 || g->plan.n <= 2 * points));
        }
}

/* Roots agree with extended precision to 1 ulp of their size 1, and are exact on the axes and symmetric off them. */
static void roots(void)
{
    static const int64_t ns[] = {1, 2, 3, 8, 12, 1000, 4096, 1048576, (int64_t)1 << 40};
    for (size_t i = 0; i < sizeof ns / sizeof *ns; i++) {
        int64_t n = ns[i];
        for (int t = 0; t < 2000; t++) {
            int64_t q = t < 40 ? t - 20 : (int64_t)(noise((uint64_t)t) * 4e12);
            double w[2], v[2];
            m2_fft_root(q, n, w);
            int64_t r = ((q % n) + n) % n;
            long double a = 6.283185307179586476925286766559005768L * (long double)r / (long double)n;
            CU_ASSERT(fabsl(w[0] - cosl(a)) < 1.2e-16L && fabsl(w[1] + sinl(a)) < 1.2e-16L);
            m2_fft_root(-q, n, v);
            CU_ASSERT(v[0] == w[0] && v[1] == -w[1]);
            if (r == 0) CU_ASSERT(w[0] == 1 && w[1] == 0);
            if (n % 4 == 0 && r == n / 4) CU_ASSERT(w[0] == 0 && w[1] == -1);
            if (n % 8 == 0 && r % (n / 4) == n / 8) CU_ASSERT(fabs(w[0]) == fabs(w[1]));
        }
    }
    double t[2];
    m2_fft_quarter(5, 3, 4, t);
    CU_ASSERT(fabs(t[0] - cos(two_pi * 3 / 20)) < 1e-15 && fabs(t[1] - sin(two_pi * 3 / 20)) < 1e-15);
}

static void positions(void)
{
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        m2_fft f;
        CU_ASSERT_FATAL(m2_fft_make(plans[i].order, plans[i].factor, &f) == M2_OK);
        char *seen = calloc((size_t)f.n, 1);
        for (int64_t k = 0; k < f.n; k++) {
            int64_t p = m2_fft_position(&f, k);
            CU_ASSERT_FATAL(p >= 0 && p < f.n && !seen[p]);
            seen[p] = 1;
            CU_ASSERT(m2_fft_frequency(&f, p) == k);
        }
        free(seen);
    }
}

static void choices(void)
{
    static const m2_fft_menu tiles = {.last = 16,
                                      .multiple = 256,
                                      .fixed = 1,
                                      .count = 6,
                                      .block = {{16, 4}, {32, 6}, {64, 10}, {128, 18}, {3, 2}, {2, 2}}};
    for (int64_t points = 1; points < 5000000; points = points * 9 / 8 + 1) {
        m2_fft f, g;
        CU_ASSERT_FATAL(m2_fft_choose(points, &tiles, &f) == M2_OK);
        CU_ASSERT(f.n >= points && f.n <= (points <= 8 ? 16 : 2 * points));
        CU_ASSERT(f.factor[f.order - 1] == 16);
        int64_t n = 1;
        for (int s = 0; s < f.order; s++) n *= f.factor[s];
        CU_ASSERT(n == f.n && ((n & (n - 1)) == 0 || n % 256 == 0));
        CU_ASSERT(m2_fft_exact(f.n, &tiles, &g) == M2_OK && g.n == f.n && g.order == f.order);
    }
    m2_fft f;
    CU_ASSERT(m2_fft_choose(0, &tiles, &f) == M2_USAGE);
    CU_ASSERT(m2_fft_exact(17, &tiles, &f) == M2_USAGE);
    CU_ASSERT(m2_fft_make(M2_FFT_MAX_ORDER + 1, (const int[M2_FFT_MAX_ORDER + 1]){2}, &f) == M2_USAGE);
    CU_ASSERT(m2_fft_make(1, (const int[1]){0}, &f) == M2_USAGE);
}

/* The quarter twist of fft.h does compute causal and two-sided products of real rows with N = L. */
static void quarter_products(void)
{
    enum { N = 24 };
    m2_fft f;
    CU_ASSERT_FATAL(m2_fft_make(2, (const int[2]){3, 8}, &f) == M2_OK);
    double a[N], k[N], r[N]; /* r[m] is lag -1-m */
    cplx t[N], z[N], zk[N];
    m2_fft_quarter(N, 0, N, (double *)t);
    for (int j = 0; j < N; j++) {
        a[j] = noise((uint64_t)j);
        k[j] = noise(100 + (uint64_t)j);
        r[j] = noise(200 + (uint64_t)j);
    }
    for (int j = 0; j < N; j++) {
        z[j] = t[j] * a[j];
        zk[j] = t[j] * (k[j] - I * (j ? r[N - j - 1] : 0));
    }
    dft_by_stages(&f, z);
    dft_by_stages(&f, zk);
    for (int p = 0; p < N; p++) z[p] = conj(z[p] * zk[p]); /* inverse = conj, forward, conj */
    cplx y[N];
    to_natural_order(&f, z, y);
    dft_by_sum(N, y, z);
    for (int i = 0; i < N; i++) {
        double want = 0;
        for (int j = 0; j < N; j++) want += a[j] * (j <= i ? k[i - j] : r[j - i - 1]);
        CU_ASSERT(fabs(creal(conj(t[i]) * conj(z[i])) / N - want) < 1e-14);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("fft", NULL, NULL);
    CU_add_test(s, "roots are exact", roots);
    CU_add_test(s, "positions and frequencies are inverse permutations", positions);
    CU_add_test(s, "plans for any length", choices);
    CU_add_test(s, "Monarch stages of order 1 to 4 are the DFT", transforms);
    CU_add_test(s, "the CPU's stages are the DFT and its inverse, in f32 and f64", cpu_stages);
    CU_add_test(s, "quarter twist", quarter_products);
    CU_basic_run_tests();
    int bad = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
#ifndef M2_FFTW
    if (!bad) {
        puts("everything but the comparison with FFTW passed: fftw3 was not found by pkg-config when this "
             "was built");
        return 77;
    }
#endif
    return bad;
}
