/* tokenizer_kind.h - what a kind of tokenizer (bytes, bpe, wordpiece) is: a row of functions. Adding one is a file with such
 * a row and a line in the table of tokenizer.c. */
#ifndef M2_DATA_TOKENIZER_KIND_H
#define M2_DATA_TOKENIZER_KIND_H

#include "data/tokenizer.h"
#include "data/vocab.h"

typedef struct m2i_tokenizer_kind {
    const char *name;
    m2_status (*encode)(const m2_tokenizer *t, const char *text, size_t bytes, m2_token_buffer *out);
    m2_status (*decode)(const m2_tokenizer *t, const uint32_t *ids, int64_t n,
                        m2i_text *out); /* ids are in range */
    /* The part of the serialized form behind the vocabulary, and back: makes t->state from t->vocab and it. */
    m2_status (*write)(const m2_tokenizer *t, m2i_text *out);
    m2_status (*read)(m2_tokenizer *t, const char *text);
    void (*close)(m2_tokenizer *t); /* frees t->state, which may be NULL */
} m2i_tokenizer_kind;

struct m2_tokenizer {
    const m2i_tokenizer_kind *kind;
    m2i_vocab vocab;
    int64_t separator;
    uint64_t
        serial; /* unlike that of any other tokenizer of this process: whose words a buffer's scratch holds */
    void *state;
    char hash[33];
};

extern const m2i_tokenizer_kind m2i_tokenizer_bytes, m2i_tokenizer_bpe, m2i_tokenizer_wordpiece;

m2_status m2i_tokenizer_new(const m2i_tokenizer_kind *kind, m2_tokenizer **out) M2_MUST_USE;
m2_status
m2i_tokenizer_finish(m2_tokenizer *t) M2_MUST_USE; /* the hash; last step of every way to make one */
m2_status m2i_tokenizer_join(const m2_tokenizer *t, const uint32_t *ids, int64_t n,
                             m2i_text *out); /* decode: tokens as they are */
m2_status m2i_token_reserve(m2_token_buffer *b, int64_t more) M2_MUST_USE;

#define M2I_SEPARATOR "<|endoftext|>"

m2_status m2i_bytes_make(m2_tokenizer **out) M2_MUST_USE;

/* BPE from its vocabulary and merges, in the order of priority: merges[i] = {left id, right id}; the result is the token
 * of the joined bytes. merges = NULL: the rank of a token is its id, and its halves are what lower ones lead to. Takes over
 * *vocab, also on failure. */
m2_status m2i_bpe_make(m2i_vocab *vocab, int64_t separator, const uint32_t (*merges)[2], int64_t n,
                       m2_tokenizer **out) M2_MUST_USE;

m2_status m2i_wordpiece_open(const char *path, m2_tokenizer **out) M2_MUST_USE; /* vocab.txt */
m2_status m2i_bpe_open_tiktoken(const char *path, m2_tokenizer **out) M2_MUST_USE;
m2_status m2i_bpe_open_pair(const char *vocab, const char *merges,
                            m2_tokenizer **out) M2_MUST_USE;                   /* JSON, text */
m2_status m2i_bpe_open_json(const char *path, m2_tokenizer **out) M2_MUST_USE; /* tokenizer.json */

/* A whole file, closed by a 0. The caller frees. */
m2_status m2i_read_file(const char *path, char **text, size_t *bytes) M2_MUST_USE;

#endif
