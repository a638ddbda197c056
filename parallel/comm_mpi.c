/* comm_mpi.c - ranks as processes, through MPI. Host memory only on the wire: the MPI of a distribution is not
 * CUDA-aware, so verbs.c stages a GPU's memory. Of MPI's operations only point-to-point messages are used: its reductions
 * choose their order by message size, placement and version, ours have one order. */
#include "kernels/base/log.h"
#include "parallel/verbs.h"

#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TAG_EXCHANGE = 1, TAG_MESSAGE };
static const int64_t message_most = 1 << 30; /* bytes of one MPI message: its counts are int */

typedef struct rank_state {
    m2i_wire wire;
    MPI_Comm comm;
    MPI_Request *request; /* [2 * size] */
    MPI_Status *status;   /* [2 * size] */
    int *from;            /* [2 * size] the rank a request receives from, or -1 */
} rank_state;

static rank_state *state_of(m2_comm *c)
{
    return c->state;
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */
static m2_status failed(m2_comm *c, int code, const char *doing)
{
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    return m2i_wire_fail(&state_of(c)->wire,
                         m2_fail(M2_TRANSIENT,
                                 "rank %d of %d, %s: MPI reports '%.*s'; a rank or a link of the job has "
                                 "probably died, start it again",
                                 c->rank, c->size, doing, length, text));
}

#define TRY_MPI(c, call, doing)                                                                              \
    do {                                                                                                     \
        int code_ = (call);                                                                                  \
        if (code_ != MPI_SUCCESS) return failed(c, code_, doing);                                            \
    } while (0)

static m2_status mismatch(m2_comm *c, int from, int64_t wanted)
{
    return m2i_wire_fail(
        &state_of(c)->wire,
        m2_fail(M2_BUG,
                "rank %d of %d expects %lld bytes from rank %d, which sends another number: ranks "
                "disagree about shapes or the order of collectives",
                c->rank, c->size, (long long)wanted, from));
}

/* ---- exchange, send, recv, barrier ------------------------------------------------------------------------------- */
static int part(int64_t bytes, int64_t at) /* bytes of the message that starts at `at` */
{
    int64_t left = bytes - at;
    return (int)(left < 0 ? 0 : left < message_most ? left : message_most);
}

/* MPI's own wait spins; a rank whose other thread computes looks in now and then instead. */
static int wait_all(m2_comm *c, int n)
{
    rank_state *s = state_of(c);
    if (!c->patient) return MPI_Waitall(n, s->request, s->status);
    for (int looks = 0, done = 0;; looks++) {
        int code = MPI_Testall(n, s->request, &done, s->status);
        if (code != MPI_SUCCESS || done) return code;
        if (looks > 20) nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
}

/* Waits for n requests and compares what arrived with what was expected. */
static m2_status finish(m2_comm *c, int n, const m2i_block *blocks, int64_t at)
{
    rank_state *s = state_of(c);
    int code = wait_all(c, n), bad = MPI_SUCCESS, class = 0;
    for (int i = 0; i < n; i++) {
        int wanted = s->from[i] < 0 ? 0 : part(blocks[s->from[i]].recv_bytes, at), got = wanted;
        int own = code == MPI_ERR_IN_STATUS ? s->status[i].MPI_ERROR : code;
        if (own == MPI_SUCCESS && s->from[i] >= 0) MPI_Get_count(&s->status[i], MPI_BYTE, &got);
        if (own != MPI_SUCCESS) MPI_Error_class(own, &class);
        if (s->from[i] >= 0 && (got != wanted || (own != MPI_SUCCESS && class == MPI_ERR_TRUNCATE)))
            return mismatch(c, s->from[i], blocks[s->from[i]].recv_bytes);
        if (own != MPI_SUCCESS && own != MPI_ERR_PENDING) bad = own;
    }
    return bad == MPI_SUCCESS && code == MPI_SUCCESS ? M2_OK
                                                     : failed(c, bad == MPI_SUCCESS ? code : bad, "exchange");
}

static m2_status mpi_exchange(m2_comm *c, const m2i_block *blocks)
{
    rank_state *s = state_of(c);
    int64_t longest = 0;
    for (int r = 0; r < c->size; r++) {
        if (r == c->rank) continue;
        c->bytes_sent += blocks[r].send_bytes;
        if (blocks[r].send_bytes > longest) longest = blocks[r].send_bytes;
        if (blocks[r].recv_bytes > longest) longest = blocks[r].recv_bytes;
    }
    const m2i_block *own = &blocks[c->rank];
    if (own->recv_bytes && own->recv != own->send) memmove(own->recv, own->send, (size_t)own->recv_bytes);
    for (int64_t at = 0; at < longest; at += message_most) {
        int n = 0;
        for (int i = 1; i < c->size; i++) { /* receives first: what arrives has a place */
            int r = (c->rank + c->size - i) % c->size, bytes = part(blocks[r].recv_bytes, at);
            if (!bytes) continue;
            s->from[n] = r;
            TRY_MPI(
                c,
                MPI_Irecv(blocks[r].recv + at, bytes, MPI_BYTE, r, TAG_EXCHANGE, s->comm, &s->request[n++]),
                "receiving");
        }
        for (int i = 1; i < c->size; i++) { /* everyone starts with another rank */
            int r = (c->rank + i) % c->size, bytes = part(blocks[r].send_bytes, at);
            if (!bytes) continue;
            s->from[n] = -1;
            TRY_MPI(
                c,
                MPI_Isend(blocks[r].send + at, bytes, MPI_BYTE, r, TAG_EXCHANGE, s->comm, &s->request[n++]),
                "sending");
        }
        M2_TRY(finish(c, n, blocks, at));
    }
    return M2_OK;
}

static m2_status mpi_push(m2_comm *c, const void *buf, int64_t bytes, int to)
{
    for (int64_t at = 0; at < bytes; at += message_most)
        TRY_MPI(
            c,
            MPI_Send((const char *)buf + at, part(bytes, at), MPI_BYTE, to, TAG_MESSAGE, state_of(c)->comm),
            "sending");
    c->bytes_sent += bytes;
    return M2_OK;
}

static m2_status mpi_pull(m2_comm *c, void *buf, int64_t bytes, int from)
{
    for (int64_t at = 0; at < bytes; at += message_most) {
        MPI_Status status;
        int got, want = part(bytes, at);
        TRY_MPI(c, MPI_Recv((char *)buf + at, want, MPI_BYTE, from, TAG_MESSAGE, state_of(c)->comm, &status),
                "receiving");
        MPI_Get_count(&status, MPI_BYTE, &got);
        if (got != want) return mismatch(c, from, bytes);
    }
    return M2_OK;
}

static m2_status mpi_barrier(m2_comm *c)
{
    M2_TRY(m2i_check_wire(c));
    TRY_MPI(c, MPI_Barrier(state_of(c)->comm), "barrier");
    return M2_OK;
}

/* ---- MPI itself: one per process --------------------------------------------------------------------------------- */
static struct {
    pthread_mutex_t lock;
    int users; /* communicators open */
    int ours;  /* we initialised it, so we finalise it */
} mpi = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* A process that exits with communicators open would leave the others waiting. */
static void leave(void)
{
    int initialised = 0, finalised = 0;
    MPI_Initialized(&initialised);
    MPI_Finalized(&finalised);
    if (mpi.users > 0 && initialised && !finalised) MPI_Abort(MPI_COMM_WORLD, M2_TRANSIENT);
}

static m2_status start(void)
{
    int initialised, finalised, level;
    MPI_Initialized(&initialised);
    MPI_Finalized(&finalised);
    if (finalised) return m2_fail(M2_BUG, "MPI cannot start again: its last communicator was closed");
    if (!initialised) {
        if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level) != MPI_SUCCESS)
            return m2_fail(M2_TRANSIENT, "MPI did not start");
        mpi.ours = 1;
        atexit(leave);
    }
    MPI_Query_thread(&level);
    if (level != MPI_THREAD_MULTIPLE)
        return m2_fail(
            M2_USAGE,
            "this MPI library gives thread level %d where m2 needs MPI_THREAD_MULTIPLE (%d): use an MPI "
            "built with thread support",
            level, MPI_THREAD_MULTIPLE);
    return M2_OK;
}

