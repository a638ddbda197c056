/* zero.c - the stages of ZeRO: on any number of ranks every stage trains to the same bits (almost, where stage 2 has several
 * microbatches, whose sums it orders otherwise), keeps on a rank what the plan says, and sends to the byte what the program's
 * list of collectives says. */
#include "tests/zero_stages.h"
#include "tests/unit/on_ranks.h"

static void test_f32(void)
{
    for (int ranks = 1; ranks <= 5; ranks++) on_ranks(ranks, zero_stages, 0);
}

static void test_f64(void)
{
    for (int ranks = 2; ranks <= 4; ranks++) on_ranks(ranks, zero_stages, 1);
}

static void test_bf16(void)
{
    for (int ranks = 1; ranks <= 5; ranks++) on_ranks(ranks, zero_stages, 2);
}

static void test_gap(void)
{
    for (int ranks = 2; ranks <= 4; ranks++) on_ranks(ranks, zero_stages, 3);
}

static void test_levels(void)
{
    on_ranks(4, zero_stages_by_node, 0);
    on_ranks(6, zero_stages_by_node, 1);
    on_ranks(8, zero_stages_by_node, 2);
    on_ranks(6, zero_stages_by_node, 3);
}

int main(void)
{
    static const CU_TestInfo tests[] = {{"f32", test_f32},
                                        {"f64, several microbatches", test_f64},
                                        {"bf16 copies of f32 shards", test_bf16},
                                        {"more padding than parameters", test_gap},
                                        {"node by node", test_levels},
                                        CU_TEST_INFO_NULL};
    return run_suite("ZeRO", tests);
}
