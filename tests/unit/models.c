/* Model families: parameter counts of SPEC 5.1, 5.2 and 8, the published configurations, names, every option's program
 * plans in every precision, initial values, refusals. */
#include "runtime/models/model.h"
#include "runtime/optim.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static m2_config config(int n, const char *const *options)
{
    m2_config cfg;
    m2_config_defaults(&cfg);
    cfg.model_vocab = 50264;
    for (int i = 0; i < n; i++) CU_ASSERT_EQUAL(m2_config_set(&cfg, options[i]), M2_OK);
    return cfg;
}

static m2_status build(const m2_config *cfg, m2_mode mode, m2_program **out)
{
    m2_program_spec spec = {
        .mode = mode, .precision = M2_PREC_F32, .rows = 1, .rows_whole = 1, .length = cfg->model_length};
    return m2_model_build(cfg, &spec, out);
}

enum { OPTIONS = 8 };
static const struct {
    int64_t params;
    int n;
    const char *options[OPTIONS];
} sizes[] = {
    {144567936, 3, {"model.width=1024", "model.layers=22", "model.share=8"}},
    {361844736, 3, {"model.width=1536", "model.layers=30", "model.share=8"}},
    {152483904,
     5,
     {"model.width=864", "model.layers=18", "model.share=1", "model.mlp=dense", "model.mlp_ratio=2"}},
    {357086464,
     5,
     {"model.width=1024", "model.layers=36", "model.share=1", "model.mlp=dense", "model.mlp_ratio=2"}},
};

static void test_sizes(void)
{
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        m2_program *p = NULL;
        m2_config cfg = config(sizes[i].n, sizes[i].options);
        CU_ASSERT_EQUAL(m2_config_set(&cfg, "model.length=2048"), M2_OK);
        CU_ASSERT_EQUAL_FATAL(build(&cfg, M2_MODE_EVAL, &p), M2_OK);
        CU_ASSERT_EQUAL(m2_program_param_count(p), sizes[i].params);
        if (m2_program_param_count(p) != sizes[i].params)
            printf("  %lld\n", (long long)m2_program_param_count(p));
        m2_program_free(&p);
    }
}

/* Every parameter is in a group, has a gradient, and the filter's network alone is spared weight decay. */
static void check_rows(m2_program *p)
{
    const m2_param *rows;
    int n = m2_program_params(p, &rows);
    for (int i = 0; i < n; i++) {
        int filter = strstr(rows[i].name, "filter.") != NULL,
            position = strstr(rows[i].name, "mixer.filter.position") ||
                       strstr(rows[i].name, "residual.filter.position");
        CU_ASSERT_EQUAL(rows[i].group, position ? M2_GROUP_POSITION
                                       : filter ? M2_GROUP_FILTER
                                                : M2_GROUP_DECAYED);
        CU_ASSERT_EQUAL(rows[i].grad == M2_NONE, (rows[i].flags & M2_PARAM_FROZEN) != 0);
    }
}

static void test_options(void)
{
    static const char *const small[] = {"model.width=16", "model.layers=2", "model.length=12",
                                        "model.share=4"};
    static const char *const variants[] = {
        "model.mlp=none",  "model.mlp=dense",      "model.mlp=blockdiag",   "model.mlp=blockdiag_glu",
        "model.share=1",   "model.share_by=index", "model.filter.layers=0", "model.short_taps=5",
        "model.dropout=0", "model.length=1",       "model.family=bert",     "model.filter.taps=5"};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        m2_config cfg = config(4, small);
        m2_program *p = NULL;
        m2_recompute recompute = {M2_RECOMPUTE_BLOCK};
        m2_update_spec update = m2_optim_update(&cfg);
        m2_plan_options plan = {.threads = 1};
        cfg.model_vocab = 24;
        CU_ASSERT_EQUAL(m2_config_set(&cfg, variants[i]), M2_OK);
        CU_ASSERT_EQUAL_FATAL(build(&cfg, M2_MODE_TRAIN, &p), M2_OK);
        CU_ASSERT_EQUAL(m2_program_find(p, "logits"), M2_NONE);
        m2_program_backward(p, m2_program_find(p, "loss"), &recompute);
        m2_program_update(p, &update);
        CU_ASSERT_EQUAL(m2_program_plan(p, &plan), M2_OK);
        check_rows(p);
        m2_program_free(&p);
        CU_ASSERT_EQUAL_FATAL(build(&cfg, M2_MODE_EVAL, &p), M2_OK);
        CU_ASSERT_NOT_EQUAL(m2_program_find(p, "logits"), M2_NONE);
        m2_program_free(&p);
    }
}

