/* Communicators over NCCL: the laws, where every rank has a GPU of its own; refusal and the reason for MPI where ranks share
 * one. mpi-nccl LIBRARY: the same with that library for NCCL and the CPU for a GPU (tests/fake/nccl.c).
 * mpi-nccl LIBRARY dies: an all_reduce that never ends (tests/e2e/ranks_fail.sh). */
#define _GNU_SOURCE
#include "kernels/base/log.h"
#include "tests/mpi/on_gpus.h"
#include "tests/unit/exchange_laws.h"

/* ---- a communicator for host memory that goes through the GPU's ------------------------------------------------------ */
static m2_comm *inner;

static void *there(const void *host, int64_t bytes)
{
    void *p = NULL;
    if (gpu->api->alloc(gpu, M2_MEM_DEVICE, bytes + 1, &p) == M2_OK &&
        gpu->api->copy(gpu, p, host, bytes, NULL) == M2_OK)
        return p;
    fprintf(stderr, "%s\n", m2_message());
    exit(1);
}

static m2_status back(void *host, void *device, int64_t bytes, m2_status st)
{
    if (st == M2_OK && host) st = gpu->api->copy(gpu, host, device, bytes, NULL);
    if (st == M2_OK) st = gpu->api->stream_sync(gpu, NULL);
    gpu->api->free(gpu, M2_MEM_DEVICE, device);
    return st;
}

static m2_status count_bytes(m2_comm *c, m2_status st)
{
    c->bytes_sent = inner->bytes_sent;
    return st;
}

/* In place there if it is here: verbs get pointers into one copy of the larger array. */
static m2_status via_all_reduce(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t,
                                m2_reduce op, m2_stream *s)
{
    int64_t n = count * m2_dtype_size(t);
    char *x = there(send, n), *y = send == recv ? x : there(recv, n);
    m2_status st = inner->api->all_reduce(inner, x, y, count, t, op, s);
    if (x != y) st = back(NULL, x, 0, st);
    return count_bytes(c, back(recv, y, n, st));
}

static m2_status via_all_gather(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t,
                                m2_stream *s)
{
    int64_t n = count * m2_dtype_size(t), all = n * c->size;
    int inside = (const char *)send == (char *)recv + c->rank * n;
    char *y = there(recv, all), *x = inside ? y + c->rank * n : there(send, n);
    m2_status st = inner->api->all_gather(inner, x, y, count, t, s);
    if (!inside) st = back(NULL, x, 0, st);
    return count_bytes(c, back(recv, y, all, st));
}

static m2_status via_reduce_scatter(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t,
                                    m2_reduce op, m2_stream *s)
{
    int64_t n = count * m2_dtype_size(t), all = n * c->size;
    int inside = recv == (const char *)send + c->rank * n;
    char *x = there(send, all), *y = inside ? x + c->rank * n : there(recv, n);
    m2_status st = inner->api->reduce_scatter(inner, x, y, count, t, op, s);
    if (inside) {
        if (st == M2_OK) st = gpu->api->copy(gpu, recv, y, n, NULL);
        return count_bytes(c, back(NULL, x, 0, st));
    }
    st = back(NULL, x, 0, st);
    return count_bytes(c, back(recv, y, n, st));
}

static m2_status via_all_to_all(m2_comm *c, const void *send, const int64_t *send_count,
                                const int64_t *send_at, void *recv, const int64_t *recv_count,
                                const int64_t *recv_at, m2_dtype t, m2_stream *s)
{
    int64_t give = 0, take = 0, e = m2_dtype_size(t);
    for (int r = 0; r < c->size; r++) {
        if (send_at[r] + send_count[r] > give) give = send_at[r] + send_count[r];
        if (recv_at[r] + recv_count[r] > take) take = recv_at[r] + recv_count[r];
    }
    char *x = there(send, give * e), *y = there(recv, take * e);
    m2_status st = inner->api->all_to_all(inner, x, send_count, send_at, y, recv_count, recv_at, t, s);
    st = back(NULL, x, 0, st);
    return count_bytes(c, back(recv, y, take * e, st));
}

