/* on_ranks.h - a function on every rank of a communicator of threads, for CUnit tests. */
#ifndef M2_TESTS_ON_RANKS_H
#define M2_TESTS_ON_RANKS_H

#include "parallel/comm.h"

#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdio.h>

enum { RANKS_MOST = 8 };

/* Returns NULL, or a sentence about what broke. */
typedef const char *(*rank_body)(m2_comm *c, int argument);

typedef struct rank_thread {
    pthread_t thread;
    m2_comm *comm;
    rank_body body;
    int argument;
    char broke[600];
} rank_thread;

static inline void *rank_main(void *arg)
{
    rank_thread *r = arg;
    const char *broke = r->body(r->comm, r->argument);
    if (broke) {
        snprintf(r->broke, sizeof r->broke, "%s", broke);
        r->comm->api->abort(r->comm, m2_fail(M2_BUG, "%s", broke)); /* the others would wait */
    }
    m2_comm_close(&r->comm);
    return NULL;
}

static inline void on_ranks(int size, rank_body body, int argument)
{
    m2_comm *comm[RANKS_MOST];
    rank_thread ranks[RANKS_MOST];
    CU_ASSERT_EQUAL_FATAL(m2_comm_open_threads(size, comm), M2_OK);
    for (int r = 0; r < size; r++) {
        ranks[r] = (rank_thread){.comm = comm[r], .body = body, .argument = argument};
        CU_ASSERT_EQUAL_FATAL(pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]), 0);
    }
    for (int r = 0; r < size; r++) {
        pthread_join(ranks[r].thread, NULL);
        if (ranks[r].broke[0]) printf("\n  rank %d of %d: %s", r, size, ranks[r].broke);
        CU_ASSERT(ranks[r].broke[0] == 0);
    }
}

static inline int run_suite(const char *name, const CU_TestInfo *tests)
{
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite(name, NULL, NULL);
    for (; suite && tests->pName; tests++)
        if (!CU_add_test(suite, tests->pName, tests->pTestFunc)) return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return !suite || failures != 0;
}
#endif
