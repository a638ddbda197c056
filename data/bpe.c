/* bpe.c - byte-level byte-pair encoding, as GPT-2's.
 *
 * Text is cut into pieces (pretokenise.h). A piece starts as the tokens of its bytes; as long as two neighbours can be
 * merged, the pair that comes first in the list of merges is, leftmost first. Most pieces of real text are one of a few
 * thousand frequent words: a small table in the caller's buffer remembers their tokens. */
#include "data/pretokenise.h"
#include "data/tokenizer_kind.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NONE = UINT32_MAX, SHORT = 96, WORDS = 1 << 16, WORD_BYTES = 15, WORD_TOKENS = 3 };

typedef struct pair {
    uint64_t key; /* left << 32 | right, + 1; 0 = empty */
    uint32_t rank, id;
} pair;

typedef struct bpe {
    uint32_t byte_id[256];
    pair *pairs;
    uint64_t mask;
    uint32_t (*merges)[2];
    int64_t count;  /* of merges */
    uint8_t *whole; /* per token: its bytes alone become it */
} bpe;

/* ---- pairs ------------------------------------------------------------------------------------------------------- */
static uint64_t pair_key(uint32_t left, uint32_t right)
{
    return ((uint64_t)left << 32 | right) + 1;
}

static uint64_t pair_slot(uint64_t key)
{
    return (key * 0x9e3779b97f4a7c15u) >> 20;
}

static inline const pair *find_pair(const bpe *b, uint32_t left, uint32_t right)
{
    static const pair none = {0, NONE, NONE};
    uint64_t key = pair_key(left, right);
    for (uint64_t i = pair_slot(key) & b->mask; b->pairs[i].key; i = (i + 1) & b->mask)
        if (b->pairs[i].key == key) return &b->pairs[i];
    return &none;
}

static void add_pair(bpe *b, uint32_t left, uint32_t right, uint32_t id)
{
    uint64_t key = pair_key(left, right), i = pair_slot(key) & b->mask;
    while (b->pairs[i].key && b->pairs[i].key != key) i = (i + 1) & b->mask;
    if (!b->pairs[i].key)
        b->pairs[i] = (pair){key, (uint32_t)b->count, id}; /* a repeated merge never comes into play */
    b->merges[b->count][0] = left;
    b->merges[b->count++][1] = right;
}

/* ---- merging one piece ------------------------------------------------------------------------------------------- */
/* Quadratic, and the fastest for the lengths of words. ids[0 .. n) in place; returns how many are left. */
static int64_t merge_short(const bpe *b, uint32_t *ids, int64_t n)
{
    uint32_t rank[SHORT], id[SHORT];
    for (int64_t i = 0; i + 1 < n; i++) {
        const pair *p = find_pair(b, ids[i], ids[i + 1]);
        rank[i] = p->rank;
        id[i] = p->id;
    }
    while (n > 1) {
        int64_t best = 0;
        for (int64_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NONE) break;
        ids[best] = id[best];
        size_t behind = (size_t)(n - best - 2) * sizeof *ids;
        memmove(ids + best + 1, ids + best + 2, behind);
        memmove(rank + best, rank + best + 1, behind);
        memmove(id + best, id + best + 1, behind);
        n--;
        for (int64_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const pair *p = find_pair(b, ids[i], ids[i + 1]);
            rank[i] = p->rank;
            id[i] = p->id;
        }
    }
    return n;
}

typedef struct
    candidate { /* a possible merge: the symbols at `left` and behind it, if they still are what they were */
    uint32_t rank, id, at;
    uint32_t left, right;
} candidate;

typedef struct heap {
    candidate *items;
    int64_t count;
} heap;

static int before(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(heap *h, candidate c)
{
    int64_t i = h->count++;
    for (; i > 0 && before(&c, &h->items[(i - 1) / 2]); i = (i - 1) / 2) h->items[i] = h->items[(i - 1) / 2];
    h->items[i] = c;
}

static candidate heap_pop(heap *h)
{
    candidate top = h->items[0], c = h->items[--h->count];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < h->count; i = child) {
        child += child + 1 < h->count && before(&h->items[child + 1], &h->items[child]);
        if (!before(&h->items[child], &c)) break;
        h->items[i] = h->items[child];
    }
    h->items[i] = c;
    return top;
}

typedef struct links {
    uint32_t *ids;         /* NONE = merged into the one before */
    uint32_t *prev, *next; /* n = end */
    uint32_t n;
} links;

