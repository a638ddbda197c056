/* saver.c - one save at a time, in the background.
 *
 * start    all ranks: the state is copied to host memory; a thread begins to write this rank's file
 * advance  all ranks, when the threads are done: agree; then rank 0's thread writes the manifest and commits
 * advance  all ranks, when rank 0's thread is done: agree; the checkpoint is whole */
#include "kernels/base/log.h"
#include "runtime/checkpoint/internal.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

typedef enum stage { IDLE, WRITING, PUBLISHING } stage;

struct m2_saver {
    const m2_state *state;
    m2_comm *comm;
    m2i_save save;
    int64_t room; /* bytes of save.bytes */
    stage stage;
    pthread_t thread;
    int running;     /* there is a thread to join */
    atomic_int busy; /* it has not finished */
    m2_error result; /* of the thread */
    m2_saver_stats stats;
};

/* ---- the thread -------------------------------------------------------------------------------------------------- */
static void *work(void *arg)
{
    m2_saver *s = arg;
    double begin = m2_now();
    m2_status st = s->stage == WRITING ? m2i_save_write(&s->save) : m2i_save_publish(&s->save);
    *(s->stage == WRITING ? &s->stats.wrote : &s->stats.published) = m2_now() - begin;
    m2_error_take(&s->result, st);
    atomic_store(&s->busy, 0);
    return NULL;
}

/* Signals are for the main thread. */
static m2_status launch(m2_saver *s)
{
    sigset_t all, before;
    sigfillset(&all);
    s->result = (m2_error){.code = M2_OK};
    atomic_store(&s->busy, 1);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    s->running = pthread_create(&s->thread, NULL, work, s) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (s->running) return M2_OK;
    atomic_store(&s->busy, 0);
    return m2_fail(M2_TRANSIENT, "no thread could be started for writing a checkpoint");
}

static m2_status join(m2_saver *s)
{
    if (!s->running) return M2_OK;
    pthread_join(s->thread, NULL);
    s->running = 0;
    return s->result.code == M2_OK ? M2_OK : m2_error_put(&s->result);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
m2_status m2_saver_open(const m2_state *state, m2_comm *comm, m2_saver **out)
{
    m2_saver *s = *out = calloc(1, sizeof *s);
    if (!s) return m2_fail(M2_TRANSIENT, "out of memory for saving checkpoints");
    s->state = state;
    s->comm = comm;
    s->save.rank = comm->rank;
    s->save.ranks = comm->size;
    m2_status st = m2i_slabs_plan(state, comm->rank, comm->size, &s->save.mine);
    s->room = s->stats.bytes = m2i_save_bytes(&s->save.mine);
    void *bytes = NULL;
    if (st == M2_OK) st = state->device->api->alloc(state->device, M2_MEM_HOST, s->room + 1, &bytes);
    s->save.bytes = bytes;
    if (st == M2_OK)
        memset(bytes, 0, (size_t)s->room); /* the system gives the pages now, not while training waits */
    if (st == M2_OK) return M2_OK;
    m2_saver_close(out);
    return m2_context(st, "the host copy of the state that checkpoints are written from");
}

void m2_saver_close(m2_saver **saver)
{
    m2_saver *s = *saver;
    *saver = NULL;
    if (!s) return;
    atomic_store(&s->save.hurry, 1);
    if (s->running) pthread_join(s->thread, NULL);
    if (s->stage != IDLE && s->save.rank == 0) (void)m2i_save_drop(&s->save, M2_OK);
    if (s->save.bytes) s->state->device->api->free(s->state->device, M2_MEM_HOST, s->save.bytes);
    m2_manifest_free(&s->save.mine);
    free(s);
}

/* ---- stages ------------------------------------------------------------------------------------------------------ */
/* All ranks learn the result of this rank's part; a failure ends the save everywhere. */
static m2_status agree(m2_saver *s, m2_status mine)
{
    m2_status st = m2_comm_agree(s->comm, mine);
    if (st == M2_OK) return M2_OK;
    s->stage = IDLE;
    if (s->save.rank == 0) st = m2i_save_drop(&s->save, st);
    st = m2_comm_agree(s->comm, st); /* rank 0 may know better */
    return m2_context(st, "saving checkpoint of step %" PRId64, s->save.spec.step);
}

m2_status m2_saver_start(m2_saver *s, const m2_save_spec *spec)
{
    double begin = m2_now();
    if (s->stage != IDLE) return m2_fail(M2_BUG, "a save was started while one was in flight");
    s->save.spec = *spec;
    atomic_store(&s->save.hurry, 0);
    m2_status st = m2i_save_begin(&s->save, s->state);
    s->stats.copied = m2_now() - begin;
    s->stats.wrote = s->stats.published = 0;
    st = agree(s, st);
    if (st == M2_OK) {
        s->stage = WRITING;
        st = launch(s);
        if (st != M2_OK) { /* reported where the stage ends, on all ranks */
            m2_error_take(&s->result, st);
            st = M2_OK;
        }
    }
    s->stats.stalled = m2_now() - begin;
    return st;
}

int m2_saver_pending(const m2_saver *s)
{
    return s && s->stage != IDLE;
}

int m2_saver_busy(const m2_saver *s)
{
    return s && atomic_load(&s->busy);
}

m2_status m2_saver_advance(m2_saver *s, int64_t *committed)
{
    double begin = m2_now();
    *committed = -1;
    if (s->stage == IDLE) return M2_OK;
    m2_status st = s->running || s->result.code == M2_OK ? join(s) : m2_error_put(&s->result);
    st = agree(s, st);
    if (st == M2_OK && s->stage == WRITING) {
        s->stage = PUBLISHING;
        s->result = (m2_error){.code = M2_OK};
        if (s->save.rank == 0 && (st = launch(s)) != M2_OK) {
            m2_error_take(&s->result, st);
            st = M2_OK;
        }
    } else if (st == M2_OK) {
        s->stage = IDLE;
        *committed = s->save.spec.step;
    }
    s->stats.stalled += m2_now() - begin;
    return st;
}

m2_status m2_saver_wait(m2_saver *s, int64_t *committed)
{
    *committed = -1;
    atomic_store(&s->save.hurry, 1);
    while (m2_saver_pending(s)) M2_TRY(m2_saver_advance(s, committed));
    return M2_OK;
}

m2_saver_stats m2_saver_statistics(const m2_saver *s)
{
    return s->stats;
}

m2_status m2_checkpoint_save(const m2_save_spec *spec, const m2_state *state, m2_comm *comm)
{
    m2_saver *s = NULL;
    int64_t committed;
    m2_status st = m2_comm_agree(comm, m2_saver_open(state, comm, &s));
    if (st == M2_OK) st = m2_saver_start(s, spec);
    if (st == M2_OK) st = m2_saver_wait(s, &committed);
    m2_saver_close(&s);
    return st;
}
