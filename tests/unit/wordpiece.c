/* BERT's tokenizer against the reference's own output. Needs the shared data. */
#include "data/tokenizer.h"

#include <CUnit/Basic.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK(call) CU_ASSERT_EQUAL_FATAL((call), M2_OK)

static char shared[1024];
static m2_tokenizer *bert;

static void test_vectors(void)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/bert/hf_vectors.jsonl", shared);
    FILE *f = fopen(path, "r");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    m2_token_buffer b = {0};
    char *line = NULL;
    size_t capacity = 0;
    int records = 0;
    for (ssize_t size; (size = getline(&line, &capacity, f)) > 0; records++) {
        json_t *v = json_loadb(line, (size_t)size, JSON_ALLOW_NUL, NULL);
        json_t *text = json_object_get(v, "text"), *ids = json_object_get(v, "ids");
        b.count = 0;
        OK(m2_tokenizer_encode(bert, json_string_value(text), json_string_length(text), &b));
        /* [CLS] text [SEP], and in one case a second text behind it: the frame is not ours to add */
        CU_ASSERT_FATAL((size_t)b.count + 2 <= json_array_size(ids));
        CU_ASSERT_EQUAL(json_integer_value(json_array_get(ids, (size_t)b.count + 1)), 102);
        for (int64_t i = 0; i < b.count; i++)
            CU_ASSERT_EQUAL(b.ids[i], json_integer_value(json_array_get(ids, (size_t)i + 1)));
        json_decref(v);
    }
    free(line);
    fclose(f);
    m2_token_buffer_free(&b);
    CU_ASSERT_EQUAL(records, 30);
}

static void expect(const char *text, size_t n, const char *tokens)
{
    m2_token_buffer b = {0};
    char *back;
    size_t size;
    OK(m2_tokenizer_encode(bert, text, n, &b));
    OK(m2_tokenizer_decode(bert, b.ids, b.count, &back, &size));
    CU_ASSERT_STRING_EQUAL(back, tokens);
    free(back);
    m2_token_buffer_free(&b);
}

static void test_rules(void)
{
    expect("Caf\xc3\xa9, NA\xc3\x8fVE!", 14, "cafe , naive !"); /* case and accents */
    expect("e\xcc\x81t\xc3\xa9\0x\x01y", 10, "etexy");          /* combining marks, control characters */
    expect("a\xe4\xb8\xad\xe6\x96\x87"
           "b",
           8, "a \xe4\xb8\xad \xe6\x96\x87 b"); /* ideographs stand alone */
    expect("bad \xff\xc3 bytes", 12, "bad bytes");
    expect("\xef\xbc\xa1\xe2\x80\x94", 6,
           "[UNK] \xe2\x80\x94"); /* no compatibility forms; Unicode punctuation */
    char longest[202];
    memset(longest, 'a', sizeof longest);
    expect(longest, 101, "[UNK]");
    m2_token_buffer b = {0};
    OK(m2_tokenizer_encode(bert, longest, 100, &b));
    CU_ASSERT(b.count > 1);
    m2_token_buffer_free(&b);
}

static void test_serialized(void)
{
    char *text, a[33], b[33];
    m2_tokenizer *t;
    OK(m2_tokenizer_serialize(bert, &text));
    OK(m2_tokenizer_parse(text, &t));
    m2_tokenizer_hash(bert, a);
    m2_tokenizer_hash(t, b);
    CU_ASSERT_STRING_EQUAL(a, b);
    CU_ASSERT(m2_tokenizer_vocab(t) == 30522 && m2_tokenizer_separator(t) == 102);
    CU_ASSERT_STRING_EQUAL(m2_tokenizer_kind(t), "wordpiece");
    m2_tokenizer_close(&t);
    free(text);
}

int main(void)
{
    const char *data = getenv("M2_SHARED_DATA"), *source = getenv("M2_SOURCE");
    char path[1100];
    snprintf(shared, sizeof shared, "%s%s",
             data     ? data
             : source ? source
                      : ".",
             data ? "" : "/../shared/data");
    snprintf(path, sizeof path, "%s/bert", shared);
    if (access(path, R_OK)) {
        printf("skipped: no %s (set M2_SHARED_DATA)\n", path);
        return 77;
    }
    if (m2_tokenizer_open(path, &bert) != M2_OK) {
        puts(m2_message());
        return 1;
    }
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("wordpiece", NULL, NULL);
    CU_ADD_TEST(suite, test_vectors);
    CU_ADD_TEST(suite, test_rules);
    CU_ADD_TEST(suite, test_serialized);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    m2_tokenizer_close(&bert);
    CU_cleanup_registry();
    return failed;
}
