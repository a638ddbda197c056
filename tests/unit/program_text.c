/* program_text.c - what a program says: errors of builders and users, and the printed plan. */
#include "tests/small_gpt.h"

#include <CUnit/Basic.h>

static m2_device *cpu;

static m2_program *fresh(m2_mode mode)
{
    m2_program_spec spec = {.mode = mode, .precision = M2_PREC_F32, .rows = 2, .rows_whole = 2, .length = 6};
    return m2_program_new(&spec);
}

/* ---- errors ------------------------------------------------------------------------------------------------------- */
static int plan_says(m2_program *p, m2_status code, const char *text)
{
    m2_plan_options opt = {.threads = 1};
    m2_status st = m2_program_plan(p, &opt);
    int ok = st == code && m2_program_error(p) == code && strstr(m2_message(), text);
    if (!ok)
        fprintf(stderr, "\nexpected %s ... %s\ngot %s: %s\n", m2_status_name(code), text, m2_status_name(st),
                m2_message());
    m2_program_free(&p);
    return ok;
}

static m2_tid vector(m2_program *p, const char *name, int64_t n)
{
    return m2_program_input(p, name, m2_desc_make(M2_F32, "BC", (int64_t)2, n));
}

static void test_shape_error_names_everything(void)
{
    m2_program *p = fresh(M2_MODE_EVAL);
    m2_tid a = vector(p, "a", 3), b = vector(p, "b", 4);
    m2_program_push(p, "block.%d", 7);
    m2_tid y = m2_build_binary(p, "sum", &m2_op_add, NULL, a, b);
    CU_ASSERT_EQUAL(y, M2_NONE);
    /* sticky: later calls do nothing and the first message stays */
    CU_ASSERT_EQUAL(m2_build_binary(p, "more", &m2_op_mul, NULL, a, a), M2_NONE);
    CU_ASSERT_EQUAL(m2_program_param(p, (m2_param){.name = "w", .rank = 1, .dims = {4}}), M2_NONE);
    CU_ASSERT_EQUAL(vector(p, "c", 3), M2_NONE);
    CU_ASSERT_EQUAL(m2_program_calls(p), 0);
    CU_ASSERT_EQUAL(m2_program_error(p), M2_USAGE);
    CU_ASSERT(strstr(m2_message(), "block.7.sum: add needs") == m2_message());
    CU_ASSERT(strstr(m2_message(), "f32 (B 2, C 3)") != NULL);
    CU_ASSERT(plan_says(p, M2_USAGE, "f32 (B 2, C 4)"));
}

static void test_builder_errors(void)
{
    m2_program *p = fresh(M2_MODE_EVAL);
    m2_build_binary(p, "y", &m2_op_add, NULL, vector(p, "a", 3), 17);
    CU_ASSERT(plan_says(p, M2_USAGE, "y: input 'b' of add is not a tensor of this program"));

    p = fresh(M2_MODE_EVAL);
    m2_build_binary(p, "y", &m2_op_add, NULL, vector(p, "a", 3), M2_NONE);
    CU_ASSERT(plan_says(p, M2_USAGE, "y: input 'b' of add is missing"));

    p = fresh(M2_MODE_EVAL);
    m2_build_unary(p, "y", &m2_op_act_grad, NULL, vector(p, "a", 3));
    CU_ASSERT(plan_says(p, M2_BUG, "act_grad has no shape rule"));

    p = fresh(M2_MODE_EVAL);
    vector(p, "a", 3);
    vector(p, "a", 4);
    CU_ASSERT(plan_says(p, M2_USAGE, "two inputs or outputs are named 'a'"));

    p = fresh(M2_MODE_EVAL);
    m2_program_output(p, "z", 5);
    CU_ASSERT(plan_says(p, M2_USAGE, "output 'z' names tensor 5"));

    p = fresh(M2_MODE_EVAL);
    m2_program_push(p, "open");
    CU_ASSERT(plan_says(p, M2_BUG, "open scope open"));

    p = fresh(M2_MODE_EVAL);
    m2_program_pop(p);
    CU_ASSERT(plan_says(p, M2_BUG, "without an open scope"));

    p = fresh(M2_MODE_EVAL);
    for (int i = 0; i < 40; i++) m2_program_push(p, "a_long_scope_name");
    CU_ASSERT(plan_says(p, M2_USAGE, "is longer than 95 characters"));

    p = fresh(M2_MODE_EVAL);
    run_param(p, "w", M2_INIT_ZERO, 0, 0, 0, 2, 3, 4, 0);
    run_param(p, "w", M2_INIT_ZERO, 0, 0, 0, 2, 4, 3, 0);
    CU_ASSERT(plan_says(p, M2_USAGE, "parameter 'w' is declared twice, as f32 (3, 4) and as f32 (4, 3)"));

    p = fresh(M2_MODE_EVAL);
    m2_program_reject(p, m2_fail(M2_USAGE, "model.width 7 is odd"));
    CU_ASSERT(plan_says(p, M2_USAGE, "model.width 7 is odd"));
}

