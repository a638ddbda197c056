#include "data/documents.h"
#include "data/json_text.h"
#include "data/pretokenise.h"

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

/* Room for the block's text, which is never longer than the block. */
static m2_status reserve(m2i_documents *d, size_t bytes)
{
    if (bytes <= d->buffer_capacity) return M2_OK;
    char *buffer = realloc(d->buffer, bytes);
    if (!buffer) return m2_fail(M2_TRANSIENT, "out of memory for %zu bytes of text", bytes);
    d->buffer = buffer;
    d->buffer_capacity = bytes;
    return M2_OK;
}

/* Counts the failure that was just recorded, if it is one of the data and such are skipped. */
static m2_status skip(m2i_documents *d, m2_status st, int skip_errors)
{
    if (st != M2_DATA || !skip_errors) return st;
    if (!d->skipped++) snprintf(d->first_skipped, sizeof d->first_skipped, "%s", m2_message());
    return M2_OK;
}

static m2_status read_lines(m2i_documents *d, const m2_text_block *b, const char *field, int skip_errors)
{
    M2_TRY(reserve(d, b->size));
    d->text = d->buffer;
    size_t used = 0;
    int64_t number = b->line;
    for (const char *p = b->data, *end = p + b->size, *next; p < end; p = next + 1, number++) {
        next = memchr(p, '\n', (size_t)(end - p));
        if (!next) next = end;
        if (is_blank(p, (size_t)(next - p))) continue;
        M2_TRY(skip(d, read_line(d, p, (size_t)(next - p), &used, field, b->path, number), skip_errors));
    }
    return M2_OK;
}

/* Bytes of UTF-8 from p on; eight at a time where they are ASCII. */
static size_t valid_run(const unsigned char *p, const unsigned char *end)
{
    const unsigned char *start = p;
    for (int bytes; p < end; p += bytes) {
        uint64_t eight;
        for (; end - p >= 8; p += 8) {
            memcpy(&eight, p, 8);
            if (eight & 0x8080808080808080u) break;
        }
        if (p == end || m2i_utf8(p, end, &bytes) < 0) break;
    }
    return (size_t)(p - start);
}

/* Blocks of text are never cut inside a character. */
static m2_status read_text(m2i_documents *d, const m2_text_block *b, int skip_errors)
{
    const unsigned char *p = (const unsigned char *)b->data, *end = p + b->size;
    size_t good = b->size ? valid_run(p, end) : 0, used = 0;
    d->text = b->data;
    if (good == b->size)
        return b->size || b->ends_document ? add(d, (m2i_document){0, good, b->ends_document}) : M2_OK;
    M2_TRY(reserve(d, b->size));
    d->text = d->buffer;
    for (;; good = valid_run(p, end)) {
        memcpy(d->buffer + used, p, good);
        used += good;
        p += good;
        if (p == end) return add(d, (m2i_document){0, used, b->ends_document});
        int64_t at = b->offset + (int64_t)(p - (const unsigned char *)b->data);
        M2_TRY(skip(
            d, m2_fail(M2_DATA, "%s: byte %" PRId64 " of the text, 0x%02x, is not UTF-8", b->path, at, *p),
            skip_errors));
        p++;
    }
}

m2_status m2i_documents_read(m2i_documents *d, const m2_text_block *b, const char *field, int skip_errors)
{
    d->count = d->skipped = 0;
    M2_TRY(b->jsonl ? read_lines(d, b, field, skip_errors) : read_text(d, b, skip_errors));
    if (!*b->broken) return M2_OK;
    if (!d->skipped++) snprintf(d->first_skipped, sizeof d->first_skipped, "%s", b->broken);
    return M2_OK;
}

void m2i_documents_free(m2i_documents *d)
{
    free(d->buffer);
    free(d->items);
    memset(d, 0, sizeof *d);
}
