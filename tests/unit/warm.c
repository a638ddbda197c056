/* A new run from another one's checkpoint: by name, with another head; a longer model repeats positions and keeps its own
 * positional features; other models are refused by the name of the tensor. */
#include "parallel/comm.h"
#include "runtime/models/model.h"
#include "runtime/warm.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = 6, LONGER = 15, WIDTH = 8 };
static char base[] = "/tmp/m2-warm-XXXXXX";
static m2_device *device;

static m2_program *open_program(int64_t length, const char *option, uint64_t seed, m2_state *state)
{
    static const char *const options[] = {"model.family=bert", "model.layers=2", "model.width=8",
                                          "model.share=1",     "model.vocab=16", "model.mlp=blockdiag_glu"};
    m2_config cfg;
    m2_program *p = NULL;
    m2_program_spec spec = {.mode = M2_MODE_EVAL, .precision = M2_PREC_F32, .rows = 1, .rows_whole = 1, .length = length};
    m2_plan_options plan = {.threads = 1};
    m2_config_defaults(&cfg);
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        CU_ASSERT_EQUAL(m2_config_set(&cfg, options[i]), M2_OK);
    CU_ASSERT_EQUAL(m2_config_set(&cfg, option), M2_OK);
    cfg.model_length = length;
    CU_ASSERT_EQUAL_FATAL(m2_model_build(&cfg, &spec, &p), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_plan(p, &plan), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, device), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_init_params(p, seed), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_state_of(p, device, 0, state), M2_OK);
    return p;
}

static const float *values(const m2_state *s, const m2_param *row)
{
    return (const float *)s->arrays[0].base + row->offset;
}

static const m2_param *find(const m2_state *s, const char *name)
{
    for (int i = 0; i < s->n_rows; i++)
        if (!strcmp(s->rows[i].name, name)) return &s->rows[i];
    return NULL;
}

static int64_t count(const m2_param *row)
{
    int64_t n = 1;
    for (int d = 0; d < row->rank; d++) n *= row->dims[d];
    return n;
}

static int equal(const m2_state *a, const m2_state *b, const char *name)
{
    const m2_param *x = find(a, name), *y = find(b, name);
    return x && y && count(x) == count(y) &&
           !memcmp(values(a, x), values(b, y), (size_t)count(x) * sizeof(float));
}

static m2_program *saved; /* what the checkpoint holds */
static m2_state saved_state;

static void test_save(void)
{
    m2_comm *comm[1];
    m2_save_spec spec = {.folder = base,
                         .step = 3,
                         .rows = 9,
                         .config = "train:\n  steps: 7\n",
                         .tokenizer = "bytes",
                         .keep = 1};
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(base));
    saved = open_program(LENGTH, "task.name=none", 1, &saved_state);
    CU_ASSERT_EQUAL_FATAL(m2_comm_open_threads(1, comm), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_checkpoint_save(&spec, &saved_state, comm[0]), M2_OK);
    m2_comm_close(&comm[0]);
}

static void test_same(void)
{
    m2_state s;
    m2_program *p = open_program(LENGTH, "task.name=none", 2, &s);
    CU_ASSERT(!equal(&s, &saved_state, "embed.weight"));
    CU_ASSERT_EQUAL(m2_warm_start(base, &s), M2_OK);
    for (int i = 0; i < s.n_rows; i++) CU_ASSERT(equal(&s, &saved_state, s.rows[i].name));
    m2_program_free(&p);
}

static void test_other_head(void)
{
    m2_state s, fresh;
    m2_program *p = open_program(LENGTH, "task.name=rte", 2, &s),
               *q = open_program(LENGTH, "task.name=rte", 2, &fresh);
    CU_ASSERT_EQUAL(m2_warm_start(base, &s), M2_OK);
    for (int i = 0; i < s.n_rows; i++)
        CU_ASSERT(equal(&s, strncmp(s.rows[i].name, "classify.", 9) ? &saved_state : &fresh, s.rows[i].name));
    m2_program_free(&p);
    m2_program_free(&q);
}

static void test_longer(void)
{
    m2_state s, fresh;
    m2_program *p = open_program(LONGER, "task.name=none", 2, &s),
               *q = open_program(LONGER, "task.name=none", 2, &fresh);
    CU_ASSERT_EQUAL(m2_warm_start(base, &s), M2_OK);
    const float *mine = values(&s, find(&s, "embed.position")),
                *theirs = values(&saved_state, find(&saved_state, "embed.position"));
    for (int t = 0; t < LONGER; t++)
        CU_ASSERT_EQUAL(memcmp(mine + t * WIDTH, theirs + t % LENGTH * WIDTH, WIDTH * sizeof *mine), 0);
    CU_ASSERT(equal(&s, &fresh, "block.1.mixer.filter.position"));
    CU_ASSERT(equal(&s, &fresh, "block.0.mixer.residual.filter.position"));
    CU_ASSERT(equal(&s, &saved_state, "block.1.mixer.filter.out.weight"));
    m2_program_free(&p);
    m2_program_free(&q);
}

static void test_refusals(void)
{
    static const char *const options[][2] = {
        {"model.width=12", "param/embed.weight"},
        {"model.layers=3", "no tensor param/block.2.mixer.in.weight"},
        {"model.layers=1", "tensor param/block.1.mixer.in.weight"},
        {"model.additions=true", "no tensor param/block.0.mixer.norm.weight"}};
    for (int i = 0; i < 4; i++) {
        m2_state s;
        m2_program *p = open_program(LENGTH, options[i][0], 2, &s);
        CU_ASSERT_EQUAL(m2_warm_start(base, &s), M2_DATA);
        int named = strstr(m2_message(), options[i][1]) != NULL;
        CU_ASSERT(named);
        if (!named) printf("\n  %s: '%s' does not say '%s'\n", options[i][0], m2_message(), options[i][1]);
        m2_program_free(&p);
    }
    m2_state s;
    m2_program *p = open_program(LENGTH, "task.name=none", 2, &s);
    CU_ASSERT_NOT_EQUAL(m2_warm_start("/tmp/m2-no-such-run", &s), M2_OK);
    m2_program_free(&p);
}

int main(void)
{
    if (m2_device_open("cpu", 1, &device) != M2_OK || CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("warm", NULL, NULL);
    CU_ADD_TEST(suite, test_save);
    CU_ADD_TEST(suite, test_same);
    CU_ADD_TEST(suite, test_other_head);
    CU_ADD_TEST(suite, test_longer);
    CU_ADD_TEST(suite, test_refusals);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    m2_program_free(&saved);
    if (m2_checkpoint_remove(base) != M2_OK) failed = 1;
    m2_device_close(&device);
    return failed;
}
