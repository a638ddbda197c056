/* Tokenizers without any file: bytes, trained BPE, the scanner; any bytes come back, and equal text gives equal tokens. */
#include "data/tokenizer.h"
#include "data/pretokenise.h"
#include "kernels/base/rng.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call) CU_ASSERT_EQUAL_FATAL((call), M2_OK)

static const char verse[] =
    "The quick brown fox jumps over the lazy dog. The dog doesn't mind; it's lazier than the fox, isn't it?\n"
    "They'll jump again, 1024 times or 2048 times, over and over.\n\n  It was the best of times, it was the "
    "worst of times.\n"
    "Gr\xc3\xbc\xc3\x9f Gott, \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80!\n";

typedef struct once {
    const char *text;
    size_t bytes;
    int calls;
} once;

static int next_text(void *ctx, const char **text, size_t *bytes)
{
    once *o = ctx;
    *text = o->text;
    *bytes = o->bytes;
    return o->calls-- > 0;
}

static m2_tokenizer *trained(int64_t vocab)
{
    m2_tokenizer *t;
    once o = {verse, sizeof verse - 1, 3};
    OK(m2_tokenizer_train(vocab, next_text, &o, &t));
    return t;
}

static void round_trip(const m2_tokenizer *t, m2_token_buffer *b, const char *text, size_t n)
{
    char *back;
    size_t size;
    b->count = 0;
    OK(m2_tokenizer_encode(t, text, n, b));
    for (int64_t i = 0; i < b->count; i++)
        CU_ASSERT(b->ids[i] < m2_tokenizer_vocab(t) && b->ids[i] != m2_tokenizer_separator(t));
    OK(m2_tokenizer_decode(t, b->ids, b->count, &back, &size));
    CU_ASSERT_FATAL(size == n && !memcmp(back, text, n));
    free(back);
}

/* Bytes of all kinds: letters, spaces, broken UTF-8, zeros, long runs. */
static size_t draw_text(uint64_t seed, char *text, size_t most)
{
    static const char *const parts[] = {"the",
                                        " ",
                                        "  ",
                                        "\n",
                                        "'ll",
                                        "'",
                                        "\xc3\xa9",
                                        "\xc3",
                                        "\xe4\xbd\xa0",
                                        "\xe4\xbd",
                                        "42",
                                        "\xc2\xa0",
                                        "\xff",
                                        "\xed\xa0\x80",
                                        ".",
                                        "!?",
                                        "\xf0\x9f\x98\x80",
                                        "<|endoftext|>",
                                        "\xcc\x81",
                                        "\xc2\xb2"};
    m2_rng_key key = m2_rng_make_key(seed, 0, 0);
    size_t n = 0;
    uint64_t i = 0;
    for (size_t want = m2_rng_u32(key, i++) % most; n < want;) {
        uint32_t r = m2_rng_u32(key, i++);
        const char *part = parts[r % (sizeof parts / sizeof *parts)];
        size_t size = strlen(part), times = (r >> 28) == 0 ? (r >> 8) % 300 : 1;
        if ((r >> 27 & 1)) {
            if (n < most) text[n++] = (char)(r >> 16);
            continue;
        }
        for (; times > 0 && n + size <= most; times--, n += size) memcpy(text + n, part, size);
        if (times) break;
    }
    return n;
}

static void test_any_bytes_come_back(void)
{
    static char text[4096];
    m2_tokenizer *kinds[2];
    m2_token_buffer b = {0};
    OK(m2_tokenizer_open("bytes", &kinds[0]));
    kinds[1] = trained(350);
    for (uint64_t seed = 0; seed < 2000; seed++) { /* one buffer for both: its scratch must not mix them up */
        size_t n = draw_text(seed, text, sizeof text);
        for (int k = 0; k < 2; k++) round_trip(kinds[k], &b, text, n);
    }
    round_trip(kinds[1], &b, "", 0);
    m2_token_buffer_free(&b);
    for (int k = 0; k < 2; k++) m2_tokenizer_close(&kinds[k]);
}

