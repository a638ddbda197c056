/* Every mesh data x sequence of up to 8 ranks as threads trains as one rank does, with either exchange.
 * M2_FULL_MATRIX=1 adds every family, exchange and precision on every mesh. */
#include "tests/unit/on_ranks.h"
#include "tests/unit/sequence_laws.h"

static int meshes; /* of all_meshes, beside one rank alone */

static void all_meshes(const way *w)
{
    meshes = 0;
    now = w;
    sequence_forget();
    on_ranks(1, sequence_rank, 1);
    for (const int *sequence = w->sequences; *sequence; sequence++)
        for (int data = 1; data <= MOST_DATA && data * *sequence <= RANKS_MOST; data++)
            if (data * *sequence > 1) meshes++, on_ranks(data * *sequence, sequence_rank, *sequence);
}

/* Channels that ranks divide, whether or not their filters line up with them. */
static void test_causal_channel(void)
{
    all_meshes(&(way){"gpt", "channel", 24, 4, {1, 2, 3, 4, 8}, M2_PREC_F64, 1e-12, 1e-9, 0, 0, NULL});
    all_meshes(&(way){"gpt", "channel", 28, 4, {7}, M2_PREC_F64, 1e-12, 1e-9, 0, 0, NULL});
}

static void test_bidirectional_channel(void)
{
    all_meshes(&(way){"bert", "channel", 24, 1, {2, 3, 4, 8}, M2_PREC_F64, 1e-12, 1e-9, 1, 0, NULL});
    all_meshes(&(way){"bert", "channel", 28, 1, {7}, M2_PREC_F64, 1e-12, 1e-9, 1, 0, NULL});
}

/* Channels that few ranks divide. */
static void test_causal_monarch(void)
{
    all_meshes(&(way){"gpt", "monarch", 10, 2, {2, 3, 4, 7, 8}, M2_PREC_F64, 1e-12, 1e-9, 0, 0, NULL});
}

static void test_bidirectional_monarch(void)
{
    all_meshes(&(way){"bert", "monarch", 12, 3, {2, 3, 4, 7, 8}, M2_PREC_F64, 1e-12, 1e-9, 1, 0, NULL});
}

static void test_single(void)
{
    all_meshes(&(way){"gpt", "channel", 24, 4, {2, 3, 4, 8}, M2_PREC_F32, 1e-5, 1e-3, 0, 0, NULL});
    all_meshes(&(way){"bert", "channel", 28, 1, {2, 4, 7}, M2_PREC_F32, 1e-5, 1e-3, 0, 0, NULL});
    all_meshes(&(way){"gpt", "monarch", 10, 2, {2, 3, 4, 7, 8}, M2_PREC_F32, 1e-5, 1e-3, 0, 0, NULL});
    all_meshes(&(way){"bert", "monarch", 12, 3, {2, 3, 4, 7, 8}, M2_PREC_F32, 1e-5, 1e-3, 0, 0, NULL});
}

/* One line per way, as there are many of them. */
static void test_every(void)
{
    if (!full_matrix()) return;
    for (int i = 0; i < WAYS; i++) {
        const way *w = &every_way[i];
        unsigned failures = CU_get_number_of_failures();
        all_meshes(w);
        printf("\n  %-4s %-7s width %2d %s, data 1 .. %d x sequence", w->family, w->exchange, (int)w->width,
               m2_precision_name(w->precision), MOST_DATA);
        for (const int *s = w->sequences; *s; s++) printf(" %d", *s);
        printf(": %d meshes, %s", meshes, CU_get_number_of_failures() == failures ? "equal" : "DIFFERENT");
    }
    printf("\n  ");
}

static void on_threads(int ranks, int sequence)
{
    on_ranks(ranks, sequence_rank, sequence);
}

/* A few meshes of one and of two rows of data; with M2_FULL_MATRIX=1 all that these ways have. */
static void test_zero(void)
{
    for (int i = 0; i < ZERO_WAYS; i++) {
        now = &zero_way[i];
        sequence_forget();
        on_ranks(1, sequence_rank, 1);
        for (const int *sequence = now->sequences; *sequence; sequence++)
            for (int data = 1; data <= MOST_DATA && data * *sequence <= RANKS_MOST; data++)
                if (data * *sequence > 1 && (full_matrix() || (data == 2 && *sequence == 2)))
                    zero_stages(on_threads, data * *sequence, *sequence);
    }
}

/* As if nodes had 2 or 4 ranks: data, sequences or both reach over nodes. */
static void levels_on(int ranks, int meshes_most)
{
    for (const int *sequence = now->sequences; *sequence && meshes_most; sequence++) {
        if (ranks % *sequence || ranks / *sequence > MOST_DATA) continue;
        zero_stages(on_threads, ranks, *sequence);
        meshes_most--;
    }
}

static void test_levels(void)
{
    for (int i = 0; i < ZERO_WAYS; i += full_matrix() ? 1 : 3) {
        now = &zero_way[i];
        sequence_forget();
        on_ranks(1, sequence_rank, 1);
        for (per_node = 2; per_node <= 4; per_node += 2)
            for (int ranks = 2 * per_node; ranks <= RANKS_MOST; ranks += per_node)
                levels_on(ranks, full_matrix() ? RANKS_MOST : 1);
    }
    per_node = 0;
}

static void test_sparse(void)
{
    static const way w = {"bert", "auto", 24, 1, {2, 3}, M2_PREC_F64, 1e-12, 1e-9, 1, 1, NULL};
    now = &w;
    sparse = 1;
    sequence_forget();
    for (int ranks = 1; ranks <= 3; ranks++) on_ranks(ranks, sequence_rank, ranks);
    sparse = 0;
}

int main(void)
{
    static const CU_TestInfo tests[] = {
        {"causal, channel exchange", test_causal_channel},
        {"bidirectional, recomputed, channel exchange", test_bidirectional_channel},
        {"causal, monarch exchange", test_causal_monarch},
        {"bidirectional, recomputed, monarch exchange", test_bidirectional_monarch},
        {"in single precision", test_single},
        {"stages of ZeRO, to the bit", test_zero},
        {"node by node", test_levels},
        {"short filters of few frequencies", test_sparse},
        {"every mesh (only with M2_FULL_MATRIX=1)", test_every},
        CU_TEST_INFO_NULL};
    int failed = run_suite("sequences over ranks", tests);
    sequence_forget();
    return failed;
}
