/* shortconv.c - depthwise causal convolution of a few taps, with the gates of the mixer.
 *
 *   q[c,t] = b[c] + sum_{i<K} w[c,i] x[c,t-K+1+i];   no gate: g = q.  Gate: thirds q0, q1, q2 of the channels,
 *   g = q0, z = q2 q1 (first) or g = q1, z = q2 q0 (second).
 *   dq of the third in g is dg, of the other two dz times the other's q, which is computed again;
 *   dx[t] = sum_i w[i] dq[t+K-1-i],  dw[i] = sum over rows and t of dq[t] x[t-K+1+i],  db = sum dq.
 * Positions before a row are `left`, else zeros: x[t] = left[K-1+t], dleft[K-1+t] = dx[t] for -K < t < 0.
 * A row goes through blocks that stay in the first cache: memory is read and written once. Taps are taken in groups of up
 * to GROUP, each its own loop with everything in registers. */
#ifndef REAL
#include "kernels/ops/common.h"

enum { TAPS = 64, GROUP = 4, BLOCK = 1024 }; /* most taps; taps and positions at a time */
enum { LEFT = 3, DG, DZ, DLEFT = 3 };        /* slots after x, w, b, and after dx, dw, db */

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static int64_t chunks_of(const m2_attrs *attrs)
{
    return attrs->i[M2_SHORTCONV_CHUNKS] > 1 ? attrs->i[M2_SHORTCONV_CHUNKS] : 1;
}

static int shortconv_fits(const m2_desc *in, int64_t parts, int64_t chunks)
{
    const m2_desc *x = &in[0], *w = &in[1], *left = &in[LEFT];
    if (x->rank != 3 || w->rank != 2 || w->shape[0] != x->shape[0]) return 0;
    if (w->shape[1] < 1 || w->shape[1] > TAPS || !m2i_is_vector(&in[2], x->shape[0]) || x->shape[0] % parts)
        return 0;
    if (x->shape[2] % chunks) return 0;
    if (left->rank < 0) return 1;
    m2_desc before = m2i_with_last(*x, chunks * (w->shape[1] - 1), x->dtype);
    return m2_desc_same_shape(left, &before) && left->dtype == x->dtype;
}

static m2_status shortconv_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    int64_t parts = attrs->i[M2_SHORTCONV_GATE] == M2_GATE_NONE ? 1 : 3;
    if (!shortconv_fits(in, parts, chunks_of(attrs)))
        return m2i_bad_shape(&m2_op_shortconv, in,
                             parts == 1 ? "x (C, B, L), w (C, K), b (C), left (C, B, CHUNKS (K-1)), 1 <= K <= 64"
                                        : "x (3d, B, L), w (3d, K), b (3d), left (3d, B, CHUNKS (K-1)), 1 <= K <= 64");
    out[0] = in[0];
    out[0].shape[0] /= parts;
    out[1] = parts == 3 ? out[0] : m2_desc_none();
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
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

/* ---- what both ops are to the kernels ------------------------------------------------------------------ */
typedef struct job {
    const m2_call *call;
    int64_t width, batch, length, taps; /* width: channels of an output; batch, length: of chunks */
    int parts, direct, factor;          /* third that is g, third that multiplies the last in z */
} job;

static job describe(const m2_call *c)
{
    int64_t gate = c->attrs.i[M2_SHORTCONV_GATE];
    const m2_tensor *x = &c->in[0];
    job j = {c, x->shape[0], x->shape[1], x->shape[2], c->in[1].shape[1], gate == M2_GATE_NONE ? 1 : 3, 0, 1};
    j.width /= j.parts;
    j.batch *= chunks_of(&c->attrs); /* a chunk with its own left is a row like any other */
    j.length /= chunks_of(&c->attrs);
    if (gate == M2_GATE_SECOND) j.direct = 1, j.factor = 0;
    return j;
}

#define INLINE static inline __attribute__((always_inline))
#define SELF   "kernels/ops/shortconv.c"
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
/* ---- pieces of a row ----------------------------------------------------------------------------------- */
static int64_t NAME(row)(const job *j, int part, int64_t channel, int64_t batch)
{
    return ((part * j->width + channel) * j->batch + batch) * j->length;
}

/* x[at - K + 1 .. at + n) of a part's row, in `room` where it begins before the row, with `left` or zeros there. */
static const REAL *NAME(window)(const job *j, int part, int64_t c, int64_t batch, int64_t at, int64_t n,
                                REAL *room)
{
    const REAL *x = (const REAL *)j->call->in[0].data + NAME(row)(j, part, c, batch),
               *left = j->call->in[LEFT].data;
    int64_t before = j->taps - 1, missing = before - at, row = (part * j->width + c) * j->batch + batch;
    if (missing <= 0) return x + at - before;
    if (left)
        memcpy(room, left + row * before + at, (size_t)missing * sizeof *room);
    else
        memset(room, 0, (size_t)missing * sizeof *room);
    memcpy(room + missing, x, (size_t)(at + n) * sizeof *room);
    return room;
}

