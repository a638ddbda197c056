/* wordpiece.c - BERT's uncased tokenizer.
 *
 * Text loses control characters and accents, becomes lower case, and is cut at spaces, around punctuation and around
 * ideographs. Of each word the longest beginning that is in the vocabulary is taken, then of what remains the longest with
 * "##" in front, and so on; a word that does not go up like this, or has over 100 characters, is [UNK]. Bytes that are
 * not UTF-8 are dropped, as the replacement character is. */
#include "data/pretokenise.h"
#include "data/tokenizer_kind.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_CHARACTERS = 100, CODE_POINTS = 0x110000 };
enum { KEPT, GONE_, SPACE_, IDEOGRAPH_, PUNCTUATION_, FOLDED }; /* what becomes of a character */

typedef struct fold {
    int from, wide, to[3]; /* wide: a word of its own, as an ideograph; to ends with a 0 */
} fold;

static uint8_t classes[CODE_POINTS];

static const fold folds[] = {
#define GONE(first, last)
#define SPACE(first, last)
#define IDEOGRAPH(first, last)
#define PUNCTUATION(first, last)
#define FOLD(from, wide, ...) {from, wide, {__VA_ARGS__}},
#include "data/bert_fold.def"
#undef GONE
#undef SPACE
#undef IDEOGRAPH
#undef PUNCTUATION
#undef FOLD
};

static void mark(int first, int last, int class)
{
    memset(classes + first, class, (size_t)(last - first + 1));
}

static void fill_classes(void)
{
#define GONE(first, last)        mark(first, last, GONE_);
#define SPACE(first, last)       mark(first, last, SPACE_);
#define IDEOGRAPH(first, last)   mark(first, last, IDEOGRAPH_);
#define PUNCTUATION(first, last) mark(first, last, PUNCTUATION_);
#define FOLD(from, wide, ...)    mark(from, from, FOLDED);
#include "data/bert_fold.def"
#undef GONE
#undef SPACE
#undef IDEOGRAPH
#undef PUNCTUATION
#undef FOLD
}

static void make_classes(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_classes);
}

/* ---- words ------------------------------------------------------------------------------------------------------- */
typedef struct word {
    char bytes[2 + 4 * (WORD_CHARACTERS + 1)]; /* from [2] on: "##" goes before any part of it */
    int size, characters;
} word;

static m2_status end_word(const m2_tokenizer *t, word *w, m2_token_buffer *out)
{
    char *text = w->bytes + 2;
    int size = w->size, characters = w->characters, from = 0;
    int64_t first = out->count;
    w->size = w->characters = 0;
    if (!characters) return M2_OK;
    M2_TRY(m2i_token_reserve(out, size));
    while (characters <= WORD_CHARACTERS && from < size) {
        char *part = text + from - (from ? 2 : 0), saved[2];
        memcpy(saved, part, 2);
        if (from) memcpy(part, "##", 2);
        int64_t id = -1;
        int to = size;
        for (; to > from;
             to--) /* only whole characters are in the vocabulary: the others are simply not found */
            if ((id = m2i_vocab_find(&t->vocab, part, (size_t)(text + to - part))) >= 0) break;
        if (from) memcpy(part, saved, 2);
        if (id < 0) break;
        out->ids[out->count++] = (uint32_t)id;
        from = to;
    }
    if (from == size) return M2_OK;
    out->count = first;
    out->ids[out->count++] = *(const uint32_t *)t->state;
    return M2_OK;
}

static void add_character(word *w, int c)
{
    char *p = w->bytes + 2 + w->size;
    if (++w->characters > WORD_CHARACTERS) return; /* too long whatever follows */
    if (c < 0x80)
        *p++ = (char)c;
    else if (c < 0x800)
        *p++ = (char)(0xc0 | c >> 6), *p++ = (char)(0x80 | (c & 0x3f));
    else if (c < 0x10000)
        *p++ = (char)(0xe0 | c >> 12), *p++ = (char)(0x80 | (c >> 6 & 0x3f)),
        *p++ = (char)(0x80 | (c & 0x3f));
    else
        *p++ = (char)(0xf0 | c >> 18), *p++ = (char)(0x80 | (c >> 12 & 0x3f)),
        *p++ = (char)(0x80 | (c >> 6 & 0x3f)), *p++ = (char)(0x80 | (c & 0x3f));
    w->size = (int)(p - w->bytes) - 2;
}

static m2_status put(const m2_tokenizer *t, word *w, int c, int alone, m2_token_buffer *out)
{
    alone |= classes[c] == PUNCTUATION_ || classes[c] == IDEOGRAPH_;
    if (alone) M2_TRY(end_word(t, w, out));
    add_character(w, c);
    return alone ? end_word(t, w, out) : M2_OK;
}

static const fold *find_fold(int c)
{
    size_t low = 0, high = sizeof folds / sizeof *folds;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        *(folds[middle].from <= c ? &low : &high) = middle;
    }
    return &folds[low];
}

