/* comm_laws.h - what every communicator promises, as functions that all its ranks call together. The same laws hold over
 * threads (tests/unit/comm.c) and over MPI (tests/mpi/comm.c). A law returns NULL, or a sentence about what broke. */
#ifndef M2_TESTS_COMM_LAWS_H
#define M2_TESTS_COMM_LAWS_H

#include "parallel/comm.h"
#include "parallel/layout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Thread_local char law_text[512];
#define LAW(cond, ...)                                                                                          \
    do {                                                                                                        \
        if (!(cond)) {                                                                                          \
            snprintf(law_text, sizeof law_text, __VA_ARGS__);                                                   \
            return law_text;                                                                                    \
        }                                                                                                       \
    } while (0)
#define WORKS(call) LAW((call) == M2_OK, "%s", m2_message())

static const int64_t law_counts[] = {0, 1, 2, 3, 1000, 1 << 20};
enum { LAW_COUNTS = sizeof law_counts / sizeof *law_counts };

/* ---- inputs that every rank can compute for every other ---------------------------------------------------------- */
static inline uint32_t law_hash(int rank, int64_t i)
{
    uint64_t x = ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u + (uint64_t)(rank + 1) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 29)) * 0x94d049bb133111ebu;
    return (uint32_t)(x >> 32);
}

/* Element i of rank's array. Magnitudes over many binades, so that the order of a sum shows in its bits. */
static inline void law_element(void *at, int rank, int64_t i, m2_dtype t)
{
    uint32_t h = law_hash(rank, i);
    double x = ((double)h / 4294967296.0 - 0.5) * (double)(1 << (h % 20));
    float f = (float)x;
    uint16_t b = m2_bf16_from_f32(f);
    uint64_t wide = (uint64_t)h * 0x100000001u;
    switch (t) {
    case M2_F32: memcpy(at, &f, sizeof f); break;
    case M2_F64: memcpy(at, &x, sizeof x); break;
    case M2_BF16: memcpy(at, &b, sizeof b); break;
    case M2_I64: memcpy(at, &wide, sizeof wide); break;
    default: memcpy(at, &h, (size_t)m2_dtype_size(t));
    }
}

static inline void law_fill(void *array, int rank, int64_t from, int64_t n, m2_dtype t)
{
    for (int64_t i = 0; i < n; i++) law_element((char *)array + i * m2_dtype_size(t), rank, from + i, t);
}

static inline void *law_room(int64_t count, m2_dtype t)
{
    void *p = malloc((size_t)(count * m2_dtype_size(t) + 1));
    memset(p, 0xa5, (size_t)(count * m2_dtype_size(t) + 1));
    return p;
}

/* ---- the serial reference of a reduction: in the order of the ranks ---------------------------------------------- */
#define LAW_REDUCE(type, wide, load, store, plus)                                                               \
    {                                                                                                           \
        type e;                                                                                                 \
        law_element(&e, 0, i, t);                                                                               \
        wide acc = load(e);                                                                                     \
        for (int r = 1; r < ranks; r++) {                                                                       \
            law_element(&e, r, i, t);                                                                           \
            wide x = load(e);                                                                                   \
            acc = op == M2_SUM ? plus : op == M2_MAX ? (x > acc ? x : acc) : (x < acc ? x : acc);               \
        }                                                                                                       \
        e = store(acc);                                                                                         \
        memcpy(out, &e, sizeof e);                                                                              \
        break;                                                                                                  \
    }

static inline void law_reduced(void *out, int ranks, int64_t i, m2_dtype t, m2_reduce op)
{
    switch (t) {
    case M2_F32: LAW_REDUCE(float, float, , , acc + x)
    case M2_F64: LAW_REDUCE(double, double, , , acc + x)
    case M2_BF16: LAW_REDUCE(uint16_t, float, m2_bf16_to_f32, m2_bf16_from_f32, acc + x)
    case M2_I32: LAW_REDUCE(int32_t, int32_t, , , (int32_t)((uint32_t)acc + (uint32_t)x))
    case M2_I64: LAW_REDUCE(int64_t, int64_t, , , (int64_t)((uint64_t)acc + (uint64_t)x))
    default: LAW_REDUCE(uint8_t, uint8_t, , , acc)
    }
}

