/* norm.c - layer norm over the last dimension, alone and fused with the residual sum before it.
 *
 *   s = x (norm) or x + delta (addnorm);  mean, var of each row (biased);  r = 1/sqrt(var + eps)
 *   n = (s - mean) r,  y = n gamma + beta
 *   with g = dy gamma:  ds = r (g - mean(g) - n mean(g n)) [+ dsum],  dgamma = sum dy n,  dbeta = sum dy
 * A row is read from memory once and stays in the first cache for its two or three sweeps. */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status shape(const m2_op *op, const m2_attrs *attrs, const m2_desc *in, int n_x, m2_desc *y,
                       m2_desc *stats)
{
    const m2_desc *x = &in[0];
    int64_t width = m2i_last(x);
    int ok = x->rank >= 1 && m2i_is_vector(&in[n_x], width) && m2i_is_vector(&in[n_x + 1], width);
    if (ok && n_x == 2) ok = m2_desc_same_shape(&in[0], &in[1]);
    if (!ok)
        return m2i_bad_shape(op, in,
                             n_x == 2 ? "x (..., C), delta like x, gamma (C), beta (C)"
                                      : "x (..., C), gamma (C), beta (C)");
    *y = *x;
    y->dtype = (m2_dtype)attrs->i[M2_NORM_OUT_DTYPE];
    *stats = m2_desc_make(m2i_precise(x->dtype), "..", m2i_rows(x), (int64_t)2);
    return M2_OK;
}

static m2_status norm_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    return shape(&m2_op_norm, attrs, in, 1, &out[0], &out[1]);
}

static m2_status addnorm_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    out[0] = in[0];
    return shape(&m2_op_addnorm, attrs, in, 2, &out[1], &out[2]);
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void norm_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = 8.0 * (double)m2_desc_count(&in[0]);
}

static void norm_grad_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = 14.0 * (double)m2_desc_count(in[0].rank > 1 ? &in[0] : &in[1]);
}

/* Partial sums of dgamma and dbeta side by side: one allocation serves both. */
static int64_t grad_workspace(const m2_desc *x)
{
    return m2i_partial_bytes(m2i_rows(x), 2 * m2i_last(x), x->dtype);
}

static int64_t norm_grad_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)attrs, (void)out, (void)threads;
    return grad_workspace(&in[0]);
}

static int64_t addnorm_grad_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out,
                                      int threads)
{
    (void)attrs, (void)out, (void)threads;
    return grad_workspace(&in[1]);
}

/* ---- what both ops are to the kernels ------------------------------------------------------------------ */
typedef struct job {
    const m2_call *call;
    int64_t rows, width;
    const void *x, *delta, *gamma, *beta; /* forward; x is the sum in backward */
    void *sum, *y, *stats;
    const void *dsum, *dy;           /* backward; NULL: zero */
    void *ds, *ds2, *dgamma, *dbeta; /* NULL: not wanted */
    int acc_ds, acc_ds2;
    void *partial;
} job;

#define SELF "kernels/ops/norm.c"
#include "kernels/ops/twice.h"

static m2_status forward(job *j, const m2_tensor *x)
{
    m2_dtype real;
    M2_TRY(m2i_check(j->call, 0, &real));
    j->x = x->data;
    j->width = m2i_tensor_last(x);
    j->rows = m2_tensor_count(x) / (j->width ? j->width : 1);
    m2i_spread(j->call, real, M2I_PAIR(forward_rows), j->rows, j->width, j);
    return M2_OK;
}

static m2_status norm_run(const m2_call *c)
{
    job j = {.call = c,
             .gamma = c->in[1].data,
             .beta = c->in[2].data,
             .y = c->out[0].data,
             .stats = c->out[1].data};
    return forward(&j, &c->in[0]);
}

static m2_status addnorm_run(const m2_call *c)
{
    job j = {.call = c, .delta = c->in[1].data, .gamma = c->in[2].data, .beta = c->in[3].data};
    j.sum = c->out[0].data;
    j.y = c->out[1].data;
    j.stats = c->out[2].data;
    return forward(&j, &c->in[0]);
}

