/* layout.c - ranges of arrays, and the steps between layouts. */
#include "parallel/layout.h"
#include "parallel/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- grids ------------------------------------------------------------------------------------------------------- */
/* "data=4", "sequence=2" or "seq=2" at *text, ended by ',' or the end. */
static int parse_entry(const char **text, m2_grid *g)
{
    static const struct {
        const char *name;
        m2_axis axis;
    } names[] = {{"data=", M2_AXIS_DATA}, {"sequence=", M2_AXIS_SEQUENCE}, {"seq=", M2_AXIS_SEQUENCE}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t length = strlen(names[i].name);
        if (strncmp(*text, names[i].name, length) != 0) continue;
        char *end;
        long value = strtol(*text + length, &end, 10);
        if (value < 1 || value > 1 << 24 || (*end && *end != ',') || g->size[names[i].axis]) return 0;
        g->size[names[i].axis] = (int)value;
        *text = *end ? end + 1 : end;
        return 1;
    }
    return 0;
}

m2_status m2_grid_parse(const char *text, int ranks, m2_grid *out)
{
    m2_grid g = {{0, 0}};
    int used = 0, *data = &g.size[M2_AXIS_DATA], *sequence = &g.size[M2_AXIS_SEQUENCE];
    const char *at = text;
    if (sscanf(text, "%dx%d%n", data, sequence, &used) == 2) {
        at += used;
    } else {
        *data = *sequence = 0;
        while (*at && parse_entry(&at, &g)) continue;
    }
    if (*at)
        return m2_fail(
            M2_USAGE,
            "mesh '%s': expected DATAxSEQUENCE such as 4x2, or data=4,seq=2 where one of the two may be "
            "left out",
            text);
    if (!*data && !*sequence) *sequence = 1;
    if (!*sequence) *sequence = ranks / *data;
    if (!*data) *data = ranks / *sequence;
    if (*data < 1 || *sequence < 1 || m2_grid_ranks(&g) != ranks)
        return m2_fail(M2_USAGE, "mesh '%s' is %d x %d (data x sequence) and does not fit %d rank%s", text,
                       *data, *sequence, ranks, ranks == 1 ? "" : "s");
    *out = g;
    return M2_OK;
}

/* ---- ranges ------------------------------------------------------------------------------------------------------ */
m2_layout m2_layout_tagged(const m2_desc *d)
{
    m2_layout l = {{M2_WHOLE, M2_WHOLE}};
    for (int i = d->rank - 1; i >= 0; i--) {
        if (d->axis[i] == 'B') l.axis[M2_AXIS_DATA] = i;
        if (d->axis[i] == 'L') l.axis[M2_AXIS_SEQUENCE] = i;
    }
    return l;
}

m2_status m2_layout_check(const m2_layout *l, const m2_desc *whole)
{
    for (int a = 0; a < M2_AXES; a++) {
        if (l->axis[a] >= M2_PARTIAL && l->axis[a] < whole->rank) continue;
        char text[96];
        return m2_fail(M2_BUG, "a layout cuts dimension %d of %s", l->axis[a], m2_desc_print(text, whole));
    }
    return M2_OK;
}

m2_slab m2_layout_slab(const m2_layout *l, const m2_grid *g, int rank, int dim, int64_t extent)
{
    m2_slab s = {0, extent};
    for (int a = 0; a < M2_AXES; a++) {
        if (l->axis[a] != dim) continue;
        m2_slab part = m2_slab_of(s.count, g->size[a], m2_grid_at(g, rank, (m2_axis)a));
        s = (m2_slab){s.at + part.at, part.count};
    }
    return s;
}

