/* monarch.c - a long convolution in the two block stages of its Monarch matrix, for sequences that are cut between them.
 *
 * N = N1 L2 points as a matrix, j = j1 L2 + j2; the quarter twist t and the filter's place are those of kernels/fft.h:
 *     columns    z[k1][j2] = e[k1][j2] sum_{j1} g[k1][j1] (x[j1][j2] - i xr[N - 1 - j]),   x0 added to x[0][0]
 *     cyclic     y[k1][.] = (u[k1][.] cyclically convolved with k[k1][.]) / N1, each row k1 by DFTs over its L2 points
 *     uncolumns  y[j1][j2] = Re(sum_{k1} conj(g[k1][j1] e[k1][j2]) z[k1][j2]): the adjoint of columns
 * with g[k1][j1] e[k1][j2] = w_N1^{j1 k1} w_N^{j2 k1} t[j]: g = w_{4 N1}^{j1 (4 k1 - 1)}, e = w_{4 N}^{j2 (4 k1 - 1)}.
 * So uncolumns(cyclic(columns(u), columns(k, kr, D))) is longconv: columns needs only some columns j2, cyclic only some
 * rows k1, and what lies between is a transpose (parallel/exchange.h). lag -N, at j = 0, touches nothing and is left out.
 * A cyclic convolution whose length is none of a fast DFT is a longer one with zeros, folded. */
#ifndef REAL
#include "kernels/base/arena.h"
#include "kernels/fft_cpu.h"
#include "kernels/ops/common.h"

enum { X, XR, X0 };             /* inputs of columns, outputs of uncolumns */
enum { U, K, DY };              /* inputs of cyclic and its gradient */
enum { DU, DK };                /* outputs of the gradient */
enum { BLOCK = 512, RUN = 64 }; /* columns at a time; neighbours whose twiddles share a factor */
enum { SPECTRA = 4 };           /* bundles a thread works in: K, A, G, sum of G conj(A) */

/* ---- shape rules --------------------------------------------------------------------------------------- */
static int columns_fit(const m2_attrs *attrs, const m2_desc *in)
{
    const int64_t *a = attrs->i, own = a[M2_COLUMNS_OWN], length = m2i_last(&in[X]);
    if ((in[X].rank != 2 && in[X].rank != 3) || own < 1 || length % own || length / own > a[M2_COLUMNS_ROWS])
        return 0;
    if (a[M2_COLUMNS_AT] < 0 || a[M2_COLUMNS_AT] + own > a[M2_COLUMNS_WIDTH]) return 0;
    if (in[XR].rank >= 0 && !(m2_desc_same_shape(&in[XR], &in[X]) && in[XR].dtype == in[X].dtype)) return 0;
    return in[X0].rank < 0 || (in[X].rank == 2 && m2i_is_vector(&in[X0], in[X].shape[0]));
}

static m2_status columns_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    if (!columns_fit(attrs, in))
        return m2i_bad_shape(
            &m2_op_columns, in,
            "x (C, B, l) or (F, l) with l / OWN <= ROWS rows of OWN columns, AT + OWN <= WIDTH, xr like "
            "x, x0 (F)");
    out[0] = m2_desc_make(m2i_precise(in[X].dtype), ".CB.", attrs->i[M2_COLUMNS_ROWS], in[X].shape[0],
                          in[X].rank == 3 ? in[X].shape[1] : (int64_t)1, 2 * attrs->i[M2_COLUMNS_OWN]);
    return M2_OK;
}

static m2_status uncolumns_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    const int64_t *a = attrs->i, own = a[M2_COLUMNS_OWN], length = a[M2_COLUMNS_LENGTH];
    if (in[0].rank != 4 || in[0].shape[0] != a[M2_COLUMNS_ROWS] || in[0].shape[3] != 2 * own || length < 1 ||
        length % own || length / own > a[M2_COLUMNS_ROWS])
        return m2i_bad_shape(&m2_op_uncolumns, in, "z (ROWS, C, B, 2 OWN), LENGTH a multiple of OWN");
    out[0] = m2_desc_make((m2_dtype)a[M2_COLUMNS_OUT_DTYPE], "CBL", in[0].shape[1], in[0].shape[2], length);
    out[1] = out[2] = m2_desc_none();
    return M2_OK;
}

