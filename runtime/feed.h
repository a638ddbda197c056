/* feed.h - rows of a data set as the inputs of a program: what each task of models/model.h reads, one table.
 *
 * A batch is a block of host memory that next fills and write copies into a program's inputs, so that a step's microbatches
 * can all be read before the first one runs. Row p of the stream is the same whatever the number of ranks (data/loader.h). */
#ifndef M2_FEED_H
#define M2_FEED_H

#include "data/glue.h"
#include "data/loader.h"
#include "runtime/ranks.h"

typedef struct m2_feed m2_feed;

/* The positions of each row that a rank gets where sequences are cut. count 0: all. */
M2_API m2_runs m2_feed_slice_of(const m2_config *cfg, const m2_ranks *ranks);

typedef struct m2_feed_spec {
    const char *path; /* token store; for task.name, a TSV file */
    int training;     /* shuffled, hidden at mlm.rate; else in order, hidden at mlm.val_rate */
    int64_t rows;     /* of a batch */
    m2_loader_at at;  /* batch -> its first row */
    void *at_ctx;
    int64_t first_batch;
    m2_runs slice;         /* of text: targets are counted in it */
    const char *tokenizer; /* serialized, for tasks whose files are text; must live as long as the feed */
} m2_feed_spec;

M2_API m2_status m2_feed_open(const m2_config *cfg, const m2_feed_spec *spec, m2_feed **out) M2_MUST_USE;
/* What can be known to be wrong with the file before anything else is touched. */
M2_API m2_status m2_feed_check(const m2_config *cfg, const char *path) M2_MUST_USE;
M2_API int64_t m2_feed_rows(const m2_feed *f); /* in the data set */
M2_API int64_t m2_feed_size(const m2_feed *f); /* of a batch, in int32 */
/* Reads the next batch. Rows from `keep` on lose their targets. *predicted: how many targets it has. */
M2_API m2_status m2_feed_next(m2_feed *f, int64_t keep, int32_t *batch, int64_t *predicted) M2_MUST_USE;
/* Into the inputs of p; `whole` is what the loss is divided by where the task counts its targets. */
M2_API m2_status m2_feed_write(const m2_feed *f, const int32_t *batch, int64_t whole,
                               m2_program *p) M2_MUST_USE;
M2_API int m2_feed_counts(const m2_feed *f);    /* 1: the number of targets differs from batch to batch */
M2_API double m2_feed_waited(const m2_feed *f); /* seconds that next waited for data */
M2_API void m2_feed_close(m2_feed **f);         /* accepts NULL; nulls */

M2_API const m2_glue_rows *m2_feed_glue(const m2_feed *f); /* of task.name: the rows in order; else NULL */

/* What a row of cfg's task is in a token store. */
M2_API m2_row_kind m2_feed_row_kind(const m2_config *cfg);

#endif
