#include "runtime/ranks.h"
#include "kernels/base/log.h"
#include "parallel/levels.h"
#include "runtime/search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- device ------------------------------------------------------------------------------------------------------ */
/* Where the device keeps what it measures. The user's cache may be missing or read-only: then nothing is measured. */
static m2_status tune(const m2_config *cfg, m2_device *dev)
{
    char folder[1024];
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME"), *where = cfg->run_tune;
    int cached = !strcmp(where, "auto");
    if (!dev->api->tune || !strcmp(where, "off")) return M2_OK;
    if (cached) {
        if (!(cache && *cache) && !(home && *home)) return M2_OK;
        if (cache && *cache)
            snprintf(folder, sizeof folder, "%s/m2", cache);
        else
            snprintf(folder, sizeof folder, "%s/.cache/m2", home);
        where = folder;
    }
    m2_status st = m2_context(dev->api->tune(dev, where), "run.tune");
    if (st == M2_OK || !cached) return st;
    m2_log_once(M2_LOG_INFO, "matrix products take the library's first choices: %s", m2_message());
    return M2_OK;
}

/* A launcher may show each rank all GPUs of the node, or only its own as number 0: ranks are dealt to what they see. */
static m2_status open_device(const m2_config *cfg, int local_rank, m2_device **out)
{
    const char *spec = cfg->run_device;
    char own[32];
    int gpus = strcmp(spec, "cuda") && strcmp(spec, "auto") ? 0 : m2_device_gpus();
    snprintf(own, sizeof own, "cuda:%d", gpus ? local_rank % gpus : 0);
    M2_TRY(m2_context(m2_device_open(gpus ? own : spec, (int)cfg->run_threads, out), "run.device"));
    return tune(cfg, *out);
}

static m2_status same_kind(const m2_ranks *r)
{
    m2_comm *c = r->comm->host;
    int32_t cpu[2] = {!strcmp(r->device->api->kind, "cpu"), 0};
    cpu[1] = -cpu[0];
    M2_TRY(c->api->all_reduce(c, cpu, cpu, 2, M2_I32, M2_MAX, NULL));
    if (cpu[0] == -cpu[1]) return M2_OK;
    return m2_fail(M2_USAGE,
                   "some ranks found a GPU and some did not: set run.device=cpu, or start one rank per GPU");
}

/* ---- threads, precision --------------------------------------------------------------------------------------------------- */
static const char *const precisions[] = {
    [M2_PREC_F32] = "f32", [M2_PREC_F64] = "f64", [M2_PREC_TF32] = "tf32", [M2_PREC_BF16] = "bf16"};

const char *m2_precision_name(m2_precision p)
{
    return precisions[p];
}

static m2_status choose_threads(const m2_config *cfg, m2_ranks *r)
{
    int share;
    M2_TRY(m2_comm_cores(r->comm, &share));
    r->device->threads = cfg->run_threads ? (int)cfg->run_threads : share;
    return M2_OK;
}

m2_status m2_precision_choose(const m2_config *cfg, const m2_device *dev, m2_precision *out)
{
    int cpu = !strcmp(dev->api->kind, "cpu");
    const char *name = cfg->train_precision;
    if (!strcmp(name, "auto")) name = cpu ? "f32" : "bf16";
    for (int i = 0; i < (int)(sizeof precisions / sizeof *precisions); i++)
        if (!strcmp(precisions[i], name)) *out = (m2_precision)i;
    int wide = *out == M2_PREC_F32 || *out == M2_PREC_F64;
    if (cpu && !wide)
        return m2_fail(M2_USAGE, "train.precision=%s needs a GPU: use f32, f64 or auto on the CPU", name);
    return M2_OK;
}

/* ---- mesh -------------------------------------------------------------------------------------------------------- */
static m2_status open_mesh(const m2_config *cfg, m2_ranks *r)
{
    m2_grid grid;
    M2_TRY(m2_search_grid(cfg, r->comm, &grid));
    if (grid.size[M2_AXIS_SEQUENCE] == 1) return M2_OK;
    M2_TRY(m2_mesh_open(r->comm, &grid, &r->mesh));
    r->world = r->comm;
    r->comm = r->mesh.all;
    return M2_OK;
}

m2_status m2_ranks_per_node(const m2_config *cfg, int ranks, int on_each, int nccl, int *out)
{
    int asked = (int)cfg->comm_node_ranks, n = asked ? asked : nccl ? 0 : on_each;
    if (asked && ranks % asked)
        return m2_fail(M2_USAGE, "comm.node_ranks=%d does not divide the %d ranks: use a divisor, or 0 for nodes as they are",
                       asked, ranks);
    *out = n > 1 && n < ranks ? n : 0;
    return M2_OK;
}

static m2_status open_levels(const m2_config *cfg, m2_ranks *r)
{
    int on_each = 0, nccl = !strcmp(r->comm->api->kind, "nccl");
    M2_TRY(m2_levels_find(r->comm, &on_each));
    M2_TRY(m2_ranks_per_node(cfg, r->comm->size, on_each, nccl, &r->per_node));
    if (!r->per_node) return M2_OK;
    m2_log_once(M2_LOG_INFO, "gradients are summed among the %d ranks of a node first, then between %d nodes", r->per_node,
                r->comm->size / r->per_node);
    return m2_levels_open(r->comm, r->per_node);
}

