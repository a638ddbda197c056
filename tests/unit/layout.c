/* Layouts: slabs tile, steps move every element to where the layout says, exhaustively on small grids; meshes over threads. */
#include "parallel/comm.h"
#include "parallel/mesh.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- slabs ------------------------------------------------------------------------------------------------------- */
static void test_slabs(void)
{
    int good = 1;
    for (int parts = 1; parts <= 9; parts++)
        for (int64_t n = 0; n <= 40; n++) {
            int64_t at = 0, before = m2_slab_of(n, parts, 0).count,
                    least = m2_slab_of(n, parts, parts - 1).count;
            good &= before - least <= 1;
            for (int i = 0; i < parts; i++) {
                m2_slab s = m2_slab_of(n, parts, i);
                good &= s.at == at && s.count <= before;
                before = s.count;
                at += s.count;
            }
            good &= at == n;
        }
    CU_ASSERT(good);
    m2_slab huge = m2_slab_of((int64_t)1 << 40, 3, 2);
    CU_ASSERT(huge.at + huge.count == (int64_t)1 << 40);
    m2_slab none = m2_slab_meet((m2_slab){0, 3}, (m2_slab){5, 2}),
            some = m2_slab_meet((m2_slab){0, 3}, (m2_slab){2, 4});
    CU_ASSERT(none.count == 0 && some.at == 2 && some.count == 1);
}

/* ---- a simulated array on all ranks of a grid -------------------------------------------------------------------- */
enum { D0 = 3, D1 = 5, ELEMENTS = D0 * D1, RANKS = 12 };
static const m2_desc whole = {M2_F64, 2, {D0, D1, 0, 0}, "BL"};

typedef struct array {
    double at[RANKS][ELEMENTS]; /* NaN: this rank does not have the element */
} array;

static double value(int e)
{
    return 7 * e + 1;
}

/* Weights of the ranks of an axis in a partial sum; they add up to 1, exactly. */
static double weight(int size, int coordinate)
{
    double rest = 0;
    for (int c = 1; c < size; c++) rest += c + 1;
    return coordinate ? coordinate + 1 : 1 - rest;
}

static array make(const m2_layout *l, const m2_grid *g)
{
    array x;
    for (int r = 0; r < m2_grid_ranks(g); r++) {
        double w = 1;
        for (int a = 0; a < M2_AXES; a++)
            if (l->axis[a] == M2_PARTIAL) w *= weight(g->size[a], m2_grid_at(g, r, (m2_axis)a));
        m2_slab i = m2_layout_slab(l, g, r, 0, D0), j = m2_layout_slab(l, g, r, 1, D1);
        for (int e = 0; e < ELEMENTS; e++) {
            int has = e / D1 >= i.at && e / D1 < i.at + i.count && e % D1 >= j.at && e % D1 < j.at + j.count;
            x.at[r][e] = has ? w * value(e) : NAN;
        }
    }
    return x;
}

static int same(const array *x, const array *y, const m2_grid *g)
{
    for (int r = 0; r < m2_grid_ranks(g); r++)
        for (int e = 0; e < ELEMENTS; e++)
            if (x->at[r][e] != y->at[r][e] && !(isnan(x->at[r][e]) && isnan(y->at[r][e]))) return 0;
    return 1;
}

static int peer_rank(const m2_grid *g, int rank, m2_axis axis, int peer)
{
    return axis == M2_AXIS_DATA ? m2_grid_rank(g, peer, m2_grid_at(g, rank, M2_AXIS_SEQUENCE))
                                : m2_grid_rank(g, m2_grid_at(g, rank, M2_AXIS_DATA), peer);
}

/* Does a step by the parts it says; returns 0 if a part is not there, and adds up what ranks give to others. */
static int perform(array *x, const m2_transition *s, const m2_grid *g, int64_t *given)
{
    array next;
    for (int r = 0; r < m2_grid_ranks(g); r++) {
        for (int e = 0; e < ELEMENTS; e++) next.at[r][e] = NAN;
        given[r] = 0;
    }
    int alone = s->before.axis[s->axis] == M2_WHOLE; /* everyone has it: nothing to give */
    for (int r = 0; r < m2_grid_ranks(g); r++)
        for (int peer = 0; peer < g->size[s->axis]; peer++) {
            int to = peer_rank(g, r, s->axis, peer);
            if (alone && to != r) continue;
            m2_slab range[M2_MAX_RANK];
            int64_t n = m2_transition_part(s, g, r, peer, &whole, range);
            if (to != r) given[r] += n * 8;
            for (int64_t i = range[0].at; i < range[0].at + range[0].count; i++)
                for (int64_t j = range[1].at; j < range[1].at + range[1].count; j++, n--) {
                    double v = x->at[r][i * D1 + j], *out = &next.at[to][i * D1 + j];
                    if (isnan(v)) return 0;
                    *out = isnan(*out) ? v : *out + v;
                }
            if (n && !(range[0].count == 0 || range[1].count == 0)) return 0;
        }
    *x = next;
    return 1;
}