static m2_status cyclic_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    const m2_desc *u = &in[U], *k = &in[K];
    int64_t segments = attrs->i[M2_CYCLIC_SEGMENTS];
    if (u->rank != 4 || k->rank != 4 || segments < 1 || u->shape[0] % segments ||
        k->shape[0] != u->shape[0] || k->shape[2] != 1 || k->shape[3] != u->shape[3] || u->shape[3] % 2 ||
        k->shape[1] < 1 || u->shape[1] % k->shape[1] || u->dtype != k->dtype)
        return m2i_bad_shape(&m2_op_cyclic, in,
                             "u (R, C, B, 2c), k (R, F, 1, 2c) with R a multiple of SEGMENTS, F dividing C");
    out[0] = *u;
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void stage_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    const m2_desc *z = in[0].rank == 4 ? &in[0] : &out[0], *x = z == &in[0] ? &out[0] : &in[0];
    double points = (double)m2_desc_count(z) / 2;
    double rows = x->rank < 0 ? 1 : (double)m2i_last(x) / (double)attrs->i[M2_COLUMNS_OWN];
    cost->flops = points * (4 * rows + 6);
}

static int64_t width_of(const m2_attrs *attrs, const m2_desc *u)
{
    return u->shape[3] / 2 * attrs->i[M2_CYCLIC_SEGMENTS];
}

/* The DFT that convolves cyclically over `width` points: of that length, or longer and folded. */
static m2_status choose_fft(int64_t width, m2_dtype real, const m2i_fft **out)
{
    M2_TRY(m2i_fft_get(width, real, 0, out));
    return (*out)->plan.n == width ? M2_OK : m2i_fft_get(2 * width - 1, real, 0, out);
}

static void transforms_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int transforms,
                            int filter_transforms, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    const m2i_fft *f;
    int64_t segments = attrs->i[M2_CYCLIC_SEGMENTS], rows = in[U].shape[0] / segments;
    if (choose_fft(width_of(attrs, &in[U]), in[U].dtype, &f) != M2_OK) return;
    double one = m2i_fft_flops(f->plan.n, in[U].dtype) + 6 * (double)f->plan.n;
    cost->flops =
        one * (double)rows *
        ((double)(in[U].shape[1] * in[U].shape[2]) * transforms + (double)in[K].shape[1] * filter_transforms);
}

static void cyclic_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    transforms_cost(attrs, in, out, 2, 1, cost);
}

static void cyclic_grad_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    transforms_cost(attrs, in, out, 3, 2, cost);
}

/* ---- how the work is cut ------------------------------------------------------------------------------- */
typedef struct stage {
    const m2_call *call;
    int64_t rows, width, at, own, used; /* N1; L2; first own column, how many; rows that x has */
    int64_t count, batch;               /* sequences; of each channel */
    char *g, *e;                        /* [k1][j1] re, im; [k1] re[own], im[own] */
} stage;

static int64_t table_bytes(int64_t rows, int64_t own, m2_dtype real, int which)
{
    return m2_align_up(2 * rows * (which ? own : rows) * m2_dtype_size(real), M2_ALIGN);
}

static int64_t columns_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)threads, (void)in, (void)out;
    const int64_t *a = attrs->i;
    return table_bytes(a[M2_COLUMNS_ROWS], a[M2_COLUMNS_OWN], M2_F64, 0) +
           table_bytes(a[M2_COLUMNS_ROWS], a[M2_COLUMNS_OWN], M2_F64, 1);
}

typedef struct rows_job {
    const m2_call *call;
    const m2i_fft *fft;
    int64_t own, width, segments, rows; /* c; L2; P; rows k1 of this call */
    int64_t channels, batch, filters, sharing;
} rows_job;

