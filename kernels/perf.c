#include "kernels/perf.h"
#include "kernels/base/log.h"
#include "kernels/base/threads.h"

/* ---- timing ------------------------------------------------------------------------------------------------------ */
/* The fastest of at least 3 runs, of as many as fit in 0.3 s. */
static m2_status fastest(m2_device *dev, m2_status (*run)(void *ctx), void *ctx, double *best)
{
    m2_event *from = NULL, *to = NULL;
    m2_status st = M2_OK;
    M2_TRY_GOTO(st, dev->api->event_create(dev, &from), done);
    M2_TRY_GOTO(st, dev->api->event_create(dev, &to), done);
    M2_TRY_GOTO(st, run(ctx), done); /* warm up */
    *best = 1e30;
    double start = m2_now();
    for (int i = 0; i < 3 || (m2_now() - start < 0.3 && i < 1000); i++) {
        double seconds;
        M2_TRY_GOTO(st, dev->api->event_record(dev, from, NULL), done);
        M2_TRY_GOTO(st, run(ctx), done);
        M2_TRY_GOTO(st, dev->api->event_record(dev, to, NULL), done);
        M2_TRY_GOTO(st, dev->api->stream_sync(dev, NULL), done);
        M2_TRY_GOTO(st, dev->api->event_seconds(dev, from, to, &seconds), done);
        if (seconds < *best) *best = seconds;
    }
done:
    if (from) dev->api->event_destroy(dev, from);
    if (to) dev->api->event_destroy(dev, to);
    return st;
}

static m2_status run_bound(void *ctx)
{
    m2_bound *b = ctx;
    return b->run(&b->call);
}

static m2_status time_probe(const m2_probe *p, m2_device *dev, double *seconds)
{
    m2_bound b;
    M2_TRY(m2_probe_bind(p, dev, 0, &b));
    m2_status st = fastest(dev, run_bound, &b, seconds);
    m2_probe_unbind(&b);
    return st;
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */
enum { COPY_BYTES = 1 << 28, GEMM_SIDE = 2048 };

typedef struct copying {
    m2_device *dev;
    char *from, *to;
} copying;

static void copy_part(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    copying *c = ctx;
    memcpy(c->to + begin, c->from + begin, (size_t)(end - begin));
}

static m2_status copy_all(void *ctx)
{
    copying *c = ctx;
    if (strcmp(c->dev->api->kind, "cpu")) return c->dev->api->copy(c->dev, c->to, c->from, COPY_BYTES, NULL);
    m2_threads_for(c->dev->threads, COPY_BYTES, 1 << 20, copy_part, c); /* with all threads, as the ops run */
    return M2_OK;
}

static m2_status measure_copy(m2_device *dev, double *bandwidth)
{
    copying c = {.dev = dev};
    double seconds;
    m2_status st = M2_OK;
    M2_TRY_GOTO(st, dev->api->alloc(dev, M2_MEM_DEVICE, COPY_BYTES, (void **)&c.from), done);
    M2_TRY_GOTO(st, dev->api->alloc(dev, M2_MEM_DEVICE, COPY_BYTES, (void **)&c.to), done);
    M2_TRY_GOTO(st, dev->api->fill(dev, c.from, 1, COPY_BYTES, NULL), done);
    M2_TRY_GOTO(st, fastest(dev, copy_all, &c, &seconds), done);
    *bandwidth = 2.0 * COPY_BYTES / seconds;
done:
    if (c.from) dev->api->free(dev, M2_MEM_DEVICE, c.from);
    if (c.to) dev->api->free(dev, M2_MEM_DEVICE, c.to);
    return st;
}

m2_status m2_perf_measure_limits(m2_device *dev, const m2_probe_precision *prec, m2_perf_limits *out)
{
    static const m2_case square = {"linear", "T .2048 C2048; W .2048 .2048; -", "", 0, 0, 0};
    m2_probe p;
    double seconds;
    M2_TRY(measure_copy(dev, &out->bandwidth));
    M2_TRY(m2_probe_make(&square, prec, 1, 65521, &p));
    m2_status st = time_probe(&p, dev, &seconds);
    m2_probe_free(&p);
    out->flops = 2.0 * GEMM_SIDE * GEMM_SIDE * GEMM_SIDE / seconds;
    return st;
}

/* ---- one row ----------------------------------------------------------------------------------------------------- */
static m2_status measure(const m2_probe *p, m2_device *dev, const m2_perf_limits *limits, m2_perf *out)
{
    m2_desc in[M2_MAX_IN], produced[M2_MAX_OUT];
    for (int i = 0; i < M2_MAX_IN; i++) in[i] = p->in[i].desc;
    for (int j = 0; j < M2_MAX_OUT; j++) produced[j] = p->out[j].desc;
    *out = (m2_perf){.op = p->op, .row = p->row};
    p->op->cost(&p->attrs, in, produced, &out->cost);
    M2_TRY(time_probe(p, dev, &out->seconds));
    double by_bytes = out->cost.bytes / limits->bandwidth, by_flops = out->cost.flops / limits->flops;
    out->by_flops = by_flops > by_bytes;
    out->share = (out->by_flops ? by_flops : by_bytes) / out->seconds;
    return M2_OK;
}

m2_status m2_perf_measure(const m2_case *row, const m2_probe_precision *prec, m2_device *dev,
                          const m2_perf_limits *limits, m2_perf out[2], int *n)
{
    enum { GPU_SCALE = 8, PERIOD = 65521 };
    m2_probe p, g = {0};
    M2_TRY(m2_probe_make(row, prec, strcmp(dev->api->kind, "cpu") ? GPU_SCALE : 1, PERIOD, &p));
    m2_status st = M2_OK;
    *n = 0;
    M2_TRY_GOTO(st, measure(&p, dev, limits, &out[0]), done);
    *n = 1;
    if (!p.op->grad || p.op->grad == p.op) goto done;
    M2_TRY_GOTO(st, m2_probe_grad(&p, ~0u, ~0u, &g), done);
    M2_TRY_GOTO(st, measure(&g, dev, limits, &out[1]), done);
    *n = 2;
done:
    m2_probe_free(&g);
    m2_probe_free(&p);
    return st;
}

/* ---- printing ---------------------------------------------------------------------------------------------------- */
void m2_perf_print_header(FILE *file, const m2_device *dev, const m2_perf_limits *limits)
{
    fprintf(file, "%s: copy %.1f GB/s, matrix product %.0f GFLOP/s\n", dev->name, limits->bandwidth * 1e-9,
            limits->flops * 1e-9);
    fprintf(file, "%-15s %10s %8s %9s %7s %-6s %s\n", "op", "ms", "GB/s", "GFLOP/s", "share", "of", "shapes");
}

void m2_perf_print(FILE *file, const m2_perf *p)
{
    fprintf(file, "%-15s %10.3f %8.1f %9.1f %6.0f%% %-6s %s%s%s\n", p->op->name, p->seconds * 1e3,
            p->cost.bytes / p->seconds * 1e-9, p->cost.flops / p->seconds * 1e-9, 100 * p->share,
            p->by_flops ? "GEMM" : "copy", p->row->tensors, *p->row->attrs ? "  " : "", p->row->attrs);
}
