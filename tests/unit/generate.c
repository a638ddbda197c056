/* Drawing tokens: greedy, cuts, frequencies, ties, NaN. */
#include "runtime/generate.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <string.h>

static double scratch[64];

static int64_t pick(const double *logits, int64_t n, double temperature, int64_t k, double p, double u)
{
    m2_sampling s = {.temperature = temperature, .top_k = k, .top_p = p};
    return m2_pick_token(logits, n, &s, u, scratch);
}

static void test_greedy(void)
{
    double logits[] = {0.5, 2, -1, 2, (double)NAN};
    for (int i = 0; i < 5; i++) {
        double u = i / 5.0;
        CU_ASSERT_EQUAL(pick(logits, 5, 0, 0, 1, u), 1);
        CU_ASSERT_EQUAL(pick(logits, 5, 1, 1, 1, u), 1);
        CU_ASSERT_EQUAL(pick(logits, 5, 1, 0, 1e-9, u), 1);
    }
}

/* u = (i + 1/2) / n sweeps the distribution: shares of tokens must be the softmax of the kept logits. */
static void test_shares(void)
{
    enum { SWEEP = 20000 };
    static const struct {
        double temperature, p;
        int64_t k;
        double want[4];
    } cases[] = {
        {1, 1, 0, {0.1, 0.4, 0.3, 0.2}},
        {1, 1, 2, {0, 4 / 7.0, 3 / 7.0, 0}},
        {1, 0.85, 0, {0, 4 / 9.0, 3 / 9.0, 2 / 9.0}},
        {1, 0.5, 3, {0, 4 / 7.0, 3 / 7.0, 0}},
        {0.5, 1, 0, {1 / 30.0, 16 / 30.0, 9 / 30.0, 4 / 30.0}},
    };
    double logits[] = {log(0.1) + 3, log(0.4) + 3, log(0.3) + 3, log(0.2) + 3};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int seen[4] = {0};
        for (int i = 0; i < SWEEP; i++)
            seen[pick(logits, 4, cases[c].temperature, cases[c].k, cases[c].p, (i + 0.5) / SWEEP)]++;
        for (int t = 0; t < 4; t++)
            CU_ASSERT_DOUBLE_EQUAL((double)seen[t] / SWEEP, cases[c].want[t], 2.0 / SWEEP);
    }
}

static void test_extremes(void)
{
    double huge[] = {1e300, -1e300, 0}, nothing[] = {(double)NAN, (double)NAN};
    CU_ASSERT_EQUAL(pick(huge, 3, 1, 0, 1, 0.999999), 0);
    CU_ASSERT_EQUAL(pick(nothing, 2, 1, 0, 1, 0.5), 0);
    CU_ASSERT_EQUAL(pick(huge, 1, 1, 0, 1, 0), 0);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("generate", NULL, NULL);
    CU_add_test(suite, "greedy", test_greedy);
    CU_add_test(suite, "shares", test_shares);
    CU_add_test(suite, "extremes", test_extremes);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
