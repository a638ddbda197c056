/* act.c - pointwise nonlinearities, alone and as the gate of a gated linear unit.
 *
 *   act: y = f(x), dx = dy f'(x).   glu, h = [g, v]: z = f(g) v, dg = dz v f'(g), dv = dz f(g).
 *   gelu_erf   f = x Phi(x), Phi the normal distribution         f' = Phi(x) + x exp(-x^2/2)/sqrt(2 pi)
 *   gelu_tanh  f = x (1 + tanh u)/2 = x/(1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)
 *   relu       f = max(x, 0)                                    f' = x > 0
 *   silu       f = x s, s = 1/(1 + exp(-x))                     f' = s (1 + x (1 - s))
 *   tanh       f = t                                            f' = 1 - t^2 */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status check_kind(const m2_op *op, const m2_attrs *attrs)
{
    int64_t kind = attrs->i[M2_ACT_KIND];
    if (kind >= 0 && kind < M2_ACT_COUNT) return M2_OK;
    return m2_fail(M2_USAGE, "%s: kind %lld is not an m2_act (0 to %d)", op->name, (long long)kind,
                   M2_ACT_COUNT - 1);
}

static m2_status act_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    M2_TRY(check_kind(&m2_op_act, attrs));
    out[0] = in[0];
    return M2_OK;
}

static m2_status glu_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    M2_TRY(check_kind(&m2_op_glu, attrs));
    if (in[0].rank < 1 || m2i_last(&in[0]) % 2) return m2i_bad_shape(&m2_op_glu, in, "h (..., 2e)");
    out[0] = m2i_with_last(in[0], m2i_last(&in[0]) / 2, in[0].dtype);
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void act_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = 20.0 * (double)m2_desc_count(&in[0]); /* a polynomial or two */
}

#define SELF "kernels/ops/act.c"
#include "kernels/ops/twice.h"

static m2_status act_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(act), m2_tensor_count(&c->in[0]), 1);
}

static m2_status act_grad_run(const m2_call *c)
{
    return m2i_each(c, M2I_PAIR(act_grad), m2_absent(&c->out[0]) ? 0 : m2_tensor_count(&c->in[0]), 1);
}

static m2_status glu_run(const m2_call *c)
{
    int64_t width = m2i_tensor_last(&c->in[0]);
    return m2i_each(c, M2I_PAIR(glu), width ? m2_tensor_count(&c->in[0]) / width : 0, width);
}

static m2_status glu_grad_run(const m2_call *c)
{
    int64_t width = m2i_tensor_last(&c->in[0]), n = m2_tensor_count(&c->out[0]);
    return m2i_each(c, M2I_PAIR(glu_grad), width ? n / width : 0, width);
}

#else
/* ---- the functions: value, and slope into *d ----------------------------------------------------------- */
static inline REAL NAME(gelu_erf)(REAL x, REAL *d)
{
    REAL phi = FN(cdf)(x);
    *d = phi + x * (REAL)0.39894228040143267794 * FN(exp)((REAL)-0.5 * x * x);
    return x * phi;
}

static inline REAL NAME(gelu_tanh)(REAL x, REAL *d)
{
    const REAL c = (REAL)0.79788456080286535588, a = (REAL)0.044715;
    REAL s = FN(sigmoid)(2 * c * (x + a * x * x * x)); /* (1 + tanh u)/2 = sigmoid(2u) */
    *d = s * (1 + 2 * x * (1 - s) * c * (1 + 3 * a * x * x));
    return x * s;
}

static inline REAL NAME(relu)(REAL x, REAL *d)
{
    *d = x > 0 ? (REAL)1 : (REAL)0;
    return x < 0 ? (REAL)0 : x; /* NaN stays */
}

static inline REAL NAME(silu)(REAL x, REAL *d)
{
    REAL s = FN(sigmoid)(x);
    *d = s * (1 + x * (1 - s));
    return x * s;
}

static inline REAL NAME(tanh_act)(REAL x, REAL *d)
{
    REAL t = FN(tanh)(x);
    *d = 1 - t * t;
    return t;
}

/* One loop per function: LOOP(f) is a statement. */
#define FOR_KIND(kind, LOOP)                                                                                 \
    switch (kind) {                                                                                          \
    case M2_ACT_GELU_ERF: LOOP(NAME(gelu_erf)) break;                                                        \
    case M2_ACT_GELU_TANH: LOOP(NAME(gelu_tanh)) break;                                                      \
    case M2_ACT_RELU: LOOP(NAME(relu)) break;                                                                \
    case M2_ACT_SILU: LOOP(NAME(silu)) break;                                                                \
    case M2_ACT_TANH: LOOP(NAME(tanh_act)) break;                                                            \
    }

