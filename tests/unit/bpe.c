/* GPT-2's tokenizer against the reference's own output, out of three forms of file. Needs the shared data. */
#define _GNU_SOURCE /* mkstemps */
#include "data/tokenizer.h"

#include <CUnit/Basic.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK(call) CU_ASSERT_EQUAL_FATAL((call), M2_OK)

static char shared[1024];
static m2_tokenizer *gpt2;

static void check_ids(const char *text, size_t n, const uint32_t *ids, int64_t count, m2_token_buffer *b)
{
    b->count = 0;
    OK(m2_tokenizer_encode(gpt2, text, n, b));
    CU_ASSERT_FATAL(b->count == count && !memcmp(b->ids, ids, (size_t)count * sizeof *ids));
}

static void check_record(const json_t *v, m2_token_buffer *b)
{
    json_t *text = json_object_get(v, "text"), *list = json_object_get(v, "ids");
    int64_t count = (int64_t)json_array_size(list);
    uint32_t *ids = malloc((size_t)count * sizeof *ids + 1);
    for (int64_t i = 0; i < count; i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(list, (size_t)i));
    char *back;
    size_t size, n = json_string_length(text);
    check_ids(json_string_value(text), n, ids, count, b);
    OK(m2_tokenizer_decode(gpt2, ids, count, &back, &size));
    CU_ASSERT_FATAL(size == n && !memcmp(back, json_string_value(text), n));
    free(back);
    free(ids);
}

/* Lines that are no JSON are pieces of records that a raw line break tore apart: 10 lines of the 942. */
static void check_vectors(const char *name, int expected)
{
    char path[1100], *line = NULL;
    snprintf(path, sizeof path, "%s/gpt2/%s", shared, name);
    FILE *f = fopen(path, "r");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    m2_token_buffer b = {0};
    size_t capacity = 0;
    int records = 0;
    for (ssize_t n; (n = getline(&line, &capacity, f)) > 0;) {
        json_t *v = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        if (!v) continue;
        check_record(v, &b);
        json_decref(v);
        records++;
    }
    CU_ASSERT_EQUAL(records, expected);
    m2_token_buffer_free(&b);
    fclose(f);
    free(line);
}

static void test_vectors(void)
{
    check_vectors("hf_vectors.jsonl", 26);
    check_vectors("tiktoken_vectors.jsonl", 932);
}

/* The same tokenizer as a .tiktoken file: its merges are then found, not read, and must be the same. */
static void test_tiktoken_form(void)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char path[] = "/tmp/m2-gpt2-XXXXXX.tiktoken", a[33], b[33];
    int fd = mkstemps(path, 9);
    CU_ASSERT_FATAL(fd >= 0);
    FILE *f = fdopen(fd, "w");
    for (uint32_t id = 0; id < 50256; id++) {
        char *text;
        size_t n;
        OK(m2_tokenizer_decode(gpt2, &id, 1, &text, &n));
        for (size_t i = 0; i < n; i += 3) {
            uint32_t bits = 0;
            for (size_t k = 0; k < 3; k++) bits = bits << 8 | (i + k < n ? (unsigned char)text[i + k] : 0);
            for (size_t k = 0; k < 4; k++) fputc(i + k <= n ? digits[bits >> (18 - 6 * k) & 63] : '=', f);
        }
        fprintf(f, " %u\n", id);
        free(text);
    }
    fclose(f);
    m2_tokenizer *t;
    OK(m2_tokenizer_open(path, &t));
    m2_tokenizer_hash(gpt2, a);
    m2_tokenizer_hash(t, b);
    CU_ASSERT_STRING_EQUAL(a, b);
    m2_tokenizer_close(&t);
    remove(path);
}

/* And as a tokenizer.json with both ways to write a merge. */
static void test_json_form(void)
{
    char path[1100], out[] = "/tmp/m2-gpt2-XXXXXX.json", line[512], a[33], b[33];
    json_error_t e;
    snprintf(path, sizeof path, "%s/gpt2/encoder.json", shared);
    json_t *vocab = json_load_file(path, 0, &e), *merges = json_array();
    snprintf(path, sizeof path, "%s/gpt2/vocab.bpe", shared);
    FILE *f = fopen(path, "r");
    CU_ASSERT_FATAL(vocab && f && fgets(line, sizeof line, f));
    for (int i = 0; fgets(line, sizeof line, f); i++) {
        line[strcspn(line, "\n")] = 0;
        char *gap = strchr(line, ' ');
        if (i % 2)
            json_array_append_new(merges, json_string(line));
        else
            *gap = 0, json_array_append_new(merges, json_pack("[s, s]", line, gap + 1));
    }
    fclose(f);
    json_t *root = json_pack("{s: n, s: {s: s, s: b, s: b}, s: {s: s, s: o, s: o}, s: [{s: i, s: s, s: b}]}",
                             "normalizer", "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0,
                             "use_regex", 1, "model", "type", "BPE", "vocab", vocab, "merges", merges,
                             "added_tokens", "id", 50256, "content", "<|endoftext|>", "special", 1);
    CU_ASSERT_FATAL(root && close(mkstemps(out, 5)) == 0 && !json_dump_file(root, out, 0));
    m2_tokenizer *t;
    OK(m2_tokenizer_open(out, &t));
    m2_tokenizer_hash(gpt2, a);
    m2_tokenizer_hash(t, b);
    CU_ASSERT_STRING_EQUAL(a, b);
    m2_tokenizer_close(&t);
    json_decref(root);
    remove(out);
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
    snprintf(path, sizeof path, "%s/gpt2", shared);
    if (access(path, R_OK)) {
        printf("skipped: no %s (set M2_SHARED_DATA)\n", path);
        return 77;
    }
    if (m2_tokenizer_open(path, &gpt2) != M2_OK) {
        puts(m2_message());
        return 1;
    }
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("bpe", NULL, NULL);
    CU_ADD_TEST(suite, test_vectors);
    CU_ADD_TEST(suite, test_tiktoken_form);
    CU_ADD_TEST(suite, test_json_form);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    m2_tokenizer_close(&gpt2);
    CU_cleanup_registry();
    return failed;
}