static m2_status via_broadcast(m2_comm *c, void *buf, int64_t count, m2_dtype t, int root, m2_stream *s)
{
    int64_t n = count * m2_dtype_size(t);
    void *x = there(buf, n);
    return count_bytes(c, back(buf, x, n, inner->api->broadcast(inner, x, count, t, root, s)));
}

static m2_status via_send(m2_comm *c, const void *buf, int64_t count, m2_dtype t, int to, m2_stream *s)
{
    void *x = there(buf, count * m2_dtype_size(t));
    return count_bytes(c, back(NULL, x, 0, inner->api->send(inner, x, count, t, to, s)));
}

static m2_status via_recv(m2_comm *c, void *buf, int64_t count, m2_dtype t, int from, m2_stream *s)
{
    int64_t n = count * m2_dtype_size(t);
    void *x = there(buf, n);
    return count_bytes(c, back(buf, x, n, inner->api->recv(inner, x, count, t, from, s)));
}

static m2_status via_barrier(m2_comm *c)
{
    (void)c;
    return inner->api->barrier(inner);
}

static m2_status via_check(m2_comm *c)
{
    (void)c;
    return inner->api->check(inner);
}

static const m2_comm_api via_api = {.kind = "through a GPU",
                                    .all_reduce = via_all_reduce,
                                    .all_gather = via_all_gather,
                                    .reduce_scatter = via_reduce_scatter,
                                    .all_to_all = via_all_to_all,
                                    .broadcast = via_broadcast,
                                    .send = via_send,
                                    .recv = via_recv,
                                    .barrier = via_barrier,
                                    .check = via_check};

/* ---- tests ------------------------------------------------------------------------------------------------------- */
/* The halves of a split: a sum of ranks, and a close. */
static const char *split_works(m2_comm *c)
{
    m2_comm *half = NULL;
    WORKS(c->api->split(c, c->rank % 2, -c->rank, &half));
    LAW(!strcmp(half->api->kind, "nccl") && half->host->size == half->size,
        "a split communicator is of another kind");
    int64_t x = c->rank, want = 0;
    void *d = there(&x, sizeof x);
    m2_status st = half->api->all_reduce(half, d, d, 1, M2_I64, M2_SUM, NULL);
    WORKS(back(&x, d, sizeof x, st));
    for (int r = c->rank % 2; r < c->size; r += 2) want += r;
    LAW(x == want, "the sum over a split communicator is %lld, expected %lld", (long long)x, (long long)want);
    m2_comm_close(&half);
    WORKS(c->api->barrier(c));
    return NULL;
}

static void test_laws(void)
{
    if (skipped()) return;
    m2_status st = m2_comm_open("nccl", gpu, &inner);
    CU_ASSERT_EQUAL_FATAL(m2_comm_agree(world, st), M2_OK);
    CU_ASSERT(!strcmp(inner->api->kind, "nccl") && inner->host != inner && inner->host->device == NULL);
    m2_comm via = *inner;
    via.api = &via_api;
    law_slack =
        2 * world->size; /* NCCL has an order of its own: two roundings per term at most, of each order */
    for (int law = 0; law < LAWS; law++)
        if (strcmp(laws[law].name, "split") != 0)
            agree_on(law_hold(law, &via, 1u << M2_F32 | 1u << M2_BF16), laws[law].name);
    agree_on(split_works(inner), "split");
    m2_comm_close(&inner);
}

static void test_exchange(void)
{
    m2_comm *c = NULL;
    if (skipped()) return;
    CU_ASSERT_EQUAL_FATAL(m2_comm_agree(world, m2_comm_open("nccl", gpu, &c)), M2_OK);
    agree_on(exchange_laws(c, gpu), "exchange");
    m2_comm_close(&c);
}

