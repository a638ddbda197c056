/* documents.h - the documents in a block of text, as bytes of UTF-8 one after the other. */
#ifndef M2_DATA_DOCUMENTS_H
#define M2_DATA_DOCUMENTS_H

#include "data/text.h"

typedef struct m2i_document {
    size_t start, size; /* in the text of m2i_documents */
    int ends;           /* its end is in this block */
} m2i_document;

typedef struct m2i_documents {
    const char *text; /* the block's own data, or `buffer` */
    char *buffer;
    size_t buffer_capacity;
    m2i_document *items;
    int64_t count, capacity;
    int64_t skipped;
    char first_skipped[512];
} m2i_documents;

/* Fills *d from the block; earlier contents go. A line of .jsonl that is no object with a text under `field` is M2_DATA,
 * naming file and line; bytes of a text that are not UTF-8 are M2_DATA, naming file and offset. When skip_errors, such lines
 * and bytes are left out and counted. Empty lines are no documents. */
m2_status m2i_documents_read(m2i_documents *d, const m2_text_block *b, const char *field,
                             int skip_errors) M2_MUST_USE;
void m2i_documents_free(m2i_documents *d);

#endif
