/* linear.c - y = x W^T + b and its gradient, as matrix products without a transpose in memory.
 *
 * A tensor of tokens is a matrix (R tokens, width), stored by rows when token-major and by columns when channel-major;
 * each product below is written for that matrix and the storage becomes the GEMM's transposition flags. A product whose
 * result is stored by columns is computed as its transpose: (AB)^T = B^T A^T.
 *   y = x W^T + b     dx = dy W     dW = dy^T x     db = sum over tokens of dy */
#ifndef REAL
#include "kernels/base/blas.h"
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status linear_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    const m2_desc *x = &in[0], *w = &in[1], *b = &in[2];
    int x_cm = attrs->i[M2_LINEAR_X_CM] != 0, y_cm = attrs->i[M2_LINEAR_Y_CM] != 0;
    int ok = x->rank >= 1 && w->rank == 2 && (!(x_cm || y_cm) || x->rank == 3);
    if (ok) ok = x->shape[x_cm ? 0 : x->rank - 1] == w->shape[1];
    if (ok && b->rank >= 0) ok = m2i_is_vector(b, w->shape[0]);
    if (!ok)
        return m2i_bad_shape(&m2_op_linear, in,
                             x_cm ? "x (m, B, L), W (n, m), b (n)"
                                  : "x (..., m), rank 3 for y_cm, W (n, m), b (n)");
    int64_t n = w->shape[0];
    int from = x_cm, to = y_cm; /* first token dimension in x and y */
    out[0] = *x;
    for (int i = 0; i + 1 < x->rank; i++) {
        out[0].shape[to + i] = x->shape[from + i];
        out[0].axis[to + i] = x->axis[from + i];
    }
    out[0].shape[y_cm ? 0 : x->rank - 1] = n;
    out[0].axis[y_cm ? 0 : x->rank - 1] = 'C';
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static double product_flops(const m2_desc *in)
{
    return 2.0 * (double)m2_desc_count(&in[0]) * (double)in[1].shape[0];
}

static void linear_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = product_flops(in) + (in[2].rank >= 0 ? (double)m2_desc_count(&out[0]) : 0);
}

static void linear_grad_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = product_flops(in) * ((out[0].rank >= 0) + (out[1].rank >= 0)) +
                  (out[2].rank >= 0 ? (double)m2_desc_count(&in[2]) : 0);
}

static int64_t linear_grad_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out,
                                     int threads)
{
    (void)threads;
    if (out[2].rank < 0 || attrs->i[M2_LINEAR_Y_CM]) return 0;
    return m2i_partial_bytes(m2i_rows(&in[2]), m2i_last(&in[2]), in[2].dtype);
}

/* ---- products ------------------------------------------------------------------------------------------ */
/* A matrix (rows, cols); by columns: element (i, j) at data[j * rows + i]. */
typedef struct matrix {
    const m2_tensor *tensor;
    int64_t rows, cols;
    int by_columns;
} matrix;

static matrix tokens(const m2_tensor *t, int channel_major)
{
    int64_t width = t->shape[channel_major ? 0 : t->rank - 1], count = m2_tensor_count(t);
    return (matrix){t, width ? count / width : 0, width, channel_major};
}

static matrix weights(const m2_tensor *t)
{
    return (matrix){t, t->shape[0], t->shape[1], 0};
}

static matrix transposed(matrix a)
{
    return (matrix){a.tensor, a.cols, a.rows, !a.by_columns};
}