/* What training keeps in which dtype: the residual stream is precise, what goes into projections is not. */
static void test_precisions(void)
{
    static const struct {
        m2_precision precision;
        m2_dtype stream, compute;
    } rows[] = {{M2_PREC_F32, M2_F32, M2_F32},
                {M2_PREC_F64, M2_F64, M2_F64},
                {M2_PREC_TF32, M2_F32, M2_F32},
                {M2_PREC_BF16, M2_F32, M2_BF16}};
    for (int i = 0; i < 4; i++) {
        static const char *const small[] = {"model.width=16", "model.layers=2", "model.length=12",
                                            "model.mlp=blockdiag_glu"};
        m2_config cfg = config(4, small);
        m2_program *p = NULL;
        m2_program_spec spec = {
            .mode = M2_MODE_TRAIN, .precision = rows[i].precision, .rows = 2, .rows_whole = 2, .length = 12};
        m2_recompute recompute = {M2_RECOMPUTE_NONE};
        m2_update_spec update = m2_optim_update(&cfg);
        m2_plan_options plan = {.threads = 1};
        CU_ASSERT_EQUAL_FATAL(m2_model_build(&cfg, &spec, &p), M2_OK);
        for (int k = 0; k < m2_program_calls(p); k++) {
            m2_call_info c = m2_program_call_info(p, k);
            if (c.op == &m2_op_addnorm) CU_ASSERT_EQUAL(c.out[0].dtype, rows[i].stream);
            if (c.op == &m2_op_addnorm) CU_ASSERT_EQUAL(c.out[1].dtype, rows[i].compute);
            if (c.op == &m2_op_longconv) CU_ASSERT_EQUAL(c.in[0].dtype, rows[i].compute);
            if (c.op == &m2_op_longconv) CU_ASSERT_EQUAL(c.in[1].dtype, rows[i].stream); /* taps */
        }
        m2_program_backward(p, m2_program_find(p, "loss"), &recompute);
        m2_program_update(p, &update);
        CU_ASSERT_EQUAL(m2_program_plan(p, &plan), M2_OK);
        m2_program_free(&p);
    }
}

/* The gradient of a long convolution takes its output where the projection behind keeps that (GPT), and costs no memory where
 * nothing does (BERT, which adds another convolution first). */
static void test_spare_outputs(void)
{
    static const char *const small[] = {"model.family=gpt", "model.width=16", "model.layers=3", "model.length=12",
                                        "model.vocab=24"};
    for (int bert = 0; bert < 2; bert++)
        for (int again = 0; again < 2; again++) {
            m2_config cfg = config(5, small);
            if (bert) CU_ASSERT_EQUAL_FATAL(m2_config_set(&cfg, "model.family=bert"), M2_OK);
            m2_program *p = NULL;
            m2_recompute recompute = {again ? M2_RECOMPUTE_BLOCK : M2_RECOMPUTE_NONE};
            int gradients = 0, with = 0;
            CU_ASSERT_EQUAL_FATAL(build(&cfg, M2_MODE_TRAIN, &p), M2_OK);
            m2_program_backward(p, m2_program_find(p, "loss"), &recompute);
            for (int k = 0; k < m2_program_calls(p); k++) {
                m2_call_info c = m2_program_call_info(p, k);
                if (c.op != &m2_op_longconv_grad) continue;
                gradients++;
                with += c.in[6].rank >= 0;
            }
            CU_ASSERT_EQUAL(gradients, bert ? 6 : 3);
            CU_ASSERT_EQUAL(with, bert ? 0 : 3);
            m2_program_free(&p);
        }
}

