#include "data/prepare.h"
#include "data/documents.h"
#include "kernels/base/log.h"
#include "kernels/base/rng.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

/* A job goes round: free -> filled by the reader -> tokenised by a worker -> written in order -> free. The reader and the
 * writer are the calling thread, which is never far behind: both are fast beside tokenising. */
typedef struct document {
    int64_t end, bytes; /* behind its last token in the job's ids; of text */
    XXH128_hash_t hash;
    int ends;
} document;

typedef struct job {
    m2_text_block block;
    m2i_documents texts;
    m2_token_buffer ids;
    document *documents;
    int64_t capacity;
    int done;
    m2_error error;
} job;

typedef struct pipeline {
    const m2_prepare_spec *spec;
    m2_prepare_report *report;
    m2_text_reader *reader;
    m2_token_writer *writer[2]; /* training, validation */
    job *jobs;
    int64_t depth, submitted, taken, written;
    pthread_t *threads;
    int started, stop;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    int64_t numbered;    /* .jsonl documents met: what draws the validation set */
    int64_t open_bytes;  /* of the text whose end has not come yet */
    XXH128_hash_t *seen; /* hash table for dedup; all 0 = empty */
    uint64_t seen_count, seen_slots;
    double started_at, shown_at;
} pipeline;

/* ---- tokenising -------------------------------------------------------------------------------------------------- */
static m2_status tokenise(const m2_prepare_spec *spec, job *j)
{
    M2_TRY(m2i_documents_read(&j->texts, &j->block, spec->field ? spec->field : "text", spec->skip_errors));
    if (j->texts.count > j->capacity) {
        document *more = realloc(j->documents, (size_t)j->texts.count * sizeof *more);
        if (!more) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " documents", j->texts.count);
        j->documents = more;
        j->capacity = j->texts.count;
    }
    j->ids.count = 0;
    for (int64_t i = 0; i < j->texts.count; i++) {
        const m2i_document *d = &j->texts.items[i];
        const char *text = j->texts.text + d->start;
        M2_TRY(m2_tokenizer_encode(spec->tokenizer, text, d->size, &j->ids));
        j->documents[i] = (document){j->ids.count, (int64_t)d->size, {0, 0}, d->ends};
        if (spec->dedup) j->documents[i].hash = XXH3_128bits(text, d->size);
    }
    return M2_OK;
}

