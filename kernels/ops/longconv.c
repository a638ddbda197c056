/* longconv.c - long convolution, causal or two-sided, with skip and gates, through Monarch DFT stages.
 *
 *   a = u pre;  s = k * a (lags 0, 1, ..) + kr * a (lags -1, -2, ..) + D a;  y = s post
 * Every row is one complex transform of n >= L points (the quarter twist t of kernels/fft.h):
 *     A = DFT(t a),  K = DFT(t c) / n,  s = Re(conj(t) n IDFT(A K)),   c[j] = k[j] - i kr[n - j - 1], c[0] += D.
 * D is one more tap of lag 0, so its gradient is that of lag 0. Backward, with G = DFT(t dy post), and A recomputed:
 *     da = Re(conj(t) n IDFT(G conj(K))),  dc = conj(t) IDFT(sum over rows of G conj(A)),  dD = dk[0] = Re dc[0],
 *     du = da pre,  dpre = da u,  dpost = s dy.
 * s is y / post where y was kept and all of a row's |post| >= M2_LONGCONV_LEAST_GATE; else A K, back.
 * Frequency-sparse: K and the sum over rows lose what is out of the band (kernels/ops.h), on rows of the n given there.
 * Rows may lie in segments, u (S, C, B, l) with L = S l: position t of a row is in segment t / l. That is how an exchange
 * between ranks leaves them, and takes them (parallel/exchange.h).
 * A unit of work is some rows of one filter: its spectrum is computed once per unit, and dc summed there in the
 * frequency domain. Units depend on the shapes alone, so results do not change with the number of threads.
 *
 * Measured (m2 bench conv --device cpu --threads 1; 64 channels, 65,536 tokens, float, one AVX-512 core at 4 GHz):
 * forward 4.3 ms at L = 1024 to 9.8 ms at 65536, 2.7 to 5.2 times FFTW's r2c, product, c2r with zeros to 2L; with
 * backward 10.6 to 26 ms. Bound: the transforms take 60 percent (operations), the rest is entering and leaving rows,
 * limited by the second cache from n = 2048 on. Error 3e-7 (float), 1e-15 (double) up to a million points. */
#ifndef REAL
#include "kernels/base/arena.h"
#include "kernels/fft_cpu.h"
#include "kernels/ops/common.h"

#include <stdio.h>

enum { U, K, KR, D, PRE, POST, Y, DY, N_IN }; /* inputs; from Y on of the gradient */
enum { DU, DK, DKR, DD, DPRE, DPOST };        /* outputs of the gradient */
enum { UNITS = 64, BUNDLES = 4 };             /* filters are cut until there are UNITS, of >= BUNDLES each */

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static int64_t length_of(const m2_desc *u)
{
    return u->shape[u->rank - 1] * (u->rank == 4 ? u->shape[0] : 1);
}

static int longconv_fits(const m2_desc *in)
{
    const m2_desc *u = &in[U], *k = &in[K];
    if ((u->rank != 3 && u->rank != 4) || k->rank != 2) return 0;
    if (k->shape[0] < 1 || u->shape[u->rank - 3] % k->shape[0]) return 0;
    if (k->shape[1] > length_of(u) || k->dtype != m2i_precise(u->dtype)) return 0;
    if (in[KR].rank >= 0 && !(m2_desc_same_shape(&in[KR], k) && in[KR].dtype == k->dtype)) return 0;
    if (in[D].rank >= 0 && !(m2i_is_vector(&in[D], k->shape[0]) && in[D].dtype == k->dtype)) return 0;
    for (int i = PRE; i <= POST; i++)
        if (in[i].rank >= 0 && !(m2_desc_same_shape(&in[i], u) && in[i].dtype == u->dtype)) return 0;
    return 1;
}

static int sparse(const m2_attrs *attrs)
{
    return attrs->f[M2_LONGCONV_BAND] > 0 && attrs->f[M2_LONGCONV_BAND] < 1;
}

