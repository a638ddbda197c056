/* bpe_files.c - byte-level BPE as others write it: OpenAI's and Hugging Face's vocabulary + merges, .tiktoken, tokenizer.json.
 *
 * The JSON forms spell bytes as printable characters: the 188 printable ones of Latin-1 as themselves, the others, in
 * order, as U+0100, U+0101, ... */
#include "data/pretokenise.h"
#include "data/tokenizer_kind.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { SPELLED = 256 + 68, MOST = 1 << 24 };

static int prints(int byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
}

static void spelling(int byte_of[SPELLED])
{
    int other = 256;
    for (int c = 0; c < SPELLED; c++) byte_of[c] = -1;
    for (int byte = 0; byte < 256; byte++) byte_of[prints(byte) ? byte : other++] = byte;
}

/* Bytes that a spelled token stands for, in place (they are never more). Returns 0 if it is not a spelling of bytes. */
static int unspell(const int byte_of[SPELLED], const char *text, size_t n, m2i_text *out, m2_status *st)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + n;
    out->size = 0;
    for (int size; p < end && *st == M2_OK; p += size) {
        int c = m2i_utf8(p, end, &size);
        if (c < 0 || c >= SPELLED || byte_of[c] < 0) return 0;
        *st = m2i_text_add(out, &(unsigned char){(unsigned char)byte_of[c]}, 1);
    }
    return *st == M2_OK;
}

/* ---- vocabularies out of {token: id} ----------------------------------------------------------------------------- */
typedef struct entry {
    const char *text;
    size_t size;
    int special;
} entry;

static m2_status note(entry **entries, int64_t *count, const char *text, int64_t id, int special)
{
    if (id < 0 || id >= MOST)
        return m2_fail(M2_DATA, "token '%s' has the impossible id %lld", text, (long long)id);
    if (id >= *count) {
        entry *more = realloc(*entries, (size_t)(id + 1) * 2 * sizeof *more);
        if (!more) return m2_fail(M2_TRANSIENT, "out of memory for %lld tokens", (long long)id);
        memset(more + *count, 0, (size_t)((id + 1) * 2 - *count) * sizeof *more);
        *entries = more;
        *count = (id + 1) * 2;
    }
    entry *e = *entries + id;
    if (e->text && strcmp(e->text, text))
        return m2_fail(M2_DATA, "tokens '%s' and '%s' have the same id %lld", e->text, text, (long long)id);
    *e = (entry){text, strlen(text), special || e->special};
    return M2_OK;
}

static m2_status build_vocab(const entry *entries, int64_t count, m2i_vocab *vocab, int64_t *separator)
{
    int byte_of[SPELLED];
    m2i_text bytes = {0};
    m2_status st = M2_OK;
    spelling(byte_of);
    *separator = -1;
    while (count > 0 && !entries[count - 1].text) count--;
    for (int64_t id = 0; id < count && st == M2_OK; id++) {
        const entry *e = &entries[id];
        int ends = e->text && !strcmp(e->text, M2I_SEPARATOR);
        if (ends) *separator = id;
        int spelled = !e->special && !ends && unspell(byte_of, e->text, e->size, &bytes, &st);
        if (st != M2_OK) break;
        if (spelled)
            st = m2i_vocab_add(vocab, bytes.data, bytes.size, 0);
        else
            st = m2i_vocab_add(vocab, e->text, e->size, e->text != NULL);
    }
    free(bytes.data);
    if (st != M2_OK || *separator >= 0) return st;
    *separator = vocab->count;
    return m2i_vocab_add(vocab, M2I_SEPARATOR, strlen(M2I_SEPARATOR), 1);
}

static m2_status read_vocab(const json_t *map, const json_t *added, m2i_vocab *vocab, int64_t *separator)
{
    entry *entries = NULL;
    int64_t count = 0;
    const char *text;
    json_t *id, *item;
    size_t i;
    m2_status st =
        json_object_size(map) ? M2_OK : m2_fail(M2_DATA, "there is no vocabulary in it ({token: id, ...})");
    json_object_foreach((json_t *)map, text, id)
    {
        if (st == M2_OK && !json_is_integer(id)) st = m2_fail(M2_DATA, "token '%s' has no id", text);
        if (st == M2_OK) st = note(&entries, &count, text, json_integer_value(id), 0);
    }
    json_array_foreach(added, i, item)
    {
        const char *content = json_string_value(json_object_get(item, "content"));
        json_t *number = json_object_get(item, "id");
        if (st == M2_OK && content && json_is_integer(number))
            st = note(&entries, &count, content, json_integer_value(number), 1);
    }
    if (st == M2_OK) st = build_vocab(entries, count, vocab, separator);
    free(entries);
    return st;
}

