/* longconv_grid [--device cpu|cuda] [--full] [--memory GIB] [--threads N] [--part I/N]
 *
 * The long convolution over a grid of lengths, batch sizes and channels, in every precision of the device, with its forms
 * (gates, negative lags, shared filters, short and frequency-sparse filters) and variants (kernels/op.h) in turn. At each point:
 *   - outputs and input gradients of some whole rows against float64: sums for short rows, for long ones a Fourier
 *     transform of this file, itself compared with the sums; and two outputs of every other row against their sums;
 *   - causality: a change of all inputs from t on changes no output before t;
 *   - gradients: with y linear in each of u, (k, kr, D), pre, post,  <dy, J x> = <J' dy, x> for x the input itself and for
 *     x = J' dy. dy is y plus noise, so that both sides are sums of squares: an error cannot hide in cancellation.
 * Gradients of gated points take y in every other turn, and half of these have rows with a gate of zero.
 * By default points are few and small; --full (or M2_CONV_GRID=full) takes all that fit into --memory (8 GiB) and says which
 * do not. --part I/N takes every N-th point from number I on, so that N processes share the grid: the float64 side is slow. */
#include "kernels/base/rng.h"
#include "kernels/ops.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { U, K, KR, D, PRE, POST, Y, DY, SLOTS }; /* inputs, as the gradient op has them */
enum { FULL_POINTS = 1 << 18, BY_SUMS = 256, SPOTS = 2 };

static const int64_t lengths[] = {1,    2,    3,     100,   127,   1000,   1024,    2048,   3000,
                                  4096, 8192, 16384, 32768, 65536, 262144, 1048576, 4194304};
static const int64_t batches[] = {1, 2, 5}, widths[] = {1, 7, 64, 768};
enum { LENGTHS = sizeof lengths / sizeof *lengths, BATCHES = 3, WIDTHS = 4 };

static const struct form {
    const char *name;
    unsigned present;
    int share, by; /* channels per filter: 1, or one of 7 and 8 that divides them */
    int part;      /* taps: this many thirds of L */
    double band;   /* share of the frequencies that filters keep; 0: all */
} forms[] = {
    {"causal", 0, 0, M2_SHARE_HEAD, 3, 0},
    {"gated, shared by head, two thirds of the taps", 1 << D | 1 << PRE | 1 << POST, 1, M2_SHARE_HEAD, 2, 0},
    {"two-sided, shared by index", 1 << KR | 1 << D, 1, M2_SHARE_INDEX, 3, 0},
    {"two-sided, gated, a third of the taps", 1 << KR | 1 << D | 1 << PRE | 1 << POST, 0, M2_SHARE_HEAD, 1,
     0},
    {"gated, half of the frequencies, two thirds of the taps", 1 << D | 1 << PRE | 1 << POST, 1,
     M2_SHARE_HEAD, 2, 0.5},
    {"two-sided, a tenth of the frequencies", 1 << KR | 1 << D, 0, M2_SHARE_HEAD, 3, 0.1},
};
enum { FORMS = sizeof forms / sizeof *forms };

static const struct precision {
    m2_dtype t, p;
    double error;    /* allowed, relative L2 */
    double rounding; /* of one output of size 1, for causality: relative to itself, and to all outputs */
    double mixing;
} precisions[] = {
    {M2_F64, M2_F64, 1e-13, 0, 1e-13},
    {M2_F32, M2_F32, 1e-5, 0, 1e-5},
    {M2_BF16, M2_F32, 5e-3, 1.0 / 128, 1.0 / 512}, /* transforms may be f16 inside */
};

static m2_device *device;
static double memory = 8;
static int full;
static int process = 0, processes = 1, numbers = 0; /* points are numbered as they come, whoever takes them */
static struct { /* the largest seen, per precision */
    double y, du, adjoint, causal;
    int points;
} worst[3];

/* ---- values ------------------------------------------------------------------------------------------- */
static double get(const void *p, m2_dtype t, int64_t i)
{
    return t == M2_F64   ? ((const double *)p)[i]
           : t == M2_F32 ? (double)((const float *)p)[i]
                         : (double)m2_bf16_to_f32(((const uint16_t *)p)[i]);
}

