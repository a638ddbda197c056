/* Meshes data x sequence of ranks that have a GPU each train as one GPU does: both families, both exchanges, whole and in groups,
 * f32 and bf16, every stage of ZeRO; each collective sends over NCCL, to the byte, what the plan says.
 * mpi-sequence_gpus LIBRARY: the same with that library for NCCL and the CPU for a GPU (tests/fake/nccl.c). */
#define _GNU_SOURCE
#include "kernels/base/log.h"
#include "tests/mpi/on_gpus.h"
#include "tests/unit/sequence_laws.h"

static m2_comm *all; /* over NCCL */
static int meshes;

static void each_mesh(const way *w)
{
    m2_comm *self = NULL;
    now = w;
    sequence_forget();
    zero = 0;
    m2_status st = m2_comm_open_self(gpu, &self);
    agree_on(st == M2_OK ? sequence_rank(self, 1) : m2_message(), "one rank alone");
    m2_comm_close(&self);
    for (const int *sequence = w->sequences; *sequence; sequence++) {
        if (all->size % *sequence || all->size / *sequence > MOST_DATA || BATCH % (all->size / *sequence)) continue;
        way cut = *w;
        if (*sequence == 1) cut.groups = 1;
        now = &cut;
        zero = meshes++ % ZERO_STAGES;
        const char *broke = sequence_rank(all, *sequence);
        char what[160];
        snprintf(what, sizeof what, "%s, %s, %s, mesh %d x %d, ZeRO %d", w->family, w->exchange,
                 m2_precision_name(w->precision), all->size / *sequence, *sequence, zero);
        if (failed) world->api->abort(world, m2_fail(M2_TRANSIENT, "%s: %s", what, broke)); /* the others would wait */
        agree_on(broke, what);
    }
    zero = 0;
}

/* The stage of ZeRO goes with the mesh in turn; a width that the ranks divide, for the channel exchange. half: of family,
 * exchange and groups, every two of them together once. */
static void each_way(m2_precision precision, double first, double last, int half)
{
    static const int widths[][2] = {{48, 4}, {48, 1}, {32, 2}, {48, 3}};
    if (skipped()) return;
    CU_ASSERT_EQUAL_FATAL(m2_comm_agree(world, m2_comm_open("nccl", gpu, &all)), M2_OK);
    meshes = 0;
    for (int i = 0; i < 8; i++) {
        if (half && (i ^ i >> 1 ^ i >> 2) & 1) continue;
        const char *family = i & 1 ? "bert" : "gpt", *exchange = i & 2 ? "monarch" : "channel";
        way w = {.family = family,
                 .exchange = exchange,
                 .width = widths[i & 3][0],
                 .share = widths[i & 3][1],
                 .sequences = {1, 2, 3, 4, 6, 8},
                 .precision = precision,
                 .first = first,
                 .last = last,
                 .groups = i & 4 ? 2 : 1};
        each_mesh(&w);
    }
    printf("%d meshes equal ", meshes);
    m2_comm_close(&all);
}

static void test_single(void)
{
    each_way(M2_PREC_F32, 1e-4, 1e-2, 0);
}

/* Sums of a few hundred terms in another order. */
static void test_half(void)
{
    if (!strcmp(gpu->api->kind, "cuda"))
        each_way(M2_PREC_BF16, 0.1, 0.1, 1);
    else
        each_way(M2_PREC_F64, 1e-12, 1e-9, 1);
}

int main(int argc, char **argv)
{
    if (!open_world()) return 1;
    m2_log_setup(M2_LOG_WARN, world->rank);
    m2_status st = open_gpu(argc > 1 ? argv[1] : NULL);
    if (st != M2_OK) {
        if (world->rank == 0) printf("skipped: %s\n", m2_message());
        m2_comm_close(&world);
        return 77;
    }
    on_gpu = gpu;
    int failed = run_mpi_suite("sequences over GPUs", (CU_TestInfo[]){{"f32", test_single},
                                                                       {"bf16, or f64 on the CPU", test_half},
                                                                       CU_TEST_INFO_NULL});
    sequence_forget();
    return failed;
}
