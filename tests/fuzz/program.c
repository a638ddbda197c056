/* program.c - random programs: the plan against the naive oracle byte for byte, gradients against differences.
 *
 *     fuzz-program [first seed [count]]        default: 1 200
 *
 * A program is grown call by call from a seed: any op, any earlier tensors as inputs, parameters new or tied, calls in
 * blocks or not. What nothing has read is added up at the end, so that every parameter matters. */
#include "tests/run_program.h"

#include <stdio.h>

enum { C = 8, VOCAB = 7, TAPS = 3, MAX_POOL = 64, MAX_CALLS = 26 };

/* ---- private ops ------------------------------------------------------------------------------------------------- */
/* twin: a gradient that cannot add and requires both output gradients; either output may take over the input.
 * mirror: y[i] = a[i] + b[n-1-i]; wrong in place over a when b is a, wrong if both gradients go to one place. */
static m2_status twin_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    out[0] = in[0];
    out[1] = in[0];
    return M2_OK;
}

static double get(const m2_tensor *t, int64_t i)
{
    return t->dtype == M2_F64 ? ((const double *)t->data)[i] : (double)((const float *)t->data)[i];
}

static void put(const m2_tensor *t, int64_t i, double x)
{
    if (t->dtype == M2_F64)
        ((double *)t->data)[i] = x;
    else
        ((float *)t->data)[i] = (float)x;
}

static m2_status twin_run(const m2_call *c) /* sin(x), x / 2 */
{
    for (int64_t i = 0; i < m2_tensor_count(&c->in[0]); i++) {
        double x = get(&c->in[0], i);
        put(&c->out[1], i, x / 2);
        put(&c->out[0], i, sin(x));
    }
    return M2_OK;
}

static m2_status twin_grad_run(const m2_call *c)
{
    for (int64_t i = 0; i < m2_tensor_count(&c->in[0]); i++)
        put(&c->out[0], i, cos(2 * get(&c->in[0], i)) * get(&c->in[1], i) + get(&c->in[2], i) / 2);
    return M2_OK;
}

static const m2_op twin_grad = {.name = "twin_grad",
                                .id = -1,
                                .n_in = 3,
                                .n_out = 1,
                                .in_name = {"b", "da", "db"},
                                .out_name = {"dx"},
                                .run = twin_grad_run,
                                .inplace = {2}};
static const m2_op twin = {.name = "twin",
                           .id = -1,
                           .n_in = 1,
                           .n_out = 2,
                           .in_name = {"x"},
                           .out_name = {"a", "b"},
                           .shape = twin_shape,
                           .run = twin_run,
                           .grad = &twin_grad,
                           .grad_out = 2,
                           .diff_out = 3,
                           .diff_in = 1,
                           .inplace = {1, 1}};

static m2_status mirror_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    (void)attrs;
    out[0] = in[0];
    return M2_OK;
}

static m2_status mirror_run(const m2_call *c)
{
    int64_t n = m2_tensor_count(&c->in[0]);
    for (int64_t i = 0; i < n; i++) put(&c->out[0], i, get(&c->in[0], i) + get(&c->in[1], n - 1 - i));
    return M2_OK;
}

static m2_status mirror_grad_run(const m2_call *c)
{
    int64_t n = m2_tensor_count(&c->in[0]);
    for (int j = 1; j >= 0; j--)
        for (int64_t i = 0; i < n && !m2_absent(&c->out[j]); i++)
            put(&c->out[j], i,
                get(&c->in[0], j ? n - 1 - i : i) + (c->acc >> j & 1 ? get(&c->out[j], i) : 0));
    return M2_OK;
}

static const m2_op mirror_grad = {.name = "mirror_grad",
                                  .id = -1,
                                  .n_in = 1,
                                  .n_out = 2,
                                  .in_name = {"dy"},
                                  .out_name = {"da", "db"},
                                  .run = mirror_grad_run,
                                  .acc = 3};
