/* tsv.h - columns of a file of tab-separated values. No quoting: a quote is a character like any other. */
#ifndef M2_TSV_H
#define M2_TSV_H

#include "kernels/base/status.h"
#include <stdint.h>

enum { M2_TSV_COLUMNS = 4 };

typedef struct m2_tsv {
    char *text;
    int64_t rows, room, skipped;
    struct m2_tsv_row {
        const char *cell[M2_TSV_COLUMNS]; /* of the wanted columns */
        int64_t line;                     /* of the file, from 1 */
    } * row;
} m2_tsv;

/* Reads `n` columns. names: of the header, the first line; width 0. Or, for a file without one, width columns and names "1",
 * "2", ... A row with another number of cells than the header (or width) is M2_DATA, naming file and line, or is counted and left
 * out when skip_errors. Empty lines at the end are nothing. Free also after a failure. */
M2_API m2_status m2_tsv_read(const char *path, int n, const char *const *names, int width, int skip_errors,
                             m2_tsv *out) M2_MUST_USE;
M2_API void m2_tsv_free(m2_tsv *t);

#endif
