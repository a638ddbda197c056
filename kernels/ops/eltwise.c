/* eltwise.c - the one-line elementwise ops.
 *
 *   add: y = a + b, both inputs pass the gradient.      mul: y = a b;  da = dy b, db = dy a.
 *   scale: y = factor x, its own gradient.              cast: y = x in another dtype; passes the gradient.
 *   fill: y = value */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status same_two(const m2_op *op, const m2_desc *in, m2_desc *out)
{
    if (!m2_desc_same_shape(&in[0], &in[1])) return m2i_bad_shape(op, in, "a and b of one shape");
    out[0] = in[0];
    return M2_OK;
}

static m2_status add_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    return same_two(&m2_op_add, in, out);
}

static m2_status mul_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    return same_two(&m2_op_mul, in, out);
}

static m2_status cast_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    out[0] = in[0];
    out[0].dtype = (m2_dtype)attrs->i[M2_CAST_OUT_DTYPE];
    if (out[0].dtype == M2_F32 || out[0].dtype == M2_F64 || out[0].dtype == M2_BF16) return M2_OK;
    return m2_fail(M2_USAGE, "cast: out_dtype must be f32, f64 or bf16");
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void one_flop_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = (double)m2_desc_count(&in[0]);
}

static void mul_grad_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = (double)(m2_desc_count(&out[0]) + m2_desc_count(&out[1]));
}

#define SELF "kernels/ops/eltwise.c"
#include "kernels/ops/twice.h"

static m2_status add_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(add), m2_tensor_count(&c->out[0]), 1);
}

static m2_status mul_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(mul), m2_tensor_count(&c->out[0]), 1);
}

static m2_status mul_grad_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(mul_grad), m2_tensor_count(&c->in[2]), 1);
}

static m2_status scale_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(scale), m2_tensor_count(&c->out[0]), 1);
}

static m2_status fill_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(fill), m2_tensor_count(&c->out[0]), 1);
}

/* cast goes through blocks of double in the first cache, so that each dtype needs one load and one store. */
enum { BLOCK = 512 };

static void load(const m2_tensor *t, int64_t at, int64_t n, double *x)
{
    if (t->dtype == M2_F32)
        for (int64_t i = 0; i < n; i++) x[i] = ((const float *)t->data)[at + i];
    else if (t->dtype == M2_F64)
        memcpy(x, (const double *)t->data + at, (size_t)n * sizeof *x);
    else
        for (int64_t i = 0; i < n; i++) x[i] = m2_bf16_to_f32(((const uint16_t *)t->data)[at + i]);
}

static void store(const m2_tensor *t, int64_t at, int64_t n, const double *x)
{
    if (t->dtype == M2_F32)
        for (int64_t i = 0; i < n; i++) ((float *)t->data)[at + i] = (float)x[i];
    else if (t->dtype == M2_F64)
        memcpy((double *)t->data + at, x, (size_t)n * sizeof *x);
    else
        for (int64_t i = 0; i < n; i++) ((uint16_t *)t->data)[at + i] = m2_bf16_from_f32((float)x[i]);
}

static void cast_body(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    for (int64_t at = begin; at < end; at += BLOCK) {
        int64_t n = end - at < BLOCK ? end - at : BLOCK;
        double x[BLOCK], y[BLOCK];
        load(&c->in[0], at, n, x);
        if (c->acc & 1) {
            load(&c->out[0], at, n, y);
            for (int64_t i = 0; i < n; i++) x[i] += y[i];
        }
        store(&c->out[0], at, n, x);
    }
}

static m2_status cast_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 1 | 1 << 8, &real));
    m2i_spread(c, M2_F32, (m2i_pair){cast_body, cast_body}, m2_tensor_count(&c->out[0]), 1,
               (void *)(uintptr_t)c);
    return M2_OK;
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
static inline const REAL *NAME(input)(const m2_call *c, int slot, int64_t begin)
{
    return m2_absent(&c->in[slot]) ? NULL : (const REAL *)c->in[slot].data + begin;
}

