/* shard.h - who owns what of a model's flat arrays (parameters, gradients, optimizer state): the partition table of ZeRO.
 * Pure arithmetic.
 *
 * The flat array is cut into equal buckets, of which the backward pass finishes the last one first, each bucket into one
 * equal piece per rank, in the order of the ranks or, where reductions go node by node, in that of levels.h. So all that a
 * rank owns is a matrix with gaps between its rows, a bucket is reduce-scattered as soon as its gradients are final, and an
 * update needs nothing but own pieces. A rank's pieces in the order of buckets are its shard.
 *
 *     flat   | bucket 0: piece of rank 0, 1, .. P-1 | bucket 1: piece of rank 0, 1, .. P-1 | ...
 *     shard  | bucket 0: own piece | bucket 1: own piece | ...
 *
 * One table serves all stages. 0: everything on every rank; 1: optimizer state in shards; 2: reduced gradients too. The
 * norm is summed over own pieces in every stage, so that the stages agree to the bit. */
#ifndef M2_SHARD_H
#define M2_SHARD_H

#include "parallel/layout.h"

typedef struct m2_shards {
    int ranks, buckets;
    int64_t block;  /* pieces are multiples of this */
    int64_t total;  /* elements of the flat array, padded to whole buckets */
    int64_t bucket; /* elements of a bucket, a multiple of ranks * block */
    int per_node;   /* > 1: pieces lie in the order of levels.h for so many ranks on each node; else in that of the ranks */
} m2_shards;

typedef struct m2_shard_part {
    m2_slab flat; /* in the flat array */
    int64_t at;   /* where it begins in the owner's shard */
    int rank;     /* the owner */
    int bucket;
} m2_shard_part;

/* What a stage keeps on a rank, in bytes. */
typedef struct m2_zero_memory {
    int64_t master, copy, grads, state;
} m2_zero_memory;

#ifdef __cplusplus
extern "C" {
#endif

/* elements >= 0, bucket: about how many elements a bucket may have, block >= 1. */
M2_API m2_shards m2_shards_make(int64_t elements, int ranks, int64_t bucket, int64_t block);
M2_API m2_slab m2_shards_bucket(const m2_shards *s, int bucket); /* in the flat array */
M2_API m2_shard_part m2_shards_piece(const m2_shards *s, int bucket, int rank);
M2_API int64_t m2_shards_count(const m2_shards *s); /* elements of a shard: total / ranks */
M2_API m2_shard_part m2_shards_owner(const m2_shards *s,
                                     int64_t element); /* the one element, and whose it is */
/* The parts of `range` that `rank` owns, one per call, in order: *bucket starts at 0 and is advanced. 0: no more. A
 * checkpoint lists the slabs of a tensor like this, for any number of ranks that wrote or read it. */
M2_API int m2_shards_next(const m2_shards *s, int rank, m2_slab range, int *bucket, m2_shard_part *out);

/* precise, compute: bytes of a master and of a compute element; equal means there is no separate copy for computing. */
M2_API m2_zero_memory m2_zero_bytes(const m2_shards *s, int stage, int64_t precise, int64_t compute);

#ifdef __cplusplus
}
#endif
#endif