static void *work(void *arg)
{
    pipeline *p = arg;
    void *scratch = NULL; /* the words a tokenizer has met: kept from job to job, warm in this core's cache */
    for (;;) {
        pthread_mutex_lock(&p->lock);
        while (!p->stop && p->taken == p->submitted) pthread_cond_wait(&p->work, &p->lock);
        if (p->stop) {
            pthread_mutex_unlock(&p->lock);
            m2_token_buffer_free(&(m2_token_buffer){.scratch = scratch});
            return NULL;
        }
        job *j = &p->jobs[p->taken++ % p->depth];
        pthread_mutex_unlock(&p->lock);
        j->ids.scratch = scratch;
        m2_status st = tokenise(p->spec, j);
        scratch = j->ids.scratch;
        j->ids.scratch = NULL;
        pthread_mutex_lock(&p->lock);
        m2_error_take(&j->error, st);
        j->done = 1;
        pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */
/* Is the hash a new one? Then it is kept. */
static m2_status first_seen(pipeline *p, XXH128_hash_t h, int *fresh)
{
    if (2 * p->seen_count >= p->seen_slots) {
        uint64_t slots = p->seen_slots ? 2 * p->seen_slots : 1 << 16;
        XXH128_hash_t *table = calloc(slots, sizeof *table), *old = p->seen;
        if (!table)
            return m2_fail(M2_TRANSIENT, "out of memory for the hashes of %" PRIu64 " documents",
                           p->seen_count);
        for (uint64_t i = 0; i < p->seen_slots; i++) {
            uint64_t at = old[i].low64 & (slots - 1);
            if (!old[i].low64 && !old[i].high64) continue;
            while (table[at].low64 || table[at].high64) at = (at + 1) & (slots - 1);
            table[at] = old[i];
        }
        free(old);
        p->seen = table;
        p->seen_slots = slots;
    }
    uint64_t at = h.low64 & (p->seen_slots - 1);
    for (; p->seen[at].low64 || p->seen[at].high64; at = (at + 1) & (p->seen_slots - 1))
        if (XXH128_isEqual(p->seen[at], h)) {
            *fresh = 0;
            return M2_OK;
        }
    p->seen[at] = h;
    p->seen_count++;
    *fresh = 1;
    return M2_OK;
}

/* Validation or training? Texts know it (tail); .jsonl documents are drawn by their number. */
static m2_token_writer *choose_writer(pipeline *p, const job *j)
{
    if (!p->writer[1]) return p->writer[0];
    if (!j->block.jsonl) return p->writer[j->block.tail];
    static const m2_rng_key key = {{0x6d32, 0x76616c}};
    return p->writer[m2_rng_uniform(key, (uint64_t)p->numbered) < p->spec->val_fraction];
}

static m2_status write_document(pipeline *p, const job *j, const document *d, int64_t from)
{
    m2_token_writer *w = choose_writer(p, j);
    int fresh = 1;
    if (j->block.jsonl) {
        p->numbered++;
        if (p->spec->dedup && d->bytes) M2_TRY(first_seen(p, d->hash, &fresh));
    }
    p->open_bytes += d->bytes;
    int empty = d->ends && !p->open_bytes;
    p->report->duplicates += !fresh;
    p->report->empty += empty;
    if (d->ends) p->open_bytes = 0;
    if (!fresh || empty) return M2_OK;
    M2_TRY(m2_token_writer_add(w, j->ids.ids + from, d->end - from, d->bytes));
    return d->ends ? m2_token_writer_end_document(w) : M2_OK;
}

static m2_status write_job(pipeline *p, job *j)
{
    if (j->error.code != M2_OK) return m2_error_put(&j->error);
    if (j->texts.skipped && !p->report->skipped)
        memcpy(p->report->first_skipped, j->texts.first_skipped, sizeof p->report->first_skipped);
    p->report->skipped += j->texts.skipped;
    for (int64_t i = 0; i < j->texts.count; i++)
        M2_TRY(write_document(p, j, &j->documents[i], i ? j->documents[i - 1].end : 0));
    return M2_OK;
}

static void show(pipeline *p, int always)
{
    double now = m2_now();
    m2_prepare_report *r = p->report;
    r->seconds = now - p->started_at;
    r->consumed = m2_text_reader_consumed(p->reader);
    r->out = m2_token_writer_info(p->writer[0]);
    if (p->writer[1]) r->val = m2_token_writer_info(p->writer[1]);
    if (!p->spec->progress || (!always && now - p->shown_at < 0.25)) return;
    p->shown_at = now;
    p->spec->progress(p->spec->ctx, r);
}

/* Waits for the oldest job and writes it. */
static m2_status retire(pipeline *p)
{
    job *j = &p->jobs[p->written % p->depth];
    pthread_mutex_lock(&p->lock);
    while (!j->done) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
    m2_status st = write_job(p, j);
    p->written++;
    if (st == M2_OK) show(p, 0);
    return st;
}

static m2_status run(pipeline *p)
{
    for (int more = 1; more;) {
        if (p->submitted - p->written == p->depth) M2_TRY(retire(p));
        job *j = &p->jobs[p->submitted % p->depth];
        M2_TRY(m2_text_reader_next(p->reader, &j->block, &more));
        if (!more) break;
        j->done = 0;
        pthread_mutex_lock(&p->lock);
        p->submitted++;
        pthread_cond_signal(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    while (p->written < p->submitted) M2_TRY(retire(p));
    return M2_OK;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status open_pipeline(pipeline *p)
{
    const m2_prepare_spec *s = p->spec;
    M2_TRY(m2_text_reader_open(s->files, &p->reader));
    if (s->val_out) m2_text_reader_split(p->reader, s->val_fraction);
    M2_TRY(m2_token_writer_create(s->out, s->tokenizer, &p->writer[0]));
    if (s->val_out) M2_TRY(m2_token_writer_create(s->val_out, s->tokenizer, &p->writer[1]));
    p->depth = 2 * s->threads + 2;
    p->jobs = calloc((size_t)p->depth, sizeof *p->jobs);
    p->threads = calloc((size_t)s->threads, sizeof *p->threads);
    if (!p->jobs || !p->threads) return m2_fail(M2_TRANSIENT, "out of memory for %d threads", s->threads);
    for (; p->started < s->threads; p->started++)
        if (pthread_create(&p->threads[p->started], NULL, work, p))
            return m2_fail(M2_TRANSIENT, "cannot start thread %d of %d: the system allows no more",
                           p->started + 1, s->threads);
    return M2_OK;
}

static void close_pipeline(pipeline *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = 1;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++) pthread_join(p->threads[i], NULL);
    for (int64_t i = 0; p->jobs && i < p->depth; i++) {
        free(p->jobs[i].block.data);
        free(p->jobs[i].documents);
        m2i_documents_free(&p->jobs[i].texts);
        m2_token_buffer_free(&p->jobs[i].ids);
    }
    free(p->jobs);
    free(p->threads);
    free(p->seen);
    m2_token_writer_close(&p->writer[1]);
    m2_token_writer_close(&p->writer[0]);
    m2_text_reader_close(&p->reader);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
}

static m2_status commit(pipeline *p)
{
    show(p, 1);
    if (!p->report->out.documents)
        return m2_fail(M2_DATA, "the input holds no document with any text, so %s is not written",
                       p->spec->out);
    if (p->writer[1] && !p->report->val.documents)
        return m2_fail(M2_DATA,
                       "no document of %" PRId64
                       " came into the validation set of fraction %g: raise --val-fraction",
                       p->report->out.documents, p->spec->val_fraction);
    for (int i = 0; i < 2; i++)
        for (const char *const *n = p->spec->notes; p->writer[i] && n && *n; n += 2)
            M2_TRY(m2_token_writer_note(p->writer[i], n[0], n[1]));
    if (p->writer[1]) M2_TRY(m2_token_writer_commit(&p->writer[1]));
    return m2_token_writer_commit(&p->writer[0]);
}

m2_status m2_prepare(const m2_prepare_spec *spec, m2_prepare_report *out)
{
    memset(out, 0, sizeof *out);
    M2_CHECK(spec->threads >= 1 && spec->files && spec->tokenizer && spec->out);
    pipeline p = {.spec = spec, .report = out, .started_at = m2_now()};
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.work, NULL);
    pthread_cond_init(&p.done, NULL);
    m2_status st = open_pipeline(&p);
    if (st == M2_OK) st = run(&p);
    if (st == M2_OK) st = commit(&p);
    out->seconds = m2_now() - p.started_at;
    close_pipeline(&p);
    return st;
}

/* ---- the text alone ---------------------------------------------------------------------------------------------- */
struct m2_prepare_text {
    const m2_prepare_spec *spec;
    m2_text_reader *reader;
    m2_text_block block;
    m2i_documents documents;
    int64_t next;
    m2_error error;
};

m2_status m2_prepare_text_open(const m2_prepare_spec *spec, m2_prepare_text **out)
{
    m2_prepare_text *t = *out = calloc(1, sizeof *t);
    if (!t) return m2_fail(M2_TRANSIENT, "out of memory for reading text");
    t->spec = spec;
    m2_status st = m2_text_reader_open(spec->files, &t->reader);
    m2_error_take(&t->error, st);
    return st == M2_OK ? M2_OK : m2_prepare_text_close(out);
}

int m2_prepare_text_next(void *text, const char **data, size_t *bytes)
{
    m2_prepare_text *t = text;
    m2_status st = M2_OK;
    for (int more = 1; st == M2_OK && more && t->next == t->documents.count; t->next = 0) {
        st = m2_text_reader_next(t->reader, &t->block, &more);
        t->documents.count = 0;
        if (st == M2_OK && more)
            st = m2i_documents_read(&t->documents, &t->block, t->spec->field ? t->spec->field : "text",
                                    t->spec->skip_errors);
        if (st != M2_OK) m2_error_take(&t->error, st);
        if (st == M2_OK && !more) return 0;
    }
    if (st != M2_OK || t->error.code != M2_OK) return 0;
    const m2i_document *d = &t->documents.items[t->next++];
    *data = t->documents.text + d->start;
    *bytes = d->size;
    return 1;
}

m2_status m2_prepare_text_close(m2_prepare_text **tp)
{
    m2_prepare_text *t = *tp;
    *tp = NULL;
    if (!t) return M2_OK;
    m2_text_reader_close(&t->reader);
    free(t->block.data);
    m2i_documents_free(&t->documents);
    m2_status st = t->error.code == M2_OK ? M2_OK : m2_error_put(&t->error);
    free(t);
    return st;
}