m2_desc m2_layout_local(const m2_layout *l, const m2_grid *g, int rank, const m2_desc *whole, m2_slab *slab)
{
    m2_desc d = *whole;
    for (int i = 0; i < whole->rank; i++) {
        m2_slab s = m2_layout_slab(l, g, rank, i, whole->shape[i]);
        d.shape[i] = s.count;
        if (slab) slab[i] = s;
    }
    return d;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */
static m2_move move_of(int before, int after) /* M2_MOVES: there is none */
{
    if (before == after) return M2_MOVE_NONE;
    if (after == M2_PARTIAL) return M2_MOVES;
    if (before == M2_PARTIAL) return after == M2_WHOLE ? M2_MOVE_ALL_REDUCE : M2_MOVE_REDUCE_SCATTER;
    if (before == M2_WHOLE) return M2_MOVE_SLICE;
    return after == M2_WHOLE ? M2_MOVE_ALL_GATHER : M2_MOVE_ALL_TO_ALL;
}

static const struct {
    const char *name;
    int order; /* what shrinks the local array goes before what does not, what grows it comes last */
} moves[] = {
    [M2_MOVE_NONE] = {"none", 0},
    [M2_MOVE_SLICE] = {"slice", 0},
    [M2_MOVE_REDUCE_SCATTER] = {"reduce_scatter", 1},
    [M2_MOVE_ALL_TO_ALL] = {"all_to_all", 2},
    [M2_MOVE_ALL_REDUCE] = {"all_reduce", 3},
    [M2_MOVE_ALL_GATHER] = {"all_gather", 4},
};

const char *m2_move_name(m2_move m)
{
    return moves[m].name;
}

/* Data's slabs of a dimension have to be whole, not cut further by sequence, to be moved. */
static int nested(const m2_layout *from, const m2_layout *to)
{
    int other = from->axis[M2_AXIS_SEQUENCE];
    return other >= 0 && from->axis[M2_AXIS_DATA] != to->axis[M2_AXIS_DATA] &&
           (other == from->axis[M2_AXIS_DATA] || other == to->axis[M2_AXIS_DATA]);
}

/* The steps with the axes in a given order; 0 if a step is not possible there. */
static int steps_in_order(const m2_layout *from, const m2_layout *to, const m2_axis *order,
                          m2_transition *steps, int *n)
{
    m2_layout now = *from;
    *n = 0;
    for (int i = 0; i < M2_AXES; i++) {
        m2_layout next = now;
        next.axis[order[i]] = to->axis[order[i]];
        m2_move move = move_of(now.axis[order[i]], next.axis[order[i]]);
        if (move == M2_MOVES || nested(&now, &next)) return 0;
        if (move != M2_MOVE_NONE) steps[(*n)++] = (m2_transition){move, order[i], now, next};
        now = next;
    }
    return 1;
}

m2_status m2_layout_steps(const m2_layout *from, const m2_layout *to, m2_transition steps[M2_AXES], int *n)
{
    static const m2_axis orders[2][M2_AXES] = {{M2_AXIS_DATA, M2_AXIS_SEQUENCE},
                                               {M2_AXIS_SEQUENCE, M2_AXIS_DATA}};
    m2_move data = move_of(from->axis[M2_AXIS_DATA], to->axis[M2_AXIS_DATA]);
    m2_move sequence = move_of(from->axis[M2_AXIS_SEQUENCE], to->axis[M2_AXIS_SEQUENCE]);
    if (data != M2_MOVES && sequence != M2_MOVES) {
        int first = moves[data].order > moves[sequence].order;
        if (steps_in_order(from, to, orders[first], steps, n) ||
            steps_in_order(from, to, orders[!first], steps, n))
            return M2_OK;
    }
    return m2_fail(M2_BUG, "no collective leads from layout (data %d, sequence %d) to (data %d, sequence %d)",
                   from->axis[M2_AXIS_DATA], from->axis[M2_AXIS_SEQUENCE], to->axis[M2_AXIS_DATA],
                   to->axis[M2_AXIS_SEQUENCE]);
}

int64_t m2_transition_part(const m2_transition *s, const m2_grid *g, int rank, int peer, const m2_desc *whole,
                           m2_slab *range)
{
    int at[M2_AXES] = {m2_grid_at(g, rank, M2_AXIS_DATA), m2_grid_at(g, rank, M2_AXIS_SEQUENCE)};
    at[s->axis] = peer;
    int other = m2_grid_rank(g, at[M2_AXIS_DATA], at[M2_AXIS_SEQUENCE]);
    int64_t count = 1;
    for (int i = 0; i < whole->rank; i++) {
        m2_slab both = m2_slab_meet(m2_layout_slab(&s->before, g, rank, i, whole->shape[i]),
                                    m2_layout_slab(&s->after, g, other, i, whole->shape[i]));
        count *= both.count;
        if (range) range[i] = both;
    }
    return count;
}

int64_t m2_transition_bytes(const m2_transition *s, const m2_grid *g, int rank, const m2_desc *whole)
{
    int me = m2_grid_at(g, rank, s->axis), size = g->size[s->axis];
    if (s->move == M2_MOVE_NONE || s->move == M2_MOVE_SLICE) return 0;
    if (s->move == M2_MOVE_ALL_REDUCE) {
        m2_desc local = m2_layout_local(&s->before, g, rank, whole, NULL);
        return m2_comm_bytes_all_reduce(m2_desc_count(&local), whole->dtype, me, size);
    }
    int64_t count = 0;
    if (s->move == M2_MOVE_REDUCE_SCATTER) {
        count = (size - 1) * m2_transition_part(s, g, rank, 0, whole, NULL);
    } else {
        for (int peer = 0; peer < size; peer++)
            if (peer != me) count += m2_transition_part(s, g, rank, peer, whole, NULL);
    }
    return count * m2_dtype_size(whole->dtype);
}
