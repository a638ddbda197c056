#include "tools/conv_trial.h"

#include "kernels/base/log.h"
#include "kernels/base/rng.h"
#include "kernels/base/threads.h"

#include <math.h>
#include <stdlib.h>

/* ---- tensors ------------------------------------------------------------------------------------------- */
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

m2_status conv_trial_open(m2_device *dev, const conv_setup *s, int64_t length, int gradient, conv_trial *t)
{
    const m2_op *op = gradient ? &m2_op_longconv_grad : &m2_op_longconv;
    m2_dtype real = s->dtype == M2_F64 ? M2_F64 : M2_F32;
    m2_desc u = m2_desc_make(s->dtype, "CBL", s->channels, conv_rows(s, length), length);
    m2_desc k = m2_desc_make(real, "CL", s->filters, length), d = m2_desc_make(real, "C", s->filters);
    m2_desc in[M2_MAX_IN] = {u, k, k, d, u, u, u, u}, out[M2_MAX_OUT] = {u, k, k, d, u, u};
    *t = (conv_trial){.device = dev, .call = {.op = op, .n_in = op->n_in, .n_out = op->n_out, .device = dev}};
    t->run = dev->api->lookup(dev, op);
    if (!t->run) return m2_fail(M2_USAGE, "m2 bench conv: %s has no kernel for %s", dev->name, op->name);
    for (int i = 0; i < M2_MAX_IN; i++) {
        int there = i < op->n_in && (i != 2 || s->two_sided) && (i < 4 || i > 6 || s->gates);
        if (!there) in[i] = m2_desc_none();
        t->in[i] = in[i];
        if (there) M2_TRY(fill(dev, &in[i], (uint64_t)i, &t->call.in[i]));
        if (i < M2_MAX_OUT && (gradient ? !there : i > 0)) out[i] = m2_desc_none();
    }
    for (int j = 0; j < M2_MAX_OUT; j++) {
        t->out[j] = out[j];
        if (out[j].rank < 0) continue;
        t->call.out[j] = m2_tensor_make(&out[j], NULL);
        M2_TRY(dev->api->alloc(dev, M2_MEM_DEVICE, m2_desc_bytes(&out[j]), &t->call.out[j].data));
    }
    op->cost(&t->call.attrs, in, out, &t->cost);
    return M2_OK;
}

void conv_trial_close(conv_trial *t)
{
    if (!t->device) return;
    const m2_device_api *api = t->device->api;
    for (int i = 0; i < M2_MAX_IN; i++) api->free(t->device, M2_MEM_DEVICE, t->call.in[i].data);
    for (int j = 0; j < M2_MAX_OUT; j++) api->free(t->device, M2_MEM_DEVICE, t->call.out[j].data);
    *t = (conv_trial){0};
}

/* ---- times --------------------------------------------------------------------------------------------- */
static m2_status run_once(conv_trial *t, m2_rival *rival)
{
    return rival ? rival->run(rival, &t->call) : t->run(&t->call);
}

static m2_status race(conv_trial *t, double seconds, m2_rival *rival, int first, int count, double *best)
{
    const m2_device_api *api = t->device->api;
    m2_event *from = NULL, *to = NULL;
    m2_status st;
    double begin = m2_now(), one;
    M2_TRY_GOTO(st, api->event_create(t->device, &from), done);
    M2_TRY_GOTO(st, api->event_create(t->device, &to), done);
    for (int i = 0; i < 4 || m2_now() - begin < seconds; i++)
        for (int v = 0; v < count; v++) {
            t->call.attrs.i[M2_LONGCONV_VARIANT] = first + v;
            M2_TRY_GOTO(st, api->event_record(t->device, from, NULL), done);
            M2_TRY_GOTO(st, run_once(t, rival), done);
            M2_TRY_GOTO(st, api->event_record(t->device, to, NULL), done);
            M2_TRY_GOTO(st, api->event_seconds(t->device, from, to, &one), done);
            if (i < 2 || one < best[v]) best[v] = one; /* the first does not count */
        }
done:
    if (from) api->event_destroy(t->device, from);
    if (to) api->event_destroy(t->device, to);
    return st;
}

/* Workspace that is enough for these variants. */
static m2_status with_workspace(conv_trial *t, int first, int count)
{
    const m2_device_api *api = t->device->api;
    t->call.workspace_bytes = 0;
    for (int v = first; v < first + count; v++) {
        t->call.attrs.i[M2_LONGCONV_VARIANT] = v;
        int64_t bytes = api->workspace(t->device, t->call.op, &t->call.attrs, t->in, t->out);
        if (bytes > t->call.workspace_bytes) t->call.workspace_bytes = bytes;
    }
    t->call.attrs.i[M2_LONGCONV_VARIANT] = first;
    return api->alloc(t->device, M2_MEM_DEVICE, t->call.workspace_bytes, &t->call.workspace);
}