static m2_status plan_rows(rows_job *j, const m2_attrs *attrs, const m2_desc *u, const m2_desc *k)
{
    j->own = u->shape[3] / 2;
    j->segments = attrs->i[M2_CYCLIC_SEGMENTS];
    j->width = j->own * j->segments;
    j->rows = u->shape[0] / j->segments;
    j->channels = u->shape[1], j->batch = u->shape[2];
    j->filters = k->shape[1], j->sharing = j->channels / j->filters;
    return choose_fft(j->width, u->dtype, &j->fft);
}

static int64_t scratch_bytes(const rows_job *j)
{
    return m2_align_up(2 * j->fft->points * m2_dtype_size(j->fft->dtype), M2_ALIGN);
}

static int64_t cyclic_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)out;
    rows_job j;
    return plan_rows(&j, attrs, &in[U], &in[K]) == M2_OK ? threads * SPECTRA * scratch_bytes(&j) : 0;
}

/* Where segment s of row k1, sequence (channel, b) begins in an array of `count` sequences per row. */
static int64_t piece_at(const rows_job *j, int64_t s, int64_t k1, int64_t count, int64_t sequence)
{
    return ((s * j->rows + k1) * count + sequence) * 2 * j->own;
}

/* Sequence q of those that have filter f. */
static int64_t sequence_of(const rows_job *j, int64_t f, int64_t q)
{
    int64_t c = q / j->batch;
    int by_index = j->call->attrs.i[M2_CYCLIC_SHARE] == M2_SHARE_INDEX;
    return (by_index ? c * j->filters + f : f * j->sharing + c) * j->batch + q % j->batch;
}

#define SELF "kernels/ops/monarch.c"
#include "kernels/ops/twice.h"

static m2_status start_stage(stage *s, const m2_call *c, m2_dtype *real)
{
    M2_TRY(m2i_check(c, 0, real));
    const int64_t *a = c->attrs.i;
    const m2_tensor *z = c->in[0].rank == 4 ? &c->in[0] : &c->out[0], *x = z == &c->in[0] ? c->out : c->in;
    *s = (stage){.call = c,
                 .rows = a[M2_COLUMNS_ROWS],
                 .width = a[M2_COLUMNS_WIDTH],
                 .at = a[M2_COLUMNS_AT],
                 .own = a[M2_COLUMNS_OWN],
                 .count = z->shape[1] * z->shape[2],
                 .batch = z->shape[2]};
    for (int i = X; i <= XR; i++)
        if (x[i].data) s->used = x[i].shape[x[i].rank - 1] / s->own;
    s->g = c->workspace;
    s->e = s->g + table_bytes(s->rows, s->own, *real, 0);
    m2i_spread(c, *real, M2I_PAIR(tables), s->rows, 20 * s->own, s);
    return M2_OK;
}

static m2_status columns_run(const m2_call *c)
{
    stage s;
    m2_dtype real;
    M2_TRY(start_stage(&s, c, &real));
    m2i_spread(c, real, M2I_PAIR(columns), s.count, s.rows * s.own * 4, &s);
    return M2_OK;
}

static m2_status uncolumns_run(const m2_call *c)
{
    stage s;
    m2_dtype real;
    M2_TRY(start_stage(&s, c, &real));
    m2i_spread(c, real, M2I_PAIR(uncolumns), s.count, s.rows * s.own * 4, &s);
    return M2_OK;
}

static m2_status run_rows(const m2_call *c, m2i_pair body)
{
    rows_job j = {.call = c};
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    m2_desc u = m2_tensor_desc(&c->in[U]), k = m2_tensor_desc(&c->in[K]);
    M2_TRY(plan_rows(&j, &c->attrs, &u, &k));
    m2i_spread(c, real, body, j.rows * j.filters, 10 * j.width * j.sharing * j.batch, &j);
    return M2_OK;
}