static void check_transition(const m2_layout *from, const m2_layout *to, const m2_grid *g)
{
    m2_transition steps[M2_AXES];
    int n = -1, ok = 1;
    if (m2_layout_steps(from, to, steps, &n) != M2_OK) {
        int partial = 0,
            inner = from->axis[1] >= 0 && (from->axis[1] == from->axis[0] || from->axis[1] == to->axis[0]);
        for (int a = 0; a < M2_AXES; a++) partial |= to->axis[a] == M2_PARTIAL && from->axis[a] != M2_PARTIAL;
        inner |= to->axis[1] >= 0 && (to->axis[1] == from->axis[0] || to->axis[1] == to->axis[0]);
        CU_ASSERT(partial || inner); /* only these are refused */
        return;
    }
    array x = make(from, g), want = make(to, g);
    for (int i = 0; i < n; i++) {
        int64_t given[RANKS];
        ok &= perform(&x, &steps[i], g, given);
        for (int r = 0; r < m2_grid_ranks(g); r++) {
            m2_desc local = m2_layout_local(&steps[i].before, g, r, &whole, NULL);
            if (steps[i].move == M2_MOVE_ALL_REDUCE)
                given[r] = m2_comm_bytes_all_reduce(m2_desc_count(&local), M2_F64,
                                                    m2_grid_at(g, r, steps[i].axis), g->size[steps[i].axis]);
            if (steps[i].move == M2_MOVE_REDUCE_SCATTER) /* padded to the longest slab */
                given[r] =
                    8 * (g->size[steps[i].axis] - 1) * m2_transition_part(&steps[i], g, r, 0, &whole, NULL);
            ok &= given[r] == m2_transition_bytes(&steps[i], g, r, &whole);
        }
    }
    ok &= same(&x, &want, g);
    if (!ok)
        printf("\n  (%d, %d) -> (%d, %d) on %d x %d", from->axis[0], from->axis[1], to->axis[0], to->axis[1],
               g->size[0], g->size[1]);
    CU_ASSERT(ok);
}

static void test_transitions(void)
{
    for (int data = 1; data <= 3; data++)
        for (int sequence = 1; sequence <= 4; sequence++)
            for (int code = 0; code < 256; code++) { /* four layout entries of -2, -1, 0, 1 */
                m2_layout from = {{code % 4 - 2, code / 4 % 4 - 2}},
                          to = {{code / 16 % 4 - 2, code / 64 - 2}};
                m2_grid g = {{data, sequence}};
                check_transition(&from, &to, &g);
            }
}