static const m2_op mirror = {.name = "mirror",
                             .id = -1,
                             .n_in = 2,
                             .n_out = 1,
                             .in_name = {"a", "b"},
                             .out_name = {"y"},
                             .shape = mirror_shape,
                             .run = mirror_run,
                             .grad = &mirror_grad,
                             .diff_out = 1,
                             .diff_in = 3,
                             .inplace = {1}};

/* ---- growing ----------------------------------------------------------------------------------------------------- */
typedef struct pool {
    m2_tid t[MAX_POOL];
    int read[MAX_POOL], n;
} pool;

typedef struct grower {
    uint64_t seed, draws;
    m2_program *p;
    pool token, channel; /* (B, L, C) and (C, B, L) */
    int params;
} grower;

static int draw(grower *g, int n)
{
    return (int)(m2_rng_mix(g->seed * 7919 + ++g->draws) % (uint64_t)n);
}

static void keep(pool *q, m2_tid t)
{
    if (q->n == MAX_POOL) return;
    q->read[q->n] = 0;
    q->t[q->n++] = t;
}

static m2_tid pick(grower *g, pool *q) /* recent ones twice as often */
{
    int i = draw(g, 2) ? draw(g, q->n) : q->n - 1 - draw(g, q->n > 4 ? 4 : q->n);
    q->read[i] = 1;
    return q->t[i];
}

/* A parameter of this shape: new, or one that another call has too; now and then a frozen one. */
static m2_tid param(grower *g, const char *kind, double std, unsigned flags, int rank, int64_t d0, int64_t d1,
                    int64_t d2)
{
    char name[40];
    int frozen = !draw(g, 12);
    snprintf(name, sizeof name, "%s%s.%d", frozen ? "frozen." : "", kind,
             draw(g, 3) ? g->params++ : draw(g, 2));
    if (frozen) flags |= M2_PARAM_FROZEN;
    return run_param(g->p, name, M2_INIT_NORMAL, std, flags, draw(g, 3), rank, d0, d1, d2);
}

static m2_tid linear(grower *g, m2_tid x, int64_t n, int x_cm, int y_cm)
{
    m2_attrs a = {.i = {[M2_LINEAR_X_CM] = x_cm, [M2_LINEAR_Y_CM] = y_cm}};
    char kind[16];
    snprintf(kind, sizeof kind, "w%d", (int)n);
    m2_tid w = param(g, kind, 0.3, 0, 2, n, C, 0);
    m2_tid b = draw(g, 2) ? M2_NONE
                          : param(g,
                                  kind[1] == '8'   ? "b8"
                                  : kind[1] == '1' ? "b16"
                                                   : "b24",
                                  0.1, 0, 1, n, 0, 0);
    return run_call(g->p, "linear", &m2_op_linear, &a, NULL, x, w, b, M2_NONE);
}

static m2_tid norm(grower *g, m2_tid x)
{
    m2_attrs a = {.i[M2_NORM_OUT_DTYPE] = m2_program_compute_dtype(g->p), .f[M2_NORM_EPS] = 0.1};
    m2_tid gamma = param(g, "gamma", 1, M2_PARAM_PRECISE, 1, C, 0, 0),
           beta = param(g, "beta", 1, M2_PARAM_PRECISE, 1, C, 0, 0);
    return run_call(g->p, "norm", &m2_op_norm, &a, NULL, x, gamma, beta, M2_NONE);
}

static void addnorm(grower *g)
{
    m2_attrs a = {.i[M2_NORM_OUT_DTYPE] = m2_program_compute_dtype(g->p), .f[M2_NORM_EPS] = 0.1};
    m2_tid gamma = param(g, "gamma", 1, M2_PARAM_PRECISE, 1, C, 0, 0),
           beta = param(g, "beta", 1, M2_PARAM_PRECISE, 1, C, 0, 0);
    m2_tid out[M2_MAX_OUT], x = pick(g, &g->token);
    run_call(g->p, "addnorm", &m2_op_addnorm, &a, out, x, pick(g, &g->token), gamma, beta);
    keep(&g->token, out[0]);
    keep(&g->token, out[1]);
    if (draw(g, 4) == 0) g->token.read[g->token.n - 2] = 1; /* perhaps nobody ever reads the sum */
}

