#include "data/tsv.h"
#include "data/tokenizer_kind.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 64 };

/* Cuts the line at *at into cells; *at moves behind it. Returns their number, at most CELLS + 1. */
static int cut_line(char **at, char *end, char *cells[CELLS])
{
    char *stop = memchr(*at, '\n', (size_t)(end - *at)), *cell = *at;
    if (!stop) stop = end;
    *at = stop < end ? stop + 1 : end;
    *stop = 0;
    if (stop > cell && stop[-1] == '\r') *--stop = 0;
    int n = 0;
    for (char *tab; n < CELLS; cell = tab + 1) {
        cells[n++] = cell;
        tab = memchr(cell, '\t', (size_t)(stop - cell));
        if (!tab) return n;
        *tab = 0;
    }
    return CELLS + 1;
}

static m2_status find_columns(const char *path, int n, const char *const *names, char *const *header,
                              int width, int *column)
{
    for (int i = 0; i < n; i++) {
        column[i] = -1;
        for (int k = 0; k < width && header; k++)
            if (!strcmp(header[k], names[i])) column[i] = k;
        if (!header) column[i] = atoi(names[i]) - 1;
        if (column[i] < 0) return m2_fail(M2_DATA, "%s:1: the header has no column '%s'", path, names[i]);
    }
    return M2_OK;
}

static m2_status add_row(m2_tsv *t, int n, char *const *cells, const int *column, int64_t line)
{
    if (t->rows == t->room) {
        t->room = t->room ? 2 * t->room : 1024;
        void *more = realloc(t->row, (size_t)t->room * sizeof *t->row);
        if (!more) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " rows", t->room);
        t->row = more;
    }
    t->row[t->rows].line = line;
    for (int i = 0; i < n; i++) t->row[t->rows].cell[i] = cells[column[i]];
    t->rows++;
    return M2_OK;
}

m2_status m2_tsv_read(const char *path, int n, const char *const *names, int width, int skip_errors,
                      m2_tsv *out)
{
    size_t bytes;
    int column[M2_TSV_COLUMNS], header = width == 0;
    char *cells[CELLS];
    *out = (m2_tsv){0};
    M2_TRY(m2i_read_file(path, &out->text, &bytes));
    char *at = out->text, *end = at + bytes;
    if (bytes >= 3 && !memcmp(at, "\xef\xbb\xbf", 3)) at += 3; /* byte order mark */
    if (header) width = cut_line(&at, end, cells);
    M2_TRY(find_columns(path, n, names, header ? cells : NULL, width, column));
    for (int64_t line = 1 + header; at < end; line++) {
        int got = cut_line(&at, end, cells);
        if (got == 1 && !*cells[0] && width > 1 && at == end) break;
        if (got == width) {
            M2_TRY(add_row(out, n, cells, column, line));
            continue;
        }
        if (!skip_errors)
            return m2_fail(M2_DATA, "%s:%" PRId64 ": %d cell%s between tabs, expected %d%s", path, line, got,
                           got == 1 ? "" : "s", width, header ? " as in the header" : "");
        out->skipped++;
    }
    return M2_OK;
}

void m2_tsv_free(m2_tsv *t)
{
    free(t->text);
    free(t->row);
    *t = (m2_tsv){0};
}