static void set(void *p, m2_dtype t, int64_t i, double v)
{
    if (t == M2_F64)
        ((double *)p)[i] = v;
    else if (t == M2_F32)
        ((float *)p)[i] = (float)v;
    else
        ((uint16_t *)p)[i] = m2_bf16_from_f32((float)v);
}

static double noise(int stream, int64_t i) /* in (-1, 1), variance 1/3 */
{
    return (double)(int64_t)m2_rng_mix((uint64_t)stream << 48 ^ (uint64_t)i) / 9223372036854775808.0;
}

/* ---- one convolution, its tensors here and on the device ----------------------------------------------- */
typedef struct conv {
    const struct form *form;
    const struct precision *prec;
    int64_t c, b, l, filters, taps;
    int64_t made;                          /* sparse: the filter whose taps are in `sparse` */
    double *sparse;                        /* lags 0 ... L - 1, then -1, -2, ... */
    int turn;                              /* the number of this point: all variants get their turn */
    m2_desc desc[SLOTS];                   /* of inputs; gradients and y are like them */
    void *in[SLOTS], *y, *before, *out[Y]; /* here; out[s]: gradient of input s */
    void *there_in[SLOTS], *there_y, *there_out[Y];
} conv;

static int has(const conv *v, int slot)
{
    return slot == U || slot == K || slot == DY || (v->form->present >> slot & 1);
}

static int64_t count(const conv *v, int slot)
{
    return m2_desc_count(&v->desc[slot]);
}

static void must(m2_status st)
{
    if (st != M2_OK) printf("%s\n", m2_message());
    CU_ASSERT_FATAL(st == M2_OK);
}

static void move(void *to, const void *from, const m2_desc *d)
{
    must(device->api->copy(device, to, from, m2_desc_bytes(d), NULL));
    must(device->api->stream_sync(device, NULL));
}

static void make_tensor(const m2_desc *d, void **here, void **there)
{
    *here = malloc((size_t)m2_desc_bytes(d) + 1);
    CU_ASSERT_FATAL(*here != NULL);
    must(device->api->alloc(device, M2_MEM_DEVICE, m2_desc_bytes(d), there));
}

static void fill(conv *v, int slot)
{
    double size = slot == K || slot == KR ? sqrt(3.0 / (double)v->taps) : 1; /* outputs are of size 1 */
    for (int64_t i = 0; i < count(v, slot); i++)
        set(v->in[slot], v->desc[slot].dtype, i, size * noise(slot + 1, i));
    move(v->there_in[slot], v->in[slot], &v->desc[slot]);
}

static void make(conv *v)
{
    int64_t share = !v->form->share ? 1 : v->c % 8 == 0 ? 8 : v->c % 7 == 0 ? 7 : 1;
    v->filters = v->c / share;
    v->taps = (v->l * v->form->part + 2) / 3;
    for (int s = 0; s < SLOTS; s++) {
        v->desc[s] = s == K || s == KR ? m2_desc_make(v->prec->p, "CL", v->filters, v->taps)
                     : s == D          ? m2_desc_make(v->prec->p, "C", v->filters)
                                       : m2_desc_make(v->prec->t, "CBL", v->c, v->b, v->l);
        if (!has(v, s)) continue;
        make_tensor(&v->desc[s], &v->in[s], &v->there_in[s]);
        if (s < Y) make_tensor(&v->desc[s], &v->out[s], &v->there_out[s]);
        if (s < Y) fill(v, s);
    }
    if (has(v, POST) && v->turn % 4 == 3) {
        for (int64_t row = 0; row < v->c * v->b; row += 3)
            set(v->in[POST], v->prec->t, row * v->l + (int64_t)(m2_rng_mix((uint64_t)row) % (uint64_t)v->l), 0);
        move(v->there_in[POST], v->in[POST], &v->desc[POST]);
    }
    make_tensor(&v->desc[U], &v->y, &v->there_y);
    v->before = malloc((size_t)m2_desc_bytes(&v->desc[U]));
    CU_ASSERT_FATAL(v->before != NULL);
}

static void destroy(conv *v)
{
    for (int s = 0; s < SLOTS; s++) {
        device->api->free(device, M2_MEM_DEVICE, v->there_in[s]);
        free(v->in[s]);
        if (s >= Y) continue;
        device->api->free(device, M2_MEM_DEVICE, v->there_out[s]);
        free(v->out[s]);
    }
    device->api->free(device, M2_MEM_DEVICE, v->there_y);
    free(v->y);
    free(v->before);
    free(v->sparse);
}

