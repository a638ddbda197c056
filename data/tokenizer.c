#define _GNU_SOURCE /* asprintf */
#include "data/tokenizer_kind.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static const m2i_tokenizer_kind *const kinds[] = {&m2i_tokenizer_bytes, &m2i_tokenizer_bpe,
                                                  &m2i_tokenizer_wordpiece};

/* ---- life -------------------------------------------------------------------------------------------------------- */
m2_status m2i_tokenizer_new(const m2i_tokenizer_kind *kind, m2_tokenizer **out)
{
    static atomic_uint_fast64_t serials;
    m2_tokenizer *t = *out = calloc(1, sizeof *t);
    if (!t) return m2_fail(M2_TRANSIENT, "out of memory for a tokenizer");
    t->kind = kind;
    t->serial = atomic_fetch_add(&serials, 1) + 1;
    return M2_OK;
}

m2_status m2i_tokenizer_finish(m2_tokenizer *t)
{
    char *text;
    M2_TRY(m2_tokenizer_serialize(t, &text));
    XXH128_hash_t h = XXH3_128bits(text, strlen(text));
    snprintf(t->hash, sizeof t->hash, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
    free(text);
    return M2_OK;
}

void m2_tokenizer_close(m2_tokenizer **tp)
{
    m2_tokenizer *t = *tp;
    *tp = NULL;
    if (!t) return;
    t->kind->close(t);
    m2i_vocab_free(&t->vocab);
    free(t);
}

int64_t m2_tokenizer_vocab(const m2_tokenizer *t)
{
    return t->vocab.count;
}

int64_t m2_tokenizer_special(const m2_tokenizer *t, const char *name)
{
    const m2i_vocab *v = &t->vocab;
    for (int64_t id = 0; id < v->count; id++) {
        size_t n;
        const char *bytes = m2i_vocab_bytes(v, id, &n);
        if (v->special[id] && n == strlen(name) && !memcmp(bytes, name, n)) return id;
    }
    return -1;
}

int64_t m2_tokenizer_separator(const m2_tokenizer *t)
{
    return t->separator;
}

const char *m2_tokenizer_kind(const m2_tokenizer *t)
{
    return t->kind->name;
}

void m2_tokenizer_hash(const m2_tokenizer *t, char hex[33])
{
    memcpy(hex, t->hash, sizeof t->hash);
}

/* ---- text and tokens --------------------------------------------------------------------------------------------- */
m2_status m2i_token_reserve(m2_token_buffer *b, int64_t more)
{
    if (b->count + more <= b->capacity) return M2_OK;
    int64_t want = 2 * b->capacity > b->count + more + 64 ? 2 * b->capacity : b->count + more + 64;
    uint32_t *ids = realloc(b->ids, (size_t)want * sizeof *ids);
    if (!ids) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " tokens", want);
    b->ids = ids;
    b->capacity = want;
    return M2_OK;
}

void m2_token_buffer_free(m2_token_buffer *b)
{
    free(b->ids);
    free(b->scratch);
    memset(b, 0, sizeof *b);
}

m2_status m2_tokenizer_encode(const m2_tokenizer *t, const char *text, size_t bytes, m2_token_buffer *out)
{
    return t->kind->encode(t, text, bytes, out);
}

m2_status m2i_tokenizer_join(const m2_tokenizer *t, const uint32_t *ids, int64_t n, m2i_text *out)
{
    for (int64_t i = 0; i < n; i++) {
        size_t size;
        const char *bytes = m2i_vocab_bytes(&t->vocab, ids[i], &size);
        M2_TRY(m2i_text_add(out, bytes, size));
    }
    return M2_OK;
}

m2_status m2_tokenizer_decode(const m2_tokenizer *t, const uint32_t *ids, int64_t n, char **text,
                              size_t *bytes)
{
    *text = NULL;
    *bytes = 0;
    for (int64_t i = 0; i < n; i++)
        if (ids[i] >= t->vocab.count)
            return m2_fail(M2_DATA, "token %u is not one of the tokenizer's %" PRId64 " (%s)", ids[i],
                           t->vocab.count, t->kind->name);
    m2i_text out = {0};
    m2_status st = m2i_text_add(&out, "", 0);
    if (st == M2_OK) st = t->kind->decode(t, ids, n, &out);
    if (st != M2_OK) {
        free(out.data);
        return st;
    }
    *text = out.data;
    *bytes = out.size;
    return M2_OK;
}