/* Long arrays are compared at every 13th element and at their ends. */
static inline int64_t law_next(int64_t i, int64_t n)
{
    return n > 1000 && i > 100 && i < n - 100 ? i + 13 : i + 1;
}

/* Transports that sum in another order than that of the ranks set it: sums may be off by this share of the sum of absolute
 * values. */
static double law_slack;

static inline int law_is_near(const void *a, const void *b, int ranks, int64_t i, m2_dtype t)
{
    double size = 0, value[2];
    for (int r = 0; r < ranks; r++) {
        float f;
        double d;
        uint16_t h;
        void *at = t == M2_F32 ? (void *)&f : t == M2_F64 ? (void *)&d : (void *)&h;
        law_element(at, r, i, t);
        size += fabs(t == M2_F32 ? (double)f : t == M2_F64 ? d : (double)m2_bf16_to_f32(h));
    }
    for (int k = 0; k < 2; k++) {
        const void *x = k ? b : a;
        value[k] = t == M2_F32   ? (double)*(const float *)x
                   : t == M2_F64 ? *(const double *)x
                                 : (double)m2_bf16_to_f32(*(const uint16_t *)x);
    }
    double step = t == M2_F32 ? 1.0 / (1 << 24) : t == M2_F64 ? 1.0 / (1ll << 53) : 1.0 / (1 << 8);
    return fabs(value[0] - value[1]) <= law_slack * step * size;
}

/* Array holds the reduction of elements [from, from + n). */
static inline int law_is_reduced(const void *array, int ranks, int64_t from, int64_t n, m2_dtype t, m2_reduce op)
{
    for (int64_t i = 0; i < n; i = law_next(i, n)) {
        _Alignas(8) char want[8];
        law_reduced(want, ranks, from + i, t, op);
        int real = t == M2_F32 || t == M2_F64 || t == M2_BF16;
        const char *got = (const char *)array + i * m2_dtype_size(t);
        if (law_slack > 0 && real && op == M2_SUM && law_is_near(got, want, ranks, from + i, t)) continue;
        if (memcmp((const char *)array + i * m2_dtype_size(t), want, (size_t)m2_dtype_size(t)) != 0) return 0;
    }
    return 1;
}

/* Array holds elements [from, from + n) of rank's array. */
static inline int law_is(const void *array, int rank, int64_t from, int64_t n, m2_dtype t)
{
    for (int64_t i = 0; i < n; i = law_next(i, n)) {
        char want[8];
        law_element(want, rank, from + i, t);
        if (memcmp((const char *)array + i * m2_dtype_size(t), want, (size_t)m2_dtype_size(t)) != 0) return 0;
    }
    return 1;
}

static inline int law_can_reduce(m2_dtype t, m2_reduce op)
{
    return t != M2_U16 && t != M2_U32 && !(t == M2_U8 && op == M2_SUM);
}

