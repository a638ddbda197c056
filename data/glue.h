/* glue.h - sentences, or pairs of them, with a label: the tasks of GLUE as rows of token ids. */
#ifndef M2_GLUE_H
#define M2_GLUE_H

#include "data/tokenizer.h"

typedef struct m2_glue_task {
    const char *name;   /* "rte" */
    const char *folder; /* "RTE": train.tsv and the validation file are there */
    const char *validation;
    const char *first, *second, *label; /* columns */
    int width;
    const char *labels;
    int pool_all;
    const char *scores; /* names of runtime/scores.h */
} m2_glue_task;

M2_API const m2_glue_task *m2_glue_find(const char *name); /* NULL if there is none; "glue/rte" is "rte" */
M2_API int m2_glue_classes(const m2_glue_task *task);      /* 0: the label is a number */

typedef struct m2_glue_rows {
    int64_t n, length, skipped;
    int32_t *tokens; /* (n, length): [CLS] a [SEP] or [CLS] a [SEP] b [SEP], then [PAD]s */
    int32_t *used;   /* tokens that are not padding */
    double *label;   /* class, or number */
} m2_glue_rows;

/* Too long pairs lose the end of whichever sentence is longer. A bad row is M2_DATA, naming file and line, or is counted in
 * skipped when skip_errors. Free also after a failure. */
M2_API m2_status m2_glue_read(const m2_glue_task *task, const char *path, const m2_tokenizer *t,
                              int64_t length, int skip_errors, m2_glue_rows *out) M2_MUST_USE;
M2_API void m2_glue_rows_free(m2_glue_rows *rows);

#endif