static void test_pieces_cover_the_text(void)
{
    static const char *const expected[] = {
        "It",        "'s",       " a",  "\n ", " test", ",",  " isn", "'t",
        " it",       "?",        " \t", "\n",  "42",    "nd", " 7",   "\xc3\xa9t\xc3\xa9",
        "\xff\xff'", "\xc2\xa0", "x",   "  "};
    const char *text = "It's a\n  test, isn't it? \t\n42nd 7\xc3\xa9t\xc3\xa9\xff\xff'\xc2\xa0x  ";
    const unsigned char *p = (const unsigned char *)text, *end = p + strlen(text);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        size_t n = p < end ? m2i_pretoken(p, end) : 0;
        CU_ASSERT_FATAL(n == strlen(expected[i]) && !memcmp(p, expected[i], n));
        p += n;
    }
    CU_ASSERT(p == end);
}

static void test_training(void)
{
    m2_tokenizer *a = trained(350), *b = trained(350), *c = trained(351);
    char ha[33], hb[33], hc[33];
    m2_tokenizer_hash(a, ha);
    m2_tokenizer_hash(b, hb);
    m2_tokenizer_hash(c, hc);
    CU_ASSERT_STRING_EQUAL(ha, hb);
    CU_ASSERT_STRING_NOT_EQUAL(ha, hc);
    CU_ASSERT(m2_tokenizer_vocab(a) == 350 && m2_tokenizer_separator(a) == 349 &&
              !strcmp(m2_tokenizer_kind(a), "bpe"));
    m2_token_buffer v = {0};
    round_trip(a, &v, verse, sizeof verse - 1);
    CU_ASSERT(v.count < (int64_t)sizeof verse / 2); /* it compresses what it has seen */
    v.count = 0;
    OK(m2_tokenizer_encode(a, " the the", 8, &v));
    CU_ASSERT(v.count == 2 && v.ids[0] == v.ids[1] &&
              v.ids[0] > 256); /* the most frequent word is one token */
    m2_token_buffer_free(&v);
    m2_tokenizer_close(&a);
    m2_tokenizer_close(&b);
    m2_tokenizer_close(&c);
}

/* The first merges by hand: in "ab ab ab cab", "ab" occurs 4 times, then " ab" twice. */
static void test_first_merges(void)
{
    m2_tokenizer *t;
    once o = {"ab ab ab cab", 12, 1};
    m2_token_buffer b = {0};
    OK(m2_tokenizer_train(259, next_text, &o, &t));
    OK(m2_tokenizer_encode(t, "ab ab", 5, &b));
    CU_ASSERT(b.count == 2 && b.ids[0] == 256 && b.ids[1] == 257);
    b.count = 0;
    OK(m2_tokenizer_encode(t, "<|endoftext|>", 13, &b));
    CU_ASSERT_EQUAL(b.count, 13); /* plain text */
    uint32_t end = (uint32_t)m2_tokenizer_separator(t);
    char *text;
    size_t n;
    OK(m2_tokenizer_decode(t, &end, 1, &text, &n));
    CU_ASSERT_STRING_EQUAL(text, "<|endoftext|>");
    free(text);
    end++;
    CU_ASSERT_EQUAL(m2_tokenizer_decode(t, &end, 1, &text, &n), M2_DATA);
    m2_token_buffer_free(&b);
    m2_tokenizer_close(&t);
    o.calls = 1;
    CU_ASSERT_EQUAL(m2_tokenizer_train(4096, next_text, &o, &t), M2_DATA); /* too little text */
    CU_ASSERT_EQUAL(m2_tokenizer_train(256, next_text, &o, &t), M2_USAGE);
}