static m2_status put_hangul(const m2_tokenizer *t, word *w, int c, m2_token_buffer *out)
{
    int index = c - 0xac00;
    M2_TRY(put(t, w, 0x1100 + index / 588, 0, out));
    M2_TRY(put(t, w, 0x1161 + index % 588 / 28, 0, out));
    return index % 28 ? put(t, w, 0x11a7 + index % 28, 0, out) : M2_OK;
}

static m2_status encode(const m2_tokenizer *t, const char *text, size_t bytes, m2_token_buffer *out)
{
    word w = {.size = 0};
    const unsigned char *p = (const unsigned char *)text, *end = p + bytes;
    for (int size; p < end; p += size) {
        int c = m2i_utf8(p, end, &size), class = c < 0 ? GONE_ : classes[c];
        if (class == GONE_) continue;
        if (class == SPACE_)
            M2_TRY(end_word(t, &w, out));
        else if (class == FOLDED) {
            const fold *f = find_fold(c);
            for (int i = 0; i < 3 && f->to[i]; i++) M2_TRY(put(t, &w, f->to[i], f->wide, out));
        } else if (c >= 0xac00 && c <= 0xd7a3)
            M2_TRY(put_hangul(t, &w, c, out));
        else
            M2_TRY(put(t, &w, c, 0, out));
    }
    return end_word(t, &w, out);
}

/* ---- back to text ------------------------------------------------------------------------------------------------ */
static m2_status decode(const m2_tokenizer *t, const uint32_t *ids, int64_t n, m2i_text *out)
{
    for (int64_t i = 0; i < n; i++) {
        size_t size;
        const char *bytes = m2i_vocab_bytes(&t->vocab, ids[i], &size);
        int continues = size > 2 && !memcmp(bytes, "##", 2);
        if (i && !continues) M2_TRY(m2i_text_add(out, " ", 1));
        M2_TRY(m2i_text_add(out, bytes + 2 * continues, size - 2 * (size_t)continues));
    }
    return M2_OK;
}

/* ---- making ------------------------------------------------------------------------------------------------------ */
static m2_status write_nothing(const m2_tokenizer *t, m2i_text *out)
{
    (void)t, (void)out;
    return M2_OK;
}

static int64_t find_special(const m2_tokenizer *t, const char *name)
{
    for (int64_t id = 0; id < t->vocab.count; id++) {
        size_t n;
        const char *bytes = m2i_vocab_bytes(&t->vocab, id, &n);
        if (t->vocab.special[id] && n == strlen(name) && !memcmp(bytes, name, n)) return id;
    }
    return -1;
}

static m2_status read_state(m2_tokenizer *t, const char *text)
{
    (void)text;
    int64_t unknown = find_special(t, "[UNK]");
    if (unknown < 0) return m2_fail(M2_DATA, "the vocabulary has no [UNK], which WordPiece needs");
    make_classes();
    uint32_t *state = t->state = malloc(sizeof *state);
    if (!state) return m2_fail(M2_TRANSIENT, "out of memory for a tokenizer");
    *state = (uint32_t)unknown;
    return M2_OK;
}

static void close_wordpiece(m2_tokenizer *t)
{
    free(t->state);
}

const m2i_tokenizer_kind m2i_tokenizer_wordpiece = {"wordpiece",   encode,     decode,
                                                    write_nothing, read_state, close_wordpiece};

static m2_status read_lines(m2_tokenizer *t, const char *text, size_t n)
{
    static const char *const special[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (const char *p = text, *end = text + n, *next; p < end; p = next + 1) {
        next = memchr(p, '\n', (size_t)(end - p));
        if (!next) next = end;
        size_t size = (size_t)(next - p);
        size -= size && p[size - 1] == '\r';
        int is_special = 0;
        for (size_t i = 0; i < sizeof special / sizeof *special; i++)
            is_special |= size == strlen(special[i]) && !memcmp(p, special[i], size);
        M2_TRY(m2i_vocab_add(&t->vocab, p, size, is_special));
    }
    t->separator = find_special(t, "[SEP]");
    if (t->separator >= 0) return M2_OK;
    return m2_fail(M2_DATA, "no [SEP] among its %lld lines: expected BERT's vocabulary, one token per line",
                   (long long)t->vocab.count);
}

m2_status m2i_wordpiece_open(const char *path, m2_tokenizer **out)
{
    char *text;
    size_t n;
    m2_tokenizer *t = NULL;
    M2_TRY(m2i_read_file(path, &text, &n));
    m2_status st = m2i_tokenizer_new(&m2i_tokenizer_wordpiece, &t);
    if (st == M2_OK) st = read_lines(t, text, n);
    if (st == M2_OK) st = read_state(t, NULL);
    if (st == M2_OK) st = m2i_tokenizer_finish(t);
    free(text);
    if (st != M2_OK) m2_tokenizer_close(&t);
    *out = t;
    return st;
}
