/* zero.c - tests/unit/zero.c over processes: the stages of ZeRO train to the same bits through MPI. */
#include "tests/zero_stages.h"
#include "tests/mpi/on_mpi.h"

static void all_models(void)
{
    for (int i = 0; i < (int)(sizeof models / sizeof *models); i++)
        agree_on(zero_stages(world, i), models[i].name);
}

static void by_node(void)
{
    for (int i = 0; i < (int)(sizeof models / sizeof *models); i++)
        agree_on(zero_stages_by_node(world, i), models[i].name);
}

int main(void)
{
    return run_mpi_suite(
        "ZeRO over processes",
        (CU_TestInfo[]){{"stages", all_models}, {"node by node", by_node}, CU_TEST_INFO_NULL});
}