static void offer(const bpe *b, heap *h, const links *l, uint32_t at)
{
    if (at >= l->n || l->next[at] >= l->n) return;
    uint32_t left = l->ids[at], right = l->ids[l->next[at]];
    const pair *p = find_pair(b, left, right);
    if (p->rank != NONE) heap_push(h, (candidate){p->rank, p->id, at, left, right});
}

/* n log n, for long runs of one class: a heap of possible merges over a linked list. */
static m2_status merge_long(const bpe *b, uint32_t *ids, int64_t *count)
{
    uint32_t n = (uint32_t)*count;
    links l = {ids, malloc(n * sizeof *l.prev), malloc(n * sizeof *l.next), n};
    heap h = {malloc(3 * (size_t)n * sizeof *h.items), 0};
    m2_status st = l.prev && l.next && h.items
                       ? M2_OK
                       : m2_fail(M2_TRANSIENT, "out of memory for a piece of %u bytes", n);
    for (uint32_t i = 0; st == M2_OK && i < n; i++) l.prev[i] = i ? i - 1 : n, l.next[i] = i + 1;
    for (uint32_t i = 0; st == M2_OK && i < n; i++) offer(b, &h, &l, i);
    while (st == M2_OK && h.count) {
        candidate c = heap_pop(&h);
        if (ids[c.at] != c.left || l.next[c.at] >= n || ids[l.next[c.at]] != c.right)
            continue; /* overtaken */
        uint32_t gone = l.next[c.at];
        ids[c.at] = c.id;
        ids[gone] = NONE;
        l.next[c.at] = l.next[gone];
        if (l.next[gone] < n) l.prev[l.next[gone]] = c.at;
        offer(b, &h, &l, l.prev[c.at]);
        offer(b, &h, &l, c.at);
    }
    *count = 0;
    for (uint32_t i = 0; st == M2_OK && i < n; i = l.next[i]) ids[(*count)++] = ids[i];
    free(h.items);
    free(l.next);
    free(l.prev);
    return st;
}

