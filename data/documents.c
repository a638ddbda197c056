#include "data/documents.h"
#include "data/json_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static m2_status add(m2i_documents *d, m2i_document item)
{
    if (d->count == d->capacity) {
        d->capacity = 2 * d->capacity + 64;
        m2i_document *more = realloc(d->items, (size_t)d->capacity * sizeof *more);
        if (!more) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " documents", d->capacity);
        d->items = more;
    }
    d->items[d->count++] = item;
    return M2_OK;
}

/* A text is never longer than the line that spells it: the buffer, as large as the block, is always enough. */
static m2_status read_line(m2i_documents *d, const char *line, size_t n, size_t *used, const char *field,
                           const char *path, int64_t number)
{
    size_t size, at;
    int found;
    const char *wrong = m2i_json_text(line, n, field, d->buffer + *used, &size, &found, &at);
    if (wrong) return m2_fail(M2_DATA, "%s:%" PRId64 ": not JSON, at byte %zu: %s", path, number, at, wrong);
    if (!found)
        return m2_fail(M2_DATA, "%s:%" PRId64 ": no text under \"%s\" (another name is given with --field)",
                       path, number, field);
    *used += size;
    return add(d, (m2i_document){*used - size, size, 1});
}

static int is_blank(const char *p, size_t n)
{
    while (n && (p[n - 1] == ' ' || (p[n - 1] >= '\t' && p[n - 1] <= '\r'))) n--;
    return n == 0;
}

static m2_status read_lines(m2i_documents *d, const m2_text_block *b, const char *field, int skip_errors)
{
    if (b->size > d->buffer_capacity) {
        char *buffer = realloc(d->buffer, b->size);
        if (!buffer) return m2_fail(M2_TRANSIENT, "out of memory for %zu bytes of text", b->size);
        d->buffer = buffer;
        d->buffer_capacity = b->size;
    }
    d->text = d->buffer;
    size_t used = 0;
    int64_t number = b->line;
    for (const char *p = b->data, *end = p + b->size, *next; p < end; p = next + 1, number++) {
        next = memchr(p, '\n', (size_t)(end - p));
        if (!next) next = end;
        if (is_blank(p, (size_t)(next - p))) continue;
        m2_status st = read_line(d, p, (size_t)(next - p), &used, field, b->path, number);
        if (st == M2_DATA && skip_errors) {
            if (!d->skipped++) snprintf(d->first_skipped, sizeof d->first_skipped, "%s", m2_message());
        } else if (st != M2_OK)
            return st;
    }
    return M2_OK;
}

m2_status m2i_documents_read(m2i_documents *d, const m2_text_block *b, const char *field, int skip_errors)
{
    d->count = d->skipped = 0;
    if (b->jsonl) return read_lines(d, b, field, skip_errors);
    d->text = b->data;
    return b->size || b->ends_document ? add(d, (m2i_document){0, b->size, b->ends_document}) : M2_OK;
}

void m2i_documents_free(m2i_documents *d)
{
    free(d->buffer);
    free(d->items);
    memset(d, 0, sizeof *d);
}
