/* update.c - the update region: the gradient's norm, AdamW, and parameters made whole again from the ranks' shards.
 *
 *   stage 0     every rank updates everything
 *   stage 1, 2  every rank updates its pieces; each bucket is gathered
 * The norm is a sum over the ranks' own pieces in all of them, so that it has the same bits. */
#include "runtime/program/internal.h"

#include <stdio.h>

/* ---- the list ---------------------------------------------------------------------------------------------------- */
/* This rank's pieces of the gradient, whether the rest is reduced too or not. */
static m2_tid own_gradient(m2_program *p)
{
    if (m2i_sharded(p)) return m2i_own(p, M2I_GRAD);
    m2_tid g = m2i_flat_slice(p, M2I_GRAD, 0, p->trained);
    if (p->sharding.ranks <= 1 || g == M2_NONE) return g;
    const m2_shards *s = &p->shards;
    m2_dtype t = m2_program_precise_dtype(p);
    int64_t own = m2_shards_count(s);
    m2i_at(p, g)->desc = m2_desc_make(t, "..", (int64_t)s->buckets, own / s->buckets);
    m2i_at(p, g)->step = s->bucket;
    m2i_at(p, g)->at = m2_shards_piece(s, 0, p->sharding.rank).flat.at * m2_dtype_size(t);
    return g;
}

static void append_norm(m2_program *p, m2_tid norm2)
{
    m2_tid g = own_gradient(p);
    m2i_call_new(p, "update.norm", &m2_op_sumsq, NULL, M2_UPDATE, &g, &norm2);
    if (p->sharding.ranks > 1)
        m2i_append_collective(p, p->all_reduce, M2_UPDATE, norm2, norm2, "update.norm");
}

static void append_adam(m2_program *p, const m2_update_spec *spec, m2_tid norm2)
{
    m2_tid params = m2i_own(p, m2i_master_is_sharded(p) ? M2I_OWN : M2I_MASTER);
    m2_tid g = m2i_sharded(p) ? own_gradient(p) : m2i_flat_slice(p, M2I_GRAD, 0, p->trained);
    m2_tid m = m2i_own(p, M2I_M), v = m2i_own(p, M2I_V), groups = m2i_own(p, M2I_GROUPS), copy = M2_NONE;
    if (m2_program_compute_dtype(p) != m2_program_precise_dtype(p)) copy = m2i_own(p, M2I_COPY);
    m2_attrs a = {.i[M2_ADAM_DECAY] = spec->decay};
    a.f[M2_ADAM_BETA1] = spec->beta1;
    a.f[M2_ADAM_BETA2] = spec->beta2;
    a.f[M2_ADAM_EPS] = spec->eps;
    m2i_call_new(p, "update.adam", &m2_op_adam, &a, M2_UPDATE, (m2_tid[]){params, g, m, v, groups, norm2},
                 (m2_tid[]){params, m, v, copy});
}

/* Every bucket of what the forward pass reads, in the order in which it does; in P, too, what it reads in P. */
static void append_gathers(m2_program *p)
{
    const m2_shards *s = &p->shards;
    int master = m2i_master_is_sharded(p);
    m2i_home read = master ? M2I_COPY : M2I_MASTER;
    for (int b = 0; b < s->buckets; b++) {
        char name[32];
        m2_slab all = m2_shards_bucket(s, b);
        m2_shard_part own = m2_shards_piece(s, b, p->sharding.rank);
        snprintf(name, sizeof name, "parameters.%d", b);
        m2i_append_collective(p, p->sharding.all_gather, M2_UPDATE,
                              m2i_flat_slice(p, read, own.flat.at, own.flat.count),
                              m2i_flat_slice(p, read, all.at, all.count), name);
        if (!master || all.at >= p->whole) continue;
        snprintf(name, sizeof name, "precise.%d", b);
        m2i_append_collective(p, p->sharding.all_gather, M2_UPDATE,
                              m2i_flat_slice(p, M2I_OWN, own.at, own.flat.count),
                              m2i_flat_slice(p, M2I_MASTER, all.at, all.count), name);
    }
}

void m2_program_update(m2_program *p, const m2_update_spec *spec)
{
    if (p->error.code != M2_OK) return;
    if (p->stage != M2I_BACKWARD_DONE) {
        m2_program_reject(p, m2_fail(M2_BUG, "m2_program_update must come once, after m2_program_backward"));
        return;
    }
    p->stage = M2I_UPDATE_DONE;
    p->has_update = 1;
    m2_tid norm2 = m2i_tensor_new(p, m2_desc_make(M2_F64, ""), M2I_ACT);
    append_norm(p, norm2);
    append_adam(p, spec, norm2);
    if (m2i_sharded(p)) append_gathers(p);
    m2_program_output(p, "norm2", norm2);
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */
m2_status m2i_gather_params(m2_program *p)
{
    for (int i = 0; i < p->n_calls; i++) {
        const m2i_call *c = &p->calls[i];
        if (c->region != M2_UPDATE || c->op != p->sharding.all_gather) continue;
        M2_TRY(c->lane == M2_LANE_COMPUTE ? m2i_run_call(p, i, p->b.stream) : m2i_lane_post(p, i));
    }
    return m2i_lane_drain(p, M2_LANE_REDUCE);
}
