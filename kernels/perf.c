#include "kernels/perf.h"
#include "kernels/base/blas.h"
#include "kernels/base/log.h"
#include "kernels/base/threads.h"

/* ---- timing -------------------------------------------------------------------------------------------- */
typedef struct task {
    m2_status (*run)(void *ctx);
    void *ctx;
    double best; /* seconds of the fastest run */
} task;

static m2_status once(m2_device *dev, m2_event *from, m2_event *to, task *t)
{
    double seconds;
    M2_TRY(dev->api->event_record(dev, from, NULL));
    M2_TRY(t->run(t->ctx));
    M2_TRY(dev->api->event_record(dev, to, NULL));
    M2_TRY(dev->api->stream_sync(dev, NULL));
    M2_TRY(dev->api->event_seconds(dev, from, to, &seconds));
    if (seconds < t->best) t->best = seconds;
    return M2_OK;
}

/* Runs the tasks in turn, each at least 4 times (the first does not count), as often as fit in 0.3 s. */
static m2_status race(m2_device *dev, task *tasks, int n)
{
    m2_event *from = NULL, *to = NULL;
    m2_status st = M2_OK;
    M2_TRY_GOTO(st, dev->api->event_create(dev, &from), done);
    M2_TRY_GOTO(st, dev->api->event_create(dev, &to), done);
    double start = m2_now();
    for (int i = 0; i < 4 || (m2_now() - start < 0.3 && i < 1000); i++)
        for (int k = 0; k < n; k++) {
            if (i < 2) tasks[k].best = 1e30;
            M2_TRY_GOTO(st, once(dev, from, to, &tasks[k]), done);
        }
done:
    if (from) dev->api->event_destroy(dev, from);
    if (to) dev->api->event_destroy(dev, to);
    return st;
}

/* ---- what can be timed --------------------------------------------------------------------------------- */
enum { COPY_BYTES = 1 << 27, PERIOD = 65521 };

static void copy_part(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    m2_perf_yard *y = ctx;
    memcpy(y->to + begin, y->from + begin, (size_t)(end - begin));
}

static m2_status run_copy(void *ctx)
{
    m2_perf_yard *y = ctx;
    m2_device *dev = y->device;
    if (strcmp(dev->api->kind, "cpu")) return dev->api->copy(dev, y->to, y->from, COPY_BYTES, NULL);
    m2_threads_for(dev->threads, COPY_BYTES, 1 << 20, copy_part, y); /* with all threads, as the ops run */
    return M2_OK;
}

static m2_status run_bound(void *ctx)
{
    m2_bound *b = ctx;
    return b->run(&b->call);
}

/* Times a probe, and a copy in turn with it. */
static m2_status time_probe(const m2_probe *p, m2_perf_yard *y, double *seconds)
{
    m2_bound b;
    M2_TRY(m2_probe_bind(p, y->device, 0, &b));
    task tasks[] = {{run_bound, &b, 0}, {run_copy, y, 0}};
    m2_status st = race(y->device, tasks, 2);
    *seconds = tasks[0].best;
    y->bandwidth = 2.0 * COPY_BYTES / tasks[1].best;
    m2_probe_unbind(&b);
    return st;
}

static m2_status open_yard(m2_perf_yard *y)
{
    /* Large enough to fill the device, small enough to be quick. */
    static const struct {
        m2_case product;
        double side;
    } squares[] = {{{"linear", "T .2048 C2048; W .2048 .2048; -", "", 0, 0, 0}, 2048},
                   {{"linear", "T .8192 C8192; W .8192 .8192; -", "", 0, 0, 0}, 8192}};
    m2_device *dev = y->device;
    int gpu = strcmp(dev->api->kind, "cpu") != 0;
    double side = squares[gpu].side;
    m2_probe p;
    double seconds;
    M2_TRY(dev->api->alloc(dev, M2_MEM_DEVICE, COPY_BYTES, (void **)&y->from));
    M2_TRY(dev->api->alloc(dev, M2_MEM_DEVICE, COPY_BYTES, (void **)&y->to));
    M2_TRY(dev->api->fill(dev, y->from, 1, COPY_BYTES, NULL));
    M2_TRY(m2_probe_make(&squares[gpu].product, y->precision, 1, PERIOD, &p));
    m2_status st = time_probe(&p, y, &seconds);
    m2_probe_free(&p);
    y->flops = 2 * side * side * side / seconds;
    return st;
}

