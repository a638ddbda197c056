/* Communicators over MPI: the laws, under mpirun at several sizes.
 * mpi-comm abort | exit | kill: the last rank goes that way while the others wait (tests/e2e/ranks_fail.sh). */
#include "tests/mpi/on_mpi.h"
#include "tests/unit/comm_laws.h"

#include <signal.h>

static void hold_all(m2_comm *c)
{
    for (int law = 0; law < LAWS; law++)
        agree_on(law_hold(law, c, c->size <= 2 ? ~0u : 1u << M2_F32), laws[law].name);
}

static void test_host(void)
{
    hold_all(world);
}

/* A device whose memory is not the host's, as far as communicators know: everything is staged. */
static void test_staged(void)
{
    m2_device *cpu = NULL;
    m2_comm *c = NULL;
    CU_ASSERT_EQUAL_FATAL(m2_device_open("cpu", 1, &cpu), M2_OK);
    m2_device_api api = *cpu->api;
    m2_device fake = *cpu;
    api.kind = "fake";
    fake.api = &api;
    CU_ASSERT_EQUAL_FATAL(m2_comm_open("mpi", &fake, &c), M2_OK);
    CU_ASSERT(c->host != c && c->host->device == NULL);
    hold_all(c);
    int64_t allocations = fake.allocations;
    float x = 1;
    CU_ASSERT_EQUAL(c->api->all_reduce(c, &x, &x, 1, M2_F32, M2_SUM, NULL), M2_OK);
    CU_ASSERT(x == (float)c->size && fake.allocations == allocations);
    m2_comm_close(&c);
    m2_device_close(&cpu);
}

static int go(const char *way)
{
    if (world->rank < world->size - 1) {
        m2_status st = world->api->barrier(world);
        fprintf(stderr, "rank %d waited in vain: %s\n", world->rank, m2_message());
        world->api->abort(world, st);
    }
    if (!strcmp(way, "abort")) world->api->abort(world, m2_fail(M2_IO, "the disk is full"));
    if (!strcmp(way, "kill")) raise(SIGKILL);
    return 3; /* without closing the communicator */
}

int main(int argc, char **argv)
{
    if (!open_world()) return 1;
    if (argc > 1) return go(argv[1]);
    return run_mpi_suite("comm", (CU_TestInfo[]){{"laws in host memory", test_host},
                                                 {"laws in staged memory", test_staged},
                                                 CU_TEST_INFO_NULL});
}
