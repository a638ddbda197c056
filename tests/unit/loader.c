/* The loader: every row where the sampler says, whatever the workers; failures of workers come out; no row is lost when the
 * number of ranks changes. Run under TSan too. */
#include "data/loader.h"
#include "data/sampler.h"
#include "data/token_store.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK(call) CU_ASSERT_EQUAL_FATAL((call), M2_OK)
enum { LENGTH = 37, DOCUMENT = 100, DOCUMENTS = 700 };

static char path[] = "/tmp/m2-loader-XXXXXX";

static uint32_t token_at(int64_t i) /* documents of 100 tokens and a separator */
{
    return i % (DOCUMENT + 1) == DOCUMENT ? 256 : (uint32_t)((i * 2654435761u >> 7) & 255);
}

static void write_store(void)
{
    m2_tokenizer *t;
    m2_token_writer *w;
    OK(m2_tokenizer_open("bytes", &t));
    OK(m2_token_writer_create(path, t, &w));
    for (int64_t d = 0, i = 0; d < DOCUMENTS; d++, i++) {
        uint32_t ids[DOCUMENT];
        for (int k = 0; k < DOCUMENT; k++) ids[k] = token_at(i++);
        OK(m2_token_writer_add(w, ids, 60, 60));
        OK(m2_token_writer_add(w, ids + 60, DOCUMENT - 60, DOCUMENT - 60));
        OK(m2_token_writer_end_document(w));
    }
    OK(m2_token_writer_commit(&w));
    m2_tokenizer_close(&t);
}

static void test_info(void)
{
    m2_token_store_info info;
    char *text;
    m2_tokenizer *t;
    OK(m2_token_store_info_read(path, &info));
    CU_ASSERT(info.tokens == DOCUMENTS * (DOCUMENT + 1) && info.documents == DOCUMENTS && info.vocab == 257);
    CU_ASSERT(info.bytes == DOCUMENTS * DOCUMENT && info.separator == 256);
    OK(m2_token_store_tokenizer(path, &text));
    OK(m2_tokenizer_parse(text, &t));
    char hash[33];
    m2_tokenizer_hash(t, hash);
    CU_ASSERT_STRING_EQUAL(hash, info.tokenizer_hash);
    m2_tokenizer_close(&t);
    free(text);
}

typedef struct share { /* rank `rank` of `ranks`, rows each, from row `start` on */
    int64_t start, rows, rank, ranks;
} share;

static int64_t first_row(void *ctx, int64_t batch)
{
    const share *s = ctx;
    return s->start + (batch * s->ranks + s->rank) * s->rows;
}

static void check_rows(const m2_loader_spec *spec, share *s, int64_t first_batch, int batches)
{
    m2_loader *l;
    int32_t *tokens = malloc((size_t)(spec->rows * spec->length) * 4),
            *targets = malloc((size_t)(spec->rows * spec->length) * 4);
    OK(m2_loader_open(spec, first_row, s, first_batch, &l));
    int64_t n = m2_loader_sequences(l);
    CU_ASSERT_EQUAL(n, (DOCUMENTS * (DOCUMENT + 1) - 1) / spec->length);
    for (int64_t b = first_batch; b < first_batch + batches; b++) {
        OK(m2_loader_next(l, tokens, targets));
        for (int64_t r = 0; r < spec->rows; r++) {
            int64_t at = m2_sampler_item(first_row(s, b) + r, n, spec->seed, spec->shuffle) * spec->length,
                    bad = 0;
            for (int64_t i = 0; i < spec->length; i++)
                bad += tokens[r * spec->length + i] != (int32_t)token_at(at + i) ||
                       targets[r * spec->length + i] != (int32_t)token_at(at + i + 1);
            CU_ASSERT_EQUAL_FATAL(bad, 0);
        }
    }
    CU_ASSERT_EQUAL(m2_loader_statistics(l).batches, batches);
    m2_loader_close(&l);
    free(tokens);
    free(targets);
}

static void test_rows(void)
{
    for (int shuffle = 0; shuffle < 2; shuffle++)
        for (int workers = 1; workers <= 4; workers++) {
            m2_loader_spec spec = {path, LENGTH, 7, shuffle, 1 + 3 * workers, workers, workers == 3 ? 1 : 0,
                                   {0}};
            share s = {0, spec.rows, 0, 1};
            check_rows(&spec, &s, 0, 300); /* more than an epoch */
            check_rows(&spec, &s, 55, 10);
        }
    m2_loader_spec all = {path, LENGTH, 7, 0, 4000, 2, 0, {0}}; /* a batch of two epochs: rows repeat in it */
    share s = {0, 4000, 0, 1};
    check_rows(&all, &s, 0, 3);
}

