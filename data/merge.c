#define _GNU_SOURCE /* realpath */
#include "data/merge.h"
#include "data/sources.h"
#include "data/vocab.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PART = 65536 };

typedef struct merger {
    m2_store *out;
    int64_t count, tokens, documents, bytes;
    m2_virtual_slab *slabs;
    m2_token_store_info first;
    m2i_text sources; /* one line per store */
} merger;

/* As the merged store names it: relative if both are in one folder. */
static m2_status find_name(const char *path, const char *out, char **name)
{
    char folder[PATH_MAX], here[PATH_MAX];
    const char *slash = strrchr(out, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - out) + 1 : 1, slash ? out : ".");
    *name = realpath(path, NULL);
    if (!*name || !realpath(folder, here))
        return m2_fail(M2_IO, "cannot open %s: %s", *name ? folder : path, strerror(errno));
    size_t n = strlen(here);
    if (!strncmp(*name, here, n) && (*name)[n] == '/' && !strchr(*name + n + 1, '/'))
        memmove(*name, *name + n + 1, strlen(*name + n + 1) + 1);
    return M2_OK;
}

static m2_status copy_documents(merger *m, m2_store *from, int64_t count)
{
    int64_t *starts = malloc(PART * sizeof *starts);
    m2_status st = starts ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for %d documents", PART);
    for (int64_t at = 0; at < count && st == M2_OK; at += PART) {
        int64_t n = count - at < PART ? count - at : PART;
        st = m2_store_read(from, "/documents", &at, &n, starts);
        for (int64_t i = 0; i < n; i++) starts[i] += m->tokens;
        if (st == M2_OK) st = m2_store_append(m->out, "/documents", n, starts);
    }
    free(starts);
    return st;
}

static m2_status add_store(merger *m, const char *path, const char *out, m2_virtual_slab *slab)
{
    m2i_sources s;
    char *name = NULL;
    m2_status st = m2i_sources_open(path, &s);
    const m2_token_store_info *info = &s.item[0].info;
    if (st == M2_OK && s.count != 1) st = m2_fail(M2_USAGE, "%s: give the stores one by one", path);
    if (st == M2_OK && slab == m->slabs) m->first = *info;
    if (st == M2_OK && strcmp(info->tokenizer_hash, m->first.tokenizer_hash) != 0)
        st = m2_fail(M2_DATA, "%s was written with another tokenizer (%.8s) than the first store (%.8s)",
                     path, info->tokenizer_hash, m->first.tokenizer_hash);
    if (st == M2_OK) st = find_name(path, out, &name);
    if (st == M2_OK) st = copy_documents(m, s.item[0].store, info->documents);
    if (st == M2_OK)
        st = m2i_text_print(&m->sources, "%s%s: %" PRId64 " documents, %" PRId64 " tokens",
                            m->documents ? "\n" : "", name, info->documents, info->tokens);
    if (st == M2_OK) {
        *slab = (m2_virtual_slab){name, "/tokens", {m->tokens}, {info->tokens}};
        m->tokens += info->tokens;
        m->documents += info->documents;
        m->bytes += info->bytes;
        name = NULL; /* now the slab's */
    }
    free(name);
    m2i_sources_close(&s);
    return st;
}

/* The tokenizer and what describes it, from the first store. */
static m2_status describe(merger *m, const char *path, const char *const *notes)
{
    static const char *const texts[] = {"format", "tokenizer_kind", "tokenizer_hash"};
    m2_store *from;
    M2_TRY(m2_store_open(path, &from));
    m2_status st = M2_OK;
    for (size_t i = 0; i < sizeof texts / sizeof *texts && st == M2_OK; i++) {
        char *text = NULL;
        st = m2_store_get_text(from, "/", texts[i], &text);
        if (st == M2_OK) st = m2_store_set_text(m->out, "/", texts[i], text);
        free(text);
    }
    m2_store_close(&from);
    M2_TRY(st);
    for (const char *const *n = notes; n && *n; n += 2) M2_TRY(m2_store_set_text(m->out, "/", n[0], n[1]));
    M2_TRY(m2_store_set_text(m->out, "/", "sources", m->sources.data));
    M2_TRY(m2_store_set_i64(m->out, "/", "vocab", m->first.vocab));
    M2_TRY(m2_store_set_i64(m->out, "/", "separator", m->first.separator));
    return m2_store_set_i64(m->out, "/", "text_bytes", m->bytes);
}

static m2_status copy_tokenizer(merger *m, const char *path)
{
    char *text;
    int64_t zero = 0;
    M2_TRY(m2_token_store_tokenizer(path, &text));
    m2_array_info info = {M2_U8, 1, {(int64_t)strlen(text)}};
    m2_array_options packed = {.chunk = 1 << 20, .fletcher32 = 1, .deflate = 4};
    m2_status st = m2_store_make(m->out, "/tokenizer", &info, &packed);
    if (st == M2_OK) st = m2_store_write(m->out, "/tokenizer", &zero, info.shape, text);
    free(text);
    return st;
}

static m2_status merge(merger *m, const char *out, char *const *paths, int64_t count,
                       const char *const *notes)
{
    m2_array_info documents = {M2_I64, 1, {0}};
    m2_array_options chunked = {.chunk = M2_TOKEN_CHUNK, .fletcher32 = 1};
    m->slabs = calloc((size_t)count, sizeof *m->slabs);
    if (!m->slabs) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " stores", count);
    M2_TRY(m2_store_create(out, &m->out));
    M2_TRY(m2_store_make(m->out, "/documents", &documents, &chunked));
    for (; m->count < count; m->count++) M2_TRY(add_store(m, paths[m->count], out, &m->slabs[m->count]));
    M2_TRY(m2_store_append(m->out, "/documents", 1, &m->tokens));
    m2_array_info tokens = {m2_token_width(m->first.vocab) == 4 ? M2_U32 : M2_U16, 1, {m->tokens}};
    M2_TRY(m2_store_make_virtual(m->out, "/tokens", &tokens, (int)count, m->slabs));
    M2_TRY(copy_tokenizer(m, paths[0]));
    M2_TRY(describe(m, paths[0], notes));
    return m2_store_commit(&m->out);
}

m2_status m2_token_store_merge(const char *out, char *const *paths, int64_t count, const char *const *notes)
{
    merger m = {0};
    if (count < 1 || count > INT_MAX) return m2_fail(M2_USAGE, "no store was given to merge");
    m2_status st = merge(&m, out, paths, count, notes);
    m2_store_close(&m.out);
    for (int64_t i = 0; i < m.count; i++) free((char *)m.slabs[i].file);
    free(m.slabs);
    free(m.sources.data);
    return st;
}
