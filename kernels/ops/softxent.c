/* softxent.c - cross entropy with targets that are distributions: mixed pictures, smoothed labels.
 *
 *   s = sum_k t_k (1 for a distribution, 0 for a row that does not count);  lse = log sum_k exp(x_k)
 *   loss = sum over rows of (s lse - sum_k t_k x_k) / denom;   dx_k = (s exp(x_k - lse) - t_k) dloss / denom
 *   hits: rows with s > 0 whose largest logit is at the largest target (lowest index on ties) */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status softxent_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    m2_dtype precise = m2i_precise(in[0].dtype);
    if (in[0].rank < 1 || !m2_desc_same_shape(&in[0], &in[1]) || in[1].dtype != precise)
        return m2i_bad_shape(&m2_op_softxent, in, "logits (..., V), targets (..., V) in the precise dtype");
    out[0] = out[2] = m2_desc_make(precise, "");
    out[1] = m2_desc_make(precise, ".", m2i_rows(&in[0]));
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void softxent_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = 18.0 * (double)m2_desc_count(&in[0]);
}

/* One loss and one hit per row, summed in order at the end. */
static int64_t softxent_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)attrs, (void)out, (void)threads;
    return 2 * m2i_rows(&in[0]) * (int64_t)sizeof(double);
}

static double denominator(const m2_call *c, int64_t rows)
{
    int64_t n = c->attrs.i[M2_SOFTXENT_DENOM] ? c->attrs.i[M2_SOFTXENT_DENOM] : rows;
    return n ? (double)n : 1;
}

static int64_t rows_of(const m2_call *c)
{
    int64_t width = m2i_tensor_last(&c->in[0]);
    return width ? m2_tensor_count(&c->in[0]) / width : 0;
}

#define SELF "kernels/ops/softxent.c"
#include "kernels/ops/twice.h"

static m2_status softxent_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    int64_t rows = rows_of(c);
    m2i_spread(c, real, M2I_PAIR(softxent_rows), rows, m2i_tensor_last(&c->in[0]), (void *)(uintptr_t)c);
    const double *each = c->workspace;
    double loss = 0, hits = 0;
    for (int64_t i = 0; i < rows; i++) {
        loss += each[2 * i];
        hits += each[2 * i + 1];
    }
    (real == M2_F64 ? softxent_put_f64 : softxent_put_f32)(c, loss / denominator(c, rows), hits);
    return M2_OK;
}

static m2_status softxent_grad_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(softxent_grad_rows), m2_absent(&c->out[0]) ? 0 : rows_of(c),
                    m2i_tensor_last(&c->in[0]));
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(softxent_put)(const m2_call *c, double loss, double hits)
{
    *(REAL *)c->out[0].data = (REAL)loss;
    if (!m2_absent(&c->out[2])) *(REAL *)c->out[2].data = (REAL)hits;
}

static int64_t NAME(largest)(const REAL *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static void NAME(softxent_rows)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    int64_t width = m2i_tensor_last(&c->in[0]);
    for (int64_t row = begin; row < end; row++) {
        const REAL *x = (const REAL *)c->in[0].data + row * width,
                   *t = (const REAL *)c->in[1].data + row * width;
        double *each = (double *)c->workspace + 2 * row;
        int64_t best = NAME(largest)(x, width);
        REAL max = x[best], sum = 0, whole = 0, inner = 0;
        SIMD_SUM(sum, whole, inner)
        for (int64_t i = 0; i < width; i++) {
            sum += FN(exp)(x[i] - max);
            whole += t[i];
            inner += t[i] * x[i];
        }
        REAL lse = max + (REAL)log((double)sum);
        ((REAL *)c->out[1].data)[row] = lse;
        each[0] = (double)whole * (double)lse - (double)inner;
        each[1] = whole > 0 && best == NAME(largest)(t, width);
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static void NAME(softxent_grad_rows)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    int64_t width = m2i_tensor_last(&c->in[0]);
    REAL scale = (REAL)(1 / denominator(c, rows_of(c)));
    if (!m2_absent(&c->in[3])) scale *= *(const REAL *)c->in[3].data;
    for (int64_t row = begin; row < end; row++) {
        const REAL *x = (const REAL *)c->in[0].data + row * width,
                   *t = (const REAL *)c->in[1].data + row * width;
        REAL *dx = (REAL *)c->out[0].data + row * width;
        REAL lse = ((const REAL *)c->in[2].data)[row], whole = 0;
        SIMD_SUM(whole)
        for (int64_t i = 0; i < width; i++) whole += t[i];
        STORE_EACH(i, width, dx, c->acc & 1, (whole * FN(exp)(x[i] - lse) - t[i]) * scale);
    }
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_softxent = {
    .name = "softxent",
    .id = M2_OP_softxent,
    .n_in = 2,
    .n_out = 3,
    .in_name = {"logits", "targets"},
    .out_name = {"loss", "lse", "hits"},
    .attr_i = {"denom"},
    .shape = softxent_shape,
    .cost = softxent_cost,
    .workspace = softxent_workspace,
    .run = softxent_run,
    .grad = &m2_op_softxent_grad,
    .grad_in = 3,
    .grad_out = 2,
    .diff_out = 1,
    .diff_in = 1,
};

const m2_op m2_op_softxent_grad = {
    .name = "softxent_grad",
    .id = M2_OP_softxent_grad,
    .n_in = 4,
    .n_out = 1,
    .optional = 8,
    .in_name = {"logits", "targets", "lse", "dloss"},
    .out_name = {"dlogits"},
    .attr_i = {"denom"},
    .cost = softxent_cost,
    .run = softxent_grad_run,
    .acc = 1,
};
#endif
