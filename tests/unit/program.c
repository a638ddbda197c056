/* program.c - plans, gradients, microbatches, evaluation and state of a small gated convolution model. */
#include "tests/small_gpt.h"

#include <CUnit/Basic.h>

static m2_device *cpu;

static run_way usual(void)
{
    return (run_way){.plan = {.threads = cpu->threads},
                     .precision = M2_PREC_F32,
                     .micros = 3,
                     .steps = 3,
                     .device = cpu,
                     .bucket_bytes = 1000};
}

static int same_memory(const m2_memory_plan *a, const m2_memory_plan *b)
{
    return !memcmp(a, b, sizeof *a);
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */
static void test_plan_equals_naive(void)
{
    for (int flavour = 0; flavour < 4; flavour++) {
        void *ctx = flavour & 1 ? cpu : NULL;
        run_way way = usual();
        way.precision = flavour & 2 ? M2_PREC_F64 : M2_PREC_F32;
        way.plan.naive = 1;
        run_result naive, planned, again;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, ctx, &way, &naive), M2_OK);
        way.plan.naive = 0;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, ctx, &way, &planned), M2_OK);
        way.recompute.policy = M2_RECOMPUTE_BLOCK;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, ctx, &way, &again), M2_OK);
        CU_ASSERT(isfinite(naive.loss));
        CU_ASSERT(run_equal(&naive, &planned));
        CU_ASSERT(run_equal(&naive, &again));
        const run_result *all[] = {&naive, &planned, &again};
        for (int i = 0; i < 3; i++) {
            CU_ASSERT(same_memory(&all[i]->predicted, &all[i]->used));
            CU_ASSERT(same_memory(&all[i]->planned, &all[i]->used));
            CU_ASSERT_EQUAL(all[i]->allocations, 0);
        }
        CU_ASSERT(planned.used.activations < naive.used.activations / 2);
        CU_ASSERT(again.used.activations < planned.used.activations);
        run_free(&naive);
        run_free(&planned);
        run_free(&again);
    }
}

/* What recomputation repeats: what the gradients of all blocks but the last read, and nothing else. */
static void test_recompute_is_minimal(void)
{
    run_way way = usual();
    int count[2], residuals = 0, outs = 0, last = 0, seen = 0;
    for (int r = 0; r < 2; r++) {
        m2_program *p;
        way.recompute.policy = r ? M2_RECOMPUTE_BLOCK : M2_RECOMPUTE_NONE;
        CU_ASSERT_EQUAL_FATAL(run_plan(small_gpt, NULL, &way, &p), M2_OK);
        count[r] = m2_program_calls(p);
        for (int i = 0; i < count[r] && r; i++) {
            m2_call_info c = m2_program_call_info(p, i);
            if (c.region != M2_BACKWARD) continue;
            residuals += c.op == &m2_op_add;
            outs += c.op == &m2_op_linear && strstr(c.path, ".out.linear") && !strstr(c.path, "filter");
            last += c.op == &m2_op_longconv && strstr(c.path, "block.2");
            seen += c.op == &m2_op_longconv;
        }
        m2_program_free(&p);
    }
    CU_ASSERT_EQUAL(count[1] - count[0], 2 * 10);
    CU_ASSERT_EQUAL(seen, 2);
    CU_ASSERT_EQUAL(residuals + outs + last, 0);
}

static void test_gradient(void)
{
    for (int flavour = 0; flavour < 4; flavour++) {
        run_way way = usual();
        double error;
        way.precision = M2_PREC_F64;
        way.micros = 1;
        way.recompute.policy = flavour & 2 ? M2_RECOMPUTE_BLOCK : M2_RECOMPUTE_NONE;
        CU_ASSERT_EQUAL_FATAL(run_gradient_error(small_gpt, flavour & 1 ? cpu : NULL, &way, 5, &error),
                              M2_OK);
        CU_ASSERT(error < 1e-7);
    }
}

/* ---- microbatches ------------------------------------------------------------------------------------------------ */
static m2_status micro_run(m2_program *p, int from, int to, double *loss, double *hits, double *grads)
{
    void *g;
    m2_dtype dtype;
    m2_step s = run_step_values(1);
    for (int micro = from; micro < to; micro++) {
        M2_TRY(run_write_inputs(p, 1, micro));
        s.row0 = 2 * micro;
        M2_TRY(m2_program_run(p, &s, micro - from, to - from));
    }
    *loss = run_scalar(p, "loss");
    *hits = run_scalar(p, "hits");
    M2_TRY(m2_program_flat(p, "grad", &g, &dtype));
    memcpy(grads, g, (size_t)m2_program_flat_trained(p) * sizeof *grads);
    return M2_OK;
}