static void without_workspace(conv_trial *t)
{
    t->device->api->free(t->device, M2_MEM_DEVICE, t->call.workspace);
    t->call.workspace = NULL;
    t->call.attrs.i[M2_LONGCONV_VARIANT] = 0;
}

m2_status conv_trial_time(conv_trial *t, double seconds, int first, int count, double *best)
{
    M2_TRY(with_workspace(t, first, count));
    m2_status st = race(t, seconds, NULL, first, count, best);
    without_workspace(t);
    return st;
}

m2_status conv_trial_time_rival(conv_trial *t, double seconds, m2_rival *rival, double *best)
{
    return race(t, seconds, rival, 0, 1, best);
}

/* ---- do they compute the same? ------------------------------------------------------------------------- */
static double value(const void *p, m2_dtype t, int64_t i)
{
    return t == M2_F64   ? ((const double *)p)[i]
           : t == M2_F32 ? (double)((const float *)p)[i]
                         : (double)m2_bf16_to_f32(((const uint16_t *)p)[i]);
}

static m2_status outputs(conv_trial *t, m2_rival *rival, void *y)
{
    M2_TRY(run_once(t, rival));
    M2_TRY(t->device->api->copy(t->device, y, t->call.out[0].data, m2_desc_bytes(&t->out[0]), NULL));
    return t->device->api->stream_sync(t->device, NULL);
}

m2_status conv_trial_compare(conv_trial *t, m2_rival *rival, double *difference)
{
    size_t bytes = (size_t)m2_desc_bytes(&t->out[0]);
    void *ours = malloc(bytes), *theirs = malloc(bytes);
    m2_status st =
        ours && theirs ? with_workspace(t, 0, 1) : m2_fail(M2_TRANSIENT, "m2 bench conv: out of memory");
    if (st == M2_OK) st = outputs(t, NULL, ours);
    if (st == M2_OK) st = outputs(t, rival, theirs);
    without_workspace(t);
    double wrong = 0, size = 0;
    for (int64_t i = 0; st == M2_OK && i < m2_desc_count(&t->out[0]); i++) {
        double a = value(ours, t->out[0].dtype, i), b = value(theirs, t->out[0].dtype, i);
        wrong += (a - b) * (a - b), size += b * b;
    }
    *difference = sqrt(wrong / size);
    free(ours);
    free(theirs);
    return st;
}

/* ---- the memory's speed -------------------------------------------------------------------------------- */
enum { RUNS = 5 };

static void copy_piece(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    char **p = ctx;
    memcpy(p[1] + begin, p[0] + begin, (size_t)(end - begin));
}

static m2_status copy_all(m2_device *dev, void *p[2], int64_t bytes)
{
    if (strcmp(dev->api->kind, "cpu")) return dev->api->copy(dev, p[1], p[0], bytes, NULL);
    m2_threads_for(dev->threads, bytes, 1 << 20, copy_piece, p);
    return M2_OK;
}

static m2_status time_copies(m2_device *dev, void *p[2], int64_t bytes, double *best)
{
    m2_event *from = NULL, *to = NULL;
    m2_status st;
    double t;
    *best = 1e30;
    M2_TRY_GOTO(st, dev->api->event_create(dev, &from), done);
    M2_TRY_GOTO(st, dev->api->event_create(dev, &to), done);
    for (int i = 0; i < RUNS; i++) {
        M2_TRY_GOTO(st, dev->api->event_record(dev, from, NULL), done);
        M2_TRY_GOTO(st, copy_all(dev, p, bytes), done);
        M2_TRY_GOTO(st, dev->api->event_record(dev, to, NULL), done);
        M2_TRY_GOTO(st, dev->api->event_seconds(dev, from, to, &t), done);
        if (i > 0 && t < *best) *best = t;
    }
done:
    if (from) dev->api->event_destroy(dev, from);
    if (to) dev->api->event_destroy(dev, to);
    return st;
}

m2_status conv_bandwidth(m2_device *dev, double *bytes_per_second)
{
    int64_t bytes = strcmp(dev->api->kind, "cpu") ? 1 << 29 : 1 << 27; /* larger than any cache */
    void *p[2] = {NULL, NULL};
    double best = 0;
    m2_status st;
    M2_TRY_GOTO(st, dev->api->alloc(dev, M2_MEM_DEVICE, bytes, &p[0]), done);
    M2_TRY_GOTO(st, dev->api->alloc(dev, M2_MEM_DEVICE, bytes, &p[1]), done);
    M2_TRY_GOTO(st, dev->api->fill(dev, p[0], 1, bytes, NULL), done);
    st = time_copies(dev, p, bytes, &best);
    *bytes_per_second = 2.0 * (double)bytes / best;
done:
    for (int i = 0; i < 2; i++) dev->api->free(dev, M2_MEM_DEVICE, p[i]);
    return st;
}
