/* comm_threads.c - ranks as threads of one process: for tests, sanitizers and dry runs.
 *
 * Ranks publish where their blocks are, meet, and copy what is theirs out of each other's memory. One lock guards the
 * whole job, split communicators included; copies run outside it. A rank that gives up stays until nobody copies from it
 * any more, so its caller may free the memory. */
#include "parallel/verbs.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    pthread_mutex_t lock;
    pthread_cond_t moved; /* anything a waiting rank may wait for */
    int users;            /* groups alive, and whoever makes one; the last frees the job */
    m2_error why;         /* code M2_OK, or why the job was aborted */
} job;

typedef enum mail_state { MAIL_EMPTY, MAIL_FULL, MAIL_TAKEN } mail_state;
typedef struct mail {
    mail_state state;
    const void *data;
    int64_t bytes;
} mail;

/* The ranks of one communicator. */
typedef struct group {
    job *job;
    int size, open;          /* handles not yet closed; the last one frees the group */
    int arrived, copying;    /* ranks in the meeting, ranks reading others' memory */
    uint64_t meeting;        /* meetings held */
    char *gone;              /* [size] handles closed */
    const m2i_block **shown; /* [size] each rank's blocks of the exchange in progress */
    mail *box;               /* [from * size + to] */
    int *colour, *key;       /* [size] of the split in progress */
    m2_comm **child;         /* [size] its results */
} group;

typedef struct rank_state {
    m2i_wire wire;
    group *group;
} rank_state;

static group *group_of(m2_comm *c)
{
    return ((rank_state *)c->state)->group;
}

static m2_status fail(m2_comm *c, m2_status st)
{
    return m2i_wire_fail(&((rank_state *)c->state)->wire, st);
}

/* ---- meeting ----------------------------------------------------------------------------------------------------- */
/* With the lock: leaves it, as failed, when nobody reads this rank's memory any more. */
static m2_status give_up(m2_comm *c, int missing)
{
    group *g = group_of(c);
    m2_error why = g->job->why;
    while (g->copying) pthread_cond_wait(&g->job->moved, &g->job->lock);
    pthread_mutex_unlock(&g->job->lock);
    if (why.code != M2_OK) return fail(c, m2_fail(M2_TRANSIENT, "%s", why.message));
    return fail(c, m2_fail(M2_TRANSIENT, "rank %d waits for rank %d of %d, which has left", c->rank, missing,
                           c->size));
}

static int anyone_gone(const group *g) /* rank, or -1 */
{
    for (int r = 0; r < g->size; r++)
        if (g->gone[r]) return r;
    return -1;
}

/* Returns when all ranks have called it. */
static m2_status meet(m2_comm *c)
{
    group *g = group_of(c);
    job *j = g->job;
    pthread_mutex_lock(&j->lock);
    uint64_t mine = g->meeting;
    if (++g->arrived == g->size) {
        g->arrived = 0;
        g->meeting++;
        pthread_cond_broadcast(&j->moved);
    }
    while (g->meeting == mine) {
        if (j->why.code != M2_OK || anyone_gone(g) >= 0) return give_up(c, anyone_gone(g));
        pthread_cond_wait(&j->moved, &j->lock);
    }
    pthread_mutex_unlock(&j->lock);
    return M2_OK;
}

static m2_status begin_copying(m2_comm *c)
{
    group *g = group_of(c);
    pthread_mutex_lock(&g->job->lock);
    if (g->job->why.code != M2_OK) return give_up(c, 0);
    g->copying++;
    pthread_mutex_unlock(&g->job->lock);
    return M2_OK;
}

static void end_copying(m2_comm *c)
{
    group *g = group_of(c);
    pthread_mutex_lock(&g->job->lock);
    g->copying--;
    pthread_cond_broadcast(&g->job->moved);
    pthread_mutex_unlock(&g->job->lock);
}

static void threads_abort(m2_comm *c, m2_status why)
{
    job *j = group_of(c)->job;
    m2_status st =
        m2_fail(M2_TRANSIENT, "rank %d ended the job (%s): %s", c->rank, m2_status_name(why), m2_message());
    pthread_mutex_lock(&j->lock);
    if (j->why.code == M2_OK) m2_error_take(&j->why, st);
    pthread_cond_broadcast(&j->moved);
    pthread_mutex_unlock(&j->lock);
}

/* ---- exchange, send, recv, barrier ------------------------------------------------------------------------------- */
static m2_status mismatch(m2_comm *c, int from, int64_t sent, int64_t wanted)
{
    m2_status st =
        m2_fail(M2_BUG,
                "rank %d of %d expects %lld bytes from rank %d, which sends %lld: ranks disagree about "
                "shapes or the order of collectives",
                c->rank, c->size, (long long)wanted, from, (long long)sent);
    m2_error keep;
    m2_error_take(&keep, st);
    m2_error_put(&keep);
    threads_abort(c, st);
    group *g = group_of(c);
    /* others may still read this rank's memory, which its caller is going to free */
    pthread_mutex_lock(&g->job->lock);
    while (g->copying) pthread_cond_wait(&g->job->moved, &g->job->lock);
    pthread_mutex_unlock(&g->job->lock);
    return fail(c, m2_error_put(&keep));
}

