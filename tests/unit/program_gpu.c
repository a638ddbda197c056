/* program_gpu.c - the same programs on a GPU: plans, graphs and recomputation give the same bytes there, and nearly the
 * CPU's numbers. Skipped where there is none. */
#include "tests/small_gpt.h"

#include <CUnit/Basic.h>

static m2_device *cpu, *gpu;

static run_way usual(m2_precision precision)
{
    return (run_way){.plan = {.threads = 1}, .precision = precision, .micros = 3, .steps = 5, .device = gpu};
}

static void test_ways_agree(void)
{
    static const m2_precision precisions[] = {M2_PREC_F32, M2_PREC_BF16};
    for (int k = 0; k < 4; k++) {
        void *ctx = k & 1 ? cpu : NULL;
        run_way way = usual(precisions[k / 2]);
        run_result naive, graphs, again, plain;
        way.plan.naive = 1;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, ctx, &way, &naive), M2_OK);
        way.plan.naive = 0;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, ctx, &way, &graphs), M2_OK);
        way.plan.no_graph = 1;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, ctx, &way, &plain), M2_OK);
        way.plan.no_graph = 0;
        way.recompute.policy = M2_RECOMPUTE_BLOCK;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, ctx, &way, &again), M2_OK);
        CU_ASSERT(isfinite(naive.loss));
        CU_ASSERT(run_equal(&naive, &plain));
        CU_ASSERT(run_equal(&naive, &graphs));
        CU_ASSERT(run_equal(&naive, &again));
        CU_ASSERT(!memcmp(&graphs.planned, &graphs.used, sizeof graphs.used));
        CU_ASSERT_EQUAL(graphs.allocations, 0);
        run_free(&naive);
        run_free(&graphs);
        run_free(&plain);
        run_free(&again);
    }
}

/* Steps that nobody waits for: no allocation, the host never waits for a whole stream, the same bytes. */
static void test_host_runs_ahead(void)
{
    for (int no_graph = 0; no_graph < 2; no_graph++) {
        run_way way = usual(M2_PREC_BF16);
        run_result looked, late;
        way.steps = 20;
        way.plan.no_graph = no_graph;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &looked), M2_OK);
        way.late = 1;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &late), M2_OK);
        CU_ASSERT(run_equal(&looked, &late));
        CU_ASSERT_EQUAL(late.drains, 0);
        CU_ASSERT_EQUAL(late.allocations, 0);
        run_free(&looked);
        run_free(&late);
    }
}

static void test_cpu_agrees(void)
{
    run_way way = usual(M2_PREC_F32);
    run_result there, here, rounded;
    CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &there), M2_OK);
    way.precision = M2_PREC_BF16;
    CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &rounded), M2_OK);
    way.precision = M2_PREC_F32;
    way.device = cpu;
    CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &here), M2_OK);
    CU_ASSERT_DOUBLE_EQUAL(there.loss, here.loss, 1e-4 * here.loss);
    CU_ASSERT_DOUBLE_EQUAL(rounded.loss, here.loss, 3e-2 * here.loss);
    run_free(&there);
    run_free(&here);
    run_free(&rounded);
}

int main(void)
{
    if (m2_device_open("cuda", 1, &gpu) != M2_OK) {
        printf("skipped: %s\n", m2_message());
        return 77;
    }
    if (m2_device_open("cpu", 1, &cpu) != M2_OK) return 1;
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("program on a GPU", NULL, NULL);
    CU_add_test(s, "naive, planned, captured, recomputed: same bytes", test_ways_agree);
    CU_add_test(s, "the host runs ahead: same bytes, no waiting, no allocation", test_host_runs_ahead);
    CU_add_test(s, "the CPU's losses", test_cpu_agrees);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    m2_device_close(&cpu);
    m2_device_close(&gpu);
    return failures != 0;
}
