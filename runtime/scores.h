/* scores.h - how good predictions are: one number from predictions and labels, a table of ways. Pure. */
#ifndef M2_SCORES_H
#define M2_SCORES_H

#include "kernels/base/status.h"
#include <stdint.h>

typedef struct m2_score {
    const char *name; /* "accuracy" | "f1" of class 1 | "matthews" | "pearson" | "spearman" */
    /* of n predictions x and labels y; 0 where it is not defined (a class or a spread that is not there) */
    double (*of)(const double *x, const double *y, int64_t n);
} m2_score;

M2_API const m2_score *m2_score_find(const char *name,
                                     int length); /* the first `length` letters of name; NULL if none */

#endif
