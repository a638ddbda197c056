/* Tasks of GLUE: rows of TSV files become tokens and labels, bad ones are named by line; scores against values worked out by
 * hand, and the laws they obey. */
#include "data/glue.h"
#include "data/tsv.h"
#include "runtime/scores.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK(call) CU_ASSERT_EQUAL_FATAL((call), M2_OK)

static char folder[] = "/tmp/m2-glue-XXXXXX", path[64], vocab[64];
static m2_tokenizer *tokenizer;
enum { PAD, UNK, CLS, SEP, MASK, A, B, C, D };

static void write_text(const char *name, const char *text)
{
    FILE *f = fopen(name, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    fputs(text, f);
    fclose(f);
}

static void set_up(void)
{
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/rows.tsv", folder);
    snprintf(vocab, sizeof vocab, "%s/vocab.txt", folder);
    write_text(vocab, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\n");
    OK(m2_tokenizer_open(vocab, &tokenizer));
}

/* ---- files ------------------------------------------------------------------------------------------------------- */
static void test_pairs(void)
{
    static const int32_t expected[3][8] = {{CLS, A, B, SEP, C, SEP, PAD, PAD},
                                           {CLS, A, A, SEP, D, D, D, SEP}, /* the longer one is cut first */
                                           {CLS, SEP, B, SEP, PAD, PAD, PAD, PAD}};
    m2_glue_rows rows;
    write_text(path, "\xef\xbb\xbfindex\tsentence1\tsentence2\tlabel\r\n"
                     "0\ta b\tc\tentailment\r\n"
                     "1\ta a\td d d d d d d\tnot_entailment\n"
                     "2\t\tB\tentailment");
    OK(m2_glue_read(m2_glue_find("glue/rte"), path, tokenizer, 8, 0, &rows));
    CU_ASSERT_EQUAL_FATAL(rows.n, 3);
    CU_ASSERT_EQUAL(memcmp(rows.tokens, expected, sizeof expected), 0);
    CU_ASSERT(rows.used[0] == 6 && rows.used[1] == 8 && rows.used[2] == 4);
    CU_ASSERT(rows.label[0] == 0 && rows.label[1] == 1 && rows.label[2] == 0);
    m2_glue_rows_free(&rows);
}

static void test_single(void)
{
    m2_glue_rows rows;
    write_text(path, "gj04\t1\t\ta b\ngj04\t0\t*\t\"c\n"); /* CoLA: no header; quotes are characters */
    OK(m2_glue_read(m2_glue_find("cola"), path, tokenizer, 6, 0, &rows));
    CU_ASSERT_EQUAL_FATAL(rows.n, 2);
    static const int32_t expected[2][6] = {{CLS, A, B, SEP, PAD, PAD}, {CLS, UNK, C, SEP, PAD, PAD}};
    CU_ASSERT_EQUAL(memcmp(rows.tokens, expected, sizeof expected), 0);
    CU_ASSERT(rows.label[0] == 1 && rows.label[1] == 0);
    m2_glue_rows_free(&rows);
}

static void expect_refusal(const char *task, const char *text, const char *named)
{
    m2_glue_rows rows;
    write_text(path, text);
    CU_ASSERT_EQUAL(m2_glue_read(m2_glue_find(task), path, tokenizer, 8, 0, &rows), M2_DATA);
    int found = strstr(m2_message(), named) != NULL;
    CU_ASSERT(found);
    if (!found) printf("\n  %s: no '%s'\n", m2_message(), named);
    m2_glue_rows_free(&rows);
}

static void test_refusals(void)
{
    m2_glue_rows rows;
    expect_refusal("sst2", "sentence\tlabel\na\t1\nb\n", "rows.tsv:3: 1 cell between tabs, expected 2");
    expect_refusal("sst2", "sentence\tlabel\na\t1\nb\t2\n", "rows.tsv:3: '2' in column label");
    expect_refusal("sst2", "sentence\tlabel\na\t1\nb\t1\tc\n", "rows.tsv:3: 3 cells");
    expect_refusal("cola", "x\t1\t\ta\nx\t1\ta\n", "rows.tsv:2: 3 cells");
    expect_refusal("stsb", "sentence1\tsentence2\tscore\na\tb\tmuch\n", "rows.tsv:2: 'much' in column score");
    expect_refusal("rte", "index\tsentence1\tlabel\n", "no column 'sentence2'");
    expect_refusal("sst2", "sentence\tlabel\n", "has no rows");
    write_text(path, "sentence\tlabel\na\t1\nb\nc\t2\nd\t0\n");
    OK(m2_glue_read(m2_glue_find("sst2"), path, tokenizer, 8, 1, &rows));
    CU_ASSERT(rows.n == 2 && rows.skipped == 2 && rows.tokens[8 + 1] == D && rows.label[1] == 0);
    m2_glue_rows_free(&rows);
}

static void test_table(void)
{
    static const struct {
        const char *name;
        int classes;
    } tasks[] = {{"cola", 2}, {"sst2", 2}, {"mrpc", 2}, {"rte", 2}, {"stsb", 0},
                 {"wnli", 2}, {"qnli", 2}, {"mnli", 3}, {"qqp", 2}};
    for (int i = 0; i < 9; i++) {
        const m2_glue_task *t = m2_glue_find(tasks[i].name);
        CU_ASSERT_PTR_NOT_NULL_FATAL(t);
        CU_ASSERT_EQUAL(m2_glue_classes(t), tasks[i].classes);
        for (const char *name = t->scores; *name; name += strcspn(name, " "), name += *name == ' ')
            CU_ASSERT_PTR_NOT_NULL(m2_score_find(name, (int)strcspn(name, " ")));
    }
    CU_ASSERT_PTR_NULL(m2_glue_find("none"));
}

/* ---- scores ------------------------------------------------------------------------------------------------------ */
static double score(const char *name, const double *x, const double *y, int64_t n)
{
    return m2_score_find(name, (int)strlen(name))->of(x, y, n);
}

#define CLOSE(a, b) CU_ASSERT_DOUBLE_EQUAL(a, b, 1e-12)

static void test_classes(void)
{
    static const double x[] = {1, 1, 1, 0, 0, 0, 0, 1},
                        y[] = {1, 1, 0, 0, 0, 1, 0, 1}; /* tp 3, fp 1, fn 1, tn 3 */
    static const double ones[] = {1, 1, 1, 1, 1, 1, 1, 1};
    double flipped[8];
    for (int i = 0; i < 8; i++) flipped[i] = 1 - y[i];
    CLOSE(score("accuracy", x, y, 8), 0.75);
    CLOSE(score("f1", x, y, 8), 0.75);
    CLOSE(score("matthews", x, y, 8), 0.5); /* (9 - 1) / sqrt(4^4) */
    CLOSE(score("matthews", y, y, 8), 1);
    CLOSE(score("matthews", flipped, y, 8), -1);
    CLOSE(score("matthews", ones, y, 8), 0); /* a constant says nothing */
    CLOSE(score("f1", ones, y, 8), 2.0 / 3);
}

static void test_correlations(void)
{
    static const double x[] = {1, 2, 3, 4, 5}, y[] = {2, 1, 4, 3, 5}, ties[] = {1, 2, 2, 3, 3};
    double bent[5], flat[5] = {0};
    for (int i = 0; i < 5; i++) bent[i] = exp(3 * x[i]);
    CLOSE(score("pearson", x, y, 5), 0.8); /* ranks already: both agree */
    CLOSE(score("spearman", x, y, 5), 0.8);
    CLOSE(score("spearman", bent, y, 5), 0.8); /* only the order counts */
    CU_ASSERT(score("pearson", bent, x, 5) < 0.9);
    CLOSE(score("spearman", ties, ties, 5), 1);
    CLOSE(score("spearman", x, ties, 5), 9 / sqrt(10 * 9.0)); /* ranks 1, 2.5, 2.5, 4.5, 4.5 */
    CLOSE(score("pearson", x, flat, 5), 0);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("glue", NULL, NULL);
    CU_ADD_TEST(suite, set_up);
    CU_ADD_TEST(suite, test_pairs);
    CU_ADD_TEST(suite, test_single);
    CU_ADD_TEST(suite, test_refusals);
    CU_ADD_TEST(suite, test_table);
    CU_ADD_TEST(suite, test_classes);
    CU_ADD_TEST(suite, test_correlations);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    m2_tokenizer_close(&tokenizer);
    remove(path);
    remove(vocab);
    remove(folder);
    return failed;
}