static m2_status mpi_use(void)
{
    pthread_mutex_lock(&mpi.lock);
    m2_status st = mpi.users == 0 ? start() : M2_OK;
    if (st == M2_OK) mpi.users++;
    pthread_mutex_unlock(&mpi.lock);
    return st;
}

static void mpi_release(void)
{
    pthread_mutex_lock(&mpi.lock);
    if (--mpi.users == 0 && mpi.ours) MPI_Finalize();
    pthread_mutex_unlock(&mpi.lock);
}

const char *m2_comm_library(void)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING + 32];
    int length, nccl = m2i_nccl_version();
    MPI_Get_library_version(text, &length);
    text[strcspn(text, ",\n")] = 0;
    size_t used = strlen(text);
    if (nccl)
        snprintf(text + used, sizeof text - used, ", NCCL %d.%d.%d", nccl / 10000, nccl / 100 % 100, nccl % 100);
    return text;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static void mpi_abort(m2_comm *c, m2_status why)
{
    m2_log(M2_LOG_ERROR, "rank %d of %d ends the job: %s", c->rank, c->size, m2_message());
    MPI_Abort(MPI_COMM_WORLD, why);
}

static void mpi_close(m2_comm *c)
{
    rank_state *s = state_of(c);
    if (c->host && c->host != c) mpi_close(c->host);
    m2i_wire_close(c, &s->wire);
    if (s->comm != MPI_COMM_NULL) MPI_Comm_free(&s->comm);
    free(s->from);
    free(s->status);
    free(s->request);
    free(s);
    free(c);
    mpi_release();
}

