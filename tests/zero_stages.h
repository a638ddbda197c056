/* zero_stages.h - the stages of ZeRO beside each other on the ranks of a communicator, threads or processes: parameters,
 * moments, losses and norms to the bit (almost, where stage 2 has several microbatches, whose sums it orders otherwise), memory
 * as planned, bytes sent as the program's list of collectives says. */
#ifndef M2_TESTS_ZERO_STAGES_H
#define M2_TESTS_ZERO_STAGES_H

#include "parallel/levels.h"
#include "runtime/planner.h"
#include "tests/small_gpt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STAGES = 3, STEPS = 3, ROWS = 40, COLUMNS = 24 };

/* What one rank found: the whole state, in the order of parameters, then norms and losses. */
typedef struct state {
    char *bytes;
    size_t n;
} state;

static void keep(state *s, const void *from, size_t bytes)
{
    s->bytes = realloc(s->bytes, s->n + bytes);
    memcpy(s->bytes + s->n, from, bytes);
    s->n += bytes;
}

/* ---- models ------------------------------------------------------------------------------------------------------- */
/* For bf16 without kernels that compute in it: parameters that are read as copies, in P, and frozen ones. */
static m2_tid mixed(m2_program *p, void *ctx)
{
    (void)ctx;
    const m2_program_spec *s = m2_program_spec_of(p);
    m2_dtype precise = m2_program_precise_dtype(p);
    m2_attrs wide = {.i[M2_CAST_OUT_DTYPE] = precise}, none = {0}, xent = {.i[M2_XENT_IGNORE] = -1};
    xent.i[M2_XENT_DENOM] = s->rows_whole * s->length;
    m2_tid x = m2_program_input(p, "x", m2_desc_make(precise, "BLC", s->rows, s->length, COLUMNS));
    m2_tid targets = m2_program_input(p, "targets", m2_desc_make(M2_I32, "BL", s->rows, s->length));
    for (int i = 0; i < 3; i++) {
        m2_program_push(p, "block.%d", i);
        m2_tid w = run_param(p, "w", M2_INIT_NORMAL, 0.3, 0, 1, 2, COLUMNS, COLUMNS, 0);
        m2_tid b = run_param(p, "b", M2_INIT_NORMAL, 0.3, M2_PARAM_PRECISE, 2, 1, COLUMNS, 0, 0);
        m2_tid f = run_param(p, "f", M2_INIT_NORMAL, 0.3, M2_PARAM_FROZEN | (i % 2 ? M2_PARAM_PRECISE : 0), 0, 2,
                             COLUMNS, COLUMNS, 0);
        w = m2_build_unary(p, "wide", &m2_op_cast, &wide, w);
        f = m2_build_unary(p, "fixed", &m2_op_cast, &wide, f);
        x = run_call(p, "trained", &m2_op_linear, &none, NULL, x, w, b, M2_NONE);
        x = run_call(p, "frozen", &m2_op_linear, &none, NULL, x, f, M2_NONE, M2_NONE);
        m2_program_pop(p);
    }
    m2_tid head = run_param(p, "head", M2_INIT_NORMAL, 0.3, 0, 1, 2, ROWS, COLUMNS, 0);
    head = m2_build_unary(p, "wide", &m2_op_cast, &wide, head);
    x = run_call(p, "logits", &m2_op_linear, &none, NULL, x, head, M2_NONE, M2_NONE);
    m2_tid loss = run_call(p, "xent", &m2_op_xent, &xent, NULL, x, targets, M2_NONE, M2_NONE);
    m2_program_output(p, "loss", loss);
    return loss;
}

/* Few weights: the zeros of the one bucket are more than a shard. */
static m2_tid tiny(m2_program *p, void *ctx)
{
    (void)ctx;
    const m2_program_spec *s = m2_program_spec_of(p);
    m2_attrs none = {0}, xent = {.i[M2_XENT_IGNORE] = -1, .i[M2_XENT_DENOM] = s->rows_whole * s->length};
    m2_tid x = m2_program_input(p, "x", m2_desc_make(m2_program_precise_dtype(p), "BLC", s->rows, s->length, (int64_t)3));
    m2_tid targets = m2_program_input(p, "targets", m2_desc_make(M2_I32, "BL", s->rows, s->length));
    m2_tid w = run_param(p, "w", M2_INIT_NORMAL, 0.3, 0, 1, 2, ROWS, 3, 0);
    x = run_call(p, "logits", &m2_op_linear, &none, NULL, x, w, M2_NONE, M2_NONE);
    m2_tid loss = run_call(p, "xent", &m2_op_xent, &xent, NULL, x, targets, M2_NONE, M2_NONE);
    m2_program_output(p, "loss", loss);
    return loss;
}

