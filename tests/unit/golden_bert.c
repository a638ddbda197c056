/* M2-BERT against tests/golden/bert.txt, which plain PyTorch wrote in float64 in the published state-dict layout
 * (tests/golden/make_bert.py): logits, loss and every gradient, in f64 and f32, with and without recomputation; and the
 * layout itself: complete lists are accepted, others refused with the names of the keys. */
#include "runtime/models/published.h"
#include "runtime/optim.h"
#include "tests/unit/golden.h"

enum { MOST = 256, CASES = 2 };

typedef struct golden {
    char name[64];
    m2_config cfg;
    int64_t n_tokens, n_places, n_logits;
    double *tokens, *places, *targets, *logits, loss;
    int n, n_grads;
    m2_published_tensor tensors[MOST];
    char keys[MOST][160];
    double *value[MOST], *grad[MOST];
    int64_t count[MOST];
} golden;

static golden cases[CASES];
static int n_cases;
static m2_device *device;

/* ---- the file ---------------------------------------------------------------------------------------------------- */
static void read_case(golden *g, char *text)
{
    char *word = strtok(text, " \n");
    snprintf(g->name, sizeof g->name, "%s", word);
    m2_config_defaults(&g->cfg);
    while ((word = strtok(NULL, " \n"))) CU_ASSERT_EQUAL(m2_config_set(&g->cfg, word), M2_OK);
}

static void read_tensor(golden *g, char *at)
{
    int length = (int)strcspn(at, " ");
    m2_published_tensor *t = &g->tensors[g->n];
    snprintf(g->keys[g->n], sizeof g->keys[0], "%.*s", length, at);
    t->key = g->keys[g->n];
    at += length;
    t->rank = (int)strtol(at, &at, 10);
    for (int d = 0; d < t->rank; d++) t->dims[d] = strtol(at, &at, 10);
    g->value[g->n] = numbers(&at, &g->count[g->n]);
    g->n++;
}

/* Always of the tensor just read. */
static void read_grad(golden *g, char *at)
{
    int64_t n;
    at += strcspn(at, " ");
    g->grad[g->n - 1] = numbers(&at, &n);
    CU_ASSERT_EQUAL(n, g->count[g->n - 1]);
    g->n_grads++;
}

static void read_file(void)
{
    char *line = NULL;
    size_t room = 0;
    FILE *f = open_golden("bert.txt");
    while (getline(&line, &room, f) > 0) {
        golden *g = n_cases ? &cases[n_cases - 1] : NULL;
        char *at = line + strcspn(line, " ") + 1;
        if (!strncmp(line, "case ", 5)) read_case(&cases[n_cases++], at);
        if (!strncmp(line, "tokens ", 7)) g->tokens = numbers(&at, &g->n_tokens);
        if (!strncmp(line, "places ", 7)) g->places = numbers(&at, &g->n_places);
        if (!strncmp(line, "targets ", 8)) g->targets = numbers(&at, &g->n_places);
        if (!strncmp(line, "logits ", 7)) g->logits = numbers(&at, &g->n_logits);
        if (!strncmp(line, "loss ", 5)) g->loss = strtod(at, NULL);
        if (!strncmp(line, "tensor ", 7)) read_tensor(g, at);
        if (!strncmp(line, "grad ", 5)) read_grad(g, at);
    }
    fclose(f);
    free(line);
    CU_ASSERT_EQUAL(n_cases, CASES);
}

static void free_cases(void)
{
    for (golden *g = cases; g < cases + n_cases; g++) {
        for (int i = 0; i < g->n; i++) free(g->value[i]), free(g->grad[i]);
        free(g->tokens), free(g->places), free(g->targets), free(g->logits);
    }
}

/* ---- one case in one precision ----------------------------------------------------------------------------------- */
static m2_status prepare(const golden *g, m2_mode mode, m2_precision precision, int recompute,
                         m2_program **out)
{
    int64_t length = g->cfg.model_length, rows = g->n_tokens / length;
    m2_program_spec spec = {.mode = mode, .precision = precision, .rows = rows, .rows_whole = rows, .length = length};
    m2_recompute policy = {recompute ? M2_RECOMPUTE_BLOCK : M2_RECOMPUTE_NONE};
    m2_plan_options plan = {.threads = device->threads};
    M2_TRY(m2_model_build(&g->cfg, &spec, out));
    if (mode == M2_MODE_TRAIN) m2_program_backward(*out, m2_program_find(*out, "loss"), &policy);
    M2_TRY(m2_program_plan(*out, &plan));
    M2_TRY(m2_program_bind(*out, device));
    return m2_program_init_params(*out, 1); /* all are overwritten */
}

static m2_status write_inputs(const golden *g, m2_program *p)
{
    double places[MOST], targets[MOST], scale = 1 / (double)g->n_places;
    int64_t room = m2_program_desc(p, m2_program_find(p, "places")).shape[0];
    for (int64_t i = 0; i < room; i++) {
        places[i] = i < g->n_places ? g->places[i] : -1;
        targets[i] = i < g->n_places ? g->targets[i] : M2_TARGET_NONE;
    }
    M2_TRY(write_ints(p, "tokens", g->tokens, g->n_tokens));
    M2_TRY(write_ints(p, "places", places, room));
    M2_TRY(write_ints(p, "targets", targets, room));
    return write_doubles(p, m2_program_find(p, "scale"), &scale, 1);
}

