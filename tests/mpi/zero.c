/* zero.c - tests/unit/zero.c over processes: the stages of ZeRO train to the same bits through MPI. */
#include "tests/zero_stages.h"
#include "tests/mpi/on_mpi.h"

static void all_models(void)
{
    for (int i = 0; i < (int)(sizeof models / sizeof *models); i++)
        agree_on(zero_stages(world, i), models[i].name);
}

int main(void)
{
    return run_mpi_suite("ZeRO over processes", (CU_TestInfo[]){{"stages", all_models}, CU_TEST_INFO_NULL});
}
