/* levels.c - finding nodes, splitting by them, and the collectives in steps. */
#include "parallel/levels.h"
#include "kernels/op.h"
#include "parallel/mesh.h"

#include <stdlib.h>

/* ---- nodes ------------------------------------------------------------------------------------------------------- */
int m2_levels_regular(const int *node, int ranks)
{
    int per = 1;
    while (per < ranks && node[per] == node[0]) per++;
    if (per < 2 || per == ranks || ranks % per) return 0;
    for (int r = per; r < ranks; r++) {
        if (r % per ? node[r] != node[r - 1] : node[r] == node[r - 1]) return 0;
        for (int s = 0; r % per == 0 && s < r; s += per)
            if (node[s] == node[r]) return 0;
    }
    return per;
}

m2_status m2_levels_find(m2_comm *c, int *per_node)
{
    int *node = calloc((size_t)c->size, sizeof *node);
    if (!node) return m2_fail(M2_TRANSIENT, "out of memory for the nodes of %d ranks", c->size);
    m2_status st = m2_mesh_nodes(c, node);
    if (st == M2_OK) *per_node = m2_levels_regular(node, c->size);
    free(node);
    return st;
}

m2_status m2_levels_open(m2_comm *c, int per_node)
{
    M2_CHECK(!c->levels && per_node > 1 && per_node < c->size && c->size % per_node == 0);
    m2_levels *l = calloc(1, sizeof *l);
    if (!l) return m2_fail(M2_TRANSIENT, "out of memory for the nodes of %d ranks", c->size);
    c->levels = l;
    l->per_node = per_node;
    m2_status st = c->api->split(c, c->rank / per_node, c->rank, &l->node);
    if (st == M2_OK) st = c->api->split(c, c->rank % per_node, c->rank, &l->across);
    if (st != M2_OK) m2_levels_close(c);
    return st;
}

void m2_levels_close(m2_comm *c)
{
    if (!c->levels) return;
    m2_comm_close(&c->levels->across);
    m2_comm_close(&c->levels->node);
    free(c->levels);
    c->levels = NULL;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */
int m2_levels_steps(const m2_op *op, const m2_attrs *attrs, int64_t count, int rank, int ranks,
                    m2_level_step step[M2_LEVEL_STEPS])
{
    int per = (int)attrs->i[M2_COLLECTIVE_PER_NODE], nodes = per > 1 ? ranks / per : 0, n = 0;
    if (per < 2) return 0;
#define ON_NODE(verb, count) step[n++] = (m2_level_step){&m2_op_##verb, 0, rank % per, per, count}
#define ACROSS(verb, count)  step[n++] = (m2_level_step){&m2_op_##verb, 1, rank / per, nodes, count}
    if (op == &m2_op_all_reduce) {
        ON_NODE(reduce_scatter, count / per);
        ACROSS(all_reduce, count / per);
        ON_NODE(all_gather, count / per);
    } else if (op == &m2_op_reduce_scatter) {
        ON_NODE(reduce_scatter, count * nodes);
        ACROSS(reduce_scatter, count);
    } else if (op == &m2_op_all_gather) {
        ACROSS(all_gather, count);
        ON_NODE(all_gather, count * nodes);
    }
    return n;
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */
static int64_t sent(const m2_comm *c)
{
    return c->levels->node->bytes_sent + c->levels->across->bytes_sent;
}

/* What the levels send is c's. */
static m2_status count_bytes(m2_comm *c, int64_t before, m2_status st)
{
    c->bytes_sent += sent(c) - before;
    return st;
}

m2_status m2_levels_all_reduce(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_stream *s)
{
    m2_comm *node = c->levels->node, *across = c->levels->across;
    int64_t n = count / node->size, before = sent(c);
    char *part = (char *)recv + node->rank * n * m2_dtype_size(t);
    M2_CHECK(count % c->size == 0);
    m2_status st = node->api->reduce_scatter(node, send, part, n, t, M2_SUM, s);
    if (st == M2_OK) st = across->api->all_reduce(across, part, part, n, t, M2_SUM, s);
    if (st == M2_OK) st = node->api->all_gather(node, part, recv, n, t, s);
    return count_bytes(c, before, st);
}

m2_status m2_levels_reduce_scatter(m2_comm *c, const void *send, void *recv, void *inside, int64_t count, m2_dtype t,
                                   m2_stream *s)
{
    m2_comm *node = c->levels->node, *across = c->levels->across;
    int64_t before = sent(c);
    m2_status st = node->api->reduce_scatter(node, send, inside, count * across->size, t, M2_SUM, s);
    if (st == M2_OK) st = across->api->reduce_scatter(across, inside, recv, count, t, M2_SUM, s);
    return count_bytes(c, before, st);
}

m2_status m2_levels_all_gather(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_stream *s)
{
    m2_comm *node = c->levels->node, *across = c->levels->across;
    int64_t n = count * across->size, before = sent(c);
    char *part = (char *)recv + node->rank * n * m2_dtype_size(t);
    m2_status st = across->api->all_gather(across, send, part, count, t, s);
    if (st == M2_OK) st = node->api->all_gather(node, part, recv, n, t, s);
    return count_bytes(c, before, st);
}