/* ---- the serialized form: a head, one line per token, the kind's own part ---------------------------------------- */
m2_status m2_tokenizer_serialize(const m2_tokenizer *t, char **text)
{
    m2i_text out = {0};
    m2_status st = m2i_text_print(&out, "m2-tokenizer 1 %s\nseparator %" PRId64 "\nvocab %" PRId64 "\n",
                                  t->kind->name, t->separator, t->vocab.count);
    if (st == M2_OK) st = m2i_vocab_write(&t->vocab, &out);
    if (st == M2_OK) st = t->kind->write(t, &out);
    if (st != M2_OK) free(out.data);
    *text = st == M2_OK ? out.data : NULL;
    return st;
}

m2_status m2_tokenizer_parse(const char *text, m2_tokenizer **out)
{
    char name[16];
    int64_t separator, vocab;
    int used = 0;
    *out = NULL;
    if (sscanf(text, "m2-tokenizer 1 %15s separator %" SCNd64 " vocab %" SCNd64 "%n", name, &separator,
               &vocab, &used) < 3)
        return m2_fail(M2_DATA, "not a serialized tokenizer: it should begin with 'm2-tokenizer 1'");
    if (vocab < 1 || vocab > INT32_MAX || separator < 0 || separator >= vocab || text[used] != '\n')
        return m2_fail(M2_DATA,
                       "a serialized tokenizer with an impossible vocabulary (%" PRId64
                       ") or separator (%" PRId64 ")",
                       vocab, separator);
    const m2i_tokenizer_kind *kind = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i]->name, name)) kind = kinds[i];
    if (!kind) return m2_fail(M2_DATA, "a tokenizer of kind '%s', which this m2 does not know", name);
    m2_tokenizer *t;
    M2_TRY(m2i_tokenizer_new(kind, &t));
    text += used + 1;
    t->separator = separator;
    m2_status st = m2i_vocab_read(&t->vocab, vocab, &text);
    if (st == M2_OK) st = kind->read(t, text);
    if (st == M2_OK) st = m2i_tokenizer_finish(t);
    if (st != M2_OK) m2_tokenizer_close(&t);
    *out = t;
    return st;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */
m2_status m2i_read_file(const char *path, char **text, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    *text = NULL;
    if (!f) return m2_fail(M2_IO, "cannot open %s: %s", path, strerror(errno));
    m2i_text all = {0};
    char block[65536];
    m2_status st = m2i_text_add(&all, "", 0);
    for (size_t n; st == M2_OK && (n = fread(block, 1, sizeof block, f)) > 0;)
        st = m2i_text_add(&all, block, n);
    if (st == M2_OK && ferror(f)) st = m2_fail(M2_IO, "cannot read %s: %s", path, strerror(errno));
    fclose(f);
    if (st != M2_OK) free(all.data);
    *text = st == M2_OK ? all.data : NULL;
    *bytes = all.size;
    return st;
}

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static m2_status open_serialized(const char *path, m2_tokenizer **out)
{
    char *text;
    size_t n;
    M2_TRY(m2i_read_file(path, &text, &n));
    m2_status st = m2_tokenizer_parse(text, out);
    free(text);
    return st;
}

static m2_status open_file(const char *path, m2_tokenizer **out)
{
    if (ends_with(path, ".tiktoken")) return m2i_bpe_open_tiktoken(path, out);
    if (ends_with(path, ".txt")) return m2i_wordpiece_open(path, out);
    if (ends_with(path, ".json")) return m2i_bpe_open_json(path, out);
    return open_serialized(path, out);
}

static int exists(const char *folder, const char *name, char path[4096])
{
    struct stat s;
    return snprintf(path, 4096, "%s/%s", folder, name) < 4096 && !stat(path, &s);
}

static m2_status open_folder(const char *folder, m2_tokenizer **out)
{
    static const char *const pairs[][2] = {{"encoder.json", "vocab.bpe"}, {"vocab.json", "merges.txt"}};
    char first[4096], second[4096];
    if (exists(folder, "tokenizer.json", first)) return open_file(first, out);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (exists(folder, pairs[i][0], first) && exists(folder, pairs[i][1], second))
            return m2i_bpe_open_pair(first, second, out);
    if (exists(folder, "vocab.txt", first)) return open_file(first, out);
    return m2_fail(
        M2_DATA,
        "the folder %s holds no tokenizer: expected tokenizer.json, encoder.json + vocab.bpe, vocab.json + "
        "merges.txt or vocab.txt",
        folder);
}

m2_status m2_tokenizer_open(const char *spec, m2_tokenizer **out)
{
    struct stat s;
    *out = NULL;
    if (!strcmp(spec, "bytes")) return m2i_bytes_make(out);
    if (stat(spec, &s))
        return m2_fail(M2_IO, "cannot open the tokenizer %s: %s (give 'bytes', a file or a folder)", spec,
                       strerror(errno));
    return m2_context(S_ISDIR(s.st_mode) ? open_folder(spec, out) : open_file(spec, out), "tokenizer %s",
                      spec);
}
