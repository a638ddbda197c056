/* comm.c - opening a communicator by name, what launchers tell, agreement, shares of the cores. */
#define _GNU_SOURCE
#include "kernels/base/log.h"
#include "parallel/levels.h"
#include "parallel/peers.h"
#include "parallel/verbs.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- launchers --------------------------------------------------------------------------------------------------- */
/* The first row whose rank and size are set holds. Slurm sets the size only for steps that srun started: the batch script
 * itself is one process. */
static const struct {
    const char *rank, *size, *local_rank, *local_size, *node;
} launchers[] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE", NULL},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID"},
    {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", NULL},
};

static int number(const char *variable, int otherwise)
{
    const char *text = variable ? getenv(variable) : NULL;
    return text && *text ? atoi(text) : otherwise;
}

/* Entry `index` of a list such as "4", "2,1" or "2(x3),1". */
static int list_entry(const char *text, int index)
{
    while (text && *text) {
        char *end;
        int value = (int)strtol(text, &end, 10), times = 1;
        if (end == text) break;
        if (!strncmp(end, "(x", 2)) times = (int)strtol(end + 2, &end, 10), end += *end == ')';
        if (index < times) return value;
        index -= times;
        text = *end == ',' ? end + 1 : NULL;
    }
    return 1;
}

void m2_comm_launcher(int *rank, int *size, int *local_rank, int *local_size)
{
    *rank = number("PMIX_RANK", 0);
    *size = *local_size = 1;
    *local_rank = 0;
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        if (number(launchers[i].rank, -1) < 0 || number(launchers[i].size, 0) < 1) continue;
        *rank = number(launchers[i].rank, 0);
        *size = number(launchers[i].size, 1);
        *local_rank = number(launchers[i].local_rank, 0);
        *local_size = list_entry(getenv(launchers[i].local_size), number(launchers[i].node, 0));
        return;
    }
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */
/* What the ranks have: *sharers = most ranks on one GPU, 0 = some rank has none; *nccl: every rank can load it. */
static m2_status look_around(m2_comm *host, m2_device *dev, int *sharers, int *nccl)
{
    int32_t cpu = !dev || !strcmp(dev->api->kind, "cpu"), word[3] = {1, cpu, cpu || m2i_nccl_load() != M2_OK};
    M2_TRY(m2_comm_sharers(host, dev, word));
    M2_TRY(host->api->all_reduce(host, word, word, 3, M2_I32, M2_MAX, NULL));
    *sharers = word[1] ? 0 : word[0];
    *nccl = !word[2];
    return M2_OK;
}

static m2_status open_nccl(m2_device *dev, m2_comm **out)
{
    int sharers, nccl;
    m2_comm *host = NULL;
    M2_TRY(m2_comm_open_mpi(NULL, &host));
    m2_status st = look_around(host, dev, &sharers, &nccl);
    if (st == M2_OK && sharers == 0)
        st = m2_fail(M2_USAGE, "run.transport=nccl needs a GPU on every rank: use run.transport=mpi");
    if (st == M2_OK && sharers > 1)
        st = m2_fail(M2_USAGE,
                     "run.transport=nccl needs a GPU for each rank, but %d ranks share one: start one rank "
                     "per GPU, or use "
                     "run.transport=mpi",
                     sharers);
    if (st == M2_OK) return m2i_comm_open_nccl(host, dev, out);
    m2_comm_close(&host);
    return st;
}

