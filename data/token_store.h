/* token_store.h - a store of tokens and how one is written.
 *
 *     /tokens     u16 (vocabularies up to 65536) or u32, 1-D, chunked and checksummed: documents, a separator after each
 *     /documents  i64, count + 1: where each document starts; the last entry is the number of tokens
 *     /tokenizer  u8: the tokenizer in its serialized form
 *     attributes  format, vocab, separator, text_bytes, tokenizer_hash, tokenizer_kind, and what the writer adds
 */
#ifndef M2_TOKEN_STORE_H
#define M2_TOKEN_STORE_H

#include "data/loader.h"
#include "data/tokenizer.h"

enum { M2_TOKEN_CHUNK = 16384 }; /* tokens per checksummed chunk: what reading one row costs at least */

typedef struct m2_token_writer m2_token_writer;

/* Under a temporary name until finished. */
M2_API m2_status m2_token_writer_create(const char *path, const m2_tokenizer *t,
                                        m2_token_writer **out) M2_MUST_USE;
/* Tokens of the current document, without separator; `bytes` of text they stand for. Any number of calls per document. */
M2_API m2_status m2_token_writer_add(m2_token_writer *w, const uint32_t *ids, int64_t n,
                                     int64_t bytes) M2_MUST_USE;
/* The same with ids as the store has them, m2_token_width bytes each. */
M2_API m2_status m2_token_writer_add_stored(m2_token_writer *w, const void *ids, int64_t n,
                                            int64_t bytes) M2_MUST_USE;
M2_API int m2_token_width(int64_t vocab); /* bytes of a token: 2 up to a vocabulary of 65536, else 4 */
M2_API m2_status m2_token_writer_end_document(m2_token_writer *w) M2_MUST_USE; /* puts the separator */
M2_API m2_status m2_token_writer_note(m2_token_writer *w, const char *key,
                                      const char *value) M2_MUST_USE; /* an attribute */
/* Tokens (separators included), documents and bytes so far. */
M2_API m2_token_store_info m2_token_writer_info(const m2_token_writer *w);
M2_API m2_status m2_token_writer_commit(m2_token_writer **w) M2_MUST_USE; /* the file appears; nulls */
M2_API void m2_token_writer_close(m2_token_writer **w); /* nothing appears; accepts NULL; nulls */

#endif