m2_status m2_ranks_exchange(const m2_config *cfg, const m2_ranks *r, m2_exchange_choice *out)
{
    int parts = m2_ranks_sequence(r);
    int64_t length = cfg->model_length;
    *out = (m2_exchange_choice){0};
    if (parts == 1) return M2_OK;
    if (length % parts)
        return m2_fail(M2_USAGE,
                       "run.mesh=%s cuts sequences over %d ranks, which does not divide model.length=%lld: "
                       "use a length of %lld "
                       "or %lld, or another number of ranks",
                       cfg->run_mesh, parts, (long long)length, (long long)(length / parts * parts),
                       (long long)((length / parts + 1) * parts));
    if (!strcmp(cfg->model_family, "vit") || strcmp(cfg->task_name, "none") != 0)
        return m2_fail(M2_USAGE,
                       "run.mesh=%s cuts sequences over %d ranks, which model.family=%s with task.name=%s "
                       "cannot: its head looks "
                       "at whole sequences. Leave run.mesh empty: all ranks share the batch",
                       cfg->run_mesh, parts, cfg->model_family, cfg->task_name);
    int whole = cfg->model_filter_band == 1 && (!cfg->model_filter_taps || cfg->model_filter_taps == length);
    if (!whole && !strcmp(cfg->run_exchange, "monarch"))
        return m2_fail(
            M2_USAGE,
            "run.exchange=monarch takes filters of model.length taps and all frequencies: leave out "
            "model.filter.taps and model.filter.band, or use run.exchange=channel");
    m2_exchange_ask ask = {.want = whole ? cfg->run_exchange : "channel",
                           .length = length,
                           .channels = cfg->model_width,
                           .filters = cfg->model_width / cfg->model_share,
                           .taps = cfg->model_short_taps,
                           .ranks = parts,
                           .groups = (int)cfg->comm_groups,
                           .beside = strcmp(r->device->api->kind, "cpu") || r->mesh.nodes_per_sequence > 1,
                           .compute = r->precision == M2_PREC_F64    ? M2_F64
                                      : r->precision == M2_PREC_BF16 ? M2_BF16
                                                                     : M2_F32};
    return m2_context(m2_exchange_choose(&ask, out), "run.mesh=%s, run.exchange=%s", cfg->run_mesh,
                      cfg->run_exchange);
}

m2_status m2_ranks_spec(const m2_config *cfg, const m2_ranks *r, m2_program_spec *spec)
{
    int parts = m2_ranks_sequence(r);
    m2_exchange_choice exchange;
    spec->precision = r->precision;
    spec->length = cfg->model_length / parts;
    if (parts == 1) return M2_OK;
    M2_TRY(m2_ranks_exchange(cfg, r, &exchange));
    spec->sequence = (m2_sequence_cut){.ranks = parts,
                                       .rank = m2_grid_at(&r->mesh.grid, r->mesh.rank, M2_AXIS_SEQUENCE),
                                       .context = r->mesh.axis[M2_AXIS_SEQUENCE],
                                       .columns = exchange.columns,
                                       .groups = exchange.groups};
    return M2_OK;
}

/* run.strict: what "auto" fell back to is an error. */
static m2_status be_strict(const m2_config *cfg, const m2_ranks *r)
{
    int cpu = !strcmp(r->device->api->kind, "cpu"), automatic = !strcmp(cfg->run_transport, "auto");
    if (!cfg->run_strict) return M2_OK;
    if (cpu && !strcmp(cfg->run_device, "auto"))
        return m2_fail(
            M2_USAGE, "run.strict is set and there is no usable GPU (m2 train run.device=cuda says why): set "
                      "run.device=cpu to mean it");
    if (!cpu && automatic && r->comm->size > 1 && !strcmp(r->comm->api->kind, "mpi"))
        return m2_fail(M2_USAGE, "run.strict is set and %s: set run.transport=mpi to mean it, slow as it is",
                       r->sharers > 1 ? "ranks share a GPU, which NCCL refuses"
                                      : "NCCL cannot be loaded on every rank");
    return M2_OK;
}

m2_plan_options m2_ranks_plan(const m2_config *cfg, const m2_ranks *r)
{
    return (m2_plan_options){.naive = !strcmp(cfg->train_plan, "naive"),
                             .no_graph = !cfg->run_graphs,
                             .no_peers = !cfg->comm_peers,
                             .threads = r->device->threads,
                             .device = r->device};
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */
m2_status m2_ranks_open(const m2_config *cfg, m2_ranks *out)
{
    int rank, size, local_rank, local_size;
    *out = (m2_ranks){0};
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    m2_log_setup(M2_LOG_INFO, rank);
    m2_error why = {.code = M2_OK};
    m2_status st = open_device(cfg, local_rank, &out->device);
    if (st != M2_OK) m2_error_take(&why, st);
    st = m2_comm_open(cfg->run_transport, out->device, &out->comm);
    if (st == M2_OK) st = m2_comm_agree(out->comm, why.code == M2_OK ? M2_OK : m2_error_put(&why));
    if (st == M2_OK) st = same_kind(out);
    if (st == M2_OK) st = m2_comm_sharers(out->comm, out->device, &out->sharers);
    if (st == M2_OK) st = m2_comm_agree(out->comm, be_strict(cfg, out));
    if (st == M2_OK) st = choose_threads(cfg, out);
    if (st == M2_OK) st = m2_precision_choose(cfg, out->device, &out->precision);
    if (st == M2_OK) st = open_mesh(cfg, out);
    if (st == M2_OK) st = open_levels(cfg, out);
    if (st != M2_OK) m2_ranks_close(out);
    return st;
}

void m2_ranks_close(m2_ranks *r)
{
    if (r->world) { /* comm is the mesh's */
        r->comm = r->world;
        r->world = NULL;
        m2_mesh_close(&r->mesh);
    }
    m2_comm_close(&r->comm);
    m2_device_close(&r->device);
}

m2_status m2_ranks_alone(m2_comm *c, m2_status st)
{
    if (st != M2_OK && c->size > 1) c->api->abort(c, st);
    return st;
}
