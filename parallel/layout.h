/* layout.h - which part of a global array a rank holds, and what must move when that changes. Pure arithmetic: no
 * communicator, no memory, no rank count but those given, so plans for any mesh can be made and tested anywhere.
 *
 * Ranks form a grid with named axes: rank = data * grid.sequence + sequence, the sequence axis innermost. Per grid axis,
 * a layout says what happened to an array along it: every rank of the axis holds all of it (M2_WHOLE), each holds a term of
 * a sum (M2_PARTIAL), or each holds a slab of one dimension (that dimension's index). Where both axes cut one dimension,
 * data cuts first and sequence cuts data's slab. Slabs of a dimension differ by at most one element, long ones first.
 *
 *   (C, B, L) with B over data and L over sequence   {{1, 2}}
 *   a gradient before its reduction                  {{M2_PARTIAL, M2_PARTIAL}}
 *   a flat optimizer shard over all ranks            {{0, 0}} */
#ifndef M2_LAYOUT_H
#define M2_LAYOUT_H

#include "kernels/base/tensor.h"

typedef enum m2_axis { M2_AXIS_DATA, M2_AXIS_SEQUENCE, M2_AXES } m2_axis;
enum { M2_WHOLE = -1, M2_PARTIAL = -2 };

typedef struct m2_grid {
    int size[M2_AXES];
} m2_grid;

typedef struct m2_layout {
    int axis[M2_AXES]; /* a dimension, M2_WHOLE or M2_PARTIAL */
} m2_layout;

/* One contiguous range of one dimension, in elements. */
typedef struct m2_slab {
    int64_t at, count;
} m2_slab;

/* Runs of a dimension at equal distances: element i is at + i + i / run * jump, i < count; count is a multiple of run. */
typedef struct m2_runs {
    int64_t at, count, run, jump;
} m2_runs;

static inline int64_t m2_runs_at(const m2_runs *r, int64_t i)
{
    return r->at + i + i / r->run * r->jump;
}

static inline int64_t m2_runs_find(const m2_runs *r, int64_t x) /* which element is at x; -1: none */
{
    int64_t step = r->run + r->jump, past = x - r->at, i = past / step * r->run + past % step;
    return past < 0 || past % step >= r->run || i >= r->count ? -1 : i;
}

/* Part i of n elements cut into `parts` consecutive slabs: the first n % parts have one element more. */
static inline m2_slab m2_slab_of(int64_t n, int parts, int i)
{
    int64_t q = n / parts, more = n % parts;
    m2_slab s = {q * i + (i < more ? i : more), q + (i < more)};
    return s;
}

static inline m2_slab m2_slab_meet(m2_slab a, m2_slab b) /* what two ranges have in common; count 0 if nothing */
{
    int64_t at = a.at > b.at ? a.at : b.at, ae = a.at + a.count, be = b.at + b.count, end = ae < be ? ae : be;
    m2_slab s = {at, end > at ? end - at : 0};
    return s;
}

static inline int m2_grid_ranks(const m2_grid *g)
{
    return g->size[M2_AXIS_DATA] * g->size[M2_AXIS_SEQUENCE];
}

/* A rank's coordinate on an axis, and the rank with given coordinates. */
static inline int m2_grid_at(const m2_grid *g, int rank, m2_axis axis)
{
    return axis == M2_AXIS_DATA ? rank / g->size[M2_AXIS_SEQUENCE] : rank % g->size[M2_AXIS_SEQUENCE];
}

static inline int m2_grid_rank(const m2_grid *g, int data, int sequence)
{
    return data * g->size[M2_AXIS_SEQUENCE] + sequence;
}

/* What to do along one grid axis to get from one layout to another. */
typedef enum m2_move {
    M2_MOVE_NONE,
    M2_MOVE_SLICE,          /* whole -> cut: local */
    M2_MOVE_ALL_GATHER,     /* cut -> whole */
    M2_MOVE_ALL_TO_ALL,     /* cut here -> cut there */
    M2_MOVE_ALL_REDUCE,     /* partial -> whole */
    M2_MOVE_REDUCE_SCATTER, /* partial -> cut */
    M2_MOVES
} m2_move;

typedef struct m2_transition {
    m2_move move;
    m2_axis axis;
    m2_layout before, after; /* differ in `axis` only */
} m2_transition;

#ifdef __cplusplus
extern "C" {
#endif

/* "4x2", "data=4,seq=2", "seq=2" (the other axis takes the remaining ranks), "" (all data). M2_USAGE with the numbers if it
 * does not fit `ranks`. */
M2_API m2_status m2_grid_parse(const char *text, int ranks, m2_grid *out) M2_MUST_USE;

/* How activations lie: dimension tagged 'B' over data, 'L' over sequence, whole along an axis without such a dimension. */
M2_API m2_layout m2_layout_tagged(const m2_desc *d);
/* M2_BUG if a layout names dimensions that the array does not have. */
M2_API m2_status m2_layout_check(const m2_layout *l, const m2_desc *whole) M2_MUST_USE;
/* A rank's range of one dimension of `extent` elements. */
M2_API m2_slab m2_layout_slab(const m2_layout *l, const m2_grid *g, int rank, int dim, int64_t extent);
/* Its local shape; slab[] (may be NULL, else M2_MAX_RANK long) gets the range of each dimension. */
M2_API m2_desc m2_layout_local(const m2_layout *l, const m2_grid *g, int rank, const m2_desc *whole, m2_slab *slab);

/* The steps from one layout to another: at most one per grid axis, what shrinks the local array first. M2_BUG where no
 * collective does it: towards a partial sum, or moving data's cut of a dimension while sequence keeps cutting inside it. */
M2_API m2_status m2_layout_steps(const m2_layout *from, const m2_layout *to, m2_transition steps[M2_AXES],
                                 int *n) M2_MUST_USE;
/* What `rank` gives to the rank that has coordinate `peer` on the step's axis (itself included): returns the elements;
 * range[] (may be NULL, else M2_MAX_RANK long) gets them as ranges of the whole array's dimensions. */
M2_API int64_t m2_transition_part(const m2_transition *s, const m2_grid *g, int rank, int peer, const m2_desc *whole,
                                  m2_slab *range);
/* Bytes a rank gives to others in a step: what the transport will count. Uneven slabs are padded where they are summed. */
M2_API int64_t m2_transition_bytes(const m2_transition *s, const m2_grid *g, int rank, const m2_desc *whole);
M2_API const char *m2_move_name(m2_move m); /* "all_gather" */

#ifdef __cplusplus
}
#endif
#endif
