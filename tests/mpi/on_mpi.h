/* on_mpi.h - CUnit on all ranks of an MPI job: ranks > 0 are silent, a failure on any rank fails all. */
#ifndef M2_TESTS_ON_MPI_H
#define M2_TESTS_ON_MPI_H

#include "parallel/comm.h"

#include <CUnit/Basic.h>
#include <stdio.h>

static m2_comm *world;

/* Asserts that nothing broke on any rank (NULL: nothing), naming the lowest one where something did. */
static inline void agree_on(const char *broke, const char *what)
{
    m2_status st = broke ? m2_fail(M2_BUG, "%s: %s", what, broke) : M2_OK;
    st = m2_comm_agree(world, st);
    if (st != M2_OK) printf("\n  %s", m2_message());
    CU_ASSERT_EQUAL(st, M2_OK);
}

static inline int open_world(void)
{
    int rank, size, local_rank, local_size;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    if (m2_comm_open("mpi", NULL, &world) != M2_OK) {
        fprintf(stderr, "%s\n", m2_message());
        return 0;
    }
    return world->rank == rank && world->size == size;
}

static inline int run_mpi_suite(const char *name, const CU_TestInfo *tests)
{
    if (!world && !open_world()) return 1;
    if (world->rank > 0 && !freopen("/dev/null", "w", stdout)) return 1;
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite(name, NULL, NULL);
    for (; suite && tests->pName; tests++)
        if (!CU_add_test(suite, tests->pName, tests->pTestFunc)) return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int32_t failures = (int32_t)CU_get_number_of_failures();
    m2_status st = world->api->all_reduce(world, &failures, &failures, 1, M2_I32, M2_SUM, NULL);
    CU_cleanup_registry();
    m2_comm_close(&world);
    return !suite || st != M2_OK || failures != 0;
}
#endif
