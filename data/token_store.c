#include "data/token_store.h"
#include "data/sources.h"
#include "data/store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char FORMAT[] = "m2 tokens 1";
enum { BUFFER = 64 * M2_TOKEN_CHUNK, DOCUMENTS = 8192 };

struct m2_token_writer {
    m2_store *store;
    m2_token_store_info info;
    int wide; /* u32 instead of u16 */
    void *tokens;
    int64_t *documents;
    int64_t held, documents_held;
};

/* ---- writing ----------------------------------------------------------------------------------------------------- */
static m2_status make_arrays(m2_token_writer *w, const char *tokenizer)
{
    m2_array_info tokens = {w->wide ? M2_U32 : M2_U16, 1, {0}}, documents = {M2_I64, 1, {0}};
    m2_array_info text = {M2_U8, 1, {(int64_t)strlen(tokenizer)}};
    m2_array_options chunked = {.chunk = M2_TOKEN_CHUNK, .fletcher32 = 1};
    m2_array_options packed = {.chunk = 1 << 20, .fletcher32 = 1, .deflate = 4};
    int64_t zero = 0;
    M2_TRY(m2_store_make(w->store, "/tokens", &tokens, &chunked));
    M2_TRY(m2_store_make(w->store, "/documents", &documents, &chunked));
    M2_TRY(m2_store_make(w->store, "/tokenizer", &text, &packed));
    return m2_store_write(w->store, "/tokenizer", &zero, text.shape, tokenizer);
}

static m2_status describe(m2_token_writer *w, const m2_tokenizer *t)
{
    m2_tokenizer_hash(t, w->info.tokenizer_hash);
    w->info.vocab = m2_tokenizer_vocab(t);
    w->info.separator = m2_tokenizer_separator(t);
    M2_TRY(m2_store_set_text(w->store, "/", "format", FORMAT));
    M2_TRY(m2_store_set_text(w->store, "/", "tokenizer_kind", m2_tokenizer_kind(t)));
    M2_TRY(m2_store_set_text(w->store, "/", "tokenizer_hash", w->info.tokenizer_hash));
    M2_TRY(m2_store_set_i64(w->store, "/", "vocab", w->info.vocab));
    return m2_store_set_i64(w->store, "/", "separator", w->info.separator);
}

static m2_status prepare(m2_token_writer *w, const char *path, const m2_tokenizer *t)
{
    char *text;
    M2_TRY(m2_store_create(path, &w->store));
    M2_TRY(describe(w, t));
    M2_TRY(m2_tokenizer_serialize(t, &text));
    m2_status st = make_arrays(w, text);
    free(text);
    return st;
}

m2_status m2_token_writer_create(const char *path, const m2_tokenizer *t, m2_token_writer **out)
{
    m2_token_writer *w = *out = calloc(1, sizeof *w);
    if (w) {
        w->wide = m2_token_width(m2_tokenizer_vocab(t)) == 4;
        w->tokens = malloc(BUFFER * (w->wide ? 4 : 2));
        w->documents = malloc(DOCUMENTS * sizeof *w->documents);
    }
    m2_status st = w && w->tokens && w->documents ? prepare(w, path, t)
                                                  : m2_fail(M2_TRANSIENT, "out of memory for %s", path);
    if (st != M2_OK) m2_token_writer_close(out);
    return st;
}

static m2_status flush_tokens(m2_token_writer *w)
{
    M2_TRY(m2_store_append(w->store, "/tokens", w->held, w->tokens));
    w->held = 0;
    return M2_OK;
}

static m2_status flush_documents(m2_token_writer *w)
{
    M2_TRY(m2_store_append(w->store, "/documents", w->documents_held, w->documents));
    w->documents_held = 0;
    return M2_OK;
}

static m2_status add_document(m2_token_writer *w, int64_t start)
{
    if (w->documents_held == DOCUMENTS) M2_TRY(flush_documents(w));
    w->documents[w->documents_held++] = start;
    return M2_OK;
}

int m2_token_width(int64_t vocab)
{
    return vocab > 65536 ? 4 : 2;
}

m2_status m2_token_writer_add_stored(m2_token_writer *w, const void *ids, int64_t n, int64_t bytes)
{
    size_t width = w->wide ? 4 : 2;
    w->info.bytes += bytes;
    for (int64_t done = 0; done < n;) {
        if (w->held == BUFFER) M2_TRY(flush_tokens(w));
        int64_t part = n - done < BUFFER - w->held ? n - done : BUFFER - w->held;
        memcpy((char *)w->tokens + (size_t)w->held * width, (const char *)ids + (size_t)done * width,
               (size_t)part * width);
        w->held += part;
        done += part;
        w->info.tokens += part;
    }
    return M2_OK;
}