static m2_status longconv_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    double band = attrs->f[M2_LONGCONV_BAND];
    if (!(band >= 0 && band <= 1))
        return m2_fail(M2_USAGE, "longconv: band is %g; it is the share of the filters' frequencies that stays, 0 to 1",
                       band);
    if (!longconv_fits(in))
        return m2i_bad_shape(
            &m2_op_longconv, in,
            "u (C, B, L) or (S, C, B, L/S), k (F, Lk) with F dividing C and Lk <= L, kr like k, D (F), "
            "pre and post like u, k, kr and D in f32 (f64 if u is)");
    out[0] = in[U];
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void cost_of(const m2_desc *in, const m2_desc *out, int transforms, int filter_transforms,
                    m2_cost *cost)
{
    m2_op_cost_bytes(NULL, in, out, cost);
    m2_dtype real = m2i_precise(in[U].dtype);
    double points = (double)length_of(&in[U]), rows = (double)m2_desc_count(&in[U]) / points;
    double one = m2i_fft_flops(length_of(&in[U]), real) + 6 * points;
    cost->flops = one * (rows * transforms + (double)in[K].shape[0] * filter_transforms);
}

static void longconv_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    (void)attrs;
    cost_of(in, out, 2, 1, cost);
}

/* What dpost is made of is transformed back. */
static int convolves_again(const m2_desc *in)
{
    return in[POST].rank >= 0 && in[Y].rank < 0;
}

static void longconv_grad_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    (void)attrs;
    cost_of(in, out, convolves_again(in) ? 4 : 3, 2, cost);
}

/* ---- how the work is cut ------------------------------------------------------------------------------- */
enum { SPECTRA = 4 }; /* bundles a thread works in: K, A, G, sum of G conj(A); forward needs K and A */

/* Where the positions of a row are: element i of it at i + (i / segment) jump. */
typedef struct span {
    int64_t length, segment, jump; /* jump 0: one piece */
} span;

typedef struct job {
    const m2_call *call;
    const m2i_fft *fft;
    span row;
    int64_t batch, filters, sharing, taps; /* `sharing` channels have one filter */
    int64_t rows, bundles, parts;          /* of one filter: rows, bundles of rows, units they are cut into */
    double band;                           /* the share of the filter's frequencies that stays; 0: all */
    char *partial[3];                      /* dk, dkr, dD of each part; NULL: straight to the output */
} job;

static m2_status plan(job *j, const m2_attrs *attrs, const m2_desc *u, const m2_desc *k)
{
    int64_t channels = u->shape[u->rank - 3], segment = u->shape[u->rank - 1];
    int variant = (int)attrs->i[M2_LONGCONV_VARIANT];
    j->band = sparse(attrs) ? attrs->f[M2_LONGCONV_BAND] : 0;
    if (j->band > 0)
        M2_TRY(m2i_fft_get_band(m2_fft_band_points(length_of(u)), u->dtype, &j->fft));
    else
        M2_TRY(m2i_fft_get(length_of(u), u->dtype, variant > 0 ? variant - 1 : 0, &j->fft));
    j->batch = u->shape[u->rank - 2];
    j->row = (span){length_of(u), segment, u->rank == 4 ? (channels * j->batch - 1) * segment : 0};
    j->filters = k->shape[0], j->taps = k->shape[1];
    j->sharing = channels / j->filters;
    j->rows = j->sharing * j->batch;
    j->bundles = (j->rows + j->fft->rows - 1) / j->fft->rows;
    int64_t wanted = (UNITS + j->filters - 1) / j->filters, most = j->bundles / BUNDLES;
    j->parts = wanted < most ? wanted : most > 1 ? most : 1;
    return M2_OK;
}

static int64_t partial_width(const job *j, int output) /* dk, dkr, dD of all filters */
{
    return j->filters * (output == 2 ? 1 : j->taps);
}

static int64_t scratch_bytes(const job *j)
{
    return m2_align_up(2 * j->fft->points * m2_dtype_size(j->fft->dtype), M2_ALIGN);
}

static int64_t longconv_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)out;
    job j;
    return plan(&j, attrs, &in[U], &in[K]) == M2_OK ? threads * 2 * scratch_bytes(&j) : 0;
}

