/* inspect_store.c - m2 inspect store PATH: what a token store holds, and is it whole? */
#include "data/image_store.h"
#include "data/store.h"
#include "data/token_store.h"
#include "kernels/base/log.h"
#include "tools/inspect.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char inspect_store_usage[] =
    "usage: m2 inspect store PATH [--verify] [--text N]\n"
    "\n"
    "What a store holds: documents, tokens, tokenizer, or pictures and classes; where it came from.\n"
    "\n"
    "  --verify   read all of it: checksums, token ids, a separator at the end of each document, labels\n"
    "  --text N   print the text of document N\n";

enum { BLOCK = 1 << 20 };

static void print_attribute(m2_store *s, const char *key)
{
    char *text;
    if (m2_store_get_text(s, "/", key, &text) != M2_OK) return; /* other writers need not say it */
    for (char *p = text, *end; p; p = end ? end + 1 : NULL) {
        end = strchr(p, '\n');
        printf("%-11s %.*s\n", p == text ? key : "", (int)(end ? end - p : (long)strlen(p)), p);
    }
    free(text);
}

static m2_status print_store(m2_store *s, const m2_token_store_info *info)
{
    char tokens[32], documents[32], bytes[32], *kind;
    m2_array_info array;
    M2_TRY(m2_store_info(s, "/tokens", &array));
    M2_TRY(m2_store_get_text(s, "/", "tokenizer_kind", &kind));
    int64_t of_text = info->tokens - info->documents;
    printf("%-11s %s (%s), %s\n", "tokens", m2_human_count(tokens, (double)info->tokens),
           m2_dtype_name(array.dtype), "separators included");
    printf("%-11s %s\n", "documents", m2_human_count(documents, (double)info->documents));
    printf("%-11s %s, %.3f bytes/token\n", "text", m2_human_bytes(bytes, info->bytes),
           (double)info->bytes / (double)(of_text > 0 ? of_text : 1));
    printf("%-11s %s, %" PRId64 " tokens, separator %" PRId64 ", %s\n", "tokenizer", kind, info->vocab,
           info->separator, info->tokenizer_hash);
    free(kind);
    print_attribute(s, "date");
    print_attribute(s, "command");
    print_attribute(s, "sources");
    return M2_OK;
}

/* ---- reading tokens ---------------------------------------------------------------------------------------------- */
static m2_status read_tokens(m2_store *s, int64_t from, int64_t n, uint32_t *out)
{
    m2_array_info array;
    M2_TRY(m2_store_info(s, "/tokens", &array));
    M2_TRY(m2_store_read(s, "/tokens", &from, &n, out));
    if (array.dtype == M2_U16) /* widened in place, from the end */
        for (int64_t i = n - 1; i >= 0; i--) {
            uint16_t narrow;
            memcpy(&narrow, (char *)out + 2 * i, 2);
            out[i] = narrow;
        }
    return M2_OK;
}

static m2_status check_tokens(m2_store *s, const m2_token_store_info *info, const int64_t *documents,
                              uint32_t *ids)
{
    int64_t next = 1; /* documents[next] - 1 is the place of the next separator */
    for (int64_t from = 0; from < info->tokens; from += BLOCK) {
        int64_t n = info->tokens - from < BLOCK ? info->tokens - from : BLOCK;
        M2_TRY(read_tokens(s, from, n, ids));
        for (int64_t i = 0; i < n; i++) {
            int ends = next <= info->documents && from + i == documents[next] - 1;
            next += ends;
            if (ids[i] >= info->vocab || ends != (ids[i] == info->separator))
                return m2_fail(M2_DATA, "%s: token %" PRId64 " is %u: expected %s", m2_store_path(s),
                               from + i, ids[i],
                               ends ? "the separator, where a document ends"
                                    : "one of the vocabulary, inside a document");
        }
    }
    if (next == info->documents + 1 && documents[0] == 0 && documents[info->documents] == info->tokens)
        return M2_OK;
    return m2_fail(M2_DATA, "%s: /documents does not rise from 0 to the number of tokens, %" PRId64,
                   m2_store_path(s), info->tokens);
}

static m2_status verify(m2_store *s, const m2_token_store_info *info)
{
    int64_t zero = 0, entries = info->documents + 1, *documents = malloc((size_t)entries * sizeof *documents);
    uint32_t *ids = malloc(BLOCK * sizeof *ids);
    m2_status st =
        documents && ids ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " documents", entries);
    if (st == M2_OK) st = m2_store_read(s, "/documents", &zero, &entries, documents);
    if (st == M2_OK) st = check_tokens(s, info, documents, ids);
    if (st == M2_OK) printf("whole: every checksum, token and document is as it should be\n");
    free(ids);
    free(documents);
    return st;
}