/* 1, 2, 8 ranks see together what one sees; a change of their number at row p repeats and skips nothing. */
static void test_ranks(void)
{
    for (int64_t ranks = 1; ranks <= 8; ranks *= 2)
        for (int64_t rank = 0; rank < ranks; rank++) {
            m2_loader_spec spec = {path, LENGTH, 3, 1, 4, 1, 0, {0}};
            share s = {ranks * 1000, 4, rank, ranks};
            check_rows(&spec, &s, 0, 20);
        }
}

/* Rows with a first and a last token: of any text, of one document each, cut or padded. */
static void test_framed(void)
{
    static const struct {
        m2_row_kind kind;
        int64_t length, sequences, stride, taken; /* of the text between first and last */
    } cases[] = {{M2_ROWS_PACKED, LENGTH, DOCUMENTS * (DOCUMENT + 1) / (LENGTH - 2), LENGTH - 2, LENGTH - 2},
                 {M2_ROWS_DOCUMENT, LENGTH, DOCUMENTS, DOCUMENT + 1, LENGTH - 2},
                 {M2_ROWS_DOCUMENT, DOCUMENT + 7, DOCUMENTS, DOCUMENT + 1, DOCUMENT}};
    enum { ROWS = 6, MOST = DOCUMENT + 7 };
    for (int c = 0; c < 3; c++) {
        int64_t length = cases[c].length;
        int32_t tokens[ROWS * MOST];
        m2_loader *l;
        m2_loader_spec spec = {path, length, 5, 1, ROWS, 2, 0, {cases[c].kind, 1001, 1002, 1003, 0, 0}};
        share s = {0, ROWS, 0, 1};
        OK(m2_loader_open(&spec, first_row, &s, 0, &l));
        CU_ASSERT_EQUAL_FATAL(m2_loader_sequences(l), cases[c].sequences);
        for (int64_t b = 0; b < 150; b++) {
            int64_t bad = 0;
            OK(m2_loader_next(l, tokens, NULL));
            for (int64_t r = 0; r < ROWS; r++) {
                int64_t at = m2_sampler_item(b * ROWS + r, cases[c].sequences, 5, 1) * cases[c].stride;
                const int32_t *row = tokens + r * length;
                for (int64_t i = 0; i < length; i++) {
                    int32_t expected = i == 0                    ? 1001
                                       : i <= cases[c].taken     ? (int32_t)token_at(at + i - 1)
                                       : i == cases[c].taken + 1 ? 1002
                                                                 : 1003;
                    bad += row[i] != expected;
                }
            }
            CU_ASSERT_EQUAL_FATAL(bad, 0);
        }
        m2_loader_close(&l);
    }
}

/* Rows of the beginnings of documents, and rows whose documents do not predict each other's first tokens. */
static void test_targets(void)
{
    enum { ROWS = 5, NONE = -1, PAD = 256, MOST = DOCUMENT + 9 };
    for (int c = 0; c < 3; c++) {
        int truncated = c < 2;
        int64_t length = c == 1 ? MOST : LENGTH;
        int32_t tokens[ROWS * MOST], targets[ROWS * MOST];
        m2_loader *l;
        m2_row_frame frame = {truncated ? M2_ROWS_TRUNCATED : M2_ROWS_STREAM, 0, 0, PAD, NONE, !truncated};
        m2_loader_spec spec = {path, length, 5, 1, ROWS, 2, 0, frame};
        share s = {0, ROWS, 0, 1};
        OK(m2_loader_open(&spec, first_row, &s, 0, &l));
        int64_t n = m2_loader_sequences(l);
        CU_ASSERT(!truncated || n == DOCUMENTS);
        for (int64_t b = 0; b < 200; b++) {
            int64_t bad = 0;
            OK(m2_loader_next(l, tokens, targets));
            for (int64_t i = 0; i < ROWS * length; i++) {
                int64_t row = m2_sampler_item(b * ROWS + i / length, n, 5, 1), k = i % length;
                int64_t at = row * (truncated ? DOCUMENT + 1 : length) + k;
                int32_t token = (int32_t)token_at(at), target = (int32_t)token_at(at + 1);
                if (truncated && k >= DOCUMENT) token = PAD, target = NONE;
                if (!truncated && token == 256) target = NONE;
                bad += tokens[i] != token || targets[i] != target;
            }
            CU_ASSERT_EQUAL_FATAL(bad, 0);
        }
        m2_loader_close(&l);
    }
}

