/* shortconv.c - depthwise causal convolution of a few taps, with the gates of the mixer.
 *
 *   q[c,t] = b[c] + sum_{i<K} w[c,i] x[c,t-K+1+i];   no gate: g = q.  Gate: thirds q0, q1, q2 of the channels,
 *   g = q0, z = q2 q1 (first) or g = q1, z = q2 q0 (second).
 *   dq of the third in g is dg, of the other two dz times the other's q, which is computed again;
 *   dx[t] = sum_i w[i] dq[t+K-1-i],  dw[i] = sum over rows and t of dq[t] x[t-K+1+i],  db = sum dq.
 * A row goes through blocks that stay in the first cache: memory is read and written once. */
#ifndef REAL
#include "kernels/ops/common.h"

enum { TAPS = 64, BLOCK = 1024 }; /* most taps; positions at a time */

/* ---- shape rule -------------------------------------------------------------------------------------------------- */
static m2_status shortconv_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    int64_t parts = attrs->i[M2_SHORTCONV_GATE] == M2_GATE_NONE ? 1 : 3;
    const m2_desc *x = &in[0], *w = &in[1];
    if (x->rank != 3 || w->rank != 2 || w->shape[0] != x->shape[0] || w->shape[1] < 1 || w->shape[1] > TAPS ||
        !m2i_is_vector(&in[2], x->shape[0]) || x->shape[0] % parts)
        return m2i_bad_shape(&m2_op_shortconv, in,
                             parts == 1 ? "x (C, B, L), w (C, K), b (C), 1 <= K <= 64"
                                        : "x (3d, B, L), w (3d, K), b (3d), 1 <= K <= 64");
    out[0] = *x;
    out[0].shape[0] /= parts;
    out[1] = parts == 3 ? out[0] : m2_desc_none();
    return M2_OK;
}

/* ---- cost -------------------------------------------------------------------------------------------------------- */
static void shortconv_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = (double)m2_desc_count(&in[0]) * 2 * (double)in[1].shape[1] + (double)m2_desc_count(&out[1]);
}

static void shortconv_grad_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    double again = attrs->i[M2_SHORTCONV_GATE] == M2_GATE_NONE ? 0 : 2.0 / 3;
    cost->flops = (double)m2_desc_count(&in[0]) * ((4 + 2 * again) * (double)in[1].shape[1] + 1 + again);
}

/* ---- what both ops are to the kernels ---------------------------------------------------------------------------- */
typedef struct job {
    const m2_call *call;
    int64_t width, batch, length, taps; /* width: channels of an output */
    int parts, direct, factor;          /* third that is g, third that multiplies the last in z */
} job;

static job describe(const m2_call *c)
{
    int64_t gate = c->attrs.i[M2_SHORTCONV_GATE];
    const m2_tensor *x = &c->in[0];
    job j = {c, x->shape[0], x->shape[1], x->shape[2], c->in[1].shape[1], gate == M2_GATE_NONE ? 1 : 3, 0, 1};
    j.width /= j.parts;
    if (gate == M2_GATE_SECOND) j.direct = 1, j.factor = 0;
    return j;
}

#define SELF "kernels/ops/shortconv.c"
#include "kernels/ops/twice.h"

static m2_status shortconv_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    job j = describe(c);
    m2i_spread(c, real, M2I_PAIR(forward), j.width * j.batch, j.parts * j.length, &j);
    return M2_OK;
}

static m2_status shortconv_grad_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    job j = describe(c);
    m2i_spread(c, real, M2I_PAIR(backward), j.width, 2 * j.parts * j.batch * j.length, &j);
    return M2_OK;
}

#else
/* ---- pieces of a row --------------------------------------------------------------------------------------------- */
static int64_t NAME(row)(const job *j, int part, int64_t channel, int64_t batch)
{
    return ((part * j->width + channel) * j->batch + batch) * j->length;
}

/* q[0:n] = q of positions [at, at + n) of the row x. */
static void NAME(taps)(const job *j, int64_t channel, const REAL *x, int64_t at, int64_t n, REAL *q)
{
    const REAL *w = (const REAL *)j->call->in[1].data + channel * j->taps;
    REAL b = ((const REAL *)j->call->in[2].data)[channel];
    SIMD
    for (int64_t i = 0; i < n; i++) q[i] = b;
    for (int64_t k = 0; k < j->taps; k++) {
        int64_t shift = at - j->taps + 1 + k, from = shift < 0 ? -shift : 0;
        REAL v = w[k];
        SIMD
        for (int64_t i = from; i < n; i++) q[i] += v * x[shift + i];
    }
}

