/* comm_nccl.c - one GPU per rank, through NCCL. The library is opened at run time, so the same program runs without it;
 * what is declared here is the part of its interface that has not changed since version 2.14.
 *
 * Ranks meet over MPI, which also serves flags and agreement (c->host). Communicators are non-blocking: a call that NCCL
 * finishes in the background is waited for with a limit, and a thread asks for asynchronous errors, so a rank whose peer is
 * gone ends the job instead of waiting in a kernel for ever.
 * NCCL's sums have the same bits on every rank but the order of the ring or tree it chose; bf16 is rounded in every hop. */
#define _GNU_SOURCE
#include "kernels/base/log.h"
#include "parallel/verbs.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- the library ------------------------------------------------------------------------------------------------- */
typedef struct nccl_comm *nccl_comm;
typedef struct nccl_id {
    char bytes[128];
} nccl_id;
typedef struct nccl_config { /* the first fields of ncclConfig_t; the version says that there are no more */
    size_t size;
    unsigned magic, version;
    int blocking, cga_size;
} nccl_config;

enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7, NCCL_U8 = 1, NCCL_MAGIC = (int)0xcafebeef, NCCL_2_14 = 21400 };

static const int nccl_type[M2_DTYPE_COUNT] = {
    [M2_U8] = NCCL_U8, [M2_I32] = 2, [M2_I64] = 4, [M2_F32] = 7, [M2_F64] = 8, [M2_BF16] = 9};
static const int nccl_op[] = {[M2_SUM] = 0, [M2_MAX] = 2, [M2_MIN] = 3};

#define NCCL_FUNCTIONS(F)                                                                                    \
    F(int, GetVersion, (int *))                                                                              \
    F(int, GetUniqueId, (nccl_id *))                                                                         \
    F(int, CommInitRankConfig, (nccl_comm *, int, nccl_id, int, nccl_config *))                              \
    F(int, CommFinalize, (nccl_comm))                                                                        \
    F(int, CommDestroy, (nccl_comm))                                                                         \
    F(int, CommAbort, (nccl_comm))                                                                           \
    F(int, CommGetAsyncError, (nccl_comm, int *))                                                            \
    F(const char *, GetErrorString, (int))                                                                   \
    F(const char *, GetLastError, (nccl_comm))                                                               \
    F(int, AllReduce, (const void *, void *, size_t, int, int, nccl_comm, m2_stream *))                      \
    F(int, AllGather, (const void *, void *, size_t, int, nccl_comm, m2_stream *))                           \
    F(int, ReduceScatter, (const void *, void *, size_t, int, int, nccl_comm, m2_stream *))                  \
    F(int, Broadcast, (const void *, void *, size_t, int, int, nccl_comm, m2_stream *))                      \
    F(int, Send, (const void *, size_t, int, int, nccl_comm, m2_stream *))                                   \
    F(int, Recv, (void *, size_t, int, int, nccl_comm, m2_stream *))                                         \
    F(int, GroupStart, (void))                                                                               \
    F(int, GroupEnd, (void))

static struct {
    pthread_mutex_t lock;
    int loaded;
#define F(type, name, arguments) type(*name) arguments;
    NCCL_FUNCTIONS(F)
#undef F
} nccl = {.lock = PTHREAD_MUTEX_INITIALIZER};

static m2_status find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    if (!symbol) return m2_fail(M2_USAGE, "the NCCL library lacks %s: m2 needs version 2.14 or later", name);
    memcpy(function, &symbol, sizeof symbol);
    return M2_OK;
}