static m2_status cyclic_run(const m2_call *c)
{
    return run_rows(c, M2I_PAIR(forward));
}

static m2_status cyclic_grad_run(const m2_call *c)
{
    return run_rows(c, M2I_PAIR(backward));
}

#else
#define VEC   NAME(m2i_vec)
#define LANES ((int)(M2I_VECTOR / sizeof(REAL)))
#include "kernels/ops/spectra.h"

/* ---- tables of the column stage ------------------------------------------------------------------------ */
/* g and e of row k1; e is a product of two roots, one of which RUN neighbours share. */
static void NAME(tables)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const stage *s = ctx;
    int64_t n = 4 * s->rows * s->width;
    for (int64_t k = begin; k < end; k++) {
        REAL *g = (REAL *)s->g + 2 * k * s->rows, *e = (REAL *)s->e + 2 * k * s->own;
        double low[2 * RUN], high[2];
        for (int64_t j = 0; j < s->rows; j++) {
            m2_fft_root(j * (4 * k - 1) % (4 * s->rows), 4 * s->rows, high);
            g[2 * j] = (REAL)high[0], g[2 * j + 1] = (REAL)high[1];
        }
        for (int64_t i = 0; i < RUN; i++) m2_fft_root(i * (4 * k - 1), n, low + 2 * i);
        for (int64_t i = 0; i < s->own; i++) {
            if (i % RUN == 0) m2_fft_root((s->at + i) * (4 * k - 1), n, high);
            const double *l = low + 2 * (i % RUN);
            e[i] = (REAL)(high[0] * l[0] - high[1] * l[1]);
            e[s->own + i] = (REAL)(high[0] * l[1] + high[1] * l[0]);
        }
    }
}

/* 1 if the block of columns from `at` on begins with j = 0 in row j1. */
static int NAME(is_origin)(const stage *s, int64_t j1, int64_t at)
{
    return j1 == 0 && at == 0 && s->at == 0;
}

/* ---- columns ------------------------------------------------------------------------------------------- */
/* re + i im = sum over j1 of g (x - i xr), n columns from `at` on, without e. */
static void NAME(sum_rows)(const stage *s, const REAL *g, const REAL *x, const REAL *xr, const REAL *x0,
                           int64_t at, int64_t n, REAL *re, REAL *im)
{
    for (int64_t i = 0; i < n; i++) re[i] = im[i] = 0;
    for (int64_t j = 0; j < s->rows; j++) {
        REAL a = g[2 * j], b = g[2 * j + 1];
        int64_t mirror = s->rows - 1 - j;
        if (x && j < s->used) {
            const REAL *v = x + j * s->own + at;
            SIMD
            for (int64_t i = 0; i < n; i++) re[i] += a * v[i], im[i] += b * v[i];
        }
        if (xr && mirror < s->used) {
            const REAL *v = xr + mirror * s->own + s->own - 1 - at;
            for (int64_t i = NAME(is_origin)(s, j, at); i < n; i++) re[i] += b * v[-i], im[i] -= a * v[-i];
        }
    }
    if (x0 && NAME(is_origin)(s, 0, at)) re[0] += *x0;
}

static void NAME(columns)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const stage *s = ctx;
    const m2_call *c = s->call;
    const REAL *x = c->in[X].data, *xr = c->in[XR].data, *x0 = c->in[X0].data;
    int64_t length = s->used * s->own;
    REAL re[BLOCK], im[BLOCK];
    for (int64_t q = begin; q < end; q++)
        for (int64_t at = 0; at < s->own; at += BLOCK)
            for (int64_t k = 0; k < s->rows; k++) {
                int64_t n = s->own - at < BLOCK ? s->own - at : BLOCK;
                const REAL *e = (const REAL *)s->e + 2 * k * s->own + at, *f = e + s->own;
                REAL *z = (REAL *)c->out[0].data + (k * s->count + q) * 2 * s->own + at;
                NAME(sum_rows)
                (s, (const REAL *)s->g + 2 * k * s->rows, x ? x + q * length : NULL,
                 xr ? xr + q * length : NULL, x0 ? x0 + q : NULL, at, n, re, im);
                STORE_EACH(i, n, z, c->acc & 1, e[i] * re[i] - f[i] * im[i]);
                STORE_EACH(i, n, z + s->own, c->acc & 1, e[i] * im[i] + f[i] * re[i]);
            }
}