/* ---- merges ------------------------------------------------------------------------------------------------------ */
typedef struct merge_list {
    const m2i_vocab *vocab;
    int byte_of[SPELLED];
    m2i_text bytes;
    uint32_t (*ids)[2];
    int64_t count, capacity;
} merge_list;

static m2_status add_merge(merge_list *l, const char *const text[2], const size_t size[2])
{
    if (l->count == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 65536;
        void *more = realloc(l->ids, (size_t)l->capacity * sizeof *l->ids);
        if (!more) return m2_fail(M2_TRANSIENT, "out of memory for %lld merges", (long long)l->capacity);
        l->ids = more;
    }
    for (int half = 0; half < 2; half++) {
        m2_status st = M2_OK;
        int ok = unspell(l->byte_of, text[half], size[half], &l->bytes, &st);
        if (st != M2_OK) return st;
        int64_t id = ok ? m2i_vocab_find(l->vocab, l->bytes.data, l->bytes.size) : -1;
        if (id < 0)
            return m2_fail(M2_DATA, "merge %lld is of '%.*s', which is not in the vocabulary",
                           (long long)l->count + 1, (int)(size[half] < 64 ? size[half] : 64), text[half]);
        l->ids[l->count][half] = (uint32_t)id;
    }
    l->count++;
    return M2_OK;
}

static m2_status add_merge_line(merge_list *l, const char *line, size_t n)
{
    const char *gap = memchr(line, ' ', n);
    if (!gap || gap == line || gap + 1 == line + n)
        return m2_fail(M2_DATA, "merge %lld, '%.*s', is not two tokens with a space between",
                       (long long)l->count + 1, (int)(n < 64 ? n : 64), line);
    return add_merge(l, (const char *const[]){line, gap + 1},
                     (const size_t[]){(size_t)(gap - line), (size_t)(line + n - gap - 1)});
}

static m2_status finish(merge_list *l, m2i_vocab *vocab, int64_t separator, m2_status st, m2_tokenizer **out)
{
    static const uint32_t none[1][2];
    const uint32_t(*ids)[2] = l->ids ? (const uint32_t(*)[2])l->ids : none;
    if (st == M2_OK) st = m2i_bpe_make(vocab, separator, ids, l->count, out);
    m2i_vocab_free(vocab);
    free(l->bytes.data);
    free(l->ids);
    return st;
}

/* ---- the three forms --------------------------------------------------------------------------------------------- */
static m2_status load_json(const char *path, json_t **out)
{
    char *text;
    size_t n;
    json_error_t e;
    M2_TRY(m2i_read_file(path, &text, &n));
    *out = json_loadb(text, n, JSON_ALLOW_NUL, &e);
    free(text);
    return *out ? M2_OK : m2_fail(M2_DATA, "%s:%d: not JSON: %s", path, e.line, e.text);
}

m2_status m2i_bpe_open_pair(const char *vocab_path, const char *merges_path, m2_tokenizer **out)
{
    json_t *map;
    m2i_vocab vocab = {0};
    int64_t separator = -1;
    M2_TRY(load_json(vocab_path, &map));
    m2_status st = m2_context(read_vocab(map, NULL, &vocab, &separator), "%s", vocab_path);
    json_decref(map);
    merge_list l = {.vocab = &vocab};
    spelling(l.byte_of);
    char *text = NULL;
    size_t n = 0;
    if (st == M2_OK) st = m2i_read_file(merges_path, &text, &n);
    for (const char *p = text, *end = text + n, *next; st == M2_OK && p < end; p = next + 1) {
        next = memchr(p, '\n', (size_t)(end - p));
        if (!next) next = end;
        size_t size = (size_t)(next - p);
        size -= size && p[size - 1] == '\r';
        if (size && !(p == text && size >= 8 && !memcmp(p, "#version", 8)))
            st = m2_context(add_merge_line(&l, p, size), "%s", merges_path);
    }
    free(text);
    return finish(&l, &vocab, separator, st, out);
}

/* Only what byte-level BPE with GPT-2's pattern means the same by; anything else would give other tokens silently. */
static m2_status check_json(const json_t *root)
{
    const json_t *model = json_object_get(root, "model"), *pre = json_object_get(root, "pre_tokenizer");
    const json_t *normalizer = json_object_get(root, "normalizer"),
                 *regex = json_object_get(pre, "use_regex");
    const char *type = json_string_value(json_object_get(model, "type"));
    const char *cut = json_string_value(json_object_get(pre, "type"));
    if ((type && strcmp(type, "BPE")) || (!type && !json_object_get(model, "merges")))
        return m2_fail(M2_DATA, "its model is '%s'; m2 reads tokenizer.json files of model BPE",
                       type ? type : "unknown");
    if (!cut || strcmp(cut, "ByteLevel") || json_is_false(regex))
        return m2_fail(M2_DATA, "its pre_tokenizer is '%s'; m2 reads ByteLevel with GPT-2's pattern",
                       cut ? cut : "none");
    if (json_is_true(json_object_get(pre, "add_prefix_space")))
        return m2_fail(M2_DATA, "it adds a space before the text (add_prefix_space), which m2 does not");
    if (normalizer && !json_is_null(normalizer))
        return m2_fail(M2_DATA, "it normalizes the text, which m2's byte-level BPE does not");
    return M2_OK;
}

