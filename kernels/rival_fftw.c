/* rival_fftw.c - the long convolution through FFTW: a row at a time, channels over the device's threads. Forward only. */
#include "kernels/base/threads.h"
#include "kernels/rival.h"

#include <dlfcn.h>
#include <stdlib.h>

enum { U, K, KR, D, PRE, POST };
enum {
    FFTW_MEASURE = 0,
    FFTW_ESTIMATE = 1 << 6,
    MEASURED = 1 << 17
}; /* lengths that are worth measuring plans for */

typedef float pair[2];
typedef struct library {
    void *handle;
    void *(*allocate)(size_t);
    void (*release)(void *);
    void *(*plan_forward)(int, float *, pair *, unsigned);
    void *(*plan_inverse)(int, pair *, float *, unsigned);
    void (*forward)(void *, float *, pair *);
    void (*inverse)(void *, pair *, float *);
    void (*destroy)(void *);
    void (*cleanup)(void);
} library;

typedef struct rival {
    m2_rival base;
    library w;
    int64_t channels, batch, length, filters, taps;
    void *forward, *inverse;
    int buffers;
    pair **spectrum; /* two per thread: the row's and the filter's */
    const m2_call *call;
} rival;

static int load(library *w)
{
    static const char *const names[] = {"fftwf_malloc",          "fftwf_free",
                                        "fftwf_plan_dft_r2c_1d", "fftwf_plan_dft_c2r_1d",
                                        "fftwf_execute_dft_r2c", "fftwf_execute_dft_c2r",
                                        "fftwf_destroy_plan",    "fftwf_cleanup"};
    void *const into[] = {&w->allocate, &w->release, &w->plan_forward, &w->plan_inverse,
                          &w->forward,  &w->inverse, &w->destroy,      &w->cleanup};
    w->handle = dlopen("libfftw3f.so.3", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; w->handle && i < sizeof names / sizeof *names; i++) {
        void *symbol = dlsym(w->handle, names[i]);
        if (!symbol) return 0;
        memcpy(into[i], &symbol, sizeof symbol);
    }
    return w->handle != NULL;
}

/* ---- the convolution ----------------------------------------------------------------------------------- */
/* Spectrum of filter f over 2L, scaled by 1 / 2L; negative lags at the end. */
static void filter_spectrum(const rival *r, int64_t f, pair *k)
{
    const float *taps = r->call->in[K].data, *past = r->call->in[KR].data, *skip = r->call->in[D].data;
    float *x = (float *)k, scale = 1 / (float)(2 * r->length);
    memset(x, 0, (size_t)(2 * r->length) * sizeof *x);
    for (int64_t i = 0; i < r->taps; i++) x[i] = scale * taps[f * r->taps + i];
    for (int64_t i = 0; past && i < r->taps; i++) x[2 * r->length - 1 - i] += scale * past[f * r->taps + i];
    if (skip) x[0] += scale * skip[f];
    r->w.forward(r->forward, x, k);
}

static void convolve_row(const rival *r, int64_t row, pair *k, pair *a)
{
    int64_t l = r->length;
    const float *u = (const float *)r->call->in[U].data + row * l, *pre = r->call->in[PRE].data;
    const float *post = r->call->in[POST].data;
    float *x = (float *)a,
          *y = (float *)r->call->out[0].data + row * l; /* transforms in place: 2L + 2 floats */
    if (pre)
        for (int64_t i = 0; i < l; i++) x[i] = u[i] * pre[row * l + i];
    else
        memcpy(x, u, (size_t)l * sizeof *x);
    memset(x + l, 0, (size_t)l * sizeof *x);
    r->w.forward(r->forward, x, a);
    for (int64_t i = 0; i <= l; i++) {
        float re = a[i][0] * k[i][0] - a[i][1] * k[i][1];
        a[i][1] = a[i][0] * k[i][1] + a[i][1] * k[i][0];
        a[i][0] = re;
    }
    r->w.inverse(r->inverse, a, x);
    if (post)
        for (int64_t i = 0; i < l; i++) y[i] = x[i] * post[row * l + i];
    else
        memcpy(y, x, (size_t)l * sizeof *y);
}

static void run_channels(void *ctx, int64_t begin, int64_t end, int thread)
{
    const rival *r = ctx;
    int64_t share = r->channels / r->filters, made = -1;
    pair *a = r->spectrum[2 * thread], *k = r->spectrum[2 * thread + 1];
    for (int64_t c = begin; c < end; c++) {
        int64_t f = r->call->attrs.i[M2_LONGCONV_SHARE] == M2_SHARE_INDEX ? c % r->filters : c / share;
        if (f != made) filter_spectrum(r, made = f, k);
        for (int64_t b = 0; b < r->batch; b++) convolve_row(r, c * r->batch + b, k, a);
    }
}

static m2_status run(m2_rival *base, const m2_call *call)
{
    rival *r = (rival *)base;
    if (call->op != &m2_op_longconv)
        return m2_fail(M2_USAGE, "FFTW's turn is forward only, not %s", call->op->name);
    r->call = call;
    m2_threads_for(r->buffers / 2, r->channels, 1, run_channels, r);
    return M2_OK;
}

/* ---- opening ------------------------------------------------------------------------------------------- */
static void destroy(m2_rival *base)
{
    rival *r = (rival *)base;
    if (r->forward) r->w.destroy(r->forward);
    if (r->inverse) r->w.destroy(r->inverse);
    for (int i = 0; r->spectrum && i < r->buffers; i++)
        if (r->spectrum[i]) r->w.release(r->spectrum[i]);
    free(r->spectrum);
    if (r->w.handle) dlclose(r->w.handle);
    free(r);
}

static m2_status make(rival *r)
{
    int n = (int)(2 * r->length);
    unsigned effort = r->length <= MEASURED ? FFTW_MEASURE : FFTW_ESTIMATE;
    if (!load(&r->w))
        return m2_fail(M2_USAGE, "libfftw3f.so.3 could not be loaded (Debian: libfftw3-single3)");
    r->spectrum = calloc((size_t)r->buffers, sizeof *r->spectrum);
    for (int i = 0; r->spectrum && i < r->buffers; i++)
        r->spectrum[i] = r->w.allocate((size_t)(r->length + 1) * sizeof(pair));
    if (!r->spectrum || !r->spectrum[r->buffers - 1])
        return m2_fail(M2_TRANSIENT, "out of memory for FFTW's turn");
    r->forward = r->w.plan_forward(n, (float *)r->spectrum[0], r->spectrum[0], effort);
    r->inverse = r->w.plan_inverse(n, r->spectrum[0], (float *)r->spectrum[0], effort);
    return M2_OK;
}

m2_status m2i_rival_fftw(m2_device *dev, const m2_desc *in, m2_rival **out)
{
    if (in[U].rank != 3 || in[U].dtype != M2_F32 || in[U].shape[2] > 1 << 29)
        return m2_fail(M2_USAGE, "FFTW's turn takes f32 rows in one piece of at most 2^29 positions");
    rival *r = calloc(1, sizeof *r);
    if (!r) return m2_fail(M2_TRANSIENT, "out of memory for FFTW's turn");
    r->base = (m2_rival){.name = "FFTW", .run = run, .close = destroy};
    r->channels = in[U].shape[0], r->batch = in[U].shape[1], r->length = in[U].shape[2];
    r->filters = in[K].shape[0], r->taps = in[K].shape[1];
    r->buffers = 2 * dev->threads;
    m2_status st = make(r);
    if (st == M2_OK)
        *out = &r->base;
    else
        destroy(&r->base);
    return st;
}