/* Runs the op, or its gradient; inputs in mask `swapped` are their gradients. Results come back here. */
static void run(conv *v, int gradient, unsigned swapped)
{
    const m2_op *op = gradient ? &m2_op_longconv_grad : &m2_op_longconv;
    m2_call call = {.op = op, .n_in = op->n_in, .n_out = op->n_out, .device = device};
    m2_desc in[M2_MAX_IN], out[M2_MAX_OUT];
    call.attrs.i[M2_LONGCONV_SHARE] = v->form->by;
    call.attrs.f[M2_LONGCONV_BAND] = v->form->band;
    for (int i = 0; i < M2_MAX_IN; i++) {
        in[i] = i < op->n_in && has(v, i) ? v->desc[i] : m2_desc_none();
        if (in[i].rank >= 0)
            call.in[i] = m2_tensor_make(&in[i], swapped >> i & 1 ? v->there_out[i] : v->there_in[i]);
    }
    if (gradient && has(v, POST) && v->turn % 2) {
        in[Y] = v->desc[Y];
        call.in[Y] = m2_tensor_make(&in[Y], v->there_y);
    }
    for (int j = 0; j < M2_MAX_OUT; j++) {
        int there = j < op->n_out && has(v, j);
        out[j] = there ? v->desc[j] : m2_desc_none();
        if (there) call.out[j] = m2_tensor_make(&out[j], gradient ? v->there_out[j] : v->there_y);
    }
    m2_variant list[16];
    int variants = device->api->variants(device, op, &call.attrs, in, list, 16);
    call.attrs.i[M2_LONGCONV_VARIANT] = v->turn % (variants + 1);
    call.workspace_bytes = device->api->workspace(device, op, &call.attrs, in, out);
    must(device->api->alloc(device, M2_MEM_DEVICE, call.workspace_bytes, &call.workspace));
    m2_run_fn fn = device->api->lookup(device, op);
    CU_ASSERT_FATAL(fn != NULL);
    must(fn(&call));
    for (int j = 0; j < op->n_out; j++)
        if (out[j].rank >= 0) move(gradient ? v->out[j] : v->y, call.out[j].data, &out[j]);
    device->api->free(device, M2_MEM_DEVICE, call.workspace);
}

/* ---- float64 ------------------------------------------------------------------------------------------- */
static int64_t filter_of(const conv *v, int64_t channel)
{
    return v->form->by == M2_SHARE_INDEX ? channel % v->filters : channel / (v->c / v->filters);
}

static double input(const conv *v, int slot, int64_t at) /* 1 for a gate that is not there */
{
    return has(v, slot) ? get(v->in[slot], v->prec->t, at) : 1;
}

static double weight(conv *v, int64_t f, int64_t lag);

static double sum_at(conv *v, int64_t row, int64_t t) /* y of row at t */
{
    double s = 0;
    int64_t first = t - v->taps + 1, last = has(v, KR) ? t + v->taps : t;
    if (first > t) first = t; /* D, if there are no taps to speak of */
    for (int64_t j = first < 0 ? 0 : first; j <= last && j < v->l; j++)
        s += weight(v, filter_of(v, row / v->b), t - j) * input(v, U, row * v->l + j) *
             input(v, PRE, row * v->l + j);
    return s * input(v, POST, row * v->l + t);
}

/* In place, n a power of two; `root` has w_n^i for i < n / 2. The spectrum is in no order that has a name, which the
 * inverse undoes. */
static void fourier(int64_t n, int64_t step, double (*z)[2], double (*root)[2], int inverse)
{
    int64_t h = n / 2;
    if (n == 1) return;
    for (int part = 0; inverse && part < 2; part++) fourier(h, 2 * step, z + part * h, root, 1);
    for (int64_t i = 0; i < h; i++) {
        double c = root[i * step][0], s = inverse ? -root[i * step][1] : root[i * step][1];
        double ax = z[i][0], ay = z[i][1], bx = z[i + h][0], by = z[i + h][1];
        if (inverse) {
            double x = bx * c - by * s, y = bx * s + by * c;
            z[i][0] = ax + x, z[i][1] = ay + y, z[i + h][0] = ax - x, z[i + h][1] = ay - y;
        } else {
            double x = ax - bx, y = ay - by;
            z[i][0] = ax + bx, z[i][1] = ay + by, z[i + h][0] = x * c - y * s, z[i + h][1] = x * s + y * c;
        }
    }
    for (int part = 0; !inverse && part < 2; part++) fourier(h, 2 * step, z + part * h, root, 0);
}

