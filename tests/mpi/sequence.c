/* Meshes data x sequence of this job's ranks train as one rank does, over MPI, with either exchange.
 * M2_FULL_MATRIX=1 adds every family, exchange and precision. */
#include "tests/mpi/on_mpi.h"
#include "tests/unit/sequence_laws.h"

/* Every mesh of all ranks whose sequences are cut over as many as `w` has. */
static int meshes; /* of all_meshes, beside one rank alone */

static void on_world(int ranks, int sequence)
{
    (void)ranks;
    const char *broke = sequence_rank(world, sequence);
    if (broke) world->api->abort(world, m2_fail(M2_BUG, "%s", broke)); /* the others would wait */
}

static void on_zero_stages(int ranks, int sequence)
{
    zero_stages(on_world, ranks, sequence);
}

static void each_mesh(const way *w, void (*on)(int ranks, int sequence))
{
    meshes = 0;
    m2_comm *self = NULL;
    now = w;
    sequence_forget();
    m2_status st = m2_comm_open_self(NULL, &self);
    agree_on(st == M2_OK ? sequence_rank(self, 1) : m2_message(), "one rank alone");
    m2_comm_close(&self);
    for (const int *sequence = w->sequences; *sequence; sequence++) {
        if (world->size % *sequence || world->size / *sequence > MOST_DATA) continue;
        on(world->size, *sequence);
        meshes++;
    }
    CU_ASSERT(1);
}

static void all_meshes(const way *w)
{
    each_mesh(w, on_world);
}

/* Both families with either exchange, in f64 and in f32. */
static void test_part(void)
{
    all_meshes(&(way){"gpt", "channel", 28, 4, {2, 7}, M2_PREC_F64, 1e-12, 1e-9, 0, 2, NULL});
    all_meshes(&(way){"bert", "channel", 24, 1, {2, 3}, M2_PREC_F32, 1e-5, 1e-3, 1, 0, NULL});
    all_meshes(&(way){"gpt", "monarch", 10, 2, {3, 7}, M2_PREC_F32, 1e-5, 1e-3, 0, 0, NULL});
    all_meshes(&(way){"bert", "monarch", 12, 3, {3, 4, 7, 8}, M2_PREC_F64, 1e-12, 1e-9, 6, 2, NULL});
}

static void test_zero(void)
{
    for (int i = 0; i < ZERO_WAYS; i++)
        if (full_matrix() || i == world->size % ZERO_WAYS) each_mesh(&zero_way[i], on_zero_stages);
}

static void test_levels(void)
{
    for (per_node = 2; per_node < world->size; per_node++)
        if (world->size % per_node == 0) each_mesh(&zero_way[per_node % ZERO_WAYS], on_zero_stages);
    per_node = 0;
}

static void test_every(void)
{
    for (int i = 0; full_matrix() && i < WAYS; i++) {
        all_meshes(&every_way[i]);
        printf("\n  %-4s %-7s width %2d %s on %d ranks: %d meshes equal ", every_way[i].family, every_way[i].exchange,
               (int)every_way[i].width, m2_precision_name(every_way[i].precision), world->size, meshes);
    }
}

int main(void)
{
    int failed = run_mpi_suite("sequences over ranks", (CU_TestInfo[]){{"both exchanges", test_part},
                                                                       {"stages of ZeRO, to the bit", test_zero},
                                                                       {"node by node", test_levels},
                                                                       {"every mesh (only with M2_FULL_MATRIX=1)", test_every},
                                                                       CU_TEST_INFO_NULL});
    sequence_forget();
    return failed;
}