/* Loss, hits and gradients of three microbatches in one step are the sums of three steps of one. */
static void test_microbatches_add_up(void)
{
    run_way way = usual();
    way.precision = M2_PREC_F64;
    m2_program *p;
    double loss[4], hits[4], *grads[4], worst = 0;
    CU_ASSERT_EQUAL_FATAL(run_plan(small_gpt, NULL, &way, &p), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, cpu), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_init_params(p, 3), M2_OK);
    int64_t n = m2_program_flat_trained(p);
    for (int i = 0; i < 4; i++) {
        grads[i] = malloc((size_t)n * sizeof **grads);
        int from = i < 3 ? i : 0, to = i < 3 ? i + 1 : 3;
        CU_ASSERT_EQUAL_FATAL(micro_run(p, from, to, &loss[i], &hits[i], grads[i]), M2_OK);
    }
    CU_ASSERT_DOUBLE_EQUAL(loss[3], loss[0] + loss[1] + loss[2], 1e-14);
    CU_ASSERT_EQUAL(hits[3], hits[0] + hits[1] + hits[2]);
    CU_ASSERT_NOT_EQUAL(loss[0], loss[1]);
    for (int64_t i = 0; i < n; i++) {
        double sum = grads[0][i] + grads[1][i] + grads[2][i];
        if (!(fabs(grads[3][i] - sum) <= worst)) worst = fabs(grads[3][i] - sum);
    }
    CU_ASSERT(worst < 1e-14);
    for (int i = 0; i < 4; i++) free(grads[i]);
    m2_program_free(&p);
}

/* ---- evaluation with the parameters of a trained program ---------------------------------------------------------- */

static void test_eval_shares_parameters(void)
{
    run_way way = usual();
    way.precision = M2_PREC_F64;
    m2_program *train, *eval, *other;
    m2_program_spec spec = {
        .mode = M2_MODE_EVAL, .precision = M2_PREC_F64, .rows = 2, .rows_whole = 6, .length = 6};
    m2_step s = run_step_values(1);
    CU_ASSERT_EQUAL_FATAL(run_plan(small_gpt, NULL, &way, &train), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_bind(train, cpu), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_init_params(train, 3), M2_OK);
    eval = m2_program_new(&spec);
    small_gpt(eval, NULL);
    CU_ASSERT_EQUAL_FATAL(m2_program_plan(eval, &way.plan), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_bind_shared(eval, train), M2_OK);
    CU_ASSERT_EQUAL(m2_program_memory_used(eval).params + m2_program_memory_used(eval).grads, 0);
    CU_ASSERT_EQUAL(m2_program_init_params(eval, 3), M2_BUG);
    for (int step = 1; step <= 2; step++) { /* before and after an update */
        for (int micro = 0; micro < 3; micro++) {
            s.row0 = 2 * micro;
            CU_ASSERT_EQUAL(run_write_inputs(train, 1, micro), M2_OK);
            CU_ASSERT_EQUAL(m2_program_run(train, &s, micro, 3), M2_OK);
            CU_ASSERT_EQUAL(run_write_inputs(eval, 1, micro), M2_OK);
            CU_ASSERT_EQUAL(m2_program_run(eval, &s, micro, 3), M2_OK);
        }
        CU_ASSERT_EQUAL(run_scalar(train, "loss"), run_scalar(eval, "loss"));
        CU_ASSERT_EQUAL(run_scalar(train, "hits"), run_scalar(eval, "hits"));
        CU_ASSERT_EQUAL(m2_program_run_update(train, &s), M2_OK);
    }
    other = m2_program_new(&spec);
    run_param(other, "more", M2_INIT_ZERO, 0, 0, 0, 1, 3, 0, 0);
    small_gpt(other, NULL);
    CU_ASSERT_EQUAL_FATAL(m2_program_plan(other, &way.plan), M2_OK);
    CU_ASSERT_EQUAL(m2_program_bind_shared(other, train), M2_BUG);
    CU_ASSERT(strstr(m2_message(), "cannot be shared") != NULL);
    m2_program_free(&other);
    m2_program_free(&eval);
    m2_program_free(&train);
}