/* ---- uncolumns ----------------------------------------------------------------------------------------- */
/* Row k1's contributions to n columns from `at` on, w = conj(e) z. */
static void NAME(spread_row)(const stage *s, const REAL *g, const REAL *re, const REAL *im, int64_t at,
                             int64_t n, REAL *y, int acc, REAL *yr, int acc_r)
{
    for (int64_t j = 0; j < s->rows; j++) {
        REAL a = g[2 * j], b = g[2 * j + 1];
        int64_t mirror = s->rows - 1 - j;
        if (y && j < s->used) STORE_EACH(i, n, y + j * s->own + at, acc, a * re[i] + b * im[i]);
        if (!yr || mirror >= s->used) continue;
        REAL *v = yr + mirror * s->own + s->own - 1 - at;
        int origin = NAME(is_origin)(s, j, at);
        if (origin && !acc_r) *v = 0;
        for (int64_t i = origin; i < n; i++) v[-i] = b * re[i] - a * im[i] + (acc_r ? v[-i] : 0);
    }
}

static void NAME(uncolumns)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const stage *s = ctx;
    const m2_call *c = s->call;
    REAL *y = c->out[X].data, *yr = c->out[XR].data, *y0 = c->out[X0].data, re[BLOCK], im[BLOCK];
    int64_t length = s->used * s->own;
    for (int64_t q = begin; q < end; q++) {
        REAL first = 0;
        for (int64_t at = 0; at < s->own; at += BLOCK)
            for (int64_t k = 0; k < s->rows; k++) {
                int64_t n = s->own - at < BLOCK ? s->own - at : BLOCK;
                const REAL *e = (const REAL *)s->e + 2 * k * s->own + at, *f = e + s->own;
                const REAL *z = (const REAL *)c->in[0].data + (k * s->count + q) * 2 * s->own + at,
                           *zi = z + s->own;
                STORE_EACH(i, n, re, 0, e[i] * z[i] + f[i] * zi[i]);
                STORE_EACH(i, n, im, 0, e[i] * zi[i] - f[i] * z[i]);
                if (NAME(is_origin)(s, 0, at)) first += re[0];
                NAME(spread_row)
                (s, (const REAL *)s->g + 2 * k * s->rows, re, im, at, n, y ? y + q * length : NULL,
                 k || c->acc & 1, yr ? yr + q * length : NULL, k || c->acc & 2);
            }
        if (y0) y0[q] = first + (c->acc & 4 ? y0[q] : 0);
    }
}

/* ---- rows ---------------------------------------------------------------------------------------------- */
/* Point p of a bundle's row. */
static inline REAL *NAME(point)(REAL *z, int64_t p)
{
    return z + 2 * (p - p % LANES) + p % LANES;
}

/* A row into z, zeros behind, or from point L2 on the row again; all zeros without a row. */
static void NAME(enter)(const rows_job *j, const REAL *from, int64_t k1, int64_t count, int64_t sequence,
                        REAL scale, int again, REAL *z)
{
    int64_t n = j->fft->plan.n;
    if (!from || n > j->width) memset(z, 0, (size_t)(2 * n) * sizeof *z);
    for (int64_t s = 0; from && s < j->segments; s++) {
        const REAL *re = from + piece_at(j, s, k1, count, sequence), *im = re + j->own;
        for (int64_t i = 0, p = s * j->own; i < j->own; i++, p++) {
            REAL *to = NAME(point)(z, p);
            to[0] = scale * re[i], to[LANES] = scale * im[i];
            if (!again || p + j->width >= n) continue;
            to = NAME(point)(z, p + j->width);
            to[0] = scale * re[i], to[LANES] = scale * im[i];
        }
    }
}