static int64_t longconv_grad_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out,
                                       int threads)
{
    (void)out;
    job j;
    if (plan(&j, attrs, &in[U], &in[K]) != M2_OK) return 0;
    int64_t partials = j.parts > 1 ? j.parts * (2 * j.taps + 1) * j.filters : 0;
    return threads * SPECTRA * scratch_bytes(&j) + partials * m2_dtype_size(j.fft->dtype);
}

/* One variant per transform plan. Transform pairs of a call: one per row and half a one per filter; of the gradient, the
 * input's spectrum is half a pair, the way back for dpost (without y) another, and a filter has one. */
static int variants(const m2_attrs *attrs, const m2_desc *in, int threads, m2_variant *list, int most,
                    int gradient)
{
    if (sparse(attrs)) return 0; /* the points are given */
    m2_fft plans[M2I_FFT_CHOICES];
    double seconds[M2I_FFT_CHOICES], length = (double)length_of(&in[U]), filters = (double)in[K].shape[0];
    int count = m2i_fft_choices(length_of(&in[U]), in[U].dtype, plans, seconds);
    double rows = (double)m2_desc_count(&in[U]) / length * (!gradient ? 1 : convolves_again(in) ? 2 : 1.5);
    for (int i = 0; i < count && i < most; i++) {
        int at = snprintf(list[i].name, sizeof list[i].name, "%lld =", (long long)plans[i].n);
        for (int s = 0; s < plans[i].order; s++)
            at += snprintf(list[i].name + at, sizeof list[i].name - (size_t)at, " %d", plans[i].factor[s]);
        list[i].seconds = seconds[i] * (rows + filters * (gradient ? 1 : 0.5)) / threads;
    }
    return count < most ? count : most;
}

static int longconv_variants(const m2_attrs *attrs, const m2_desc *in, int threads, m2_variant *list,
                             int most)
{
    return variants(attrs, in, threads, list, most, 0);
}

static int longconv_grad_variants(const m2_attrs *attrs, const m2_desc *in, int threads, m2_variant *list,
                                  int most)
{
    return variants(attrs, in, threads, list, most, 1);
}

/* Where row q of a filter begins in u, y and the gates: rows of one channel are neighbours. */
static int64_t row_at(const job *j, int64_t filter, int64_t q)
{
    int64_t c = q / j->batch;
    int by_index = j->call->attrs.i[M2_LONGCONV_SHARE] == M2_SHARE_INDEX;
    int64_t channel = by_index ? c * j->filters + filter : filter * j->sharing + c;
    return (channel * j->batch + q % j->batch) * j->row.segment;
}

#define SELF "kernels/ops/longconv.c"
#include "kernels/ops/twice.h"

static m2_status start(job *j, const m2_call *c, m2_dtype *real)
{
    M2_TRY(m2i_check(c, 0, real));
    m2_desc u = m2_tensor_desc(&c->in[U]), k = m2_tensor_desc(&c->in[K]);
    j->call = c;
    return plan(j, &c->attrs, &u, &k);
}

static m2_status longconv_run(const m2_call *c)
{
    job j = {0};
    m2_dtype real;
    M2_TRY(start(&j, c, &real));
    m2i_spread(c, real, M2I_PAIR(forward), j.filters * j.parts, j.row.length * j.rows, &j);
    return M2_OK;
}

static m2_status longconv_grad_run(const m2_call *c)
{
    job j = {0};
    m2_dtype real;
    M2_TRY(start(&j, c, &real));
    char *partial = (char *)c->workspace + c->device->threads * SPECTRA * scratch_bytes(&j);
    for (int i = 0; i < 3 && j.parts > 1; i++) {
        j.partial[i] = partial;
        partial += j.parts * partial_width(&j, i) * m2_dtype_size(real);
    }
    m2i_spread(c, real, M2I_PAIR(backward), j.filters * j.parts, j.row.length * j.rows, &j);
    for (int i = 0; i < 3 && j.parts > 1; i++)
        if (c->out[DK + i].data)
            m2i_fold(c, real, j.partial[i], j.parts, partial_width(&j, i), partial_width(&j, i),
                     c->out[DK + i].data, c->acc >> (DK + i) & 1);
    return M2_OK;
}

