/* Skipped updates: what counts as one, when the row is too long, and that counters survive a checkpoint. */
#include "runtime/guard.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <string.h>

static m2_guard guard(double outlier, double factor)
{
    m2_config cfg;
    m2_guard g;
    m2_config_defaults(&cfg);
    cfg.train_max_skips = 3;
    cfg.train_max_rollbacks = 2;
    cfg.optim_outlier = outlier;
    cfg.optim_outlier_factor = factor;
    CU_ASSERT_EQUAL_FATAL(m2_guard_open(&cfg, "", &g), M2_OK);
    return g;
}

static void test_what_is_skipped(void)
{
    m2_guard g = guard(0, 0);
    CU_ASSERT_EQUAL(m2_guard_limit(&g), 0);
    CU_ASSERT(!m2_guard_count(&g, 1, 1, 1e12, 0));
    CU_ASSERT(m2_guard_count(&g, 2, 1, (double)NAN, 0) && m2_guard_count(&g, 3, 1, (double)INFINITY, 0));
    CU_ASSERT(m2_guard_count(&g, 4, 1, 2.1, 2));
    CU_ASSERT(!m2_guard_count(&g, 5, 1, 2, 2));
    CU_ASSERT_EQUAL(g.skips, 3);
    CU_ASSERT_EQUAL(g.in_row, 0);
}

static void test_row(void)
{
    char text[900], event[512];
    m2_guard g = guard(0, 0);
    for (int64_t s = 1; s <= 3; s++) {
        CU_ASSERT(!m2_guard_tripped(&g));
        (void)m2_guard_count(&g, 10 + s, 0.5, s == 2 ? 7 : (double)NAN, 4);
    }
    CU_ASSERT(m2_guard_tripped(&g));
    m2_guard_describe(&g, text, sizeof text);
    CU_ASSERT_STRING_EQUAL(text, "step 11: loss 0.5, gradient norm nan; step 12: loss 0.5, gradient norm 7 > 4; "
                                 "step 13: loss 0.5, gradient norm nan");
    m2_guard_back(&g, 8, 80, 130, event, sizeof event);
    CU_ASSERT_STRING_EQUAL(event, "{\"step\": 9, \"event\": \"rollback\", \"number\": 1, \"from_step\": 13, \"to_step\": 8, "
                                  "\"skipped\": 3, \"first_row\": 80, \"next_row\": 130, \"at_loss\": 0.5, "
                                  "\"at_norm\": null}");
    CU_ASSERT_EQUAL(g.rollbacks, 1);
    CU_ASSERT(!m2_guard_tripped(&g));
    for (int64_t s = 0; s < 30; s++) (void)m2_guard_count(&g, 100 + s, (double)NAN, (double)NAN, 0); /* more than are shown */
    m2_guard_describe(&g, text, sizeof text);
    CU_ASSERT_PTR_NULL(strstr(text, "step 121:"));
    CU_ASSERT_PTR_EQUAL(strstr(text, "step 122:"), text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "step 129:"));
}

/* Relative to the mean of norms, of which there must be enough, and which outliers do not move. */
static void test_relative(void)
{
    m2_guard g = guard(0, 10), capped = guard(5, 10);
    for (int64_t s = 1; s <= 200; s++) {
        double limit = m2_guard_limit(&g), norm = s % 2 ? 0.9 : 1.1;
        CU_ASSERT_EQUAL(limit > 0, s > 20);
        if (limit > 0) CU_ASSERT_DOUBLE_EQUAL(limit, 10, 0.5);
        if (s > 100 && s <= 102) norm = 1000;
        CU_ASSERT_EQUAL(m2_guard_count(&g, s, 1, norm, limit), s > 100 && s <= 102);
        (void)m2_guard_count(&capped, s, 1, 1, m2_guard_limit(&capped));
    }
    CU_ASSERT_EQUAL(m2_guard_limit(&capped), 5);
}

static void test_checkpoint(void)
{
    char text[M2_GUARD_TEXT], again[M2_GUARD_TEXT];
    m2_config cfg;
    m2_guard g = guard(0, 10), h;
    for (int64_t s = 1; s <= 50; s++) (void)m2_guard_count(&g, s, 1, s > 48 ? (double)NAN : 1 / (double)s, 0);
    g.rollbacks = 1;
    m2_guard_text(&g, text);
    m2_config_defaults(&cfg);
    cfg.train_max_skips = 3;
    cfg.optim_outlier_factor = 10;
    CU_ASSERT_EQUAL(m2_guard_open(&cfg, text, &h), M2_OK);
    m2_guard_text(&h, again);
    CU_ASSERT_STRING_EQUAL(text, again);
    CU_ASSERT_EQUAL(h.mean, g.mean);
    CU_ASSERT_EQUAL(m2_guard_limit(&h), m2_guard_limit(&g));
    (void)m2_guard_count(&h, 51, 1, (double)NAN, 0);
    CU_ASSERT(m2_guard_tripped(&h)); /* the row began before the checkpoint */
    m2_guard_describe(&h, again, sizeof again);
    CU_ASSERT_STRING_EQUAL(again, "step 51: loss 1, gradient norm nan");
    CU_ASSERT_EQUAL(m2_guard_open(&cfg, "skips 1", &h), M2_DATA);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("guard", NULL, NULL);
    CU_ADD_TEST(suite, test_what_is_skipped);
    CU_ADD_TEST(suite, test_row);
    CU_ADD_TEST(suite, test_relative);
    CU_ADD_TEST(suite, test_checkpoint);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
