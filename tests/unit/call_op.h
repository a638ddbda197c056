/* call_op.h - single calls of ops with tensors in host memory, for tests of collectives: their bytes are checked against
 * the prediction, their gradients against their adjoints. */
#ifndef M2_TESTS_CALL_OP_H
#define M2_TESTS_CALL_OP_H

#include "kernels/op.h"
#include "tests/unit/comm_laws.h"

#include <math.h>

/* ---- calls on one rank ------------------------------------------------------------------------------------------- */
enum { LAW_TENSORS = 512 };

typedef struct bench {
    m2_comm *comm;
    m2_device *device;
    m2_dtype t;
    void *owned[LAW_TENSORS];
    int n;
} bench;

static inline m2_tensor fresh(bench *b, m2_desc d)
{
    void *data = malloc((size_t)m2_desc_bytes(&d) + 1);
    memset(data, 0xff, (size_t)m2_desc_bytes(&d) + 1); /* NaN: what is not written shows */
    b->owned[b->n++] = data;
    return m2_tensor_make(&d, data);
}

static inline void done_with(bench *b)
{
    while (b->n) free(b->owned[--b->n]);
}

static inline double get(const m2_tensor *t, int64_t i)
{
    return t->dtype == M2_F64 ? ((double *)t->data)[i] : (double)((float *)t->data)[i];
}

static inline void set(m2_tensor *t, int64_t i, double v)
{
    if (t->dtype == M2_F64)
        ((double *)t->data)[i] = v;
    else
        ((float *)t->data)[i] = (float)v;
}

/* A tensor of pseudo-random numbers in (-1, 1): element i depends on (stream, i) alone. */
static inline m2_tensor noise(bench *b, m2_desc d, int stream)
{
    m2_tensor t = fresh(b, d);
    for (int64_t i = 0; i < m2_desc_count(&d); i++)
        set(&t, i, (double)law_hash(stream, i) / 2147483648.0 - 1);
    return t;
}

/* ---- tensors on a device whose memory is not the host's ----------------------------------------------------------- */
/* Moves a tensor there: the same memory for what is the same memory in `others`. */
static inline m2_status move_in(m2_device *dev, m2_tensor *t, const m2_tensor *from, const m2_tensor *others,
                                int n, const void *const *homes)
{
    *t = *from;
    if (!from->data) return M2_OK;
    for (int i = 0; i < n; i++)
        if (homes[i] == from->data) return t->data = others[i].data, M2_OK;
    M2_TRY(dev->api->alloc(dev, M2_MEM_DEVICE, m2_tensor_bytes(from) + 1, &t->data));
    return dev->api->copy(dev, t->data, from->data, m2_tensor_bytes(from), NULL);
}

/* The run of a call in the device's memory, its outputs copied back. Leaks there on failure: the test ends then. */
static inline m2_status run_there(m2_call *c, m2_run_fn run)
{
    m2_device *dev = c->device;
    m2_tensor here[M2_MAX_OUT], *all[] = {c->in, c->out};
    const void *homes[M2_MAX_IN + M2_MAX_OUT] = {0};
    m2_tensor moved[M2_MAX_IN + M2_MAX_OUT];
    int n = 0, sizes[] = {c->n_in, c->n_out};
    memcpy(here, c->out, sizeof here);
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < sizes[side]; i++, n++) {
            M2_TRY(move_in(dev, &moved[n], &all[side][i], moved, n, homes));
            homes[n] = all[side][i].data;
            all[side][i] = moved[n];
        }
    M2_TRY(dev->api->alloc(dev, M2_MEM_DEVICE, c->workspace_bytes + 1, &c->workspace));
    M2_TRY(dev->api->fill(dev, c->workspace, 0xff, c->workspace_bytes, NULL));
    M2_TRY(run(c));
    for (int j = 0; j < c->n_out; j++)
        if (here[j].data)
            M2_TRY(dev->api->copy(dev, here[j].data, c->out[j].data, m2_tensor_bytes(&here[j]), NULL));
    M2_TRY(dev->api->stream_sync(dev, NULL));
    for (int i = 0; i < n; i++) {
        int first = 1;
        for (int k = 0; k < i; k++) first &= moved[k].data != moved[i].data;
        if (first && moved[i].data) dev->api->free(dev, M2_MEM_DEVICE, moved[i].data);
    }
    dev->api->free(dev, M2_MEM_DEVICE, c->workspace);
    return M2_OK;
}

static inline m2_status run_here(m2_call *c, m2_run_fn run)
{
    c->workspace = aligned_alloc(256, (size_t)(c->workspace_bytes + 512) / 256 * 256);
    memset(c->workspace, 0xff, (size_t)c->workspace_bytes);
    m2_status st = run(c);
    free(c->workspace);
    return st;
}

