#include "data/loader.h"
#include "data/ring.h"
#include "data/sources.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct m2_loader {
    m2_loader_spec spec;
    m2_loader_at at;
    void *at_ctx;
    m2i_sources sources;
    m2_mixture mixture;
    m2i_ring *ring; /* of batches: tokens (rows, length), targets (rows, length) */
};

/* ---- reading a batch --------------------------------------------------------------------------------------------- */
typedef struct row {
    int store;
    int64_t start, count; /* its tokens in the store */
    int64_t place;        /* row of the batch */
} row;

static int by_start(const void *a, const void *b)
{
    const row *x = a, *y = b;
    if (x->store != y->store) return x->store - y->store;
    return (x->start > y->start) - (x->start < y->start);
}

/* Where document s is; its separator counts. */
static m2_status locate_document(const m2i_source *from, int64_t s, row *r)
{
    int64_t bounds[2], two = 2;
    M2_TRY(m2_store_read(from->store, "/documents", &s, &two, bounds));
    r->start = bounds[0];
    r->count = bounds[1] - bounds[0];
    if (r->count < 1 || bounds[0] < 0 || bounds[1] > from->info.tokens)
        return m2_fail(M2_DATA, "%s: document %" PRId64 " is said to be tokens %" PRId64 " to %" PRId64,
                       from->path, s, bounds[0], bounds[1]);
    return M2_OK;
}

/* Where the tokens of sequence s are. */
static m2_status locate(const m2_loader *l, int64_t s, row *r)
{
    int64_t length = l->spec.length, inner = length - 2;
    m2_row_kind kind = l->spec.frame.kind;
    if (kind == M2_ROWS_STREAM) {
        r->start = s * length;
        r->count = length + 1;
    } else if (kind == M2_ROWS_PACKED) {
        r->start = s * inner;
        r->count = inner;
    } else {
        M2_TRY(locate_document(&l->sources.item[r->store], s, r));
        int64_t most = kind == M2_ROWS_TRUNCATED ? length + 1 : inner;
        r->count -= kind == M2_ROWS_DOCUMENT; /* without the separator */
        if (r->count > most) r->count = most;
    }
    return M2_OK;
}

static void widen(const m2i_source *source, const void *raw, int64_t from, int64_t n, int32_t *to)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = source->tokens.dtype == M2_U16 ? ((const uint16_t *)raw)[from + i]
                                               : (int32_t)((const uint32_t *)raw)[from + i];
}

static void put_row(const m2_loader *l, const row *r, const void *raw, int64_t from, int32_t *batch)
{
    const m2_row_frame *frame = &l->spec.frame;
    const m2i_source *source = &l->sources.item[r->store];
    int64_t length = l->spec.length, n = r->count;
    int32_t *to = batch + r->place * length, *targets = to + l->spec.rows * length;
    if (frame->kind == M2_ROWS_STREAM || frame->kind == M2_ROWS_TRUNCATED) {
        widen(source, raw, from, n - 1, to);
        widen(source, raw, from + 1, n - 1, targets);
        for (int64_t i = n - 1; i < length; i++) to[i] = frame->pad, targets[i] = frame->none;
        for (int64_t i = 0; frame->mask_starts && i < length; i++)
            if (to[i] == source->info.separator) targets[i] = frame->none;
        return;
    }
    to[0] = frame->first;
    widen(source, raw, from, n, to + 1);
    to[1 + n] = frame->last;
    for (int64_t i = n + 2; i < length; i++) to[i] = frame->pad;
}