static void roots(int64_t n, double (*root)[2])
{
    for (int64_t i = 0; i < n / 2; i++) {
        double angle = 6.283185307179586476925 * (double)i / (double)n;
        root[i][0] = cos(angle), root[i][1] = -sin(angle);
    }
}

static double tap(const conv *v, int64_t f, int64_t lag) /* as given */
{
    double skip = lag == 0 && has(v, D) ? get(v->in[D], v->prec->p, f) : 0;
    int64_t m = lag < 0 ? -lag - 1 : lag;
    if (m >= v->taps || (lag < 0 && (!has(v, KR) || m == v->l - 1))) return skip; /* lag -L reaches nothing */
    return skip + get(v->in[lag < 0 ? KR : K], v->prec->p, f * v->taps + m);
}

/* The filter without the frequencies that a sparse one lacks, by the definition in kernels/ops.h. */
static void make_sparse(conv *v, int64_t f)
{
    int64_t n = 256, bits = 8;
    while (n < v->l) n *= 2, bits++;
    double(*c)[2] = malloc((size_t)n * sizeof *c), (*root)[2] = malloc((size_t)n / 2 * sizeof *root);
    if (!v->sparse) v->sparse = malloc((size_t)(2 * v->l) * sizeof *v->sparse);
    CU_ASSERT_FATAL(c && root && v->sparse);
    for (int64_t i = 0; i < n; i++) {
        double x = tap(v, f, i), y = -tap(v, f, i - n),
               angle = 6.283185307179586476925 * (double)i / (double)(4 * n);
        c[i][0] = x * cos(angle) - y * sin(angle), c[i][1] = x * sin(angle) + y * cos(angle);
    }
    roots(n, root);
    fourier(n, 1, c, root, 0);
    for (int64_t p = 0; p < n; p++) {
        int64_t k = 0;
        for (int b = 0; b < bits; b++) k |= (p >> b & 1) << (bits - 1 - b); /* its order: bits reversed */
        double turn = ((double)k - 0.25) / (double)n;
        if (fabs(turn - rint(turn)) > v->form->band / 2) c[p][0] = c[p][1] = 0;
    }
    fourier(n, 1, c, root, 1);
    for (int64_t i = 0; i < n; i++) {
        double angle = 6.283185307179586476925 * (double)i / (double)(4 * n);
        double x = (c[i][0] * cos(angle) + c[i][1] * sin(angle)) / (double)n;
        double y = (c[i][1] * cos(angle) - c[i][0] * sin(angle)) / (double)n;
        if (i < v->l) v->sparse[i] = x;
        if (n - 1 - i < v->l) v->sparse[v->l + n - 1 - i] = -y;
    }
    v->made = f;
    free(c);
    free(root);
}

static double weight(conv *v, int64_t f, int64_t lag)
{
    if (v->form->band == 0) return tap(v, f, lag);
    if (v->made != f) make_sparse(v, f);
    return lag < 0 ? v->sparse[v->l - lag - 1] : v->sparse[lag];
}

/* s of a row, y = s post, and da: the same filter applied to the reversed dy post, reversed. One goes as the real part, the
 * other as the imaginary part: the filter is real. */