/* The files that come with m2 are what they say. */
static void test_files(void)
{
    static const struct {
        const char *name;
        const char *option; /* or NULL */
        int64_t params;
    } files[] = {{"gpt/145m", NULL, 144567936},
                 {"gpt/360m", NULL, 361844736},
                 {"gpt/1b", NULL, 995532608},
                 {"gpt/hyena-153m", NULL, 152483904},
                 {"gpt/tiny", NULL, 1438944},
                 {"bert/80m", NULL, 80267328}, /* SPEC 3.6 */
                 {"bert/80m", "model.additions=true", 80285760},
                 {"bert/110m", NULL, 115583616},
                 {"bert/260m", NULL, 259133760},
                 {"bert/341m", NULL, 341038144},
                 {"vit/b16", NULL, 45632536}}; /* SPEC 4 */
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[1024];
        const char *root = getenv("M2_SOURCE");
        m2_config cfg;
        m2_program *p = NULL;
        m2_config_defaults(&cfg);
        snprintf(path, sizeof path, "%s/configs/%s.yaml", root ? root : ".", files[i].name);
        CU_ASSERT_EQUAL_FATAL(m2_config_load(&cfg, path), M2_OK);
        if (files[i].option) CU_ASSERT_EQUAL(m2_config_set(&cfg, files[i].option), M2_OK);
        if (!cfg.model_vocab) cfg.model_vocab = 4096;
        CU_ASSERT_EQUAL_FATAL(build(&cfg, M2_MODE_EVAL, &p), M2_OK);
        CU_ASSERT_EQUAL(m2_program_param_count(p), files[i].params);
        if (m2_program_param_count(p) != files[i].params)
            printf("  %s: %lld\n", files[i].name, (long long)m2_program_param_count(p));
        m2_program_free(&p);
    }
}

/* Every task has its recipe. */
static void test_recipes(void)
{
    static const char *const tasks[] = {"cola", "sst2", "mrpc", "rte", "stsb", "wnli", "qnli", "mnli", "qqp"};
    const char *root = getenv("M2_SOURCE");
    for (int i = 0; i < 9; i++) {
        char path[1024];
        m2_config cfg;
        m2_config_defaults(&cfg);
        snprintf(path, sizeof path, "%s/configs/glue/%s.yaml", root ? root : ".", tasks[i]);
        CU_ASSERT_EQUAL_FATAL(m2_config_load(&cfg, path), M2_OK);
        CU_ASSERT_STRING_EQUAL(cfg.task_name, tasks[i]);
        CU_ASSERT(cfg.train_epochs >= 1 && cfg.optim_lr > 0 && cfg.optim_lr < 1e-3);
    }
}

/* Filters shorter than the sequence, and without their high frequencies: what the convolutions of a model get. */
static void test_short_filters(void)
{
    static const char *const options[] = {
        "model.family=bert",   "model.width=16",         "model.layers=2", "model.length=12",
        "model.filter.taps=5", "model.filter.band=0.25", "model.vocab=24"};
    m2_config cfg = config(7, options);
    m2_program *p = NULL;
    int seen = 0;
    CU_ASSERT_EQUAL_FATAL(build(&cfg, M2_MODE_EVAL, &p), M2_OK);
    for (int k = 0; k < m2_program_calls(p); k++) {
        m2_call_info c = m2_program_call_info(p, k);
        if (c.op != &m2_op_longconv) continue;
        CU_ASSERT(c.in[1].shape[1] == 5 && c.in[2].shape[1] == 5 && c.in[0].shape[2] == 12);
        seen++;
    }
    CU_ASSERT_EQUAL(seen, 4);
    m2_program_free(&p);
}

static double std_of(const m2_param *rows, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(rows[i].name, name)) return rows[i].init_a;
    return -1;
}

