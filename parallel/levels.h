/* levels.h - ranks by node: large sums and gathers inside each node, between nodes, and inside again.
 *
 * With R ranks on each of N nodes, rank = node R + place. Each rank talks to the R of its node and to the N that have its
 * place on theirs, so that of an array only 1/R per rank crosses between nodes, each way, instead of what R times as many
 * messages carry:
 *
 *     all_reduce      reduce_scatter on the node -> all_reduce between nodes -> all_gather on the node
 *     reduce_scatter  reduce_scatter on the node -> reduce_scatter between nodes
 *     all_gather      all_gather between nodes -> all_gather on the node
 *
 * Every element is summed over the places of a node in their order and then over the nodes in theirs, in each of these: who
 * keeps which element of the sum does not change its bits, so the stages of ZeRO agree here too. Blocks of scatter and gather
 * lie place by place: that of a rank is number place N + node (m2_levels_block), so that no step packs or copies. */
#ifndef M2_LEVELS_H
#define M2_LEVELS_H

#include "parallel/comm.h"

typedef struct m2_levels {
    int per_node; /* R */
    m2_comm *node, *across;
} m2_levels;

/* One flat collective of a collective by levels. */
typedef struct m2_level_step {
    const struct m2_op *op; /* all_reduce, reduce_scatter or all_gather */
    int across;             /* 1: between nodes; 0: on a node */
    int rank, ranks;        /* of that group */
    int64_t count;          /* elements as the verb counts them */
} m2_level_step;
enum { M2_LEVEL_STEPS = 3 };

#ifdef __cplusplus
extern "C" {
#endif

/* Pure: the ranks on each node, where every node has as many, more than one, consecutive, and there are several; else 0. */
M2_API int m2_levels_regular(const int *node_of_rank, int ranks);
/* The same for the ranks of `c`, by their host names. Collective. */
M2_API m2_status m2_levels_find(m2_comm *c, int *per_node) M2_MUST_USE;
/* Gives `c` levels of per_node ranks, which divide its size; they close with it. Collective. */
M2_API m2_status m2_levels_open(m2_comm *c, int per_node) M2_MUST_USE;
M2_API void m2_levels_close(m2_comm *c); /* accepts a communicator without any */

static inline int m2_levels_block(int rank, int ranks, int per_node) /* per_node 0 or 1: no levels */
{
    return per_node > 1 ? rank % per_node * (ranks / per_node) + rank / per_node : rank;
}

static inline int m2_levels_owner(int block, int ranks, int per_node) /* of a block */
{
    int nodes = per_node > 1 ? ranks / per_node : 1;
    return per_node > 1 ? block % nodes * per_node + block / nodes : block;
}

/* Pure: the flat collectives that a collective op with attribute PER_NODE > 1 consists of; 0 where it has none. `count`:
 * elements of the smaller of its arrays. */
M2_API int m2_levels_steps(const struct m2_op *op, const struct m2_attrs *attrs, int64_t count, int rank, int ranks,
                           m2_level_step step[M2_LEVEL_STEPS]);

M2_API int64_t m2_level_step_bytes(const m2_level_step *s, m2_dtype t); /* that its rank gives to others */

/* Sums of all_reduce (count elements, a multiple of the ranks; send may be recv) and reduce_scatter (count for each rank;
 * `inside` takes the sums of a node: count for each node), and all_gather (send may be this rank's block of recv). */
M2_API m2_status m2_levels_all_reduce(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t,
                                      m2_stream *s) M2_MUST_USE;
M2_API m2_status m2_levels_reduce_scatter(m2_comm *c, const void *send, void *recv, void *inside, int64_t count,
                                          m2_dtype t, m2_stream *s) M2_MUST_USE;
M2_API m2_status m2_levels_all_gather(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t,
                                      m2_stream *s) M2_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