/* ---- state ------------------------------------------------------------------------------------------------------- */
static void test_table_and_flat_arrays(void)
{
    run_way way = usual();
    m2_program *p;
    const m2_param *rows;
    CU_ASSERT_EQUAL_FATAL(run_plan(small_gpt, NULL, &way, &p), M2_OK);
    int n = m2_program_params(p, &rows), frozen = 0;
    int64_t end = 0, count = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < n; i++) {
            m2_desc d = m2_program_desc(p, rows[i].tid);
            if (!!(rows[i].flags & M2_PARAM_FROZEN) != pass) continue;
            CU_ASSERT_EQUAL(rows[i].offset, end);
            CU_ASSERT_EQUAL(rows[i].offset % M2_GROUP_BLOCK, 0);
            CU_ASSERT_EQUAL(rows[i].grad == M2_NONE, pass == 1);
            end += (m2_desc_count(&d) + M2_GROUP_BLOCK - 1) / M2_GROUP_BLOCK * M2_GROUP_BLOCK;
            if (!pass) count += m2_desc_count(&d);
            frozen += pass;
        }
        if (!pass) CU_ASSERT_EQUAL(m2_program_flat_trained(p), end);
    }
    CU_ASSERT_EQUAL(m2_program_flat_count(p), end);
    CU_ASSERT_EQUAL(m2_program_param_count(p), count);
    CU_ASSERT_EQUAL(frozen, LAYERS);
    m2_program_free(&p);
}

/* Initial values depend on seed and name alone; padding stays zero through updates; decay follows the groups. */
static void test_init_and_padding(void)
{
    run_way way = usual();
    m2_program *p;
    const m2_param *rows;
    void *base, *grads;
    m2_dtype dtype;
    m2_step s = run_step_values(1);
    CU_ASSERT_EQUAL_FATAL(run_plan(small_gpt, NULL, &way, &p), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, cpu), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_init_params(p, 3), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_flat(p, "param", &base, &dtype), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_flat(p, "grad", &grads, &dtype), M2_OK);
    CU_ASSERT_EQUAL(dtype, M2_F32);
    float *x = base, before[3];
    int n = m2_program_params(p, &rows), row[3] = {-1, -1, -1};
    double square = 0;
    for (int i = 0; i < n; i++) {
        m2_desc d = m2_program_desc(p, rows[i].tid);
        if (!(rows[i].flags & M2_PARAM_FROZEN) && rows[i].init != M2_INIT_ZERO) row[rows[i].group] = i;
        if (!strcmp(rows[i].name, "embed.weight"))
            for (int64_t e = 0; e < m2_desc_count(&d); e++)
                square += (double)(x[e] * x[e]) / (0.3 * 0.3 * VOCAB * WIDTH);
        if (rows[i].init == M2_INIT_POSEMB) {
            const float *z = x + rows[i].offset + 2 * EMB; /* row 2 of length 6: t = 2/5, w = 2 pi 2/6 */
            CU_ASSERT_DOUBLE_EQUAL(z[0], 0.4, 1e-6);
            CU_ASSERT_DOUBLE_EQUAL(z[2], cos(4 * acos(-1) / 6), 1e-6);
            CU_ASSERT_DOUBLE_EQUAL(z[4], -sin(4 * acos(-1) / 6), 1e-6);
        }
    }
    CU_ASSERT(square > 0.5 && square < 1.5);
    for (int g = 0; g < 3; g++) before[g] = x[rows[row[g]].offset];
    memset(grads, 0, (size_t)m2_program_flat_trained(p) * sizeof(float)); /* only the decay moves anything */
    CU_ASSERT_EQUAL(m2_program_run_update(p, &s), M2_OK);
    for (int g = 0; g < 3; g++)
        CU_ASSERT_DOUBLE_EQUAL(x[rows[row[g]].offset], before[g] * (1 - 1e-2 * 0.01 * g), 1e-7);
    CU_ASSERT_EQUAL(run_write_inputs(p, 1, 0), M2_OK);
    CU_ASSERT_EQUAL(m2_program_run(p, &s, 0, 1), M2_OK);
    CU_ASSERT_EQUAL(m2_program_run_update(p, &s), M2_OK);
    for (int i = 0; i < n; i++) {
        m2_desc d = m2_program_desc(p, rows[i].tid);
        for (int64_t e = m2_desc_count(&d); e % M2_GROUP_BLOCK; e++)
            CU_ASSERT_EQUAL(x[rows[i].offset + e], 0);
    }
    m2_program_free(&p);
}

/* A bf16 program on the CPU, as far as casts go: the copy that calls read is the rounded master, after each update. */
static m2_tid bf16_model(m2_program *p, void *ctx)
{
    (void)ctx;
    m2_attrs wide = {.i[M2_CAST_OUT_DTYPE] = M2_F32}, zeros = {0}, xent = {.i[M2_XENT_IGNORE] = -1};
    m2_tid x = m2_program_input(p, "x", m2_desc_make(M2_F32, "BC", (int64_t)4, (int64_t)WIDTH)),
           out[M2_MAX_OUT];
    m2_tid targets = m2_program_input(p, "targets", m2_desc_make(M2_I32, "B", (int64_t)4));
    m2_tid w = run_param(p, "w", M2_INIT_NORMAL, 0.3, 0, 1, 2, VOCAB, WIDTH, 0);
    m2_tid y = run_call(p, "y", &m2_op_linear, &zeros, NULL, x,
                        m2_build_unary(p, "wide", &m2_op_cast, &wide, w), M2_NONE, M2_NONE);
    m2_tid loss = run_call(p, "xent", &m2_op_xent, &xent, out, y, targets, M2_NONE, M2_NONE);
    m2_program_output(p, "loss", loss);
    return loss;
}