static m2_status run(golden *g, m2_program *p)
{
    m2_step step = {.seed = 1, .step = 1};
    const m2_param *rows;
    int n_rows = m2_program_params(p, &rows);
    M2_TRY(m2_published_match(g->tensors, g->n, rows, n_rows));
    for (int i = 0; i < g->n; i++)
        if (g->tensors[i].row >= 0)
            M2_TRY(write_doubles(p, rows[g->tensors[i].row].tid, g->value[i], g->count[i]));
    M2_TRY(m2_program_params_changed(p));
    M2_TRY(write_inputs(g, p));
    M2_TRY(m2_program_run(p, &step, 0, 1));
    return m2_program_sync(p);
}

static m2_program *done(golden *g, m2_mode mode, m2_precision precision, int recompute, double tol)
{
    m2_program *p = NULL;
    m2_status st = prepare(g, mode, precision, recompute, &p);
    if (st == M2_OK) st = run(g, p);
    if (st != M2_OK) printf("\n  %s: %s\n", g->name, m2_message());
    CU_ASSERT_EQUAL_FATAL(st, M2_OK);
    double *loss = read_doubles(p, m2_program_find(p, "loss"), 1);
    expect_close(g->name, "loss", fabs(*loss - g->loss) / g->loss, tol);
    free(loss);
    return p;
}

static void compare(golden *g, m2_precision precision, int recompute, double tol)
{
    m2_program *p = done(g, M2_MODE_TRAIN, precision, recompute, tol);
    const m2_param *rows;
    CU_ASSERT_EQUAL(m2_program_params(p, &rows), g->n_grads); /* neither side has more */
    for (int i = 0; i < g->n; i++) {
        if (!g->grad[i]) continue;
        double *grad = read_doubles(p, rows[g->tensors[i].row].grad, g->count[i]);
        expect_close(g->name, g->keys[i], distance(grad, g->grad[i], g->count[i]), tol);
        free(grad);
    }
    m2_program_free(&p);
    p = done(g, M2_MODE_EVAL, precision, 0, tol);
    m2_tid logits = m2_program_find(p, "logits");
    m2_desc desc = m2_program_desc(p, logits);
    double *x = read_doubles(p, logits, m2_desc_count(&desc));
    expect_close(g->name, "logits", distance(x, g->logits, g->n_logits), tol);
    free(x);
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
    for (int i = 0; i < n_cases; i++) compare(&cases[i], M2_PREC_F32, 0, 1e-5);
}

/* ---- the layout -------------------------------------------------------------------------------------------------- */
static m2_status match(golden *g, int n)
{
    m2_program *p = NULL;
    const m2_param *rows;
    CU_ASSERT_EQUAL_FATAL(prepare(g, M2_MODE_EVAL, M2_PREC_F64, 0, &p), M2_OK);
    int n_rows = m2_program_params(p, &rows);
    m2_status st = m2_published_match(g->tensors, n, rows, n_rows);
    m2_program_free(&p);
    return st;
}

typedef struct comparison {
    const golden *g;
    int found;
} comparison;

static m2_status compare_key(void *ctx, const m2_published_tensor *t)
{
    comparison *c = ctx;
    for (int i = 0; i < c->g->n; i++) {
        const m2_published_tensor *theirs = &c->g->tensors[i];
        if (strcmp(theirs->key, t->key) != 0) continue;
        c->found++;
        CU_ASSERT(theirs->rank == t->rank && !memcmp(theirs->dims, t->dims, (size_t)t->rank * sizeof *t->dims));
    }
    return M2_OK;
}

/* The keys and shapes that we write are those that PyTorch wrote. */
static void test_complete(void)
{
    for (int c = 0; c < n_cases; c++) {
        m2_program *p = NULL;
        const m2_param *rows;
        comparison found = {&cases[c], 0};
        CU_ASSERT_EQUAL_FATAL(prepare(&cases[c], M2_MODE_EVAL, M2_PREC_F64, 0, &p), M2_OK);
        int n_rows = m2_program_params(p, &rows);
        CU_ASSERT_EQUAL(m2_published_keys(rows, n_rows, compare_key, &found), M2_OK);
        CU_ASSERT_EQUAL(found.found, cases[c].n);
        m2_program_free(&p);
    }
}

static void expect_refusal(golden *g, int n, const char *a, const char *b)
{
    CU_ASSERT_EQUAL(match(g, n), M2_DATA);
    int named = strstr(m2_message(), a) && strstr(m2_message(), b);
    CU_ASSERT(named);
    if (!named) printf("\n  %s: neither %s nor %s\n", m2_message(), a, b);
}

static void test_refusals(void)
{
    golden *g = &cases[0];
    expect_refusal(g, g->n - 1, "missing", "cls.predictions.decoder.bias");
    m2_published_tensor *t = &g->tensors[1], old = *t;
    t->dims[0]++;
    expect_refusal(g, g->n, t->key, "is (17, 8) and should be (16, 8)");
    *t = old;
    t->key = "bert.pooler.dense.weight"; /* the decoder's alias stands in for what is renamed */
    expect_refusal(g, g->n, "no tensors of this M2-BERT", "bert.pooler.dense.weight");
    *t = old;
    t->key = "model.bert.embeddings.word_embeddings.weight";
    CU_ASSERT_EQUAL(match(g, g->n), M2_OK);
    *t = old;
}

int main(void)
{
    if (m2_device_open("cpu", 1, &device) != M2_OK || CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("golden bert", NULL, NULL);
    CU_add_test(suite, "the file is read", read_file);
    CU_add_test(suite, "f64", test_f64);
    CU_add_test(suite, "f64, blocks recomputed", test_f64_recomputed);
    CU_add_test(suite, "f32", test_f32);
    CU_add_test(suite, "complete list of keys", test_complete);
    CU_add_test(suite, "refusals", test_refusals);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    free_cases();
    m2_device_close(&device);
    return failures != 0;
}
