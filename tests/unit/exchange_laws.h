/* exchange_laws.h - the mixer's convolutions on a sequence cut over ranks: equal to the uncut ones, forward and backward;
 * collectives adjoint to their gradients; bytes as predicted. Functions that all ranks call together (see comm_laws.h). */
#ifndef M2_TESTS_EXCHANGE_LAWS_H
#define M2_TESTS_EXCHANGE_LAWS_H

#include "parallel/columns.h"
#include "parallel/exchange.h"
#include "tests/unit/call_op.h"

/* ---- adjoints ----------------------------------------------------------------------------------------- */
static inline const char *law_adjoints(bench *b)
{
    int p = b->comm->size;
    m2_attrs ranks = {.i[M2_EXCHANGE_RANKS] = p}, taps = {.i[M2_HALO_TAPS] = 4}, rows = {.i = {2, 3}};
    m2_desc cbl = m2_desc_make(b->t, "CBL", (int64_t)2 * p, (int64_t)3, (int64_t)5);
    const char *broke = law_adjoint(b, &m2_op_to_channels, &ranks, cbl);
    if (!broke) broke = law_adjoint(b, &m2_op_halo, &taps, cbl);
    m2_attrs chunks = {.i = {4, 3}}, runs = {.i = {1, 4, 2, 1}};
    m2_desc rows_of_four = m2_desc_make(b->t, "CBL", (int64_t)2, (int64_t)3, (int64_t)12);
    if (!broke) broke = law_adjoint(b, &m2_op_halo, &chunks, rows_of_four);
    if (!broke) broke = law_adjoint(b, &m2_op_swap, &ranks, cbl);
    if (!broke) broke = law_adjoint(b, &m2_op_rows, &runs, m2_desc_make(b->t, ".C", (int64_t)7, (int64_t)4));
    m2_desc seg = m2_desc_make(b->t, ".CBL", (int64_t)p, (int64_t)2, (int64_t)3, (int64_t)5);
    if (!broke) broke = law_adjoint(b, &m2_op_to_sequence, &ranks, seg);
    if (!broke) broke = law_adjoint(b, &m2_op_rows, &rows, m2_desc_make(b->t, ".C", (int64_t)7, (int64_t)4));
    if (broke) return broke;
    m2_tensor x = noise(b, cbl, b->comm->rank), there, back;
    WORKS(apply(b, &m2_op_to_channels, &ranks, &x, &there));
    WORKS(apply(b, &m2_op_to_sequence, &ranks, &there, &back));
    LAW(!memcmp(x.data, back.data, (size_t)m2_tensor_bytes(&x)), "to_sequence does not undo to_channels");
    return NULL;
}

/* ---- the mixer, whole and cut ------------------------------------------------------------------------------------ */
/* The range of positions of this rank in a tensor whose last dimension is the whole sequence. */
static inline m2_tensor cut(bench *b, const m2_tensor *t)
{
    m2_desc d = m2_tensor_desc(t);
    int64_t whole = d.shape[d.rank - 1], own = whole / b->comm->size, rows = m2_desc_count(&d) / whole;
    d.shape[d.rank - 1] = own;
    m2_tensor part = fresh(b, d);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < own; i++)
            set(&part, r * own + i, get(t, r * whole + b->comm->rank * own + i));
    return part;
}

typedef struct mixer_case {
    int64_t d, batch, length, taps, filters, filter_taps; /* length: of the whole sequence */
    int gate, share, two_sided, skip;
} mixer_case;

enum { W, BIAS, K, KR, D, WEIGHTS };

typedef struct mixer_run {
    m2_tensor x, dy, weight[WEIGHTS]; /* given; absent weights have data NULL */
    m2_tensor y, dx, dweight[WEIGHTS];
} mixer_run;