/* The first L2 points of z, with what is beyond them added if `fold`. */
static void NAME(leave)(const rows_job *j, REAL *z, int fold, REAL scale, int64_t k1, int64_t count,
                        int64_t sequence, int acc, REAL *to)
{
    for (int64_t s = 0; s < j->segments; s++) {
        REAL *re = to + piece_at(j, s, k1, count, sequence), *im = re + j->own;
        for (int64_t i = 0, p = s * j->own; i < j->own; i++, p++) {
            const REAL *v = NAME(point)(z, p);
            REAL a = v[0], b = v[LANES];
            if (fold && p + j->width < j->fft->plan.n) {
                v = NAME(point)(z, p + j->width);
                a += v[0], b += v[LANES];
            }
            re[i] = scale * a + (acc ? re[i] : 0);
            im[i] = scale * b + (acc ? im[i] : 0);
        }
    }
}

/* The bundle of rows q, q + 1, ... of filter f; rows beyond the last are zero. */
static void NAME(enter_bundle)(const rows_job *j, const REAL *from, int64_t k1, int64_t f, int64_t q,
                               int again, REAL *z)
{
    for (int64_t g = 0; g < j->fft->rows; g++, q++) {
        int there = q < j->sharing * j->batch;
        NAME(enter)
        (j, there ? from : NULL, k1, j->channels * j->batch, there ? sequence_of(j, f, q) : 0, 1, again,
         z + 2 * j->fft->plan.n * g);
    }
}

static void NAME(leave_bundle)(const rows_job *j, REAL *z, int fold, int64_t k1, int64_t f, int64_t q,
                               int acc, REAL *to)
{
    for (int64_t g = 0; g < j->fft->rows && q < j->sharing * j->batch; g++, q++) NAME(leave)
    (j, z + 2 * j->fft->plan.n * g, fold, 1, k1, j->channels * j->batch, sequence_of(j, f, q), acc, to);
}

/* The spectrum of a filter's row in every row of the bundle, scaled for the inverse transform and by 1 / N1. */
static void NAME(filter)(const rows_job *j, int64_t k1, int64_t f, REAL *z)
{
    int64_t n = j->fft->plan.n;
    REAL scale = 1 / ((REAL)n * (REAL)(j->rows * j->segments));
    NAME(enter)(j, j->call->in[K].data, k1, j->filters, f, scale, 0, z);
    for (int64_t g = 1; g < j->fft->rows; g++) memcpy(z + 2 * n * g, z, (size_t)(2 * n) * sizeof *z);
    m2i_fft_run(j->fft, z, 1, NULL, NULL, 0);
}

static void NAME(forward)(void *ctx, int64_t begin, int64_t end, int thread)
{
    const rows_job *j = ctx;
    char *scratch = (char *)j->call->workspace + thread * SPECTRA * scratch_bytes(j);
    REAL *k = (REAL *)scratch, *z = (REAL *)(scratch + scratch_bytes(j));
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t k1 = unit / j->filters, f = unit % j->filters;
        NAME(filter)(j, k1, f, k);
        for (int64_t q = 0; q < j->sharing * j->batch; q += j->fft->rows) {
            NAME(enter_bundle)(j, j->call->in[U].data, k1, f, q, 0, z);
            m2i_fft_run(j->fft, z, 1, NAME(times_k), k, 1);
            NAME(leave_bundle)(j, z, 1, k1, f, q, 0, j->call->out[0].data);
        }
    }
}

