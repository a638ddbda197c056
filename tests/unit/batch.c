/* Cutting the global batch: every row of every step is taken once, by any number of ranks; refusals name good values. */
#include "runtime/batch.h"

#include <CUnit/Basic.h>
#include <string.h>

static void test_partition(void)
{
    for (int ranks = 1; ranks <= 6; ranks++)
        for (int64_t micro = 0; micro <= 12; micro++) {
            int seen[36] = {0};
            m2_batch b;
            if (12 % ranks || (micro && 12 / ranks % micro)) continue;
            for (int r = 0; r < ranks; r++) {
                CU_ASSERT_EQUAL_FATAL(m2_batch_cut(12, micro, r, ranks, &b), M2_OK);
                CU_ASSERT_EQUAL(b.micro * b.micros, b.share);
                for (int64_t i = 0; i < 3 * b.micros; i++) {
                    int64_t first = m2_batch_at(&b, i);
                    CU_ASSERT_EQUAL(first % 12, m2_batch_row0(&b, (int)(i % b.micros)));
                    CU_ASSERT_EQUAL(first / 12, i / b.micros);
                    for (int64_t k = 0; k < b.micro; k++) seen[first + k]++;
                }
            }
            for (int i = 0; i < 36; i++) CU_ASSERT_EQUAL(seen[i], 1);
        }
}

static void test_start(void)
{
    m2_batch b;
    CU_ASSERT_EQUAL_FATAL(m2_batch_cut(12, 2, 1, 2, &b), M2_OK);
    int64_t later = m2_batch_at(&b, 3 * 5 + 1); /* step 5, microbatch 1 */
    b.start = 60;
    CU_ASSERT_EQUAL(m2_batch_at(&b, 1), later);
}

static void test_shrink(void)
{
    m2_batch b;
    int64_t want[] = {12, 6, 4, 3, 2, 1};
    CU_ASSERT_EQUAL_FATAL(m2_batch_cut(24, 0, 0, 2, &b), M2_OK);
    for (int i = 0; i < 6; i++) {
        CU_ASSERT_EQUAL(b.micro, want[i]);
        CU_ASSERT_EQUAL(b.micro * b.micros, 12);
        CU_ASSERT_EQUAL(m2_batch_shrink(&b), i < 5);
    }
}

static void test_refusals(void)
{
    m2_batch b;
    CU_ASSERT_EQUAL(m2_batch_cut(10, 0, 0, 4, &b), M2_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "use 8 or 12"));
    CU_ASSERT_EQUAL(m2_batch_cut(3, 0, 0, 4, &b), M2_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "use 4, or fewer ranks"));
    CU_ASSERT_EQUAL(m2_batch_cut(24, 5, 0, 2, &b), M2_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "use 4 or 6"));
    CU_ASSERT_EQUAL(m2_batch_cut(24, 20, 0, 2, &b), M2_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "more than the 12 sequences"));
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("batch", NULL, NULL);
    CU_add_test(suite, "every row once", test_partition);
    CU_add_test(suite, "resumed in the middle", test_start);
    CU_add_test(suite, "smaller microbatches", test_shrink);
    CU_add_test(suite, "refusals", test_refusals);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
