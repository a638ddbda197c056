#define _GNU_SOURCE /* asprintf */
#include "data/prepare.h"
#include "data/documents.h"
#include "data/prepare_pieces.h"
#include "kernels/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { PIECE_BLOCKS = 8 };

/* A job goes round: free -> filled by the reader -> tokenised by a worker -> put into its piece in order -> free. The reader
 * and the writer are the calling thread, which is fast beside tokenising. */
typedef struct job {
    m2_text_block block;
    m2i_documents texts;
    m2_token_buffer ids;
    m2i_piece_document *documents;
    int64_t capacity;
    int done;
    m2_error error;
} job;

typedef struct pipeline {
    const m2_prepare_spec *spec;
    m2_prepare_report *report;
    m2_text_reader *reader;
    char *folder;
    int64_t width;
    m2i_piece piece, probe; /* being filled; being looked for */
    m2i_hash128 identity;   /* of the pieces of file `identified` */
    int64_t identified;
    uint8_t *finished; /* files of which all pieces are there */
    int by_file;       /* shares are whole files, else every count-th piece of each */
    job *jobs;
    int64_t depth, submitted, taken, written;
    pthread_t *threads;
    int started, stop;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    double started_at, shown_at;
} pipeline;

/* ---- pieces ------------------------------------------------------------------------------------------------------ */
m2_status m2i_prepare_folder(const m2_prepare_spec *spec, char **folder)
{
    if (asprintf(folder, "%s.parts", spec->out) >= 0) return M2_OK;
    *folder = NULL;
    return m2_fail(M2_TRANSIENT, "out of memory for the name %s.parts", spec->out);
}

m2_status m2i_prepare_identity(const m2_prepare_spec *spec, int64_t file, m2i_hash128 *out)
{
    const char *path = spec->files->paths[file];
    struct stat s = {0};
    char hash[33], *text;
    if (strcmp(path, "-") && stat(path, &s))
        return m2_fail(M2_IO, "cannot open %s: %s", path, strerror(errno));
    m2_tokenizer_hash(spec->tokenizer, hash);
    int n = asprintf(&text, "%s\n%" PRId64 " %" PRId64 ".%ld %s %s %d %d %g %d", path, (int64_t)s.st_size,
                     (int64_t)s.st_mtim.tv_sec, s.st_mtim.tv_nsec, hash, spec->field ? spec->field : "text",
                     spec->skip_errors, (int)spec->files->format, spec->val_out ? spec->val_fraction : 0,
                     PIECE_BLOCKS);
    if (n < 0) return m2_fail(M2_TRANSIENT, "out of memory for the name %s", path);
    XXH128_hash_t h = XXH3_128bits(text, (size_t)n);
    *out = (m2i_hash128){h.low64, h.high64};
    free(text);
    return M2_OK;
}

static m2_status identify(pipeline *p, int64_t file)
{
    if (p->identified == file) return M2_OK;
    p->identified = -1;
    M2_TRY(m2i_prepare_identity(p->spec, file, &p->identity));
    p->identified = file;
    return M2_OK;
}

static int in_share(const pipeline *p, int64_t file, int64_t number)
{
    return (p->by_file ? file : file + number) % p->spec->count == p->spec->index;
}

static int is_stream(const pipeline *p, int64_t file)
{
    return !strcmp(p->spec->files->paths[file], "-");
}

static int wants_file(void *ctx, int64_t file)
{
    const pipeline *p = ctx;
    return !p->finished[file] && (!p->by_file || in_share(p, file, 0));
}

/* Which files need not be read, because an earlier try finished them. */
static m2_status survey(pipeline *p)
{
    const m2_text_files *files = p->spec->files;
    p->finished = calloc((size_t)files->count + 1, 1);
    if (!p->finished) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " files", files->count);
    for (int64_t f = 0; f < files->count; f++) {
        int found = 1;
        int64_t mine = 0;
        if (!wants_file(p, f) || is_stream(p, f)) continue;
        M2_TRY(identify(p, f));
        for (int64_t k = 0; found && !p->finished[f]; k++) {
            M2_TRY(m2i_piece_read(&p->probe, p->folder, f, k, p->identity, &found));
            p->finished[f] = found && p->probe.last;
            mine += found && in_share(p, f, k);
        }
        struct stat s;
        if (p->finished[f])
            p->report->kept += mine;
        else if (!stat(files->paths[f], &s))
            p->report->share += s.st_size;
    }
    return M2_OK;
}

