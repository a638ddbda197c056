/* The channel exchange and the halo over MPI. */
#include "tests/mpi/on_mpi.h"
#include "tests/unit/exchange_laws.h"

static void test_laws(void)
{
    m2_device *cpu = NULL;
    m2_status st = m2_device_open("cpu", 1, &cpu);
    const char *broke = st == M2_OK ? exchange_laws(world, cpu) : m2_message();
    agree_on(broke, "exchange");
    m2_device_close(&cpu);
}

int main(void)
{
    return run_mpi_suite("exchange", (CU_TestInfo[]){{"laws over MPI", test_laws}, CU_TEST_INFO_NULL});
}
