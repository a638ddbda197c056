#include "data/glue.h"
#include "data/tsv.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const m2_glue_task tasks[] = {
#define TASK(name, folder, files, first, second, label, width, labels, pool, scores)                         \
    {#name, folder, files, first, second, label, width, labels, pool, scores},
#include "data/glue.def"
#undef TASK
};

const m2_glue_task *m2_glue_find(const char *name)
{
    if (!strncmp(name, "glue/", 5)) name += 5;
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++)
        if (!strcmp(tasks[i].name, name)) return &tasks[i];
    return NULL;
}

int m2_glue_classes(const m2_glue_task *task)
{
    int n = *task->labels != 0;
    for (const char *c = task->labels; *c; c++) n += *c == '|';
    return n;
}

/* Class or number of a label; 0 when it is none. */
static int parse_label(const m2_glue_task *task, const char *text, double *out)
{
    char *end;
    size_t n = strlen(text);
    int which = 0;
    if (!*task->labels) {
        *out = strtod(text, &end);
        return end != text && !*end && isfinite(*out);
    }
    for (const char *c = task->labels; *c; c += strcspn(c, "|"), c += *c == '|', which++)
        if (strcspn(c, "|") == n && !memcmp(c, text, n)) return *out = which, 1;
    return 0;
}

typedef struct frame {
    int32_t first, last, pad;
} frame;

static m2_status find_frame(const m2_tokenizer *t, frame *out)
{
    static const char *const names[] = {"[CLS]", "[SEP]", "[PAD]"};
    int64_t ids[3];
    for (int i = 0; i < 3; i++) {
        ids[i] = m2_tokenizer_special(t, names[i]);
        if (ids[i] < 0)
            return m2_fail(M2_DATA,
                           "the %s tokenizer has no token %s: sentences need a vocabulary such as BERT's",
                           m2_tokenizer_kind(t), names[i]);
    }
    *out = (frame){(int32_t)ids[0], (int32_t)ids[1], (int32_t)ids[2]};
    return M2_OK;
}

static int32_t put(int32_t *row, int32_t at, const m2_token_buffer *b, int64_t n, int32_t last)
{
    for (int64_t i = 0; i < n; i++) row[at++] = (int32_t)b->ids[i];
    row[at++] = last;
    return at;
}

/* a and, if `pair`, b into a row of `length`; returns how many of it are used. */
static int32_t fill_row(const frame *f, const m2_token_buffer *a, const m2_token_buffer *b, int pair,
                        int64_t length, int32_t *row)
{
    int64_t na = a->count, nb = pair ? b->count : 0, room = length - 2 - pair;
    while (na + nb > room) *(na > nb ? &na : &nb) -= 1;
    row[0] = f->first;
    int32_t used = put(row, 1, a, na, f->last);
    if (pair) used = put(row, used, b, nb, f->last);
    for (int64_t i = used; i < length; i++) row[i] = f->pad;
    return used;
}

static m2_status encode(const m2_glue_task *task, const m2_tsv *file, const m2_tokenizer *t, const frame *f,
                        m2_token_buffer *a, m2_token_buffer *b, int64_t i, m2_glue_rows *out)
{
    const struct m2_tsv_row *row = &file->row[i];
    a->count = b->count = 0;
    M2_TRY(m2_tokenizer_encode(t, row->cell[1], strlen(row->cell[1]), a));
    if (task->second) M2_TRY(m2_tokenizer_encode(t, row->cell[2], strlen(row->cell[2]), b));
    int32_t *tokens = out->tokens + out->n * out->length;
    out->used[out->n++] = fill_row(f, a, b, task->second != NULL, out->length, tokens);
    return M2_OK;
}

static m2_status encode_all(const m2_glue_task *task, const char *path, const m2_tsv *file,
                            const m2_tokenizer *t, int skip_errors, m2_glue_rows *out)
{
    frame f = {0};
    m2_token_buffer a = {0}, b = {0};
    m2_status st = find_frame(t, &f);
    for (int64_t i = 0; i < file->rows && st == M2_OK; i++) {
        if (parse_label(task, file->row[i].cell[0], &out->label[out->n])) {
            st = encode(task, file, t, &f, &a, &b, i, out);
        } else if (skip_errors) {
            out->skipped++;
        } else {
            st =
                m2_fail(M2_DATA, "%s:%" PRId64 ": '%.40s' in column %s is no label of this task: expected %s",
                        path, file->row[i].line, file->row[i].cell[0], task->label,
                        *task->labels ? task->labels : "a number");
        }
    }
    m2_token_buffer_free(&a);
    m2_token_buffer_free(&b);
    return st;
}

static m2_status make_rows(const m2_glue_task *task, const char *path, const m2_tsv *file,
                           const m2_tokenizer *t, int64_t length, int skip_errors, m2_glue_rows *out)
{
    size_t n = (size_t)file->rows;
    out->length = length;
    out->skipped = file->skipped;
    out->tokens = malloc(n * (size_t)length * sizeof *out->tokens + 1);
    out->used = malloc(n * sizeof *out->used + 1);
    out->label = malloc(n * sizeof *out->label + 1);
    if (!out->tokens || !out->used || !out->label)
        return m2_fail(M2_TRANSIENT, "out of memory for the %zu rows of %s", n, path);
    M2_TRY(encode_all(task, path, file, t, skip_errors, out));
    return out->n ? M2_OK : m2_fail(M2_DATA, "%s has no rows", path);
}

m2_status m2_glue_read(const m2_glue_task *task, const char *path, const m2_tokenizer *t, int64_t length,
                       int skip_errors, m2_glue_rows *out)
{
    const char *names[] = {task->label, task->first, task->second};
    m2_tsv file;
    *out = (m2_glue_rows){0};
    if (length < 4) return m2_fail(M2_USAGE, "rows of %" PRId64 " tokens have no room for a pair", length);
    m2_status st = m2_tsv_read(path, task->second ? 3 : 2, names, task->width, skip_errors, &file);
    if (st == M2_OK) st = make_rows(task, path, &file, t, length, skip_errors, out);
    m2_tsv_free(&file);
    return st;
}

void m2_glue_rows_free(m2_glue_rows *rows)
{
    free(rows->tokens);
    free(rows->used);
    free(rows->label);
    *rows = (m2_glue_rows){0};
}
