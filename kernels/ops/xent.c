/* xent.c - softmax cross entropy over the last dimension, and how often the largest logit is the target.
 *
 *   lse = m + log sum exp(x - m), m = max x;   loss = sum over valid rows of (lse - x[target]) / denom
 *   dx = (exp(x - lse) - [i = target]) dloss / denom in valid rows, 0 in ignored ones
 * Forward reads a row once: block by block, the running sum is rescaled when a block raises the maximum. */
#ifndef REAL
#include "kernels/ops/common.h"

#include <float.h>

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status xent_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    int64_t rows = m2i_rows(&in[0]);
    if (in[0].rank < 1 || in[1].dtype != M2_I32 || m2_desc_count(&in[1]) != rows)
        return m2i_bad_shape(&m2_op_xent, in, "logits (..., V), targets i32 with one element per row");
    m2_dtype precise = m2i_precise(in[0].dtype);
    out[0] = out[2] = m2_desc_make(precise, "");
    out[1] = m2_desc_make(precise, ".", rows);
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void xent_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = 15.0 * (double)m2_desc_count(&in[0]);
}

/* One loss and one hit per row, summed in order at the end. */
static int64_t xent_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)attrs, (void)out, (void)threads;
    return 2 * m2i_rows(&in[0]) * (int64_t)sizeof(double);
}

/* ---- targets ------------------------------------------------------------------------------------------- */
typedef struct job {
    const m2_call *call;
    int64_t rows, width;
    const int32_t *target;
    double *loss, *hit; /* forward */
    double scale;       /* backward: dloss / denom */
} job;

/* Checks the targets; *valid gets the number of rows that count. */
static m2_status open_job(const m2_call *c, job *j, int64_t *valid, m2_dtype *real)
{
    M2_TRY(m2i_check(c, 0, real));
    j->call = c;
    j->width = m2i_tensor_last(&c->in[0]);
    j->rows = m2_tensor_count(&c->in[1]);
    j->target = c->in[1].data;
    *valid = 0;
    for (int64_t i = 0; i < j->rows; i++) {
        if (j->target[i] == c->attrs.i[M2_XENT_IGNORE]) continue;
        if (j->target[i] < 0 || j->target[i] >= j->width)
            return m2_fail(M2_DATA,
                           "xent: target %d of row %lld is outside the vocabulary [0, %lld) and is not the "
                           "ignored value %lld",
                           (int)j->target[i], (long long)i, (long long)j->width,
                           (long long)c->attrs.i[M2_XENT_IGNORE]);
        ++*valid;
    }
    return M2_OK;
}

static double denominator(const m2_call *c, int64_t valid)
{
    int64_t n = c->attrs.i[M2_XENT_DENOM] ? c->attrs.i[M2_XENT_DENOM] : valid;
    return n ? (double)n : 1;
}

static double get_scalar(const m2_tensor *t)
{
    return t->dtype == M2_F64 ? *(const double *)t->data : (double)*(const float *)t->data;
}

static void put_scalar(const m2_tensor *t, double x)
{
    if (m2_absent(t)) return;
    if (t->dtype == M2_F64)
        *(double *)t->data = x;
    else
        *(float *)t->data = (float)x;
}

#define SELF "kernels/ops/xent.c"
#include "kernels/ops/twice.h"

static m2_status xent_run(const m2_call *c)
{
    job j;
    int64_t valid = 0;
    m2_dtype real;
    M2_TRY(open_job(c, &j, &valid, &real));
    j.loss = c->workspace;
    j.hit = j.loss + j.rows;
    m2i_spread(c, real, M2I_PAIR(xent_rows), j.rows, j.width, &j);
    double loss = 0, hits = 0;
    for (int64_t i = 0; i < j.rows; i++) {
        loss += j.loss[i];
        hits += j.hit[i];
    }
    put_scalar(&c->out[0], loss / denominator(c, valid));
    put_scalar(&c->out[2], hits);
    return M2_OK;
}

