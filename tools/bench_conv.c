/* bench_conv.c - m2 bench conv: the long convolution's time per length, against what bounds it and against FFTW. */
#include "tools/bench.h"

#include "kernels/base/log.h"
#include "kernels/base/rng.h"
#include "kernels/base/threads.h"
#include "kernels/ops.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
    "m2 bench conv [options]     time of the long convolution (best of several runs)\n"
    "  --device SPEC      cpu, cuda, cuda:1, auto (auto)\n"
    "  --threads N        CPU threads, 0 = all (0)\n"
    "  --lengths A,B,...  positions (1024,2048,4096,8192,16384,32768,65536)\n"
    "  --tokens N         rows x positions; rows = N / length, at least 1 (65536)\n"
    "  --channels N       channels (64 on the CPU, 1024 on a GPU)\n"
    "  --filters N        filters, a divisor of the channels (one each)\n"
    "  --dtype T          f32, f64, bf16 (f32 on the CPU, bf16 on a GPU)\n"
    "  --gates            multiply before and after\n"
    "  --two-sided        taps of negative lags as well\n"
    "  --seconds S        time to spend on each measurement (0.3)\n"
    "  --no-fftw          do not measure FFTW\n"
    "  --json             one JSON array instead of the table\n";

enum { MAX_LENGTHS = 32 };

typedef struct options {
    const char *device;
    int gates, two_sided, fftw, json, help;
    int64_t threads, tokens, channels, filters, length[MAX_LENGTHS];
    int lengths;
    m2_dtype dtype; /* M2_DTYPE_COUNT: what the device is usually used in */
    double seconds;
} options;

/* ---- options ------------------------------------------------------------------------------------------- */
static m2_status number(const char *name, const char *text, double least, double most, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end || !(*out >= least && *out <= most))
        return m2_fail(M2_USAGE, "m2 bench conv: %s %s: expected a number from %.15g to %.15g", name, text,
                       least, most);
    return M2_OK;
}

static m2_status lengths(const char *text, options *o)
{
    char one[32];
    for (o->lengths = 0; *text; o->lengths++) {
        size_t n = strcspn(text, ",");
        if (o->lengths == MAX_LENGTHS || n >= sizeof one)
            return m2_fail(M2_USAGE, "m2 bench conv: --lengths takes at most %d numbers", MAX_LENGTHS);
        memcpy(one, text, n);
        one[n] = 0;
        double v;
        M2_TRY(number("--lengths", one, 1, 1 << 30, &v));
        o->length[o->lengths] = (int64_t)v;
        text += n + (text[n] == ',');
    }
    return M2_OK;
}

/* Options with a value: 1 if `name` is one of them. */
static m2_status with_value(options *o, const char *name, const char *value, int *known)
{
    const struct {
        const char *name;
        int64_t *to;
        double least, most;
    } numbers[] = {
        {"--threads", &o->threads, 0, 4096},
        {"--tokens", &o->tokens, 1, 1e12},
        {"--channels", &o->channels, 1, 1e6},
        {"--filters", &o->filters, 1, 1e6},
    };
    *known = 1;
    if (!strcmp(name, "--device")) return o->device = value, M2_OK;
    if (!strcmp(name, "--lengths")) return lengths(value, o);
    if (!strcmp(name, "--dtype")) return m2_dtype_parse(value, &o->dtype);
    if (!strcmp(name, "--seconds")) return number(name, value, 0, 3600, &o->seconds);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(name, numbers[i].name)) {
            double v;
            M2_TRY(number(name, value, numbers[i].least, numbers[i].most, &v));
            *numbers[i].to = (int64_t)v;
            return M2_OK;
        }
    *known = 0;
    return M2_OK;
}

