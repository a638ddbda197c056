/* run_program.h - for tests of programs: builds, plans, runs a few steps, and collects everything that came out, to be
 * compared byte by byte with another way of running the same builder. */
#ifndef M2_TESTS_RUN_PROGRAM_H
#define M2_TESTS_RUN_PROGRAM_H

#include "kernels/base/rng.h"
#include "runtime/program.h"

#include <math.h>
#include <stdlib.h>

typedef struct run_way {
    m2_recompute recompute;
    m2_plan_options plan;
    m2_precision precision;
    int micros, steps;
    int rank, ranks;     /* ranks 0: one. Each has rows of its own in every microbatch */
    const m2_op *reduce; /* NULL: no collectives */
    void *context;
    int64_t bucket_bytes;
    m2_sharding zero; /* ranks 0: none */
    m2_device *device;
    int late; /* do not wait for a step before the next one */
} run_way;

typedef struct run_result {
    char *bytes; /* losses of each step, then parameters, m, v, gradients */
    size_t n;
    double loss;
    m2_memory_plan predicted, planned, used;
    int64_t allocations; /* made by the device after bind */
    int64_t drains;      /* late: how often the steps waited for all of a stream */
} run_result;

/* Appends inputs, parameters and calls; names the loss "loss". All inputs but "targets" and "tokens" are floats. */
typedef m2_tid (*run_builder)(m2_program *p, void *ctx);

static inline m2_status run_plan(run_builder build, void *ctx, const run_way *way, m2_program **out)
{
    m2_program_spec spec = {.mode = M2_MODE_TRAIN,
                            .precision = way->precision,
                            .rows = 2,
                            .rows_whole = 2 * way->micros * (way->ranks ? way->ranks : 1),
                            .length = 6};
    m2_program *p = *out = m2_program_new(&spec);
    m2_update_spec adam = {0.9, 0.98, 1e-8, M2_DECAY_COUPLED};
    m2_tid loss = build(p, ctx);
    m2_program_backward(p, loss, &way->recompute);
    if (way->zero.ranks) m2_program_shard(p, &way->zero);
    if (way->reduce) m2_program_reduce(p, way->reduce, way->context, way->bucket_bytes, &loss, 1);
    m2_program_update(p, &adam);
    return m2_program_plan(p, &way->plan);
}

/* A pure function of (name, step, micro): integers below 7, floats in (-1, 1). */
static inline m2_status run_write_input(m2_program *p, const char *name, int step, int micro)
{
    m2_tid t = m2_program_find(p, name);
    if (t == M2_NONE) return M2_OK;
    m2_desc d = m2_program_desc(p, t);
    int64_t n = m2_desc_count(&d);
    m2_rng_key key = m2_rng_make_key((uint64_t)step, (uint64_t)micro, (uint64_t)name[0]);
    double *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        double u = m2_rng_uniform(key, (uint64_t)i);
        if (d.dtype == M2_I32) ((int32_t *)x)[i] = (int32_t)(7 * u);
        if (d.dtype == M2_F32) ((float *)x)[i] = (float)(2 * u - 1);
        if (d.dtype == M2_F64) x[i] = 2 * u - 1;
    }
    m2_status st = m2_program_write(p, t, x);
    free(x);
    return st;
}

static inline m2_step run_step_values(int step)
{
    m2_step s = {.seed = 5, .step = step, .lr = 1e-2, .lr_peak = 1e-2, .clip = 1};
    for (int g = 0; g < M2_MAX_GROUPS; g++) s.group[g].lr_scale = 1, s.group[g].weight_decay = 0.01 * g;
    return s;
}

static inline double run_scalar(m2_program *p, const char *name)
{
    m2_tid t = m2_program_find(p, name);
    union {
        double f64;
        float f32;
    } x;
    if (m2_program_read(p, t, &x) != M2_OK) return NAN;
    return m2_program_desc(p, t).dtype == M2_F32 ? (double)x.f32 : x.f64;
}

static inline m2_status run_keep_flat(m2_program *p, const run_way *way, const char *which, int64_t n,
                                      run_result *r)
{
    void *at;
    m2_dtype dtype;
    M2_TRY(m2_program_flat(p, which, &at, &dtype));
    size_t bytes = (size_t)(n * m2_dtype_size(dtype));
    r->bytes = realloc(r->bytes, r->n + bytes);
    M2_TRY(way->device->api->copy(way->device, r->bytes + r->n, at, (int64_t)bytes, NULL));
    r->n += bytes;
    return m2_program_sync(p);
}

static inline m2_status run_write_inputs(m2_program *p, int step, int micro)
{
    static const char *const inputs[] = {"tokens", "targets", "x"};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        M2_TRY(run_write_input(p, inputs[i], step, micro));
    return M2_OK;
}

