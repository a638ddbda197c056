/* filter.c - what the implicit filter needs besides linear layers: its sine activation and its decay.
 *
 *   sine:  y = sin(a x), a per feature;  dx = dy a cos(a x),  da = sum over rows of dy x cos(a x)
 *   decay: k[c,n] = h[c,n] exp(-t_n |delta_c|), its own gradient; column i is n = AT + i + i / RUN * JUMP */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status sine_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    if (in[0].rank < 1 || !m2i_is_vector(&in[1], m2i_last(&in[0])))
        return m2i_bad_shape(&m2_op_sine, in, "x (..., w) and a (w)");
    out[0] = in[0];
    return M2_OK;
}

static m2_status decay_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    if (in[0].rank != 2) return m2i_bad_shape(&m2_op_decay, in, "h (F, L)");
    if (attrs->i[M2_DECAY_LMAX] < 1)
        return m2_fail(M2_USAGE, "decay: lmax is %lld; it is the longest filter's number of taps, at least 1",
                       (long long)attrs->i[M2_DECAY_LMAX]);
    if (attrs->i[M2_DECAY_RUN] > 0 && in[0].shape[1] % attrs->i[M2_DECAY_RUN])
        return m2_fail(M2_USAGE, "decay: %lld columns are not runs of %lld", (long long)in[0].shape[1],
                       (long long)attrs->i[M2_DECAY_RUN]);
    out[0] = in[0];
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
enum { SINE_FLOPS = 20, EXP_FLOPS = 16 }; /* of the polynomials in vmath.h, reduction included */

static void sine_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = (double)m2_desc_count(&in[0]) * (SINE_FLOPS + 1);
}

static void sine_grad_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = (double)m2_desc_count(&in[0]) * (SINE_FLOPS + 5);
}

static void decay_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = (double)m2_desc_count(&in[0]) * (EXP_FLOPS + 2);
}

static int64_t sine_grad_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)attrs, (void)out, (void)threads;
    return m2i_partial_bytes(m2i_rows(&in[0]), m2i_last(&in[0]), in[0].dtype);
}

#define SELF "kernels/ops/filter.c"
#include "kernels/ops/twice.h"

static m2_status sine_run(const m2_call *c)
{
    int64_t width = m2i_tensor_last(&c->in[0]);
    return m2i_each(c, M2I_PAIR(sine), m2_tensor_count(&c->in[0]) / (width ? width : 1), width * SINE_FLOPS);
}

static m2_status sine_grad_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    int64_t width = m2i_tensor_last(&c->in[0]), rows = m2_tensor_count(&c->in[0]) / (width ? width : 1);
    int64_t chunks = m2i_chunk_count(rows);
    m2i_spread(c, real, M2I_PAIR(sine_grad), chunks, m2i_chunk_rows(rows) * width, (void *)(uintptr_t)c);
    if (c->out[1].data)
        m2i_fold(c, real, c->workspace, chunks, width, width, c->out[1].data, c->acc >> 1 & 1);
    return M2_OK;
}

static m2_status decay_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(decay), c->in[0].shape[0], c->in[0].shape[1] * EXP_FLOPS);
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(sine)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    int64_t width = m2i_tensor_last(&c->in[0]);
    const REAL *a = c->in[1].data;
    for (int64_t row = begin; row < end; row++) {
        const REAL *x = (const REAL *)c->in[0].data + row * width;
        REAL *y = (REAL *)c->out[0].data + row * width;
        SIMD
        for (int64_t i = 0; i < width; i++) y[i] = FN(sin)(a[i] * x[i]);
    }
}