/* q[i] = start + sum_k w[k] x[i + k] for k < g; q[i] in place of start unless `first`. */
INLINE void NAME(add_taps)(int g, const REAL *w, const REAL *x, int64_t n, int first, REAL start, REAL *q)
{
    SIMD
    for (int64_t i = 0; i < n; i++) {
        REAL s = (first ? start : q[i]) + w[0] * x[i];
        if (g > 1) s += w[1] * x[i + 1];
        if (g > 2) s += w[2] * x[i + 2];
        if (g > 3) s += w[3] * x[i + 3];
        q[i] = s;
    }
}

/* q[0:n] = q of positions [at, at + n) of channel c of a part. */
static void NAME(taps)(const job *j, int part, int64_t c, int64_t batch, int64_t at, int64_t n, REAL *q)
{
    int64_t channel = part * j->width + c;
    const REAL *w = (const REAL *)j->call->in[1].data + channel * j->taps;
    REAL room[BLOCK + 2 * TAPS], b = ((const REAL *)j->call->in[2].data)[channel];
    const REAL *x = NAME(window)(j, part, c, batch, at, n, room);
    for (int64_t k = 0; k < j->taps; k += GROUP) {
        int64_t g = j->taps - k;
        if (g >= 4)
            NAME(add_taps)(4, w + k, x + k, n, k == 0, b, q);
        else if (g == 3)
            NAME(add_taps)(3, w + k, x + k, n, k == 0, b, q);
        else if (g == 2)
            NAME(add_taps)(2, w + k, x + k, n, k == 0, b, q);
        else
            NAME(add_taps)(1, w + k, x + k, n, k == 0, b, q);
    }
}

static void NAME(product)(const REAL *a, const REAL *b, int64_t n, REAL *y)
{
    SIMD
    for (int64_t i = 0; i < n; i++) y[i] = a[i] * b[i];
}