/* What is enqueued on a stream happens in its order, without the host waiting anywhere. */
static const char *stream_order(m2_comm *c)
{
    enum { N = 1000, ROUNDS = 20 };
    m2_stream *s = NULL;
    int32_t *out = calloc(N, sizeof *out);
    void *x = there(out, N * (int64_t)sizeof *out);
    WORKS(gpu->api->stream_create(gpu, 0, &s));
    for (int i = 0; i < ROUNDS; i++) {
        WORKS(gpu->api->fill(gpu, x, i, N * (int64_t)sizeof *out, s));
        WORKS(c->api->all_reduce(c, x, x, N, M2_I32, M2_SUM, s));
    }
    WORKS(gpu->api->copy(gpu, out, x, N * (int64_t)sizeof *out, s));
    WORKS(gpu->api->stream_sync(gpu, s));
    for (int i = 0; i < N; i++)
        LAW(out[i] == c->size * (ROUNDS - 1) * 0x01010101, "element %d is %x", i, (unsigned)out[i]);
    gpu->api->stream_destroy(gpu, s);
    free(out);
    WORKS(back(NULL, x, 0, M2_OK));
    return NULL;
}

static void test_streams(void)
{
    m2_comm *c = NULL;
    if (skipped()) return;
    CU_ASSERT_EQUAL_FATAL(m2_comm_agree(world, m2_comm_open("nccl", gpu, &c)), M2_OK);
    agree_on(stream_order(c), "streams");
    m2_comm_close(&c);
}

/* To and fro between two halves of memory that is lent, or is not: the blocks of an exchange are back where they were after the
 * next one. Nothing waits in between but the streams, of which there are two. */
static const char *to_and_fro(m2_comm *c, int32_t *memory, const int32_t *was, m2_stream *other)
{
    enum { N = 1000, STEP = 1024, ROUNDS = 21 };
    int64_t half = c->size * STEP, bytes = half * (int64_t)sizeof *was, sent = c->bytes_sent;
    int32_t *now = calloc((size_t)half, sizeof *now);
    WORKS(gpu->api->copy(gpu, memory, was, bytes, NULL));
    WORKS(gpu->api->fill(gpu, memory + half, 0, bytes, NULL));
    for (int i = 0; i < ROUNDS; i++)
        WORKS(m2_comm_swap_apart(c, memory + i % 2 * half, STEP, memory + (1 - i % 2) * half, STEP, N, M2_I32,
                                 i % 3 ? other : NULL));
    WORKS(gpu->api->stream_sync(gpu, other));
    WORKS(gpu->api->copy(gpu, now, memory, bytes, NULL));
    WORKS(gpu->api->stream_sync(gpu, NULL));
    LAW(!memcmp(now, was, (size_t)bytes), "an even number of exchanges changed something");
    WORKS(gpu->api->copy(gpu, now, memory + half, bytes, NULL));
    WORKS(gpu->api->stream_sync(gpu, NULL));
    for (int r = 0; r < c->size; r++)
        for (int k = 0; k < STEP; k++) {
            int32_t want = k < N ? r * 1000000 + c->rank * 10000 + k : 0;
            LAW(now[r * STEP + k] == want, "element %d from rank %d is %d, expected %d", k, r, now[r * STEP + k], want);
        }
    LAW(c->bytes_sent - sent == (int64_t)ROUNDS * N * (int64_t)sizeof *was * (c->size - 1), "%lld bytes are counted as sent",
        (long long)(c->bytes_sent - sent));
    free(now);
    return NULL;
}

