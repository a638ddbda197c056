/* lane.c - exchanges beside the rest: running.
 *
 * Over a transport that blocks its caller (MPI, threads) a thread of the lane does, on a stream of its own where there is a
 * GPU; NCCL takes the stream alone. The program's stream hands over and takes back by events. */
#include "parallel/comm.h"
#include "parallel/watch.h"
#include "runtime/program/internal.h"
#include "kernels/base/log.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct m2i_lane {
    int threaded;
    m2_stream *stream;
    m2_event **ready, **ran; /* of each call on the lane: what it reads is there; it is done */
    int64_t *ticket;         /* how many were posted when this one was */
    int *queue, room;        /* calls posted in this run, at most all */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int64_t posted, done;
    int started, ending;
    m2_error failed;
} m2i_lane;

/* ---- the thread -------------------------------------------------------------------------------------------------- */
static m2_status run(m2_program *p, int i)
{
    m2i_bound *b = &p->b;
    M2_TRY(m2i_run_call(p, i, b->lane->stream));
    return b->device->api->event_record(b->device, b->lane->ran[i], b->lane->stream);
}

/* After a failure the rest is passed over: whoever waits is told. */
static void *work(void *arg)
{
    m2_program *p = arg;
    m2i_lane *l = p->b.lane;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (l->done == l->posted && !l->ending) pthread_cond_wait(&l->moved, &l->lock);
        if (l->done == l->posted) break;
        int i = l->queue[l->done % l->room], skip = l->failed.code != M2_OK;
        pthread_mutex_unlock(&l->lock);
        m2_status st = skip ? M2_OK : run(p, i);
        if (st != M2_OK) st = m2_context(st, "%s (%s)", p->calls[i].path, p->calls[i].op->name);
        pthread_mutex_lock(&l->lock);
        if (st != M2_OK) m2_error_take(&l->failed, st);
        l->done++;
        pthread_cond_broadcast(&l->moved);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status make_events(m2_program *p, m2i_lane *l)
{
    m2_device *dev = p->b.device;
    size_t n = (size_t)p->n_calls;
    l->ready = calloc(2 * n, sizeof *l->ready);
    l->ticket = calloc(n, sizeof *l->ticket);
    l->queue = calloc(n, sizeof *l->queue);
    if (!l->ready || !l->ticket || !l->queue)
        return m2_fail(M2_TRANSIENT, "out of memory for exchanges beside the rest");
    l->ran = l->ready + n;
    l->room = p->n_calls;
    for (size_t i = 0; i < n; i++) {
        if (!p->calls[i].beside) continue;
        M2_TRY(dev->api->event_create(dev, &l->ready[i]));
        M2_TRY(dev->api->event_create(dev, &l->ran[i]));
    }
    return M2_OK;
}

m2_status m2i_lane_open(m2_program *p)
{
    m2_comm *comm = p->spec.sequence.context;
    int any = 0;
    for (int i = 0; i < p->n_calls; i++) any |= p->calls[i].beside;
    if (!any) return M2_OK;
    m2i_lane *l = p->b.lane = calloc(1, sizeof *l);
    if (!l) return m2_fail(M2_TRANSIENT, "out of memory for exchanges beside the rest");
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->moved, NULL);
    M2_TRY(p->b.device->api->stream_create(p->b.device, &l->stream));
    M2_TRY(make_events(p, l));
    l->threaded = strcmp(comm->api->kind, "nccl") != 0;
    if (!l->threaded) return M2_OK;
    comm->patient = 1;
    l->started = pthread_create(&l->thread, NULL, work, p) == 0;
    return l->started ? M2_OK : m2_fail(M2_TRANSIENT, "a thread for exchanges did not start");
}

void m2i_lane_close(m2_program *p)
{
    m2i_lane *l = p->b.lane;
    m2_device *dev = p->b.device;
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->ending = 1;
    pthread_cond_broadcast(&l->moved);
    pthread_mutex_unlock(&l->lock);
    if (l->started) pthread_join(l->thread, NULL);
    for (int i = 0; l->ready && i < 2 * p->n_calls; i++)
        if (l->ready[i]) dev->api->event_destroy(dev, l->ready[i]);
    if (l->stream) dev->api->stream_destroy(dev, l->stream);
    pthread_cond_destroy(&l->moved);
    pthread_mutex_destroy(&l->lock);
    free(l->queue);
    free(l->ticket);
    free(l->ready);
    free(l);
    p->b.lane = NULL;
}

m2_stream *m2i_lane_stream(m2_program *p)
{
    return p->b.lane ? p->b.lane->stream : p->b.stream;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */
m2_status m2i_lane_post(m2_program *p, int i)
{
    m2i_bound *b = &p->b;
    m2i_lane *l = b->lane;
    const m2_device_api *api = b->device->api;
    M2_TRY(api->event_record(b->device, l->ready[i], b->stream));
    M2_TRY(api->event_wait(b->device, l->ready[i], l->stream));
    if (!l->threaded || b->profile) {
        M2_TRY(run(p, i));
        return b->profile ? api->event_wait(b->device, l->ran[i], b->stream) : M2_OK;
    }
    pthread_mutex_lock(&l->lock);
    l->queue[l->posted++ % l->room] = i;
    l->ticket[i] = l->posted;
    pthread_cond_broadcast(&l->moved);
    pthread_mutex_unlock(&l->lock);
    return M2_OK;
}

static m2_status reach(m2i_lane *l, int64_t ticket)
{
    m2_error failed = {.code = M2_OK};
    double begin = m2_now();
    pthread_mutex_lock(&l->lock);
    while (l->done < ticket) pthread_cond_wait(&l->moved, &l->lock);
    if (l->failed.code != M2_OK) failed = l->failed;
    pthread_mutex_unlock(&l->lock);
    m2_watch_wait(m2_now() - begin);
    return failed.code == M2_OK ? M2_OK : m2_error_put(&failed);
}

m2_status m2i_lane_wait(m2_program *p, int i)
{
    m2i_bound *b = &p->b;
    if (b->profile) return M2_OK;
    if (b->lane->threaded) M2_TRY(reach(b->lane, b->lane->ticket[i]));
    return b->device->api->event_wait(b->device, b->lane->ran[i], b->stream);
}

m2_status m2i_lane_drain(m2_program *p)
{
    int last = p->n_calls - 1;
    if (!p->b.lane) return M2_OK;
    while (!p->calls[last].beside) last--;
    return m2i_lane_wait(p, last);
}