static inline mixer_run mixer_given(bench *b, const mixer_case *m)
{
    mixer_run r = {0};
    m2_desc k = m2_desc_make(b->t, "CL", m->filters, m->filter_taps);
    r.x = noise(b, m2_desc_make(b->t, "CBL", 3 * m->d, m->batch, m->length), 1);
    r.dy = noise(b, m2_desc_make(b->t, "CBL", m->d, m->batch, m->length), 2);
    r.weight[W] = noise(b, m2_desc_make(b->t, "C.", 3 * m->d, m->taps), 3);
    r.weight[BIAS] = noise(b, m2_desc_make(b->t, "C", 3 * m->d), 4);
    r.weight[K] = noise(b, k, 5);
    if (m->two_sided) r.weight[KR] = noise(b, k, 6);
    if (m->skip) r.weight[D] = noise(b, m2_desc_make(b->t, "C", m->filters), 7);
    for (int w = 0; w < WEIGHTS; w++)
        if (r.weight[w].data) r.dweight[w] = fresh(b, m2_tensor_desc(&r.weight[w]));
    return r;
}

/* y = longconv(z, k, kr, D) g with g, z = shortconv(x), and back. */
static inline m2_status mixer_whole(bench *b, const mixer_case *m, mixer_run *r)
{
    m2_attrs gate = {.i[M2_SHORTCONV_GATE] = m->gate}, share = {.i[M2_LONGCONV_SHARE] = m->share};
    m2_desc d = m2_tensor_desc(&r->dy);
    m2_tensor *w = r->weight, *dw = r->dweight, none = {0};
    m2_tensor gz[] = {fresh(b, d), fresh(b, d)}, dgz[] = {fresh(b, d), fresh(b, d)};
    r->y = fresh(b, d);
    r->dx = fresh(b, m2_tensor_desc(&r->x));
    M2_TRY(call_op(b, &m2_op_shortconv, &gate, 0, (m2_tensor[]){r->x, w[W], w[BIAS], none}, 4, gz, 2));
    M2_TRY(call_op(b, &m2_op_longconv, &share, 0, (m2_tensor[]){gz[1], w[K], w[KR], w[D], none, gz[0]}, 6,
                   &r->y, 1));
    m2_tensor din[] = {gz[1], w[K], w[KR], w[D], none, gz[0], r->y, r->dy},
              dout[] = {dgz[1], dw[K], dw[KR], dw[D], none, dgz[0]};
    M2_TRY(call_op(b, &m2_op_longconv_grad, &share, 0, din, 8, dout, 6));
    m2_tensor sin[] = {r->x, w[W], w[BIAS], none, dgz[0], dgz[1]}, sout[] = {r->dx, dw[W], dw[BIAS], none};
    return call_op(b, &m2_op_shortconv_grad, &gate, 0, sin, 6, sout, 4);
}

/* The part of the filters that this rank needs, and the gradient of all of them from that of the part. */
static inline m2_status filters_of(bench *b, const mixer_case *m, const m2_channel_part *part,
                                   const m2_tensor *all, const m2_tensor *index, m2_tensor *own)
{
    m2_attrs rows = {.i = {part->filters.at, part->filters.count}};
    if (!all->data) return *own = *all, M2_OK;
    M2_TRY(apply(b, &m2_op_rows, &rows, all, own));
    if (part->uniform) return M2_OK;
    m2_desc d = m2_tensor_desc(own);
    d.shape[0] = m->d / b->comm->size;
    m2_tensor per_channel = fresh(b, d);
    if (d.rank == 1) { /* gather takes rows */
        for (int64_t c = 0; c < d.shape[0]; c++) set(&per_channel, c, get(own, ((int32_t *)index->data)[c]));
    } else {
        M2_TRY(call_op(b, &m2_op_gather, NULL, 0, (m2_tensor[]){*own, *index}, 2, &per_channel, 1));
    }
    *own = per_channel;
    return M2_OK;
}