static void by_fourier(conv *v, int64_t row, double *sum, double *da)
{
    int64_t n = 2, l = v->l, f = filter_of(v, row / v->b);
    while (n < 2 * l) n *= 2;
    double(*z)[2] = calloc((size_t)n, sizeof *z), (*k)[2] = calloc((size_t)n, sizeof *k);
    double(*root)[2] = malloc((size_t)n / 2 * sizeof *root);
    CU_ASSERT_FATAL(z && k && root);
    roots(n, root);
    for (int64_t i = 0; i < l; i++) {
        int64_t at = row * l + i, back = row * l + l - 1 - i;
        z[i][0] = input(v, U, at) * input(v, PRE, at);
        z[i][1] = input(v, DY, back) * input(v, POST, back);
        k[i][0] = weight(v, f, i);
        if (i > 0) k[n - i][0] = weight(v, f, -i);
    }
    fourier(n, 1, z, root, 0);
    fourier(n, 1, k, root, 0);
    for (int64_t i = 0; i < n; i++) {
        double re = z[i][0] * k[i][0] - z[i][1] * k[i][1];
        z[i][1] = z[i][0] * k[i][1] + z[i][1] * k[i][0];
        z[i][0] = re;
    }
    fourier(n, 1, z, root, 1);
    for (int64_t i = 0; i < l; i++) {
        sum[i] = z[i][0] / (double)n;
        da[l - 1 - i] = z[i][1] / (double)n;
    }
    free(z);
    free(k);
    free(root);
}

static void by_sums(conv *v, int64_t row, double *sum, double *da)
{
    int64_t l = v->l, f = filter_of(v, row / v->b), at = row * l;
    for (int64_t t = 0; t < l; t++) sum[t] = da[t] = 0;
    for (int64_t t = 0; t < l; t++)
        for (int64_t j = 0; j < l; j++) {
            double w = weight(v, f, t - j);
            sum[t] += w * input(v, U, at + j) * input(v, PRE, at + j);
            da[j] += w * input(v, DY, at + t) * input(v, POST, at + t);
        }
}

/* ---- what must hold ------------------------------------------------------------------------------------ */
static void expect(const conv *v, const char *what, double error, double allowed, double *largest)
{
    if (error > *largest) *largest = error;
    int good = error <= allowed; /* NaN is not */
    if (!good)
        printf("  L %lld, B %lld, %lld channels, %s, %s: %s is off by %.3g, allowed are %.1e\n",
               (long long)v->l, (long long)v->b, (long long)v->c, m2_dtype_name(v->prec->t), v->form->name,
               what, error, allowed);
    CU_ASSERT(good);
}

typedef struct distance {
    double wrong, size;
} distance;

static void add(distance *d, double got, double want)
{
    d->wrong += (got - want) * (got - want);
    d->size += want * want;
}

static double relative(distance d)
{
    return d.size > 0 ? sqrt(d.wrong / d.size) : sqrt(d.wrong);
}

static void compare_row(conv *v, int64_t row, distance *y, distance *du, distance *dpre, distance *dpost)
{
    double *sum = malloc(sizeof *sum * (size_t)v->l), *da = malloc(sizeof *da * (size_t)v->l);
    CU_ASSERT_FATAL(sum && da);
    (v->l <= BY_SUMS ? by_sums : by_fourier)(v, row, sum, da);
    for (int64_t i = 0; i < v->l; i++) {
        int64_t at = row * v->l + i;
        add(y, get(v->y, v->prec->t, at), sum[i] * input(v, POST, at));
        add(du, get(v->out[U], v->prec->t, at), da[i] * input(v, PRE, at));
        if (has(v, PRE)) add(dpre, get(v->out[PRE], v->prec->t, at), da[i] * input(v, U, at));
        if (has(v, POST)) add(dpost, get(v->out[POST], v->prec->t, at), sum[i] * input(v, DY, at));
    }
    free(sum);
    free(da);
}

/* Some whole rows, the first and the last among them, and spots of all others. */
static void compare(conv *v, int which)
{
    int64_t rows = v->c * v->b, whole = FULL_POINTS / v->l > 0 ? FULL_POINTS / v->l : 1, next = 0;
    distance y = {0}, spots = {0}, du = {0}, dpre = {0}, dpost = {0};
    if (v->l <= BY_SUMS) whole = FULL_POINTS / 16 / v->l;
    if (whole > rows) whole = rows;
    for (int64_t row = 0; row < rows; row++) {
        if (next < whole && row == (whole > 1 ? next * (rows - 1) / (whole - 1) : 0)) {
            compare_row(v, row, &y, &du, &dpre, &dpost);
            next++;
            continue;
        }
        for (int s = 0; s < SPOTS && v->form->band == 0; s++) {
            int64_t t = (int64_t)(m2_rng_mix((uint64_t)(row * SPOTS + s)) % (uint64_t)v->l);
            add(&spots, get(v->y, v->prec->t, row * v->l + t), sum_at(v, row, t));
        }
    }
    expect(v, "y", relative(y), v->prec->error, &worst[which].y);
    expect(v, "y of some positions", relative(spots), v->prec->error, &worst[which].y);
    expect(v, "du", relative(du), v->prec->error, &worst[which].du);
    expect(v, "dpre", relative(dpre), v->prec->error, &worst[which].du);
    expect(v, "dpost", relative(dpost), v->prec->error, &worst[which].du);
}

