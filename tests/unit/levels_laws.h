/* levels_laws.h - sums and gathers by levels: the bits are those of sums over the places of a node and then over the nodes,
 * whoever keeps them; a communicator sends what the pure function says; all ranks have the same. */
#ifndef M2_TESTS_LEVELS_LAWS_H
#define M2_TESTS_LEVELS_LAWS_H

#include "parallel/levels.h"
#include "tests/unit/call_op.h"

#include <stdlib.h>
#include <string.h>

enum { LEVELS_MOST = 4096 };

/* Of rank r, element i: many binary digits, so that the order of a sum shows. */
static inline float levels_value(int r, int64_t i)
{
    uint64_t x = (uint64_t)(r * LEVELS_MOST + i + 1) * 0x9e3779b97f4a7c15u;
    return (float)((double)(x >> 20) / 1e9 - 8000);
}

static inline float levels_sum(int ranks, int per_node, int64_t i)
{
    float sum = 0;
    for (int node = 0; node < ranks / per_node; node++) {
        float inside = levels_value(node * per_node, i);
        for (int place = 1; place < per_node; place++) inside += levels_value(node * per_node + place, i);
        sum = node ? sum + inside : inside;
    }
    return sum;
}

typedef struct levels_arrays {
    float x[LEVELS_MOST], y[LEVELS_MOST], inside[LEVELS_MOST];
} levels_arrays;

static inline m2_tensor levels_array(float *at, int64_t n)
{
    m2_desc d = m2_desc_make(M2_F32, ".", n);
    return m2_tensor_make(&d, at);
}

/* One op; NULL if it sent what was predicted. */
static inline const char *levels_call(m2_comm *c, m2_device *cpu, const m2_op *op, m2_tensor x, m2_tensor y, float *inside)
{
    m2_attrs a = {.i = {[M2_COLLECTIVE_RANKS] = c->size, [M2_COLLECTIVE_PER_NODE] = c->levels->per_node}};
    m2_call call = {.op = op, .attrs = a, .in = {x}, .out = {y}, .context = c, .device = cpu};
    m2_desc in[M2_MAX_IN] = {m2_tensor_desc(&x)}, out[M2_MAX_OUT];
    int64_t before = c->bytes_sent;
    if (op->shape(&a, in, out) != M2_OK) return m2_message();
    if (out[0].shape[0] != y.shape[0]) return "the shape rule says another shape";
    if (op == &m2_op_reduce_scatter) call.out[1] = levels_array(inside, out[1].shape[0]);
    if (op->run(&call) != M2_OK) return m2_message();
    int64_t planned = m2_collective_bytes(op, &a, in, out, c->rank, c->size);
    return c->bytes_sent - before == planned ? NULL : "another number of bytes was sent than planned";
}

static inline const char *levels_hold(m2_comm *c, m2_device *cpu, levels_arrays *a, int64_t each)
{
    int per = c->levels->per_node;
    int64_t n = each * c->size, at = m2_levels_block(c->rank, c->size, per) * each;
    if (m2_levels_owner((int)(at / each), c->size, per) != c->rank) return "a block has another owner";
    for (int64_t i = 0; i < n; i++) a->x[i] = levels_value(c->rank, i);
    const char *broke = levels_call(c, cpu, &m2_op_all_reduce, levels_array(a->x, n), levels_array(a->y, n), NULL);
    for (int64_t i = 0; i < n && !broke; i++)
        if (a->y[i] != levels_sum(c->size, per, i)) broke = "all_reduce: another sum";
    if (!broke)
        broke = levels_call(c, cpu, &m2_op_reduce_scatter, levels_array(a->x, n), levels_array(a->y, each), a->inside);
    for (int64_t i = 0; i < each && !broke; i++)
        if (a->y[i] != levels_sum(c->size, per, at + i)) broke = "reduce_scatter: other bits than all_reduce";
    for (int64_t i = 0; i < n && !broke; i++)
        if (a->x[i] != levels_value(c->rank, i)) broke = "reduce_scatter wrote to its input";
    if (broke) return broke;
    memmove(a->x + at, a->y, (size_t)each * sizeof *a->x); /* from here on in place */
    for (int64_t i = 0; i < n; i++)
        if (i < at || i >= at + each) a->x[i] = -1;
    broke = levels_call(c, cpu, &m2_op_all_gather, levels_array(a->x + at, each), levels_array(a->x, n), NULL);
    for (int64_t i = 0; i < n && !broke; i++)
        if (a->x[i] != levels_sum(c->size, per, i)) broke = "all_gather: other elements";
    for (int64_t i = 0; i < n; i++) a->x[i] = levels_value(c->rank, i);
    if (!broke) broke = levels_call(c, cpu, &m2_op_all_reduce, levels_array(a->x, n), levels_array(a->x, n), NULL);
    for (int64_t i = 0; i < n && !broke; i++)
        if (a->x[i] != levels_sum(c->size, per, i)) broke = "all_reduce in place: another sum";
    return broke;
}

/* Nodes of every size that divides the ranks, arrays that go to everyone whole and longer ones. */
static inline const char *levels_laws(m2_comm *c, int argument)
{
    const char *broke = NULL;
    levels_arrays *a = malloc(sizeof *a);
    m2_device *cpu = NULL;
    (void)argument;
    if (!a || m2_device_open("cpu", 1, &cpu) != M2_OK) broke = "no memory or no device";
    for (int per = 2; per < c->size && !broke; per++) {
        if (c->size % per) continue;
        if (m2_levels_open(c, per) != M2_OK) broke = m2_message();
        for (int64_t each = 1; each * c->size <= LEVELS_MOST && !broke; each = 3 * each + 1) broke = levels_hold(c, cpu, a, each);
        m2_levels_close(c);
    }
    m2_device_close(&cpu);
    free(a);
    return broke;
}
#endif
