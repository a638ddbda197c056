/* levels.c - sums by levels over processes, as if nodes had every number of them that divides the job's. */
#include "tests/mpi/on_mpi.h"
#include "tests/unit/levels_laws.h"

static void test_sums(void)
{
    agree_on(levels_laws(world, 0), "by levels");
}

int main(void)
{
    return run_mpi_suite("ranks by node", (CU_TestInfo[]){{"sums", test_sums}, CU_TEST_INFO_NULL});
}