/* Two stores by weight: the loader hands out what the mixture says, whatever the ranks. */
static void test_mixture(void)
{
    char other[64], both[256];
    enum { ROWS = 4 };
    snprintf(other, sizeof other, "%s.other", path);
    m2_tokenizer *t;
    m2_token_writer *w;
    OK(m2_tokenizer_open("bytes", &t));
    OK(m2_token_writer_create(other, t, &w));
    for (uint32_t i = 0; i < 3 * LENGTH; i++) OK(m2_token_writer_add(w, &i, 1, 1));
    OK(m2_token_writer_end_document(w));
    OK(m2_token_writer_commit(&w));
    m2_tokenizer_close(&t);
    snprintf(both, sizeof both, "%s:3,%s:1", path, other);
    m2_token_store_info info;
    OK(m2_token_store_info_read(both, &info));
    CU_ASSERT(info.documents == DOCUMENTS + 1 && info.tokens == DOCUMENTS * (DOCUMENT + 1) + 3 * LENGTH + 1);
    m2_mixture m;
    OK(m2_mixture_make(2, (int64_t[]){(DOCUMENTS * (DOCUMENT + 1) - 1) / LENGTH, 3}, (double[]){3, 1}, 9, 1,
                       &m));
    for (int64_t rank = 0; rank < 3; rank++) {
        int32_t tokens[ROWS * LENGTH], targets[ROWS * LENGTH];
        m2_loader *l;
        m2_loader_spec spec = {both, LENGTH, 9, 1, ROWS, 2, 0, {0}};
        share s = {100, ROWS, rank, 3};
        OK(m2_loader_open(&spec, first_row, &s, 2, &l));
        for (int64_t b = 2; b < 100; b++) {
            int64_t bad = 0;
            OK(m2_loader_next(l, tokens, targets));
            for (int64_t i = 0; i < ROWS * LENGTH; i++) {
                int store;
                int64_t row;
                m2_mixture_item(&m, first_row(&s, b) + i / LENGTH, &store, &row);
                int64_t at = row * LENGTH + i % LENGTH;
                bad += tokens[i] != (store ? (int32_t)at : (int32_t)token_at(at));
            }
            CU_ASSERT_EQUAL_FATAL(bad, 0);
        }
        m2_loader_close(&l);
    }
    m2_loader *l;
    share s = {0, ROWS, 0, 1};
    m2_loader_spec spec = {both, LENGTH, 9, 0, ROWS, 1, 0, {0}};
    CU_ASSERT_EQUAL(m2_loader_open(&spec, first_row, &s, 0, &l),
                    M2_USAGE); /* not in order: a mixture has none */
    snprintf(both, sizeof both, "%s:3,%s", path, other);
    CU_ASSERT_EQUAL(m2_loader_open(&spec, first_row, &s, 0, &l), M2_USAGE);
    snprintf(both, sizeof both, "%s:3,%s:x", path, other);
    CU_ASSERT_EQUAL(m2_loader_open(&spec, first_row, &s, 0, &l), M2_USAGE);
    remove(other);
    snprintf(both, sizeof both, "%s:3,%s:1", path, other);
    CU_ASSERT_EQUAL(m2_loader_open(&spec, first_row, &s, 0, &l), M2_DATA);
}

static void test_failures(void)
{
    m2_loader *l = NULL;
    share s = {0, 4, 0, 1};
    m2_loader_spec spec = {"/tmp/m2-no-such-store.h5", LENGTH, 3, 1, 4, 1, 0, {0}};
    CU_ASSERT_EQUAL(m2_loader_open(&spec, first_row, &s, 0, &l), M2_IO);
    CU_ASSERT_PTR_NULL(l);
    spec.path = path;
    spec.length = DOCUMENTS * (DOCUMENT + 1);
    CU_ASSERT_EQUAL(m2_loader_open(&spec, first_row, &s, 0, &l), M2_DATA);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "too few"));
    spec.length = LENGTH; /* a flipped byte: the batch that needs it fails, with the file's name */
    FILE *f = fopen(path, "r+b");
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    for (long at = size / 4; at < size; at += size / 16) {
        fseek(f, at, SEEK_SET);
        int c = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(c ^ 1, f);
    }
    fclose(f);
    static int32_t tokens[400 * LENGTH], targets[400 * LENGTH];
    m2_status st = m2_loader_open(&spec, first_row, &s, 0, &l);
    for (int i = 0; i < 400 && st == M2_OK; i++) st = m2_loader_next(l, tokens, targets);
    CU_ASSERT_EQUAL(st, M2_DATA);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), path));
    m2_loader_close(&l);
    m2_loader_close(&l);
}

int main(void)
{
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("loader", NULL, NULL);
    CU_ADD_TEST(suite, write_store);
    CU_ADD_TEST(suite, test_info);
    CU_ADD_TEST(suite, test_rows);
    CU_ADD_TEST(suite, test_ranks);
    CU_ADD_TEST(suite, test_framed);
    CU_ADD_TEST(suite, test_targets);
    CU_ADD_TEST(suite, test_mixture);
    CU_ADD_TEST(suite, test_failures);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    remove(path);
    return failed;
}
