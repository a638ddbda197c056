/* pool.c - one vector per row of the batch: y[b] = mean of x[b, t] over t < n[b], zeros where n[b] <= 0.
 *
 *   dx[b, t] = dy[b] / n[b] for t < n[b], 0 beyond. n = 1 takes the first position; n beyond L counts as L. */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status pool_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    if (in[0].rank != 3 || in[1].rank != 1 || in[1].dtype != M2_I32 || in[1].shape[0] != in[0].shape[0])
        return m2i_bad_shape(&m2_op_pool, in, "x (B, L, C), n i32 (B)");
    out[0] = m2_desc_make(in[0].dtype, "BC", in[0].shape[0], in[0].shape[2]);
    return M2_OK;
}

static int64_t positions(const m2_tensor *n, int64_t b, int64_t length)
{
    int64_t k = ((const int32_t *)n->data)[b];
    return k < 0 ? 0 : k > length ? length : k;
}

#define SELF "kernels/ops/pool.c"
#include "kernels/ops/twice.h"

static m2_status pool_run(const m2_call *c)
{
    const int64_t *n = c->in[0].shape;
    return m2i_each(c, M2I_PAIR(pool_rows), n[0], n[1] * n[2]);
}

static m2_status pool_grad_run(const m2_call *c)
{
    const int64_t *n = c->out[0].shape;
    return m2i_each(c, M2I_PAIR(pool_grad_rows), m2_absent(&c->out[0]) ? 0 : n[0], n[1] * n[2]);
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(pool_rows)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    int64_t L = c->in[0].shape[1], C = c->in[0].shape[2];
    for (int64_t b = begin; b < end; b++) {
        const REAL *x = (const REAL *)c->in[0].data + b * L * C;
        REAL *y = (REAL *)c->out[0].data + b * C;
        int64_t n = positions(&c->in[1], b, L);
        memset(y, 0, (size_t)C * sizeof *y);
        for (int64_t t = 0; t < n; t++) STORE_EACH(i, C, y, 1, x[t * C + i]);
        for (int64_t i = 0; i < C && n; i++) y[i] /= (REAL)n;
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static void NAME(pool_grad_rows)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    int64_t L = c->out[0].shape[1], C = c->out[0].shape[2];
    int acc = c->acc & 1;
    for (int64_t b = begin; b < end; b++) {
        const REAL *dy = (const REAL *)c->in[1].data + b * C;
        REAL *dx = (REAL *)c->out[0].data + b * L * C;
        int64_t n = positions(&c->in[0], b, L);
        REAL share = n ? 1 / (REAL)n : 0;
        for (int64_t t = 0; t < n; t++) STORE_EACH(i, C, dx + t * C, acc, share * dy[i]);
        if (!acc) memset(dx + n * C, 0, (size_t)((L - n) * C) * sizeof *dx);
    }
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_pool = {
    .name = "pool",
    .id = M2_OP_pool,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"x", "n"},
    .out_name = {"y"},
    .shape = pool_shape,
    .cost = m2_op_cost_bytes,
    .run = pool_run,
    .grad = &m2_op_pool_grad,
    .grad_in = 2,
    .diff_out = 1,
    .diff_in = 1,
    .linear = 1,
};

const m2_op m2_op_pool_grad = {
    .name = "pool_grad",
    .id = M2_OP_pool_grad,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"n", "dy"},
    .out_name = {"dx"},
    .cost = m2_op_cost_bytes,
    .run = pool_grad_run,
    .acc = 1,
};
#endif