/* v->y is of the inputs as they are; leaves it so. */
static void causality(conv *v, int which)
{
    m2_dtype t = v->prec->t;
    int64_t rows = v->c * v->b, n = count(v, U),
            from = 1 + (int64_t)(m2_rng_mix((uint64_t)v->l) % (uint64_t)v->l);
    double size = 0, change = 0;
    if (has(v, KR) || v->form->band > 0 || from >= v->l) return;
    for (int64_t i = 0; i < n; i++)
        if (i % v->l >= from) set(v->in[U], t, i, noise(99, i));
    move(v->there_in[U], v->in[U], &v->desc[U]);
    memcpy(v->before, v->y, (size_t)m2_desc_bytes(&v->desc[U]));
    run(v, 0, 0);
    for (int64_t i = 0; i < n; i++) size += pow(get(v->before, t, i), 2);
    size = sqrt(size / (double)n);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = row * v->l; i < row * v->l + from; i++) {
            double old = get(v->before, t, i), d = fabs(get(v->y, t, i) - old);
            change = fmax(change, (d - v->prec->rounding * fabs(old)) / size);
        }
    memcpy(v->y, v->before, (size_t)m2_desc_bytes(&v->desc[U]));
    move(v->there_y, v->y, &v->desc[U]);
    fill(v, U);
    expect(v, "an output before a change", change, 8 * v->prec->mixing, &worst[which].causal);
}

static double inner(const conv *v, int slot, const void *a, const void *b)
{
    m2_dtype t = v->desc[slot].dtype;
    int64_t n = count(v, slot);
    double s = 0;
    for (int64_t i = 0; i < n;) { /* in pieces: a single sum of millions rounds more than what is tested */
        double piece = 0;
        for (int64_t end = i + 4096 < n ? i + 4096 : n; i < end; i++) piece += get(a, t, i) * get(b, t, i);
        s += piece;
    }
    return s;
}

static void adjoints(conv *v, int which)
{
    static const struct {
        const char *name;
        unsigned slots;
    } linear[] = {{"adjoint in u", 1 << U},
                  {"adjoint in k, kr, D", 1 << K | 1 << KR | 1 << D},
                  {"adjoint in pre", 1 << PRE},
                  {"adjoint in post", 1 << POST}};
    double left = inner(v, U, v->y, v->in[DY]);
    for (int e = 0; e < 4; e++) {
        double right = 0, squares = 0;
        int there = 0;
        for (int s = 0; s < Y; s++)
            if (linear[e].slots >> s & 1 && has(v, s)) {
                right += inner(v, s, v->in[s], v->out[s]);
                squares += inner(v, s, v->out[s], v->out[s]);
                there = 1;
            }
        if (!there) continue;
        expect(v, linear[e].name, fabs(left - right) / fabs(left), v->prec->error, &worst[which].adjoint);
        run(v, 0, linear[e].slots);
        expect(v, linear[e].name, fabs(inner(v, U, v->y, v->in[DY]) - squares) / squares, v->prec->error,
               &worst[which].adjoint);
    }
}

static void point(int64_t c, int64_t b, int64_t l, const struct form *form, int which)
{
    conv v = {.form = form,
              .prec = &precisions[which],
              .c = c,
              .b = b,
              .l = l,
              .made = -1,
              .turn = numbers};
    make(&v);
    run(&v, 0, 0);
    causality(&v, which);
    double size = sqrt(inner(&v, U, v.y, v.y) / (double)count(&v, U));
    for (int64_t i = 0; i < count(&v, DY); i++)
        set(v.in[DY], v.prec->t, i, get(v.y, v.prec->t, i) + size * noise(50, i));
    move(v.there_in[DY], v.in[DY], &v.desc[DY]);
    run(&v, 1, 0);
    compare(&v, which);
    adjoints(&v, which);
    destroy(&v);
    worst[which].points++;
}

