/* Communicators over MPI: the laws, under mpirun at several sizes. Ranks > 0 are silent; a failure on any rank fails all.
 * mpi-comm abort | exit | kill: the last rank goes that way while the others wait (tests/e2e/ranks_fail.sh). */
#include "tests/unit/comm_laws.h"

#include <CUnit/Basic.h>
#include <signal.h>

static m2_comm *world;

static void test_laws(void)
{
    for (int law = 0; law < LAWS; law++) {
        const char *broke = law_hold(law, world, world->size <= 2 ? ~0u : 1u << M2_F32);
        m2_status st = broke ? m2_fail(M2_BUG, "%s: %s", laws[law].name, broke) : M2_OK;
        st = m2_comm_agree(world, st);
        if (st != M2_OK) printf("\n  %s", m2_message());
        CU_ASSERT_EQUAL(st, M2_OK);
    }
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
    int rank, size, local_rank, local_size;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    if (m2_comm_open("mpi", NULL, &world) != M2_OK) {
        fprintf(stderr, "%s\n", m2_message());
        return 1;
    }
    if (argc > 1) return go(argv[1]);
    if (world->rank > 0 && !freopen("/dev/null", "w", stdout)) return 1;
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("comm", NULL, NULL);
    if (!suite || !CU_ADD_TEST(suite, test_laws)) return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int32_t failures = (int32_t)CU_get_number_of_failures() + (world->rank != rank || world->size != size);
    m2_status st = world->api->all_reduce(world, &failures, &failures, 1, M2_I32, M2_SUM, NULL);
    CU_cleanup_registry();
    m2_comm_close(&world);
    return st != M2_OK || failures != 0;
}
