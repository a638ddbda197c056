/* loader.h - batches of token rows, read ahead by worker threads.
 *
 * Row `p` of an endless stream (p = 0, 1, 2, ...) is sequence sampler(p): a Feistel permutation keyed by (seed, epoch), so
 * the position alone is the loader's state and does not depend on how many ranks or workers read. What a sequence is, its
 * m2_row_kind says. */
#ifndef M2_LOADER_H
#define M2_LOADER_H

#include "data/store.h"

typedef struct m2_loader m2_loader;

typedef enum m2_row_kind {
    M2_ROWS_STREAM, /* tokens [s * length, (s + 1) * length]: one more than inputs, targets are one token ahead */
    M2_ROWS_TRUNCATED, /* the beginning of document s, its separator as last target, pad, pad, ...; targets as above */
    M2_ROWS_PACKED,  /* first, length - 2 tokens from s * (length - 2) on, last; no targets */
    M2_ROWS_DOCUMENT /* first, the beginning of document s, last, pad, pad, ...; no targets */
} m2_row_kind;

typedef struct m2_row_frame {
    m2_row_kind kind;
    int32_t first, last, pad;
    int32_t none;    /* TRUNCATED, mask_starts: the target where there is none */
    int mask_starts; /* STREAM: no target behind a separator, where another document begins */
} m2_row_frame;

typedef struct m2_loader_spec {
    const char *path; /* token store, or a mixture "a.h5:3,b.h5:1": see sampler.h for what comes when */
    int64_t length;   /* L */
    uint64_t seed;
    int shuffle;        /* 0: row p is sequence p modulo the number of sequences (validation) */
    int64_t rows;       /* rows per batch handed out = microbatch of this rank */
    int workers, depth; /* threads; batches read ahead (0 = 2 * workers + 2) */
    m2_row_frame frame;
} m2_loader_spec;

/* The batches this loader hands out, in order: batch i holds rows first(i) .. first(i) + rows - 1 of the stream. The
 * caller says where by (start, stride_batches): first(i) is computed by `at`. */
typedef int64_t (*m2_loader_at)(void *ctx, int64_t batch); /* global row of batch's first row; pure */

typedef struct m2_loader_stats {
    int64_t batches;
    double seconds_waited; /* time m2_loader_next spent waiting: starvation */
} m2_loader_stats;

M2_API m2_status m2_loader_open(const m2_loader_spec *spec, m2_loader_at at, void *ctx, int64_t first_batch,
                                m2_loader **out) M2_MUST_USE;
/* Fills tokens and, where rows have them, targets (rows, length) i32. Worker failures come out here. */
M2_API m2_status m2_loader_next(m2_loader *l, int32_t *tokens, int32_t *targets) M2_MUST_USE;
M2_API m2_loader_stats m2_loader_statistics(const m2_loader *l);
M2_API int64_t m2_loader_sequences(const m2_loader *l); /* in all stores */
M2_API void m2_loader_close(m2_loader **l);

/* What a token store says about itself; of a mixture, the sums. */
typedef struct m2_token_store_info {
    int64_t tokens, documents, vocab, separator;
    int64_t bytes;           /* of the text the tokens stand for; 0 = not recorded */
    char tokenizer_hash[33]; /* identity of the tokenizer, hex */
} m2_token_store_info;
M2_API m2_status m2_token_store_info_read(const char *path, m2_token_store_info *out) M2_MUST_USE;
/* How many sequences of `length` a store has. */
M2_API int64_t m2_token_store_rows(const m2_token_store_info *info, m2_row_kind kind, int64_t length);
/* The tokenizer kept in the store, in its serialized form (m2_tokenizer_parse reads it). The caller frees. */
M2_API m2_status m2_token_store_tokenizer(const char *path, char **text) M2_MUST_USE;

#endif
