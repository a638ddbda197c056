/* The head of fine-tuning: gradients of all parameters against differences of the loss, for classes and numbers, the first
 * position and the mean; what a task is refused on. */
#include "kernels/base/rng.h"
#include "runtime/models/model.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3, LENGTH = 7, VOCAB = 16 };
static m2_device *device;

static m2_status open_program(const char *task, m2_mode mode, m2_program **out)
{
    static const char *const options[] = {
        "model.family=bert", "model.layers=2",       "model.width=8",           "model.share=1",
        "model.length=7",    "model.vocab=16",       "model.mlp=blockdiag_glu", "model.dropout=0",
        "model.mlp_ratio=2", "model.filter.width=4", "model.filter.freq=2",     "model.init_std=0.4"};
    m2_config cfg;
    m2_program_spec spec = {.mode = mode, .precision = M2_PREC_F64, .rows = ROWS, .rows_whole = ROWS, .length = LENGTH};
    m2_recompute keep = {M2_RECOMPUTE_NONE};
    m2_plan_options plan = {.threads = 1};
    m2_config_defaults(&cfg);
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) M2_TRY(m2_config_set(&cfg, options[i]));
    snprintf(cfg.task_name, sizeof cfg.task_name, "%s", task);
    M2_TRY(m2_model_build(&cfg, &spec, out));
    if (mode == M2_MODE_TRAIN) m2_program_backward(*out, m2_program_find(*out, "loss"), &keep);
    M2_TRY(m2_program_plan(*out, &plan));
    M2_TRY(m2_program_bind(*out, device));
    return m2_program_init_params(*out, 3);
}

static m2_status write_inputs(m2_program *p, const char *task)
{
    static const int32_t pooled[ROWS] = {1, LENGTH, 4}, classes[ROWS] = {1, 0, 1};
    static const double numbers[ROWS] = {3.5, 0, 1.25};
    int32_t tokens[ROWS * LENGTH];
    for (int i = 0; i < ROWS * LENGTH; i++) tokens[i] = (i * 7 + i / 3) % VOCAB;
    M2_TRY(m2_program_write(p, m2_program_find(p, "tokens"), tokens));
    M2_TRY(m2_program_write(p, m2_program_find(p, "pooled"), pooled));
    return m2_program_write(p, m2_program_find(p, "targets"),
                            strcmp(task, "stsb") ? (const void *)classes : numbers);
}

static double loss_of(m2_program *p)
{
    m2_step step = {.seed = 1, .step = 1};
    double loss = (double)NAN;
    CU_ASSERT_EQUAL_FATAL(m2_program_run(p, &step, 0, 1), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_read(p, m2_program_find(p, "loss"), &loss), M2_OK);
    return loss;
}

/* Along random directions: the derivative is the inner product with the gradient. */
static void check_task(const char *task)
{
    m2_program *p = NULL;
    m2_dtype dtype;
    void *param, *grad;
    m2_status st = open_program(task, M2_MODE_TRAIN, &p);
    if (st == M2_OK) st = write_inputs(p, task);
    if (st != M2_OK) printf("\n  %s: %s\n", task, m2_message());
    CU_ASSERT_EQUAL_FATAL(st, M2_OK);
    loss_of(p);
    CU_ASSERT_EQUAL_FATAL(m2_program_flat(p, "param", &param, &dtype), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_flat(p, "grad", &grad, &dtype), M2_OK);
    int64_t n = m2_program_flat_trained(p);
    double *x = malloc((size_t)n * sizeof *x), *g = malloc((size_t)n * sizeof *g);
    memcpy(x, param, (size_t)n * sizeof *x);
    memcpy(g, grad, (size_t)n * sizeof *g);
    const m2_param *rows;
    int n_rows = m2_program_params(p, &rows);
    for (int r = 0; r < n_rows; r++) { /* one parameter at a time: none hides behind another */
        const double h = 1e-6;
        double along = 0, side[2];
        int64_t count = 1;
        for (int d = 0; d < rows[r].rank; d++) count *= rows[r].dims[d];
        m2_rng_key key = m2_rng_make_key(5, (uint64_t)r, 0);
        for (int s = 0; s < 2; s++) {
            for (int64_t i = 0; i < count; i++) {
                int64_t at = rows[r].offset + i;
                double v =
                    !strcmp(rows[r].name, "embed.weight") && i < 8 ? 0 : m2_rng_normal(key, (uint64_t)i);
                ((double *)param)[at] = x[at] + (s ? -h : h) * v;
                if (s) along += g[at] * v;
            }
            CU_ASSERT_EQUAL_FATAL(m2_program_params_changed(p), M2_OK);
            side[s] = loss_of(p);
        }
        memcpy(param, x, (size_t)n * sizeof *x);
        double slope = (side[0] - side[1]) / (2 * h), off = fabs(slope - along);
        CU_ASSERT(off <= 1e-6 * (1 + fabs(along)));
        if (!(off <= 1e-6 * (1 + fabs(along))))
            printf("\n  %s, %s: slope %.9g, gradient %.9g\n", task, rows[r].name, slope, along);
    }
    free(x);
    free(g);
    m2_program_free(&p);
}

static void test_gradients(void)
{
    check_task("rte");
    check_task("mnli");
    check_task("stsb");
}

static void test_refusals(void)
{
    m2_config cfg;
    m2_program *p;
    m2_program_spec spec = {.mode = M2_MODE_EVAL, .precision = M2_PREC_F64, .rows = 1, .rows_whole = 1, .length = 512};
    m2_config_defaults(&cfg);
    CU_ASSERT_EQUAL(m2_config_set(&cfg, "task.name=rte"), M2_OK);
    CU_ASSERT_EQUAL(m2_model_build(&cfg, &spec, &p), M2_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "task.name=rte needs model.family=bert"));
    CU_ASSERT_EQUAL(m2_config_set(&cfg, "task.name=imdb"), M2_USAGE);
}

int main(void)
{
    if (m2_device_open("cpu", 1, &device) != M2_OK || CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("classify", NULL, NULL);
    CU_ADD_TEST(suite, test_gradients);
    CU_ADD_TEST(suite, test_refusals);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    m2_device_close(&device);
    return failed;
}
