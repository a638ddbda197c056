#include "runtime/models/published.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum key_use { SAME, FRONT, MIDDLE, IDS, TIMES, DELTAS } key_use;

static const struct {
    const char *key, *name;
    key_use use;
} keys[] = {
#define M2_KEY(key, name, use) {key, name, use},
#include "runtime/models/published.def"
#undef M2_KEY
};
enum { KEYS = sizeof keys / sizeof *keys, KEY = 160, SHOWN = 6 };

/* `pattern` with block in place of %d. */
static void expand(const char *pattern, int block, char out[KEY])
{
    const char *mark = strstr(pattern, "%d");
    if (mark)
        snprintf(out, KEY, "%.*s%d%s", (int)(mark - pattern), pattern, block, mark + 2);
    else
        snprintf(out, KEY, "%s", pattern);
}

static int find_row(const m2_param *rows, int n_rows, const char *name)
{
    for (int i = 0; i < n_rows; i++)
        if (!strcmp(rows[i].name, name)) return i;
    return -1;
}

static int count_blocks(const m2_param *rows, int n_rows)
{
    int n = 0;
    for (char name[KEY];; n++) {
        expand("block.%d.mixer.in.weight", n, name);
        if (find_row(rows, n_rows, name) < 0) return n;
    }
}

static m2_published_tensor in_shape_of(key_use use, const m2_param *row)
{
    m2_published_tensor t = {.rank = row->rank};
    memcpy(t.dims, row->dims, sizeof t.dims);
    if (use != FRONT && use != MIDDLE) return t;
    int at = use == MIDDLE; /* where the 1 goes */
    for (int d = t.rank++; d > at; d--) t.dims[d] = t.dims[d - 1];
    t.dims[at] = 1;
    return t;
}

/* Lengths come from the table of positions, (length, width). */
static m2_published_tensor buffer(key_use use, const m2_param *positions)
{
    int64_t length = positions->dims[0], width = positions->dims[1];
    if (use == IDS) return (m2_published_tensor){.rank = 2, .dims = {1, length}, .numbering = M2_PUBLISHED_IDS};
    if (use == TIMES) return (m2_published_tensor){.rank = 3, .dims = {1, length, 1}, .numbering = M2_PUBLISHED_TIMES};
    return (m2_published_tensor){.rank = 3, .dims = {1, 1, width}, .numbering = M2_PUBLISHED_DELTAS};
}

typedef m2_status (*visitor)(void *ctx, const m2_published_tensor *t);

/* Those of the table; named[row] is set where it has a key. */
static m2_status visit_table(const m2_param *rows, int n_rows, visitor visit, void *ctx, char *named)
{
    int blocks = count_blocks(rows, n_rows), positions = find_row(rows, n_rows, "embed.position");
    for (int k = 0; k < KEYS; k++) {
        int times = strstr(keys[k].key, "%d") ? blocks : 1, is_buffer = keys[k].use >= IDS;
        for (int b = 0; b < times; b++) {
            char key[KEY], name[KEY];
            expand(keys[k].key, b, key);
            expand(keys[k].name, b, name);
            int row = is_buffer ? positions : find_row(rows, n_rows, name);
            if (row < 0) continue;
            m2_published_tensor t = is_buffer ? buffer(keys[k].use, &rows[row]) : in_shape_of(keys[k].use, &rows[row]);
            t.key = key;
            t.row = is_buffer ? M2_PUBLISHED_BUFFER : row;
            if (!is_buffer) named[row] = 1;
            M2_TRY(visit(ctx, &t));
        }
    }
    return M2_OK;
}

m2_status m2_published_keys(const m2_param *rows, int n_rows, visitor visit, void *ctx)
{
    char *named = calloc((size_t)n_rows + 1, 1);
    if (!named) return m2_fail(M2_TRANSIENT, "out of memory for %d parameters", n_rows);
    m2_status st = visit_table(rows, n_rows, visit, ctx, named);
    for (int i = 0; i < n_rows && st == M2_OK; i++) {
        m2_published_tensor t = in_shape_of(SAME, &rows[i]);
        t.key = rows[i].name;
        t.row = i;
        if (!named[i]) st = visit(ctx, &t);
    }
    free(named);
    return st;
}

void m2_published_numbers(m2_published_numbering numbering, int64_t n, double *out)
{
    double slow = log(0.01) / 1.5, fast = log(0.01) / 0.3;
    for (int64_t i = 0; i < n; i++) {
        double part = n > 1 ? (double)i / (double)(n - 1) : 0;
        out[i] = numbering == M2_PUBLISHED_IDS     ? (double)i
                 : numbering == M2_PUBLISHED_TIMES ? part
                                                   : slow + (fast - slow) * part;
    }
}