/* ---- a call ------------------------------------------------------------------------------------------------------ */
/* Runs op; a collective must count the bytes that were predicted. Outputs that are absent have data NULL. */
static inline m2_status call_op(bench *b, const m2_op *op, const m2_attrs *attrs, unsigned acc,
                                const m2_tensor *in, int n_in, m2_tensor *out, int n_out)
{
    m2_call c = {.op = op, .n_in = n_in, .n_out = n_out, .acc = acc, .context = b->comm, .device = b->device};
    m2_desc din[M2_MAX_IN], dout[M2_MAX_OUT];
    const m2_device_api *api = b->device->api;
    if (attrs) c.attrs = *attrs;
    for (int i = 0; i < M2_MAX_IN; i++) {
        if (i < n_in) c.in[i] = in[i];
        din[i] = i < n_in && in[i].data ? m2_tensor_desc(&in[i]) : m2_desc_none();
    }
    for (int j = 0; j < M2_MAX_OUT; j++) {
        if (j < n_out) c.out[j] = out[j];
        dout[j] = j < n_out && out[j].data ? m2_tensor_desc(&out[j]) : m2_desc_none();
    }
    if (op->id >= 0)
        c.workspace_bytes = api->workspace(b->device, op, &c.attrs, din, dout);
    else if (op->workspace)
        c.workspace_bytes = op->workspace(&c.attrs, din, dout, b->device->threads);
    m2_run_fn run = op->id < 0 ? op->run : api->lookup(b->device, op);
    if (!run) return m2_fail(M2_BUG, "%s has no kernel for %s", b->device->name, op->name);
    int64_t before = b->comm->bytes_sent;
    M2_TRY(!strcmp(api->kind, "cpu") ? run_here(&c, run) : run_there(&c, run));
    int64_t sent = b->comm->bytes_sent - before, predicted = 0;
    if (op->id < 0) predicted = m2_collective_bytes(op, &c.attrs, din, dout, b->comm->rank, b->comm->size);
    if (sent != predicted)
        return m2_fail(M2_BUG, "%s on rank %d of %d sent %lld bytes, predicted %lld", op->name, b->comm->rank,
                       b->comm->size, (long long)sent, (long long)predicted);
    return M2_OK;
}

/* y = op(x) with y's shape from the op's rule. */
static inline m2_status apply(bench *b, const m2_op *op, const m2_attrs *attrs, const m2_tensor *x,
                              m2_tensor *y)
{
    m2_desc in[M2_MAX_IN], out[M2_MAX_OUT];
    for (int i = 0; i < M2_MAX_IN; i++) in[i] = i ? m2_desc_none() : m2_tensor_desc(x);
    m2_status st = op->shape(attrs, in, out);
    if (st != M2_OK) return st;
    *y = fresh(b, out[0]);
    return call_op(b, op, attrs, 0, x, 1, y, 1);
}

/* ---- adjoints ---------------------------------------------------------------------------------------------------- */
static inline m2_status dot(bench *b, const m2_tensor *x, const m2_tensor *y, double *sum)
{
    *sum = 0;
    for (int64_t i = 0; i < m2_tensor_count(x); i++) *sum += get(x, i) * get(y, i);
    m2_comm *host = b->comm->host;
    return host->api->all_reduce(host, sum, sum, 1, M2_F64, M2_SUM, NULL);
}

/* <A x, v> = <x, A' v> over all ranks, and A' v added to something is that something plus A' v. */
static inline const char *law_adjoint(bench *b, const m2_op *op, const m2_attrs *attrs, m2_desc d)
{
    m2_tensor x = noise(b, d, b->comm->rank), y, back = fresh(b, d), sum = noise(b, d, 77);
    WORKS(apply(b, op, attrs, &x, &y));
    m2_tensor v = noise(b, m2_tensor_desc(&y), 100 + b->comm->rank);
    WORKS(call_op(b, op->grad, attrs, 0, &v, 1, &back, 1));
    double left, right;
    WORKS(dot(b, &y, &v, &left));
    WORKS(dot(b, &x, &back, &right));
    LAW(fabs(left - right) <
            (b->t == M2_F64 ? 1e-11 : 1e-5) * (1 + fabs(left)) * (double)(m2_desc_count(&d) + 1),
        "%s: <Ax, v> = %.17g, <x, A'v> = %.17g", op->name, left, right);
    if (!(op->grad->acc & 1)) return NULL;
    m2_tensor base = noise(b, d, 77);
    WORKS(call_op(b, op->grad, attrs, 1, &v, 1, &sum, 1));
    for (int64_t i = 0; i < m2_desc_count(&d); i++)
        LAW(fabs(get(&sum, i) - get(&base, i) - get(&back, i)) < (b->t == M2_F64 ? 1e-14 : 1e-5),
            "%s does not add", op->grad->name);
    return NULL;
}
#endif