static void NAME(backward)(void *ctx, int64_t begin, int64_t end, int thread)
{
    const rows_job *j = ctx;
    const m2_call *c = j->call;
    int64_t bytes = scratch_bytes(j), n = j->fft->plan.n;
    char *scratch = (char *)c->workspace + thread * SPECTRA * bytes;
    NAME(spectra) s = {(REAL *)scratch, (REAL *)(scratch + bytes), (REAL *)(scratch + 2 * bytes), NULL};
    if (c->out[DK].data) s.sum = (REAL *)(scratch + 3 * bytes);
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t k1 = unit / j->filters, f = unit % j->filters;
        NAME(filter)(j, k1, f, s.k);
        if (s.sum) memset(s.sum, 0, (size_t)(2 * j->fft->points) * sizeof(REAL));
        for (int64_t q = 0; q < j->sharing * j->batch; q += j->fft->rows) {
            NAME(enter_bundle)(j, c->in[U].data, k1, f, q, 0, s.a);
            NAME(enter_bundle)(j, c->in[DY].data, k1, f, q, 1, s.g);
            m2i_fft_run(j->fft, s.a, 1, NULL, NULL, 0);
            m2i_fft_run(j->fft, s.g, 1, NAME(adjoint), &s, c->out[DU].data != NULL);
            if (c->out[DU].data) NAME(leave_bundle)(j, s.g, 0, k1, f, q, c->acc & 1, c->out[DU].data);
        }
        if (!s.sum) continue;
        m2i_fft_run(j->fft, s.sum, 0, NULL, NULL, 1);
        for (int64_t g = 1; g < j->fft->rows; g++)
            for (int64_t i = 0; i < 2 * n; i++) s.sum[i] += s.sum[2 * n * g + i];
        REAL scale = 1 / ((REAL)n * (REAL)(j->rows * j->segments));
        NAME(leave)(j, s.sum, 0, scale, k1, j->filters, f, c->acc >> DK & 1, c->out[DK].data);
    }
}
#undef VEC
#undef LANES
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_columns = {
    .name = "columns",
    .id = M2_OP_columns,
    .n_in = 3,
    .n_out = 1,
    .optional = 1 << XR | 1 << X0,
    .in_name = {"x", "xr", "x0"},
    .out_name = {"z"},
    .attr_i = {"rows", "width", "at", "own", "length", "out_dtype"},
    .shape = columns_shape,
    .cost = stage_cost,
    .workspace = columns_workspace,
    .run = columns_run,
    .grad = &m2_op_uncolumns,
    .diff_out = 1,
    .diff_in = 7,
    .acc = 1,
    .linear = 7,
};

const m2_op m2_op_uncolumns = {
    .name = "uncolumns",
    .id = M2_OP_uncolumns,
    .n_in = 1,
    .n_out = 3,
    .in_name = {"z"},
    .out_name = {"y", "yr", "y0"},
    .attr_i = {"rows", "width", "at", "own", "length", "out_dtype"},
    .shape = uncolumns_shape,
    .cost = stage_cost,
    .workspace = columns_workspace,
    .run = uncolumns_run,
    .grad = &m2_op_columns,
    .diff_out = 1,
    .diff_in = 1,
    .acc = 7,
    .linear = 1,
};

const m2_op m2_op_cyclic = {
    .name = "cyclic",
    .id = M2_OP_cyclic,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"u", "k"},
    .out_name = {"y"},
    .attr_i = {"share", "segments"},
    .shape = cyclic_shape,
    .cost = cyclic_cost,
    .workspace = cyclic_workspace,
    .run = cyclic_run,
    .grad = &m2_op_cyclic_grad,
    .grad_in = 3,
    .diff_out = 1,
    .diff_in = 3,
    .inplace = {1 + U},
    .linear = 1 << K,
};

const m2_op m2_op_cyclic_grad = {
    .name = "cyclic_grad",
    .id = M2_OP_cyclic_grad,
    .n_in = 3,
    .n_out = 2,
    .in_name = {"u", "k", "dy"},
    .out_name = {"du", "dk"},
    .attr_i = {"share", "segments"},
    .cost = cyclic_grad_cost,
    .workspace = cyclic_workspace,
    .run = cyclic_grad_run,
    .acc = 3,
    .inplace = {[DU] = 1 + DY},
};
#endif