static m2_status add_json_merge(merge_list *l, const json_t *item)
{
    const json_t *a = json_array_get(item, 0), *b = json_array_get(item, 1);
    if (json_is_string(item)) return add_merge_line(l, json_string_value(item), json_string_length(item));
    if (!json_is_string(a) || !json_is_string(b))
        return m2_fail(M2_DATA, "merge %lld is neither \"a b\" nor [\"a\", \"b\"]", (long long)l->count + 1);
    return add_merge(l, (const char *const[]){json_string_value(a), json_string_value(b)},
                     (const size_t[]){json_string_length(a), json_string_length(b)});
}

m2_status m2i_bpe_open_json(const char *path, m2_tokenizer **out)
{
    json_t *root, *item;
    m2i_vocab vocab = {0};
    int64_t separator = -1;
    size_t i;
    M2_TRY(load_json(path, &root));
    const json_t *model = json_object_get(root, "model");
    merge_list l = {.vocab = &vocab};
    spelling(l.byte_of);
    m2_status st = check_json(root);
    if (st == M2_OK)
        st = read_vocab(json_object_get(model, "vocab"), json_object_get(root, "added_tokens"), &vocab,
                        &separator);
    json_array_foreach(json_object_get(model, "merges"), i, item) if (st == M2_OK) st =
        add_json_merge(&l, item);
    json_decref(root);
    return finish(&l, &vocab, separator, st, out);
}

static int base64(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* "IHRoZQ== 262\n": the token's bytes and its rank. Moves *p behind the line; returns 0 if it is not such a line. */
static int tiktoken_line(const char **p, unsigned char *bytes, size_t room, size_t *n, int64_t *id)
{
    uint32_t bits = 0;
    int have = 0, digit;
    for (*n = 0; (digit = base64(**p)) >= 0; (*p)++) {
        bits = bits << 6 | (uint32_t)digit;
        if ((have += 6) < 8) continue;
        have -= 8;
        if (*n == room) return 0;
        bytes[(*n)++] = (unsigned char)(bits >> have);
    }
    while (**p == '=') ++*p;
    char *end;
    *id = strtoll(*p, &end, 10);
    if (**p != ' ' || end == *p || !*n) return 0;
    for (*p = end; **p == '\r' || **p == '\n';) ++*p;
    return 1;
}

m2_status m2i_bpe_open_tiktoken(const char *path, m2_tokenizer **out)
{
    char *text;
    size_t n;
    unsigned char bytes[1024];
    m2i_vocab vocab = {0};
    int64_t separator = -1, line = 1;
    M2_TRY(m2i_read_file(path, &text, &n));
    m2_status st = M2_OK;
    for (const char *p = text; *p && st == M2_OK; line++) {
        size_t size;
        int64_t id;
        if (!tiktoken_line(&p, bytes, sizeof bytes, &size, &id) || id < vocab.count || id >= MOST) {
            st = m2_fail(M2_DATA, "%s:%lld: not a token in base64 and its rank, in rising order", path,
                         (long long)line);
            break;
        }
        for (;
             st == M2_OK && vocab.count < id;) { /* a hole in the numbering is where the special tokens are */
            int first = separator < 0;
            if (first) separator = vocab.count;
            st = first ? m2i_vocab_add(&vocab, M2I_SEPARATOR, strlen(M2I_SEPARATOR), 1)
                       : m2i_vocab_add(&vocab, "", 0, 0);
        }
        if (st == M2_OK) st = m2i_vocab_add(&vocab, bytes, size, 0);
    }
    free(text);
    if (st == M2_OK && vocab.count >= 100000)
        st = m2_fail(M2_DATA,
                     "%s has %lld tokens: the encodings of that size cut text by another pattern than "
                     "GPT-2's, the one m2 knows",
                     path, (long long)vocab.count);
    if (st == M2_OK && separator < 0) {
        separator = vocab.count;
        st = m2i_vocab_add(&vocab, M2I_SEPARATOR, strlen(M2I_SEPARATOR), 1);
    }
    if (st == M2_OK) st = m2i_bpe_make(&vocab, separator, NULL, 0, out);
    m2i_vocab_free(&vocab);
    return st;
}