static m2_status threads_exchange(m2_comm *c, const m2i_block *blocks)
{
    group *g = group_of(c);
    pthread_mutex_lock(&g->job->lock);
    g->shown[c->rank] = blocks;
    pthread_mutex_unlock(&g->job->lock);
    M2_TRY(meet(c));
    M2_TRY(begin_copying(c));
    for (int i = 0; i < c->size; i++) {
        int from = (c->rank + i) % c->size; /* not all from the same rank at the same time */
        const m2i_block *theirs = &g->shown[from][c->rank], *mine = &blocks[from];
        if (theirs->send_bytes != mine->recv_bytes) {
            int64_t sent = theirs->send_bytes;
            end_copying(c);
            return mismatch(c, from, sent, mine->recv_bytes);
        }
        if (mine->recv_bytes && mine->recv != theirs->send)
            memmove(mine->recv, theirs->send, (size_t)mine->recv_bytes);
        if (from != c->rank) c->bytes_sent += blocks[from].send_bytes;
    }
    end_copying(c);
    return meet(c);
}

static m2_status threads_push(m2_comm *c, const void *buf, int64_t bytes, int to)
{
    group *g = group_of(c);
    job *j = g->job;
    mail *m = &g->box[c->rank * g->size + to];
    pthread_mutex_lock(&j->lock);
    *m = (mail){MAIL_FULL, buf, bytes};
    pthread_cond_broadcast(&j->moved);
    while (m->state != MAIL_TAKEN) {
        if (j->why.code != M2_OK || g->gone[to]) {
            m->state = MAIL_EMPTY;
            return give_up(c, to);
        }
        pthread_cond_wait(&j->moved, &j->lock);
    }
    m->state = MAIL_EMPTY;
    pthread_mutex_unlock(&j->lock);
    c->bytes_sent += bytes;
    return M2_OK;
}

static m2_status threads_pull(m2_comm *c, void *buf, int64_t bytes, int from)
{
    group *g = group_of(c);
    job *j = g->job;
    mail *m = &g->box[from * g->size + c->rank];
    pthread_mutex_lock(&j->lock);
    while (m->state != MAIL_FULL) {
        if (j->why.code != M2_OK || g->gone[from]) return give_up(c, from);
        pthread_cond_wait(&j->moved, &j->lock);
    }
    mail got = *m;
    g->copying++;
    pthread_mutex_unlock(&j->lock);
    if (got.bytes == bytes && bytes) memcpy(buf, got.data, (size_t)bytes);
    end_copying(c);
    if (got.bytes != bytes) return mismatch(c, from, got.bytes, bytes);
    pthread_mutex_lock(&j->lock);
    m->state = MAIL_TAKEN;
    pthread_cond_broadcast(&j->moved);
    pthread_mutex_unlock(&j->lock);
    return M2_OK;
}

static m2_status threads_barrier(m2_comm *c)
{
    M2_TRY(m2i_check_wire(c));
    return meet(c);
}

