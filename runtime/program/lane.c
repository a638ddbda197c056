/* lane.c - collectives beside the rest: running.
 *
 * A lane has a stream of its own where there is a GPU, and its calls run there in the order of their posting. Over a transport
 * that blocks its caller (MPI, threads) a thread of the lane posts them and waits in the transport, while the program's thread
 * goes on; NCCL takes the stream alone. The program's stream hands over and takes back by events. On a GPU the lane's kernels
 * go first: NCCL's hold processors from their first block on until the last one and those of the other ranks have run. */
#include "parallel/comm.h"
#include "parallel/watch.h"
#include "runtime/program/internal.h"
#include "kernels/base/log.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct m2i_lane {
    m2_program *program;
    int threaded;
    m2_stream *stream;
    m2_event **ready, **ran; /* of each call on the lane: what it reads is there; it is done */
    int64_t *ticket;         /* how many were posted when this one was */
    int last;                /* the call posted last, or -1 */
    int *queue, room;        /* calls posted and not done, at most all */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int64_t posted, done;
    int started, ending;
    m2_error failed;
} m2i_lane;

static m2i_lane *lane_of(const m2_program *p, int i)
{
    return p->b.lane[p->calls[i].lane];
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */
/* The lane's stream waits only now: earlier, the wait would hold up the calls before this one. */
static m2_status run(m2_program *p, int i)
{
    m2i_lane *l = lane_of(p, i);
    const m2_device_api *api = p->b.device->api;
    M2_TRY(api->event_wait(p->b.device, l->ready[i], l->stream));
    m2_status st = m2i_run_call(p, i, l->stream);
    if (st != M2_OK) return m2_context(st, "%s (%s)", p->calls[i].path, p->calls[i].op->name);
    return api->event_record(p->b.device, l->ran[i], l->stream);
}

/* After a failure the rest is passed over: whoever waits is told. */
static void *work(void *arg)
{
    m2i_lane *l = arg;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (l->done == l->posted && !l->ending) pthread_cond_wait(&l->moved, &l->lock);
        if (l->done == l->posted) break;
        int i = l->queue[l->done % l->room], skip = l->failed.code != M2_OK;
        pthread_mutex_unlock(&l->lock);
        m2_status st = skip ? M2_OK : run(l->program, i);
        pthread_mutex_lock(&l->lock);
        if (st != M2_OK) m2_error_take(&l->failed, st);
        l->done++;
        pthread_cond_broadcast(&l->moved);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status make_events(m2_program *p, m2_lane which, m2i_lane *l)
{
    m2_device *dev = p->b.device;
    size_t n = (size_t)p->n_calls;
    l->ready = calloc(2 * n, sizeof *l->ready);
    l->ticket = calloc(n, sizeof *l->ticket);
    l->queue = calloc(n, sizeof *l->queue);
    if (!l->ready || !l->ticket || !l->queue)
        return m2_fail(M2_TRANSIENT, "out of memory for collectives beside the rest");
    l->ran = l->ready + n;
    l->room = p->n_calls;
    for (size_t i = 0; i < n; i++) {
        if (p->calls[i].lane != which) continue;
        M2_TRY(dev->api->event_create(dev, &l->ready[i]));
        M2_TRY(dev->api->event_create(dev, &l->ran[i]));
    }
    return M2_OK;
}

static m2_status open_lane(m2_program *p, m2_lane which, m2_comm *comm)
{
    m2i_lane *l = p->b.lane[which] = calloc(1, sizeof *l);
    if (!l) return m2_fail(M2_TRANSIENT, "out of memory for collectives beside the rest");
    l->program = p;
    l->last = -1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->moved, NULL);
    M2_TRY(p->b.device->api->stream_create(p->b.device, 1, &l->stream));
    M2_TRY(make_events(p, which, l));
    l->threaded = comm->size > 1 && strcmp(comm->api->kind, "nccl") != 0;
    if (!l->threaded) return M2_OK;
    comm->patient = 1;
    l->started = pthread_create(&l->thread, NULL, work, l) == 0;
    return l->started ? M2_OK : m2_fail(M2_TRANSIENT, "a thread for collectives did not start");
}

m2_status m2i_lanes_open(m2_program *p)
{
    m2_comm *comm[M2_LANES] = {NULL};
    for (int i = 0; i < p->n_calls; i++)
        if (p->calls[i].lane) comm[p->calls[i].lane] = p->calls[i].context;
    for (m2_lane l = M2_LANE_COMPUTE + 1; l < M2_LANES; l++)
        if (comm[l]) M2_TRY(open_lane(p, l, comm[l]));
    return M2_OK;
}

static void close_lane(m2_program *p, m2i_lane *l)
{
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
}

void m2i_lanes_close(m2_program *p)
{
    for (int l = 0; l < M2_LANES; l++) {
        close_lane(p, p->b.lane[l]);
        p->b.lane[l] = NULL;
    }
}

m2_stream *m2i_lane_stream(const m2_program *p, m2_lane lane)
{
    return p->b.lane[lane] ? p->b.lane[lane]->stream : p->b.stream;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */
m2_status m2i_lane_post(m2_program *p, int i)
{
    m2i_bound *b = &p->b;
    m2i_lane *l = lane_of(p, i);
    const m2_device_api *api = b->device->api;
    M2_TRY(api->event_record(b->device, l->ready[i], b->stream));
    l->last = i;
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
    m2i_lane *l = lane_of(p, i);
    if (b->profile) return M2_OK;
    if (l->threaded) M2_TRY(reach(l, l->ticket[i]));
    return b->device->api->event_wait(b->device, l->ran[i], b->stream);
}

m2_status m2i_lane_drain(m2_program *p, m2_lane lane)
{
    m2i_lane *l = p->b.lane[lane];
    return l && l->last >= 0 ? m2i_lane_wait(p, l->last) : M2_OK;
}