m2_status m2_perf_peak(m2_device *dev, m2_dtype t, double *flops)
{
    enum { SIDE = 1024, RUNS = 4 };
    *flops = dev->peak_flops;
    if (strcmp(dev->api->kind, "cpu")) return M2_OK;
    char *memory = NULL;
    int64_t bytes = (int64_t)SIDE * SIDE * m2_dtype_size(t);
    M2_TRY(dev->api->alloc(dev, M2_MEM_HOST, 3 * bytes, (void **)&memory));
    memset(memory, 0, (size_t)(3 * bytes));
    m2i_gemm g = {
        .dtype = t, .m = SIDE, .n = SIDE, .k = SIDE, .alpha = 1, .lda = SIDE, .ldb = SIDE, .ldc = SIDE};
    g.a = memory, g.b = memory + bytes, g.c = memory + 2 * bytes;
    m2_status st = M2_OK;
    double best = 1e30;
    for (int i = 0; i < RUNS && st == M2_OK; i++) {
        double from = m2_now();
        st = m2i_gemm_run(&g, dev->threads);
        double seconds = m2_now() - from;
        if (seconds < best) best = seconds;
    }
    dev->api->free(dev, M2_MEM_HOST, memory);
    *flops = 2.0 * SIDE * SIDE * SIDE / best;
    return st;
}

m2_status m2_perf_open(m2_device *dev, const m2_probe_precision *prec, m2_perf_yard *yard)
{
    *yard = (m2_perf_yard){.device = dev, .precision = prec};
    m2_status st = open_yard(yard);
    if (st != M2_OK) m2_perf_close(yard);
    return st;
}

void m2_perf_close(m2_perf_yard *yard)
{
    if (yard->to) yard->device->api->free(yard->device, M2_MEM_DEVICE, yard->to);
    if (yard->from) yard->device->api->free(yard->device, M2_MEM_DEVICE, yard->from);
    *yard = (m2_perf_yard){0};
}

/* ---- one row ------------------------------------------------------------------------------------------- */
static m2_status measure(const m2_probe *p, m2_perf_yard *y, m2_perf *out)
{
    m2_desc in[M2_MAX_IN], produced[M2_MAX_OUT];
    for (int i = 0; i < M2_MAX_IN; i++) in[i] = p->in[i].desc;
    for (int j = 0; j < M2_MAX_OUT; j++) produced[j] = p->out[j].desc;
    *out = (m2_perf){.op = p->op, .row = p->row, .elements = m2_desc_count(&in[0])};
    p->op->cost(&p->attrs, in, produced, &out->cost);
    M2_TRY(time_probe(p, y, &out->seconds));
    double by_bytes = out->cost.bytes / y->bandwidth, by_flops = out->cost.flops / y->flops;
    out->by_flops = by_flops > by_bytes;
    out->share = (out->by_flops ? by_flops : by_bytes) / out->seconds;
    return M2_OK;
}

m2_status m2_perf_measure(const m2_case *row, m2_perf_yard *yard, m2_perf out[2], int *n)
{
    enum { GPU_SCALE = 8 };
    m2_probe p, g = {0};
    int64_t scale = strcmp(yard->device->api->kind, "cpu") ? GPU_SCALE : 1;
    M2_TRY(m2_probe_make(row, yard->precision, scale, PERIOD, &p));
    m2_status st = M2_OK;
    *n = 0;
    M2_TRY_GOTO(st, measure(&p, yard, &out[0]), done);
    *n = 1;
    if (!p.op->grad || p.op->grad == p.op) goto done;
    M2_TRY_GOTO(st, m2_probe_grad(&p, ~0u, ~0u, &g), done);
    M2_TRY_GOTO(st, measure(&g, yard, &out[1]), done);
    *n = 2;
done:
    m2_probe_free(&g);
    m2_probe_free(&p);
    return st;
}

/* ---- printing ------------------------------------------------------------------------------------------ */
void m2_perf_print_header(FILE *file, const m2_perf_yard *yard)
{
    fprintf(file, "%s, %s: copy %.1f GB/s, matrix product %.0f GFLOP/s\n", yard->device->name,
            yard->precision->name, yard->bandwidth * 1e-9, yard->flops * 1e-9);
    fprintf(file, "%-15s %10s %8s %9s %7s %-6s %s\n", "op", "ms", "GB/s", "GFLOP/s", "share", "of", "shapes");
}

void m2_perf_print(FILE *file, const m2_perf *p)
{
    fprintf(file, "%-15s %10.3f %8.1f %9.1f %6.0f%% %-6s %s%s%s\n", p->op->name, p->seconds * 1e3,
            p->cost.bytes / p->seconds * 1e-9, p->cost.flops / p->seconds * 1e-9, 100 * p->share,
            p->by_flops ? "GEMM" : "copy", p->row->tensors, *p->row->attrs ? "  " : "", p->row->attrs);
}
