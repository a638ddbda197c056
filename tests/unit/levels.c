/* levels.c - nodes that are alike and nodes that are not; blocks and owners; sums by levels on ranks as threads. */
#include "tests/unit/levels_laws.h"
#include "tests/unit/on_ranks.h"

static void test_regular(void)
{
    static const struct {
        int ranks, node[8], per_node;
    } rows[] = {{4, {0, 0, 2, 2}, 2},       {6, {0, 0, 0, 3, 3, 3}, 3},
                {4, {0, 0, 0, 0}, 0},       /* one node */
                {4, {0, 1, 2, 3}, 0},       /* one rank on each */
                {4, {0, 1, 0, 1}, 0},       /* dealt in turn */
                {5, {0, 0, 2, 2, 4}, 0},    {6, {0, 0, 2, 2, 2, 5}, 0},
                {6, {0, 0, 2, 2, 0, 0}, 0}, /* a node twice */
                {8, {0, 0, 2, 2, 4, 4, 6, 6}, 2}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CU_ASSERT_EQUAL(m2_levels_regular(rows[i].node, rows[i].ranks), rows[i].per_node);
}

static void test_blocks(void)
{
    int good = 1;
    for (int per = 0; per <= 8; per++)
        for (int nodes = 1; nodes <= 8; nodes++) {
            int ranks = (per ? per : 1) * nodes, seen[64] = {0};
            for (int r = 0; r < ranks; r++) {
                int b = m2_levels_block(r, ranks, per);
                good &= b >= 0 && b < ranks && m2_levels_owner(b, ranks, per) == r && !seen[b]++;
            }
        }
    CU_ASSERT(good);
}

static void test_sums(void)
{
    for (int ranks = 4; ranks <= RANKS_MOST; ranks++) on_ranks(ranks, levels_laws, 0);
}

int main(void)
{
    return run_suite("ranks by node", (CU_TestInfo[]){{"nodes that are alike", test_regular},
                                                      {"blocks and owners", test_blocks},
                                                      {"sums", test_sums},
                                                      CU_TEST_INFO_NULL});
}