#else
#define VEC     NAME(m2i_vec)
#define VEC_ANY NAME(m2i_vec_any)
#define LANES   ((int)(M2I_VECTOR / sizeof(REAL)))
#include "kernels/ops/spectra.h"

/* ---- between rows and transforms ----------------------------------------------------------------------- */
/* LANES elements of which `left` exist; the others are zero, and are not written. */
static inline VEC NAME(get)(const REAL *p, int64_t left)
{
    if (left >= LANES) return *(const VEC_ANY *)p;
    VEC v = {0};
    for (int i = 0; i < left; i++) v[i] = p[i];
    return v;
}

static inline void NAME(put)(REAL *p, int64_t left, VEC v, int acc)
{
    if (acc) v += NAME(get)(p, left);
    if (left >= LANES)
        *(VEC_ANY *)p = v;
    else
        for (int i = 0; i < left; i++) p[i] = v[i];
}

/* LANES elements of a row from position i on. */
static inline VEC NAME(fetch)(const REAL *row, const span *s, int64_t i)
{
    int64_t left = s->length - i;
    if (!s->jump) return NAME(get)(row + i, left);
    int64_t at = i + i / s->segment * s->jump, here = s->segment - i % s->segment;
    if (here >= LANES) return NAME(get)(row + at, left);
    VEC v = {0};
    for (int k = 0; k < LANES && k < left; k++) v[k] = row[i + k + (i + k) / s->segment * s->jump];
    return v;
}

static inline void NAME(store)(REAL *row, const span *s, int64_t i, VEC v, int acc)
{
    int64_t left = s->length - i;
    if (!s->jump) {
        NAME(put)(row + i, left, v, acc);
        return;
    }
    int64_t at = i + i / s->segment * s->jump, here = s->segment - i % s->segment;
    if (here >= LANES) {
        NAME(put)(row + at, left, v, acc);
        return;
    }
    for (int k = 0; k < LANES && k < left; k++) {
        REAL *to = row + i + k + (i + k) / s->segment * s->jump;
        *to = v[k] + (acc ? *to : 0);
    }
}

/* The quarter twist of points [c V, c V + V). */
static inline void NAME(twist)(const m2i_fft *f, int64_t c, VEC *re, VEC *im)
{
    const VEC *low = f->quarter;
    const REAL *high = (const REAL *)f->quarter + 2 * LANES + 2 * c;
    *re = low[0] * high[0] - low[1] * high[1];
    *im = low[0] * high[1] + low[1] * high[0];
}

/* Vector c of z = t a, a a vector of elements. */
static inline void NAME(enter_vector)(const m2i_fft *f, VEC a, int64_t c, REAL *z)
{
    VEC re, im;
    NAME(twist)(f, c, &re, &im);
    ((VEC *)z)[2 * c] = a * re, ((VEC *)z)[2 * c + 1] = a * im;
}

/* z = scale t a gate, a and gate (NULL: 1) rows that lie as s says, and zeros behind. Asks for the next row on the way:
 * it arrives while this one is transformed. */
static void NAME(enter)(const m2i_fft *f, const REAL *a, const REAL *gate, const span *s, REAL scale, REAL *z)
{
    int64_t c = 0, plain = s->jump ? 0 : s->length / LANES; /* vectors that are all there, in one piece */
    for (; c < plain; c++) {
        __builtin_prefetch(a + s->length + c * LANES, 0, 2);
        VEC v = scale * NAME(get)(a + c * LANES, LANES);
        if (gate) v *= NAME(get)(gate + c * LANES, LANES);
        NAME(enter_vector)(f, v, c, z);
    }
    for (; c * LANES < s->length; c++) {
        VEC v = scale * NAME(fetch)(a, s, c * LANES);
        if (gate) v *= NAME(fetch)(gate, s, c * LANES);
        NAME(enter_vector)(f, v, c, z);
    }
    memset(z + 2 * c * LANES, 0, (size_t)(2 * (f->plan.n - c * LANES)) * sizeof *z);
}

/* Re(conj(t) z) of points [c V, c V + V) of a row. */
static inline VEC NAME(leave)(const m2i_fft *f, const REAL *z, int64_t c)
{
    VEC re, im;
    NAME(twist)(f, c, &re, &im);
    return re * ((const VEC *)z)[2 * c] + im * ((const VEC *)z)[2 * c + 1];
}

