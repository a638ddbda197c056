/* mesh.c - ordering ranks by node, splitting the world along the grid. */
#define _GNU_SOURCE
#include "parallel/mesh.h"
#include "kernels/base/log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- placement --------------------------------------------------------------------------------------------------- */
void m2_mesh_order(const int *node, int ranks, int *grid_rank)
{
    int next = 0;
    for (int r = 0; r < ranks; r++) grid_rank[r] = -1;
    for (int r = 0; r < ranks; r++) { /* nodes in the order of their lowest ranks */
        if (grid_rank[r] >= 0) continue;
        for (int s = r; s < ranks; s++)
            if (node[s] == node[r]) grid_rank[s] = next++;
    }
}

int m2_mesh_nodes_per_sequence(const m2_grid *g, const int *node_of_grid_rank)
{
    int most = 1, length = g->size[M2_AXIS_SEQUENCE];
    for (int d = 0; d < g->size[M2_AXIS_DATA]; d++) {
        int nodes = 1; /* neighbours: a node's ranks are consecutive */
        for (int s = 1; s < length; s++)
            nodes += node_of_grid_rank[d * length + s] != node_of_grid_rank[d * length + s - 1];
        if (nodes > most) most = nodes;
    }
    return most;
}

m2_status m2_mesh_nodes(m2_comm *world, int *node)
{
    world = world->host;
    enum { NAME = 64 };
    char mine[NAME] = {0}, *all = malloc((size_t)world->size * NAME);
    if (!all) return m2_fail(M2_TRANSIENT, "out of memory for the nodes of %d ranks", world->size);
    gethostname(mine, NAME - 1);
    m2_status st = world->api->all_gather(world, mine, all, NAME, M2_U8, NULL);
    for (int r = 0; st == M2_OK && r < world->size; r++)
        for (node[r] = 0; memcmp(all + node[r] * NAME, all + r * NAME, NAME) != 0;) node[r]++;
    free(all);
    return st;
}

static m2_status place(m2_comm *world, const m2_grid *g, m2_mesh *m)
{
    size_t n = (size_t)world->size;
    int *node = calloc(3 * n, sizeof *node), *order = node + n, *sorted = order + n;
    if (!node) return m2_fail(M2_TRANSIENT, "out of memory for the places of %d ranks", world->size);
    m2_status st = m2_mesh_nodes(world, node);
    if (st == M2_OK) {
        m2_mesh_order(node, world->size, order);
        for (int r = 0; r < world->size; r++) sorted[order[r]] = node[r];
        m->rank = order[world->rank];
        m->nodes_per_sequence = m2_mesh_nodes_per_sequence(g, sorted);
    }
    free(node);
    return st;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
m2_status m2_mesh_open(m2_comm *world, const m2_grid *grid, m2_mesh *out)
{
    m2_mesh m = {.grid = *grid};
    M2_CHECK(m2_grid_ranks(grid) == world->size);
    M2_TRY(place(world, grid, &m));
    int data = m2_grid_at(grid, m.rank, M2_AXIS_DATA), sequence = m2_grid_at(grid, m.rank, M2_AXIS_SEQUENCE);
    m2_status st = world->api->split(world, 0, m.rank, &m.all);
    if (st == M2_OK) st = m.all->api->split(m.all, sequence, data, &m.axis[M2_AXIS_DATA]);
    if (st == M2_OK) st = m.all->api->split(m.all, data, sequence, &m.axis[M2_AXIS_SEQUENCE]);
    if (st != M2_OK) {
        m2_mesh_close(&m);
        return st;
    }
    if (m.nodes_per_sequence > 1 && m.rank == 0)
        m2_log_once(
            M2_LOG_WARN,
            "mesh %d x %d (data x sequence): a sequence is spread over %d nodes, so its exchanges use "
            "the network; a sequence size that divides the ranks of a node avoids that",
            grid->size[M2_AXIS_DATA], grid->size[M2_AXIS_SEQUENCE], m.nodes_per_sequence);
    *out = m;
    return M2_OK;
}

void m2_mesh_close(m2_mesh *m)
{
    for (int a = M2_AXES - 1; a >= 0; a--) m2_comm_close(&m->axis[a]);
    m2_comm_close(&m->all);
    *m = (m2_mesh){0};
}