static inline m2_status filters_back(bench *b, const m2_channel_part *part, const m2_tensor *down,
                                     const m2_tensor *index, m2_tensor *dall)
{
    m2_attrs rows = {.i = {part->filters.at, part->filters.count}};
    m2_tensor d = *down;
    if (!d.data) return M2_OK;
    if (!part->uniform) {
        m2_desc desc = m2_tensor_desc(dall);
        desc.shape[0] = part->filters.count;
        d = fresh(b, desc);
        if (desc.rank == 1) {
            for (int64_t f = 0; f < desc.shape[0]; f++) set(&d, f, 0);
            for (int64_t c = 0; c < down->shape[0]; c++) {
                int32_t f = ((int32_t *)index->data)[c];
                set(&d, f, get(&d, f) + get(down, c));
            }
        } else {
            M2_TRY(call_op(b, &m2_op_gather_grad, NULL, 0, (m2_tensor[]){*index, *down}, 2, &d, 1));
        }
    }
    M2_TRY(call_op(b, &m2_op_rows_grad, &rows, 0, &d, 1, dall, 1));
    return call_op(b, &m2_op_all_reduce, NULL, 0, dall, 1, dall, 1);
}

static inline m2_tensor like(bench *b, const m2_tensor *t)
{
    return t->data ? fresh(b, m2_tensor_desc(t)) : (m2_tensor){0};
}

static inline m2_status mixer_cut(bench *b, const mixer_case *m, mixer_run *r)
{
    int ranks = b->comm->size;
    m2_attrs gate = {.i[M2_SHORTCONV_GATE] = m->gate}, swap = {.i[M2_EXCHANGE_RANKS] = ranks};
    m2_attrs taps = {.i[M2_HALO_TAPS] = m->taps};
    m2_channel_part part;
    M2_TRY(m2_exchange_part(m->d, m->filters, m->share, ranks, b->comm->rank, &part));
    m2_attrs share = {.i[M2_LONGCONV_SHARE] = part.share};
    m2_tensor index = fresh(b, m2_desc_make(M2_I32, ".", part.channels.count)), none = {0}, own[WEIGHTS],
              down[WEIGHTS];
    for (int64_t c = 0; c < part.channels.count; c++)
        ((int32_t *)index.data)[c] =
            (int32_t)(m2_filter_of(m->d, m->filters, m->share, part.channels.at + c) - part.filters.at);
    for (int w = K; w < WEIGHTS; w++) {
        M2_TRY(filters_of(b, m, &part, &r->weight[w], &index, &own[w]));
        down[w] = like(b, &own[w]);
    }
    m2_tensor *w = r->weight, *dw = r->dweight, x = cut(b, &r->x), dy = cut(b, &r->dy), left = none;
    m2_desc d = m2_tensor_desc(&dy);
    m2_tensor gz[] = {fresh(b, d), fresh(b, d)}, dgz[] = {fresh(b, d), fresh(b, d)}, dt = fresh(b, d), u, s,
              t, ds, dz;
    /* forward */
    if (m->taps > 1) M2_TRY(apply(b, &m2_op_halo, &taps, &x, &left));
    M2_TRY(call_op(b, &m2_op_shortconv, &gate, 0, (m2_tensor[]){x, w[W], w[BIAS], left}, 4, gz, 2));
    M2_TRY(apply(b, &m2_op_to_channels, &swap, &gz[1], &u));
    s = like(b, &u);
    M2_TRY(call_op(b, &m2_op_longconv, &share, 0, (m2_tensor[]){u, own[K], own[KR], own[D], none, none}, 6,
                   &s, 1));
    M2_TRY(apply(b, &m2_op_to_sequence, &swap, &s, &t));
    r->y = fresh(b, d);
    M2_TRY(call_op(b, &m2_op_mul, NULL, 0, (m2_tensor[]){t, gz[0]}, 2, &r->y, 1));
    /* backward */
    m2_tensor du = like(b, &u), dleft = like(b, &left);
    r->dx = like(b, &x);
    m2_tensor both[] = {dt, dgz[0]};
    M2_TRY(call_op(b, &m2_op_mul_grad, NULL, 0, (m2_tensor[]){t, gz[0], dy}, 3, both, 2));
    M2_TRY(apply(b, &m2_op_to_channels, &swap, &dt, &ds));
    m2_tensor lin[] = {u, own[K], own[KR], own[D], none, none, none, ds},
              lout[] = {du, down[K], down[KR], down[D], none, none};
    M2_TRY(call_op(b, &m2_op_longconv_grad, &share, 0, lin, 8, lout, 6));
    M2_TRY(apply(b, &m2_op_to_sequence, &swap, &du, &dz));
    m2_tensor sin[] = {x, w[W], w[BIAS], left, dgz[0], dz}, sout[] = {r->dx, dw[W], dw[BIAS], dleft};
    M2_TRY(call_op(b, &m2_op_shortconv_grad, &gate, 0, sin, 6, sout, 4));
    if (m->taps > 1) M2_TRY(call_op(b, &m2_op_halo_grad, &taps, 1, &dleft, 1, &r->dx, 1));
    for (int i = K; i < WEIGHTS; i++) M2_TRY(filters_back(b, &part, &down[i], &index, &dw[i]));
    for (int i = W; i <= BIAS; i++) M2_TRY(call_op(b, &m2_op_all_reduce, NULL, 0, &dw[i], 1, &dw[i], 1));
    return M2_OK;
}