static void NAME(enter_bundle)(const job *j, int64_t filter, int64_t bundle, const REAL *a, const REAL *gate,
                               REAL *z)
{
    int64_t n = j->fft->plan.n;
    for (int64_t g = 0; g < j->fft->rows; g++) {
        int64_t q = bundle * j->fft->rows + g, at = row_at(j, filter, q);
        if (q < j->rows)
            NAME(enter)(j->fft, a + at, gate ? gate + at : NULL, &j->row, 1, z + 2 * n * g);
        else
            memset(z + 2 * n * g, 0, (size_t)(2 * n) * sizeof *z);
    }
}

/* ---- the filter and its gradient ----------------------------------------------------------------------- */
static int64_t NAME(reverse_taps)(const job *j) /* lag -L touches nothing */
{
    return j->taps < j->row.length ? j->taps : j->row.length - 1;
}

/* What is out of the band goes. Whole blocks of a permuted spectrum have all frequencies, so no stage could be left out. */
static void NAME(cut)(const job *j, REAL *z)
{
    const m2i_fft *f = j->fft;
    for (int64_t p = 0; p < f->plan.n; p++)
        if (!m2_fft_in_band(f->frequency[p], f->plan.n, j->band)) {
            REAL *at = z + 2 * (p - p % LANES) + p % LANES;
            at[0] = at[LANES] = 0;
        }
}

/* K: every row of the bundle is the filter's spectrum over n. */
static void NAME(filter)(const job *j, int64_t filter, REAL *z)
{
    const m2_call *c = j->call;
    const REAL *k = (const REAL *)c->in[K].data + filter * j->taps, *d = c->in[D].data, *kr = c->in[KR].data;
    const m2i_fft *f = j->fft;
    int64_t n = f->plan.n;
    span taps = {.length = j->taps};
    REAL scale = 1 / (REAL)n;
    NAME(enter)(f, k, NULL, &taps, scale, z);
    if (d) z[0] += scale * d[filter];
    for (int64_t i = 0; kr && i < NAME(reverse_taps)(j); i++) {
        int64_t p = n - 1 - i, lane = p % LANES;
        VEC re, im;
        NAME(twist)(f, p / LANES, &re, &im);
        REAL *at = z + 2 * (p - lane) + lane, v = scale * kr[filter * j->taps + i];
        at[0] += im[lane] * v;
        at[LANES] -= re[lane] * v;
    }
    for (int64_t g = 1; g < f->rows; g++) memcpy(z + 2 * n * g, z, (size_t)(2 * n) * sizeof *z);
    m2i_fft_run(f, z, 1, NULL, NULL, 0);
    if (j->band > 0) NAME(cut)(j, z);
}

static REAL *NAME(target)(const job *j, int output, int64_t filter, int64_t part, int *acc)
{
    REAL *base = (REAL *)j->partial[output];
    *acc = base ? 0 : j->call->acc >> (DK + output) & 1;
    if (!j->call->out[DK + output].data) return NULL;
    if (base)
        base += part * partial_width(j, output);
    else
        base = j->call->out[DK + output].data;
    return base + filter * (output == 2 ? 1 : j->taps);
}

/* dc = conj(t) IDFT(sum), summed over the rows of the bundle. */
static void NAME(filter_gradient)(const job *j, int64_t filter, int64_t part, REAL *z)
{
    const m2i_fft *f = j->fft;
    int64_t n = f->plan.n;
    int acc_k, acc_kr, acc_d;
    REAL *dk = NAME(target)(j, 0, filter, part, &acc_k), *dkr = NAME(target)(j, 1, filter, part, &acc_kr);
    REAL *dd = NAME(target)(j, 2, filter, part, &acc_d), scale = 1 / (REAL)n;
    if (j->band > 0) NAME(cut)(j, z);
    m2i_fft_run(f, z, 0, NULL, NULL, 1);
    for (int64_t g = 1; g < f->rows; g++)
        for (int64_t i = 0; i < 2 * n; i++) z[i] += z[2 * n * g + i];
    for (int64_t c = 0; dk && c * LANES < j->taps; c++)
        NAME(put)(dk + c * LANES, j->taps - c * LANES, scale * NAME(leave)(f, z, c), acc_k);
    if (dd) *dd = z[0] * scale + (acc_d ? *dd : 0);
    for (int64_t i = 0; dkr && i < j->taps; i++) {
        int64_t p = n - 1 - i, lane = p % LANES;
        VEC re, im;
        NAME(twist)(f, p / LANES, &re, &im);
        const REAL *at = z + 2 * (p - lane) + lane;
        REAL v = i < NAME(reverse_taps)(j) ? scale * (im[lane] * at[0] - re[lane] * at[LANES]) : 0;
        dkr[i] = v + (acc_kr ? dkr[i] : 0);
    }
}