static m2_status xent_grad_run(const m2_call *c)
{
    job j;
    int64_t valid = 0;
    m2_dtype real;
    M2_TRY(open_job(c, &j, &valid, &real));
    if (m2_absent(&c->out[0])) return M2_OK;
    j.scale = (m2_absent(&c->in[3]) ? 1 : get_scalar(&c->in[3])) / denominator(c, valid);
    m2i_spread(c, real, M2I_PAIR(xent_grad_rows), j.rows, j.width, &j);
    return M2_OK;
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
enum { NAME(BLOCK) = 1024 };

static void NAME(xent_row)(const REAL *x, int64_t width, int32_t target, REAL *lse, double *loss, double *hit)
{
    REAL max = sizeof(REAL) == 8 ? (REAL)-DBL_MAX : (REAL)-FLT_MAX, sum = 0;
    int64_t best = 0; /* where the block with the maximum starts */
    for (int64_t at = 0; at < width; at += NAME(BLOCK)) {
        int64_t n = width - at < NAME(BLOCK) ? width - at : NAME(BLOCK);
        const REAL *b = x + at;
        REAL top = b[0], part = 0;
        SIMD_MAX(top)
        for (int64_t i = 0; i < n; i++) top = b[i] > top ? b[i] : top;
        if (top > max) {
            sum *= FN(exp)(max - top);
            max = top;
            best = at;
        }
        for (int64_t i = n; i < 2 * n; i += 64 / (int64_t)sizeof(REAL)) __builtin_prefetch(b + i);
        SIMD_SUM(part)
        for (int64_t i = 0; i < n; i++) part += FN(exp)(b[i] - max);
        sum += part;
    }
    while (best < width && x[best] != max) best++;
    *lse = max + (REAL)log((double)sum);
    *loss = (double)*lse - (double)x[target];
    *hit = best == target;
}

static void NAME(xent_rows)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = ctx;
    for (int64_t row = begin; row < end; row++) {
        int32_t target = j->target[row];
        int ignored = target == j->call->attrs.i[M2_XENT_IGNORE];
        const REAL *x = (const REAL *)j->call->in[0].data + row * j->width;
        REAL *lse = (REAL *)j->call->out[1].data + row;
        NAME(xent_row)(x, j->width, ignored ? 0 : target, lse, &j->loss[row], &j->hit[row]);
        if (ignored) j->loss[row] = j->hit[row] = 0;
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static void NAME(xent_grad_rows)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = ctx;
    const m2_call *c = j->call;
    int acc = c->acc & 1;
    for (int64_t row = begin; row < end; row++) {
        const REAL *x = (const REAL *)c->in[0].data + row * j->width;
        REAL *dx = (REAL *)c->out[0].data + row * j->width;
        REAL lse = ((const REAL *)c->in[2].data)[row], scale = (REAL)j->scale;
        if (j->target[row] == c->attrs.i[M2_XENT_IGNORE]) {
            if (!acc) memset(dx, 0, (size_t)j->width * sizeof *dx);
            continue;
        }
        STORE_EACH(i, j->width, dx, acc, FN(exp)(x[i] - lse) * scale);
        dx[j->target[row]] -= scale;
    }
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_xent = {
    .name = "xent",
    .id = M2_OP_xent,
    .n_in = 2,
    .n_out = 3,
    .in_name = {"logits", "targets"},
    .out_name = {"loss", "lse", "hits"},
    .attr_i = {"ignore", "denom"},
    .shape = xent_shape,
    .cost = xent_cost,
    .workspace = xent_workspace,
    .run = xent_run,
    .grad = &m2_op_xent_grad,
    .grad_in = 3,
    .grad_out = 2,
    .diff_out = 1,
    .diff_in = 1,
};

const m2_op m2_op_xent_grad = {
    .name = "xent_grad",
    .id = M2_OP_xent_grad,
    .n_in = 4,
    .n_out = 1,
    .optional = 8,
    .in_name = {"logits", "targets", "lse", "dloss"},
    .out_name = {"dlogits"},
    .attr_i = {"ignore", "denom"},
    .cost = xent_cost,
    .run = xent_grad_run,
    .acc = 1,
    .inplace = {1},
};
#endif