/* A long run of one class takes the path with the heap: it must merge as the short one does. */
static void test_long_pieces(void)
{
    m2_tokenizer *t = trained(350);
    m2_token_buffer b = {0};
    static char text[20000];
    for (size_t n = 90; n < 105; n++) {
        for (size_t i = 0; i < n; i++) text[i] = "thetimes"[i % 8];
        round_trip(t, &b, text, n);
        m2_token_buffer more = {0};
        OK(m2_tokenizer_encode(t, text, 80, &more));
        for (int64_t i = 0; i + 4 < more.count; i++) CU_ASSERT_EQUAL(more.ids[i], b.ids[i]);
        m2_token_buffer_free(&more);
    }
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = "thetimesofdog"[m2_rng_u32(m2_rng_make_key(5, 0, 0), i) % 13];
    round_trip(t, &b, text, sizeof text);
    m2_token_buffer_free(&b);
    m2_tokenizer_close(&t);
}

static void test_serialized(void)
{
    m2_tokenizer *kinds[2], *back;
    OK(m2_tokenizer_open("bytes", &kinds[0]));
    kinds[1] = trained(340);
    for (int k = 0; k < 2; k++) {
        char *text, h[33], hb[33];
        OK(m2_tokenizer_serialize(kinds[k], &text));
        OK(m2_tokenizer_parse(text, &back));
        m2_tokenizer_hash(kinds[k], h);
        m2_tokenizer_hash(back, hb);
        CU_ASSERT_STRING_EQUAL(h, hb);
        m2_token_buffer a = {0}, b = {0};
        OK(m2_tokenizer_encode(kinds[k], verse, sizeof verse - 1, &a));
        OK(m2_tokenizer_encode(back, verse, sizeof verse - 1, &b));
        CU_ASSERT(a.count == b.count && !memcmp(a.ids, b.ids, (size_t)a.count * 4));
        m2_token_buffer_free(&a);
        m2_token_buffer_free(&b);
        m2_tokenizer_close(&back);
        size_t n = strlen(text);
        for (size_t cut = 0; cut < n;
             cut += n / 37 + 1) { /* cut off anywhere: a failure or the same tokenizer */
            char was = text[cut];
            text[cut] = 0;
            CU_ASSERT_EQUAL(m2_tokenizer_parse(text, &back), M2_DATA);
            CU_ASSERT_PTR_NULL(back);
            text[cut] = was;
        }
        free(text);
        m2_tokenizer_close(&kinds[k]);
    }
}

static void test_bad_files(void)
{
    m2_tokenizer *t;
    CU_ASSERT_EQUAL(m2_tokenizer_open("/no/such/tokenizer", &t), M2_IO);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "/no/such/tokenizer"));
    CU_ASSERT_EQUAL(m2_tokenizer_open("/proc/self/task", &t), M2_DATA); /* a folder with nothing of use */
    static const struct {
        const char *suffix, *text, *says;
    } bad[] = {{".json", "{\"model\": ", "not JSON"},
               {".json", "{\"model\": {\"type\": \"Unigram\"}}", "Unigram"},
               {".tiktoken", "IQ== 0\nIg== one\n", ":2:"},
               {".tiktoken", "IQ== 0\n", "no token for byte"},
               {".bin", "whatever", "m2-tokenizer"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[64];
        snprintf(path, sizeof path, "/tmp/m2-tokenizer-%zu%s", i, bad[i].suffix);
        FILE *f = fopen(path, "w");
        fputs(bad[i].text, f);
        fclose(f);
        CU_ASSERT_EQUAL(m2_tokenizer_open(path, &t), M2_DATA);
        CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), bad[i].says));
        CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), path));
        remove(path);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("tokenizer", NULL, NULL);
    CU_ADD_TEST(suite, test_pieces_cover_the_text);
    CU_ADD_TEST(suite, test_training);
    CU_ADD_TEST(suite, test_first_merges);
    CU_ADD_TEST(suite, test_any_bytes_come_back);
    CU_ADD_TEST(suite, test_long_pieces);
    CU_ADD_TEST(suite, test_serialized);
    CU_ADD_TEST(suite, test_bad_files);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    return failed;
}
