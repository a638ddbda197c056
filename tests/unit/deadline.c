/* deadline.c - a run ends itself early enough for one more step and a save, and not earlier. */
#include "runtime/deadline.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static m2_deadline started(double margin, double minutes, const char *job_end)
{
    m2_config cfg;
    m2_deadline d;
    m2_config_defaults(&cfg);
    cfg.run_margin = margin;
    cfg.run_minutes = minutes;
    if (job_end)
        setenv("SLURM_JOB_END_TIME", job_end, 1);
    else
        unsetenv("SLURM_JOB_END_TIME");
    CU_ASSERT_EQUAL_FATAL(m2_deadline_start(&cfg, &d), M2_OK);
    return d;
}

static void test_which(void)
{
    double now = m2_deadline_clock();
    CU_ASSERT(isinf(started(30, 0, NULL).end));
    CU_ASSERT_EQUAL(started(30, 0, "5000000000").end, 5e9 - 30);
    CU_ASSERT(isinf(started(0, 0, "5000000000").end));
    m2_deadline own = started(30, 2, "5000000000");
    CU_ASSERT(own.end >= now + 120 && own.end < now + 180);
    CU_ASSERT_STRING_EQUAL(own.why, "run.minutes");
    CU_ASSERT_STRING_EQUAL(started(30, 1e7, "5000000000").why, "run.minutes");
    CU_ASSERT_STRING_EQUAL(started(30, 1e7, "1000").why, "the job's time limit");
}

static void test_bad(void)
{
    m2_config cfg;
    m2_deadline d;
    m2_config_defaults(&cfg);
    setenv("SLURM_JOB_END_TIME", "tomorrow", 1);
    CU_ASSERT_EQUAL(m2_deadline_start(&cfg, &d), M2_USAGE);
    CU_ASSERT(strstr(m2_message(), "'tomorrow'") != NULL);
}

/* Steps of `step` seconds, saves of `save`: what is done before the end leaves room for a save, but not for a step and one. */
static void run_until(double step, double save)
{
    m2_deadline d = started(30, 0, "5000000000");
    double now = 5e9 - 1000, end = 5e9 - 30;
    while (!m2_deadline_near(&d, now, save)) now += step;
    CU_ASSERT(now + save <= end);
    CU_ASSERT(now + 2 * step + save >= end);
}

static void test_near(void)
{
    run_until(1, 0);
    run_until(1, 17);
    run_until(0.001, 5);
    run_until(120, 60);
}

static void test_first(void)
{
    m2_deadline d = started(30, 0, "1000");
    CU_ASSERT(!m2_deadline_near(&d, 5e9, 0));
    CU_ASSERT(m2_deadline_near(&d, 5e9 + 1, 0));
}

static void test_forgets(void)
{
    m2_deadline d = started(30, 0, "5000000000");
    double now = 5e9 - 4000;
    CU_ASSERT(!m2_deadline_near(&d, now, 0));
    CU_ASSERT(!m2_deadline_near(&d, now += 1800, 0)); /* something stalled for half an hour, once */
    for (int i = 0; i < 500; i++) CU_ASSERT(!m2_deadline_near(&d, now += 4, 0));
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("deadline", NULL, NULL);
    CU_add_test(s, "which end", test_which);
    CU_add_test(s, "no time", test_bad);
    CU_add_test(s, "near", test_near);
    CU_add_test(s, "every start gets somewhere", test_first);
    CU_add_test(s, "forgets a stall", test_forgets);
    CU_basic_run_tests();
    int failed = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed;
}
