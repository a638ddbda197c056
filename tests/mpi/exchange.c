/* Both exchanges and the halo over MPI: on the CPU, and on a GPU (which the ranks share) where there is one. */
#include "tests/mpi/on_mpi.h"
#include "tests/unit/exchange_laws.h"

static void test_laws(void)
{
    m2_device *cpu = NULL;
    m2_status st = m2_device_open("cpu", 1, &cpu);
    agree_on(st == M2_OK ? exchange_laws(world, cpu) : m2_message(), "CPU");
    m2_device_close(&cpu);
}

static void test_gpu(void)
{
    m2_device *gpu = NULL;
    m2_comm *c = NULL;
    int32_t there = m2_device_open("cuda", 1, &gpu) == M2_OK;
    if (!there) printf("skipped, %s ... ", m2_message());
    CU_ASSERT_EQUAL_FATAL(world->api->all_reduce(world, &there, &there, 1, M2_I32, M2_MIN, NULL), M2_OK);
    if (there) {
        m2_status st = m2_comm_open("mpi", gpu, &c);
        agree_on(st == M2_OK ? exchange_laws(c, gpu) : m2_message(), "GPU");
        m2_comm_close(&c);
    }
    m2_device_close(&gpu);
}

int main(void)
{
    return run_mpi_suite(
        "exchange",
        (CU_TestInfo[]){{"laws on the CPU", test_laws}, {"laws on a GPU", test_gpu}, CU_TEST_INFO_NULL});
}
