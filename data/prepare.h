/* prepare.h - text files become a token store, in two steps. Tokenising makes pieces of the text into pieces of the store
 * (piece.h): by any number of processes, each with threads, killed and started again as it happens. Assembling joins them
 * in the order of the input. The store depends on the text and the tokenizer only. Memory: a few blocks per thread. */
#ifndef M2_PREPARE_H
#define M2_PREPARE_H

#include "data/text.h"
#include "data/token_store.h"

typedef struct m2_prepare_report {
    int64_t tokenised; /* tokens that this process made */
    int64_t consumed,
        share;    /* bytes of the input files: read, and to be read by this process (0: not known) */
    int64_t kept; /* pieces of an earlier try that were found and kept */
    m2_token_store_info out, val;       /* what is in the stores; val: all 0 without one */
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
    int index, count; /* this process and the number of them; all see the same files and folders */
    int skip_errors;  /* documents that cannot be read are counted, not fatal */
    int dedup; /* documents with the same text as an earlier one are left out; texts above 1 MiB are all kept */
    /* Attributes of the stores beyond those of token_store.h: key, value, key, value, ..., NULL. */
    const char *const *notes;
    void (*progress)(void *ctx, const m2_prepare_report *now); /* a few times a second; may be NULL */
    void *ctx;
} m2_prepare_spec;

/* This process's share of the input becomes pieces in the folder OUT.parts. Pieces that are there already, of the same
 * files, tokenizer and options, are kept. After a failure those that are finished stay. */
M2_API m2_status m2_prepare_tokenise(const m2_prepare_spec *spec, m2_prepare_report *out) M2_MUST_USE;
/* One process, when all have tokenised: the store appears and OUT.parts goes. */
M2_API m2_status m2_prepare_assemble(const m2_prepare_spec *spec, m2_prepare_report *out) M2_MUST_USE;

/* The text of the files for m2_tokenizer_train: a source over them. Errors come out of m2_prepare_text_close. */
typedef struct m2_prepare_text m2_prepare_text;
M2_API m2_status m2_prepare_text_open(const m2_prepare_spec *spec, m2_prepare_text **out) M2_MUST_USE;
M2_API int m2_prepare_text_next(void *text, const char **data, size_t *bytes); /* an m2_text_source */
M2_API m2_status m2_prepare_text_close(m2_prepare_text **t) M2_MUST_USE;

#endif
