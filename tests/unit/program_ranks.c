/* program_ranks.c - data parallelism: ranks as threads train the same model as one rank with all their microbatches. */
#include "parallel/comm.h"
#include "tests/small_gpt.h"

#include <CUnit/Basic.h>
#include <pthread.h>

enum { RANKS = 4, PIECES = 12 };

typedef struct worker {
    m2_comm *comm;
    run_result result;
    m2_status status;
} worker;

static void *train(void *arg)
{
    worker *w = arg;
    m2_device *cpu;
    m2_recompute recompute = {.policy = w->comm->rank % 2 ? M2_RECOMPUTE_BLOCK : M2_RECOMPUTE_NONE};
    w->status = m2_device_open("cpu", 1, &cpu);
    if (w->status != M2_OK) return NULL;
    run_way way = {.plan = {.threads = 1},
                   .precision = M2_PREC_F64,
                   .micros = PIECES / w->comm->size,
                   .steps = 3,
                   .rank = w->comm->rank,
                   .ranks = w->comm->size,
                   .recompute = recompute,
                   .reduce = &m2_op_all_reduce,
                   .context = w->comm,
                   .bucket_bytes = 2000,
                   .device = cpu};
    w->status = run_program(small_gpt, NULL, &way, &w->result);
    m2_device_close(&cpu);
    return NULL;
}

/* Largest difference of losses and parameters; the rest of a result is sums over them. */
static double distance(const run_result *a, const run_result *b)
{
    const double *x = (const double *)(const void *)a->bytes, *y = (const double *)(const void *)b->bytes;
    double worst = a->n == b->n ? 0 : INFINITY;
    for (size_t i = 0; i < a->n / sizeof *x && i < b->n / sizeof *x; i++)
        if (!(fabs(x[i] - y[i]) <= worst)) worst = fabs(x[i] - y[i]);
    return worst;
}

static void test_ranks_train_as_one(void)
{
    run_result alone = {0};
    for (int size = 1; size <= RANKS; size++) {
        m2_comm *comms[RANKS];
        worker workers[RANKS];
        pthread_t threads[RANKS];
        CU_ASSERT_EQUAL_FATAL(m2_comm_open_threads(size, comms), M2_OK);
        for (int r = 0; r < size; r++) {
            workers[r] = (worker){.comm = comms[r]};
            CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[r], NULL, train, &workers[r]), 0);
        }
        for (int r = 0; r < size; r++) pthread_join(threads[r], NULL);
        for (int r = 0; r < size; r++) {
            CU_ASSERT_EQUAL_FATAL(workers[r].status, M2_OK);
            CU_ASSERT(run_equal(&workers[r].result, &workers[0].result));
        }
        if (size == 1) alone = workers[0].result;
        CU_ASSERT(distance(&alone, &workers[0].result) < 1e-9);
        CU_ASSERT(isfinite(workers[0].result.loss));
        for (int r = 0; r < size; r++) {
            if (size > 1 || r > 0) run_free(&workers[r].result);
            m2_comm_close(&comms[r]);
        }
    }
    run_free(&alone);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("program on ranks", NULL, NULL);
    CU_add_test(s, "ranks train as one", test_ranks_train_as_one);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