/* c = a b, or c += a b; with a bias (one element per column of c) c = a b + bias. */
static m2_status multiply(const m2_call *call, matrix c, matrix a, matrix b, const m2_tensor *bias, int acc)
{
    int bias_rows = c.by_columns;
    if (c.by_columns) {
        matrix t = transposed(a);
        a = transposed(b);
        b = t;
        c = transposed(c);
    }
    m2i_gemm g = {.dtype = c.tensor->dtype, .m = c.rows, .n = c.cols, .k = a.cols, .alpha = 1, .beta = acc};
    g.trans_a = a.by_columns;
    g.trans_b = b.by_columns;
    g.lda = a.by_columns ? a.rows : a.cols;
    g.ldb = b.by_columns ? b.rows : b.cols;
    g.ldc = c.cols;
    g.a = a.tensor->data;
    g.b = b.tensor->data;
    g.c = c.tensor->data;
    g.bias = bias ? bias->data : NULL;
    g.bias_rows = bias_rows;
    return m2i_gemm_run(&g, call->device->threads);
}

#define SELF "kernels/ops/linear.c"
#include "kernels/ops/twice.h"

/* ---- forward ------------------------------------------------------------------------------------------- */
static m2_status linear_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    matrix x = tokens(&c->in[0], c->attrs.i[M2_LINEAR_X_CM] != 0), w = weights(&c->in[1]);
    matrix y = tokens(&c->out[0], c->attrs.i[M2_LINEAR_Y_CM] != 0);
    return multiply(c, y, x, transposed(w), &c->in[2], 0);
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static m2_status linear_grad_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    int x_cm = c->attrs.i[M2_LINEAR_X_CM] != 0, y_cm = c->attrs.i[M2_LINEAR_Y_CM] != 0;
    matrix x = tokens(&c->in[0], x_cm), w = weights(&c->in[1]), dy = tokens(&c->in[2], y_cm);
    const m2_tensor *dx = &c->out[0], *dw = &c->out[1], *db = &c->out[2];
    if (!m2_absent(dx)) M2_TRY(multiply(c, tokens(dx, x_cm), dy, w, NULL, c->acc & 1));
    if (!m2_absent(dw)) M2_TRY(multiply(c, weights(dw), transposed(dy), x, NULL, c->acc >> 1 & 1));
    if (m2_absent(db)) return M2_OK;
    if (y_cm)
        m2i_spread(c, real, M2I_PAIR(sum_tokens), dy.cols, dy.rows, (void *)(uintptr_t)c);
    else
        m2i_column_sums(c, real, c->in[2].data, dy.rows, dy.cols, c->workspace, db->data, c->acc >> 2 & 1);
    return M2_OK;
}

#else
static void NAME(sum_tokens)(void *ctx, int64_t begin, int64_t end, int thread) /* of a channel-major dy */
{
    (void)thread;
    const m2_call *c = ctx;
    const m2_tensor *dy = &c->in[2];
    int64_t n = dy->shape[1] * dy->shape[2];
    REAL *db = c->out[2].data;
    for (int64_t k = begin; k < end; k++) {
        const REAL *row = (const REAL *)dy->data + k * n;
        REAL sum = 0;
        SIMD_SUM(sum)
        for (int64_t i = 0; i < n; i++) sum += row[i];
        db[k] = sum + (c->acc & 4 ? db[k] : 0);
    }
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_linear = {
    .name = "linear",
    .id = M2_OP_linear,
    .n_in = 3,
    .n_out = 1,
    .optional = 4,
    .in_name = {"x", "W", "b"},
    .out_name = {"y"},
    .attr_i = {"x_cm", "y_cm"},
    .shape = linear_shape,
    .cost = linear_cost,
    .run = linear_run,
    .grad = &m2_op_linear_grad,
    .grad_in = 3,
    .diff_out = 1,
    .diff_in = 7,
    .linear = 5,
};

const m2_op m2_op_linear_grad = {
    .name = "linear_grad",
    .id = M2_OP_linear_grad,
    .n_in = 3,
    .n_out = 3,
    .in_name = {"x", "W", "dy"},
    .out_name = {"dx", "dW", "db"},
    .attr_i = {"x_cm", "y_cm"},
    .cost = linear_grad_cost,
    .workspace = linear_grad_workspace,
    .run = linear_grad_run,
    .acc = 7,
    .apart = 1,
};
#endif