/* ---- laws of one (type, count) ----------------------------------------------------------------------------------- */
static inline const char *law_all_reduce(m2_comm *c, m2_dtype t, int64_t n)
{
    for (m2_reduce op = M2_SUM; op <= M2_MIN; op++) {
        if (!law_can_reduce(t, op)) {
            LAW(c->size == 1 || c->api->all_reduce(c, &n, &n, 0, t, op, NULL) == M2_BUG, "a reduction of %s is accepted",
                m2_dtype_name(t));
            continue;
        }
        if (op != M2_SUM && n > 1000) continue;
        void *x = law_room(n, t), *y = law_room(n, t);
        law_fill(x, c->rank, 0, n, t);
        int64_t before = c->bytes_sent;
        WORKS(c->api->all_reduce(c, x, y, n, t, op, NULL));
        int64_t sent = c->bytes_sent - before, predicted = m2_comm_bytes_all_reduce(n, t, c->rank, c->size);
        LAW(sent == predicted, "all_reduce of %lld %s on %d ranks sent %lld bytes, predicted %lld", (long long)n,
            m2_dtype_name(t), c->size, (long long)sent, (long long)predicted);
        LAW(law_is_reduced(y, c->size, 0, n, t, op), "all_reduce %d of %lld %s on %d ranks is wrong", op, (long long)n,
            m2_dtype_name(t), c->size);
        WORKS(c->api->all_reduce(c, x, x, n, t, op, NULL));
        LAW(!memcmp(x, y, (size_t)(n * m2_dtype_size(t))), "all_reduce in place differs from out of place");
        free(x);
        free(y);
    }
    return NULL;
}

static inline const char *law_all_gather(m2_comm *c, m2_dtype t, int64_t n)
{
    int64_t e = m2_dtype_size(t);
    for (int in_place = 0; in_place < 2; in_place++) {
        char *all = law_room(n * c->size, t), *own = law_room(n, t), *send = in_place ? all + c->rank * n * e : own;
        law_fill(send, c->rank, 0, n, t);
        int64_t before = c->bytes_sent;
        WORKS(c->api->all_gather(c, send, all, n, t, NULL));
        LAW(c->bytes_sent - before == m2_comm_bytes_all_gather(n, t, c->size), "all_gather's bytes are not predicted");
        for (int r = 0; r < c->size; r++)
            LAW(law_is(all + r * n * e, r, 0, n, t), "all_gather of %lld %s on %d ranks: block %d is wrong", (long long)n,
                m2_dtype_name(t), c->size, r);
        free(own);
        free(all);
    }
    return NULL;
}

static inline const char *law_reduce_scatter(m2_comm *c, m2_dtype t, int64_t n)
{
    int64_t e = m2_dtype_size(t);
    n /= c->size > 3 ? 4 : 1;
    for (int in_place = 0; law_can_reduce(t, M2_SUM) && in_place < 2; in_place++) {
        char *all = law_room(n * c->size, t), *own = law_room(n, t), *recv = in_place ? all + c->rank * n * e : own;
        law_fill(all, c->rank, 0, n * c->size, t);
        int64_t before = c->bytes_sent;
        WORKS(c->api->reduce_scatter(c, all, recv, n, t, M2_SUM, NULL));
        LAW(c->bytes_sent - before == m2_comm_bytes_reduce_scatter(n, t, c->size), "reduce_scatter's bytes not predicted");
        LAW(law_is_reduced(recv, c->size, c->rank * n, n, t, M2_SUM), "reduce_scatter of %lld %s on %d ranks is wrong",
            (long long)n, m2_dtype_name(t), c->size);
        free(own);
        free(all);
    }
    return NULL;
}

/* Rank a gives rank b law_share(a, b) elements: uneven, some nothing, with gaps between the blocks. */
static inline int64_t law_share(int a, int b, int64_t n)
{
    return (a + 2 * b) % 3 == 2 ? 0 : n / (1 + (a + 2 * b) % 3) + (n ? a : 0);
}

