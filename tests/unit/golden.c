/* The models against tests/golden/gpt.txt and vit.txt, which plain PyTorch wrote in float64 (make_gpt.py and make_vit.py there):
 * loss and the gradient of every parameter, in f64 and f32, with and without recomputation of blocks. */
#include "runtime/optim.h"
#include "tests/unit/golden.h"

enum { MAX_PARAMS = 64, MAX_CASES = 8 };

typedef struct golden_param {
    char name[96];
    int64_t n;
    double *value, *grad;
} golden_param;

typedef struct golden {
    char name[64];
    m2_config cfg;
    int64_t n, rows;                          /* targets; of the batch */
    double *tokens, *patches, *targets, loss; /* tokens or patches */
    int n_params;
    golden_param params[MAX_PARAMS];
} golden;

static golden cases[MAX_CASES];
static int n_cases;

/* ---- the file ---------------------------------------------------------------------------------------------------- */
static void read_case(golden *g, char *text)
{
    char *word = strtok(text, " \n");
    snprintf(g->name, sizeof g->name, "%s", word);
    m2_config_defaults(&g->cfg);
    while ((word = strtok(NULL, " \n"))) CU_ASSERT_EQUAL(m2_config_set(&g->cfg, word), M2_OK);
}

static void read_param(golden *g, int is_grad, char *at)
{
    int length = (int)strcspn(at, " ");
    char *rest = at + length;
    golden_param *p = &g->params[is_grad ? g->n_params - 1 : g->n_params++];
    snprintf(p->name, sizeof p->name, "%.*s", length, at);
    *(is_grad ? &p->grad : &p->value) = numbers(&rest, &p->n);
}

static void read_file(const char *name)
{
    char *line = NULL;
    size_t room = 0;
    FILE *f = open_golden(name);
    while (getline(&line, &room, f) > 0) {
        golden *g = n_cases ? &cases[n_cases - 1] : NULL;
        char *at = line + strcspn(line, " ") + 1;
        if (!strncmp(line, "case ", 5)) read_case(&cases[n_cases++], at);
        if (!strncmp(line, "tokens ", 7)) g->tokens = numbers(&at, &g->n);
        if (!strncmp(line, "patches ", 8)) g->patches = numbers(&at, &g->n);
        if (!strncmp(line, "targets ", 8)) g->targets = numbers(&at, &g->n);
        if (!strncmp(line, "loss ", 5)) g->loss = strtod(at, NULL);
        if (!strncmp(line, "param ", 6)) read_param(g, 0, at);
        if (!strncmp(line, "grad ", 5)) read_param(g, 1, at);
    }
    fclose(f);
    free(line);
    for (golden *g = cases; g < cases + n_cases; g++)
        g->rows = g->patches ? g->n : g->n / g->cfg.model_length;
}

static void read_files(void)
{
    read_file("gpt.txt");
    CU_ASSERT_EQUAL(n_cases, 4);
    read_file("vit.txt");
    CU_ASSERT_EQUAL(n_cases, 6);
}

static void free_cases(void)
{
    for (golden *g = cases; g < cases + n_cases; g++) {
        for (int i = 0; i < g->n_params; i++) free(g->params[i].value), free(g->params[i].grad);
        free(g->tokens);
        free(g->patches);
        free(g->targets);
    }
}

/* ---- one case in one precision ----------------------------------------------------------------------------------- */
static m2_device *device;

static m2_status prepare(const golden *g, m2_precision precision, int recompute, m2_program **out)
{
    m2_program_spec spec = {
        .mode = M2_MODE_TRAIN, .precision = precision, .rows = g->rows, .rows_whole = g->rows, .length = g->cfg.model_length};
    m2_recompute policy = {recompute ? M2_RECOMPUTE_BLOCK : M2_RECOMPUTE_NONE};
    m2_plan_options plan = {.threads = device->threads};
    M2_TRY(m2_model_build(&g->cfg, &spec, out));
    m2_program_backward(*out, m2_program_find(*out, "loss"), &policy);
    M2_TRY(m2_program_plan(*out, &plan));
    M2_TRY(m2_program_bind(*out, device));
    return m2_program_init_params(*out, 1); /* the frozen ones; all others are overwritten */
}

static m2_status write_inputs(const golden *g, m2_program *p)
{
    M2_TRY(write_ints(p, "targets", g->targets, g->n));
    if (g->tokens) return write_ints(p, "tokens", g->tokens, g->n);
    m2_desc desc = m2_program_desc(p, m2_program_find(p, "patches"));
    double scale = 1 / (double)g->rows, pooled[16];
    for (int i = 0; i < g->rows; i++) pooled[i] = (double)g->cfg.model_length;
    M2_TRY(write_doubles(p, m2_program_find(p, "patches"), g->patches, m2_desc_count(&desc)));
    M2_TRY(write_ints(p, "pooled", pooled, g->rows));
    return write_doubles(p, m2_program_find(p, "scale"), &scale, 1);
}

static m2_status run(const golden *g, m2_program *p)
{
    m2_step step = {.seed = 1, .step = 1};
    for (int i = 0; i < g->n_params; i++) {
        const m2_param *row = row_of(p, g->params[i].name);
        if (!row) return m2_fail(M2_BUG, "no parameter is named %s", g->params[i].name);
        M2_TRY(write_doubles(p, row->tid, g->params[i].value, g->params[i].n));
    }
    M2_TRY(m2_program_params_changed(p));
    M2_TRY(write_inputs(g, p));
    M2_TRY(m2_program_run(p, &step, 0, 1));
    return m2_program_sync(p);
}

static void compare(const golden *g, m2_precision precision, int recompute, double tol)
{
    m2_program *p = NULL;
    m2_status st = prepare(g, precision, recompute, &p);
    if (st == M2_OK) st = run(g, p);
    if (st != M2_OK) printf("\n  %s: %s\n", g->name, m2_message());
    CU_ASSERT_EQUAL_FATAL(st, M2_OK);
    double *loss = read_doubles(p, m2_program_find(p, "loss"), 1);
    expect_close(g->name, "loss", fabs(*loss - g->loss) / g->loss, tol);
    free(loss);
    int trained = 0;
    const m2_param *rows;
    for (int i = m2_program_params(p, &rows) - 1; i >= 0; i--) trained += !(rows[i].flags & M2_PARAM_FROZEN);
    CU_ASSERT_EQUAL(trained, g->n_params); /* neither side has more */
    for (int i = 0; i < g->n_params; i++) {
        double *grad = read_doubles(p, row_of(p, g->params[i].name)->grad, g->params[i].n);
        expect_close(g->name, g->params[i].name, distance(grad, g->params[i].grad, g->params[i].n), tol);
        free(grad);
    }
    m2_program_free(&p);
}

static void test_f64(void)
{
    for (int i = 0; i < n_cases; i++) compare(&cases[i], M2_PREC_F64, 0, 1e-10);
}

static void test_f64_recomputed(void)
{
    for (int i = 0; i < n_cases; i++) compare(&cases[i], M2_PREC_F64, 1, 1e-10);
}

static void test_f32(void)
{
    for (int i = 0; i < n_cases; i++) compare(&cases[i], M2_PREC_F32, 0, 2e-5);
}

int main(void)
{
    if (m2_device_open("cpu", 1, &device) != M2_OK || CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("golden", NULL, NULL);
    CU_add_test(suite, "the files are read", read_files);
    CU_add_test(suite, "f64", test_f64);
    CU_add_test(suite, "f64, blocks recomputed", test_f64_recomputed);
    CU_add_test(suite, "f32", test_f32);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    free_cases();
    m2_device_close(&device);
    return failures != 0;
}