static void NAME(product)(const REAL *a, const REAL *b, int64_t n, REAL *y)
{
    SIMD
    for (int64_t i = 0; i < n; i++) y[i] = a[i] * b[i];
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */
static void NAME(forward)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = ctx;
    const REAL *x = j->call->in[0].data;
    REAL *g = j->call->out[0].data, *z = j->parts == 3 ? j->call->out[1].data : NULL;
    REAL a[BLOCK], b[BLOCK];
    for (int64_t row = begin; row < end; row++) {
        int64_t c = row / j->batch, batch = row % j->batch, to = row * j->length;
        for (int64_t at = 0; at < j->length; at += BLOCK) {
            int64_t n = j->length - at < BLOCK ? j->length - at : BLOCK;
            if (g) NAME(taps)(j, j->direct * j->width + c, x + NAME(row)(j, j->direct, c, batch), at, n, g + to + at);
            if (!z) continue;
            NAME(taps)(j, j->factor * j->width + c, x + NAME(row)(j, j->factor, c, batch), at, n, a);
            NAME(taps)(j, 2 * j->width + c, x + NAME(row)(j, 2, c, batch), at, n, b);
            NAME(product)(a, b, n, z + to + at);
        }
    }
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */
static double NAME(dot)(const REAL *a, const REAL *b, int64_t n) /* b NULL: ones */
{
    REAL s = 0;
    if (b) {
        SIMD_SUM(s)
        for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    } else {
        SIMD_SUM(s)
        for (int64_t i = 0; i < n; i++) s += a[i];
    }
    return (double)s;
}

/* dq[0:n] of part `part` from position `at` on; zero if its output has no gradient. */
static void NAME(upstream)(const job *j, int part, int64_t c, int64_t batch, int64_t at, int64_t n, REAL *dq)
{
    const m2_call *call = j->call;
    int direct = part == j->direct;
    const REAL *dy = direct ? call->in[3].data : call->in[4].data;
    int64_t row = (c * j->batch + batch) * j->length + at;
    if (!dy) {
        memset(dq, 0, (size_t)n * sizeof *dq);
    } else if (direct) {
        memcpy(dq, dy + row, (size_t)n * sizeof *dq);
    } else {
        int other = part == 2 ? j->factor : 2;
        const REAL *x = call->in[0].data;
        NAME(taps)(j, other * j->width + c, x + NAME(row)(j, other, c, batch), at, n, dq);
        NAME(product)(dq, dy + row, n, dq);
    }
}

/* dx of [at, at + n) from dq of [at, at + n + K - 1), zero beyond the row. */
static void NAME(input_gradient)(const job *j, int64_t channel, const REAL *dq, int64_t n, REAL *dx, int acc)
{
    const REAL *w = (const REAL *)j->call->in[1].data + channel * j->taps;
    for (int64_t k = 0; k < j->taps; k++) {
        const REAL *from = dq + j->taps - 1 - k;
        REAL v = w[k];
        STORE_EACH(i, n, dx, acc || k > 0, v * from[i]);
    }
}

/* A channel of one part, all its rows. dx must not be the memory of x, dg or dz: neighbours are read again. */
static void NAME(backward_channel)(const job *j, int part, int64_t c)
{
    const m2_call *call = j->call;
    int64_t channel = part * j->width + c, taps = j->taps;
    double dw[TAPS] = {0}, db = 0;
    REAL dq[BLOCK + TAPS];
    for (int64_t batch = 0; batch < j->batch; batch++) {
        int64_t row = NAME(row)(j, part, c, batch);
        const REAL *x = (const REAL *)call->in[0].data + row;
        REAL *dx = call->out[0].data ? (REAL *)call->out[0].data + row : NULL;
        for (int64_t at = 0; at < j->length; at += BLOCK) {
            int64_t left = j->length - at, n = left < BLOCK ? left : BLOCK;
            int64_t with_halo = left < n + taps - 1 ? left : n + taps - 1;
            NAME(upstream)(j, part, c, batch, at, with_halo, dq);
            for (int64_t i = with_halo; i < n + taps - 1; i++) dq[i] = 0;
            if (dx) NAME(input_gradient)(j, channel, dq, n, dx + at, call->acc & 1);
            db += NAME(dot)(dq, NULL, n);
            for (int64_t k = 0; call->out[1].data && k < taps; k++) {
                int64_t shift = at - taps + 1 + k, from = shift < 0 ? -shift : 0;
                if (from < n) dw[k] += NAME(dot)(dq + from, x + shift + from, n - from);
            }
        }
    }
    REAL *out_w = call->out[1].data, *out_b = call->out[2].data;
    for (int64_t k = 0; out_w && k < taps; k++)
        out_w[channel * taps + k] = (REAL)dw[k] + (call->acc & 2 ? out_w[channel * taps + k] : 0);
    if (out_b) out_b[channel] = (REAL)db + (call->acc & 4 ? out_b[channel] : 0);
}

static void NAME(backward)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = ctx;
    for (int64_t c = begin; c < end; c++)
        for (int part = 0; part < j->parts; part++) NAME(backward_channel)(j, part, c);
}
#endif

#ifndef REAL
/* ---- descriptors ------------------------------------------------------------------------------------------------- */
const m2_op m2_op_shortconv = {
    .name = "shortconv",
    .id = M2_OP_shortconv,
    .n_in = 3,
    .n_out = 2,
    .in_name = {"x", "w", "b"},
    .out_name = {"g", "z"},
    .attr_i = {"gate"},
    .shape = shortconv_shape,
    .cost = shortconv_cost,
    .run = shortconv_run,
    .grad = &m2_op_shortconv_grad,
    .grad_in = 7,
    .diff_out = 3,
    .diff_in = 7,
};

const m2_op m2_op_shortconv_grad = {
    .name = "shortconv_grad",
    .id = M2_OP_shortconv_grad,
    .n_in = 5,
    .n_out = 3,
    .optional = 1 << 3 | 1 << 4,
    .in_name = {"x", "w", "b", "dg", "dz"},
    .out_name = {"dx", "dw", "db"},
    .attr_i = {"gate"},
    .cost = shortconv_grad_cost,
    .run = shortconv_grad_run,
    .acc = 7,
};
#endif