/* SPEC 5.1: what ends a residual branch starts smaller by sqrt(2 layers). */
static void test_initial_values(void)
{
    static const char *const options[] = {"model.layers=8", "model.mlp=dense"};
    m2_config cfg = config(2, options);
    const m2_param *rows;
    m2_program *p = NULL;
    CU_ASSERT_EQUAL_FATAL(build(&cfg, M2_MODE_EVAL, &p), M2_OK);
    int n = m2_program_params(p, &rows);
    CU_ASSERT_DOUBLE_EQUAL(std_of(rows, n, "embed.weight"), 0.02, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(std_of(rows, n, "block.7.mixer.in.weight"), 0.02, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(std_of(rows, n, "block.7.mixer.out.weight"), 0.005, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(std_of(rows, n, "block.0.mlp.up.weight"), 0.02, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(std_of(rows, n, "block.0.mlp.down.weight"), 0.005, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(std_of(rows, n, "block.0.mixer.short.weight"), 0.57735, 1e-5);
    CU_ASSERT_DOUBLE_EQUAL(std_of(rows, n, "block.0.mixer.filter.frequency"), 14, 0);
    CU_ASSERT_DOUBLE_EQUAL(std_of(rows, n, "block.0.mixer.skip"), 1, 0);
    m2_program_free(&p);
}

/* 1 when two parameters of the program start with the same numbers, of which some are not zero. */
static int start_alike(m2_program *p, const char *a, const char *b)
{
    enum { MOST = 4096 };
    static float x[2][MOST];
    const char *names[2] = {a, b};
    const m2_param *rows;
    int n = m2_program_params(p, &rows);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < n; i++)
            if (!strcmp(rows[i].name, names[k]))
                CU_ASSERT_EQUAL(m2_program_read(p, rows[i].tid, x[k]), M2_OK);
    return x[0][0] != 0 && !memcmp(x[0], x[1], 24 * sizeof(float)); /* the smallest has as many */
}

/* SPEC 3.5: what the published initialisation draws once, and what it draws for each block. */
static void test_initialisations(void)
{
    static const char *const options[] = {
        "model.family=bert", "model.layers=2",          "model.width=24", "model.share=1",
        "model.length=8",    "model.mlp=blockdiag_glu", "model.vocab=16", "model.filter.width=8"};
    static const char *const once[] = {"mixer.short.weight",  "mixer.short.bias", "mixer.skip",
                                       "mixer.residual.skip", "mlp.up.weight",    "mlp.down.weight",
                                       "mlp.down.bias"};
    static const char *const anew[] = {"mixer.in.weight", "mixer.filter.out.weight",
                                       "mixer.filter.reverse.layer.0.weight"};
    m2_device *dev;
    CU_ASSERT_EQUAL_FATAL(m2_device_open("cpu", 1, &dev), M2_OK);
    for (int reference = 0; reference < 2; reference++) {
        m2_config cfg = config(OPTIONS, options);
        m2_program *p = NULL;
        m2_plan_options plan = {.threads = 1};
        char a[96], b[96];
        if (reference) CU_ASSERT_EQUAL(m2_config_set(&cfg, "model.init=reference"), M2_OK);
        CU_ASSERT_EQUAL_FATAL(build(&cfg, M2_MODE_EVAL, &p), M2_OK);
        CU_ASSERT_EQUAL(m2_program_plan(p, &plan), M2_OK);
        CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, dev), M2_OK);
        CU_ASSERT_EQUAL(m2_program_init_params(p, 1), M2_OK);
        for (int i = 0; i < 10; i++) {
            const char *name = i < 7 ? once[i] : anew[i - 7];
            snprintf(a, sizeof a, "block.0.%s", name);
            snprintf(b, sizeof b, "block.1.%s", name);
            CU_ASSERT_EQUAL(start_alike(p, a, b), reference && i < 7);
        }
        m2_program_free(&p);
    }
    m2_device_close(&dev);
}

static void test_refusals(void)
{
    static const char *const wrong[][2] = {{"model.share=7", "model.share=7 does not divide"},
                                           {"model.filter.emb=32", "must be odd"},
                                           {"model.vocab=0", "model.vocab is not set"},
                                           {"model.filter.taps=999", "is more than model.length=512"},
                                           {"model.filter.band=0.5", "reaches into the future"},
                                           {"model.mlp_ratio=2.5", "is not a whole number"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        m2_program *p;
        const char *const options[] = {"model.width=257", "model.share=1", "model.mlp=dense", wrong[i][0]};
        m2_config cfg = config(4, options);
        CU_ASSERT_EQUAL(build(&cfg, M2_MODE_EVAL, &p), M2_USAGE);
        CU_ASSERT_PTR_NULL(p);
        CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), wrong[i][1]));
    }
    static const char *const blocks[] = {"model.mlp=blockdiag", "model.mlp_blocks=3"};
    m2_program *p;
    m2_config cfg = config(2, blocks);
    CU_ASSERT_EQUAL(build(&cfg, M2_MODE_EVAL, &p), M2_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "model.mlp_blocks=3"));
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("models", NULL, NULL);
    CU_add_test(suite, "sizes", test_sizes);
    CU_add_test(suite, "options", test_options);
    CU_add_test(suite, "precisions", test_precisions);
    CU_add_test(suite, "spare outputs", test_spare_outputs);
    CU_add_test(suite, "files", test_files);
    CU_add_test(suite, "recipes of tasks", test_recipes);
    CU_add_test(suite, "short filters", test_short_filters);
    CU_add_test(suite, "initial values", test_initial_values);
    CU_add_test(suite, "initialisations", test_initialisations);
    CU_add_test(suite, "refusals", test_refusals);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
