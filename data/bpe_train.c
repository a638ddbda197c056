/* bpe_train.c - learns the merges of byte-level BPE: count the pieces of the text, then again and again merge the most
 * frequent pair of neighbours (of equally frequent ones, the one with the smaller ids). Pair counts are kept up to date
 * word by word, and a heap with late corrections finds the next pair: the cost is that of the words a merge changes. */
#include "data/pretokenise.h"
#include "data/tokenizer_kind.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { FIRST_MERGE = 256 };

/* ---- words ------------------------------------------------------------------------------------------------------- */
typedef struct word {
    size_t start; /* in symbols: one per byte at first */
    uint32_t size, hash;
    int64_t count;
} word;

typedef struct pair {
    uint64_t key; /* left << 32 | right */
    int64_t count;
    uint32_t *words; /* that had it when it arose; may name words that lost it since */
    uint32_t size, capacity;
} pair;

typedef struct choice {
    int64_t count;
    uint64_t key;
    uint32_t pair;
} choice;

typedef struct trainer {
    m2i_text text; /* bytes of all words */
    uint32_t *symbols;
    word *words;
    pair *pairs;
    choice *heap;
    uint32_t *word_slots, *pair_slots; /* hash tables of index + 1 */
    int64_t word_count, word_capacity, pair_count, pair_capacity, heap_size, heap_capacity;
    int64_t first_new; /* pairs from here on arose in this merge */
} trainer;

/* Room for one more of the `count` items of `size` bytes in *items. */
static m2_status room(void **items, int64_t count, int64_t *capacity, size_t size)
{
    if (count < *capacity) return M2_OK;
    int64_t want = *capacity ? 2 * *capacity : 4096;
    void *more = realloc(*items, (size_t)want * size);
    if (!more)
        return m2_fail(M2_TRANSIENT, "out of memory for training a tokenizer (%" PRId64 " items)", want);
    *items = more;
    *capacity = want;
    return M2_OK;
}

/* Rebuilt whenever the items' capacity grows: half full at most. */
static m2_status rehash(uint32_t **slots, int64_t capacity)
{
    free(*slots);
    *slots = calloc(2 * (size_t)capacity, sizeof **slots);
    return *slots ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for training a tokenizer");
}

static void put_slot(uint32_t *slots, int64_t capacity, uint32_t hash, int64_t index)
{
    uint32_t mask = (uint32_t)(2 * capacity - 1), i = hash & mask;
    while (slots[i]) i = (i + 1) & mask;
    slots[i] = (uint32_t)index + 1;
}

static m2_status count_word(trainer *t, const unsigned char *p, size_t n)
{
    uint32_t hash = (uint32_t)XXH3_64bits(p, n), mask = (uint32_t)(2 * t->word_capacity - 1);
    for (uint32_t i = hash & mask; t->word_capacity && t->word_slots[i]; i = (i + 1) & mask) {
        word *w = &t->words[t->word_slots[i] - 1];
        if (w->hash != hash || w->size != n || memcmp(t->text.data + w->start, p, n)) continue;
        w->count++;
        return M2_OK;
    }
    int64_t before = t->word_capacity;
    M2_TRY(room((void **)&t->words, t->word_count, &t->word_capacity, sizeof *t->words));
    if (t->word_capacity != before) {
        M2_TRY(rehash(&t->word_slots, t->word_capacity));
        for (int64_t i = 0; i < t->word_count; i++)
            put_slot(t->word_slots, t->word_capacity, t->words[i].hash, i);
    }
    t->words[t->word_count] = (word){t->text.size, (uint32_t)n, hash, 1};
    put_slot(t->word_slots, t->word_capacity, hash, t->word_count++);
    return m2i_text_add(&t->text, p, n);
}

/* ---- pairs ------------------------------------------------------------------------------------------------------- */
static uint32_t key_hash(uint64_t key)
{
    return (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32);
}

static m2_status find_pair(trainer *t, uint64_t key, pair **out)
{
    uint32_t mask = (uint32_t)(2 * t->pair_capacity - 1);
    for (uint32_t i = key_hash(key) & mask; t->pair_capacity && t->pair_slots[i]; i = (i + 1) & mask) {
        *out = &t->pairs[t->pair_slots[i] - 1];
        if ((*out)->key == key) return M2_OK;
    }
    int64_t before = t->pair_capacity;
    M2_TRY(room((void **)&t->pairs, t->pair_count, &t->pair_capacity, sizeof *t->pairs));
    if (t->pair_capacity != before) {
        M2_TRY(rehash(&t->pair_slots, t->pair_capacity));
        for (int64_t i = 0; i < t->pair_count; i++)
            put_slot(t->pair_slots, t->pair_capacity, key_hash(t->pairs[i].key), i);
    }
    *out = &t->pairs[t->pair_count];
    **out = (pair){.key = key};
    put_slot(t->pair_slots, t->pair_capacity, key_hash(key), t->pair_count++);
    return M2_OK;
}