/* More than one process: NCCL where each has its own GPU, else MPI through the host's memory. */
static m2_status open_auto(m2_device *dev, m2_comm **out)
{
    int sharers, nccl;
    m2_comm *host = NULL;
    M2_TRY(m2_comm_open_mpi(NULL, &host));
    m2_status st = look_around(host, dev, &sharers, &nccl);
    if (st == M2_OK && host->size > 1 && sharers == 1 && nccl) {
        m2_log_once(M2_LOG_INFO, "transport nccl: each of %d ranks has its own GPU", host->size);
        return m2i_comm_open_nccl(host, dev, out);
    }
    if (st == M2_OK && host->size > 1) {
        if (sharers > 1)
            m2_log_once(M2_LOG_INFO,
                        "transport mpi, staged through pinned memory: %d of %d ranks share one GPU, which "
                        "NCCL refuses",
                        sharers, host->size);
        else if (sharers == 1)
            m2_log_once(M2_LOG_WARN,
                        "transport mpi, staged through pinned memory: not every rank can load NCCL%s%s",
                        m2i_nccl_load() == M2_OK ? "" : ": ", m2i_nccl_load() == M2_OK ? "" : m2_message());
        else
            m2_log_once(M2_LOG_INFO, "transport mpi: %d processes were started together", host->size);
    }
    if (st == M2_OK) st = m2_comm_open_mpi(dev, out);
    m2_comm_close(&host);
    return st;
}

static const struct {
    const char *name;
    m2_status (*open)(m2_device *dev, m2_comm **out);
} transports[] = {{"mpi", m2_comm_open_mpi}, {"nccl", open_nccl}, {"self", m2_comm_open_self}};

m2_status m2_comm_open(const char *transport, m2_device *dev, m2_comm **out)
{
    int rank, size, local_rank, local_size;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    if (!strcmp(transport, "auto")) {
        if (size > 1 || getenv("PMIX_RANK")) return open_auto(dev, out);
        transport = "self";
    }
    if (!strcmp(transport, "self") && size > 1)
        return m2_fail(
            M2_USAGE,
            "run.transport=self, but %d processes were started together: each would do the whole job; "
            "start one, or use run.transport=mpi",
            size);
    for (size_t i = 0; i < sizeof transports / sizeof *transports; i++)
        if (!strcmp(transport, transports[i].name)) return transports[i].open(dev, out);
    return m2_fail(M2_USAGE, "run.transport=%s: expected auto, self, mpi or nccl", transport);
}

void m2_comm_close(m2_comm **c)
{
    if (*c) m2_levels_close(*c);
    if (*c) m2_peers_close(*c);
    if (*c) (*c)->api->close(*c);
    *c = NULL;
}

/* ---- special all-to-alls ----------------------------------------------------------------------------------------- */
enum { FEW = 64 }; /* ranks whose counts fit the stack */

/* counts[4 size]: zeroed send_count, send_at, recv_count, recv_at. */
static int64_t *open_counts(int size, int64_t *few)
{
    if (size > FEW) return calloc(4 * (size_t)size, sizeof *few);
    memset(few, 0, 4 * (size_t)size * sizeof *few);
    return few;
}

static m2_status exchange_counts(m2_comm *c, const void *send, void *recv, int64_t *n, int64_t *few,
                                 m2_dtype t, m2_stream *s)
{
    size_t p = (size_t)c->size;
    m2_status st = c->api->all_to_all(c, send, n, n + p, recv, n + 2 * p, n + 3 * p, t, s);
    if (n != few) free(n);
    return st;
}

m2_status m2_comm_swap_apart(m2_comm *c, const void *send, int64_t send_step, void *recv, int64_t recv_step,
                             int64_t count, m2_dtype t, m2_stream *s)
{
    int64_t few[4 * FEW], *n, size = m2_dtype_size(t);
    if (m2_peers_reach(c, recv, ((c->size - 1) * recv_step + count) * size))
        return m2_peers_swap(c, send, send_step * size, recv, recv_step * size, count * size, s);
    n = open_counts(c->size, few);
    if (!n) return m2_fail(M2_TRANSIENT, "out of memory for an exchange of %d ranks", c->size);
    for (int r = 0; r < c->size; r++) {
        n[r] = n[2 * c->size + r] = count;
        n[c->size + r] = r * send_step;
        n[3 * c->size + r] = r * recv_step;
    }
    return exchange_counts(c, send, recv, n, few, t, s);
}

m2_status m2_comm_swap(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_stream *s)
{
    return m2_comm_swap_apart(c, send, count, recv, count, count, t, s);
}

