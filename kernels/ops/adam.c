/* adam.c - one AdamW step over a flat shard, everything read and written once. A shard may be the rows of a matrix, with gaps
 * between them where other ranks' pieces are.
 *
 *   c = clip > 0 && norm > clip ? clip / norm : 1;  g' = c g;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
 *   p = p (1 - d);  p = p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
 *   d = lr wd (coupled, as torch.optim.AdamW) or lr / lr_peak wd (free: decay follows the schedule's shape only)
 * lr and wd are those of the element's group; M2_GROUP_BLOCK consecutive elements share one. */
#ifndef REAL
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status adam_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    const m2_desc *p = &in[0], *groups = &in[4], *norm2 = &in[5];
    int ok = (p->rank == 1 || p->rank == 2) && m2i_last(p) % M2_GROUP_BLOCK == 0;
    for (int i = 1; i < 4; i++) ok = ok && m2_desc_same_shape(p, &in[i]) && in[i].dtype == p->dtype;
    if (ok) ok = m2i_is_vector(groups, m2_desc_count(p) / M2_GROUP_BLOCK) && groups->dtype == M2_U8;
    if (ok && norm2->rank >= 0) ok = m2_desc_count(norm2) == 1 && norm2->dtype == M2_F64;
    if (!ok)
        return m2i_bad_shape(&m2_op_adam, in,
                             "p, g, m, v (n) or (k, n) with 256 | n, groups u8 (k n / 256), norm2 f64 ()");
    out[0] = out[1] = out[2] = *p;
    out[3] = *p;
    out[3].dtype = M2_BF16;
    return M2_OK;
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void adam_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = 15.0 * (double)m2_desc_count(&in[0]);
}

/* ---- the step's numbers -------------------------------------------------------------------------------- */
typedef struct job {
    const m2_call *call;
    double clip, fix_m, fix_v; /* gradient factor, 1/(1 - b1^t), 1/(1 - b2^t) */
} job;

/* Decides whether to update at all, and by which factor the gradient is clipped. */
static int open_job(const m2_call *c, job *j)
{
    const m2_step *s = c->step;
    *j = (job){.call = c, .clip = 1};
    j->fix_m = 1 / (1 - pow(c->attrs.f[M2_ADAM_BETA1], (double)s->step));
    j->fix_v = 1 / (1 - pow(c->attrs.f[M2_ADAM_BETA2], (double)s->step));
    if (m2_absent(&c->in[5])) return 1;
    double norm = sqrt(*(const double *)c->in[5].data);
    if (!isfinite(norm) || (s->outlier > 0 && norm > s->outlier)) return 0;
    if (s->clip > 0 && norm > s->clip) j->clip = s->clip / norm;
    return 1;
}

/* Element at which block k of a shard begins. */
static int64_t block_at(const m2_tensor *t, int64_t k)
{
    int64_t per_row = t->shape[t->rank - 1] / M2_GROUP_BLOCK;
    if (t->rank < 2) return k * M2_GROUP_BLOCK;
    return k / per_row * t->stride[0] + k % per_row * M2_GROUP_BLOCK;
}

#define SELF "kernels/ops/adam.c"
#include "kernels/ops/twice.h"

static m2_status adam_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 1 << 5 | 1 << (8 + 3), &real));
    if (!c->step || c->step->step < 1)
        return m2_fail(M2_BUG, "adam was called without a step or before step 1");
    job j;
    if (!open_job(c, &j)) return M2_OK;
    m2i_spread(c, real, M2I_PAIR(adam_blocks), m2_tensor_count(&c->in[4]), M2_GROUP_BLOCK, &j);
    return M2_OK;
}

#else
/* ---- forward ------------------------------------------------------------------------------------------- */
static void NAME(adam_block)(const job *j, int64_t k, double lr, double decay)
{
    const m2_call *c = j->call;
    const REAL *g = (const REAL *)c->in[1].data + block_at(&c->in[1], k);
    REAL *p = (REAL *)c->out[0].data + block_at(&c->out[0], k);
    REAL *m = (REAL *)c->out[1].data + block_at(&c->out[1], k);
    REAL *v = (REAL *)c->out[2].data + block_at(&c->out[2], k);
    REAL b1 = (REAL)c->attrs.f[M2_ADAM_BETA1], b2 = (REAL)c->attrs.f[M2_ADAM_BETA2];
    REAL a1 = (REAL)(1 - c->attrs.f[M2_ADAM_BETA1]), a2 = (REAL)(1 - c->attrs.f[M2_ADAM_BETA2]);
    REAL eps = (REAL)c->attrs.f[M2_ADAM_EPS], clip = (REAL)j->clip, keep = (REAL)(1 - decay);
    REAL rate = (REAL)(lr * j->fix_m), fix_v = (REAL)j->fix_v;
    SIMD
    for (int i = 0; i < M2_GROUP_BLOCK; i++) {
        REAL x = g[i] * clip;
        m[i] = b1 * m[i] + a1 * x;
        v[i] = b2 * v[i] + a2 * x * x;
        p[i] = keep * p[i] - rate * m[i] / (FN(sqrt)(v[i] * fix_v) + eps);
    }
    if (m2_absent(&c->out[3])) return;
    uint16_t *p16 = (uint16_t *)c->out[3].data + block_at(&c->out[3], k);
    for (int i = 0; i < M2_GROUP_BLOCK; i++) p16[i] = m2_bf16_from_f32((float)p[i]);
}

static void NAME(adam_blocks)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = ctx;
    const m2_step *s = j->call->step;
    const uint8_t *groups = j->call->in[4].data;
    int coupled = j->call->attrs.i[M2_ADAM_DECAY] == M2_DECAY_COUPLED;
    for (int64_t k = begin; k < end; k++) {
        double lr = s->lr * s->group[groups[k]].lr_scale, wd = s->group[groups[k]].weight_decay;
        NAME(adam_block)(j, k, lr, coupled ? lr * wd : lr / s->lr_peak * wd);
    }
}
#endif

#ifndef REAL
/* ---- descriptor ---------------------------------------------------------------------------------------- */
const m2_op m2_op_adam = {
    .name = "adam",
    .id = M2_OP_adam,
    .n_in = 6,
    .n_out = 4,
    .optional = 32,
    .in_name = {"p", "g", "m", "v", "groups", "norm2"},
    .out_name = {"p", "m", "v", "p16"},
    .attr_i = {"decay"},
    .attr_f = {"beta1", "beta2", "eps"},
    .shape = adam_shape,
    .cost = adam_cost,
    .run = adam_run,
    .updates = {1, 3, 4},
    .rows = 1,
};
#endif
