/* shard.c - buckets, pieces, owners. */
#include "parallel/shard.h"
#include "parallel/levels.h"

m2_shards m2_shards_make(int64_t elements, int ranks, int64_t bucket, int64_t block)
{
    int64_t unit = ranks * block, units = (elements + unit - 1) / unit, per = (bucket + unit / 2) / unit;
    if (per < 1) per = 1;
    int64_t buckets = (units + per - 1) / per;
    per = buckets ? (units + buckets - 1) / buckets : per;
    return (m2_shards){.ranks = ranks,
                       .buckets = (int)buckets,
                       .block = block,
                       .total = buckets * per * unit,
                       .bucket = per * unit};
}

m2_slab m2_shards_bucket(const m2_shards *s, int bucket)
{
    return (m2_slab){bucket * s->bucket, s->bucket};
}

m2_shard_part m2_shards_piece(const m2_shards *s, int bucket, int rank)
{
    m2_slab b = m2_shards_bucket(s, bucket);
    int64_t n = b.count / s->ranks, block = m2_levels_block(rank, s->ranks, s->per_node);
    return (m2_shard_part){
        .flat = {b.at + block * n, n}, .at = b.at / s->ranks, .rank = rank, .bucket = bucket};
}

int64_t m2_shards_count(const m2_shards *s)
{
    return s->total / s->ranks;
}

m2_shard_part m2_shards_owner(const m2_shards *s, int64_t element)
{
    int bucket = (int)(element / s->bucket);
    m2_slab b = m2_shards_bucket(s, bucket);
    int block = (int)((element - b.at) / (b.count / s->ranks));
    m2_shard_part p = m2_shards_piece(s, bucket, m2_levels_owner(block, s->ranks, s->per_node));
    p.at += element - p.flat.at;
    p.flat = (m2_slab){element, 1};
    return p;
}

int m2_shards_next(const m2_shards *s, int rank, m2_slab range, int *bucket, m2_shard_part *out)
{
    for (; *bucket < s->buckets; ++*bucket) {
        m2_shard_part p = m2_shards_piece(s, *bucket, rank);
        m2_slab both = m2_slab_meet(p.flat, range);
        if (!both.count) continue;
        p.at += both.at - p.flat.at;
        p.flat = both;
        *out = p;
        ++*bucket;
        return 1;
    }
    return 0;
}

m2_zero_memory m2_zero_bytes(const m2_shards *s, int stage, int64_t precise, int64_t compute)
{
    int64_t all = s->total * precise, own = m2_shards_count(s) * precise;
    int has_copy = compute != precise;
    return (m2_zero_memory){
        .master =
            stage >= 1 && has_copy ? own : all, /* without a copy, they are what the forward pass reads */
        .copy = has_copy ? s->total * compute : 0,
        .grads = stage >= 2 ? own : all,
        .state = stage >= 1 ? 2 * own : 2 * all,
    };
}
