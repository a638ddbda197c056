/* gather.c - rows by index: y[i] = x[idx[i]], zeros where idx[i] < 0; dx[idx[i]] += dy[i].
 *
 * Used to run a head on the masked positions only. An index may repeat. */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status gather_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    if (in[0].rank < 1 || in[1].rank != 1 || in[1].dtype != M2_I32)
        return m2i_bad_shape(&m2_op_gather, in, "x (..., C), idx i32 (n)");
    out[0] = m2_desc_make(in[0].dtype, ".C", in[1].shape[0], m2i_last(&in[0]));
    out[0].axis[0] = in[1].axis[0];
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void gather_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    (void)attrs;
    cost->flops = 0;
    cost->bytes = (double)m2_desc_bytes(&in[1]) + 2.0 * (double)m2_desc_bytes(&out[0]);
}

#define SELF "kernels/ops/gather.c"
#include "kernels/ops/twice.h"

static m2_status check_indices(const m2_tensor *idx, int64_t rows)
{
    for (int64_t i = 0; i < idx->shape[0]; i++)
        if (((const int32_t *)idx->data)[i] >= rows)
            return m2_fail(M2_DATA, "gather: index %d at place %lld is beyond the %lld rows",
                           (int)((const int32_t *)idx->data)[i], (long long)i, (long long)rows);
    return M2_OK;
}

static m2_status gather_run(const m2_call *c)
{
    int64_t width = m2i_tensor_last(&c->in[0]);
    M2_TRY(check_indices(&c->in[1], width ? m2_tensor_count(&c->in[0]) / width : 0));
    return m2i_each(c, M2I_PAIR(gather_rows), c->in[1].shape[0], width);
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static m2_status gather_grad_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    const m2_tensor *idx = &c->in[0], *dx = &c->out[0];
    if (m2_absent(dx)) return M2_OK;
    int64_t width = m2i_tensor_last(dx), rows = width ? m2_tensor_count(dx) / width : 0;
    M2_TRY(check_indices(idx, rows));
    m2i_scatter_rows(c, real, idx->data, idx->shape[0], -1, c->in[1].data, width, dx->data, rows, c->acc & 1);
    return M2_OK;
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(gather_rows)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    const int32_t *idx = c->in[1].data;
    int64_t width = m2i_tensor_last(&c->in[0]);
    for (int64_t i = begin; i < end; i++) {
        REAL *y = (REAL *)c->out[0].data + i * width;
        if (idx[i] < 0)
            memset(y, 0, (size_t)width * sizeof *y);
        else
            memcpy(y, (const REAL *)c->in[0].data + idx[i] * width, (size_t)width * sizeof *y);
    }
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_gather = {
    .name = "gather",
    .id = M2_OP_gather,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"x", "idx"},
    .out_name = {"y"},
    .shape = gather_shape,
    .cost = gather_cost,
    .run = gather_run,
    .grad = &m2_op_gather_grad,
    .grad_in = 2,
    .diff_out = 1,
    .diff_in = 1,
    .linear = 1,
};

const m2_op m2_op_gather_grad = {
    .name = "gather_grad",
    .id = M2_OP_gather_grad,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"idx", "dy"},
    .out_name = {"dx"},
    .cost = m2_op_cost_bytes,
    .run = gather_grad_run,
    .acc = 1,
};
#endif