/* What sharded training needs must be possible: into and out of flat shards over both axes, exchange of L for C. */
static void test_possible(void)
{
    static const struct {
        m2_layout from, to;
        int n;
        m2_move move[2];
    } rows[] = {
        {{{0, 0}}, {{M2_WHOLE, M2_WHOLE}}, 2, {M2_MOVE_ALL_GATHER, M2_MOVE_ALL_GATHER}},
        {{{M2_PARTIAL, M2_PARTIAL}}, {{0, 0}}, 2, {M2_MOVE_REDUCE_SCATTER, M2_MOVE_REDUCE_SCATTER}},
        {{{M2_WHOLE, M2_WHOLE}}, {{0, 0}}, 2, {M2_MOVE_SLICE, M2_MOVE_SLICE}},
        {{{M2_PARTIAL, 1}}, {{M2_WHOLE, 0}}, 2, {M2_MOVE_ALL_TO_ALL, M2_MOVE_ALL_REDUCE}},
        {{{0, 1}}, {{0, 1}}, 0, {M2_MOVE_NONE, M2_MOVE_NONE}},
        {{{M2_WHOLE, 1}}, {{M2_WHOLE, 0}}, 1, {M2_MOVE_ALL_TO_ALL, M2_MOVE_NONE}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        m2_transition steps[M2_AXES];
        int n = -1;
        CU_ASSERT_EQUAL(m2_layout_steps(&rows[i].from, &rows[i].to, steps, &n), M2_OK);
        CU_ASSERT_EQUAL(n, rows[i].n);
        for (int k = 0; k < n && k < rows[i].n; k++)
            CU_ASSERT_STRING_EQUAL(m2_move_name(steps[k].move), m2_move_name(rows[i].move[k]));
    }
    m2_desc x = m2_desc_make(M2_F32, "CBL", (int64_t)6, (int64_t)4, (int64_t)10);
    m2_layout l = m2_layout_tagged(&x), bad = {{3, 0}};
    CU_ASSERT(l.axis[M2_AXIS_DATA] == 1 && l.axis[M2_AXIS_SEQUENCE] == 2);
    m2_grid g = {{2, 3}};
    m2_slab slab[M2_MAX_RANK];
    m2_desc local = m2_layout_local(&l, &g, 4, &x, slab); /* data 1, sequence 1 */
    CU_ASSERT(local.shape[0] == 6 && local.shape[1] == 2 && local.shape[2] == 3 && slab[1].at == 2 &&
              slab[2].at == 4);
    CU_ASSERT(m2_layout_check(&l, &x) == M2_OK && m2_layout_check(&bad, &x) == M2_BUG);
}

/* ---- grids ------------------------------------------------------------------------------------------------------- */
static void test_parse(void)
{
    static const struct {
        const char *text;
        int ranks, data, sequence; /* data 0: refused */
    } rows[] = {{"", 8, 8, 1},       {"4x2", 8, 4, 2},        {"data=4,seq=2", 8, 4, 2},
                {"seq=4", 8, 2, 4},  {"sequence=8", 8, 1, 8}, {"data=2", 8, 2, 4},
                {"", 1, 1, 1},       {"4x3", 8, 0, 0},        {"seq=3", 8, 0, 0},
                {"data=9", 8, 0, 0}, {"4y2", 8, 0, 0},        {"seq=2,seq=2", 4, 0, 0},
                {"data=0", 8, 0, 0}, {"-2x-4", 8, 0, 0},      {"4x2z", 8, 0, 0},
                {"data=4;", 4, 0, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        m2_grid g = {{0, 0}};
        m2_status st = m2_grid_parse(rows[i].text, rows[i].ranks, &g);
        CU_ASSERT_EQUAL(st, rows[i].data ? M2_OK : M2_USAGE);
        CU_ASSERT(g.size[M2_AXIS_DATA] == rows[i].data && g.size[M2_AXIS_SEQUENCE] == rows[i].sequence);
    }
}

static void test_order(void)
{
    static const int round_robin[] = {5, 9, 5, 9, 5, 9}, want[] = {0, 3, 1, 4, 2, 5};
    int order[6], sorted[6];
    m2_mesh_order(round_robin, 6, order);
    CU_ASSERT(!memcmp(order, want, sizeof want));
    for (int r = 0; r < 6; r++) sorted[order[r]] = round_robin[r];
    m2_grid inside = {{2, 3}}, across = {{3, 2}}, all = {{1, 6}};
    CU_ASSERT(m2_mesh_nodes_per_sequence(&inside, sorted) == 1 &&
              m2_mesh_nodes_per_sequence(&across, sorted) == 2 &&
              m2_mesh_nodes_per_sequence(&all, sorted) == 2);
}

/* ---- meshes over threads ----------------------------------------------------------------------------------------- */
typedef struct member {
    m2_comm *comm;
    m2_grid grid;
    int good;
} member;

static void *run_member(void *arg)
{
    member *m = arg;
    m2_mesh mesh;
    m->good = m2_mesh_open(m->comm, &m->grid, &mesh) == M2_OK;
    if (!m->good) return NULL;
    m->good &= mesh.all->rank == mesh.rank && mesh.nodes_per_sequence == 1;
    for (int a = 0; a < M2_AXES; a++) {
        m2_comm *c = mesh.axis[a];
        int32_t mine = mesh.rank, ranks[RANKS];
        m->good &= c->size == m->grid.size[a] && c->rank == m2_grid_at(&m->grid, mesh.rank, (m2_axis)a);
        m->good &= c->api->all_gather(c, &mine, ranks, 1, M2_I32, NULL) == M2_OK;
        for (int i = 0; i < c->size; i++)
            m->good &= ranks[i] == peer_rank(&m->grid, mesh.rank, (m2_axis)a, i);
    }
    m2_mesh_close(&mesh);
    m2_mesh_close(&mesh);
    m2_comm_close(&m->comm);
    return NULL;
}

static void test_mesh(void)
{
    static const m2_grid grids[] = {{{1, 1}}, {{2, 3}}, {{3, 2}}, {{1, 4}}, {{5, 1}}};
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
        int n = m2_grid_ranks(&grids[i]);
        m2_comm *comm[RANKS];
        pthread_t thread[RANKS];
        member members[RANKS];
        CU_ASSERT_EQUAL_FATAL(m2_comm_open_threads(n, comm), M2_OK);
        for (int r = 0; r < n; r++) {
            members[r] = (member){comm[r], grids[i], 0};
            CU_ASSERT_EQUAL_FATAL(pthread_create(&thread[r], NULL, run_member, &members[r]), 0);
        }
        for (int r = 0; r < n; r++) {
            pthread_join(thread[r], NULL);
            CU_ASSERT(members[r].good);
        }
    }
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("layout", NULL, NULL);
    if (!suite || !CU_ADD_TEST(suite, test_slabs) || !CU_ADD_TEST(suite, test_transitions) ||
        !CU_ADD_TEST(suite, test_possible) || !CU_ADD_TEST(suite, test_parse) ||
        !CU_ADD_TEST(suite, test_order) || !CU_ADD_TEST(suite, test_mesh))
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
