/* fit.c - what train.micro = 0 and train.recompute = auto come to for a memory: the whole share while it fits, then smaller
 * microbatches, then recomputed blocks, then a refusal. */
#include "runtime/config.h"
#include "runtime/eval.h"
#include "runtime/fit.h"

#include <CUnit/Basic.h>

static m2_device *cpu;

typedef struct choice {
    m2_status st;
    int64_t micro, bytes;
    int recompute;
} choice;

static m2_config small(const char *recompute)
{
    m2_config cfg;
    m2_config_defaults(&cfg);
    cfg.model_width = 32, cfg.model_layers = 6, cfg.model_length = 64, cfg.model_vocab = 64,
    cfg.train_batch = 16;
    snprintf(cfg.train_recompute, sizeof cfg.train_recompute, "%s", recompute);
    return cfg;
}

/* On a GPU (as far as fit knows) of so much memory, shared by some ranks. */
static choice choose(const m2_config *cfg, int64_t memory, int sharers)
{
    m2_device_api api = *cpu->api;
    m2_device gpu = *cpu;
    m2_comm comm = {.size = 1, .local_size = 1, .device = &gpu, .host = &comm};
    m2_ranks ranks = {.device = &gpu, .comm = &comm, .sharers = sharers};
    m2_batch batch;
    choice c = {.st = M2_OK};
    api.kind = "gpu";
    gpu.api = &api;
    gpu.memory = memory;
    CU_ASSERT_EQUAL_FATAL(m2_batch_cut(cfg->train_batch, cfg->train_micro, 0, 1, &batch), M2_OK);
    c.st = m2_training_choose(cfg, &ranks, &batch, &c.recompute);
    c.micro = batch.micro;
    m2_program *p = NULL;
    CU_ASSERT_EQUAL_FATAL(m2_training_build(cfg, &ranks, &batch, c.recompute, &p), M2_OK);
    m2_memory_plan m = m2_program_memory(p);
    c.bytes = m.params + m.grads + m.optimizer + m.activations + m.workspace + m.io;
    m2_program_free(&p);
    return c;
}

static void test_budget(void)
{
    m2_config cfg = small("auto");
    choice before = choose(&cfg, 1ll << 40, 1);
    CU_ASSERT(before.st == M2_OK && before.micro == 16 && !before.recompute);
    int again = 0, smaller = 0, refused = 0;
    for (int64_t memory = before.bytes * 2; !refused && memory > 1000; memory -= memory / 16) {
        choice c = choose(&cfg, memory, 1);
        refused = c.st != M2_OK;
        if (refused) continue;
        CU_ASSERT((double)c.bytes <= 0.9 * (double)memory);
        CU_ASSERT(c.recompute > before.recompute ||
                  (c.recompute == before.recompute && c.micro <= before.micro));
        smaller += !c.recompute && c.micro < 16;
        again += c.recompute;
        before = c;
    }
    CU_ASSERT(smaller > 0);
    CU_ASSERT(again > 0);
    CU_ASSERT(refused);
}

static void test_sharers(void)
{
    m2_config cfg = small("none");
    int64_t memory = choose(&cfg, 1ll << 40, 1).bytes * 10 / 8;
    CU_ASSERT_EQUAL(choose(&cfg, memory, 1).micro, 16);
    CU_ASSERT(choose(&cfg, memory, 2).micro < 16);
    CU_ASSERT_EQUAL(choose(&cfg, 4 * memory, 4).micro, 16);
}

/* What is asked for is taken: recomputation without need, none although it would help, a microbatch that may not fit. */
static void test_wishes(void)
{
    m2_config cfg = small("block");
    choice c = choose(&cfg, 1ll << 40, 1);
    CU_ASSERT(c.recompute && c.micro == 16);
    cfg = small("none");
    CU_ASSERT_EQUAL(choose(&cfg, 100000, 1).st, M2_USAGE);
    CU_ASSERT(strstr(m2_message(), "train.recompute=block") != NULL);
    cfg = small("auto");
    cfg.train_micro = 8;
    c = choose(&cfg, 100000, 1);
    CU_ASSERT(c.st == M2_OK && c.micro == 8 && c.recompute);
}

int main(void)
{
    if (m2_device_open("cpu", 1, &cpu) != M2_OK) return 1;
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("fit", NULL, NULL);
    CU_add_test(s, "less memory: smaller microbatches, then recomputation, then refusal", test_budget);
    CU_add_test(s, "ranks that share a GPU share its memory", test_sharers);
    CU_add_test(s, "wishes are kept", test_wishes);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    m2_device_close(&cpu);
    return failures != 0;
}