static inline const char *law_all_to_all(m2_comm *c, m2_dtype t, int64_t n)
{
    int64_t e = m2_dtype_size(t), sizes = (int64_t)sizeof(int64_t) * c->size, from = 3, into = 5, given = 0;
    int64_t *sc = malloc((size_t)sizes), *sa = malloc((size_t)sizes), *rc = malloc((size_t)sizes), *ra = malloc((size_t)sizes);
    n /= c->size;
    for (int r = 0; r < c->size; r++) {
        sc[r] = law_share(c->rank, r, n), sa[r] = from, from += sc[r] + 1;
        rc[r] = law_share(r, c->rank, n), ra[r] = into, into += rc[r] + 2;
        if (r != c->rank) given += sc[r] * e;
    }
    char *send = law_room(from, t), *recv = law_room(into, t), *blank = law_room(into, t);
    for (int r = 0; r < c->size; r++) law_fill(send + sa[r] * e, c->rank * c->size + r, 0, sc[r], t);
    int64_t before = c->bytes_sent;
    WORKS(c->api->all_to_all(c, send, sc, sa, recv, rc, ra, t, NULL));
    LAW(c->bytes_sent - before == given, "all_to_all counted %lld bytes, gave %lld", (long long)(c->bytes_sent - before),
        (long long)given);
    for (int r = 0; r < c->size; r++) {
        LAW(law_is(recv + ra[r] * e, r * c->size + c->rank, 0, rc[r], t), "all_to_all of %lld %s on %d ranks: block from %d "
            "is wrong", (long long)n, m2_dtype_name(t), c->size, r);
        memcpy(recv + ra[r] * e, blank, (size_t)(rc[r] * e));
    }
    LAW(!memcmp(recv, blank, (size_t)(into * e)), "all_to_all wrote between its blocks");
    free(sc), free(sa), free(rc), free(ra), free(send), free(recv), free(blank);
    return NULL;
}

static inline const char *law_broadcast(m2_comm *c, m2_dtype t, int64_t n)
{
    for (int root = 0; root < c->size; root += c->size > 1 ? c->size - 1 : 1) {
        void *x = law_room(n, t);
        if (c->rank == root) law_fill(x, root, 0, n, t);
        int64_t before = c->bytes_sent;
        WORKS(c->api->broadcast(c, x, n, t, root, NULL));
        LAW(c->bytes_sent - before == m2_comm_bytes_broadcast(n, t, c->rank, root, c->size), "broadcast's bytes not predicted");
        LAW(law_is(x, root, 0, n, t), "broadcast of %lld %s from %d of %d is wrong", (long long)n, m2_dtype_name(t), root,
            c->size);
        free(x);
    }
    return NULL;
}

/* A message goes once around the ring; every rank adds nothing but its place in the order. */
static inline const char *law_send_recv(m2_comm *c, m2_dtype t, int64_t n)
{
    if (c->size == 1) return NULL;
    int next = (c->rank + 1) % c->size, before = (c->rank + c->size - 1) % c->size;
    void *x = law_room(n, t);
    int64_t sent = c->bytes_sent;
    if (c->rank == 0) {
        law_fill(x, 0, 0, n, t);
        WORKS(c->api->send(c, x, n, t, next, NULL));
    }
    void *y = law_room(n, t);
    WORKS(c->api->recv(c, y, n, t, before, NULL));
    LAW(law_is(y, 0, 0, n, t), "a message of %lld %s around %d ranks changed", (long long)n, m2_dtype_name(t), c->size);
    if (c->rank) WORKS(c->api->send(c, y, n, t, next, NULL));
    LAW(c->bytes_sent - sent == n * m2_dtype_size(t), "send's bytes are not those of the message");
    free(x);
    free(y);
    return NULL;
}

/* ---- laws of the communicator ------------------------------------------------------------------------------------ */
/* The parity of ranks splits them; in each half the order is reversed. */
static inline const char *law_split(m2_comm *c)
{
    m2_comm *half = NULL;
    WORKS(c->api->split(c, c->rank % 2, -c->rank, &half));
    int size = (c->size + 1 - c->rank % 2) / 2, rank = size - 1 - c->rank / 2;
    LAW(half->size == size && half->rank == rank, "rank %d of %d became %d of %d, expected %d of %d", c->rank, c->size,
        half->rank, half->size, rank, size);
    LAW(half->host && half->host->size == size && half->local_size >= 1, "a split communicator has no host twin");
    int64_t x = c->rank, sum = 0;
    WORKS(half->api->all_reduce(half, &x, &x, 1, M2_I64, M2_SUM, NULL));
    for (int r = c->rank % 2; r < c->size; r += 2) sum += r;
    LAW(x == sum, "the sum over a split communicator is %lld, expected %lld", (long long)x, (long long)sum);
    WORKS(half->api->barrier(half));
    m2_comm_close(&half);
    WORKS(c->api->barrier(c));
    return NULL;
}

