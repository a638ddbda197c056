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

/* Runs op; a collective must count the bytes that were predicted. Outputs that are absent have data NULL. */
static inline m2_status call_op(bench *b, const m2_op *op, const m2_attrs *attrs, unsigned acc,
                                const m2_tensor *in, int n_in, m2_tensor *out, int n_out)
{
    m2_call c = {.op = op, .n_in = n_in, .n_out = n_out, .acc = acc, .context = b->comm, .device = b->device};
    m2_desc din[M2_MAX_IN], dout[M2_MAX_OUT];
    if (attrs) c.attrs = *attrs;
    for (int i = 0; i < M2_MAX_IN; i++) {
        if (i < n_in) c.in[i] = in[i];
        din[i] = i < n_in && in[i].data ? m2_tensor_desc(&in[i]) : m2_desc_none();
    }
    for (int j = 0; j < M2_MAX_OUT; j++) {
        if (j < n_out) c.out[j] = out[j];
        dout[j] = j < n_out && out[j].data ? m2_tensor_desc(&out[j]) : m2_desc_none();
    }
    c.workspace_bytes = op->workspace ? op->workspace(&c.attrs, din, dout, b->device->threads) : 0;
    c.workspace = aligned_alloc(256, (size_t)(c.workspace_bytes + 512) / 256 * 256);
    memset(c.workspace, 0xff, (size_t)c.workspace_bytes);
    int64_t before = b->comm->bytes_sent;
    m2_status st = op->run(&c);
    free(c.workspace);
    if (st != M2_OK) return st;
    int64_t sent = b->comm->bytes_sent - before;
    int64_t predicted =
        op->id < 0 ? m2_collective_bytes(op, &c.attrs, din, dout, b->comm->rank, b->comm->size) : 0;
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
    return b->comm->api->all_reduce(b->comm, sum, sum, 1, M2_F64, M2_SUM, NULL);
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
    LAW(fabs(left - right) < 1e-11 * (1 + fabs(left)) * (double)(m2_desc_count(&d) + 1),
        "%s: <Ax, v> = %.17g, <x, A'v> = %.17g", op->name, left, right);
    if (!(op->grad->acc & 1)) return NULL;
    m2_tensor base = noise(b, d, 77);
    WORKS(call_op(b, op->grad, attrs, 1, &v, 1, &sum, 1));
    for (int64_t i = 0; i < m2_desc_count(&d); i++)
        LAW(fabs(get(&sum, i) - get(&base, i) - get(&back, i)) < 1e-14, "%s does not add", op->grad->name);
    return NULL;
}
#endif