/* ---- the same in columns ----------------------------------------------------------------------------------------- */
/* This rank's positions of t, or with `mirrored` those of the rank as far from the other end. */
static inline m2_tensor cut_columns(bench *b, const m2_tensor *t, const m2_columns *c, int mirrored)
{
    if (!t->data) return *t;
    int ranks = b->comm->size, rank = mirrored ? ranks - 1 - b->comm->rank : b->comm->rank;
    m2_desc d = m2_tensor_desc(t);
    int64_t whole = d.shape[d.rank - 1], rows = m2_desc_count(&d) / whole;
    m2_runs own = m2_columns_runs(c, whole, ranks, rank);
    d.shape[d.rank - 1] = own.count;
    m2_tensor part = fresh(b, d);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < own.count; i++) set(&part, r * own.count + i, get(t, r * whole + m2_runs_at(&own, i)));
    return part;
}

/* Convolution there and back of a cut sequence, without gates: y, and the gradients of u, k, kr, D for dy. */
static inline m2_status columns_convolve(bench *b, const mixer_case *m, const m2_columns *c, const m2_tensor *in,
                                         const m2_tensor *dy, m2_tensor *y, m2_tensor *grad)
{
    int p = b->comm->size;
    m2_tensor none = {0}, zu, zk, ru, rk, ry, zy, dzy, dry, dru, drk, dzu, dzk;
    m2_attrs swap = {.i = {p}}, rows = {.i = {m->share, p}},
             stage = {.i = {c->rows, c->width, b->comm->rank * c->own, c->own, c->used * c->own, b->t}};
    M2_TRY(apply(b, &m2_op_columns, &stage, &in[0], &zu));
    zk = fresh(b, m2_desc_make(b->t, ".CB.", c->rows, m->filters, (int64_t)1, 2 * c->own));
    M2_TRY(call_op(b, &m2_op_columns, &stage, 0, (m2_tensor[]){in[1], in[2], in[3]}, 3, &zk, 1));
    M2_TRY(apply(b, &m2_op_swap, &swap, &zu, &ru));
    M2_TRY(apply(b, &m2_op_swap, &swap, &zk, &rk));
    ry = like(b, &ru);
    M2_TRY(call_op(b, &m2_op_cyclic, &rows, 0, (m2_tensor[]){ru, rk}, 2, &ry, 1));
    M2_TRY(apply(b, &m2_op_swap, &swap, &ry, &zy));
    *y = like(b, &in[0]);
    M2_TRY(call_op(b, &m2_op_uncolumns, &stage, 0, &zy, 1, (m2_tensor[]){*y, none, none}, 3));
    M2_TRY(apply(b, &m2_op_columns, &stage, dy, &dzy));
    M2_TRY(apply(b, &m2_op_swap, &swap, &dzy, &dry));
    dru = like(b, &ru), drk = like(b, &rk);
    M2_TRY(call_op(b, &m2_op_cyclic_grad, &rows, 0, (m2_tensor[]){ru, rk, dry}, 3, (m2_tensor[]){dru, drk}, 2));
    M2_TRY(apply(b, &m2_op_swap, &swap, &dru, &dzu));
    M2_TRY(apply(b, &m2_op_swap, &swap, &drk, &dzk));
    for (int i = 0; i < 4; i++) grad[i] = like(b, &in[i]);
    M2_TRY(call_op(b, &m2_op_uncolumns, &stage, 0, &dzu, 1, (m2_tensor[]){grad[0], none, none}, 3));
    return call_op(b, &m2_op_uncolumns, &stage, 0, &dzk, 1, grad + 1, 3);
}