static inline const char *law_agree(m2_comm *c)
{
    LAW(m2_comm_agree(c, M2_OK) == M2_OK, "agreement on success failed: %s", m2_message());
    int first = c->size / 2;
    m2_status st = c->rank < first ? M2_OK : m2_fail(M2_DATA, "file %d is short", c->rank);
    LAW(m2_comm_agree(c, st) == M2_DATA, "agreement lost a failure");
    char want[64];
    if (c->size == 1) snprintf(want, sizeof want, "file 0 is short");
    else snprintf(want, sizeof want, "rank %d of %d: file %d is short", first, c->size, first);
    LAW(!strcmp(m2_message(), want), "agreement says '%s', expected '%s'", m2_message(), want);
    WORKS(c->api->check(c));
    return NULL;
}

static inline const char *law_ranks(m2_comm *c)
{
    int seen = 0;
    LAW(c->rank >= 0 && c->rank < c->size && c->local_rank < c->local_size && c->host, "a rank is out of range");
    int32_t mine[2] = {c->rank, c->local_size}, *all = malloc(sizeof mine * (size_t)c->size);
    WORKS(c->api->all_gather(c, mine, all, 2, M2_I32, NULL));
    for (int r = 0; r < c->size; r++) seen += all[2 * r] == r;
    free(all);
    LAW(seen == c->size, "ranks are not numbered 0 .. %d", c->size - 1);
    return NULL;
}

/* Shares of the cores: at least one, and together no more than the node has unless ranks outnumber the cores. */
static inline const char *law_cores(m2_comm *c)
{
    int cores = 0;
    WORKS(m2_comm_cores(c, &cores));
    int64_t sum = cores, online = sysconf(_SC_NPROCESSORS_ONLN);
    WORKS(c->api->all_reduce(c, &sum, &sum, 1, M2_I64, M2_SUM, NULL));
    LAW(cores >= 1 && (sum <= online || cores == 1), "%d ranks would use %lld threads on %lld cores", c->size,
        (long long)sum, (long long)online);
    return NULL;
}

typedef const char *(*law_of_array)(m2_comm *c, m2_dtype t, int64_t n);
typedef const char *(*law_of_comm)(m2_comm *c);
static const struct {
    const char *name;
    law_of_array array;
    law_of_comm comm;
} laws[] = {
    {"ranks", NULL, law_ranks},           {"all_reduce", law_all_reduce, NULL}, {"all_gather", law_all_gather, NULL},
    {"reduce_scatter", law_reduce_scatter, NULL}, {"all_to_all", law_all_to_all, NULL}, {"broadcast", law_broadcast, NULL},
    {"send, recv", law_send_recv, NULL},  {"split", NULL, law_split},           {"agree", NULL, law_agree},
    {"cores", NULL, law_cores},
};
enum { LAWS = sizeof laws / sizeof *laws };

/* Law i over all types and counts (the largest count in `wide` types only). NULL, or what broke. */
static inline const char *law_hold(int i, m2_comm *c, unsigned wide)
{
    if (laws[i].comm) return laws[i].comm(c);
    for (int t = 0; t < M2_DTYPE_COUNT; t++)
        for (int k = 0; k < LAW_COUNTS; k++) {
            if (law_counts[k] > 1000 && !(wide >> t & 1)) continue;
            const char *broke = laws[i].array(c, (m2_dtype)t, law_counts[k]);
            if (broke) return broke;
        }
    return NULL;
}
#endif
