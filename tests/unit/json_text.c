/* The reader of one field of a JSON object against a full JSON library, on sound objects and on every kind of damage. */
#include "data/json_text.h"
#include "kernels/base/rng.h"

#include <CUnit/Basic.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Both accept and find the same text, or both refuse. */
static int agrees(const char *line, size_t n)
{
    char *out = malloc(n + 1);
    size_t size, at;
    int found;
    const char *wrong = m2i_json_text(line, n, "text", out, &size, &found, &at);
    json_t *root = json_loadb(line, n, JSON_ALLOW_NUL, NULL), *text = json_object_get(root, "text");
    int same = !wrong == (root && json_is_object(root));
    if (same && !wrong) same = found == json_is_string(text);
    if (same && !wrong && found)
        same = size == json_string_length(text) && !memcmp(out, json_string_value(text), size);
    json_decref(root);
    free(out);
    return same;
}

static const char *const lines[] = {
    "{}",
    " { } ",
    "{\"text\": \"\"}",
    "{\"text\":\"a\",\"text\":\"b\"}",
    "{\"text\": 1}",
    "{\"text\": \"x\", \"text\": null}",
    "{\"a\": [1, -2.5e3, {\"text\": \"inner\"}, []], \"text\": \"outer \\\"quoted\\\" \\\\ \\/ "
    "\\b\\f\\n\\r\\t\"}",
    "{\"text\": \"\\u00e4\\u20ac\\ud83d\\ude00\\u0000 \xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80\", \"b\": true, "
    "\"c\": false, \"d\": null}",
    "{\"te\\u0078t\": \"a name with an escape\"}",
    "{\"text\": \"12345678901234567890\"}",
    "",
    "[]",
    "\"text\"",
    "{",
    "{\"text\"",
    "{\"text\":",
    "{\"text\": \"",
    "{\"text\": \"\\",
    "{\"text\": \"\\x\"}",
    "{\"text\": \"\\u12\"}",
    "{\"text\": \"\\ud83d\"}",
    "{\"text\": \"\\ude00\"}",
    "{\"text\": \"\\ud83d\\u0041\"}",
    "{\"text\": \"\t\"}",
    "{\"text\": \"\xff\"}",
    "{\"text\": \"\xc3\"}",
    "{\"text\": \"a\"} x",
    "{\"text\": \"a\",}",
    "{,}",
    "{\"text\" \"a\"}",
    "{\"a\": [1,], \"text\": \"a\"}",
    "{\"a\": nul}",
    "{text: 1}",
    "{\"a\": \"long long long long long \\u0041 \xe2\x82\xac and more\", \"text\": \"ok\"}"};

static void test_lines(void)
{
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        CU_ASSERT_TRUE(agrees(lines[i], strlen(lines[i])));
}

/* Cut off and changed at every byte. A number's spelling is not checked (the reader skips it), so no digits are drawn. */
static void test_damage(void)
{
    static const char bytes[] = "\"\\{}[],: a\n\x80\xc3\xe2\xff/u";
    char line[512];
    uint64_t draw = 0;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        size_t n = strlen(lines[i]);
        for (size_t k = 0; k < n; k++) {
            CU_ASSERT_TRUE(agrees(lines[i], k));
            memcpy(line, lines[i], n);
            line[k] = bytes[m2_rng_u32(m2_rng_make_key(1, 0, 0), draw++) % (sizeof bytes - 1)];
            if (i != 6) CU_ASSERT_TRUE(agrees(line, n));
        }
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("json_text", NULL, NULL);
    CU_ADD_TEST(suite, test_lines);
    CU_ADD_TEST(suite, test_damage);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    return failed;
}