static inline double distance(const m2_tensor *a, const m2_tensor *b)
{
    double diff = 0, size = 0;
    for (int64_t i = 0; i < m2_tensor_count(a); i++) {
        double x = get(a, i), y = get(b, i);
        diff += (x - y) * (x - y);
        size += y * y;
    }
    return sqrt(diff / (size > 0 ? size : 1));
}

static inline const char *law_mixer(bench *b, const mixer_case *m)
{
    mixer_run whole = mixer_given(b, m), part = mixer_given(b, m);
    double tol = b->t == M2_F64 ? 1e-12 : 1e-5;
    WORKS(mixer_whole(b, m, &whole));
    WORKS(mixer_cut(b, m, &part));
    m2_tensor y = cut(b, &whole.y), dx = cut(b, &whole.dx);
    static const char *const names[] = {"w", "b", "k", "kr", "D"};
    LAW(distance(&part.y, &y) < tol, "y differs by %.2g", distance(&part.y, &y));
    LAW(distance(&part.dx, &dx) < tol, "dx differs by %.2g", distance(&part.dx, &dx));
    for (int w = 0; w < WEIGHTS; w++) {
        if (!whole.weight[w].data) continue;
        double far = distance(&part.dweight[w], &whole.dweight[w]);
        LAW(far < tol, "d%s differs by %.2g (%d ranks, C %d, F %d, share %d)", names[w], far, b->comm->size,
            (int)m->d, (int)m->filters, m->share);
    }
    return NULL;
}

/* Any channels, any sharing; lengths that make rows without rest, and with rows of zeros. */
static inline const char *law_columns(bench *b, const mixer_case *m)
{
    double tol = b->t == M2_F64 ? 1e-12 : 1e-5;
    m2_columns c;
    WORKS(m2_columns_choose(m->length, b->comm->size, m->taps - 1, &c));
    mixer_run r = mixer_given(b, m);
    m2_tensor none = {0}, *w = r.weight, *dw = r.dweight;
    m2_tensor u = noise(b, m2_tensor_desc(&r.dy), 9), y = like(b, &u), du = like(b, &u), cut_y, cut_grad[4];
    m2_attrs share = {.i = {m->share}};
    m2_tensor in[] = {u, w[K], w[KR], w[D], none, none, none, r.dy}, out[] = {du, dw[K], dw[KR], dw[D], none, none};
    WORKS(call_op(b, &m2_op_longconv, &share, 0, in, 6, &y, 1));
    WORKS(call_op(b, &m2_op_longconv_grad, &share, 0, in, 8, out, 6));
    m2_tensor own[] = {cut_columns(b, &u, &c, 0), cut_columns(b, &w[K], &c, 0), cut_columns(b, &w[KR], &c, 1), w[D]},
              dy = cut_columns(b, &r.dy, &c, 0);
    WORKS(columns_convolve(b, m, &c, own, &dy, &cut_y, cut_grad));
    if (w[D].data) WORKS(call_op(b, &m2_op_all_reduce, NULL, 0, &cut_grad[3], 1, &cut_grad[3], 1));
    m2_tensor got[] = {cut_y, cut_grad[0], cut_grad[1], cut_grad[2], cut_grad[3]},
              want[] = {cut_columns(b, &y, &c, 0), cut_columns(b, &du, &c, 0), cut_columns(b, &dw[K], &c, 0),
                        cut_columns(b, &dw[KR], &c, 1), dw[D]};
    static const char *const names[] = {"y", "du", "dk", "dkr", "dD"};
    for (int i = 0; i < 5; i++)
        LAW(!want[i].data || distance(&got[i], &want[i]) < tol, "%s differs by %.2g in %d of %d rows of %d columns", names[i],
            distance(&got[i], &want[i]), (int)c.used, (int)c.rows, (int)c.width);
    return NULL;
}