/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(forward)(void *ctx, int64_t begin, int64_t end, int thread)
{
    const job *j = ctx;
    const m2_call *call = j->call;
    char *scratch = (char *)call->workspace + thread * 2 * scratch_bytes(j);
    REAL *k = (REAL *)scratch, *z = (REAL *)(scratch + scratch_bytes(j)), *y = call->out[0].data;
    const REAL *post = call->in[POST].data;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t filter = unit / j->parts, part = unit % j->parts;
        NAME(filter)(j, filter, k);
        for (int64_t b = j->bundles * part / j->parts; b < j->bundles * (part + 1) / j->parts; b++) {
            NAME(enter_bundle)(j, filter, b, call->in[U].data, call->in[PRE].data, z);
            m2i_fft_run(j->fft, z, 1, NAME(times_k), k, 1);
            for (int64_t g = 0; g < j->fft->rows && b * j->fft->rows + g < j->rows; g++) {
                int64_t at = row_at(j, filter, b * j->fft->rows + g);
                for (int64_t c = 0; c * LANES < j->row.length; c++) {
                    VEC s = NAME(leave)(j->fft, z + 2 * j->fft->plan.n * g, c);
                    if (post) s *= NAME(fetch)(post + at, &j->row, c * LANES);
                    NAME(store)(y + at, &j->row, c * LANES, s, 0);
                }
            }
        }
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */
/* Whether y / post is the convolution in every row of a bundle. */
static int NAME(divides)(const job *j, int64_t filter, int64_t bundle)
{
    const span *s = &j->row;
    const REAL *post = j->call->in[POST].data, least = (REAL)M2_LONGCONV_LEAST_GATE;
    int64_t first = bundle * j->fft->rows, small = !j->call->in[Y].data;
    for (int64_t q = first; q < first + j->fft->rows && q < j->rows && !small; q++)
        for (int64_t i = 0; i < s->length; i += s->segment) {
            const REAL *g = post + row_at(j, filter, q) + i + i / s->segment * s->jump;
            for (int64_t k = 0; k < s->segment; k++) small += !(g[k] >= least || g[k] <= -least);
        }
    return !small;
}

/* du, dpre, dpost of a row from da and s (both before `leave`; s NULL: y / post); reads before it writes, so that any may be
 * in place. */
static void NAME(row_gradients)(const job *j, int64_t at, const REAL *da, const REAL *s)
{
    const m2_call *call = j->call;
    const REAL *u = call->in[U].data, *pre = call->in[PRE].data, *dy = call->in[DY].data;
    const REAL *y = call->in[Y].data, *post = call->in[POST].data;
    REAL *du = call->out[DU].data, *dpre = call->out[DPRE].data, *dpost = call->out[DPOST].data;
    const span *r = &j->row;
    for (int64_t c = 0, i = 0; i < r->length; i = ++c * LANES) {
        VEC a = {0}, b = {0}, p = {0};
        if (du || dpre) a = b = NAME(leave)(j->fft, da, c);
        if (du && pre) a *= NAME(fetch)(pre + at, r, i);
        if (dpre) b *= NAME(fetch)(u + at, r, i);
        if (dpost && s) p = NAME(leave)(j->fft, s, c);
        if (dpost && !s) p = NAME(fetch)(y + at, r, i) / NAME(fetch)(post + at, r, i);
        if (dpost) p *= NAME(fetch)(dy + at, r, i);
        if (du) NAME(store)(du + at, r, i, a, call->acc >> DU & 1);
        if (dpre) NAME(store)(dpre + at, r, i, b, call->acc >> DPRE & 1);
        if (dpost) NAME(store)(dpost + at, r, i, p, call->acc >> DPOST & 1);
    }
}

static void NAME(backward)(void *ctx, int64_t begin, int64_t end, int thread)
{
    const job *j = ctx;
    const m2_call *call = j->call;
    const m2i_fft *f = j->fft;
    int64_t bytes = scratch_bytes(j), n = f->plan.n;
    char *scratch = (char *)call->workspace + thread * SPECTRA * bytes;
    NAME(spectra) s = {(REAL *)scratch, (REAL *)(scratch + bytes), (REAL *)(scratch + 2 * bytes), NULL};
    int want_a = call->out[DU].data || call->out[DPRE].data, want_s = call->out[DPOST].data != NULL;
    if (call->out[DK].data || call->out[DKR].data || call->out[DD].data)
        s.sum = (REAL *)(scratch + 3 * bytes);
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t filter = unit / j->parts, part = unit % j->parts;
        NAME(filter)(j, filter, s.k);
        if (s.sum) memset(s.sum, 0, (size_t)(2 * f->points) * sizeof(REAL));
        for (int64_t b = j->bundles * part / j->parts; b < j->bundles * (part + 1) / j->parts; b++) {
            NAME(enter_bundle)(j, filter, b, call->in[U].data, call->in[PRE].data, s.a);
            NAME(enter_bundle)(j, filter, b, call->in[DY].data, call->in[POST].data, s.g);
            m2i_fft_run(f, s.a, 1, NULL, NULL, 0);
            m2i_fft_run(f, s.g, 1, NAME(adjoint), &s, want_a);
            int divides = want_s && NAME(divides)(j, filter, b);
            if (want_s && !divides) m2i_fft_run(f, s.a, 0, NAME(times_k), s.k, 1);
            for (int64_t g = 0; g < f->rows && b * f->rows + g < j->rows; g++)
                NAME(row_gradients)(j, row_at(j, filter, b * f->rows + g), s.g + 2 * n * g, divides ? NULL : s.a + 2 * n * g);
        }
        if (s.sum) NAME(filter_gradient)(j, filter, part, s.sum);
    }
}
#undef VEC
#undef VEC_ANY
#undef LANES
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_longconv = {
    .name = "longconv",
    .id = M2_OP_longconv,
    .n_in = 6,
    .n_out = 1,
    .optional = 1 << KR | 1 << D | 1 << PRE | 1 << POST,
    .in_name = {"u", "k", "kr", "D", "pre", "post"},
    .out_name = {"y"},
    .attr_i = {"share", "variant"},
    .attr_f = {"band"},
    .shape = longconv_shape,
    .cost = longconv_cost,
    .workspace = longconv_workspace,
    .variants = longconv_variants,
    .run = longconv_run,
    .grad = &m2_op_longconv_grad,
    .grad_in = 63,
    .grad_out = 1,
    .spare = 1,
    .diff_out = 1,
    .diff_in = 63,
    .inplace = {1 + U},
    .linear = 1 << K | 1 << KR | 1 << D,
};

const m2_op m2_op_longconv_grad = {
    .name = "longconv_grad",
    .id = M2_OP_longconv_grad,
    .n_in = 8,
    .n_out = 6,
    .optional = 1 << KR | 1 << D | 1 << PRE | 1 << POST | 1 << Y,
    .in_name = {"u", "k", "kr", "D", "pre", "post", "y", "dy"},
    .out_name = {"du", "dk", "dkr", "dD", "dpre", "dpost"},
    .attr_i = {"share", "variant"},
    .attr_f = {"band"},
    .cost = longconv_grad_cost,
    .workspace = longconv_grad_workspace,
    .variants = longconv_grad_variants,
    .run = longconv_grad_run,
    .acc = 63,
    .inplace = {[DU] = 1 + DY, [DPRE] = 1 + PRE, [DPOST] = 1 + POST},
};
#endif
