/* prepare.h - text files become a token store: read and cut by one thread, parsed and tokenised by many, written in order.
 * The store depends on the text and the tokenizer only, not on threads. Memory: a few blocks per thread. */
#ifndef M2_PREPARE_H
#define M2_PREPARE_H

#include "data/text.h"
#include "data/token_store.h"

typedef struct m2_prepare_report {
    m2_token_store_info out, val;       /* what is in the stores so far; val: all 0 without one */
    int64_t consumed;                   /* bytes of the input files */
    int64_t skipped, duplicates, empty; /* documents that are in no store */
    char first_skipped[512];            /* why the first of them was */
    double seconds;
} m2_prepare_report;

typedef struct m2_prepare_spec {
    const m2_text_files *files;
    const m2_tokenizer *tokenizer;
    const char *out, *val_out; /* val_out may be NULL */
    double val_fraction;       /* documents of .jsonl are drawn, of a text the end is taken */
    const char *field;         /* of a line's object; NULL = "text" */
    int threads;
    int skip_errors; /* documents that cannot be read are counted, not fatal */
    int dedup;       /* .jsonl documents with the same text as an earlier one are left out */
    /* Attributes of the stores beyond those of token_store.h: key, value, key, value, ..., NULL. */
    const char *const *notes;
    void (*progress)(void *ctx, const m2_prepare_report *now); /* a few times a second; may be NULL */
    void *ctx;
} m2_prepare_spec;

M2_API m2_status m2_prepare(const m2_prepare_spec *spec, m2_prepare_report *out) M2_MUST_USE;

/* The text of the files for m2_tokenizer_train: a source over them. Errors come out of m2_prepare_text_close. */
typedef struct m2_prepare_text m2_prepare_text;
M2_API m2_status m2_prepare_text_open(const m2_prepare_spec *spec, m2_prepare_text **out) M2_MUST_USE;
M2_API int m2_prepare_text_next(void *text, const char **data, size_t *bytes); /* an m2_text_source */
M2_API m2_status m2_prepare_text_close(m2_prepare_text **t) M2_MUST_USE;

#endif