static inline m2_status run_steps(m2_program *p, const run_way *way, run_result *r)
{
    for (int step = 1; step <= way->steps; step++) {
        m2_step s = run_step_values(step);
        for (int micro = 0; micro < way->micros; micro++) {
            int piece = way->ranks ? micro * way->ranks + way->rank : micro;
            M2_TRY(run_write_inputs(p, step, piece));
            s.row0 = 2 * piece;
            M2_TRY(m2_program_run(p, &s, micro, way->micros));
        }
        M2_TRY(m2_program_run_update(p, &s));
        r->loss = run_scalar(p, "loss");
        r->bytes = realloc(r->bytes, r->n + sizeof r->loss);
        memcpy(r->bytes + r->n, &r->loss, sizeof r->loss);
        r->n += sizeof r->loss;
    }
    return M2_OK;
}

static inline m2_status run_keep_state(m2_program *p, const run_way *way, run_result *r)
{
    M2_TRY(run_keep_flat(p, way, "param", m2_program_flat_count(p), r));
    M2_TRY(run_keep_flat(p, way, "m", m2_program_flat_trained(p), r));
    M2_TRY(run_keep_flat(p, way, "v", m2_program_flat_trained(p), r));
    return run_keep_flat(p, way, "grad", m2_program_flat_trained(p), r);
}

/* The same steps without looking: losses and norms are taken one step late. r->drains and r->allocations are the steps'. */
static inline m2_status run_steps_late(m2_program *p, const run_way *way, run_result *r)
{
    const m2_tid scalars[2] = {m2_program_find(p, "loss"), m2_program_find(p, "norm2")};
    int64_t drains = way->device->drains, allocations = way->device->allocations;
    for (int step = 1; step <= way->steps + 1; step++) {
        m2_step s = run_step_values(step);
        for (int micro = 0; step <= way->steps && micro < way->micros; micro++) {
            M2_TRY(run_write_inputs(p, step, micro));
            s.row0 = 2 * micro;
            M2_TRY(m2_program_run(p, &s, micro, way->micros));
        }
        if (step <= way->steps) M2_TRY(m2_program_run_update(p, &s));
        if (step <= way->steps) M2_TRY(m2_program_post(p, scalars, 2));
        if (step == 1) continue;
        double late[2];
        M2_TRY(m2_program_take(p, late));
        r->loss = late[0];
        r->bytes = realloc(r->bytes, r->n + sizeof r->loss);
        memcpy(r->bytes + r->n, &r->loss, sizeof r->loss);
        r->n += sizeof r->loss;
    }
    r->drains = way->device->drains - drains;
    r->allocations = way->device->allocations - allocations;
    return M2_OK;
}

static inline m2_status run_program(run_builder build, void *ctx, const run_way *way, run_result *r)
{
    m2_program *p = NULL;
    *r = (run_result){0};
    m2_status st = run_plan(build, ctx, way, &p);
    if (st == M2_OK) r->predicted = m2_program_memory(p);
    if (st == M2_OK) st = m2_program_bind(p, way->device);
    int64_t before = way->device->allocations;
    if (st == M2_OK) st = m2_program_init_params(p, 11);
    if (st == M2_OK) st = way->late ? run_steps_late(p, way, r) : run_steps(p, way, r);
    int64_t made = way->late ? r->allocations : way->device->allocations - before;
    if (st == M2_OK) st = run_keep_state(p, way, r);
    if (st != M2_OK) fprintf(stderr, "\n%s: %s\n", m2_status_name(st), m2_message());
    r->allocations = made;
    r->planned = m2_program_memory(p);
    r->used = m2_program_memory_used(p);
    m2_program_free(&p);
    return st;
}

/* The loss of a run with one element of the parameters moved. CPU, f64. */
static inline m2_status run_loss_at(m2_program *p, double *element, double value, double *loss)
{
    m2_step s = run_step_values(1);
    double old = *element;
    *element = value;
    m2_status st = m2_program_run(p, &s, 0, 1);
    *element = old;
    *loss = run_scalar(p, "loss");
    return st;
}

/* Largest difference between gradients and central differences of the loss, relative to the largest of either, over
 * every stride-th trained element. NaN where the loss is not finite. way must say f64 and one microbatch; CPU. */