/* Rows that follow one another in a store are read at once. Scratch: the rows, and the tokens of all of them. */
static m2_status fill(void *ctx, int64_t batch, void *to, void *scratch)
{
    const m2_loader *l = ctx;
    int64_t first = l->at(l->at_ctx, batch), n = l->spec.rows;
    row *rows = scratch;
    void *raw = rows + n;
    for (int64_t i = 0; i < n; i++) {
        int64_t sequence;
        rows[i].place = i;
        m2_mixture_item(&l->mixture, first + i, &rows[i].store, &sequence);
        M2_TRY(locate(l, sequence, &rows[i]));
    }
    qsort(rows, (size_t)n, sizeof *rows, by_start);
    for (int64_t i = 0, end; i < n; i = end) {
        int64_t offset = rows[i].start, stop = offset + rows[i].count;
        int store = rows[i].store;
        for (end = i + 1; end < n && rows[end].store == store && rows[end].start <= stop; end++)
            if (rows[end].start + rows[end].count > stop) stop = rows[end].start + rows[end].count;
        int64_t count = stop - offset;
        if (count > 0) M2_TRY(m2_store_read(l->sources.item[store].store, "/tokens", &offset, &count, raw));
        for (int64_t k = i; k < end; k++) put_row(l, &rows[k], raw, rows[k].start - offset, to);
    }
    return M2_OK;
}

m2_status m2_loader_next(m2_loader *l, int32_t *tokens, int32_t *targets)
{
    const void *batch;
    size_t elements = (size_t)(l->spec.rows * l->spec.length);
    M2_TRY(m2i_ring_hold(l->ring, &batch));
    memcpy(tokens, batch, elements * sizeof *tokens);
    if (l->spec.frame.kind <= M2_ROWS_TRUNCATED)
        memcpy(targets, (const int32_t *)batch + elements, elements * sizeof *targets);
    m2i_ring_release(l->ring);
    return M2_OK;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status check_spec(const m2_loader_spec *spec)
{
    if (spec->length < 1 || spec->rows < 1 || spec->workers < 1 || spec->depth < 0)
        return m2_fail(M2_BUG, "a loader needs length, rows and workers >= 1");
    if (spec->frame.kind > M2_ROWS_TRUNCATED && spec->length < 3)
        return m2_fail(M2_USAGE, "rows of %" PRId64 " tokens have no room between their first and their last",
                       spec->length);
    return M2_OK;
}

static m2_status open_into(m2_loader *l, int64_t first_batch)
{
    const m2_loader_spec *s = &l->spec;
    M2_TRY(check_spec(s));
    M2_TRY(m2i_sources_open(s->path, &l->sources));
    M2_TRY(m2i_sources_mix(&l->sources, s->frame.kind, s->length, s->seed, s->shuffle, &l->mixture));
    size_t rows = (size_t)s->rows, length = (size_t)s->length;
    m2i_ring_spec ring = {.workers = s->workers,
                          .depth = s->depth,
                          .bytes = 2 * rows * length * sizeof(int32_t),
                          .scratch = rows * (sizeof(row) + (length + 1) * sizeof(uint32_t)),
                          .fill = fill,
                          .ctx = l};
    return m2i_ring_open(&ring, first_batch, &l->ring);
}

m2_status m2_loader_open(const m2_loader_spec *spec, m2_loader_at at, void *ctx, int64_t first_batch,
                         m2_loader **out)
{
    m2_loader *l = *out = calloc(1, sizeof *l);
    if (!l) return m2_fail(M2_TRANSIENT, "out of memory for a loader");
    l->spec = *spec;
    l->at = at;
    l->at_ctx = ctx;
    m2_status st = open_into(l, first_batch);
    l->spec.path = NULL; /* the caller's text may go */
    if (st != M2_OK) m2_loader_close(out);
    return st;
}

int64_t m2_token_store_rows(const m2_token_store_info *info, m2_row_kind kind, int64_t length)
{
    if (kind == M2_ROWS_DOCUMENT || kind == M2_ROWS_TRUNCATED) return info->documents;
    if (kind == M2_ROWS_PACKED) return length > 2 ? info->tokens / (length - 2) : 0;
    return (info->tokens - 1) / length;
}

m2_loader_stats m2_loader_statistics(const m2_loader *l)
{
    return m2i_ring_statistics(l->ring);
}

int64_t m2_loader_sequences(const m2_loader *l)
{
    int64_t sum = 0;
    for (int i = 0; i < l->mixture.stores; i++) sum += l->mixture.items[i];
    return sum;
}

void m2_loader_close(m2_loader **lp)
{
    m2_loader *l = *lp;
    *lp = NULL;
    if (!l) return;
    m2i_ring_close(&l->ring);
    m2i_sources_close(&l->sources);
    free(l);
}