static m2_status mpi_split(m2_comm *c, int colour, int key, m2_comm **out);

static const m2i_wire_api mpi_wire = {mpi_exchange, mpi_push, mpi_pull};
static const m2_comm_api mpi_api = {
    .kind = "mpi",
    .all_reduce = m2i_all_reduce,
    .all_gather = m2i_all_gather,
    .reduce_scatter = m2i_reduce_scatter,
    .all_to_all = m2i_all_to_all,
    .broadcast = m2i_broadcast,
    .send = m2i_send,
    .recv = m2i_recv,
    .barrier = mpi_barrier,
    .split = mpi_split,
    .check = m2i_check_wire,
    .abort = mpi_abort,
    .close = mpi_close,
};

/* Ranks of this node, among those of the communicator. */
static m2_status find_neighbours(m2_comm *c)
{
    MPI_Comm node;
    TRY_MPI(c, MPI_Comm_split_type(state_of(c)->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
            "finding the node");
    MPI_Comm_rank(node, &c->local_rank);
    MPI_Comm_size(node, &c->local_size);
    TRY_MPI(c, MPI_Comm_free(&node), "finding the node");
    return M2_OK;
}

/* Takes `comm` over, also on failure; collective over it. */
static m2_status open_over(MPI_Comm comm, m2_device *dev, m2_comm **out)
{
    m2_comm *c = calloc(1, sizeof *c);
    rank_state *s = calloc(1, sizeof *s);
    m2_status st = c && s ? mpi_use() : m2_fail(M2_TRANSIENT, "out of memory for a communicator");
    if (st != M2_OK) {
        free(s);
        free(c);
        return st;
    }
    *c = (m2_comm){.api = &mpi_api, .device = dev, .host = c, .state = s};
    s->comm = comm;
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm, &c->rank);
    MPI_Comm_size(comm, &c->size);
    size_t n = 2 * (size_t)c->size;
    s->request = calloc(n, sizeof(MPI_Request));
    s->status = calloc(n, sizeof(MPI_Status));
    s->from = calloc(n, sizeof *s->from);
    if (!s->request || !s->status || !s->from) st = m2_fail(M2_TRANSIENT, "out of memory for a communicator");
    if (st == M2_OK) st = m2i_wire_open(c, &s->wire, &mpi_wire);
    if (st == M2_OK) st = find_neighbours(c);
    if (st != M2_OK)
        mpi_close(c);
    else
        *out = c;
    return st;
}

/* With a twin for flags and metrics: in host memory, and while another thread uses this one. */
static m2_status open_with_host(MPI_Comm comm, m2_device *dev, m2_comm **out)
{
    MPI_Comm twin;
    m2_comm *c = NULL;
    M2_TRY(open_over(comm, dev, &c));
    m2_status st = M2_OK;
    if (c->size > 1 || state_of(c)->wire.in) {
        int code = MPI_Comm_dup(comm, &twin);
        st = code == MPI_SUCCESS ? open_over(twin, NULL, &c->host)
                                 : failed(c, code, "duplicating a communicator");
    }
    if (st != M2_OK)
        mpi_close(c);
    else
        *out = c;
    return st;
}

static m2_status mpi_split(m2_comm *c, int colour, int key, m2_comm **out)
{
    M2_TRY(m2i_check_wire(c));
    MPI_Comm part_of;
    TRY_MPI(c, MPI_Comm_split(state_of(c)->comm, colour, key, &part_of), "splitting");
    return open_with_host(part_of, c->device, out);
}

m2_status m2_comm_open_mpi(m2_device *dev, m2_comm **out)
{
    M2_TRY(mpi_use());
    int rank, size, told_rank, told_size, local_rank, local_size;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    m2_comm_launcher(&told_rank, &told_size, &local_rank, &local_size);
    MPI_Comm comm;
    m2_status st = M2_OK;
    if (size != told_size)
        st = m2_fail(
            M2_USAGE,
            "the launcher started %d processes but MPI joined %d of them: with srun say --mpi=pmix, with "
            "mpirun use the one of the MPI library m2 was built with",
            told_size, size);
    else if (MPI_Comm_dup(MPI_COMM_WORLD, &comm) != MPI_SUCCESS)
        st = m2_fail(M2_TRANSIENT, "MPI could not duplicate the communicator of %d ranks", size);
    else
        st = open_with_host(comm, dev, out);
    mpi_release();
    return st;
}