static void NAME(decay)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    const m2_tensor *h = &c->in[0];
    int64_t length = h->shape[1], lmax = c->attrs.i[M2_DECAY_LMAX], from = h->origin[1] + c->attrs.i[M2_DECAY_AT];
    int64_t run = c->attrs.i[M2_DECAY_RUN] > 0 ? c->attrs.i[M2_DECAY_RUN] : length > 0 ? length : 1;
    double first = c->attrs.f[M2_DECAY_DELTA0], last = c->attrs.f[M2_DECAY_DELTA1];
    for (int64_t row = begin; row < end; row++) {
        double at = h->whole[0] > 1 ? (double)(h->origin[0] + row) / (double)(h->whole[0] - 1) : 0;
        double rate = lmax > 1 ? -fabs(first + at * (last - first)) / (double)(lmax - 1) : 0;
        const REAL *x = (const REAL *)h->data + row * length;
        REAL *y = (REAL *)c->out[0].data + row * length;
        for (int64_t begins = 0, n = from; begins < length; begins += run, n += run + c->attrs.i[M2_DECAY_JUMP])
            STORE_EACH(i, run, y + begins, c->acc & 1, x[begins + i] * FN(exp)((REAL)(rate * (double)(n + i))));
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static void NAME(sine_grad_row)(const REAL *x, const REAL *a, const REAL *dy, int64_t width, REAL *dx,
                                int acc, REAL *da)
{
    enum { BLOCK = 512 };
    REAL g[BLOCK];
    for (int64_t at = 0; at < width; at += BLOCK) {
        int64_t n = width - at < BLOCK ? width - at : BLOCK;
        SIMD
        for (int64_t i = 0; i < n; i++) g[i] = dy[at + i] * FN(cos)(a[at + i] * x[at + i]);
        SIMD
        for (int64_t i = 0; i < n; i++) da[at + i] += g[i] * x[at + i];
        if (dx) STORE_EACH(i, n, dx + at, acc, g[i] * a[at + i]);
    }
}

/* Chunk k of the rows adds its share of da to partial sum k. */
static void NAME(sine_grad)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    int64_t width = m2i_tensor_last(&c->in[0]), rows = m2_tensor_count(&c->in[0]) / (width ? width : 1);
    int64_t step = m2i_chunk_rows(rows);
    for (int64_t k = begin; k < end; k++) {
        REAL *da = (REAL *)c->workspace + k * width;
        memset(da, 0, (size_t)width * sizeof *da);
        for (int64_t row = k * step; row < (k + 1) * step && row < rows; row++) {
            const REAL *x = (const REAL *)c->in[0].data + row * width,
                       *dy = (const REAL *)c->in[2].data + row * width;
            REAL *dx = c->out[0].data ? (REAL *)c->out[0].data + row * width : NULL;
            NAME(sine_grad_row)(x, c->in[1].data, dy, width, dx, c->acc & 1, da);
        }
    }
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_sine = {
    .name = "sine",
    .id = M2_OP_sine,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"x", "a"},
    .out_name = {"y"},
    .shape = sine_shape,
    .cost = sine_cost,
    .run = sine_run,
    .grad = &m2_op_sine_grad,
    .grad_in = 3,
    .diff_out = 1,
    .diff_in = 3,
    .inplace = {1},
};

const m2_op m2_op_sine_grad = {
    .name = "sine_grad",
    .id = M2_OP_sine_grad,
    .n_in = 3,
    .n_out = 2,
    .in_name = {"x", "a", "dy"},
    .out_name = {"dx", "da"},
    .cost = sine_grad_cost,
    .workspace = sine_grad_workspace,
    .run = sine_grad_run,
    .acc = 3,
    .inplace = {3},
};

const m2_op m2_op_decay = {
    .name = "decay",
    .id = M2_OP_decay,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"h"},
    .out_name = {"k"},
    .attr_i = {"lmax", "at", "run", "jump"},
    .attr_f = {"delta0", "delta1"},
    .shape = decay_shape,
    .cost = decay_cost,
    .run = decay_run,
    .grad = &m2_op_decay,
    .diff_out = 1,
    .diff_in = 1,
    .acc = 1,
    .inplace = {1},
    .linear = 1,
};
#endif
