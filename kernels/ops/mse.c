/* mse.c - squared error: loss = sum (x - y)^2 / DENOM;  dx = 2 (x - y) dloss / DENOM. DENOM = 0: the number of elements.
 *
 * For targets that are numbers, such as how similar two sentences are. A handful of elements: one thread, one order. */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status mse_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    m2_dtype precise = m2i_precise(in[0].dtype);
    if (m2_desc_count(&in[0]) != m2_desc_count(&in[1]) || in[1].dtype != precise)
        return m2i_bad_shape(&m2_op_mse, in, "x, y in the precise dtype with as many elements");
    out[0] = m2_desc_make(precise, "");
    return M2_OK;
}

static double per_element(const m2_call *c)
{
    int64_t n = c->attrs.i[M2_MSE_DENOM] ? c->attrs.i[M2_MSE_DENOM] : m2_tensor_count(&c->in[0]);
    return n ? 1 / (double)n : 1;
}

#define SELF "kernels/ops/mse.c"
#include "kernels/ops/twice.h"

static m2_status mse_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(mse), 1, m2_tensor_count(&c->in[0]));
}

static m2_status mse_grad_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(mse_grad), m2_absent(&c->out[0]) ? 0 : 1, m2_tensor_count(&c->in[0]));
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(mse)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)begin, (void)end, (void)thread;
    const m2_call *c = ctx;
    const REAL *x = c->in[0].data, *y = c->in[1].data;
    double sum = 0;
    for (int64_t i = 0; i < m2_tensor_count(&c->in[0]); i++)
        sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    *(REAL *)c->out[0].data = (REAL)(sum * per_element(c));
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static void NAME(mse_grad)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)begin, (void)end, (void)thread;
    const m2_call *c = ctx;
    const REAL *x = c->in[0].data, *y = c->in[1].data;
    REAL *dx = c->out[0].data, scale = (REAL)(2 * per_element(c));
    if (!m2_absent(&c->in[2])) scale *= *(const REAL *)c->in[2].data;
    STORE_EACH(i, m2_tensor_count(&c->in[0]), dx, c->acc & 1, scale * (x[i] - y[i]));
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_mse = {
    .name = "mse",
    .id = M2_OP_mse,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"x", "y"},
    .out_name = {"loss"},
    .attr_i = {"denom"},
    .shape = mse_shape,
    .cost = m2_op_cost_bytes,
    .run = mse_run,
    .grad = &m2_op_mse_grad,
    .grad_in = 3,
    .diff_out = 1,
    .diff_in = 1,
};

const m2_op m2_op_mse_grad = {
    .name = "mse_grad",
    .id = M2_OP_mse_grad,
    .n_in = 3,
    .n_out = 1,
    .optional = 4,
    .in_name = {"x", "y", "dloss"},
    .out_name = {"dx"},
    .attr_i = {"denom"},
    .cost = m2_op_cost_bytes,
    .run = mse_grad_run,
    .acc = 1,
};
#endif