/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(forward)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = ctx;
    REAL *g = j->call->out[0].data, *z = j->parts == 3 ? j->call->out[1].data : NULL;
    REAL a[BLOCK], b[BLOCK];
    for (int64_t row = begin; row < end; row++) {
        int64_t c = row / j->batch, batch = row % j->batch, to = row * j->length;
        for (int64_t at = 0; at < j->length; at += BLOCK) {
            int64_t n = j->length - at < BLOCK ? j->length - at : BLOCK;
            if (g) NAME(taps)(j, j->direct, c, batch, at, n, g + to + at);
            if (!z) continue;
            NAME(taps)(j, j->factor, c, batch, at, n, a);
            NAME(taps)(j, 2, c, batch, at, n, b);
            NAME(product)(a, b, n, z + to + at);
        }
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */
/* For taps k < g: dx[i] += w[k] dq[i - k] (= unless acc), sum[k] += dq0[i] x[i + k], and sum[GROUP] += dq0[i]. */
INLINE void NAME(back_taps)(int g, const REAL *w, const REAL *dq, const REAL *dq0, const REAL *x, int64_t n,
                            int acc, REAL *dx, double *sum)
{
    REAL w1 = g > 1 ? w[1] : 0, w2 = g > 2 ? w[2] : 0, w3 = g > 3 ? w[3] : 0;
    if (g == 1) STORE_EACH(i, n, dx, acc, w[0] * dq[i]);
    if (g == 2) STORE_EACH(i, n, dx, acc, w[0] * dq[i] + w1 * dq[i - 1]);
    if (g == 3) STORE_EACH(i, n, dx, acc, w[0] * dq[i] + w1 * dq[i - 1] + w2 * dq[i - 2]);
    if (g == 4) STORE_EACH(i, n, dx, acc, w[0] * dq[i] + w1 * dq[i - 1] + w2 * dq[i - 2] + w3 * dq[i - 3]);
    REAL s0 = 0, s1 = 0, s2 = 0, s3 = 0, all = 0;
    _Pragma("omp simd reduction(+ : s0, s1, s2, s3, all)") for (int64_t i = 0; i < n; i++)
    {
        REAL q = dq0[i];
        all += q;
        s0 += q * x[i];
        if (g > 1) s1 += q * x[i + 1];
        if (g > 2) s2 += q * x[i + 2];
        if (g > 3) s3 += q * x[i + 3];
    }
    const REAL s[GROUP + 1] = {s0, s1, s2, s3, all};
    for (int k = 0; k < GROUP + 1; k++) sum[k] += (double)s[k];
}

/* dq[0:n] of part `part` from position `at` on; zero if its output has no gradient. */
static void NAME(upstream)(const job *j, int part, int64_t c, int64_t batch, int64_t at, int64_t n, REAL *dq)
{
    const m2_call *call = j->call;
    int direct = part == j->direct;
    const REAL *dy = direct ? call->in[DG].data : call->in[DZ].data;
    int64_t row = (c * j->batch + batch) * j->length + at;
    if (!dy) {
        memset(dq, 0, (size_t)n * sizeof *dq);
    } else if (direct) {
        memcpy(dq, dy + row, (size_t)n * sizeof *dq);
    } else {
        NAME(taps)(j, part == 2 ? j->factor : 2, c, batch, at, n, dq);
        NAME(product)(dq, dy + row, n, dq);
    }
}

/* dx of [at, at + n), dw and db of those positions, from dq of [at, at + n + K - 1), zero beyond the row. */
static void NAME(block_gradients)(const job *j, int64_t channel, const REAL *x, const REAL *dq, int64_t n,
                                  REAL *dx, int acc, double *dw, double *db)
{
    const REAL *w = (const REAL *)j->call->in[1].data + channel * j->taps, *last = dq + j->taps - 1;
    for (int64_t k = 0; k < j->taps; k += GROUP) {
        int64_t g = j->taps - k;
        double sum[GROUP + 1] = {0};
        if (g >= 4)
            NAME(back_taps)(4, w + k, last - k, dq, x + k, n, acc || k, dx, sum);
        else if (g == 3)
            NAME(back_taps)(3, w + k, last - k, dq, x + k, n, acc || k, dx, sum);
        else if (g == 2)
            NAME(back_taps)(2, w + k, last - k, dq, x + k, n, acc || k, dx, sum);
        else
            NAME(back_taps)(1, w + k, last - k, dq, x + k, n, acc || k, dx, sum);
        for (int64_t i = 0; i < GROUP && i < g; i++) dw[k + i] += sum[i];
        if (k == 0) *db += sum[GROUP];
    }
}

/* dleft of a row from dq of its first n >= min(K - 1, L) positions. */
static void NAME(left_gradient)(const job *j, int64_t channel, int64_t batch, const REAL *dq, int64_t n)
{
    const m2_call *call = j->call;
    int64_t before = j->taps - 1;
    const REAL *w = (const REAL *)call->in[1].data + channel * j->taps;
    REAL *dleft = (REAL *)call->out[DLEFT].data + (channel * j->batch + batch) * before;
    for (int64_t m = 0; m < before; m++) { /* position m - before; tap k takes it to position m - k */
        REAL sum = call->acc >> DLEFT & 1 ? dleft[m] : 0;
        for (int64_t k = m < n ? 0 : m - n + 1; k <= m; k++) sum += w[k] * dq[m - k];
        dleft[m] = sum;
    }
}

/* A channel of one part, all its rows. dx must not be the memory of x, dg or dz: neighbours are read again. */
static void NAME(backward_channel)(const job *j, int part, int64_t c)
{
    const m2_call *call = j->call;
    int64_t channel = part * j->width + c, taps = j->taps;
    double dw[TAPS] = {0}, db = 0;
    REAL dq[BLOCK + TAPS], room[BLOCK + 2 * TAPS], unwanted[BLOCK];
    for (int64_t batch = 0; batch < j->batch; batch++) {
        int64_t row = NAME(row)(j, part, c, batch);
        REAL *dx = call->out[0].data ? (REAL *)call->out[0].data + row : NULL;
        for (int64_t at = 0; at < j->length; at += BLOCK) {
            int64_t left = j->length - at, n = left < BLOCK ? left : BLOCK;
            int64_t with_halo = left < n + taps - 1 ? left : n + taps - 1;
            NAME(upstream)(j, part, c, batch, at, with_halo, dq);
            for (int64_t i = with_halo; i < n + taps - 1; i++) dq[i] = 0;
            if (at == 0 && call->out[DLEFT].data) NAME(left_gradient)(j, channel, batch, dq, with_halo);
            const REAL *x = NAME(window)(j, part, c, batch, at, n, room);
            NAME(block_gradients)
            (j, channel, x, dq, n, dx ? dx + at : unwanted, dx && (call->acc & 1), dw, &db);
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
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_shortconv = {
    .name = "shortconv",
    .id = M2_OP_shortconv,
    .n_in = 4,
    .n_out = 2,
    .optional = 1 << LEFT,
    .in_name = {"x", "w", "b", "left"},
    .out_name = {"g", "z"},
    .attr_i = {"gate", "chunks"},
    .shape = shortconv_shape,
    .cost = shortconv_cost,
    .run = shortconv_run,
    .grad = &m2_op_shortconv_grad,
    .grad_in = 15,
    .diff_out = 3,
    .diff_in = 15,
};

const m2_op m2_op_shortconv_grad = {
    .name = "shortconv_grad",
    .id = M2_OP_shortconv_grad,
    .n_in = 6,
    .n_out = 4,
    .optional = 1 << LEFT | 1 << DG | 1 << DZ,
    .in_name = {"x", "w", "b", "left", "dg", "dz"},
    .out_name = {"dx", "dw", "db", "dleft"},
    .attr_i = {"gate", "chunks"},
    .cost = shortconv_grad_cost,
    .run = shortconv_grad_run,
    .acc = 15,
};
#endif