static m2_status threads_check(m2_comm *c)
{
    M2_TRY(m2i_check_wire(c));
    job *j = group_of(c)->job;
    pthread_mutex_lock(&j->lock);
    m2_error why = j->why;
    pthread_mutex_unlock(&j->lock);
    return why.code == M2_OK ? M2_OK : fail(c, m2_error_put(&why));
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static void job_use(job *j)
{
    pthread_mutex_lock(&j->lock);
    j->users++;
    pthread_mutex_unlock(&j->lock);
}

static void job_release(job *j)
{
    pthread_mutex_lock(&j->lock);
    int last = --j->users == 0;
    pthread_mutex_unlock(&j->lock);
    if (!last) return;
    pthread_cond_destroy(&j->moved);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

static void group_free(group *g)
{
    if (g->job) job_release(g->job);
    free(g->child);
    free(g->key);
    free(g->colour);
    free(g->box);
    free(g->shown);
    free(g->gone);
    free(g);
}

static void threads_close(m2_comm *c)
{
    rank_state *state = c->state;
    group *g = state->group;
    pthread_mutex_lock(&g->job->lock);
    g->gone[c->rank] = 1;
    int last = --g->open == 0;
    pthread_cond_broadcast(&g->job->moved);
    pthread_mutex_unlock(&g->job->lock);
    m2i_wire_close(c, &state->wire);
    free(state);
    free(c);
    if (last) group_free(g);
}

static m2_status group_open(job *j, int size, m2_comm **out);

/* With all ranks' colour and key shown: the lowest rank of each colour makes the group of all of them. */
static m2_status make_children(group *g, int leader)
{
    int members = 0, *rank = calloc((size_t)g->size, sizeof *rank);
    m2_comm **made = calloc((size_t)g->size, sizeof(m2_comm *));
    m2_status st = M2_OK;
    for (int r = 0; rank && r < g->size; r++) {
        if (g->colour[r] != g->colour[leader]) continue;
        int at = members++; /* insertion by (key, rank) */
        for (; at > 0 && g->key[rank[at - 1]] > g->key[r]; at--) rank[at] = rank[at - 1];
        rank[at] = r;
    }
    st = rank && made ? group_open(g->job, members, made)
                      : m2_fail(M2_TRANSIENT, "out of memory for a communicator");
    for (int i = 0; st == M2_OK && i < members; i++) g->child[rank[i]] = made[i];
    free(made);
    free(rank);
    return st;
}

static m2_status threads_split(m2_comm *c, int colour, int key, m2_comm **out)
{
    M2_TRY(m2i_check_wire(c));
    group *g = group_of(c);
    pthread_mutex_lock(&g->job->lock);
    g->colour[c->rank] = colour;
    g->key[c->rank] = key;
    pthread_mutex_unlock(&g->job->lock);
    M2_TRY(meet(c));
    int leader = 0;
    while (g->colour[leader] != colour) leader++;
    m2_status st = leader == c->rank ? make_children(g, leader) : M2_OK;
    if (st != M2_OK) {
        threads_abort(c, st);
        return fail(c, m2_fail(st, "splitting a communicator of %d ranks: out of memory", c->size));
    }
    M2_TRY(meet(c));
    *out = g->child[c->rank];
    return meet(c); /* the tables are free again */
}

static const m2i_wire_api threads_wire = {threads_exchange, threads_push, threads_pull};
static const m2_comm_api threads_api = {
    .kind = "threads",
    .all_reduce = m2i_all_reduce,
    .all_gather = m2i_all_gather,
    .reduce_scatter = m2i_reduce_scatter,
    .all_to_all = m2i_all_to_all,
    .broadcast = m2i_broadcast,
    .send = m2i_send,
    .recv = m2i_recv,
    .barrier = threads_barrier,
    .split = threads_split,
    .check = threads_check,
    .abort = threads_abort,
    .close = threads_close,
};

static m2_comm *rank_open(group *g, int rank)
{
    m2_comm *c = calloc(1, sizeof *c);
    rank_state *state = calloc(1, sizeof *state);
    if (!c || !state) {
        free(c);
        free(state);
        return NULL;
    }
    *c = (m2_comm){.api = &threads_api,
                   .rank = rank,
                   .size = g->size,
                   .local_rank = rank,
                   .local_size = g->size,
                   .host = c,
                   .state = state};
    state->group = g;
    if (m2i_wire_open(c, &state->wire, &threads_wire) == M2_OK) return c;
    free(state);
    free(c);
    return NULL;
}

/* A group of `size` ranks in the job, whose lock is not held. */
static m2_status group_open(job *j, int size, m2_comm **out)
{
    size_t n = (size_t)size;
    group *g = calloc(1, sizeof *g);
    if (!g) return m2_fail(M2_TRANSIENT, "out of memory for a communicator");
    g->size = size;
    g->gone = calloc(n, 1);
    g->shown = calloc(n, sizeof *g->shown);
    g->box = calloc(n * n, sizeof *g->box);
    g->colour = calloc(n, sizeof *g->colour);
    g->key = calloc(n, sizeof *g->key);
    g->child = calloc(n, sizeof(m2_comm *));
    if (!g->gone || !g->shown || !g->box || !g->colour || !g->key || !g->child) {
        group_free(g);
        return m2_fail(M2_TRANSIENT, "out of memory for a communicator of %d ranks", size);
    }
    g->job = j;
    job_use(j);
    g->open = size;
    for (int r = 0; r < size; r++) {
        out[r] = rank_open(g, r);
        if (out[r]) continue;
        g->open = r > 0 ? r : 1;
        if (r == 0) group_free(g);
        while (r > 0) threads_close(out[--r]);
        return m2_fail(M2_TRANSIENT, "out of memory for a communicator of %d ranks", size);
    }
    return M2_OK;
}

m2_status m2_comm_open_threads(int size, m2_comm **out)
{
    job *j = calloc(1, sizeof *j);
    if (!j) return m2_fail(M2_TRANSIENT, "out of memory for a communicator");
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->moved, NULL);
    j->users = 1;
    m2_status st = group_open(j, size, out);
    job_release(j);
    return st;
}
