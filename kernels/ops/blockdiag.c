/* blockdiag.c - a block-diagonal linear layer: block k maps p inputs to q outputs, y_k = x_k W_k^T + b_k.
 *
 * Blocks are a strided batch of GEMMs on the token matrix: nothing is copied. The last blocks may be ragged: block k
 * has p_k = clamp(m - k p, 0, p) inputs and q_k = clamp(n - k q, 0, q) outputs, and entries of W beyond these are not
 * used and get a zero gradient. Full blocks go as one batch, ragged ones one by one.
 *   dx_k = dy_k W_k     dW_k = dy_k^T x_k     db = sum over tokens of dy */
#ifndef REAL
#include "kernels/base/blas.h"
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static int64_t width_out(const m2_attrs *attrs, const int64_t *w_shape)
{
    int64_t n = attrs->i[M2_BLOCKDIAG_N_OUT];
    return n ? n : w_shape[0] * w_shape[1];
}

static m2_status blockdiag_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    const m2_desc *x = &in[0], *w = &in[1], *b = &in[2];
    int ok = x->rank >= 1 && w->rank == 3 && m2i_last(x) <= w->shape[0] * w->shape[2];
    int64_t n = ok ? width_out(attrs, w->shape) : 0;
    if (ok) ok = n > 0 && n <= w->shape[0] * w->shape[1] && (b->rank < 0 || m2i_is_vector(b, n));
    if (!ok)
        return m2i_bad_shape(&m2_op_blockdiag, in,
                             "x (..., m), W (nb, q, p) with m <= nb p, b (n), n_out <= nb q");
    out[0] = m2i_with_last(*x, n, x->dtype);
    out[0].axis[x->rank - 1] = 'C';
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static int64_t clamp(int64_t x, int64_t hi)
{
    return x < 0 ? 0 : x > hi ? hi : x;
}

static double product_flops(const m2_attrs *attrs, const m2_desc *in)
{
    const int64_t *w = in[1].shape;
    int64_t m = m2i_last(&in[0]), n = width_out(attrs, w);
    double sum = 0;
    for (int64_t k = 0; k < w[0]; k++)
        sum += (double)clamp(m - k * w[2], w[2]) * (double)clamp(n - k * w[1], w[1]);
    return 2.0 * (double)m2i_rows(&in[0]) * sum;
}

static void blockdiag_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = product_flops(attrs, in) + (in[2].rank >= 0 ? (double)m2_desc_count(&out[0]) : 0);
}

static void blockdiag_grad_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = product_flops(attrs, in) * ((out[0].rank >= 0) + (out[1].rank >= 0)) +
                  (out[2].rank >= 0 ? (double)m2_desc_count(&in[2]) : 0);
}

static int64_t blockdiag_grad_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out,
                                        int threads)
{
    (void)attrs, (void)threads;
    return out[2].rank < 0 ? 0 : m2i_partial_bytes(m2i_rows(&in[2]), m2i_last(&in[2]), in[2].dtype);
}

/* ---- products ------------------------------------------------------------------------------------------ */
/* The sides of block k's three matrices: x (rows, p_k), W (q_k, p_k), y (rows, q_k). */
typedef struct blocks {
    int64_t rows, m, n, nb, q, p;
} blocks;

typedef enum which { PRODUCT_Y, PRODUCT_DX, PRODUCT_DW } which;

/* `count` blocks from block k on, all p_k by q_k. x, w, y are whole tensors or their gradients. */
static m2i_gemm product(const blocks *s, which what, int64_t k, int64_t count, char *x, char *w, char *y,
                        m2_dtype real)
{
    int64_t size = m2_dtype_size(real), pk = clamp(s->m - k * s->p, s->p), qk = clamp(s->n - k * s->q, s->q);
    x += k * s->p * size;
    w += k * s->q * s->p * size;
    y += k * s->q * size;
    m2i_gemm g = {.dtype = real, .alpha = 1, .batch = count};
    switch (what) {
    case PRODUCT_Y:
        g.m = s->rows, g.n = qk, g.k = pk, g.trans_b = 1;
        g.a = x, g.lda = s->m, g.step_a = s->p;
        g.b = w, g.ldb = s->p, g.step_b = s->q * s->p;
        g.c = y, g.ldc = s->n, g.step_c = s->q;
        break;
    case PRODUCT_DX:
        g.m = s->rows, g.n = pk, g.k = qk;
        g.a = y, g.lda = s->n, g.step_a = s->q;
        g.b = w, g.ldb = s->p, g.step_b = s->q * s->p;
        g.c = x, g.ldc = s->m, g.step_c = s->p;
        break;
    case PRODUCT_DW:
        g.m = qk, g.n = pk, g.k = s->rows, g.trans_a = 1;
        g.a = y, g.lda = s->n, g.step_a = s->q;
        g.b = x, g.ldb = s->m, g.step_b = s->p;
        g.c = w, g.ldc = s->p, g.step_c = s->q * s->p;
        break;
    }
    return g;
}