m2_status m2_token_writer_add(m2_token_writer *w, const uint32_t *ids, int64_t n, int64_t bytes)
{
    enum { PART = 1024 };
    uint16_t narrow[PART];
    if (w->wide) return m2_token_writer_add_stored(w, ids, n, bytes);
    for (int64_t done = 0, part; done < n; done += part, bytes = 0) {
        part = n - done < PART ? n - done : PART;
        for (int64_t i = 0; i < part; i++) narrow[i] = (uint16_t)ids[done + i];
        M2_TRY(m2_token_writer_add_stored(w, narrow, part, bytes));
    }
    return M2_OK;
}

m2_status m2_token_writer_end_document(m2_token_writer *w)
{
    uint32_t separator = (uint32_t)w->info.separator;
    if (w->info.documents == 0) M2_TRY(add_document(w, 0));
    M2_TRY(m2_token_writer_add(w, &separator, 1, 0));
    w->info.documents++;
    return add_document(w, w->info.tokens);
}

m2_status m2_token_writer_note(m2_token_writer *w, const char *key, const char *value)
{
    return m2_store_set_text(w->store, "/", key, value);
}

m2_token_store_info m2_token_writer_info(const m2_token_writer *w)
{
    return w->info;
}

static m2_status finish(m2_token_writer *w)
{
    if (w->info.documents == 0) M2_TRY(add_document(w, 0));
    M2_TRY(flush_tokens(w));
    M2_TRY(flush_documents(w));
    M2_TRY(m2_store_set_i64(w->store, "/", "text_bytes", w->info.bytes));
    return m2_store_commit(&w->store);
}

m2_status m2_token_writer_commit(m2_token_writer **w)
{
    m2_status st = finish(*w);
    m2_token_writer_close(w);
    return st;
}

void m2_token_writer_close(m2_token_writer **wp)
{
    m2_token_writer *w = *wp;
    *wp = NULL;
    if (!w) return;
    m2_store_close(&w->store);
    free(w->tokens);
    free(w->documents);
    free(w);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */
static m2_status check_format(m2_store *s)
{
    char *format = NULL;
    if (!m2_store_has(s, "/tokens") || !m2_store_has(s, "/documents"))
        return m2_fail(M2_DATA,
                       "%s is not a token store: it has no /tokens or no /documents (m2 prepare writes one)",
                       m2_store_path(s));
    M2_TRY(m2_store_get_text(s, "/", "format", &format));
    m2_status st = M2_OK;
    if (strcmp(format, FORMAT))
        st = m2_fail(M2_DATA, "%s has format '%s', this m2 reads '%s'", m2_store_path(s), format, FORMAT);
    free(format);
    return st;
}

m2_status m2i_token_store_read_info(m2_store *s, m2_token_store_info *out)
{
    m2_array_info tokens, documents;
    char *hash = NULL;
    M2_TRY(check_format(s));
    M2_TRY(m2_store_info(s, "/tokens", &tokens));
    M2_TRY(m2_store_info(s, "/documents", &documents));
    if (tokens.rank != 1 || (tokens.dtype != M2_U16 && tokens.dtype != M2_U32) || documents.rank != 1 ||
        documents.shape[0] < 1)
        return m2_fail(M2_DATA, "%s: /tokens should be u16 or u32 and /documents not empty, both of rank 1",
                       m2_store_path(s));
    out->tokens = tokens.shape[0];
    out->documents = documents.shape[0] - 1;
    M2_TRY(m2_store_get_i64(s, "/", "vocab", &out->vocab));
    M2_TRY(m2_store_get_i64(s, "/", "separator", &out->separator));
    M2_TRY(m2_store_get_i64(s, "/", "text_bytes", &out->bytes));
    M2_TRY(m2_store_get_text(s, "/", "tokenizer_hash", &hash));
    strncpy(out->tokenizer_hash, hash, sizeof out->tokenizer_hash - 1);
    free(hash);
    return M2_OK;
}

static m2_status read_tokenizer(m2_store *s, char **text)
{
    m2_array_info info;
    int64_t zero = 0;
    M2_TRY(m2_store_info(s, "/tokenizer", &info));
    if (info.rank != 1 || info.dtype != M2_U8)
        return m2_fail(M2_DATA, "%s: /tokenizer should be a text (u8, rank 1)", m2_store_path(s));
    *text = calloc((size_t)info.shape[0] + 1, 1);
    if (!*text) return m2_fail(M2_TRANSIENT, "out of memory for the tokenizer of %s", m2_store_path(s));
    return m2_store_read(s, "/tokenizer", &zero, info.shape, *text);
}

/* Of a mixture the first store's, which is that of all. */
m2_status m2_token_store_tokenizer(const char *path, char **text)
{
    m2i_sources s;
    *text = NULL;
    m2_status st = m2i_sources_open(path, &s);
    if (st == M2_OK) st = read_tokenizer(s.item[0].store, text);
    m2i_sources_close(&s);
    if (st != M2_OK) {
        free(*text);
        *text = NULL;
    }
    return st;
}