static inline const char *law_all_columns(bench *b)
{
    int64_t p = b->comm->size;
    const mixer_case cases[] = {
        {5, 2, 8 * p, 3, 5, 8 * p, 0, M2_SHARE_HEAD, 0, 1},   {6, 3, p * p, 1, 2, p * p, 0, M2_SHARE_INDEX, 1, 1},
        {4, 1, 24 * p, 4, 2, 24 * p, 0, M2_SHARE_HEAD, 1, 0}, {3, 2, 3 * p, 3, 1, 3 * p, 0, M2_SHARE_HEAD, 1, 1},
        {2, 9, 64 * p, 3, 2, 64 * p, 0, M2_SHARE_HEAD, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *broke = law_columns(b, &cases[i]);
        done_with(b);
        if (!broke) continue;
        static _Thread_local char text[600];
        snprintf(text, sizeof text, "columns %d over %d ranks in %s: %s", (int)i, b->comm->size, m2_dtype_name(b->t), broke);
        return text;
    }
    return NULL;
}

/* Channels in multiples of the ranks; filters that line up with the parts, and that do not. */
static inline const char *law_mixers(bench *b)
{
    int64_t p = b->comm->size;
    const mixer_case cases[] = {
        {2 * p, 2, 8 * p, 3, 2 * p, 8 * p, M2_GATE_FIRST, M2_SHARE_HEAD, 0, 1}, /* a filter per channel */
        {6 * p, 2, 5 * p, 4, 2 * p, 5 * p, M2_GATE_SECOND, M2_SHARE_HEAD, 1,
         1}, /* whole filters per rank, two-sided */
        {3 * p, 3, 4 * p, 3, 1, 3 * p, M2_GATE_FIRST, M2_SHARE_HEAD, 0, 0},   /* one filter for all */
        {4 * p, 1, 33 * p, 2, p, 7 * p, M2_GATE_FIRST, M2_SHARE_INDEX, 1, 1}, /* filters in turn */
        {6 * p, 2, 3 * p, 3, 4 * p > 6 ? 2 : 1, 3 * p, M2_GATE_FIRST, M2_SHARE_INDEX, 0, 1},
        {2 * p, 2, 3 * p, 1, 2 * p, 3 * p, M2_GATE_FIRST, M2_SHARE_INDEX, 1, 0}, /* no short taps to fetch */
        {6 * p, 2, 4 * p, 3, p % 2 ? 2 : 3 * p / 2, 4 * p, M2_GATE_FIRST, M2_SHARE_HEAD, 1,
         1}, /* parts cut filters */
        {6 * p, 2, 4 * p, 3, p % 2 ? 2 : 3 * p / 2, 4 * p, M2_GATE_FIRST, M2_SHARE_INDEX, 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *broke = law_mixer(b, &cases[i]);
        done_with(b);
        if (broke) {
            static _Thread_local char text[600];
            snprintf(text, sizeof text, "mixer %d over %d ranks in %s: %s", (int)i, b->comm->size,
                     m2_dtype_name(b->t), broke);
            return text;
        }
    }
    return NULL;
}

/* Everything, in double (where the device computes in it) and float. NULL, or what broke. */
static inline const char *exchange_laws(m2_comm *c, m2_device *device)
{
    const char *broke = NULL;
    int cpu = !strcmp(device->api->kind, "cpu");
    for (int i = cpu ? 0 : 1; !broke && i < 2; i++) {
        bench b = {.comm = c, .device = device, .t = i ? M2_F32 : M2_F64};
        broke = law_adjoints(&b);
        done_with(&b);
        if (!broke) broke = law_mixers(&b);
        if (!broke) broke = law_all_columns(&b);
    }
    return broke;
}
#endif