static m2_status backward(job *j, const m2_tensor *x, int first)
{
    const m2_call *c = j->call;
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    j->x = x->data;
    j->width = m2i_tensor_last(x);
    j->rows = m2_tensor_count(x) / (j->width ? j->width : 1);
    j->partial = c->workspace;
    j->ds = c->out[0].data;
    j->acc_ds = c->acc & 1;
    j->dgamma = c->out[first].data;
    j->dbeta = c->out[first + 1].data;
    int64_t chunks = m2i_chunk_count(j->rows), step = 2 * j->width;
    m2i_spread(c, real, M2I_PAIR(backward_chunks), chunks, m2i_chunk_rows(j->rows) * j->width, j);
    if (j->dgamma) m2i_fold(c, real, j->partial, chunks, j->width, step, j->dgamma, c->acc >> first & 1);
    const char *betas = (const char *)j->partial + j->width * m2_dtype_size(real);
    if (j->dbeta) m2i_fold(c, real, betas, chunks, j->width, step, j->dbeta, c->acc >> (first + 1) & 1);
    return M2_OK;
}

static m2_status norm_grad_run(const m2_call *c)
{
    job j = {.call = c, .gamma = c->in[1].data, .stats = c->in[2].data, .dy = c->in[3].data};
    return backward(&j, &c->in[0], 1);
}