static int flag(options *o, const char *name)
{
    const struct {
        const char *name;
        int *to, value;
    } flags[] = {
        {"--gates", &o->gates, 1}, {"--two-sided", &o->two_sided, 1}, {"--no-fftw", &o->fftw, 0},
        {"--json", &o->json, 1},   {"--help", &o->help, 1},           {"-h", &o->help, 1},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (!strcmp(name, flags[i].name)) return *flags[i].to = flags[i].value, 1;
    return 0;
}

static m2_status parse(int argc, char **argv, options *o)
{
    *o = (options){.device = "auto", .fftw = 1, .tokens = 65536, .dtype = M2_DTYPE_COUNT, .seconds = 0.3};
    for (int64_t l = 1024; l <= 65536; l *= 2) o->length[o->lengths++] = l;
    for (int i = 0; i < argc; i++) {
        int known;
        if (flag(o, argv[i])) continue;
        M2_TRY(with_value(o, argv[i], i + 1 < argc ? argv[i + 1] : "", &known));
        if (!known)
            return m2_fail(M2_USAGE, "m2 bench conv: unknown option %s; m2 bench conv --help lists them",
                           argv[i]);
        i++;
    }
    return M2_OK;
}

/* ---- one op on one device ------------------------------------------------------------------------------ */
typedef struct subject {
    m2_call call;
    m2_run_fn run;
    m2_cost cost;
} subject;

static void release(m2_device *dev, subject *s)
{
    for (int i = 0; i < M2_MAX_IN; i++) dev->api->free(dev, M2_MEM_DEVICE, s->call.in[i].data);
    for (int j = 0; j < M2_MAX_OUT; j++) dev->api->free(dev, M2_MEM_DEVICE, s->call.out[j].data);
    dev->api->free(dev, M2_MEM_DEVICE, s->call.workspace);
}

/* Device memory with noise of standard deviation 1; copied once, waits. */
static m2_status fill(m2_device *dev, const m2_desc *d, uint64_t stream, m2_tensor *out)
{
    int64_t count = m2_desc_count(d), bytes = m2_desc_bytes(d);
    void *data, *host = NULL;
    M2_TRY(dev->api->alloc(dev, M2_MEM_DEVICE, bytes, &data));
    *out = m2_tensor_make(d, data);
    M2_TRY(dev->api->alloc(dev, M2_MEM_HOST, bytes, &host));
    m2_rng_key key = m2_rng_make_key(1, 0, stream);
    enum { PERIOD = 1 << 16 }; /* drawn once, then repeated */
    int64_t size = (int64_t)m2_dtype_size(d->dtype), drawn = count < PERIOD ? count : PERIOD;
    for (int64_t i = 0; i < drawn; i++) {
        double v = m2_rng_normal(key, (uint64_t)i);
        if (d->dtype == M2_F64)
            ((double *)host)[i] = v;
        else if (d->dtype == M2_F32)
            ((float *)host)[i] = (float)v;
        else
            ((uint16_t *)host)[i] = m2_bf16_from_f32((float)v);
    }
    for (int64_t i = drawn; i < count; i += PERIOD)
        memcpy((char *)host + i * size, host, (size_t)((count - i < PERIOD ? count - i : PERIOD) * size));
    m2_status st = dev->api->copy(dev, data, host, bytes, NULL);
    if (st == M2_OK) st = dev->api->stream_sync(dev, NULL);
    dev->api->free(dev, M2_MEM_HOST, host);
    return st;
}

static m2_status prepare(m2_device *dev, const options *o, int64_t length, int gradient, subject *s)
{
    const m2_op *op = gradient ? &m2_op_longconv_grad : &m2_op_longconv;
    int64_t rows = o->tokens / length > 0 ? o->tokens / length : 1;
    m2_dtype real = o->dtype == M2_F64 ? M2_F64 : M2_F32;
    m2_desc u = m2_desc_make(o->dtype, "CBL", o->channels, rows, length);
    m2_desc k = m2_desc_make(real, "CL", o->filters, length), d = m2_desc_make(real, "C", o->filters);
    m2_desc in[M2_MAX_IN] = {u, k, k, d, u, u, u}, out[M2_MAX_OUT] = {u, k, k, d, u, u};
    *s = (subject){.call = {.op = op, .n_in = op->n_in, .n_out = op->n_out, .device = dev}};
    s->run = dev->api->lookup(dev, op);
    if (!s->run) return m2_fail(M2_USAGE, "m2 bench conv: %s has no kernel for %s", dev->name, op->name);
    for (int i = 0; i < M2_MAX_IN; i++) {
        int there = i < op->n_in && (i != 2 || o->two_sided) && (i < 4 || i > 5 || o->gates);
        if (!there)
            in[i] = m2_desc_none();
        else
            M2_TRY(fill(dev, &in[i], (uint64_t)i, &s->call.in[i]));
        if (i < M2_MAX_OUT && (gradient ? !there : i > 0)) out[i] = m2_desc_none();
    }
    for (int j = 0; j < op->n_out; j++) {
        if (out[j].rank < 0) continue;
        s->call.out[j] = m2_tensor_make(&out[j], NULL);
        M2_TRY(dev->api->alloc(dev, M2_MEM_DEVICE, m2_desc_bytes(&out[j]), &s->call.out[j].data));
    }
    op->cost(&s->call.attrs, in, out, &s->cost);
    s->call.workspace_bytes = dev->api->workspace(dev, op, &s->call.attrs, in, out);
    return dev->api->alloc(dev, M2_MEM_DEVICE, s->call.workspace_bytes, &s->call.workspace);
}

/* Best time of one run, after one that is not counted. */
static m2_status measure(m2_device *dev, const options *o, subject *s, double *best)
{
    m2_event *from = NULL, *to = NULL;
    m2_status st;
    M2_TRY_GOTO(st, dev->api->event_create(dev, &from), done);
    M2_TRY_GOTO(st, dev->api->event_create(dev, &to), done);
    M2_TRY_GOTO(st, s->run(&s->call), done);
    double begin = m2_now(), t;
    *best = 1e30;
    for (int i = 0; i < 3 || m2_now() - begin < o->seconds; i++) {
        M2_TRY_GOTO(st, dev->api->event_record(dev, from, NULL), done);
        M2_TRY_GOTO(st, s->run(&s->call), done);
        M2_TRY_GOTO(st, dev->api->event_record(dev, to, NULL), done);
        M2_TRY_GOTO(st, dev->api->event_seconds(dev, from, to, &t), done);
        if (t < *best) *best = t;
    }
done:
    if (from) dev->api->event_destroy(dev, from);
    if (to) dev->api->event_destroy(dev, to);
    return st;
}

static m2_status time_op(m2_device *dev, const options *o, int64_t length, int gradient, double *best,
                         m2_cost *cost)
{
    subject s;
    m2_status st = prepare(dev, o, length, gradient, &s);
    if (st == M2_OK) st = measure(dev, o, &s, best);
    *cost = s.cost;
    release(dev, &s);
    return st;
}

/* ---- the memory's speed, if the device does not know it ------------------------------------------------ */
enum { COPY_BYTES = 128 << 20 };

static void copy_piece(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    char **p = ctx;
    memcpy(p[1] + begin, p[0] + begin, (size_t)(end - begin));
}

static double bandwidth(const m2_device *dev)
{
    if (dev->peak_bandwidth > 0) return dev->peak_bandwidth;
    char *p[2] = {calloc(COPY_BYTES, 1), calloc(COPY_BYTES, 1)};
    double best = 1e30;
    for (int i = 0; p[0] && p[1] && i < 4; i++) {
        double t = m2_now();
        m2_threads_for(dev->threads, COPY_BYTES, 1 << 20, copy_piece, p);
        t = m2_now() - t;
        if (i > 0 && t < best) best = t;
    }
    free(p[0]);
    free(p[1]);
    return 2.0 * COPY_BYTES / best;
}

/* ---- FFTW: r2c, product, c2r with zeros to 2L, one row at a time, channels over the same threads ------- */
typedef float pair[2];
typedef struct fftw {
    void *library;
    void *(*allocate)(size_t);
    void (*release)(void *);
    void *(*plan_forward)(int, float *, pair *, unsigned);
    void *(*plan_inverse)(int, pair *, float *, unsigned);
    void (*forward)(void *, float *, pair *);
    void (*inverse)(void *, pair *, float *);
    void (*destroy)(void *);
    void (*cleanup)(void);
} fftw;

static int load_fftw(fftw *w)
{
    static const char *const names[] = {"fftwf_malloc",          "fftwf_free",
                                        "fftwf_plan_dft_r2c_1d", "fftwf_plan_dft_c2r_1d",
                                        "fftwf_execute_dft_r2c", "fftwf_execute_dft_c2r",
                                        "fftwf_destroy_plan",    "fftwf_cleanup"};
    void *const into[] = {&w->allocate, &w->release, &w->plan_forward, &w->plan_inverse,
                          &w->forward,  &w->inverse, &w->destroy,      &w->cleanup};
    w->library = dlopen("libfftw3f.so.3", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; w->library && i < sizeof names / sizeof *names; i++) {
        void *symbol = dlsym(w->library, names[i]);
        if (!symbol) return 0;
        memcpy(into[i], &symbol, sizeof symbol);
    }
    return w->library != NULL;
}

typedef struct rival {
    const fftw *w;
    void *forward, *inverse;
    int64_t rows, length, share;
    const float *u, *k;
    float *y;
    pair **spectrum; /* per thread: the row's and the filter's */
} rival;

static void rival_channels(void *ctx, int64_t begin, int64_t end, int thread)
{
    const rival *r = ctx;
    int64_t n = 2 * r->length;
    pair *a = r->spectrum[2 * thread], *k = r->spectrum[2 * thread + 1];
    float *x = (float *)a, scale = 1 / (float)n; /* in place: n + 2 floats */
    for (int64_t c = begin; c < end; c++) {
        if (c == begin || c % r->share == 0) {
            float *f = (float *)k;
            for (int64_t i = 0; i < n; i++)
                f[i] = i < r->length ? scale * r->k[c / r->share * r->length + i] : 0;
            r->w->forward(r->forward, f, k);
        }
        for (int64_t row = c * r->rows; row < (c + 1) * r->rows; row++) {
            memcpy(x, r->u + row * r->length, (size_t)r->length * sizeof *x);
            memset(x + r->length, 0, (size_t)r->length * sizeof *x);
            r->w->forward(r->forward, x, a);
            for (int64_t i = 0; i <= r->length; i++) {
                float re = a[i][0] * k[i][0] - a[i][1] * k[i][1];
                a[i][1] = a[i][0] * k[i][1] + a[i][1] * k[i][0];
                a[i][0] = re;
            }
            r->w->inverse(r->inverse, a, x);
            memcpy(r->y + row * r->length, x, (size_t)r->length * sizeof *x);
        }
    }
}

/* Best time of the same convolution (no gates, no negative lags) through FFTW. */
static m2_status time_fftw(const fftw *w, const m2_device *dev, const options *o, int64_t length,
                           double *best)
{
    int64_t rows = o->tokens / length > 0 ? o->tokens / length : 1, count = o->channels * rows * length;
    int n = (int)(2 * length), buffers = 2 * dev->threads;
    rival r = {.w = w, .rows = rows, .length = length, .share = o->channels / o->filters};
    float *u = calloc((size_t)count, sizeof *u), *k = calloc((size_t)(o->filters * length), sizeof *k);
    r.u = u, r.k = k, r.y = calloc((size_t)count, sizeof *u);
    r.spectrum = calloc((size_t)buffers, sizeof *r.spectrum);
    m2_status st = M2_OK;
    for (int i = 0; r.spectrum && i < buffers; i++)
        r.spectrum[i] = w->allocate((size_t)(length + 1) * sizeof(pair));
    if (!u || !k || !r.y || !r.spectrum || !r.spectrum[buffers - 1]) {
        st = m2_fail(M2_TRANSIENT, "m2 bench conv: out of memory for FFTW's turn");
    } else {
        unsigned effort = length <= 1 << 17 ? 0 : 1 << 6; /* FFTW_MEASURE, FFTW_ESTIMATE */
        r.forward = w->plan_forward(n, (float *)r.spectrum[0], r.spectrum[0], effort);
        r.inverse = w->plan_inverse(n, r.spectrum[0], (float *)r.spectrum[0], effort);
        double begin = m2_now(), t;
        *best = 1e30;
        for (int i = 0; i < 4 || m2_now() - begin < o->seconds; i++) {
            t = m2_now();
            m2_threads_for(dev->threads, o->channels, 1, rival_channels, &r);
            t = m2_now() - t;
            if (i > 0 && t < *best) *best = t;
        }
        w->destroy(r.forward);
        w->destroy(r.inverse);
    }
    for (int i = 0; r.spectrum && i < buffers; i++) w->release(r.spectrum[i]);
    free(r.spectrum);
    free(u);
    free(k);
    free(r.y);
    return st;
}

/* ---- the report ---------------------------------------------------------------------------------------- */
typedef struct line {
    int64_t length, rows;
    double forward, both, floor_forward, floor_both, flops, bytes,
        fftw; /* seconds; FLOP/s, bytes/s of both */
} line;

static void print_json(const options *o, const m2_device *dev, const line *r, int first)
{
    printf(
        "%s\n  {\"device\": \"%s\", \"dtype\": \"%s\", \"length\": %lld, \"rows\": %lld, \"channels\": %lld, "
        "\"filters\": %lld, \"gates\": %s, \"two_sided\": %s, \"forward_ms\": %.6g, \"forward_backward_ms\": "
        "%.6g, "
        "\"floor_forward_ms\": %.6g, \"floor_forward_backward_ms\": %.6g, \"gflops\": %.6g, "
        "\"gbytes_per_s\": %.6g",
        first ? "[" : ",", dev->name, m2_dtype_name(o->dtype), (long long)r->length, (long long)r->rows,
        (long long)o->channels, (long long)o->filters, o->gates ? "true" : "false",
        o->two_sided ? "true" : "false", r->forward * 1e3, r->both * 1e3, r->floor_forward * 1e3,
        r->floor_both * 1e3, r->flops / 1e9, r->bytes / 1e9);
    if (r->fftw > 0)
        printf(", \"fftw_forward_ms\": %.6g, \"times_fftw\": %.4g", r->fftw * 1e3, r->fftw / r->forward);
    printf("}");
}

static void print_line(const line *r)
{
    printf("%8lld %7lld %10.3f %10.3f %9.3f %9.3f %9.1f %8.1f", (long long)r->length, (long long)r->rows,
           r->forward * 1e3, r->both * 1e3, r->floor_forward * 1e3, r->floor_both * 1e3, r->flops / 1e9,
           r->bytes / 1e9);
    if (r->fftw > 0) printf(" %9.3f %6.2fx", r->fftw * 1e3, r->fftw / r->forward);
    printf("\n");
    fflush(stdout);
}

static m2_status bench(m2_device *dev, const options *o)
{
    fftw w = {0};
    int cpu = !strcmp(dev->api->kind, "cpu"), with_fftw = o->fftw && cpu && o->dtype == M2_F32;
    if (with_fftw && !load_fftw(&w)) {
        with_fftw = 0;
        m2_log(M2_LOG_WARN,
               "no comparison with FFTW: libfftw3f.so.3 could not be loaded (Debian: libfftw3-single3)");
    }
    double speed = bandwidth(dev);
    if (!o->json) {
        printf("%s, memory %.1f GB/s; %s, %lld channels, %lld filters%s%s; milliseconds, best run\n",
               dev->name, speed / 1e9, m2_dtype_name(o->dtype), (long long)o->channels, (long long)o->filters,
               o->gates ? ", gated" : "", o->two_sided ? ", two-sided" : "");
        printf("%8s %7s %10s %10s %9s %9s %9s %8s%s\n", "L", "rows", "forward", "+backward", "floor",
               "+backward", "GFLOP/s", "GB/s", with_fftw ? "  FFTW fwd  ratio" : "");
    }
    for (int i = 0; i < o->lengths; i++) {
        int64_t l = o->length[i];
        line r = {.length = l, .rows = o->tokens / l > 0 ? o->tokens / l : 1};
        m2_cost forward, backward;
        double back;
        M2_TRY(time_op(dev, o, l, 0, &r.forward, &forward));
        M2_TRY(time_op(dev, o, l, 1, &back, &backward));
        if (with_fftw) M2_TRY(time_fftw(&w, dev, o, l, &r.fftw));
        r.both = r.forward + back;
        r.floor_forward = forward.bytes / speed;
        r.floor_both = (forward.bytes + backward.bytes) / speed;
        r.flops = (forward.flops + backward.flops) / r.both;
        r.bytes = (forward.bytes + backward.bytes) / r.both;
        if (o->json)
            print_json(o, dev, &r, i == 0);
        else
            print_line(&r);
    }
    if (o->json) printf("\n]\n");
    if (with_fftw) w.cleanup();
    if (w.library) dlclose(w.library);
    return M2_OK;
}

m2_status m2_bench_conv(int argc, char **argv)
{
    options o;
    M2_TRY(parse(argc, argv, &o));
    if (o.help) {
        fputs(usage, stdout);
        return M2_OK;
    }
    m2_device *dev;
    M2_TRY(m2_device_open(o.device, (int)o.threads, &dev));
    int cpu = !strcmp(dev->api->kind, "cpu");
    if (!o.channels) o.channels = cpu ? 64 : 1024;
    if (!o.filters) o.filters = o.channels;
    if (o.dtype == M2_DTYPE_COUNT) o.dtype = cpu ? M2_F32 : M2_BF16;
    m2_status st = o.channels % o.filters == 0
                       ? bench(dev, &o)
                       : m2_fail(M2_USAGE, "m2 bench conv: --filters %lld does not divide --channels %lld",
                                 (long long)o.filters, (long long)o.channels);
    m2_device_close(&dev);
    return st;
}