/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(act)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    const REAL *x = (const REAL *)c->in[0].data + begin;
    REAL *y = (REAL *)c->out[0].data + begin;
    int64_t n = end - begin;
#define LOOP(f)                                                                                              \
    SIMD                                                                                                     \
    for (int64_t i = 0; i < n; i++) {                                                                        \
        REAL d;                                                                                              \
        y[i] = f(x[i], &d);                                                                                  \
    }
    FOR_KIND(c->attrs.i[M2_ACT_KIND], LOOP)
#undef LOOP
}

static void NAME(glu)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    int64_t e = m2i_tensor_last(&c->out[0]);
    for (int64_t row = begin; row < end; row++) {
        const REAL *g = (const REAL *)c->in[0].data + row * 2 * e, *v = g + e;
        REAL *z = (REAL *)c->out[0].data + row * e;
#define LOOP(f)                                                                                              \
    SIMD                                                                                                     \
    for (int64_t i = 0; i < e; i++) {                                                                        \
        REAL d;                                                                                              \
        z[i] = f(g[i], &d) * v[i];                                                                           \
    }
        FOR_KIND(c->attrs.i[M2_ACT_KIND], LOOP)
#undef LOOP
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */
static void NAME(act_grad)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    const REAL *x = (const REAL *)c->in[0].data + begin, *dy = (const REAL *)c->in[1].data + begin;
    REAL *dx = (REAL *)c->out[0].data + begin;
    int64_t n = end - begin;
    int acc = c->acc & 1;
#define LOOP(f)                                                                                              \
    SIMD                                                                                                     \
    for (int64_t i = 0; i < n; i++) {                                                                        \
        REAL d;                                                                                              \
        f(x[i], &d);                                                                                         \
        dx[i] = acc ? dx[i] + dy[i] * d : dy[i] * d;                                                         \
    }
    FOR_KIND(c->attrs.i[M2_ACT_KIND], LOOP)
#undef LOOP
}

static void NAME(glu_grad)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const m2_call *c = ctx;
    int64_t e = m2i_tensor_last(&c->in[1]);
    int acc = c->acc & 1;
    for (int64_t row = begin; row < end; row++) {
        const REAL *g = (const REAL *)c->in[0].data + row * 2 * e, *v = g + e;
        const REAL *dz = (const REAL *)c->in[1].data + row * e;
        REAL *dg = (REAL *)c->out[0].data + row * 2 * e, *dv = dg + e;
#define LOOP(f)                                                                                              \
    SIMD                                                                                                     \
    for (int64_t i = 0; i < e; i++) {                                                                        \
        REAL d, y = f(g[i], &d);                                                                             \
        REAL a = dz[i] * v[i] * d, b = dz[i] * y;                                                            \
        dg[i] = acc ? dg[i] + a : a;                                                                         \
        dv[i] = acc ? dv[i] + b : b;                                                                         \
    }
        FOR_KIND(c->attrs.i[M2_ACT_KIND], LOOP)
#undef LOOP
    }
}
#undef FOR_KIND
#endif

#ifndef REAL
/* ---- descriptors --------------------------------------------------------------------------------------- */
const m2_op m2_op_act = {
    .name = "act",
    .id = M2_OP_act,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"y"},
    .attr_i = {"kind"},
    .shape = act_shape,
    .cost = act_cost,
    .run = act_run,
    .grad = &m2_op_act_grad,
    .grad_in = 1,
    .diff_out = 1,
    .diff_in = 1,
    .inplace = {1},
};

const m2_op m2_op_act_grad = {
    .name = "act_grad",
    .id = M2_OP_act_grad,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"x", "dy"},
    .out_name = {"dx"},
    .attr_i = {"kind"},
    .cost = act_cost,
    .run = act_grad_run,
    .acc = 1,
    .inplace = {2},
};

const m2_op m2_op_glu = {
    .name = "glu",
    .id = M2_OP_glu,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"h"},
    .out_name = {"z"},
    .attr_i = {"kind"},
    .shape = glu_shape,
    .cost = act_cost,
    .run = glu_run,
    .grad = &m2_op_glu_grad,
    .grad_in = 1,
    .diff_out = 1,
    .diff_in = 1,
};

const m2_op m2_op_glu_grad = {
    .name = "glu_grad",
    .id = M2_OP_glu_grad,
    .n_in = 2,
    .n_out = 1,
    .in_name = {"h", "dz"},
    .out_name = {"dh"},
    .attr_i = {"kind"},
    .cost = act_cost,
    .run = glu_grad_run,
    .acc = 1,
    .inplace = {1},
};
#endif