static m2_status addnorm_grad_run(const m2_call *c)
{
    job j = {.call = c,
             .gamma = c->in[0].data,
             .stats = c->in[2].data,
             .dsum = c->in[3].data,
             .dy = c->in[4].data};
    j.ds2 = c->out[1].data;
    j.acc_ds2 = c->acc >> 1 & 1;
    return backward(&j, &c->in[1], 2);
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(forward_row)(const job *j, const REAL *s, REAL *y, REAL *stats, REAL eps)
{
    const REAL *gamma = j->gamma, *beta = j->beta;
    int64_t width = j->width;
    REAL sum = 0, squares = 0;
    SIMD_SUM(sum)
    for (int64_t i = 0; i < width; i++) sum += s[i];
    REAL mean = sum / (REAL)width;
    SIMD_SUM(squares)
    for (int64_t i = 0; i < width; i++) squares += (s[i] - mean) * (s[i] - mean);
    REAL r = 1 / FN(sqrt)(squares / (REAL)width + eps);
    SIMD
    for (int64_t i = 0; i < width; i++) y[i] = (s[i] - mean) * r * gamma[i] + beta[i];
    stats[0] = mean;
    stats[1] = r;
}

static void NAME(forward_rows)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = ctx;
    REAL eps = (REAL)j->call->attrs.f[M2_NORM_EPS];
    for (int64_t row = begin; row < end; row++) {
        const REAL *x = (const REAL *)j->x + row * j->width, *s = x;
        if (j->delta) {
            const REAL *delta = (const REAL *)j->delta + row * j->width;
            REAL *sum = (REAL *)j->sum + row * j->width;
            SIMD
            for (int64_t i = 0; i < j->width; i++) sum[i] = x[i] + delta[i];
            s = sum;
        }
        NAME(forward_row)(j, s, (REAL *)j->y + row * j->width, (REAL *)j->stats + 2 * row, eps);
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */
/* Sweep one: the row's two means, and its share of dgamma and dbeta. */
static void NAME(reduce_row)(const job *j, const REAL *s, const REAL *dy, REAL mean, REAL r, REAL *dgamma,
                             REAL *dbeta, REAL *mean_g, REAL *mean_gn)
{
    const REAL *gamma = j->gamma;
    REAL a = 0, b = 0;
    SIMD_SUM(a, b)
    for (int64_t i = 0; i < j->width; i++) {
        REAL n = (s[i] - mean) * r, g = dy[i] * gamma[i];
        a += g;
        b += g * n;
        dgamma[i] += dy[i] * n;
        dbeta[i] += dy[i];
    }
    *mean_g = a / (REAL)j->width;
    *mean_gn = b / (REAL)j->width;
}

/* Sweep two. ds and ds2 may be the memory of dsum or dy: each element is read before it is written. */
static void NAME(store_row)(const job *j, int64_t at, const REAL *dy, REAL mean, REAL r, REAL mean_g,
                            REAL mean_gn)
{
    const REAL *s = (const REAL *)j->x + at, *gamma = j->gamma;
    const REAL *dsum = j->dsum ? (const REAL *)j->dsum + at : NULL;
    REAL *ds = j->ds ? (REAL *)j->ds + at : NULL, *ds2 = j->ds2 ? (REAL *)j->ds2 + at : NULL;
    SIMD
    for (int64_t i = 0; i < j->width; i++) {
        REAL v = dsum ? dsum[i] : 0;
        if (dy) v += r * (dy[i] * gamma[i] - mean_g - (s[i] - mean) * r * mean_gn);
        if (ds) ds[i] = j->acc_ds ? ds[i] + v : v;
        if (ds2) ds2[i] = j->acc_ds2 ? ds2[i] + v : v;
    }
}

static void NAME(backward_chunks)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = ctx;
    int64_t step = m2i_chunk_rows(j->rows);
    for (int64_t k = begin; k < end; k++) {
        REAL *dgamma = (REAL *)j->partial + 2 * k * j->width, *dbeta = dgamma + j->width;
        memset(dgamma, 0, (size_t)(2 * j->width) * sizeof *dgamma);
        int64_t to = (k + 1) * step < j->rows ? (k + 1) * step : j->rows;
        for (int64_t row = k * step; row < to; row++) {
            int64_t at = row * j->width;
            const REAL *s = (const REAL *)j->x + at, *dy = j->dy ? (const REAL *)j->dy + at : NULL;
            const REAL *stats = (const REAL *)j->stats + 2 * row;
            REAL mean_g = 0, mean_gn = 0;
            if (dy) NAME(reduce_row)(j, s, dy, stats[0], stats[1], dgamma, dbeta, &mean_g, &mean_gn);
            NAME(store_row)(j, at, dy, stats[0], stats[1], mean_g, mean_gn);
        }
    }
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_norm = {
    .name = "norm",
    .id = M2_OP_norm,
    .n_in = 3,
    .n_out = 2,
    .in_name = {"x", "gamma", "beta"},
    .out_name = {"y", "stats"},
    .attr_i = {"out_dtype"},
    .attr_f = {"eps"},
    .shape = norm_shape,
    .cost = norm_cost,
    .run = norm_run,
    .grad = &m2_op_norm_grad,
    .grad_in = 3,
    .grad_out = 2,
    .diff_out = 1,
    .diff_in = 7,
    .inplace = {1},
    .linear = 6,
};

const m2_op m2_op_norm_grad = {
    .name = "norm_grad",
    .id = M2_OP_norm_grad,
    .n_in = 4,
    .n_out = 3,
    .in_name = {"x", "gamma", "stats", "dy"},
    .out_name = {"dx", "dgamma", "dbeta"},
    .attr_i = {"out_dtype"},
    .attr_f = {"eps"},
    .cost = norm_grad_cost,
    .workspace = norm_grad_workspace,
    .run = norm_grad_run,
    .acc = 7,
    .inplace = {4},
};

const m2_op m2_op_addnorm = {
    .name = "addnorm",
    .id = M2_OP_addnorm,
    .n_in = 4,
    .n_out = 3,
    .in_name = {"x", "delta", "gamma", "beta"},
    .out_name = {"sum", "y", "stats"},
    .attr_i = {"out_dtype"},
    .attr_f = {"eps"},
    .shape = addnorm_shape,
    .cost = norm_cost,
    .run = addnorm_run,
    .grad = &m2_op_addnorm_grad,
    .grad_in = 4,
    .grad_out = 5,
    .diff_out = 3,
    .diff_in = 15,
    .inplace = {1, 2},
};

const m2_op m2_op_addnorm_grad = {
    .name = "addnorm_grad",
    .id = M2_OP_addnorm_grad,
    .n_in = 5,
    .n_out = 4,
    .in_name = {"gamma", "sum", "stats", "dsum", "dy"},
    .out_name = {"dx", "ddelta", "dgamma", "dbeta"},
    .attr_i = {"out_dtype"},
    .attr_f = {"eps"},
    .cost = norm_grad_cost,
    .workspace = addnorm_grad_workspace,
    .run = addnorm_grad_run,
    .optional = 24,
    .acc = 15,
    .inplace = {4, 5},
};
#endif