static m2_tid tiny_loss(m2_program *p, m2_tid x)
{
    m2_attrs xent = {.i[M2_XENT_IGNORE] = -1};
    m2_tid targets = m2_program_input(p, "targets", m2_desc_make(M2_I32, "B", (int64_t)2)), out[M2_MAX_OUT];
    return run_call(p, "xent", &m2_op_xent, &xent, out, x, targets, M2_NONE, M2_NONE);
}

static void test_backward_errors(void)
{
    m2_program *p = fresh(M2_MODE_TRAIN);
    m2_tid w = run_param(p, "used", M2_INIT_ZERO, 0, 0, 0, 2, 2, 3, 0);
    run_param(p, "idle", M2_INIT_ZERO, 0, 0, 0, 2, 2, 3, 0);
    m2_program_backward(p, tiny_loss(p, m2_build_binary(p, "y", &m2_op_add, NULL, vector(p, "a", 3), w)),
                        NULL);
    CU_ASSERT(plan_says(p, M2_BUG, "parameter 'idle' gets no gradient"));

    p = fresh(M2_MODE_TRAIN);
    m2_program_backward(p, tiny_loss(p, vector(p, "a", 3)), NULL);
    CU_ASSERT(plan_says(p, M2_BUG, "does not depend on any trained parameter"));

    p = fresh(M2_MODE_TRAIN);
    m2_program_backward(p, vector(p, "a", 3), NULL);
    CU_ASSERT(plan_says(p, M2_USAGE, "the loss must be a scalar, it is f32 (B 2, C 3)"));

    p = fresh(M2_MODE_EVAL);
    m2_program_backward(p, tiny_loss(p, vector(p, "a", 3)), NULL);
    CU_ASSERT(plan_says(p, M2_BUG, "needs a TRAIN program"));

    p = fresh(M2_MODE_TRAIN);
    m2_program_update(p, &(m2_update_spec){0});
    CU_ASSERT(plan_says(p, M2_BUG, "must come once, after m2_program_backward"));

    p = fresh(M2_MODE_TRAIN);
    w = run_param(p, "w", M2_INIT_ZERO, 0, 0, 0, 2, 2, 3, 0);
    m2_program_backward(p, tiny_loss(p, m2_build_unary(p, "y", &m2_op_scale, NULL, w)), NULL);
    CU_ASSERT_EQUAL(m2_program_error(p), M2_OK);
    m2_build_unary(p, "late", &m2_op_scale, NULL, w);
    CU_ASSERT(plan_says(p, M2_BUG, "late was added after m2_program_backward"));
}

