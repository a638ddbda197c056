/* Exchanges of groups of channels beside the convolution of others: to the bit as one after another. */
#include "tests/unit/on_ranks.h"
#include "tests/unit/sequence_laws.h"

/* The naive plan runs one after another. */
static void groups_on(way w, int ranks, int sequence)
{
    now = &w;
    sequence_forget();
    on_ranks(1, sequence_rank, 1);
    w.plan = "naive", keeps = 1;
    on_ranks(ranks, sequence_rank, sequence);
    w.plan = NULL, keeps = 0;
    on_ranks(ranks, sequence_rank, sequence);
}

static void test_groups(void)
{
    groups_on((way){"gpt", "channel", 24, 4, {0}, M2_PREC_F64, 1e-12, 1e-9, 3, 3, NULL}, 4, 2);
    groups_on((way){"gpt", "monarch", 12, 4, {0}, M2_PREC_F64, 1e-12, 1e-9, 0, 4, NULL}, 3, 3);
    groups_on((way){"bert", "channel", 24, 1, {0}, M2_PREC_F64, 1e-12, 1e-9, 4, 2, NULL}, 4, 4);
    groups_on((way){"bert", "monarch", 12, 3, {0}, M2_PREC_F64, 1e-12, 1e-9, 6, 2, NULL}, 4, 2);
}

int main(void)
{
    int failed = run_suite("groups of channels",
                           (CU_TestInfo[]){{"beside and one after another", test_groups}, CU_TEST_INFO_NULL});
    sequence_forget();
    return failed;
}
