/* ranks.h - what this process is and has: its device, its place among the ranks, its share of the cores. */
#ifndef M2_RANKS_H
#define M2_RANKS_H

#include "parallel/mesh.h"
#include "runtime/config.h"
#include "runtime/program.h"

typedef struct m2_ranks {
    m2_device *device; /* of the same kind on every rank; device->threads is this rank's share of the cores */
    m2_comm *comm;      /* all ranks, in the order of the mesh */
    m2_comm *world;     /* the same as the launcher numbers them, where a mesh cuts sequences; else NULL */
    m2_mesh mesh;       /* zeroed where no sequence is cut: all ranks are data */
    int per_node;       /* > 1: large reductions go by levels of so many ranks (parallel/levels.h) */
    int sharers; /* ranks that use this rank's GPU, itself included; 1 on the CPU */
    m2_precision precision; /* of the arithmetic: train.precision, "auto" resolved for the device */
} m2_ranks;

/* The mesh as seen by the data: how many share of the batch there are, which is this rank's; over how many ranks a sequence is
 * cut. */
static inline int m2_ranks_sequence(const m2_ranks *r)
{
    return r->mesh.grid.size[M2_AXIS_SEQUENCE] > 1 ? r->mesh.grid.size[M2_AXIS_SEQUENCE] : 1;
}

static inline int m2_ranks_data(const m2_ranks *r)
{
    return m2_ranks_sequence(r) > 1 ? r->mesh.grid.size[M2_AXIS_DATA] : r->comm->size;
}

static inline int m2_ranks_share(const m2_ranks *r)
{
    return m2_ranks_sequence(r) > 1 ? m2_grid_at(&r->mesh.grid, r->mesh.rank, M2_AXIS_DATA) : r->comm->rank;
}

/* How sequences are exchanged: run.exchange, "auto" resolved. M2_USAGE where this model's sequences cannot be cut over so many
 * ranks. *out is zeroed where no sequence is cut. Pure. */
M2_API m2_status m2_ranks_exchange(const m2_config *cfg, const m2_ranks *r, m2_exchange_choice *out) M2_MUST_USE;

/* comm.node_ranks, 0 resolved: how many ranks of one node reduce first, given how many each has (0: nodes differ or are one) and
 * whether the transport is NCCL, which does so itself. 0: none. M2_USAGE where they do not divide the ranks. Pure. */
M2_API m2_status m2_ranks_per_node(const m2_config *cfg, int ranks, int on_each, int nccl, int *out) M2_MUST_USE;

/* Fills in what cfg and the mesh say about a program: precision, length, the cut of the sequence. M2_USAGE where this model's
 * sequences cannot be cut over so many ranks. */
M2_API m2_status m2_ranks_spec(const m2_config *cfg, const m2_ranks *r, m2_program_spec *spec) M2_MUST_USE;

/* From run.device, run.transport, run.mesh, run.threads, train.precision. Ranks other than 0 stop logging. Collective. */
M2_API m2_status m2_ranks_open(const m2_config *cfg, m2_ranks *out) M2_MUST_USE;
M2_API void m2_ranks_close(m2_ranks *r); /* collective; accepts a zeroed one */

/* Passes M2_OK through. A failure that only this rank knows of, while the others may be waiting for it in a collective, ends
 * the job for all of them (under MPI it does not return); alone, it is just returned. */
M2_API m2_status m2_ranks_alone(m2_comm *c, m2_status st) M2_MUST_USE;

/* The arithmetic that train.precision means on a device; M2_USAGE where it has none of it. */
M2_API m2_status m2_precision_choose(const m2_config *cfg, const m2_device *dev, m2_precision *out) M2_MUST_USE;
/* How programs are planned here: train.plan, run.graphs, this device and its threads. */
M2_API m2_plan_options m2_ranks_plan(const m2_config *cfg, const m2_ranks *r);
M2_API const char *m2_precision_name(m2_precision p); /* as train.precision says it */

#endif