static m2_status print_document(m2_store *s, const m2_token_store_info *info, int64_t document)
{
    int64_t bounds[2], two = 2;
    char *form = NULL, *text = NULL;
    size_t bytes = 0;
    m2_tokenizer *t = NULL;
    if (document >= info->documents)
        return m2_fail(M2_USAGE, "--text %" PRId64 ": %s has documents 0 .. %" PRId64, document,
                       m2_store_path(s), info->documents - 1);
    M2_TRY(m2_store_read(s, "/documents", &document, &two, bounds));
    int64_t n = bounds[1] - bounds[0] - 1;
    if (n < 0 || bounds[0] < 0 || bounds[1] > info->tokens)
        return m2_fail(M2_DATA, "%s: document %" PRId64 " is at [%" PRId64 ", %" PRId64 ")", m2_store_path(s),
                       document, bounds[0], bounds[1]);
    uint32_t *ids = malloc((size_t)n * sizeof *ids + 1);
    m2_status st = ids ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " tokens", n);
    if (st == M2_OK) st = read_tokens(s, bounds[0], n, ids);
    if (st == M2_OK) st = m2_token_store_tokenizer(m2_store_path(s), &form);
    if (st == M2_OK) st = m2_tokenizer_parse(form, &t);
    if (st == M2_OK) st = m2_tokenizer_decode(t, ids, n, &text, &bytes);
    if (st == M2_OK && fwrite(text, 1, bytes, stdout) != bytes)
        st = m2_fail(M2_IO, "cannot write to standard output");
    m2_tokenizer_close(&t);
    free(text);
    free(form);
    free(ids);
    return st;
}

/* ---- pictures ---------------------------------------------------------------------------------------------------- */
static m2_status print_classes(m2_store *s)
{
    char *names = NULL, *counts = NULL;
    m2_status st = m2_store_get_text(s, "/", "classes", &names);
    if (st == M2_OK) st = m2_store_get_text(s, "/", "class_counts", &counts);
    char *number = counts;
    for (char *p = names, *end; st == M2_OK && *p && number; p = end + (*end == '\n')) {
        end = p + strcspn(p, "\n");
        printf("%-11s %8lld  %.*s\n", p == names ? "classes" : "", strtoll(number, &number, 10),
               (int)(end - p), p);
    }
    free(names);
    free(counts);
    return st;
}

static m2_status verify_images(m2_store *s, const m2_image_store_info *info)
{
    int64_t picture = info->height * info->width * 3, at_once = 1 + (16 << 20) / picture, zero = 0;
    uint8_t *pixels = malloc((size_t)(at_once * picture));
    int32_t *labels = malloc((size_t)info->images * sizeof *labels + 1);
    m2_status st =
        pixels && labels ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " pictures", at_once);
    if (st == M2_OK) st = m2_store_read(s, "/labels", &zero, &info->images, labels);
    for (int64_t i = 0; st == M2_OK && i < info->images; i++)
        if (labels[i] < 0 || labels[i] >= info->classes)
            st = m2_fail(M2_DATA, "%s: picture %" PRId64 " has label %d of %" PRId64 " classes",
                         m2_store_path(s), i, labels[i], info->classes);
    for (int64_t i = 0; st == M2_OK && i < info->images; i += at_once) {
        int64_t n = info->images - i < at_once ? info->images - i : at_once;
        int64_t offset[4] = {i}, count[4] = {n, info->height, info->width, 3};
        st = m2_store_read(s, "/images", offset, count, pixels);
    }
    if (st == M2_OK) printf("whole: every checksum and label is as it should be\n");
    free(labels);
    free(pixels);
    return st;
}

static m2_status inspect_images(m2_store *s, int verifies)
{
    m2_image_store_info info;
    M2_TRY(m2_image_store_info_read(s, &info));
    printf("%-11s %" PRId64 " of %" PRId64 " x %" PRId64 ", red green blue\n", "pictures", info.images,
           info.width, info.height);
    M2_TRY(print_classes(s));
    print_attribute(s, "date");
    print_attribute(s, "command");
    print_attribute(s, "sources");
    return verifies ? verify_images(s, &info) : M2_OK;
}

static m2_status inspect_tokens(m2_store *s, int64_t document, int verifies)
{
    m2_token_store_info info;
    M2_TRY(m2_token_store_info_read(m2_store_path(s), &info));
    M2_TRY(document >= 0 ? print_document(s, &info, document) : print_store(s, &info));
    return verifies ? verify(s, &info) : M2_OK;
}

m2_status inspect_store(int argc, char **argv)
{
    int verifies = 0;
    int64_t document = -1;
    const m2_flag flags[] = {
        {"--verify", M2_FLAG_ON, &verifies}, {"--text", M2_FLAG_INT, &document}, {NULL, M2_FLAG_ON, NULL}};
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (argc != 2) return m2_fail(M2_USAGE, "which store? m2 inspect store PATH [--verify] [--text N]");
    m2_store *s;
    M2_TRY(m2_store_open(argv[1], &s));
    m2_status st = m2_image_store_is(s) ? inspect_images(s, verifies) : inspect_tokens(s, document, verifies);
    m2_store_close(&s);
    return st;
}