static const struct {
    const char *name;
    run_builder build;
    m2_precision precision;
    int micros;
    int64_t bucket; /* bytes for each rank */
} models[] = {{"small_gpt, f32", small_gpt, M2_PREC_F32, 1, 1024},
              {"small_gpt, f64, 2 microbatches", small_gpt, M2_PREC_F64, 2, 1024},
              {"mixed, bf16", mixed, M2_PREC_BF16, 1, 1024},
              {"tiny, one bucket", tiny, M2_PREC_F32, 1, 1 << 20}};

/* ---- a rank ------------------------------------------------------------------------------------------------------- */
/* A flat array as every rank would have it whole: trained rows in the order of the table. */
static m2_status keep_flat(m2_program *p, m2_comm *c, const char *which, state *out)
{
    m2_part part;
    const m2_param *rows;
    int n = m2_program_params(p, &rows);
    M2_TRY(m2_program_part(p, which, &part));
    int64_t size = m2_dtype_size(part.dtype), trained = m2_program_flat_trained(p);
    char *whole = calloc((size_t)trained, (size_t)size), *piece = malloc((size_t)(trained * size)),
         *all = malloc((size_t)(trained * size));
    m2_status st = M2_OK;
    if (!part.shards) memcpy(whole, part.base, (size_t)(trained * size));
    for (int b = 0; part.shards && b < part.shards->buckets && st == M2_OK; b++) {
        m2_shard_part own = m2_shards_piece(part.shards, b, part.shard);
        memcpy(piece, (char *)part.base + own.at * size, (size_t)(own.flat.count * size));
        st = c->api->all_gather(c, piece, all, own.flat.count, part.dtype, NULL);
        for (int r = 0; r < c->size; r++)
            memcpy(whole + m2_shards_piece(part.shards, b, r).flat.at * size, all + r * own.flat.count * size,
                   (size_t)(own.flat.count * size));
    }
    for (int i = 0; i < n; i++) {
        m2_desc d = m2_program_desc(p, rows[i].tid);
        if (!(rows[i].flags & M2_PARAM_FROZEN))
            keep(out, whole + rows[i].offset * size, (size_t)(m2_desc_count(&d) * size));
    }
    free(all);
    free(piece);
    free(whole);
    return st;
}

/* What forward reads: copies, and what it reads in P. */
static m2_status keep_read(m2_program *p, state *out)
{
    const m2_param *rows;
    int n = m2_program_params(p, &rows);
    for (int i = 0; i < n; i++) {
        m2_tensor t = m2_program_tensor(p, rows[i].tid);
        keep(out, t.data, (size_t)m2_tensor_bytes(&t));
    }
    return M2_OK;
}

static m2_status train(m2_program *p, const run_way *way, m2_comm *c, state *out, int64_t *off)
{
    m2_collective_row rows[400];
    int n = m2_collectives(p, way->micros, rows, 400);
    for (int step = 1; step <= STEPS; step++) {
        m2_step s = run_step_values(step);
        int64_t sent = c->bytes_sent;
        for (int micro = 0; micro < way->micros; micro++) {
            int piece = micro * c->size + c->rank;
            M2_TRY(run_write_inputs(p, step, piece));
            s.row0 = 2 * piece;
            M2_TRY(m2_program_run(p, &s, micro, way->micros));
        }
        M2_TRY(m2_program_run_update(p, &s));
        M2_TRY(m2_program_sync(p));
        for (int i = 0; i < n; i++) sent += rows[i].bytes * rows[i].calls;
        *off += llabs(c->bytes_sent - sent);
        double numbers[2] = {run_scalar(p, "loss"), run_scalar(p, "norm2")};
        keep(out, numbers, sizeof numbers);
    }
    return M2_OK;
}

