/* published.h - which tensor of the published M2-BERT state dict is which parameter of ours. Pure; published.def is the table. */
#ifndef M2_PUBLISHED_H
#define M2_PUBLISHED_H

#include "runtime/program.h"

enum { M2_PUBLISHED_BUFFER = -1 };

typedef struct m2_published_tensor {
    const char *key; /* a "model." in front does not count */
    int rank;
    int64_t dims[M2_MAX_RANK];
    int row; /* filled: the parameter it holds, or M2_PUBLISHED_BUFFER */
} m2_published_tensor;

/* Fills `row` of n tensors for a family bert program's table of parameters. M2_DATA naming keys: unknown ones, parameters that
 * no tensor holds, shapes that differ. Several tensors with one row are aliases; the reader has to see that they agree. */
M2_API m2_status m2_published_match(m2_published_tensor *tensors, int n, const m2_param *rows, int n_rows) M2_MUST_USE;

/* Calls visit for each key of the complete state dict of a model with these parameters; row as above. */
M2_API m2_status m2_published_keys(const m2_param *rows, int n_rows, m2_status (*visit)(void *ctx, const char *key, int row),
                                   void *ctx) M2_MUST_USE;

#endif