/* ---- the heap ---------------------------------------------------------------------------------------------------- */
static int better(const choice *a, const choice *b)
{
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static m2_status push(trainer *t, uint32_t index)
{
    const pair *p = &t->pairs[index];
    if (p->count <= 0) return M2_OK;
    M2_TRY(room((void **)&t->heap, t->heap_size, &t->heap_capacity, sizeof *t->heap));
    choice c = {p->count, p->key, index};
    int64_t i = t->heap_size++;
    for (; i > 0 && better(&c, &t->heap[(i - 1) / 2]); i = (i - 1) / 2) t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = c;
    return M2_OK;
}

static choice pop(trainer *t)
{
    choice top = t->heap[0], c = t->heap[--t->heap_size];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < t->heap_size; i = child) {
        child += child + 1 < t->heap_size && better(&t->heap[child + 1], &t->heap[child]);
        if (!better(&t->heap[child], &c)) break;
        t->heap[i] = t->heap[child];
    }
    t->heap[i] = c;
    return top;
}

/* Adds (sign 1) or takes away (-1) the pairs of a word. New ones remember the word; `only` >= 0: just those with `only`. */
static m2_status count_pairs(trainer *t, uint32_t w, int sign, int64_t only)
{
    const uint32_t *s = t->symbols + t->words[w].start;
    for (uint32_t i = 0; i + 1 < t->words[w].size; i++) {
        pair *p = NULL;
        M2_TRY(find_pair(t, (uint64_t)s[i] << 32 | s[i + 1], &p));
        p->count += sign * t->words[w].count;
        int fresh = sign > 0 && (only < 0 || s[i] == only || s[i + 1] == only);
        if (fresh && p - t->pairs < t->first_new)
            M2_TRY(push(t, (uint32_t)(p - t->pairs))); /* an old one that rose */
        if (!fresh || (p->size && p->words[p->size - 1] == w)) continue;
        if (p->size == p->capacity) {
            uint32_t want = p->capacity ? 2 * p->capacity : 4;
            uint32_t *more = realloc(p->words, want * sizeof *more);
            if (!more) return m2_fail(M2_TRANSIENT, "out of memory for training a tokenizer");
            p->words = more;
            p->capacity = want;
        }
        p->words[p->size++] = w;
    }
    return M2_OK;
}

/* The most frequent pair; counts that fell since an entry was pushed are corrected when it comes up. -1: none is left. */
static m2_status best_pair(trainer *t, int64_t *out)
{
    *out = -1;
    while (t->heap_size) {
        choice c = pop(t);
        if (c.count == t->pairs[c.pair].count) {
            *out = c.pair;
            return M2_OK;
        }
        M2_TRY(push(t, c.pair));
    }
    return M2_OK;
}

/* ---- merging ----------------------------------------------------------------------------------------------------- */
static int rewrite(trainer *t, uint32_t w, uint32_t left, uint32_t right, uint32_t id)
{
    uint32_t *s = t->symbols + t->words[w].start, n = t->words[w].size, to = 0;
    for (uint32_t i = 0; i < n; to++) {
        int hit = i + 1 < n && s[i] == left && s[i + 1] == right;
        s[to] = hit ? id : s[i];
        i += hit ? 2 : 1;
    }
    t->words[w].size = to;
    return to != n;
}

static int has(const trainer *t, uint32_t w, uint32_t left, uint32_t right)
{
    const uint32_t *s = t->symbols + t->words[w].start;
    for (uint32_t i = 0; i + 1 < t->words[w].size; i++)
        if (s[i] == left && s[i + 1] == right) return 1;
    return 0;
}

static m2_status merge_pair(trainer *t, int64_t index, uint32_t id)
{
    pair p = t->pairs[index]; /* a copy: the table may move */
    uint32_t left = (uint32_t)(p.key >> 32), right = (uint32_t)p.key;
    t->first_new = t->pair_count;
    for (uint32_t i = 0; i < p.size; i++) {
        uint32_t w = p.words[i];
        if (!has(t, w, left, right)) continue;
        M2_TRY(count_pairs(t, w, -1, -1));
        rewrite(t, w, left, right, id);
        M2_TRY(count_pairs(t, w, 1, id));
    }
    free(t->pairs[index].words);
    t->pairs[index].words = NULL;
    t->pairs[index].size = t->pairs[index].capacity = 0;
    for (int64_t i = t->first_new; i < t->pair_count; i++) M2_TRY(push(t, (uint32_t)i)); /* all others fell */
    return M2_OK;
}