static void test_use_errors(void)
{
    m2_plan_options opt = {.threads = 1};
    m2_step s = run_step_values(1);
    m2_program *p = fresh(M2_MODE_EVAL);
    float x[6] = {0};
    void *base;
    m2_dtype dtype;
    m2_tid a = vector(p, "a", 3), b = m2_build_unary(p, "b", &m2_op_scale, NULL, a);
    m2_program_output(p, "c", m2_build_unary(p, "c", &m2_op_scale, NULL, b));
    CU_ASSERT_EQUAL(m2_program_bind(p, cpu), M2_BUG);
    CU_ASSERT_EQUAL_FATAL(m2_program_plan(p, &opt), M2_OK);
    CU_ASSERT_EQUAL(m2_program_run(p, &s, 0, 1), M2_BUG);
    CU_ASSERT_EQUAL(m2_program_read(p, a, x), M2_BUG);
    CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, cpu), M2_OK);
    CU_ASSERT_EQUAL(m2_program_bind(p, cpu), M2_BUG);
    CU_ASSERT_EQUAL(m2_program_run(p, &s, 1, 1), M2_BUG);
    CU_ASSERT_EQUAL(m2_program_run_update(p, &s), M2_BUG);
    CU_ASSERT_EQUAL(m2_program_read(p, 99, x), M2_USAGE);
    CU_ASSERT(strstr(m2_message(), "tensor 99 does not exist") != NULL);
    CU_ASSERT_EQUAL(m2_program_read(p, b, x), M2_USAGE);
    CU_ASSERT(strstr(m2_message(), "name it with m2_program_output") != NULL);
    CU_ASSERT_EQUAL(m2_program_write(p, a, x), M2_OK);
    CU_ASSERT_EQUAL(m2_program_run(p, &s, 0, 1), M2_OK);
    CU_ASSERT_EQUAL(m2_program_read(p, m2_program_find(p, "c"), x), M2_OK);
    CU_ASSERT_EQUAL(m2_program_flat(p, "m", &base, &dtype), M2_USAGE);
    CU_ASSERT_EQUAL(m2_program_flat(p, "moments", &base, &dtype), M2_USAGE);
    CU_ASSERT_EQUAL(m2_program_find(p, "d"), M2_NONE);
    m2_program_free(&p);
    CU_ASSERT_PTR_NULL(p);
    m2_program_free(&p);
}

static void test_tf32_needs_a_gpu(void)
{
    m2_program_spec spec = {
        .mode = M2_MODE_EVAL, .precision = M2_PREC_TF32, .rows = 2, .rows_whole = 2, .length = 6};
    m2_plan_options opt = {.threads = 1};
    m2_program *p = m2_program_new(&spec);
    m2_build_unary(p, "y", &m2_op_scale, NULL, vector(p, "a", 3));
    CU_ASSERT_EQUAL_FATAL(m2_program_plan(p, &opt), M2_OK);
    CU_ASSERT_EQUAL(m2_program_bind(p, cpu), M2_USAGE);
    CU_ASSERT(strstr(m2_message(), "tf32 needs a GPU") != NULL);
    m2_program_free(&p);
}

/* ---- the printed plan --------------------------------------------------------------------------------------------- */
typedef struct text {
    char *all, *lines[1024];
    int n;
} text;

static text print(const m2_program *p)
{
    text t = {0};
    FILE *f = tmpfile();
    m2_program_print(p, f);
    long size = ftell(f);
    rewind(f);
    t.all = calloc(1, (size_t)size + 1);
    if (fread(t.all, 1, (size_t)size, f) != (size_t)size) t.all[0] = 0;
    fclose(f);
    for (char *s = t.all; *s && t.n < 1024; t.n++) {
        t.lines[t.n] = s;
        s = strchr(s, '\n');
        *s++ = 0;
    }
    return t;
}

static long long number_after(const text *t, const char *label)
{
    for (int i = 0; i < t->n; i++) {
        const char *s = t->lines[i] + strspn(t->lines[i], " ");
        if (!strncmp(s, label, strlen(label)) && s[strlen(label)] == ' ') return atoll(s + strlen(label));
    }
    return -1;
}

