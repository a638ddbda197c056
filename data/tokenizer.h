/* tokenizer.h - text to token ids and back: a const table of functions per kind (bytes, bpe, wordpiece).
 *
 * Immutable after opening and thread-safe; scratch memory belongs to the caller's m2_token_buffer. */
#ifndef M2_TOKENIZER_H
#define M2_TOKENIZER_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct m2_tokenizer m2_tokenizer;

typedef struct m2_token_buffer { /* zeroed is empty; grows; m2_token_buffer_free ends it */
    uint32_t *ids;
    int64_t count, capacity;
    void *scratch; /* the tokenizer's: words already met. NULL at first */
} m2_token_buffer;
M2_API void m2_token_buffer_free(m2_token_buffer *b);

/* spec: "bytes", or a path: tokenizer.json (byte-level BPE), *.tiktoken, vocab.txt (WordPiece), a serialized form, or a
 * folder with one of these names or with encoder.json + vocab.bpe or vocab.json + merges.txt. */
M2_API m2_status m2_tokenizer_open(const char *spec, m2_tokenizer **out) M2_MUST_USE;
/* Self-contained text form (kept in stores and checkpoints, so that sampling needs no other file), and back. */
M2_API m2_status m2_tokenizer_serialize(const m2_tokenizer *t, char **text) M2_MUST_USE; /* caller frees */
M2_API m2_status m2_tokenizer_parse(const char *text, m2_tokenizer **out) M2_MUST_USE;
M2_API void m2_tokenizer_close(m2_tokenizer **t);

M2_API int64_t m2_tokenizer_vocab(const m2_tokenizer *t);     /* ids are in [0, vocab) */
M2_API int64_t m2_tokenizer_separator(const m2_tokenizer *t); /* id put after each document */
M2_API int64_t m2_tokenizer_special(const m2_tokenizer *t,
                                    const char *name);       /* id of "[MASK]"; -1: no such special token */
M2_API const char *m2_tokenizer_kind(const m2_tokenizer *t); /* "bytes" | "bpe" | "wordpiece" */
M2_API void m2_tokenizer_hash(const m2_tokenizer *t,
                              char hex[33]); /* identity: XXH3-128 of the serialized form */

/* Appends the ids of `text` (any bytes, valid UTF-8 or not) to out. Special tokens in the text are plain text. */
M2_API m2_status m2_tokenizer_encode(const m2_tokenizer *t, const char *text, size_t bytes,
                                     m2_token_buffer *out) M2_MUST_USE;
/* Bytes of ids[0..n) appended to a malloc'd *text of *bytes (caller frees). Unknown id: M2_DATA. */
M2_API m2_status m2_tokenizer_decode(const m2_tokenizer *t, const uint32_t *ids, int64_t n, char **text,
                                     size_t *bytes) M2_MUST_USE;

/* Trains byte-level BPE (GPT-2 pre-tokenisation) of `vocab` ids (256 bytes + merges + <|endoftext|>) on text blocks that
 * next() yields (returns 0 at the end). Deterministic. */
typedef int (*m2_text_source)(void *ctx, const char **text, size_t *bytes);
M2_API m2_status m2_tokenizer_train(int64_t vocab, m2_text_source next, void *ctx,
                                    m2_tokenizer **out) M2_MUST_USE;

#endif
