/* Steps between layouts, done: from every layout to every other on grids of up to 8 ranks as threads, each element where
 * the layout says; every step against its adjoint; bytes as predicted by op and by layout. */
#include "parallel/mesh.h"
#include "parallel/reshard.h"
#include "tests/unit/call_op.h"
#include "tests/unit/on_ranks.h"

enum { DIMS = 3, CHOICES = DIMS + 2 }; /* a layout entry: partial, whole, or a dimension */

static const m2_grid grids[] = {{{1, 1}}, {{1, 2}}, {{2, 1}}, {{2, 2}}, {{3, 2}},
                                {{1, 4}}, {{2, 4}}, {{1, 7}}, {{8, 1}}};

static m2_desc whole_of(int shape)
{
    return shape ? m2_desc_make(M2_F64, "BCL", (int64_t)4, (int64_t)5, (int64_t)6)
                 : m2_desc_make(M2_F64, "BCL", (int64_t)8, (int64_t)1, (int64_t)3);
}

/* A term's share of a sum over an axis; all add up to 1. */
static double weight(int size, int at)
{
    double rest = 0;
    for (int c = 1; c < size; c++) rest += c + 1;
    return at ? at + 1 : 1 - rest;
}

/* What a rank holds of the array whose element e (row-major) is 7 e + 1, in a layout. */
static m2_tensor held(bench *b, const m2_layout *l, const m2_grid *g, int rank, const m2_desc *whole)
{
    m2_slab s[M2_MAX_RANK];
    m2_tensor t = fresh(b, m2_layout_local(l, g, rank, whole, s));
    double w = 1;
    for (int a = 0; a < M2_AXES; a++)
        if (l->axis[a] == M2_PARTIAL) w *= weight(g->size[a], m2_grid_at(g, rank, (m2_axis)a));
    int64_t at = 0;
    for (int64_t i = s[0].at; i < s[0].at + s[0].count; i++)
        for (int64_t j = s[1].at; j < s[1].at + s[1].count; j++)
            for (int64_t k = s[2].at; k < s[2].at + s[2].count; k++)
                set(&t, at++, w * (double)(7 * ((i * whole->shape[1] + j) * whole->shape[2] + k) + 1));
    return t;
}

static const char *one_step(bench *b, const m2_transition *s, m2_mesh *mesh, const m2_desc *whole,
                            m2_tensor *x)
{
    m2_attrs attrs = m2_reshard_attrs(s, &mesh->grid, mesh->rank, whole);
    b->comm = mesh->axis[s->axis];
    m2_tensor y;
    int64_t before = b->comm->bytes_sent;
    WORKS(apply(b, &m2_op_reshard, &attrs, x, &y));
    int64_t sent = b->comm->bytes_sent - before,
            said = m2_transition_bytes(s, &mesh->grid, mesh->rank, whole);
    LAW(sent == said, "%s sent %lld bytes, the layouts said %lld", m2_move_name(s->move), (long long)sent,
        (long long)said);
    const char *broke = law_adjoint(b, &m2_op_reshard, &attrs, m2_tensor_desc(x));
    *x = y;
    return broke;
}

static const char *transition(bench *b, const m2_layout *from, const m2_layout *to, m2_mesh *mesh,
                              const m2_desc *whole)
{
    m2_transition steps[M2_AXES];
    int n;
    if (m2_layout_steps(from, to, steps, &n) != M2_OK) return NULL; /* tests/unit/layout.c knows which */
    m2_tensor x = held(b, from, &mesh->grid, mesh->rank, whole),
              want = held(b, to, &mesh->grid, mesh->rank, whole);
    for (int i = 0; i < n; i++) {
        const char *broke = one_step(b, &steps[i], mesh, whole, &x);
        if (broke) return broke;
    }
    LAW(m2_tensor_count(&x) == m2_tensor_count(&want) &&
            !memcmp(x.data, want.data, (size_t)m2_tensor_bytes(&want)),
        "(%d, %d) -> (%d, %d) on %d x %d is wrong", from->axis[0], from->axis[1], to->axis[0], to->axis[1],
        mesh->grid.size[0], mesh->grid.size[1]);
    return NULL;
}

static const char *grid_body(m2_comm *c, int grid)
{
    m2_mesh mesh;
    bench b = {.t = M2_F64};
    const char *broke = NULL;
    WORKS(m2_device_open("cpu", 1, &b.device));
    WORKS(m2_mesh_open(c, &grids[grid], &mesh));
    for (int shape = 0; shape < 2; shape++)
        for (int code = 0; !broke && code < CHOICES * CHOICES * CHOICES * CHOICES; code++) {
            m2_layout from = {{code % CHOICES - 2, code / CHOICES % CHOICES - 2}};
            m2_layout to = {
                {code / (CHOICES * CHOICES) % CHOICES - 2, code / (CHOICES * CHOICES * CHOICES) - 2}};
            m2_desc whole = whole_of(shape);
            broke = transition(&b, &from, &to, &mesh, &whole);
            done_with(&b);
        }
    m2_mesh_close(&mesh);
    m2_device_close(&b.device);
    return broke;
}

static void test_transitions(void)
{
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++)
        on_ranks(m2_grid_ranks(&grids[i]), grid_body, (int)i);
}

/* Flat blocks: reduce_scatter then all_gather, in place, is the all-reduce, to the bit. */
static const char *flat_body(m2_comm *c, int type)
{
    enum { PER_RANK = 700 };
    m2_dtype t = (m2_dtype)type;
    bench b = {.comm = c, .t = t};
    WORKS(m2_device_open("cpu", 1, &b.device));
    m2_attrs ranks = {.i[M2_COLLECTIVE_RANKS] = c->size};
    m2_desc d = m2_desc_make(t, ".", (int64_t)PER_RANK * c->size),
            own = m2_desc_make(t, ".", (int64_t)PER_RANK);
    m2_tensor x = noise(&b, d, c->rank), sum = fresh(&b, d), piece;
    WORKS(call_op(&b, &m2_op_all_reduce, NULL, 0, &x, 1, &sum, 1));
    piece = m2_tensor_make(&own, (char *)x.data + c->rank * m2_desc_bytes(&own));
    WORKS(call_op(&b, &m2_op_reduce_scatter, &ranks, 0, &x, 1, &piece, 1));
    WORKS(call_op(&b, &m2_op_all_gather, &ranks, 0, &piece, 1, &x, 1));
    LAW(!memcmp(x.data, sum.data, (size_t)m2_desc_bytes(&d)),
        "reduce_scatter and all_gather differ from all_reduce");
    done_with(&b);
    m2_device_close(&b.device);
    return NULL;
}

static void test_flat(void)
{
    for (int size = 1; size <= 5; size += 2) {
        on_ranks(size, flat_body, M2_F32);
        on_ranks(size, flat_body, M2_F64);
    }
}

int main(void)
{
    return run_suite("reshard", (CU_TestInfo[]){{"flat blocks", test_flat},
                                                {"every layout to every other", test_transitions},
                                                CU_TEST_INFO_NULL});
}
