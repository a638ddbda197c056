#include "data/loader.h"
#include "data/sources.h"
#include "kernels/base/log.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

/* Batch i lives in slot i % depth. A worker takes the next batch number, waits until its slot is free, fills it; the
 * consumer waits for its next number. All of the state is behind one mutex, held for a few instructions per batch. */
typedef struct slot {
    int32_t *tokens, *targets;
    int64_t batch; /* the one it is free for, or holds */
    int ready;
    m2_error error; /* code != M2_OK: reading the batch failed */
} slot;

struct m2_loader {
    m2_loader_spec spec;
    m2_loader_at at;
    void *at_ctx;
    m2i_sources sources;
    m2_mixture mixture;
    slot *slots;
    pthread_t *threads;
    int threads_started;
    pthread_mutex_t lock;
    pthread_cond_t filled, freed;
    int64_t next_batch; /* for a worker to take */
    int64_t consumed;   /* the batch that m2_loader_next hands out next */
    int stop;
    m2_loader_stats stats;
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

typedef struct
    reader { /* a worker's scratch: rows of a batch, and the tokens of all of them in the store's type */
    row *rows;
    void *raw;
} reader;

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

static void put_row(const m2_loader *l, const row *r, const void *raw, int64_t from, slot *s)
{
    const m2_row_frame *frame = &l->spec.frame;
    const m2i_source *source = &l->sources.item[r->store];
    int64_t length = l->spec.length, n = r->count;
    int32_t *to = s->tokens + r->place * length, *targets = s->targets + r->place * length;
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

/* Rows that follow one another in a store are read at once. */
static m2_status read_batch(const m2_loader *l, const reader *r, int64_t batch, slot *s)
{
    int64_t first = l->at(l->at_ctx, batch), n = l->spec.rows;
    for (int64_t i = 0; i < n; i++) {
        int64_t sequence;
        r->rows[i].place = i;
        m2_mixture_item(&l->mixture, first + i, &r->rows[i].store, &sequence);
        M2_TRY(locate(l, sequence, &r->rows[i]));
    }
    qsort(r->rows, (size_t)n, sizeof *r->rows, by_start);
    for (int64_t i = 0, end; i < n; i = end) {
        int64_t offset = r->rows[i].start, stop = offset + r->rows[i].count;
        int store = r->rows[i].store;
        for (end = i + 1; end < n && r->rows[end].store == store && r->rows[end].start <= stop; end++)
            if (r->rows[end].start + r->rows[end].count > stop)
                stop = r->rows[end].start + r->rows[end].count;
        int64_t count = stop - offset;
        if (count > 0)
            M2_TRY(m2_store_read(l->sources.item[store].store, "/tokens", &offset, &count, r->raw));
        for (int64_t k = i; k < end; k++) put_row(l, &r->rows[k], r->raw, r->rows[k].start - offset, s);
    }
    return M2_OK;
}

/* ---- workers ----------------------------------------------------------------------------------------------------- */
/* The slot of the next batch, or NULL to end. */
static slot *take(m2_loader *l, int64_t *batch)
{
    pthread_mutex_lock(&l->lock);
    *batch = l->next_batch++;
    slot *s = &l->slots[*batch % l->spec.depth];
    while (!l->stop && s->batch != *batch) pthread_cond_wait(&l->freed, &l->lock);
    int stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    return stop ? NULL : s;
}

static void *work(void *arg)
{
    m2_loader *l = arg;
    int64_t batch;
    reader r = {malloc((size_t)l->spec.rows * sizeof *r.rows),
                malloc((size_t)(l->spec.rows * (l->spec.length + 1)) * sizeof(uint32_t))};
    for (slot *s; (s = take(l, &batch));) {
        m2_status st = r.rows && r.raw ? read_batch(l, &r, batch, s)
                                       : m2_fail(M2_TRANSIENT, "out of memory for reading batches");
        pthread_mutex_lock(&l->lock);
        m2_error_take(&s->error, st);
        s->ready = 1;
        pthread_cond_broadcast(&l->filled);
        pthread_mutex_unlock(&l->lock);
    }
    free(r.rows);
    free(r.raw);
    return NULL;
}

m2_status m2_loader_next(m2_loader *l, int32_t *tokens, int32_t *targets)
{
    slot *s = &l->slots[l->consumed % l->spec.depth];
    double start = m2_now();
    pthread_mutex_lock(&l->lock);
    int waits = !s->ready;
    while (!s->ready) pthread_cond_wait(&l->filled, &l->lock);
    if (waits) l->stats.seconds_waited += m2_now() - start;
    pthread_mutex_unlock(&l->lock);
    if (s->error.code != M2_OK) return m2_error_put(&s->error); /* stays there: the next call fails alike */
    size_t bytes = (size_t)(l->spec.rows * l->spec.length) * sizeof *tokens;
    memcpy(tokens, s->tokens, bytes);
    if (l->spec.frame.kind <= M2_ROWS_TRUNCATED) memcpy(targets, s->targets, bytes);
    pthread_mutex_lock(&l->lock);
    s->ready = 0;
    s->batch += l->spec.depth;
    l->consumed++;
    l->stats.batches++;
    pthread_cond_broadcast(&l->freed);
    pthread_mutex_unlock(&l->lock);
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

static m2_status make_slots(m2_loader *l, int64_t first_batch)
{
    int depth = l->spec.depth;
    size_t elements = (size_t)(l->spec.rows * l->spec.length);
    l->slots = calloc((size_t)depth, sizeof *l->slots);
    l->threads = calloc((size_t)l->spec.workers, sizeof *l->threads);
    int ok = l->slots && l->threads;
    for (int i = 0; i < depth && ok; i++) {
        slot *s = &l->slots[(first_batch + i) % depth];
        s->batch = first_batch + i;
        s->tokens = malloc(elements * sizeof *s->tokens);
        s->targets = malloc(elements * sizeof *s->targets);
        ok = s->tokens && s->targets;
    }
    return ok ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for %d batches of %zu tokens", depth, elements);
}

static m2_status start_threads(m2_loader *l)
{
    for (; l->threads_started < l->spec.workers; l->threads_started++)
        if (pthread_create(&l->threads[l->threads_started], NULL, work, l))
            return m2_fail(M2_TRANSIENT, "cannot start a loader thread: the system allows no more");
    return M2_OK;
}

static m2_status open_into(m2_loader *l, int64_t first_batch)
{
    const m2_loader_spec *s = &l->spec;
    M2_TRY(check_spec(s));
    M2_TRY(m2i_sources_open(s->path, &l->sources));
    M2_TRY(m2i_sources_mix(&l->sources, s->frame.kind, s->length, s->seed, s->shuffle, &l->mixture));
    if (!s->depth) l->spec.depth = 2 * s->workers + 2;
    l->next_batch = l->consumed = first_batch;
    M2_TRY(make_slots(l, first_batch));
    return start_threads(l);
}

m2_status m2_loader_open(const m2_loader_spec *spec, m2_loader_at at, void *ctx, int64_t first_batch,
                         m2_loader **out)
{
    m2_loader *l = *out = calloc(1, sizeof *l);
    if (!l) return m2_fail(M2_TRANSIENT, "out of memory for a loader");
    l->spec = *spec;
    l->at = at;
    l->at_ctx = ctx;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->filled, NULL);
    pthread_cond_init(&l->freed, NULL);
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
    return l->stats;
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
    pthread_mutex_lock(&l->lock);
    l->stop = 1;
    pthread_cond_broadcast(&l->freed);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->threads_started; i++) pthread_join(l->threads[i], NULL);
    for (int i = 0; l->slots && i < l->spec.depth; i++) {
        free(l->slots[i].tokens);
        free(l->slots[i].targets);
    }
    free(l->slots);
    free(l->threads);
    m2i_sources_close(&l->sources);
    pthread_cond_destroy(&l->freed);
    pthread_cond_destroy(&l->filled);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