static void glu(grower *g)
{
    m2_attrs a = {.i[0] = M2_ACT_GELU_TANH};
    m2_tid h = linear(g, pick(g, &g->token), 2 * C, 0, 0);
    keep(&g->token, m2_build_unary(g->p, "glu", &m2_op_glu, &a, h));
}

static void shortconv(grower *g)
{
    m2_attrs a = {.i[M2_SHORTCONV_GATE] = draw(g, 3)};
    int parts = a.i[0] == M2_GATE_NONE ? 1 : 3;
    m2_tid x = parts == 1 ? pick(g, &g->channel) : linear(g, pick(g, &g->token), 3 * C, 0, 1),
           out[M2_MAX_OUT];
    m2_tid w = param(g, parts == 1 ? "taps8" : "taps24", 0.5, 0, 2, parts * C, TAPS, 0);
    m2_tid b = param(g, parts == 1 ? "b8" : "b24", 0.1, 0, 1, parts * C, 0, 0);
    run_call(g->p, "shortconv", &m2_op_shortconv, &a, out, x, w, b, M2_NONE);
    keep(&g->channel, out[0]);
    if (out[1] == M2_NONE) return;
    keep(&g->channel, out[1]);
    if (draw(g, 4) == 0) g->channel.read[g->channel.n - 2] = 1;
}

static void longconv(grower *g)
{
    m2_tid in[M2_MAX_IN], out[M2_MAX_OUT];
    m2_attrs a = {.i[0] = draw(g, 2)};
    if (draw(g, 4) == 0) a.f[M2_LONGCONV_BAND] = 0.4;
    for (int i = 0; i < M2_MAX_IN; i++) in[i] = M2_NONE;
    in[0] = pick(g, &g->channel);
    in[1] = param(g, "kernel", 0.3, M2_PARAM_PRECISE, 2, C / 2, 6, 0);
    if (draw(g, 2))
        in[1] = m2_build_unary(g->p, "decay", &m2_op_decay, &(m2_attrs){.i[0] = 6, .f = {-1, -3}}, in[1]);
    if (draw(g, 2)) in[2] = param(g, "kernel", 0.3, M2_PARAM_PRECISE, 2, C / 2, 6, 0);
    if (draw(g, 2)) in[3] = param(g, "D", 1, M2_PARAM_PRECISE, 1, C / 2, 0, 0);
    if (draw(g, 2)) in[4] = pick(g, &g->channel);
    if (draw(g, 2)) in[5] = pick(g, &g->channel);
    keep(&g->channel, m2_program_call(g->p, "longconv", &m2_op_longconv, &a, in, out));
}

static void two_outputs(grower *g, pool *q)
{
    m2_tid out[M2_MAX_OUT];
    run_call(g->p, "twin", &twin, NULL, out, pick(g, q), M2_NONE, M2_NONE, M2_NONE);
    if (draw(g, 4)) keep(q, out[0]);
    keep(q, out[1]);
}

