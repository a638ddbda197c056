/* Whose work is more than the others', window after window, is named; an even job, or one slow window, names nobody. */
#include "runtime/pace.h"

#include <CUnit/Basic.h>
#include <string.h>

static m2_pace pace(int ranks, struct m2_pace_rank *of, int64_t *words)
{
    memset(of, 0, (size_t)ranks * sizeof *of);
    return (m2_pace){.every = 10, .factor = 1.5, .ranks = ranks, .words = words, .of = of};
}

static void test_named(void)
{
    struct m2_pace_rank of[8];
    int64_t room[8];
    for (int ranks = 2; ranks <= 8; ranks++)
        for (int slow = -1; slow < ranks; slow++) {
            m2_pace p = pace(ranks, of, room);
            int64_t named = 0;
            for (int64_t w = 1; w <= 24; w++) {
                int64_t words[8];
                for (int r = 0; r < ranks; r++) words[r] = 1000 + (w * 7 + r * 13) % 100 + (r == slow) * 1000;
                m2_straggler s = m2_pace_judge(&p, words);
                int now = slow >= 0 && (w == 3 || w == 6 || w == 12 || w == 24);
                CU_ASSERT_EQUAL(s.rank, now ? slow : -1);
                if (!now) continue;
                named++;
                CU_ASSERT_DOUBLE_EQUAL(s.ratio, 1.95, 0.15);
                CU_ASSERT_EQUAL(s.steps, 10 * w);
            }
            CU_ASSERT_EQUAL(named, slow < 0 ? 0 : 4);
        }
}

/* Two windows are chance; of two slow ranks the slower one is told first. */
static void test_chance(void)
{
    struct m2_pace_rank of[5];
    int64_t room[5], even[5] = {10, 10, 10, 10, 10}, one[5] = {10, 30, 10, 10, 10}, two[5] = {10, 20, 10, 10, 30};
    m2_pace p = pace(5, of, room);
    for (int i = 0; i < 30; i++) CU_ASSERT_EQUAL(m2_pace_judge(&p, i % 3 ? one : even).rank, -1);
    (void)m2_pace_judge(&p, even);
    for (int i = 0; i < 3; i++) CU_ASSERT_EQUAL(m2_pace_judge(&p, two).rank, i == 2 ? 4 : -1);
}

static void test_ends(void)
{
    m2_pace p = {.every = 10}, off = {0};
    CU_ASSERT(m2_pace_ends(&p, 10) && m2_pace_ends(&p, 20));
    CU_ASSERT(!m2_pace_ends(&p, 0) && !m2_pace_ends(&p, 9) && !m2_pace_ends(&off, 10));
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("pace", NULL, NULL);
    CU_ADD_TEST(suite, test_named);
    CU_ADD_TEST(suite, test_chance);
    CU_ADD_TEST(suite, test_ends);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