static m2_status multiply(const m2_call *c, which what, const m2_tensor *x, const m2_tensor *w,
                          const m2_tensor *y, const m2_tensor *bias, int acc)
{
    blocks s = {.m = m2i_tensor_last(x),
                .n = m2i_tensor_last(y),
                .nb = w->shape[0],
                .q = w->shape[1],
                .p = w->shape[2]};
    s.rows = m2_tensor_count(x) / (s.m ? s.m : 1);
    int64_t full = s.m / s.p < s.n / s.q ? s.m / s.p : s.n / s.q;
    for (int64_t k = 0; k < s.nb; k += k < full ? full : 1) {
        m2i_gemm g = product(&s, what, k, k < full ? full : 1, x->data, w->data, y->data, w->dtype);
        g.beta = acc;
        if (bias && bias->data) {
            g.bias = (char *)bias->data + k * s.q * m2_dtype_size(w->dtype);
            g.step_bias = s.q;
        }
        M2_TRY(m2i_gemm_run(&g, c->device->threads));
    }
    return M2_OK;
}

/* ---- forward ------------------------------------------------------------------------------------------- */
static m2_status blockdiag_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    return multiply(c, PRODUCT_Y, &c->in[0], &c->in[1], &c->out[0], &c->in[2], 0);
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static m2_status blockdiag_grad_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    const m2_tensor *x = &c->in[0], *w = &c->in[1], *dy = &c->in[2];
    const m2_tensor *dx = &c->out[0], *dw = &c->out[1], *db = &c->out[2];
    if (!m2_absent(dx)) M2_TRY(multiply(c, PRODUCT_DX, dx, w, dy, NULL, c->acc & 1));
    if (!m2_absent(dw)) {
        int ragged =
            m2i_tensor_last(x) < w->shape[0] * w->shape[2] || m2i_tensor_last(dy) < w->shape[0] * w->shape[1];
        if (ragged && !(c->acc & 2)) memset(dw->data, 0, (size_t)m2_tensor_bytes(dw));
        M2_TRY(multiply(c, PRODUCT_DW, x, dw, dy, NULL, c->acc >> 1 & 1));
    }
    if (!m2_absent(db)) {
        int64_t n = m2i_tensor_last(dy);
        m2i_column_sums(c, real, dy->data, m2_tensor_count(dy) / n, n, c->workspace, db->data,
                        c->acc >> 2 & 1);
    }
    return M2_OK;
}

/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_blockdiag = {
    .name = "blockdiag",
    .id = M2_OP_blockdiag,
    .n_in = 3,
    .n_out = 1,
    .optional = 4,
    .in_name = {"x", "W", "b"},
    .out_name = {"y"},
    .attr_i = {"n_out"},
    .shape = blockdiag_shape,
    .cost = blockdiag_cost,
    .run = blockdiag_run,
    .grad = &m2_op_blockdiag_grad,
    .grad_in = 3,
    .diff_out = 1,
    .diff_in = 7,
    .linear = 5,
};

const m2_op m2_op_blockdiag_grad = {
    .name = "blockdiag_grad",
    .id = M2_OP_blockdiag_grad,
    .n_in = 3,
    .n_out = 3,
    .in_name = {"x", "W", "dy"},
    .out_name = {"dx", "dW", "db"},
    .attr_i = {"n_out"},
    .cost = blockdiag_grad_cost,
    .workspace = blockdiag_grad_workspace,
    .run = blockdiag_grad_run,
    .acc = 7,
    .apart = 1,
};
#endif