/* ---- tokenising -------------------------------------------------------------------------------------------------- */
static m2_status tokenise(const m2_prepare_spec *spec, job *j)
{
    M2_TRY(m2i_documents_read(&j->texts, &j->block, spec->field ? spec->field : "text", spec->skip_errors));
    if (j->texts.count > j->capacity) {
        m2i_piece_document *more = realloc(j->documents, (size_t)j->texts.count * sizeof *more);
        if (!more) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " documents", j->texts.count);
        j->documents = more;
        j->capacity = j->texts.count;
    }
    j->ids.count = 0;
    for (int64_t i = 0; i < j->texts.count; i++) {
        const m2i_document *d = &j->texts.items[i];
        const char *text = j->texts.text + d->start;
        int64_t before = j->ids.count;
        M2_TRY(m2_tokenizer_encode(spec->tokenizer, text, d->size, &j->ids));
        XXH128_hash_t h = XXH3_128bits(text, d->size);
        j->documents[i] =
            (m2i_piece_document){j->ids.count - before, (int64_t)d->size, {h.low64, h.high64}, 0};
        j->documents[i].flags = (d->ends ? M2I_PIECE_ENDS : 0) | (j->block.tail ? M2I_PIECE_TAIL : 0) |
                                (j->block.jsonl ? M2I_PIECE_LINE : 0);
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
static void show(pipeline *p, int always)
{
    double now = m2_now();
    p->report->seconds = now - p->started_at;
    p->report->consumed = m2_text_reader_consumed(p->reader);
    if (!p->spec->progress || (!always && now - p->shown_at < 0.25)) return;
    p->shown_at = now;
    p->spec->progress(p->spec->ctx, p->report);
}

static m2_status write_job(pipeline *p, job *j)
{
    const m2_text_block *b = &j->block;
    if (j->error.code != M2_OK) return m2_error_put(&j->error);
    M2_TRY(identify(p, b->file));
    if (b->index % PIECE_BLOCKS == 0) m2i_piece_begin(&p->piece, p->identity, p->width);
    if (j->texts.skipped && !p->piece.skipped)
        memcpy(p->piece.first_skipped, j->texts.first_skipped, sizeof p->piece.first_skipped);
    p->piece.skipped += j->texts.skipped;
    const uint32_t *ids = j->ids.ids;
    for (int64_t i = 0; i < j->texts.count; ids += j->documents[i++].tokens)
        M2_TRY(m2i_piece_add(&p->piece, &j->documents[i], ids));
    p->report->tokenised += j->ids.count;
    if (!b->ends_file && (b->index + 1) % PIECE_BLOCKS) return M2_OK;
    p->piece.last = b->ends_file;
    return m2i_piece_write(&p->piece, p->folder, b->file, b->index / PIECE_BLOCKS);
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

/* Is this block's piece still to be made, and by this process? Asked for every block of a piece in order. */
static m2_status is_due(pipeline *p, const m2_text_block *b, int *due)
{
    int found = 0;
    int64_t number = b->index / PIECE_BLOCKS;
    if (b->index % PIECE_BLOCKS) return M2_OK; /* as its first block */
    *due = in_share(p, b->file, number);
    if (!*due || is_stream(p, b->file)) return M2_OK;
    M2_TRY(identify(p, b->file));
    M2_TRY(m2i_piece_read(&p->probe, p->folder, b->file, number, p->identity, &found));
    p->report->kept += found;
    *due = !found;
    return M2_OK;
}

static m2_status run(pipeline *p)
{
    int due = 0;
    for (int more = 1; more;) {
        if (p->submitted - p->written == p->depth) M2_TRY(retire(p));
        job *j = &p->jobs[p->submitted % p->depth];
        M2_TRY(m2_text_reader_next(p->reader, &j->block, &more));
        if (!more) break;
        M2_TRY(is_due(p, &j->block, &due));
        if (!due) continue;
        j->done = 0;
        pthread_mutex_lock(&p->lock);
        p->submitted++;
        pthread_cond_signal(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    while (p->written < p->submitted) M2_TRY(retire(p));
    show(p, 1);
    return M2_OK;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status open_pipeline(pipeline *p)
{
    const m2_prepare_spec *s = p->spec;
    p->width = m2_token_width(m2_tokenizer_vocab(s->tokenizer));
    p->by_file = s->files->count >= 4 * s->count;
    p->identified = -1;
    M2_TRY(m2i_prepare_folder(s, &p->folder));
    M2_TRY(m2i_pieces_make_folder(p->folder));
    M2_TRY(survey(p));
    M2_TRY(m2_text_reader_open(s->files, &p->reader));
    m2_text_reader_choose(p->reader, wants_file, p);
    if (s->val_out) m2_text_reader_split(p->reader, s->val_fraction);
    if (s->skip_errors) m2_text_reader_tolerate(p->reader);
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
    free(p->finished);
    m2i_piece_free(&p->piece);
    m2i_piece_free(&p->probe);
    free(p->folder);
    m2_text_reader_close(&p->reader);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
}

m2_status m2_prepare_tokenise(const m2_prepare_spec *spec, m2_prepare_report *out)
{
    memset(out, 0, sizeof *out);
    M2_CHECK(spec->threads >= 1 && spec->files && spec->tokenizer && spec->out);
    M2_CHECK(spec->index >= 0 && spec->index < spec->count);
    pipeline p = {.spec = spec, .report = out, .started_at = m2_now()};
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.work, NULL);
    pthread_cond_init(&p.done, NULL);
    m2_status st = open_pipeline(&p);
    if (st == M2_OK) st = run(&p);
    out->seconds = m2_now() - p.started_at;
    if (st != M2_OK && p.folder)
        m2i_pieces_remove_folder(p.folder, 1); /* else others may be about to write there */
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
    if (st == M2_OK && spec->skip_errors) m2_text_reader_tolerate(t->reader);
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
