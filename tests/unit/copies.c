/* More than half of the ranks decide, whichever they are; half does not. */
#include "runtime/copies.h"

#include <CUnit/Basic.h>

static void test_majority(void)
{
    for (int ranks = 1; ranks <= 9; ranks++)
        for (unsigned odd = 0; odd < 1u << ranks; odd++)
            for (int alike = 0; alike < 2; alike++) { /* do the odd ones agree with each other? */
                uint64_t number[9];
                int n = 0, want = -1;
                for (int r = 0; r < ranks; r++) {
                    int is = odd >> r & 1;
                    number[r] = !is ? 7 : alike ? 8 : 100 + (uint64_t)r;
                    n += is;
                }
                if (2 * n < ranks) want = 7;
                if (2 * n > ranks && alike) want = 8;
                if (2 * n > ranks && !alike && n == 1) want = 100;
                int at = m2_copies_majority(number, ranks);
                CU_ASSERT_EQUAL(at < 0 ? -1 : (int)number[at], want);
            }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("copies", NULL, NULL);
    CU_ADD_TEST(suite, test_majority);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