/* Where M2_NCCL_LIBRARY says, on the loader's path, or where it was when m2 was built. */
static m2_status load(void)
{
    const char *wish = getenv("M2_NCCL_LIBRARY");
    void *library = dlopen(wish && *wish ? wish : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
#ifdef M2_NCCL_BUILT_WITH
    if (!library && !(wish && *wish)) library = dlopen(M2_NCCL_BUILT_WITH, RTLD_NOW | RTLD_LOCAL);
#endif
    if (!library) return m2_fail(M2_USAGE, "NCCL is not installed: %s", dlerror());
#define F(type, name, arguments) M2_TRY(find(library, "nccl" #name, &nccl.name));
    NCCL_FUNCTIONS(F)
#undef F
    int version = 0;
    nccl.GetVersion(&version);
    if (version < NCCL_2_14)
        return m2_fail(M2_USAGE, "NCCL %d is too old: m2 needs version 2.14 or later", version);
    nccl.loaded = 1;
    return M2_OK;
}

m2_status m2i_nccl_load(void)
{
    pthread_mutex_lock(&nccl.lock);
    m2_status st = nccl.loaded ? M2_OK : load();
    pthread_mutex_unlock(&nccl.lock);
    return st;
}

int m2i_nccl_version(void)
{
    int version = 0;
    if (m2i_nccl_load() == M2_OK) nccl.GetVersion(&version);
    return version;
}

/* ---- errors, waiting --------------------------------------------------------------------------------------------- */
typedef struct rank_state {
    nccl_comm comm;
    m2_error failed; /* code M2_OK: works */
    pthread_t watcher;
    pthread_mutex_t lock;    /* of ending */
    pthread_mutex_t calling; /* NCCL, of which any call finishes what the call before left to the background (ALONE) */
    pthread_cond_t wake;
    int watched, ending;
} rank_state;

static const double patience = 300; /* seconds that NCCL may take to connect ranks or close a communicator */

static rank_state *state_of(m2_comm *c)
{
    return c->state;
}

/* What `call` returns, the watcher kept out: two threads in NCCL with one communicator finish one background job twice, which
 * frees it twice. */
#define ALONE(c, call) (pthread_mutex_lock(&state_of(c)->calling), unlocked(state_of(c), call))
static int unlocked(rank_state *s, int code)
{
    pthread_mutex_unlock(&s->calling);
    return code;
}

/* What NCCL says of the communicator by now. */
static int ask(rank_state *s)
{
    int code = NCCL_SUCCESS;
    pthread_mutex_lock(&s->calling);
    int asked = nccl.CommGetAsyncError(s->comm, &code);
    pthread_mutex_unlock(&s->calling);
    return asked == NCCL_SUCCESS ? code : asked;
}

static m2_status failed(m2_comm *c, int code, const char *doing)
{
    rank_state *s = state_of(c);
    const char *detail = s->comm ? nccl.GetLastError(s->comm) : "";
    m2_status st = m2_fail(M2_TRANSIENT, "rank %d of %d, %s: NCCL reports '%s'%s%s", c->rank, c->size, doing,
                           nccl.GetErrorString(code), detail && *detail ? ": " : "", detail ? detail : "");
    if (s->failed.code != M2_OK) return st;
    m2_error_take(&s->failed, st);
    return m2_error_put(&s->failed);
}

static m2_status check(m2_comm *c)
{
    rank_state *s = state_of(c);
    if (s->failed.code != M2_OK)
        return m2_fail(M2_TRANSIENT, "this communicator failed before: %s", s->failed.message);
    int code = s->comm ? ask(s) : NCCL_SUCCESS;
    return code == NCCL_SUCCESS || code == NCCL_IN_PROGRESS ? M2_OK : failed(c, code, "in the background");
}

/* What a call returned, or, where it goes on in the background, what that comes to. */
static m2_status finish(m2_comm *c, int code, const char *doing)
{
    double since = m2_now();
    while (code == NCCL_IN_PROGRESS) {
        code = ask(state_of(c));
        if (code == NCCL_IN_PROGRESS && m2_now() - since > patience) {
            m2_status st = m2_fail(M2_TRANSIENT, "rank %d of %d, %s: NCCL did not finish within %.0f s",
                                   c->rank, c->size, doing, patience);
            m2_error_take(&state_of(c)->failed, st);
            return m2_error_put(&state_of(c)->failed);
        }
        if (code == NCCL_IN_PROGRESS) nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    return code == NCCL_SUCCESS ? M2_OK : failed(c, code, doing);
}

/* The calling thread's GPU is this communicator's (every call of a device makes it so), and nothing failed before. */
static m2_status begin(m2_comm *c, m2_stream *s)
{
    M2_TRY(check(c));
    return c->device->api->fill(c->device, NULL, 0, 0, s);
}

static struct timespec in_seconds(int n)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += n;
    return t;
}

/* As ask(), of a thread beside: a call that keeps it out for so long does not return, and what NCCL says of it is wanted. */
static int ask_beside(rank_state *s)
{
    enum { STUCK = 5 }; /* seconds */
    struct timespec until = in_seconds(STUCK);
    int code = NCCL_SUCCESS, mine = pthread_mutex_timedlock(&s->calling, &until) == 0;
    int asked = nccl.CommGetAsyncError(s->comm, &code);
    if (mine) pthread_mutex_unlock(&s->calling);
    return asked == NCCL_SUCCESS ? code : NCCL_SUCCESS;
}

/* An error of NCCL's own threads, such as a peer that is gone: kernels would wait for it for ever, so the job ends. */
static void *watch(void *context)
{
    m2_comm *c = context;
    rank_state *s = state_of(c);
    pthread_mutex_lock(&s->lock);
    while (!s->ending) {
        struct timespec until = in_seconds(1);
        pthread_cond_timedwait(&s->wake, &s->lock, &until);
        if (s->ending) break;
        int code = ask_beside(s);
        if (code == NCCL_SUCCESS || code == NCCL_IN_PROGRESS) continue;
        m2_status st = m2_fail(M2_TRANSIENT,
                               "rank %d of %d: NCCL reports '%s' in the background; a rank or a link of the "
                               "job has probably died, start it again",
                               c->rank, c->size, nccl.GetErrorString(code));
        c->host->api->abort(c->host, st);
        break;
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- verbs ------------------------------------------------------------------------------------------------------- */
static m2_status check_reduction(m2_comm *c, m2_dtype t, m2_reduce op, m2_stream *s)
{
    M2_TRY(begin(c, s));
    return m2i_fold_terms(NULL, (const void *const[]){NULL}, 1, 0, t, op);
}

static m2_status all_reduce(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_reduce op,
                            m2_stream *s)
{
    M2_TRY(check_reduction(c, t, op, s));
    if (count <= 0) return M2_OK;
    c->bytes_sent += m2_comm_bytes_all_reduce(count, t, c->rank, c->size);
    int code = ALONE(c, nccl.AllReduce(send, recv, (size_t)count, nccl_type[t], nccl_op[op], state_of(c)->comm, s));
    return finish(c, code, "all_reduce");
}

static m2_status all_gather(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_stream *s)
{
    M2_TRY(begin(c, s));
    if (count <= 0) return M2_OK;
    c->bytes_sent += m2_comm_bytes_all_gather(count, t, c->size);
    size_t bytes = (size_t)(count * m2_dtype_size(t));
    return finish(c, ALONE(c, nccl.AllGather(send, recv, bytes, NCCL_U8, state_of(c)->comm, s)), "all_gather");
}

static m2_status reduce_scatter(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t,
                                m2_reduce op, m2_stream *s)
{
    M2_TRY(check_reduction(c, t, op, s));
    if (count <= 0) return M2_OK;
    c->bytes_sent += m2_comm_bytes_reduce_scatter(count, t, c->size);
    int code = ALONE(c, nccl.ReduceScatter(send, recv, (size_t)count, nccl_type[t], nccl_op[op], state_of(c)->comm, s));
    return finish(c, code, "reduce_scatter");
}

/* Messages of one group: all are on their way before any is waited for. */
static int enqueue_messages(m2_comm *c, const char *send, const int64_t *send_count, const int64_t *send_at,
                            char *recv, const int64_t *recv_count, const int64_t *recv_at, int64_t size,
                            m2_stream *s)
{
    nccl_comm comm = state_of(c)->comm;
    int begun = nccl.GroupStart(), code = NCCL_SUCCESS;
    for (int i = 1; i < c->size && (code == NCCL_SUCCESS || code == NCCL_IN_PROGRESS); i++) {
        int to = (c->rank + i) % c->size, from = (c->rank + c->size - i) % c->size;
        size_t give = (size_t)(send_count[to] * size), take = (size_t)(recv_count[from] * size);
        if (give) code = nccl.Send(send + send_at[to] * size, give, NCCL_U8, to, comm, s);
        if (take && (code == NCCL_SUCCESS || code == NCCL_IN_PROGRESS))
            code = nccl.Recv(recv + recv_at[from] * size, take, NCCL_U8, from, comm, s);
        c->bytes_sent += (int64_t)give;
    }
    int ended = begun == NCCL_SUCCESS ? nccl.GroupEnd() : begun;
    return code == NCCL_SUCCESS || code == NCCL_IN_PROGRESS ? ended : code;
}

static m2_status all_to_all(m2_comm *c, const void *send, const int64_t *send_count, const int64_t *send_at,
                            void *recv, const int64_t *recv_count, const int64_t *recv_at, m2_dtype t,
                            m2_stream *s)
{
    M2_TRY(begin(c, s));
    int64_t size = m2_dtype_size(t), own = send_count[c->rank];
    if (own != recv_count[c->rank])
        return m2_fail(M2_BUG, "all_to_all: rank %d gives itself %lld elements and expects %lld", c->rank,
                       (long long)own, (long long)recv_count[c->rank]);
    M2_TRY(c->device->api->copy(c->device, (char *)recv + recv_at[c->rank] * size,
                                (const char *)send + send_at[c->rank] * size, own * size, s));
    int code = ALONE(c, enqueue_messages(c, send, send_count, send_at, recv, recv_count, recv_at, size, s));
    return finish(c, code, "all_to_all");
}

static m2_status broadcast(m2_comm *c, void *buf, int64_t count, m2_dtype t, int root, m2_stream *s)
{
    M2_TRY(begin(c, s));
    if (count <= 0) return M2_OK;
    c->bytes_sent += m2_comm_bytes_broadcast(count, t, c->rank, root, c->size);
    size_t bytes = (size_t)(count * m2_dtype_size(t));
    return finish(c, ALONE(c, nccl.Broadcast(buf, buf, bytes, NCCL_U8, root, state_of(c)->comm, s)), "broadcast");
}

static m2_status send_to(m2_comm *c, const void *buf, int64_t count, m2_dtype t, int to, m2_stream *s)
{
    M2_TRY(begin(c, s));
    int64_t bytes = count * m2_dtype_size(t);
    if (bytes <= 0) return M2_OK;
    c->bytes_sent += bytes;
    return finish(c, ALONE(c, nccl.Send(buf, (size_t)bytes, NCCL_U8, to, state_of(c)->comm, s)), "send");
}

static m2_status receive(m2_comm *c, void *buf, int64_t count, m2_dtype t, int from, m2_stream *s)
{
    M2_TRY(begin(c, s));
    int64_t bytes = count * m2_dtype_size(t);
    if (bytes <= 0) return M2_OK;
    return finish(c, ALONE(c, nccl.Recv(buf, (size_t)bytes, NCCL_U8, from, state_of(c)->comm, s)), "recv");
}

static m2_status barrier(m2_comm *c)
{
    M2_TRY(check(c));
    return c->host->api->barrier(c->host);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static void stop_watching(rank_state *s)
{
    if (!s->watched) return;
    pthread_mutex_lock(&s->lock);
    s->ending = 1;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->watcher, NULL);
}

static void close_comm(m2_comm *c)
{
    rank_state *s = state_of(c);
    stop_watching(s);
    if (s->comm && s->failed.code == M2_OK && finish(c, nccl.CommFinalize(s->comm), "closing") == M2_OK)
        nccl.CommDestroy(s->comm);
    else if (s->comm)
        nccl.CommAbort(s->comm);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->calling);
    pthread_mutex_destroy(&s->lock);
    m2_comm_close(&c->host);
    free(s);
    free(c);
}

static void end_job(m2_comm *c, m2_status why)
{
    c->host->api->abort(c->host, why);
}

static m2_status split(m2_comm *c, int colour, int key, m2_comm **out)
{
    m2_comm *host = NULL;
    M2_TRY(check(c));
    M2_TRY(c->host->api->split(c->host, colour, key, &host));
    return m2i_comm_open_nccl(host, c->device, out);
}

static const m2_comm_api nccl_api = {
    .kind = "nccl",
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .reduce_scatter = reduce_scatter,
    .all_to_all = all_to_all,
    .broadcast = broadcast,
    .send = send_to,
    .recv = receive,
    .barrier = barrier,
    .split = split,
    .check = check,
    .abort = end_job,
    .close = close_comm,
};

/* Rank 0 draws the number under which all meet. */
static m2_status meet(m2_comm *c)
{
    rank_state *s = state_of(c);
    nccl_id id = {{0}};
    nccl_config config = {sizeof config, (unsigned)NCCL_MAGIC, NCCL_2_14, 0, 0};
    m2_status st = M2_OK;
    if (c->rank == 0) {
        int code = nccl.GetUniqueId(&id);
        if (code != NCCL_SUCCESS) st = failed(c, code, "drawing an id");
    }
    M2_TRY(m2_comm_agree(c, st));
    M2_TRY(c->host->api->broadcast(c->host, &id, sizeof id, M2_U8, 0, NULL));
    M2_TRY(c->device->api->fill(c->device, NULL, 0, 0, NULL)); /* makes the GPU current */
    st = finish(c, nccl.CommInitRankConfig(&s->comm, c->size, id, c->rank, &config),
                "meeting the other ranks");
    M2_TRY(m2_comm_agree(c, st));
    s->watched = pthread_create(&s->watcher, NULL, watch, c) == 0;
    return m2_comm_agree(c, s->watched ? M2_OK
                                       : m2_fail(M2_TRANSIENT, "a thread that watches NCCL did not start"));
}

m2_status m2i_comm_open_nccl(m2_comm *host, m2_device *dev, m2_comm **out)
{
    m2_comm *c = calloc(1, sizeof *c);
    rank_state *s = calloc(1, sizeof *s);
    m2_status st = c && s ? m2i_nccl_load() : m2_fail(M2_TRANSIENT, "out of memory for a communicator");
    st = m2_comm_agree(host, st);
    if (st != M2_OK) {
        free(s);
        free(c);
        m2_comm_close(&host);
        return st;
    }
    *c = (m2_comm){.api = &nccl_api,
                   .rank = host->rank,
                   .size = host->size,
                   .local_rank = host->local_rank,
                   .local_size = host->local_size,
                   .device = dev,
                   .host = host,
                   .state = s};
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->calling, NULL);
    pthread_cond_init(&s->wake, NULL);
    st = meet(c);
    if (st != M2_OK)
        close_comm(c);
    else
        *out = c;
    return st;
}
