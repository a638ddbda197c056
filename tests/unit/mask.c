/* Masking: shares as announced, nothing special touched, labels are what was there, repeatable. */
#include "data/mask.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call) CU_ASSERT_EQUAL_FATAL((call), M2_OK)
enum { N = 512, ROWS = 2000, VOCAB = 1000 };

static m2_tokenizer *words(void) /* 995 made-up words behind BERT's five special tokens */
{
    char path[] = "/tmp/m2-mask-vocab.txt";
    FILE *f = fopen(path, "w");
    fputs("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", f);
    for (int i = 5; i < VOCAB; i++) fprintf(f, "w%d\n", i);
    fclose(f);
    m2_tokenizer *t;
    OK(m2_tokenizer_open(path, &t));
    remove(path);
    return t;
}

static void fill(int32_t *tokens, int64_t row) /* a [CLS], words, a [SEP] every 64 */
{
    for (int i = 0; i < N; i++)
        tokens[i] = i == 0 ? 2 : i % 64 == 63 ? 3 : 5 + (int32_t)((row * 31 + i * 7) % (VOCAB - 5));
}

static void test_shares(void)
{
    static const double rates[] = {0, 0.15, 0.3, 1};
    m2_tokenizer *t = words();
    for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
        m2_mask m;
        OK(m2_mask_make(t, rates[r], 7, &m));
        int64_t ordinary = 0, chosen = 0, masked = 0, kept = 0, bad = 0;
        for (int64_t row = 0; row < ROWS; row++) {
            int32_t was[N], now[N], places[N], labels[N];
            fill(was, row);
            memcpy(now, was, sizeof now);
            int64_t count = m2_mask_row(&m, row, N, now, places, labels), next = 0;
            for (int i = 0; i < N; i++) {
                int is_chosen = next < count && places[next] == i;
                ordinary += was[i] >= 5;
                if (!is_chosen)
                    bad += now[i] != was[i];
                else
                    bad += labels[next++] != was[i] || was[i] < 5 || (now[i] < 5 && now[i] != 4) ||
                           now[i] >= VOCAB;
                masked += is_chosen && now[i] == 4;
                kept += is_chosen && now[i] == was[i];
            }
            bad += next != count;
            chosen += count;
        }
        CU_ASSERT_EQUAL(bad, 0);
        CU_ASSERT(fabs((double)chosen / (double)ordinary - rates[r]) < 0.002);
        if (chosen) {
            CU_ASSERT(fabs((double)masked / (double)chosen - 0.8) < 0.005);
            CU_ASSERT(fabs((double)kept / (double)chosen - 0.1) < 0.005);
        }
        m2_mask_free(&m);
    }
    m2_tokenizer_close(&t);
}

static void test_repeatable(void)
{
    m2_tokenizer *t = words();
    m2_mask m, other;
    int32_t a[N], b[N], c[N], d[N], places[N], labels[N];
    OK(m2_mask_make(t, 0.15, 7, &m));
    OK(m2_mask_make(t, 0.15, 8, &other));
    fill(a, 3), fill(b, 3), fill(c, 3), fill(d, 3);
    m2_mask_row(&m, 3, N, a, places, labels);
    m2_mask_row(&m, 3, N, b, places, labels);
    m2_mask_row(&m, 4, N, c, places, labels);
    m2_mask_row(&other, 3, N, d, places, labels);
    CU_ASSERT(!memcmp(a, b, sizeof a) && memcmp(a, c, sizeof a) && memcmp(a, d, sizeof a));
    m2_mask_free(&m);
    m2_mask_free(&other);
    m2_tokenizer_close(&t);
}

static void test_refusals(void)
{
    m2_tokenizer *t;
    m2_mask m;
    OK(m2_tokenizer_open("bytes", &t));
    CU_ASSERT_EQUAL(m2_mask_make(t, 0.15, 0, &m), M2_DATA);
    CU_ASSERT_EQUAL(m2_mask_make(t, 1.5, 0, &m), M2_USAGE);
    m2_mask_free(&m);
    m2_tokenizer_close(&t);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("mask", NULL, NULL);
    CU_ADD_TEST(suite, test_shares);
    CU_ADD_TEST(suite, test_repeatable);
    CU_ADD_TEST(suite, test_refusals);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    return failed;
}
