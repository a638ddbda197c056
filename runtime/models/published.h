/* published.h - which tensor of the published M2-BERT state dict is which parameter of ours. Pure; published.def is the table. */
#ifndef M2_PUBLISHED_H
#define M2_PUBLISHED_H

#include "runtime/program.h"

enum { M2_PUBLISHED_BUFFER = -1 };
typedef enum m2_published_numbering { M2_PUBLISHED_IDS, M2_PUBLISHED_TIMES, M2_PUBLISHED_DELTAS } m2_published_numbering;

typedef struct m2_published_tensor {
    const char *key; /* a "model." in front does not count */
    int rank;
    int64_t dims[M2_MAX_RANK];
    int row; /* filled: the parameter it holds, or M2_PUBLISHED_BUFFER */
    m2_published_numbering numbering; /* of a buffer, filled too */
} m2_published_tensor;

/* Fills `row` of n tensors for a family bert program's table of parameters. M2_DATA naming keys: unknown ones, parameters that
 * no tensor holds, shapes that differ. Several tensors with one row are aliases; the reader has to see that they agree. */
M2_API m2_status m2_published_match(m2_published_tensor *tensors, int n, const m2_param *rows, int n_rows) M2_MUST_USE;

/* Calls visit for each tensor of the complete state dict of a model with these parameters, in its published shape. A parameter
 * that the published models have not comes last, under its own name: none is left out. */
M2_API m2_status m2_published_keys(const m2_param *rows, int n_rows,
                                   m2_status (*visit)(void *ctx, const m2_published_tensor *t), void *ctx) M2_MUST_USE;

/* The numbers of a buffer with n elements: 0, 1, 2 ...; equal steps from 0 to 1; rates of decay, from slow to fast. */
M2_API void m2_published_numbers(m2_published_numbering numbering, int64_t n, double *out);

#endif