/* One random call, or a few that belong together. */
static void grow(grower *g)
{
    m2_program *p = g->p;
    pool *q = draw(g, 3) ? &g->token : &g->channel;
    m2_attrs act = {.i[0] = draw(g, 2) ? M2_ACT_GELU_ERF : M2_ACT_TANH}, scale = {.f[0] = 0.7};
    m2_attrs drop = {.i[0] = m2_program_spec_of(p)->rows_whole, .f[0] = 0.2};
    m2_attrs cast = {.i[0] = m2_program_compute_dtype(p)};
    m2_tid a;
    switch (draw(g, 19)) {
    case 0: keep(q, m2_build_unary(p, "act", &m2_op_act, &act, pick(g, q))); break;
    case 1:
    case 2:
        a = pick(g, q), keep(q, m2_build_binary(p, "add", &m2_op_add, NULL, a, draw(g, 4) ? pick(g, q) : a));
        break;
    case 3:
        a = pick(g, q), keep(q, m2_build_binary(p, "mul", &m2_op_mul, NULL, a, draw(g, 4) ? pick(g, q) : a));
        break;
    case 4: keep(q, m2_build_unary(p, "scale", &m2_op_scale, &scale, pick(g, q))); break;
    case 5: keep(&g->token, linear(g, pick(g, &g->token), C, 0, 0)); break;
    case 6: keep(&g->channel, linear(g, pick(g, &g->token), C, 0, 1)); break;
    case 7: keep(&g->token, linear(g, pick(g, &g->channel), C, 1, 0)); break;
    case 8: keep(&g->channel, linear(g, pick(g, &g->channel), C, 1, 1)); break;
    case 9: keep(&g->token, norm(g, pick(g, &g->token))); break;
    case 10: addnorm(g); break;
    case 11: keep(q, m2_build_unary(p, "dropout", &m2_op_dropout, &drop, pick(g, q))); break;
    case 12: glu(g); break;
    case 13: shortconv(g); break;
    case 14: longconv(g); break;
    case 15: two_outputs(g, q); break;
    case 16: keep(q, m2_build_unary(p, "cast", &m2_op_cast, &cast, pick(g, q))); break;
    case 17:
        a = pick(g, q), keep(q, m2_build_binary(p, "mirror", &mirror, NULL, a, draw(g, 2) ? pick(g, q) : a));
        break;
    case 18:
        a = param(g, "pos", 1, 0, 3, 2, 6, C);
        keep(&g->token, m2_build_binary(p, "add", &m2_op_add, NULL, pick(g, &g->token), a));
        break;
    }
}

static m2_tid add_up(grower *g, pool *q, m2_tid sum)
{
    for (int i = 0; i < q->n; i++) {
        if (q->read[i]) continue;
        m2_tid t = q == &g->token ? q->t[i] : linear(g, q->t[i], C, 1, 0);
        sum = sum == M2_NONE ? t : m2_build_binary(g->p, "sum", &m2_op_add, NULL, sum, t);
    }
    return sum;
}

static m2_tid build(m2_program *p, void *ctx)
{
    grower g = {.seed = *(const uint64_t *)ctx, .p = p};
    const m2_program_spec *s = m2_program_spec_of(p);
    m2_tid tokens = m2_program_input(p, "tokens", m2_desc_make(M2_I32, "BL", s->rows, s->length));
    m2_tid targets = m2_program_input(p, "targets", m2_desc_make(M2_I32, "BL", s->rows, s->length));
    m2_attrs embed = {.i = {[M2_EMBED_OUT_DTYPE] = m2_program_compute_dtype(p), [M2_EMBED_PAD] = -1}};
    m2_tid table = run_param(p, "table", M2_INIT_NORMAL, 1, 0, 1, 2, VOCAB, C, 0);
    keep(&g.token, run_call(p, "embed", &m2_op_embed, &embed, NULL, tokens, table, M2_NONE, M2_NONE));
    keep(&g.channel, linear(&g, pick(&g, &g.token), C, 0, 1));
    int blocks = draw(&g, 4), calls = 3 + draw(&g, MAX_CALLS - 3);
    for (int b = 0; b <= blocks; b++) {
        int inside = blocks && draw(&g, 5);
        if (inside) m2_program_push_block(p, "block.%d", b);
        int prefix = g.params; /* names are scoped: parameters are tied within a block */
        for (int i = 0; i < calls / (blocks + 1) + 1; i++) grow(&g);
        if (inside) m2_program_pop(p);
        if (inside && draw(&g, 2)) g.params = prefix;
    }
    m2_tid x = add_up(&g, &g.channel, add_up(&g, &g.token, M2_NONE)), out[M2_MAX_OUT];
    x = norm(&g, x);
    m2_attrs zeros = {0}, xent = {.i = {[M2_XENT_IGNORE] = 3, [M2_XENT_DENOM] = s->rows_whole * s->length}};
    x = run_call(p, "head", &m2_op_linear, &zeros, NULL, x, table, M2_NONE, M2_NONE);
    m2_tid loss = run_call(p, "xent", &m2_op_xent, &xent, out, x, targets, M2_NONE, M2_NONE);
    if (draw(&g, 2)) loss = m2_build_unary(p, "half", &m2_op_scale, &(m2_attrs){.f[0] = 0.5}, loss);
    m2_program_output(p, "loss", loss);
    m2_program_output(p, "hits", out[2]);
    return loss;
}