static m2_status run_stage(int model, int stage, m2_comm *c, m2_device *cpu, state *out, m2_memory_plan *memory,
                           int64_t *off)
{
    m2_program *p = NULL;
    run_way way = {.plan = {.threads = 1},
                   .precision = models[model].precision,
                   .micros = models[model].micros,
                   .rank = c->rank,
                   .ranks = c->size,
                   .reduce = &m2_op_all_reduce,
                   .context = c,
                   .bucket_bytes = models[model].bucket * c->size,
                   .zero = {.stage = stage,
                            .ranks = c->size,
                            .rank = c->rank,
                            .per_node = c->levels ? c->levels->per_node : 0,
                            .reduce_scatter = &m2_op_reduce_scatter,
                            .all_gather = &m2_op_all_gather},
                   .device = cpu};
    m2_status st = run_plan(models[model].build, NULL, &way, &p);
    if (st == M2_OK) st = m2_program_bind(p, cpu);
    if (st == M2_OK) st = m2_program_init_params(p, 11);
    if (st == M2_OK) st = m2_program_params_changed(p);
    if (st == M2_OK) st = train(p, &way, c, out, off);
    if (st == M2_OK) st = keep_flat(p, c, "param", out);
    if (st == M2_OK) st = keep_flat(p, c, "m", out);
    if (st == M2_OK) st = keep_flat(p, c, "v", out);
    if (st == M2_OK) st = keep_read(p, out);
    *memory = m2_program_memory(p);
    m2_memory_plan used = m2_program_memory_used(p);
    if (st == M2_OK && (used.params != memory->params || used.grads != memory->grads ||
                        used.optimizer != memory->optimizer || used.activations != memory->activations))
        st = m2_fail(M2_BUG, "other memory is used than was planned");
    m2_program_free(&p);
    return st;
}

/* All of an f64 program. */
static int close_to(const state *a, const state *b)
{
    const double *x = (const double *)(const void *)a->bytes, *y = (const double *)(const void *)b->bytes;
    for (size_t i = 0; i < a->n / sizeof *x; i++)
        if (!(fabs(x[i] - y[i]) < 1e-9)) return 0;
    return 1;
}

static inline const char *zero_stages(m2_comm *c, int model)
{
    static _Thread_local char text[200];
    state first = {0};
    m2_memory_plan whole = {0};
    const char *broke = NULL;
    m2_device *cpu;
    if (m2_device_open("cpu", 1, &cpu) != M2_OK) return m2_message();
    for (int stage = 0; stage < STAGES && !broke; stage++) {
        state s = {0};
        m2_memory_plan m;
        int64_t off = 0;
        if (run_stage(model, stage, c, cpu, &s, &m, &off) != M2_OK) broke = m2_message();
        if (!stage) first = s, whole = m;
        int almost = stage == 2 && models[model].micros > 1, same = s.n == first.n && s.n;
        same = same && (almost ? close_to(&s, &first) : !memcmp(s.bytes, first.bytes, s.n));
        snprintf(text, sizeof text, "%s, stage %d: %s, %lld bytes sent beyond the plan", models[model].name, stage,
                 same ? "the bits of stage 0" : "other bits than stage 0", (long long)off);
        if (!broke && (!same || off)) broke = text;
        if (!broke && stage && c->size > 1 && m.optimizer * c->size > whole.optimizer + 4096)
            broke = "the optimizer's state is not shared";
        if (!broke && stage == 2 && c->size > 2 && models[model].build != tiny &&
            m.grads >= whole.grads) broke = "gradients are not shared";
        if (!broke && stage && c->size > 2 && models[model].precision == M2_PREC_BF16 && m.params >= whole.params)
            broke = "master parameters are not shared";
        if (stage) free(s.bytes);
    }
    free(first.bytes);
    m2_device_close(&cpu);
    return broke;
}

/* The same with reductions by levels: nodes of every size that divides the ranks. */
static inline const char *zero_stages_by_node(m2_comm *c, int model)
{
    const char *broke = NULL;
    for (int per = 2; per < c->size && !broke; per++) {
        if (c->size % per) continue;
        if (m2_levels_open(c, per) != M2_OK) return m2_message();
        broke = zero_stages(c, model);
        m2_levels_close(c);
    }
    return broke;
}
#endif