/* ---- the grid ------------------------------------------------------------------------------------------- */
/* Bytes of the tensors here and there, taken as all in the largest precision. */
static double bytes_of(int64_t c, int64_t b, int64_t l, m2_dtype t)
{
    double activations = (double)(c * b * l) * (double)m2_dtype_size(t), taps = (double)(c * l) * 8;
    return 2 * (9 * activations + 4 * taps);
}

static int selected(int64_t c, int64_t b, int64_t l, int li, int bi, m2_dtype t)
{
    if (!full)
        return c * b * l <= 1 << 20 || (c == 1 && bi == li % BATCHES && (l <= 1 << 20 || t == M2_F32)) ||
               (c == widths[WIDTHS - 1] && b == 1 && l == 2048);
    if (bytes_of(c, b, l, t) <= memory * (1 << 30)) return 1;
    if (process == 0)
        printf("  left out: L %lld, B %lld, %lld channels in %s, %.1f GiB\n", (long long)l, (long long)b,
               (long long)c, m2_dtype_name(t), bytes_of(c, b, l, t) / (1 << 30));
    return 0;
}

static void grid(void)
{
    int cpu = !strcmp(device->api->kind, "cpu"), first = cpu ? 0 : 1;
    for (int which = first; which < first + 2; which++) {
        for (int li = 0; li < LENGTHS; li++)
            for (int bi = 0; bi < BATCHES; bi++)
                for (int wi = 0; wi < WIDTHS; wi++)
                    if (selected(widths[wi], batches[bi], lengths[li], li, bi, precisions[which].t) &&
                        ++numbers % processes == process)
                        point(widths[wi], batches[bi], lengths[li], &forms[(li + bi + wi) % FORMS], which);
        printf("  %s, %s: %d points; largest errors: y %.2g, gradients of rows %.2g, adjoints %.2g, before a "
               "change %.2g\n",
               device->name, m2_dtype_name(precisions[which].t), worst[which].points, worst[which].y,
               worst[which].du, worst[which].adjoint, worst[which].causal);
    }
}

/* The two ways to float64 agree, in every form. */
static void witness(void)
{
    for (int f = 0; f < FORMS; f++) {
        conv v = {.form = &forms[f], .prec = &precisions[1], .c = 8, .b = 2, .l = 100, .made = -1};
        double sum[2][100], da[2][100];
        make(&v);
        fill(&v, DY);
        for (int64_t row = 0; row < 16; row += 5) {
            distance d = {0}, spot = {0};
            by_sums(&v, row, sum[0], da[0]);
            by_fourier(&v, row, sum[1], da[1]);
            for (int i = 0; i < 100; i++) {
                add(&d, sum[1][i], sum[0][i]);
                add(&d, da[1][i], da[0][i]);
                if (forms[f].band == 0) add(&spot, sum_at(&v, row, i), sum[0][i] * input(&v, POST, row * v.l + i));
            }
            CU_ASSERT(relative(d) < 1e-14 && relative(spot) < 1e-15);
        }
        destroy(&v);
    }
}

int main(int argc, char **argv)
{
    const char *spec = "cpu", *grid_size = getenv("M2_CONV_GRID");
    int threads = 0;
    full = grid_size && !strcmp(grid_size, "full");
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--full"))
            full = 1;
        else if (!strcmp(argv[i], "--device") && i + 1 < argc)
            spec = argv[++i];
        else if (!strcmp(argv[i], "--memory") && i + 1 < argc)
            memory = atof(argv[++i]);
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc)
            threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--part") && i + 1 < argc && sscanf(argv[i + 1], "%d/%d", &process, &processes) == 2 &&
                 process >= 0 && process < processes)
            i++;
        else
            return fprintf(
                       stderr,
                       "usage: longconv_grid [--device cpu|cuda] [--full] [--memory GIB] [--threads N] [--part I/N]\n"),
                   64;
    }
    if (m2_device_open(spec, threads, &device) != M2_OK) return printf("skipped: %s\n", m2_message()), 77;
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("longconv grid", NULL, NULL);
    CU_add_test(s, "the two witnesses agree", witness);
    CU_add_test(s, full ? "every point of the grid that fits" : "a small grid", grid);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    m2_device_close(&device);
    return failures != 0;
}
