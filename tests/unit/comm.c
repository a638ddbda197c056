/* Communicators of one process: the laws over 1 to 8 ranks as threads, and what happens when a rank gives up or leaves. */
#include "tests/unit/comm_laws.h"
#include "tests/unit/on_ranks.h"

#include <math.h>

/* ---- the laws ---------------------------------------------------------------------------------------------------- */
static const char *law_body(m2_comm *c, int law)
{
    return law_hold(law, c, c->size <= 2 ? ~0u : 1u << M2_F32);
}

/* A maximum or minimum with a NaN in it is NaN, whichever rank it came from, long arrays and short. */
static const char *nan_body(m2_comm *c, int sick)
{
    for (int64_t n = 1; n < 5000; n += 4000)
        for (m2_reduce op = M2_MAX; op <= M2_MIN; op++) {
            float *x = law_room(n, M2_F32);
            for (int64_t i = 0; i < n; i++)
                x[i] = i % 2 == 0 && c->rank == sick ? (float)NAN : (float)c->rank;
            WORKS(c->api->all_reduce(c, x, x, n, M2_F32, op, NULL));
            for (int64_t i = 0; i < n; i++)
                LAW(i % 2 ? x[i] == (op == M2_MAX ? (float)c->size - 1 : 0) : isnan(x[i]), "element %d is %g",
                    (int)i, x[i]);
            free(x);
        }
    return NULL;
}

static void test_nan(void)
{
    for (int sick = 0; sick < 3; sick++) on_ranks(3, nan_body, sick);
}

static void test_threads(void)
{
    static const int sizes[] = {1, 2, 3, 4, 7};
    for (int law = 0; law < LAWS; law++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) on_ranks(sizes[i], law_body, law);
}

