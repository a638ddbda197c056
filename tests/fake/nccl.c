/* nccl.c - the interface that parallel/comm_nccl.c asks of NCCL, for host memory, over files: each rank writes what it gives,
 * waits until all have, and reads. Calls are "in progress" for a while, as those of a non-blocking communicator may be.
 * M2_FAKE_NCCL_DIES=N: collective N never ends, and an error stands in the background, as when a peer is gone.
 * A value that cannot be right ends the process: it is the caller's mistake that is looked for. */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define EXPECT(x)                                                                                            \
    do {                                                                                                     \
        if (x) break;                                                                                        \
        fprintf(stderr, "fake NCCL: expected %s (line %d)\n", #x, __LINE__);                                 \
        _exit(3);                                                                                            \
    } while (0)

enum { SUCCESS = 0, REMOTE_ERROR = 6, IN_PROGRESS = 7, TYPES = 10, MESSAGES = 64 };
static const size_t type_size[TYPES] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

typedef struct id {
    char text[128];
} id;

typedef struct comm {
    id where;
    int ranks, rank, laps; /* laps: how often it still says "in progress" */
    int finalised;
    atomic_int broken, asking;
    long at; /* number of the next collective */
    long sent[MESSAGES], received[MESSAGES];
} comm;

typedef struct config {
    size_t size;
    unsigned magic, version;
    int blocking, rest;
} config;

static struct {
    int depth, n;
    struct {
        comm *c;
        void *recv;
        size_t bytes;
        int from;
    } late[2 * MESSAGES]; /* receives of a group happen at its end */
} group;

/* ---- files ------------------------------------------------------------------------------------------------------- */
static void name_of(char *path, const comm *c, const char *what, int a, int b, long number)
{
    snprintf(path, 256, "%s/%.32s-%d-%d-%ld", c->where.text, what, a, b, number);
}

static void put(const char *path, const void *data, size_t bytes)
{
    char draft[300];
    snprintf(draft, sizeof draft, "%s.tmp", path);
    FILE *f = fopen(draft, "wb");
    EXPECT(f && (!bytes || fwrite(data, bytes, 1, f) == 1) && !fclose(f));
    EXPECT(!rename(draft, path));
}

static void get(const char *path, void *data, size_t bytes)
{
    FILE *f = NULL;
    struct stat s;
    for (int i = 0; !f; i++) {
        f = fopen(path, "rb");
        EXPECT(i < 600000);
        if (!f) nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    EXPECT(!fstat(fileno(f), &s) && (size_t)s.st_size == bytes); /* both sides agree about the size */
    EXPECT(!bytes || fread(data, bytes, 1, f) == 1);
    fclose(f);
}

/* Everyone's `bytes`, in the order of ranks. A rank that is two collectives ahead removes what it gave then: all read it. */
static char *swap(comm *c, const void *mine, size_t bytes)
{
    char path[256], *all = malloc(bytes * (size_t)c->ranks + 1), *dies = getenv("M2_FAKE_NCCL_DIES");
    if (dies && c->at == atol(dies)) c->broken = 1;
    while (c->broken) pause();
    name_of(path, c, "all", c->rank, 0, c->at);
    put(path, mine, bytes);
    for (int r = 0; r < c->ranks; r++) {
        name_of(path, c, "all", r, 0, c->at);
        get(path, all + (size_t)r * bytes, bytes);
    }
    name_of(path, c, "all", c->rank, 0, c->at++ - 2);
    unlink(path);
    return all;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
EXPORT int ncclGetVersion(int *v)
{
    *v = 22809;
    return SUCCESS;
}

EXPORT int ncclGetUniqueId(id *out)
{
    snprintf(out->text, sizeof out->text, "%s/fake-nccl-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    EXPECT(mkdtemp(out->text));
    return SUCCESS;
}

EXPORT int ncclCommInitRankConfig(comm **out, int ranks, id where, int rank, config *f)
{
    EXPECT(f->size == sizeof *f && f->magic == 0xcafebeef && f->version == 21400 && f->blocking == 0);
    EXPECT(ranks > 0 && rank >= 0 && rank < ranks && !access(where.text, W_OK));
    comm *c = *out = calloc(1, sizeof *c);
    EXPECT(c && ranks <= MESSAGES);
    c->where = where, c->ranks = ranks, c->rank = rank, c->laps = 3;
    return IN_PROGRESS;
}

EXPORT int ncclCommGetAsyncError(comm *c, int *code)
{
    EXPECT(!atomic_exchange(&c->asking, 1)); /* NCCL joins its own threads here: not for two at once */
    *code = c->broken ? REMOTE_ERROR : c->laps > 0 ? IN_PROGRESS : SUCCESS;
    if (c->laps > 0) c->laps--;
    c->asking = 0;
    return SUCCESS;
}

EXPORT int ncclCommFinalize(comm *c)
{
    char nothing = 0;
    free(swap(c, &nothing, 1));
    c->finalised = 1;
    c->laps = 2;
    return IN_PROGRESS;
}

/* The last to need the folder removes it: rank 0, once the others say goodbye. */
EXPORT int ncclCommDestroy(comm *c)
{
    char path[512], nothing = 0;
    EXPECT(c->finalised && c->laps == 0);
    if (c->rank) {
        name_of(path, c, "bye", c->rank, 0, 0);
        put(path, &nothing, 1);
    } else {
        for (int r = 1; r < c->ranks; r++) {
            name_of(path, c, "bye", r, 0, 0);
            get(path, &nothing, 1);
        }
        DIR *all = opendir(c->where.text);
        for (struct dirent *e; all && (e = readdir(all));) {
            snprintf(path, sizeof path, "%s/%s", c->where.text, e->d_name);
            if (e->d_name[0] != '.') unlink(path);
        }
        if (all) closedir(all);
        rmdir(c->where.text);
    }
    free(c);
    return SUCCESS;
}

EXPORT int ncclCommAbort(comm *c)
{
    free(c);
    return SUCCESS;
}

EXPORT const char *ncclGetErrorString(int code)
{
    return code == SUCCESS ? "no error" : "an error";
}

EXPORT const char *ncclGetLastError(comm *c)
{
    (void)c;
    return "";
}

/* ---- collectives ------------------------------------------------------------------------------------------------- */
static int begin(comm *c)
{
    EXPECT(c->laps == 0 && !c->finalised && !group.depth);
    c->laps = 2;
    return IN_PROGRESS;
}

static float bf16(unsigned short x)
{
    unsigned bits = (unsigned)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static unsigned short to_bf16(float f)
{
    unsigned bits;
    memcpy(&bits, &f, sizeof bits);
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* From the last rank to the first: another order than the callers' own. */
#define REDUCE(type, load, store, plus)                                                                      \
    for (size_t i = 0; i < count; i++) {                                                                     \
        type *x = (type *)(void *)all + at + i;                                                              \
        type acc = x[(size_t)(ranks - 1) * step];                                                            \
        for (int r = ranks - 2; r >= 0; r--) {                                                               \
            type y = x[(size_t)r * step];                                                                    \
            acc = op == 0   ? store(plus(load(acc), load(y)))                                                \
                  : op == 2 ? (load(y) > load(acc) ? y : acc)                                                \
                            : (load(y) < load(acc) ? y : acc);                                               \
        }                                                                                                    \
        ((type *)out)[i] = acc;                                                                              \
    }                                                                                                        \
    break

#define SAME(x)    (x)
#define ADD(a, b)  ((a) + (b))
#define ADDU(a, b) ((long long)((unsigned long long)(a) + (unsigned long long)(b)))
#define ADDI(a, b) ((int)((unsigned)(a) + (unsigned)(b)))

static void reduce(void *out, char *all, size_t at, size_t count, size_t step, int ranks, int type, int op)
{
    EXPECT(op == 0 || op == 2 || op == 3);
    switch (type) {
    case 1: REDUCE(unsigned char, SAME, (unsigned char), ADD);
    case 2: REDUCE(int, SAME, SAME, ADDI);
    case 4: REDUCE(long long, SAME, SAME, ADDU);
    case 7: REDUCE(float, SAME, SAME, ADD);
    case 8: REDUCE(double, SAME, SAME, ADD);
    case 9: REDUCE(unsigned short, bf16, to_bf16, ADD);
    default: EXPECT(!"a type that is summed");
    }
}

EXPORT int ncclAllReduce(const void *send, void *recv, size_t count, int type, int op, comm *c, void *stream)
{
    (void)stream;
    char *all = swap(c, send, count * type_size[type]);
    reduce(recv, all, 0, count, count, c->ranks, type, op);
    free(all);
    return begin(c);
}

EXPORT int ncclReduceScatter(const void *send, void *recv, size_t count, int type, int op, comm *c,
                             void *stream)
{
    (void)stream;
    size_t n = count * (size_t)c->ranks;
    char *all = swap(c, send, n * type_size[type]);
    reduce(recv, all, (size_t)c->rank * count, count, n, c->ranks, type, op);
    free(all);
    return begin(c);
}

EXPORT int ncclAllGather(const void *send, void *recv, size_t count, int type, comm *c, void *stream)
{
    (void)stream;
    char *all = swap(c, send, count * type_size[type]);
    memcpy(recv, all, count * type_size[type] * (size_t)c->ranks);
    free(all);
    return begin(c);
}

EXPORT int ncclBroadcast(const void *send, void *recv, size_t count, int type, int root, comm *c,
                         void *stream)
{
    (void)stream;
    EXPECT(root >= 0 && root < c->ranks);
    char *all = swap(c, send, count * type_size[type]);
    memcpy(recv, all + (size_t)root * count * type_size[type], count * type_size[type]);
    free(all);
    return begin(c);
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */
static void take(comm *c, void *recv, size_t bytes, int from)
{
    char path[256];
    name_of(path, c, "to", from, c->rank, c->received[from]++);
    get(path, recv, bytes);
    unlink(path);
}

EXPORT int ncclSend(const void *send, size_t count, int type, int to, comm *c, void *stream)
{
    (void)stream;
    char path[256];
    EXPECT(to >= 0 && to < c->ranks && to != c->rank && c->laps == 0);
    name_of(path, c, "to", c->rank, to, c->sent[to]++);
    put(path, send, count * type_size[type]);
    return group.depth ? SUCCESS : begin(c);
}

EXPORT int ncclRecv(void *recv, size_t count, int type, int from, comm *c, void *stream)
{
    (void)stream;
    EXPECT(from >= 0 && from < c->ranks && from != c->rank && c->laps == 0);
    if (group.depth) {
        EXPECT(group.n < 2 * MESSAGES);
        group.late[group.n].c = c, group.late[group.n].recv = recv, group.late[group.n].from = from;
        group.late[group.n++].bytes = count * type_size[type];
        return SUCCESS;
    }
    take(c, recv, count * type_size[type], from);
    return begin(c);
}

EXPORT int ncclGroupStart(void)
{
    group.depth++;
    return SUCCESS;
}

EXPORT int ncclGroupEnd(void)
{
    EXPECT(group.depth > 0);
    if (--group.depth) return SUCCESS;
    int n = group.n;
    comm *c = n ? group.late[0].c : NULL;
    for (int i = 0; i < n; i++)
        take(group.late[i].c, group.late[i].recv, group.late[i].bytes, group.late[i].from);
    group.n = 0;
    return c ? begin(c) : SUCCESS;
}
