/* reduce.c - sumsq: s = sum of x_i^2, in double whatever x is. A fixed number of partial sums, added in order. */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status sumsq_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs, (void)in;
    out[0] = m2_desc_make(M2_F64, "");
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void sumsq_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = 2.0 * (double)m2_desc_count(&in[0]);
}

static int64_t sumsq_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)attrs, (void)out, (void)threads;
    return m2i_chunk_count(m2_desc_count(&in[0])) * (int64_t)sizeof(double);
}

#define SELF "kernels/ops/reduce.c"
#include "kernels/ops/twice.h"

static m2_status sumsq_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 1 << 8, &real));
    int64_t n = m2_tensor_count(&c->in[0]), chunks = m2i_chunk_count(n);
    m2i_spread(c, real, M2I_PAIR(sumsq_chunk), chunks, m2i_chunk_rows(n), (void *)(uintptr_t)c);
    double sum = c->acc & 1 ? *(double *)c->out[0].data : 0;
    for (int64_t k = 0; k < chunks; k++) sum += ((const double *)c->workspace)[k];
    *(double *)c->out[0].data = sum;
    return M2_OK;
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(sumsq_chunk)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    const m2_tensor *t = &c->in[0];
    int64_t n = m2_tensor_count(t), step = m2i_chunk_rows(n), width = t->rank == 2 ? t->shape[1] : n;
    for (int64_t k = begin; k < end; k++) {
        int64_t at = k * step, stop = at + step < n ? at + step : n;
        double sum = 0;
        for (int64_t count; at < stop; at += count) { /* the chunk's part of a row; gaps do not change the order */
            const REAL *x = (const REAL *)t->data + (t->rank == 2 ? at / width * t->stride[0] : 0) + at % width;
            count = width - at % width < stop - at ? width - at % width : stop - at;
            SIMD_SUM(sum)
            for (int64_t i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
        }
        ((double *)c->workspace)[k] = sum;
    }
}
#endif

#ifndef REAL
/* ---- descriptor ---------------------------------------------------------------------------------------- */
const m2_op m2_op_sumsq = {
    .name = "sumsq",
    .id = M2_OP_sumsq,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"s"},
    .shape = sumsq_shape,
    .cost = sumsq_cost,
    .workspace = sumsq_workspace,
    .run = sumsq_run,
    .acc = 1,
    .rows = 1,
};
#endif