static void test_self(void)
{
    m2_comm *c = NULL;
    CU_ASSERT_EQUAL_FATAL(m2_comm_open_self(NULL, &c), M2_OK);
    for (int law = 0; law < LAWS; law++) {
        const char *broke = law_hold(law, c, ~0u);
        if (broke) printf("\n  %s: %s", laws[law].name, broke);
        CU_ASSERT(broke == NULL);
    }
    m2_comm_close(&c);
    CU_ASSERT(c == NULL);
    m2_comm_close(&c);
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */
enum { IN_BARRIER, IN_REDUCTION, IN_SEND, IN_RECV, WAYS };

static m2_status wait_in(m2_comm *c, int way)
{
    static const float x[5000];
    float y[5000];
    switch (way) {
    case IN_BARRIER: return c->api->barrier(c);
    case IN_REDUCTION: return c->api->all_reduce(c, x, y, 5000, M2_F32, M2_SUM, NULL);
    case IN_SEND: return c->api->send(c, x, 5000, M2_F32, c->size - 1, NULL);
    default: return c->api->recv(c, y, 5000, M2_F32, c->size - 1, NULL);
    }
}

/* The last rank gives up while the others wait: all of them fail, now and from then on, and know why. */
static const char *abort_body(m2_comm *c, int way)
{
    m2_comm *twin = NULL;
    WORKS(c->api->split(c, 0, 0, &twin)); /* an abort reaches all communicators of the job */
    m2_comm *waits_in = way & 1 ? twin : c;
    if (c->rank == c->size - 1) {
        m2_status why = m2_fail(M2_IO, "disk %d is full", 7);
        c->api->abort(c, why);
    } else {
        LAW(wait_in(waits_in, way / 2) == M2_TRANSIENT, "an aborted verb did not fail");
        LAW(strstr(m2_message(), "disk 7 is full"), "the reason of the abort is lost: %s", m2_message());
    }
    LAW(c->api->check(c) == M2_TRANSIENT, "an aborted communicator looks healthy");
    LAW(wait_in(c, IN_BARRIER) == M2_TRANSIENT && wait_in(c, IN_REDUCTION) == M2_TRANSIENT,
        "an aborted communicator works");
    m2_comm_close(&twin);
    return NULL;
}

/* The last rank just leaves: whoever needs it fails. */
static const char *leave_body(m2_comm *c, int way)
{
    if (c->rank == c->size - 1) return NULL;
    LAW(wait_in(c, way) == M2_TRANSIENT, "a verb without a rank that left did not fail");
    LAW(strstr(m2_message(), "has left"), "the rank that left is not named: %s", m2_message());
    return NULL;
}

/* Ranks that disagree about a count hear that. Whoever sees it ends the job: the others see either. */
static const char *mismatch_body(m2_comm *c, int unused)
{
    (void)unused;
    char x[64] = {0}, all[64 * RANKS_MOST];
    m2_status st = c->api->all_gather(c, x, all, c->rank ? 16 : 15, M2_U8, NULL);
    LAW(st == M2_BUG || st == M2_TRANSIENT, "different counts were accepted");
    LAW(strstr(m2_message(), "ranks disagree"), "the reason is lost: %s", m2_message());
    return NULL;
}

static void test_failures(void)
{
    for (int way = 0; way < 2 * WAYS; way++) on_ranks(3, abort_body, way);
    for (int way = 0; way < WAYS; way++) on_ranks(3, leave_body, way);
    on_ranks(2, mismatch_body, 0);
    on_ranks(4, mismatch_body, 0);
}

/* ---- opening by name --------------------------------------------------------------------------------------------- */
static void test_open(void)
{
    static const char *const variables[] = {"OMPI_COMM_WORLD_RANK",
                                            "OMPI_COMM_WORLD_SIZE",
                                            "OMPI_COMM_WORLD_LOCAL_RANK",
                                            "OMPI_COMM_WORLD_LOCAL_SIZE",
                                            "PMIX_RANK",
                                            "SLURM_PROCID",
                                            "SLURM_STEP_NUM_TASKS",
                                            "SLURM_LOCALID",
                                            "SLURM_STEP_TASKS_PER_NODE",
                                            "SLURM_NODEID",
                                            "PMI_RANK",
                                            "PMI_SIZE"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) unsetenv(variables[i]);
    int rank, size, local_rank, local_size;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    CU_ASSERT(rank == 0 && size == 1 && local_rank == 0 && local_size == 1);
    m2_comm *c = NULL;
    CU_ASSERT_EQUAL_FATAL(m2_comm_open("auto", NULL, &c), M2_OK);
    CU_ASSERT_STRING_EQUAL(c->api->kind, "self");
    m2_comm_close(&c);
    CU_ASSERT_EQUAL(m2_comm_open("pigeon", NULL, &c), M2_USAGE);

    setenv("SLURM_PROCID", "0", 1); /* a batch script is one process, whatever the job has */
    setenv("SLURM_NTASKS", "6", 1);
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    CU_ASSERT(rank == 0 && size == 1);
    setenv("SLURM_PROCID", "5", 1);
    setenv("SLURM_STEP_NUM_TASKS", "7", 1);
    setenv("SLURM_LOCALID", "1", 1);
    setenv("SLURM_NODEID", "2", 1);
    setenv("SLURM_STEP_TASKS_PER_NODE", "2(x3),1", 1);
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    CU_ASSERT(rank == 5 && size == 7 && local_rank == 1 && local_size == 2);
    setenv("SLURM_NODEID", "3", 1);
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    CU_ASSERT(local_size == 1);

    setenv("OMPI_COMM_WORLD_RANK", "2", 1); /* mpirun inside a Slurm job */
    setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", "0", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2", 1);
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    CU_ASSERT(rank == 2 && size == 4 && local_rank == 0 && local_size == 2);
    CU_ASSERT_EQUAL(m2_comm_open("self", NULL, &c), M2_USAGE); /* four processes doing the same job */
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) unsetenv(variables[i]);
}

int main(void)
{
    return run_suite("comm", (CU_TestInfo[]){{"laws alone", test_self},
                                             {"laws over threads", test_threads},
                                             {"NaN", test_nan},
                                             {"failures", test_failures},
                                             {"opening", test_open},
                                             CU_TEST_INFO_NULL});
}
