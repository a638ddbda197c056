#include "data/ring.h"
#include "kernels/base/log.h"

#include <pthread.h>
#include <stdlib.h>

/* Batch i lives in slot i % depth. A worker takes the next batch number, waits until its slot is free, fills it; the
 * consumer waits for its next number. All of the state is behind one mutex, held for a few instructions per batch. */
typedef struct slot {
    void *data;
    int64_t batch; /* the one it is free for, or holds */
    int ready;
    m2_error error; /* code != M2_OK: making the batch failed */
} slot;

struct m2i_ring {
    m2i_ring_spec spec;
    slot *slots;
    pthread_t *threads;
    int threads_started;
    pthread_mutex_t lock;
    pthread_cond_t filled, freed;
    int64_t next_batch; /* for a worker to take */
    int64_t consumed;   /* the batch that is handed out next */
    int stop;
    m2_loader_stats stats;
};

/* ---- workers ----------------------------------------------------------------------------------------------------- */
/* The slot of the next batch, or NULL to end. */
static slot *take(m2i_ring *r, int64_t *batch)
{
    pthread_mutex_lock(&r->lock);
    *batch = r->next_batch++;
    slot *s = &r->slots[*batch % r->spec.depth];
    while (!r->stop && s->batch != *batch) pthread_cond_wait(&r->freed, &r->lock);
    int stop = r->stop;
    pthread_mutex_unlock(&r->lock);
    return stop ? NULL : s;
}

static void *work(void *arg)
{
    m2i_ring *r = arg;
    int64_t batch;
    void *scratch = malloc(r->spec.scratch + 1);
    for (slot *s; (s = take(r, &batch));) {
        m2_status st = scratch ? r->spec.fill(r->spec.ctx, batch, s->data, scratch)
                               : m2_fail(M2_TRANSIENT, "out of memory for reading batches");
        pthread_mutex_lock(&r->lock);
        m2_error_take(&s->error, st);
        s->ready = 1;
        pthread_cond_broadcast(&r->filled);
        pthread_mutex_unlock(&r->lock);
    }
    free(scratch);
    return NULL;
}

/* ---- the consumer ------------------------------------------------------------------------------------------------ */
m2_status m2i_ring_hold(m2i_ring *r, const void **batch)
{
    slot *s = &r->slots[r->consumed % r->spec.depth];
    double start = m2_now();
    pthread_mutex_lock(&r->lock);
    int waits = !s->ready;
    while (!s->ready) pthread_cond_wait(&r->filled, &r->lock);
    if (waits) r->stats.seconds_waited += m2_now() - start;
    pthread_mutex_unlock(&r->lock);
    *batch = s->data;
    return s->error.code == M2_OK ? M2_OK
                                  : m2_error_put(&s->error); /* stays there: the next call fails alike */
}

void m2i_ring_release(m2i_ring *r)
{
    pthread_mutex_lock(&r->lock);
    slot *s = &r->slots[r->consumed++ % r->spec.depth];
    s->ready = 0;
    s->batch += r->spec.depth;
    r->stats.batches++;
    pthread_cond_broadcast(&r->freed);
    pthread_mutex_unlock(&r->lock);
}

m2_loader_stats m2i_ring_statistics(const m2i_ring *r)
{
    return r->stats;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status start(m2i_ring *r, int64_t first_batch)
{
    int depth = r->spec.depth;
    r->slots = calloc((size_t)depth, sizeof *r->slots);
    r->threads = calloc((size_t)r->spec.workers, sizeof *r->threads);
    int ok = r->slots && r->threads;
    for (int i = 0; i < depth && ok; i++) {
        slot *s = &r->slots[(first_batch + i) % depth];
        s->batch = first_batch + i;
        s->data = malloc(r->spec.bytes);
        ok = s->data != NULL;
    }
    if (!ok) return m2_fail(M2_TRANSIENT, "out of memory for %d batches of %zu bytes", depth, r->spec.bytes);
    for (; r->threads_started < r->spec.workers; r->threads_started++)
        if (pthread_create(&r->threads[r->threads_started], NULL, work, r))
            return m2_fail(M2_TRANSIENT, "cannot start a loader thread: the system allows no more");
    return M2_OK;
}

m2_status m2i_ring_open(const m2i_ring_spec *spec, int64_t first_batch, m2i_ring **out)
{
    m2i_ring *r = *out = calloc(1, sizeof *r);
    if (!r) return m2_fail(M2_TRANSIENT, "out of memory for a loader");
    r->spec = *spec;
    if (!r->spec.depth) r->spec.depth = 2 * r->spec.workers + 2;
    r->next_batch = r->consumed = first_batch;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->filled, NULL);
    pthread_cond_init(&r->freed, NULL);
    m2_status st = start(r, first_batch);
    if (st != M2_OK) m2i_ring_close(out);
    return st;
}

void m2i_ring_close(m2i_ring **rp)
{
    m2i_ring *r = *rp;
    *rp = NULL;
    if (!r) return;
    pthread_mutex_lock(&r->lock);
    r->stop = 1;
    pthread_cond_broadcast(&r->freed);
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; i < r->threads_started; i++) pthread_join(r->threads[i], NULL);
    for (int i = 0; r->slots && i < r->spec.depth; i++) free(r->slots[i].data);
    free(r->slots);
    free(r->threads);
    pthread_cond_destroy(&r->freed);
    pthread_cond_destroy(&r->filled);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
