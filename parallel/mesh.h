/* mesh.h - the grid of layout.h over real ranks, with a communicator per axis.
 *
 * Ranks of one node are neighbours on the grid, whatever order the launcher gave them, and the sequence axis is the inner
 * one: it stays inside a node whenever its size divides the ranks of each node. */
#ifndef M2_MESH_H
#define M2_MESH_H

#include "parallel/comm.h"
#include "parallel/layout.h"

typedef struct m2_mesh {
    m2_grid grid;
    int rank;                /* in the grid; coordinates by m2_grid_at. Not always the launcher's rank */
    m2_comm *all;            /* every rank, in grid order */
    m2_comm *axis[M2_AXES];  /* those that differ from this rank in one coordinate, ordered by it */
    int nodes_per_sequence;  /* most nodes any sequence group touches; 1 = inside a node */
} m2_mesh;

#ifdef __cplusplus
extern "C" {
#endif
/* Collective over `world`, which has m2_grid_ranks(grid) ranks and stays the caller's. */
M2_API m2_status m2_mesh_open(m2_comm *world, const m2_grid *grid, m2_mesh *out) M2_MUST_USE;
M2_API void m2_mesh_close(m2_mesh *m); /* accepts a zeroed or closed mesh */

/* The number of every rank's node: the lowest rank with the same host name. Collective. */
M2_API m2_status m2_mesh_nodes(m2_comm *c, int *node) M2_MUST_USE;
/* Pure: the grid rank of each launcher rank, given the node (any number) each is on; stable within a node. */
M2_API void m2_mesh_order(const int *node, int ranks, int *grid_rank);
/* Pure: most nodes that one sequence group touches, given the node of each grid rank. */
M2_API int m2_mesh_nodes_per_sequence(const m2_grid *g, const int *node_of_grid_rank);
#ifdef __cplusplus
}
#endif
#endif