static const char *lending(m2_comm *c)
{
    enum { STEP = 1024, FORMS = 3 };
    int64_t half = c->size * STEP, bytes = 2 * half * (int64_t)sizeof(int32_t);
    int32_t *was = calloc((size_t)half, sizeof *was);
    void *lent[FORMS] = {NULL}; /* not lent, lent, refused: as other places on every rank */
    m2_stream *other = NULL;
    const char *broke = NULL;
    WORKS(gpu->api->stream_create(gpu, 1, &other));
    for (int r = 0; r < c->size; r++)
        for (int k = 0; k < STEP; k++) was[r * STEP + k] = c->rank * 1000000 + r * 10000 + k;
    for (int form = 0; form < FORMS && !broke; form++) {
        int yes = 0;
        WORKS(gpu->api->alloc(gpu, M2_MEM_DEVICE, bytes, &lent[form]));
        if (form) WORKS(m2_comm_lend(c, lent[form], bytes, form == 1 ? 7 : (uint64_t)c->rank, &yes));
        LAW(yes == (form == 1 && c->size > 1), "memory was%s lent, form %d", yes ? "" : " not", form);
        broke = to_and_fro(c, lent[form], was, other);
    }
    for (int form = 0; form < FORMS && !broke; form++) broke = to_and_fro(c, lent[form], was, other);
    for (int form = 0; form < FORMS && !broke; form++) {
        WORKS(m2_comm_take_back(c, lent[form]));
        broke = to_and_fro(c, lent[form], was, other);
        gpu->api->free(gpu, M2_MEM_DEVICE, lent[form]);
    }
    gpu->api->stream_destroy(gpu, other);
    free(was);
    return broke;
}

static void test_lending(void)
{
    m2_comm *c = NULL;
    if (skipped()) return;
    CU_ASSERT_EQUAL_FATAL(m2_comm_agree(world, m2_comm_open("nccl", gpu, &c)), M2_OK);
    agree_on(lending(c), "lending");
    m2_comm_close(&c);
}

/* auto: nccl where every rank has its own GPU, else mpi, which also works. One GPU for two ranks: nccl refuses. */
static void test_choice(void)
{
    m2_comm *c = NULL;
    CU_ASSERT_EQUAL_FATAL(m2_comm_agree(world, m2_comm_open("auto", gpu, &c)), M2_OK);
    CU_ASSERT(!strcmp(c->api->kind, world->size > 1 && own ? "nccl" : "mpi"));
    m2_comm_close(&c);
    char uid[sizeof gpu->uid];
    memcpy(uid, gpu->uid, sizeof uid);
    snprintf(gpu->uid, sizeof gpu->uid, "the same");
    int sharers = 0;
    CU_ASSERT_EQUAL(m2_comm_sharers(world, gpu, &sharers), M2_OK);
    CU_ASSERT_EQUAL(sharers, world->size);
    if (world->size > 1) {
        CU_ASSERT_EQUAL(m2_comm_open("nccl", gpu, &c), M2_USAGE);
        CU_ASSERT(strstr(m2_message(), "ranks share one") != NULL);
        CU_ASSERT_EQUAL_FATAL(m2_comm_agree(world, m2_comm_open("auto", gpu, &c)), M2_OK);
        CU_ASSERT(!strcmp(c->api->kind, "mpi"));
        m2_comm_close(&c);
    }
    memcpy(gpu->uid, uid, sizeof uid);
    CU_ASSERT_EQUAL(m2_comm_open("nccl", NULL, &c), M2_USAGE);
    CU_ASSERT(strstr(m2_message(), "needs a GPU on every rank") != NULL);
}

/* ---- set up ------------------------------------------------------------------------------------------------------ */
static int wait_in_vain(void)
{
    m2_comm *c = NULL;
    float x = 1;
    m2_status st = m2_comm_open("nccl", gpu, &c);
    for (int i = 0; st == M2_OK && i < 1000; i++) st = c->api->all_reduce(c, &x, &x, 1, M2_F32, M2_SUM, NULL);
    fprintf(stderr, "rank %d was not ended: %s\n", world->rank, st == M2_OK ? "no failure" : m2_message());
    return 1;
}

int main(int argc, char **argv)
{
    if (!open_world()) return 1;
    m2_log_setup(M2_LOG_WARN, world->rank);
    if (open_gpu(argc > 1 ? argv[1] : NULL) != M2_OK) {
        if (world->rank == 0) printf("skipped: %s\n", m2_message());
        m2_comm_close(&world);
        return 77;
    }
    if (argc > 2) return wait_in_vain();
    return run_mpi_suite("nccl", (CU_TestInfo[]){{"laws", test_laws},
                                                 {"exchanges", test_exchange},
                                                 {"streams", test_streams},
                                                 {"lending", test_lending},
                                                 {"choice of a transport", test_choice},
                                                 CU_TEST_INFO_NULL});
}