/* Tokens of one piece into ids, which has room for n. */
static m2_status merge_bytes(const bpe *b, const unsigned char *p, size_t n, uint32_t *ids, int64_t *count)
{
    for (size_t i = 0; i < n; i++) ids[i] = b->byte_id[p[i]];
    *count = (int64_t)n;
    if (n > SHORT) return merge_long(b, ids, count);
    *count = merge_short(b, ids, *count);
    return M2_OK;
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */
typedef struct word {
    uint64_t key[2]; /* the bytes; the last one is their number */
    uint32_t ids[WORD_TOKENS], count;
} word;

typedef struct words {
    uint64_t serial; /* of the tokenizer */
    word slots[WORDS];
} words;

static m2_status words_of(const m2_tokenizer *t, m2_token_buffer *out, words **result)
{
    words *w = out->scratch;
    if (!w) w = out->scratch = calloc(1, sizeof *w);
    if (!w) return m2_fail(M2_TRANSIENT, "out of memory for the words of a tokenizer");
    if (w->serial != t->serial) memset(w->slots, 0, sizeof w->slots);
    w->serial = t->serial;
    *result = w;
    return M2_OK;
}

static m2_status encode_piece(const m2_tokenizer *t, const unsigned char *p, size_t n, m2_token_buffer *out)
{
    const bpe *b = t->state;
    int64_t id = m2i_vocab_find(&t->vocab, p, n), count;
    M2_TRY(m2i_token_reserve(out, (int64_t)n));
    if (id >= 0 && b->whole[id]) {
        out->ids[out->count++] = (uint32_t)id;
        return M2_OK;
    }
    M2_TRY(merge_bytes(b, p, n, out->ids + out->count, &count));
    out->count += count;
    return M2_OK;
}

static void make_key(uint64_t key[2], const unsigned char *p, size_t n, size_t readable)
{
    if (readable >= 16) { /* two loads and two masks instead of a copy of unknown length */
        memcpy(key, p, 16);
        key[0] &= n >= 8 ? UINT64_MAX : (1ull << 8 * n) - 1;
        key[1] &= n <= 8 ? 0 : (1ull << 8 * (n - 8)) - 1;
    } else {
        key[0] = key[1] = 0;
        memcpy(key, p, n);
    }
    key[1] |= (uint64_t)n << 56;
}

static m2_status encode_word(const m2_tokenizer *t, words *w, const unsigned char *p, size_t n,
                             size_t readable, m2_token_buffer *out)
{
    uint64_t key[2];
    make_key(key, p, n, readable);
    uint64_t h = (key[0] ^ key[1] * 0xff51afd7ed558ccdu) * 0x9e3779b97f4a7c15u;
    word *slot = &w->slots[h >> 48];
    if (slot->key[0] != key[0] || slot->key[1] != key[1]) {
        int64_t from = out->count;
        M2_TRY(encode_piece(t, p, n, out));
        int64_t count = out->count - from;
        if (count > WORD_TOKENS) return M2_OK;
        *slot = (word){{key[0], key[1]}, {0}, (uint32_t)count};
        memcpy(slot->ids, out->ids + from, (size_t)count * sizeof *slot->ids);
        return M2_OK;
    }
    M2_TRY(m2i_token_reserve(out, WORD_TOKENS));
    memcpy(out->ids + out->count, slot->ids, sizeof slot->ids);
    out->count += slot->count;
    return M2_OK;
}

static m2_status encode(const m2_tokenizer *t, const char *text, size_t bytes, m2_token_buffer *out)
{
    words *w = NULL;
    M2_TRY(words_of(t, out, &w));
    const unsigned char *p = (const unsigned char *)text, *end = p + bytes;
    for (size_t n; p < end; p += n) {
        n = m2i_pretoken(p, end);
        if (n <= WORD_BYTES)
            M2_TRY(encode_word(t, w, p, n, (size_t)(end - p), out));
        else
            M2_TRY(encode_piece(t, p, n, out));
    }
    return M2_OK;
}

/* ---- making ------------------------------------------------------------------------------------------------------ */
static void close_bpe(m2_tokenizer *t)
{
    bpe *b = t->state;
    if (!b) return;
    free(b->pairs);
    free(b->merges);
    free(b->whole);
    free(b);
}

static m2_status prepare(m2_tokenizer *t, int64_t merges)
{
    bpe *b = t->state = calloc(1, sizeof *b);
    uint64_t slots = 1024;
    while ((int64_t)slots < 3 * merges) slots *= 2;
    if (b) {
        b->mask = slots - 1;
        b->pairs = calloc(slots, sizeof *b->pairs);
        b->merges = calloc((size_t)merges + 1, sizeof *b->merges);
        b->whole = calloc((size_t)t->vocab.count + 1, 1);
    }
    if (!b || !b->pairs || !b->merges || !b->whole)
        return m2_fail(M2_TRANSIENT, "out of memory for a tokenizer of %" PRId64 " merges", merges);
    for (int c = 0; c < 256; c++) {
        unsigned char byte = (unsigned char)c;
        int64_t id = m2i_vocab_find(&t->vocab, &byte, 1);
        if (id < 0)
            return m2_fail(M2_DATA, "the vocabulary has no token for byte 0x%02x, which byte-level BPE needs",
                           c);
        b->byte_id[c] = (uint32_t)id;
    }
    return M2_OK;
}

static m2_status add_merges(m2_tokenizer *t, const uint32_t (*merges)[2], int64_t n)
{
    m2i_text both = {0};
    m2_status st = M2_OK;
    for (int64_t i = 0; i < n && st == M2_OK; i++) {
        both.size = 0;
        for (int half = 0; half < 2 && st == M2_OK; half++) {
            size_t size;
            if (merges[i][half] >= t->vocab.count)
                st = m2_fail(M2_DATA, "merge %" PRId64 " names token %u of %" PRId64, i, merges[i][half],
                             t->vocab.count);
            if (st != M2_OK) break;
            const char *bytes = m2i_vocab_bytes(&t->vocab, merges[i][half], &size);
            st = m2i_text_add(&both, bytes, size);
        }
        int64_t id = st == M2_OK ? m2i_vocab_find(&t->vocab, both.data, both.size) : 0;
        if (id < 0)
            st = m2_fail(M2_DATA, "merge %" PRId64 " makes '%s', which is not in the vocabulary", i,
                         both.data);
        if (st == M2_OK) add_pair(t->state, merges[i][0], merges[i][1], (uint32_t)id);
    }
    free(both.data);
    return st;
}

/* Each token of several bytes, in order of id, from the two tokens to which the merges before it lead: the meaning of a
 * vocabulary in which the rank of a token is its id. */
static m2_status derive_merges(m2_tokenizer *t)
{
    uint32_t *ids = NULL;
    m2_status st = M2_OK;
    for (int64_t id = 0; id < t->vocab.count && st == M2_OK; id++) {
        size_t n;
        int64_t count;
        const char *bytes = m2i_vocab_bytes(&t->vocab, id, &n);
        if (n < 2 || t->vocab.special[id]) continue;
        uint32_t *more = realloc(ids, n * sizeof *ids);
        if (!more)
            st = m2_fail(M2_TRANSIENT, "out of memory for a token of %zu bytes", n);
        else
            ids = more;
        if (st == M2_OK) st = merge_bytes(t->state, (const unsigned char *)bytes, n, ids, &count);
        if (st == M2_OK && count != 2)
            st = m2_fail(M2_DATA, "token %" PRId64 " ('%.*s') cannot be made by merging two earlier tokens",
                         id, (int)(n < 64 ? n : 64), bytes);
        if (st == M2_OK) add_pair(t->state, ids[0], ids[1], (uint32_t)id);
    }
    free(ids);
    return st;
}

static m2_status find_whole_tokens(m2_tokenizer *t)
{
    bpe *b = t->state;
    size_t longest = 1;
    for (int64_t id = 0; id < t->vocab.count; id++) {
        size_t n = t->vocab.start[id + 1] - t->vocab.start[id];
        longest = n > longest ? n : longest;
    }
    uint32_t *ids = malloc(longest * sizeof *ids);
    m2_status st = ids ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for a token of %zu bytes", longest);
    for (int64_t id = 0; id < t->vocab.count && st == M2_OK; id++) {
        size_t n;
        int64_t count;
        const char *bytes = m2i_vocab_bytes(&t->vocab, id, &n);
        if (!n || t->vocab.special[id]) continue;
        st = merge_bytes(b, (const unsigned char *)bytes, n, ids, &count);
        b->whole[id] = st == M2_OK && count == 1 && ids[0] == (uint32_t)id;
    }
    free(ids);
    return st;
}

m2_status m2i_bpe_make(m2i_vocab *vocab, int64_t separator, const uint32_t (*merges)[2], int64_t n,
                       m2_tokenizer **out)
{
    m2_tokenizer *t;
    m2_status st = m2i_tokenizer_new(&m2i_tokenizer_bpe, &t);
    if (st != M2_OK) {
        m2i_vocab_free(vocab);
        return st;
    }
    t->vocab = *vocab;
    t->separator = separator;
    memset(vocab, 0, sizeof *vocab);
    st = prepare(t, merges ? n : t->vocab.count);
    if (st == M2_OK) st = merges ? add_merges(t, merges, n) : derive_merges(t);
    if (st == M2_OK) st = find_whole_tokens(t);
    if (st == M2_OK) st = m2i_tokenizer_finish(t);
    if (st != M2_OK) m2_tokenizer_close(&t);
    *out = t;
    return st;
}

/* ---- as text ----------------------------------------------------------------------------------------------------- */
static m2_status write_bpe(const m2_tokenizer *t, m2i_text *out)
{
    const bpe *b = t->state;
    M2_TRY(m2i_text_print(out, "merges %" PRId64 "\n", b->count));
    for (int64_t i = 0; i < b->count; i++)
        M2_TRY(m2i_text_print(out, "%u %u\n", b->merges[i][0], b->merges[i][1]));
    return M2_OK;
}

static m2_status read_bpe(m2_tokenizer *t, const char *text)
{
    long long n = -1;
    int used = 0;
    if (sscanf(text, "merges %lld\n%n", &n, &used) < 1 || n < 0 || n > INT32_MAX)
        return m2_fail(M2_DATA, "the tokenizer's list of merges is not readable");
    uint32_t(*merges)[2] = malloc(((size_t)n + 1) * sizeof *merges);
    m2_status st = merges ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for %lld merges", n);
    char *p = (char *)text + used;
    for (long long i = 0; i < n && st == M2_OK; i++)
        for (int half = 0; half < 2 && st == M2_OK; half++) {
            char *end;
            merges[i][half] = (uint32_t)strtoul(p, &end, 10);
            if (end == p) st = m2_fail(M2_DATA, "the tokenizer is cut off at merge %lld of %lld", i, n);
            p = end;
        }
    if (st == M2_OK) st = prepare(t, n);
    if (st == M2_OK) st = add_merges(t, (const uint32_t(*)[2])merges, n);
    if (st == M2_OK) st = find_whole_tokens(t);
    free(merges);
    return st;
}

const m2i_tokenizer_kind m2i_tokenizer_bpe = {"bpe",     encode,   m2i_tokenizer_join,
                                              write_bpe, read_bpe, close_bpe};
