/* metrics.jsonl: what is written reads back as JSON with all its digits; reopening drops steps that are done again. */
#include "runtime/metrics.h"

#include <CUnit/Basic.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char path[64];

static m2_record record(int64_t step)
{
    return (m2_record){.step = step,
                       .tokens = step * 100,
                       .loss = 1.0 / 3 + (double)step,
                       .grad_norm = step == 3 ? (double)NAN : 0.5,
                       .lr = 1e-4,
                       .val_loss = step % 2 ? M2_ABSENT : 2.5,
                       .val_score = M2_ABSENT,
                       .val_top1 = M2_ABSENT,
                       .slow_rank = M2_ABSENT,
                       .slow_ratio = M2_ABSENT,
                       .mfu = M2_ABSENT};
}

static void write_steps(int64_t resume, int64_t from, int64_t to)
{
    m2_metrics *m;
    CU_ASSERT_EQUAL_FATAL(m2_metrics_open(path, resume, &m), M2_OK);
    for (int64_t s = from; s <= to; s++) {
        m2_record r = record(s);
        CU_ASSERT_EQUAL(m2_metrics_write(m, &r), M2_OK);
    }
    m2_metrics_close(&m);
}

static int lines(void)
{
    char line[1024];
    int n = 0;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        json_t *o = json_loads(line, 0, NULL);
        CU_ASSERT_PTR_NOT_NULL_FATAL(o);
        m2_record want = record(++n);
        CU_ASSERT_EQUAL(json_integer_value(json_object_get(o, "step")), n);
        CU_ASSERT_EQUAL(json_integer_value(json_object_get(o, "tokens")), 100 * n);
        CU_ASSERT_EQUAL(json_real_value(json_object_get(o, "loss")), want.loss);
        CU_ASSERT_EQUAL(json_is_null(json_object_get(o, "grad_norm")), n == 3);
        CU_ASSERT_EQUAL(json_object_get(o, "val_loss") == NULL, n % 2 == 1);
        CU_ASSERT_PTR_NULL(json_object_get(o, "mfu"));
        json_decref(o);
    }
    if (f) fclose(f);
    return n;
}

static void test_resume(void)
{
    write_steps(0, 1, 7);
    CU_ASSERT_EQUAL(lines(), 7);
    FILE *f = fopen(path, "a"); /* a line that a dying process did not finish */
    fputs("{\"step\": 4, \"tok", f);
    fclose(f);
    write_steps(4, 5, 9);
    CU_ASSERT_EQUAL(lines(), 9);
    write_steps(0, 1, 2); /* from scratch */
    CU_ASSERT_EQUAL(lines(), 2);
}

static void test_failure(void)
{
    m2_metrics *m;
    CU_ASSERT_EQUAL(m2_metrics_open("/nowhere/at/all/metrics.jsonl", 0, &m), M2_IO);
    CU_ASSERT_PTR_NULL(m);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "/nowhere/at/all/metrics.jsonl"));
}

int main(void)
{
    snprintf(path, sizeof path, "/tmp/m2-metrics-%ld.jsonl", (long)getpid());
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("metrics", NULL, NULL);
    CU_add_test(suite, "write, resume, start over", test_resume);
    CU_add_test(suite, "failure", test_failure);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    unlink(path);
    return failures != 0;
}