static m2_status move_on(m2_comm *c, int to, int from, const void *send, void *recv, int64_t count,
                         m2_dtype t, m2_stream *s)
{
    int64_t few[4 * FEW], *n = open_counts(c->size, few);
    if (!n) return m2_fail(M2_TRANSIENT, "out of memory for an exchange of %d ranks", c->size);
    if (to >= 0 && to < c->size) n[to] = count;
    if (from >= 0 && from < c->size) n[2 * c->size + from] = count;
    return exchange_counts(c, send, recv, n, few, t, s);
}

m2_status m2_comm_shift(m2_comm *c, int by, const void *send, void *recv, int64_t count, m2_dtype t,
                        m2_stream *s)
{
    return move_on(c, c->rank + by, c->rank - by, send, recv, count, t, s);
}

m2_status m2_comm_rotate(m2_comm *c, int by, const void *send, void *recv, int64_t count, m2_dtype t,
                         m2_stream *s)
{
    int n = c->size, to = (c->rank + by % n + n) % n, from = (c->rank - by % n + n) % n;
    return move_on(c, to, from, send, recv, count, t, s);
}

/* ---- agreement --------------------------------------------------------------------------------------------------- */
m2_status m2_comm_agree(m2_comm *c, m2_status mine)
{
    c = c->host;
    if (c->size == 1) return mine;
    m2_error own, told = {0};
    m2_error_take(&own, mine);
    int32_t failing = mine == M2_OK ? c->size : c->rank;
    m2_status st = c->api->all_reduce(c, &failing, &failing, 1, M2_I32, M2_MIN, NULL);
    if (st == M2_OK && failing == c->size) return M2_OK;
    if (st == M2_OK) {
        told = own;
        st = c->api->broadcast(c, &told, sizeof told, M2_U8, failing, NULL);
    }
    if (st != M2_OK) return mine == M2_OK ? st : m2_error_put(&own);
    m2_error_put(&told);
    char name[32];
    snprintf(name, sizeof name, "rank %d of %d", failing, c->size);
    return m2_context(told.code, "%s", name);
}

/* ---- cores ------------------------------------------------------------------------------------------------------- */
typedef struct place {
    char node[64];
    cpu_set_t cpus;
} place;

m2_status m2_comm_cores(m2_comm *c, int *cores)
{
    c = c->host;
    place mine, *all = calloc((size_t)c->size, sizeof *all);
    if (!all) return m2_fail(M2_TRANSIENT, "out of memory for the places of %d ranks", c->size);
    memset(&mine, 0, sizeof mine);
    gethostname(mine.node, sizeof mine.node - 1);
    if (sched_getaffinity(0, sizeof mine.cpus, &mine.cpus) != 0) CPU_SET(0, &mine.cpus);
    m2_status st = c->api->all_gather(c, &mine, all, sizeof mine, M2_U8, NULL);
    int sharing = 0;
    for (int r = 0; st == M2_OK && r < c->size; r++) {
        cpu_set_t both;
        CPU_AND(&both, &mine.cpus, &all[r].cpus);
        sharing += !strcmp(mine.node, all[r].node) && CPU_COUNT(&both) > 0;
    }
    free(all);
    if (st != M2_OK) return st;
    *cores = CPU_COUNT(&mine.cpus) / sharing;
    if (*cores < 1) *cores = 1;
    return M2_OK;
}

/* ---- GPUs -------------------------------------------------------------------------------------------------------- */
m2_status m2_comm_sharers(m2_comm *c, const m2_device *dev, int *sharers)
{
    c = c->host;
    *sharers = 1;
    char mine[sizeof dev->uid] = "", (*all)[sizeof mine] = calloc((size_t)c->size, sizeof *all);
    if (!all) return m2_fail(M2_TRANSIENT, "out of memory for the places of %d ranks", c->size);
    if (dev) memcpy(mine, dev->uid, sizeof mine);
    m2_status st = c->api->all_gather(c, mine, all, sizeof mine, M2_U8, NULL);
    for (int r = 0; st == M2_OK && *mine && r < c->size; r++)
        *sharers += r != c->rank && !strcmp(all[r], mine);
    free(all);
    return st;
}
