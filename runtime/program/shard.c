/* shard.c - what ZeRO leaves of the flat arrays on a rank (parallel/shard.h has the table). */
#include "runtime/program/internal.h"

void m2_program_shard(m2_program *p, const m2_sharding *s)
{
    if (p->error.code != M2_OK) return;
    if (p->stage != M2I_BACKWARD_DONE || p->shards.total) {
        m2_program_reject(p, m2_fail(M2_BUG, "m2_program_shard must come between backward and reduce"));
        return;
    }
    if (s->stage < 0 || s->stage > 2 || s->ranks < 1 || s->rank < 0 || s->rank >= s->ranks) {
        m2_program_reject(p, m2_fail(M2_USAGE, "there is no ZeRO stage %d for rank %d of %d", s->stage, s->rank,
                                     s->ranks));
        return;
    }
    p->sharding = *s;
}

int m2i_sharded(const m2_program *p)
{
    return p->sharding.stage > 0 && p->sharding.ranks > 1 && p->shards.total > 0;
}

int m2i_master_is_sharded(const m2_program *p)
{
    return m2i_sharded(p) && m2_program_compute_dtype(p) != m2_program_precise_dtype(p);
}

m2_dtype m2i_home_dtype(const m2_program *p, m2i_home home)
{
    return home == M2I_COPY     ? m2_program_compute_dtype(p)
           : home == M2I_GROUPS ? M2_U8
                                : m2_program_precise_dtype(p);
}

int64_t m2i_home_count(const m2_program *p, m2i_home home)
{
    int copies = m2_program_compute_dtype(p) != m2_program_precise_dtype(p);
    int64_t own = m2i_sharded(p) ? m2_shards_count(&p->shards) : p->trained;
    switch (home) {
    case M2I_MASTER: return p->whole + p->flat - p->trained;
    case M2I_COPY: return copies ? p->flat : 0;
    case M2I_OWN: return m2i_master_is_sharded(p) ? own : 0;
    case M2I_GRAD: return !p->has_backward ? 0 : m2i_sharded(p) && p->sharding.stage == 2 ? own + p->zeros : p->trained;
    case M2I_M:
    case M2I_V: return p->has_update ? own : 0;
    case M2I_GROUPS: return p->has_update ? own / M2_GROUP_BLOCK : 0;
    default: return 0;
    }
}

int m2i_in_shards(const m2_program *p, m2i_home home)
{
    return m2i_sharded(p) && (home == M2I_OWN || home == M2I_M || home == M2I_V || home == M2I_GROUPS ||
                              (home == M2I_GRAD && p->sharding.stage == 2));
}

m2_tid m2i_own(m2_program *p, m2i_home home)
{
    int64_t own = m2i_sharded(p) ? m2_shards_count(&p->shards) : p->trained;
    m2_dtype t = m2i_home_dtype(p, home);
    if (home == M2I_GROUPS) return m2i_flat_slice(p, home, 0, m2i_home_count(p, home));
    if (!m2i_sharded(p)) return m2i_flat_slice(p, home, 0, own); /* behind it lies what is not trained */
    m2_tid id = m2i_tensor_new(p, m2_desc_make(t, "..", (int64_t)p->shards.buckets, own / p->shards.buckets), home);
    if (id == M2_NONE || m2i_in_shards(p, home)) return id;
    m2i_at(p, id)->step = p->shards.bucket;
    m2i_at(p, id)->at = m2_shards_piece(&p->shards, 0, p->sharding.rank).flat.at * m2_dtype_size(t);
    return id;
}