static m2_status start(trainer *t)
{
    t->symbols = malloc((t->text.size + 1) * sizeof *t->symbols);
    if (!t->symbols)
        return m2_fail(M2_TRANSIENT, "out of memory for training a tokenizer on %zu bytes", t->text.size);
    for (size_t i = 0; i < t->text.size; i++) t->symbols[i] = (unsigned char)t->text.data[i];
    for (int64_t w = 0; w < t->word_count; w++) M2_TRY(count_pairs(t, (uint32_t)w, 1, -1));
    for (int64_t i = 0; i < t->pair_count; i++) M2_TRY(push(t, (uint32_t)i));
    return M2_OK;
}

/* A pair whose joined bytes are a token already ("a" + "bc" after "ab" + "c") is merged into that token. */
static m2_status learn(trainer *t, int64_t vocab_size, m2i_vocab *vocab, m2i_text *merges)
{
    m2i_text both = {0};
    m2_status st = M2_OK;
    while (st == M2_OK && vocab->count < vocab_size - 1) {
        int64_t best;
        st = best_pair(t, &best);
        if (st == M2_OK && best < 0)
            st = m2_fail(M2_DATA,
                         "the text is too small for %" PRId64 " tokens: everything is merged after %" PRId64,
                         vocab_size, vocab->count + 1);
        if (st != M2_OK) break;
        uint32_t half[2] = {(uint32_t)(t->pairs[best].key >> 32), (uint32_t)t->pairs[best].key};
        both.size = 0;
        for (int i = 0; i < 2 && st == M2_OK; i++) {
            size_t n;
            const char *bytes = m2i_vocab_bytes(vocab, half[i], &n);
            st = m2i_text_add(&both, bytes, n);
        }
        int64_t id = st == M2_OK ? m2i_vocab_find(vocab, both.data, both.size) : -1;
        if (st == M2_OK && id < 0) {
            id = vocab->count;
            st = m2i_vocab_add(vocab, both.data, both.size, 0);
        }
        if (st == M2_OK) st = m2i_text_add(merges, half, sizeof half);
        if (st == M2_OK) st = merge_pair(t, best, (uint32_t)id);
    }
    free(both.data);
    return st;
}

static void free_trainer(trainer *t)
{
    for (int64_t i = 0; i < t->pair_count; i++) free(t->pairs[i].words);
    free(t->text.data);
    free(t->symbols);
    free(t->words);
    free(t->pairs);
    free(t->heap);
    free(t->word_slots);
    free(t->pair_slots);
}

m2_status m2_tokenizer_train(int64_t vocab_size, m2_text_source next, void *ctx, m2_tokenizer **out)
{
    trainer t = {0};
    m2i_vocab vocab = {0};
    m2i_text merges = {0};
    const char *text;
    size_t n;
    *out = NULL;
    if (vocab_size < FIRST_MERGE + 1 || vocab_size > 1 << 24)
        return m2_fail(M2_USAGE,
                       "a trained tokenizer has 257 (bytes and separator) to 16777216 tokens, not %" PRId64,
                       vocab_size);
    m2_status st = m2i_text_add(&t.text, "", 0);
    while (st == M2_OK && next(ctx, &text, &n))
        for (const unsigned char *p = (const unsigned char *)text, *end = p + n; p < end && st == M2_OK;) {
            size_t piece = m2i_pretoken(p, end);
            st = count_word(&t, p, piece);
            p += piece;
        }
    for (int c = 0; c < 256 && st == M2_OK; c++)
        st = m2i_vocab_add(&vocab, &(unsigned char){(unsigned char)c}, 1, 0);
    if (st == M2_OK) st = start(&t);
    if (st == M2_OK) st = m2i_text_add(&merges, "", 0);
    if (st == M2_OK) st = learn(&t, vocab_size, &vocab, &merges);
    free_trainer(&t);
    int64_t separator = vocab.count;
    if (st == M2_OK) st = m2i_vocab_add(&vocab, M2I_SEPARATOR, strlen(M2I_SEPARATOR), 1);
    if (st == M2_OK)
        st = m2i_bpe_make(&vocab, separator, (const uint32_t(*)[2])(void *)merges.data,
                          (int64_t)(merges.size / sizeof(uint32_t[2])), out);
    m2i_vocab_free(&vocab);
    free(merges.data);
    return st;
}