/* ---- laws -------------------------------------------------------------------------------------------------------- */
static int complain(uint64_t seed, const char *what)
{
    fprintf(stderr, "seed %llu: %s\n", (unsigned long long)seed, what);
    return 0;
}

static int same_memory(const run_result *r)
{
    return !memcmp(&r->predicted, &r->used, sizeof r->used) && !memcmp(&r->planned, &r->used, sizeof r->used);
}

static int check_plans(uint64_t seed, m2_device *cpu, int64_t *naive_bytes, int64_t *bytes)
{
    run_way way = {.plan = {.naive = 1, .threads = cpu->threads}, .steps = 2, .device = cpu};
    way.precision = seed & 1 ? M2_PREC_F32 : M2_PREC_F64;
    way.micros = 1 + (int)(m2_rng_mix(seed) % 3);
    run_result naive, planned, again;
    m2_status a = run_program(build, &seed, &way, &naive);
    if (a != M2_OK) return complain(seed, m2_message());
    way.plan.naive = 0;
    m2_status b = run_program(build, &seed, &way, &planned);
    way.recompute.policy = M2_RECOMPUTE_BLOCK;
    m2_status c = run_program(build, &seed, &way, &again);
    int ok = 1;
    if (b != M2_OK || c != M2_OK) ok = complain(seed, m2_message());
    if (!run_equal(&naive, &planned))
        ok = complain(seed, "the plan computes other bytes than the naive plan");
    if (!run_equal(&naive, &again))
        ok = complain(seed, "recomputation gives other bytes than the naive plan");
    if (!same_memory(&naive) || !same_memory(&planned) || !same_memory(&again))
        ok = complain(seed, "predicted memory is not the high-water mark");
    if (naive.allocations + planned.allocations + again.allocations)
        ok = complain(seed, "something allocated after bind");
    *naive_bytes += naive.used.activations;
    *bytes += planned.used.activations;
    run_free(&naive);
    run_free(&planned);
    run_free(&again);
    return ok;
}

static int check_gradient(uint64_t seed, m2_device *cpu, double *worst)
{
    run_way way = {.plan = {.threads = cpu->threads}, .precision = M2_PREC_F64, .micros = 1, .device = cpu};
    double error;
    way.recompute.policy = seed & 4 ? M2_RECOMPUTE_BLOCK : M2_RECOMPUTE_NONE;
    if (run_gradient_error(build, &seed, &way, 31, &error) != M2_OK) return complain(seed, m2_message());
    if (error > *worst) *worst = error;
    char text[80];
    snprintf(text, sizeof text, "gradient and differences are %.2g apart", error);
    return error < 1e-5 ? 1 : complain(seed, text);
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1, count = argc > 2
                                                                             ? strtoull(argv[2], NULL, 10)
                                                                         : argc > 1 ? 1
                                                                                    : 200;
    m2_device *cpu;
    if (m2_device_open("cpu", 1, &cpu) != M2_OK) return 1;
    int failures = 0, gradients = 0;
    int64_t naive_bytes = 0, bytes = 0;
    double worst = 0;
    for (uint64_t seed = first; seed < first + count; seed++) {
        failures += !check_plans(seed, cpu, &naive_bytes, &bytes);
        if (seed % 4 == 0 || count == 1) failures += !check_gradient(seed, cpu, &worst), gradients++;
    }
    printf("%llu programs from seed %llu: %d failures; %d gradients, worst relative error %.2g; activations "
           "%.0f%% of "
           "the naive plan's\n",
           (unsigned long long)count, (unsigned long long)first, failures, gradients, worst,
           100.0 * (double)bytes / (double)naive_bytes);
    m2_device_close(&cpu);
    return failures != 0;
}