static void test_bf16_copies(void)
{
    run_way way = usual();
    way.precision = M2_PREC_BF16;
    m2_program *p;
    const m2_param *rows;
    void *base;
    m2_dtype dtype;
    m2_step s = run_step_values(1);
    uint16_t copy[VOCAB * WIDTH];
    CU_ASSERT_EQUAL_FATAL(run_plan(bf16_model, NULL, &way, &p), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, cpu), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_init_params(p, 3), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_flat(p, "param", &base, &dtype), M2_OK);
    m2_memory_plan used = m2_program_memory_used(p), planned = m2_program_memory(p);
    CU_ASSERT(same_memory(&used, &planned));
    m2_program_params(p, &rows);
    for (int step = 0; step < 3; step++) {
        int wrong = 0;
        CU_ASSERT_EQUAL(m2_program_read(p, rows[0].tid, copy), M2_OK);
        for (int i = 0; i < VOCAB * WIDTH; i++) wrong += copy[i] != m2_bf16_from_f32(((float *)base)[i]);
        CU_ASSERT_EQUAL(wrong, 0);
        CU_ASSERT_EQUAL(run_write_inputs(p, step, 0), M2_OK);
        CU_ASSERT_EQUAL(m2_program_run(p, &s, 0, 1), M2_OK);
        CU_ASSERT_EQUAL(m2_program_run_update(p, &s), M2_OK);
    }
    CU_ASSERT_EQUAL(m2_program_write(p, rows[0].tid, copy), M2_USAGE);
    CU_ASSERT(strstr(m2_message(), "m2_program_params_changed") != NULL);
    m2_program_free(&p);
}

static void test_timing(void)
{
    run_way way = usual();
    m2_program *p;
    m2_step s = run_step_values(1);
    double seconds[256] = {0}, sum = 0;
    float loss[3];
    CU_ASSERT_EQUAL_FATAL(run_plan(small_gpt, NULL, &way, &p), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, cpu), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_init_params(p, 3), M2_OK);
    CU_ASSERT_EQUAL_FATAL(run_write_inputs(p, 1, 0), M2_OK);
    CU_ASSERT_FATAL(m2_program_calls(p) <= 256);
    CU_ASSERT_EQUAL_FATAL(m2_program_run(p, &s, 0, 1), M2_OK);
    CU_ASSERT_EQUAL(m2_program_profile_read(p, seconds), M2_BUG);
    for (int k = 0; k < 3; k++) {
        CU_ASSERT_EQUAL(m2_program_profile(p, k == 1), M2_OK);
        CU_ASSERT_EQUAL(m2_program_run(p, &s, 0, 1), M2_OK);
        CU_ASSERT_EQUAL(m2_program_read(p, m2_program_find(p, "loss"), &loss[k]), M2_OK);
        if (k == 1) CU_ASSERT_EQUAL(m2_program_profile_read(p, seconds), M2_OK);
    }
    CU_ASSERT(loss[0] == loss[1] && loss[1] == loss[2]);
    for (int i = 0; i < m2_program_calls(p); i++) {
        CU_ASSERT(seconds[i] >= 0 && (seconds[i] == 0 || m2_program_call_info(p, i).region != M2_UPDATE));
        sum += seconds[i];
    }
    CU_ASSERT(sum > 0);
    m2_program_free(&p);
}

int main(void)
{
    if (m2_device_open("cpu", 1, &cpu) != M2_OK) return 1;
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("program", NULL, NULL);
    CU_add_test(s, "planned equals naive", test_plan_equals_naive);
    CU_add_test(s, "recomputation repeats what is read", test_recompute_is_minimal);
    CU_add_test(s, "gradient equals differences", test_gradient);
    CU_add_test(s, "microbatches add up", test_microbatches_add_up);
    CU_add_test(s, "evaluation shares parameters", test_eval_shares_parameters);
    CU_add_test(s, "parameter table and flat arrays", test_table_and_flat_arrays);
    CU_add_test(s, "initial values, padding, groups", test_init_and_padding);
    CU_add_test(s, "bf16 copies follow their masters", test_bf16_copies);
    CU_add_test(s, "timing runs each call", test_timing);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    m2_device_close(&cpu);
    return failures != 0;
}