/* ---- lists of names in messages ---------------------------------------------------------------------------------- */
typedef struct list {
    char text[SHOWN * (KEY + 100)];
    int count;
} list;

static void list_add(list *l, const char *item)
{
    size_t n = strlen(l->text);
    if (l->count++ < SHOWN) snprintf(l->text + n, sizeof l->text - n, "%s%s", n ? ", " : "", item);
    if (l->count == SHOWN + 1) snprintf(l->text + strlen(l->text), 8, ", ...");
}

/* ---- matching ---------------------------------------------------------------------------------------------------- */
enum { UNKNOWN = -2 };

typedef struct matching {
    m2_published_tensor *tensors;
    int n;
} matching;

static const char *bare(const char *key)
{
    return strncmp(key, "model.", 6) ? key : key + 6;
}

static m2_status take(void *ctx, const m2_published_tensor *t)
{
    matching *m = ctx;
    for (int i = 0; i < m->n; i++) {
        if (strcmp(bare(m->tensors[i].key), t->key) != 0) continue;
        m->tensors[i].row = t->row;
        m->tensors[i].numbering = t->numbering;
    }
    return M2_OK;
}

/* Equal but for dimensions of 1. */
static int same_shape(const int64_t *a, int na, const int64_t *b, int nb)
{
    int i = 0, j = 0;
    for (;; i++, j++) {
        while (i < na && a[i] == 1) i++;
        while (j < nb && b[j] == 1) j++;
        if (i == na || j == nb) return i == na && j == nb;
        if (a[i] != b[j]) return 0;
    }
}

static int print_dims(char *out, size_t n, const int64_t *dims, int rank)
{
    int at = snprintf(out, n, "(");
    for (int d = 0; d < rank; d++)
        at += snprintf(out + at, n - (size_t)at, "%s%" PRId64, d ? ", " : "", dims[d]);
    return at + snprintf(out + at, n - (size_t)at, ")");
}

static void check_shape(const m2_published_tensor *t, const m2_param *row, list *wrong)
{
    char text[KEY + 100];
    if (same_shape(t->dims, t->rank, row->dims, row->rank)) return;
    int at = snprintf(text, KEY, "%s is ", t->key);
    at += print_dims(text + at, sizeof text - (size_t)at, t->dims, t->rank);
    at += snprintf(text + at, sizeof text - (size_t)at, " and should be ");
    print_dims(text + at, sizeof text - (size_t)at, row->dims, row->rank);
    list_add(wrong, text);
}

typedef struct absence {
    const matching *m;
    char *seen; /* per row: some tensor holds it, or its first key has been listed */
    list missing;
} absence;

static m2_status list_missing(void *ctx, const m2_published_tensor *t)
{
    absence *a = ctx;
    if (t->row < 0 || a->seen[t->row]) return M2_OK;
    a->seen[t->row] = 1;
    list_add(&a->missing, t->key);
    return M2_OK;
}

static m2_status check(const matching *m, const m2_param *rows, int n_rows, char *seen)
{
    list unknown = {.count = 0}, wrong = {.count = 0};
    absence a = {.m = m, .seen = seen};
    for (int i = 0; i < m->n; i++) {
        const m2_published_tensor *t = &m->tensors[i];
        if (t->row == UNKNOWN) list_add(&unknown, t->key);
        if (t->row < 0) continue;
        seen[t->row] = 1;
        check_shape(t, &rows[t->row], &wrong);
    }
    M2_TRY(m2_published_keys(rows, n_rows, list_missing, &a));
    if (a.missing.count)
        return m2_fail(M2_DATA, "%d tensors of this model are missing from the state dict: %s",
                       a.missing.count, a.missing.text);
    if (unknown.count)
        return m2_fail(M2_DATA, "%d keys of the state dict are no tensors of this M2-BERT: %s", unknown.count,
                       unknown.text);
    if (wrong.count)
        return m2_fail(M2_DATA, "%d tensors of the state dict have another shape than in this model: %s",
                       wrong.count, wrong.text);
    return M2_OK;
}

m2_status m2_published_match(m2_published_tensor *tensors, int n, const m2_param *rows, int n_rows)
{
    matching m = {tensors, n};
    for (int i = 0; i < n; i++) tensors[i].row = UNKNOWN;
    M2_TRY(m2_published_keys(rows, n_rows, take, &m));
    char *seen = calloc((size_t)n_rows + 1, 1);
    if (!seen) return m2_fail(M2_TRANSIENT, "out of memory for %d parameters", n_rows);
    m2_status st = check(&m, rows, n_rows, seen);
    free(seen);
    return st;
}