/* Each call has one line with its index, path and op; no line exceeds 160 columns; the totals are the plan's. */
static void check_print(const m2_program *p)
{
    text t = print(p);
    int next = 0;
    double megabytes = 0;
    for (int i = 0; i < t.n; i++) {
        char path[64], op[32];
        int index;
        double mb, mflop;
        CU_ASSERT(strlen(t.lines[i]) <= 160);
        if (sscanf(t.lines[i], "%d%*[*!]%63s %31s %lf %lf", &index, path, op, &mb, &mflop) != 5 &&
            sscanf(t.lines[i], "%d %63s %31s %lf %lf", &index, path, op, &mb, &mflop) != 5)
            continue;
        m2_call_info c = m2_program_call_info(p, next);
        size_t n = strlen(c.path);
        CU_ASSERT_EQUAL(index, next);
        CU_ASSERT_STRING_EQUAL(op, c.op->name);
        CU_ASSERT_STRING_EQUAL(path, c.path + (n > 28 ? n - 28 : 0));
        CU_ASSERT_DOUBLE_EQUAL(mb, c.cost.bytes / 1e6, 0.0051);
        megabytes += c.cost.bytes / 1e6;
        next++;
    }
    m2_memory_plan m = m2_program_memory(p);
    m2_cost sum = m2_program_cost(p, M2_FORWARD | M2_BACKWARD | M2_UPDATE);
    CU_ASSERT_EQUAL(next, m2_program_calls(p));
    CU_ASSERT_DOUBLE_EQUAL(megabytes, sum.bytes / 1e6, 1e-6);
    CU_ASSERT_EQUAL(number_after(&t, "activations"), m.activations);
    CU_ASSERT_EQUAL(number_after(&t, "params"), m.params);
    CU_ASSERT_EQUAL(number_after(&t, "total"),
                    m.params + m.grads + m.optimizer + m.activations + m.workspace + m.io);
    CU_ASSERT(strstr(t.lines[0], "1509 trained parameters") != NULL);
    free(t.all);
}

static void test_print(void)
{
    for (int k = 0; k < 4; k++) {
        m2_program *p;
        run_way way = {.plan = {.threads = 1, .naive = k & 1}, .micros = 3};
        way.recompute.policy = k & 2 ? M2_RECOMPUTE_BLOCK : M2_RECOMPUTE_NONE;
        CU_ASSERT_EQUAL_FATAL(run_plan(small_gpt, k & 2 ? cpu : NULL, &way, &p), M2_OK);
        check_print(p);
        m2_program_free(&p);
    }
}

/* Long paths, many operands and huge shapes are cut at 160 columns, not wrapped. */
static void test_print_is_narrow(void)
{
    m2_program *p = fresh(M2_MODE_EVAL);
    m2_program_push(p, "a_scope_with_a_long_name.and_another_one_inside");
    m2_tid x = m2_program_input(p, "an_input_whose_name_is_long_too",
                                m2_desc_make(M2_F32, "CBL", (int64_t)4096, (int64_t)4096, (int64_t)131072));
    m2_tid k = m2_program_input(p, "kernel", m2_desc_make(M2_F32, ".L", (int64_t)4096, (int64_t)131072)),
           out[M2_MAX_OUT];
    m2_tid in[M2_MAX_IN] = {x, k, k, M2_NONE, x, x, M2_NONE, M2_NONE};
    m2_program_call(p, "convolution", &m2_op_longconv, NULL, in, out);
    m2_program_pop(p);
    text t = print(p);
    CU_ASSERT(t.n >= 5);
    for (int i = 0; i < t.n; i++) CU_ASSERT(strlen(t.lines[i]) <= 160);
    free(t.all);
    m2_program_free(&p);
}

int main(void)
{
    if (m2_device_open("cpu", 1, &cpu) != M2_OK) return 1;
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("what a program says", NULL, NULL);
    CU_add_test(s, "a shape error names path, op, both shapes", test_shape_error_names_everything);
    CU_add_test(s, "builder errors", test_builder_errors);
    CU_add_test(s, "backward errors", test_backward_errors);
    CU_add_test(s, "use errors", test_use_errors);
    CU_add_test(s, "tf32 needs a GPU", test_tf32_needs_a_gpu);
    CU_add_test(s, "the printed plan is complete and adds up", test_print);
    CU_add_test(s, "lines stay within 160 columns", test_print_is_narrow);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    m2_device_close(&cpu);
    return failures != 0;
}