/* y[i] = expr of a[i], b[i] (the inputs) and f (the attribute). */
#define BODY(name, expr)                                                                                     \
    static void NAME(name)(void *ctx, int64_t begin, int64_t end, int thread)                                \
    {                                                                                                        \
        const m2_call *c = ctx;                                                                              \
        const REAL *a = NAME(input)(c, 0, begin), *b = NAME(input)(c, 1, begin), f = (REAL)c->attrs.f[0];    \
        REAL *y = (REAL *)c->out[0].data + begin;                                                            \
        (void)a, (void)b, (void)f, (void)thread;                                                             \
        STORE_EACH(i, end - begin, y, c->acc & 1, expr);                                                     \
    }
BODY(add, a[i] + b[i])
BODY(mul, a[i] * b[i])
BODY(scale, a[i] * f)
BODY(fill, f)
#undef BODY

/* ---- backward ------------------------------------------------------------------------------------------ */
/* da may be the memory of dy: an element of dy is read once, before either is written. */
static void NAME(mul_grad)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    const REAL *a = NAME(input)(c, 0, begin), *b = NAME(input)(c, 1, begin), *dy = NAME(input)(c, 2, begin);
    REAL *da = m2_absent(&c->out[0]) ? NULL : (REAL *)c->out[0].data + begin;
    REAL *db = m2_absent(&c->out[1]) ? NULL : (REAL *)c->out[1].data + begin;
    int acc_a = c->acc & 1, acc_b = c->acc >> 1 & 1;
    SIMD
    for (int64_t i = 0; i < end - begin; i++) {
        REAL g = dy[i], va = g * b[i], vb = g * a[i];
        if (da) da[i] = acc_a ? da[i] + va : va;
        if (db) db[i] = acc_b ? db[i] + vb : vb;
    }
}
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_add = {
    .name = "add",
    .id = M2_OP_add,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"a", "b"},
    .out_name = {"y"},
    .shape = add_shape,
    .cost = one_flop_cost,
    .run = add_run,
    .inplace = {1},
    .passes = 3,
    .linear = 3,
};

const m2_op m2_op_mul = {
    .name = "mul",
    .id = M2_OP_mul,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"a", "b"},
    .out_name = {"y"},
    .shape = mul_shape,
    .cost = one_flop_cost,
    .run = mul_run,
    .grad = &m2_op_mul_grad,
    .grad_in = 3,
    .diff_out = 1,
    .diff_in = 3,
    .inplace = {1},
    .linear = 1,
};

const m2_op m2_op_mul_grad = {
    .name = "mul_grad",
    .id = M2_OP_mul_grad,
    .n_in = 3,
    .n_out = 2,
    .in_name = {"a", "b", "dy"},
    .out_name = {"da", "db"},
    .cost = mul_grad_cost,
    .run = mul_grad_run,
    .acc = 3,
    .inplace = {3},
};

const m2_op m2_op_scale = {
    .name = "scale",
    .id = M2_OP_scale,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"y"},
    .attr_f = {"factor"},
    .shape = m2i_shape_same,
    .cost = one_flop_cost,
    .run = scale_run,
    .grad = &m2_op_scale,
    .diff_out = 1,
    .diff_in = 1,
    .acc = 1,
    .inplace = {1},
    .linear = 1,
};

const m2_op m2_op_cast = {
    .name = "cast",
    .id = M2_OP_cast,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"y"},
    .attr_i = {"out_dtype"},
    .shape = cast_shape,
    .cost = m2_op_cost_bytes,
    .run = cast_run,
    .acc = 1,
    .passes = 1,
    .linear = 1,
};

const m2_op m2_op_fill = {
    .name = "fill",
    .id = M2_OP_fill,
    .n_out = 1,
    .out_name = {"y"},
    .attr_f = {"value"},
    .cost = m2_op_cost_bytes,
    .run = fill_run,
};
#endif