static inline m2_status run_gradient_error(run_builder build, void *ctx, const run_way *way, int64_t stride,
                                           double *worst)
{
    m2_program *p = NULL;
    const m2_param *rows;
    void *params = NULL, *grads = NULL;
    m2_dtype dtype;
    double *copy = NULL, most = 1e-3, h = 1e-5, loss = NAN, more = 0, less = 0;
    m2_status st = run_plan(build, ctx, way, &p);
    *worst = 0;
    if (st == M2_OK) st = m2_program_bind(p, way->device);
    if (st == M2_OK) st = m2_program_init_params(p, 11);
    if (st == M2_OK) st = m2_program_flat(p, "param", &params, &dtype);
    if (st == M2_OK) st = m2_program_flat(p, "grad", &grads, &dtype);
    if (st == M2_OK) st = run_write_inputs(p, 1, 0);
    if (st == M2_OK) st = run_loss_at(p, params, *(double *)params, &loss);
    if (st == M2_OK) copy = malloc((size_t)m2_program_flat_trained(p) * sizeof *copy);
    if (copy) memcpy(copy, grads, (size_t)m2_program_flat_trained(p) * sizeof *copy);
    int n_rows = m2_program_params(p, &rows);
    for (int i = 0; i < n_rows && copy; i++) {
        m2_desc d = m2_program_desc(p, rows[i].tid);
        if (rows[i].flags & M2_PARAM_FROZEN) continue;
        for (int64_t e = i % stride; e < m2_desc_count(&d) && st == M2_OK; e += stride) {
            double *at = (double *)params + rows[i].offset + e, g = copy[rows[i].offset + e];
            st = run_loss_at(p, at, *at + h, &more);
            if (st == M2_OK) st = run_loss_at(p, at, *at - h, &less);
            double difference = fabs(g - (more - less) / (2 * h));
            if (fabs(g) > most) most = fabs(g);
            if (!(difference <= *worst)) *worst = difference;
        }
    }
    *worst = isfinite(loss) ? *worst / most : NAN;
    free(copy);
    m2_program_free(&p);
    return st;
}

static inline int run_equal(const run_result *a, const run_result *b)
{
    return a->n == b->n && a->n && !memcmp(a->bytes, b->bytes, a->n);
}

static inline void run_free(run_result *r)
{
    free(r->bytes);
    *r = (run_result){0};
}

/* ---- builders' helpers ------------------------------------------------------------------------------------------- */
static inline m2_tid run_param(m2_program *p, const char *name, m2_init_kind init, double a, unsigned flags,
                               int group, int rank, int64_t d0, int64_t d1, int64_t d2)
{
    m2_param row = {.rank = rank,
                    .dims = {d0, d1, d2},
                    .axis = "....",
                    .init = init,
                    .init_a = a,
                    .pad_row = -1,
                    .group = group,
                    .flags = flags};
    snprintf(row.name, sizeof row.name, "%s", name);
    return m2_program_param(p, row);
}

static inline m2_tid run_call(m2_program *p, const char *name, const m2_op *op, const m2_attrs *attrs,
                              m2_tid *out, m2_tid a, m2_tid b, m2_tid c, m2_tid d)
{
    m2_tid in[M2_MAX_IN] = {a, b, c, d, M2_NONE, M2_NONE, M2_NONE, M2_NONE}, local[M2_MAX_OUT];
    return m2_program_call(p, name, op, attrs, in, out ? out : local);
}

static inline m2_tid run_norm(m2_program *p, const char *name, m2_tid x)
{
    m2_desc d = m2_program_desc(p, x);
    m2_attrs a = {.i[M2_NORM_OUT_DTYPE] = m2_program_compute_dtype(p), .f[M2_NORM_EPS] = 1e-5};
    m2_program_push(p, "%s", name);
    m2_tid gamma =
        run_param(p, "weight", M2_INIT_CONST, 1, M2_PARAM_PRECISE, 1, 1, d.shape[d.rank - 1], 0, 0);
    m2_tid beta = run_param(p, "bias", M2_INIT_ZERO, 0, M2_PARAM_PRECISE, 1, 1, d.shape[d.rank - 1], 0, 0);
    m2_tid y = run_call(p, "norm", &m2_op_norm, &a, NULL, x, gamma, beta, M2_NONE);
    m2_program_pop(p);
    return y;
}

static inline m2_tid run_linear(m2_program *p, const char *name, m2_tid x, int64_t n, int64_t m, int x_cm,
                                int y_cm)
{
    m2_attrs a = {.i = {[M2_LINEAR_X_CM] = x_cm, [M2_LINEAR_Y_CM] = y_cm}};
    m2_program_push(p, "%s", name);
    m2_tid w = run_param(p, "weight", M2_INIT_NORMAL, 0.3, 0, 2, 2, n, m, 0);
    m2_tid b = run_param(p, "bias", M2_INIT_NORMAL, 0.1, 0, 0, 1, n, 0, 0);
    m2_tid y = run_call(p, "linear", &m2_op_linear, &a, NULL, x, w, b, M2_NONE);
    m2_program_pop(p);
    return y;
}
#endif
