/* sequence.c - a sequence cut over ranks: what comes around the calls that look beyond a token (ARCHITECTURE 5).
 *
 *   short convolution   its last input becomes the halo: the left neighbour's last tokens, of each chunk
 *   long convolution    u (C, B, l) -> to_channels -> longconv on C / P channels -> to_sequence -> (C, B, l)
 *      or, in columns   u -> columns -> swap -> cyclic -> swap -> uncolumns; the filters through columns and swap too
 *   embedding           numbers the positions of columns
 *
 * Gates stay with the tokens: they become products outside the exchange. Filters are made for a rank's own channels, or its
 * own positions, only: their rows are cut off where they begin, at the weights or at what the filter network reads. Backward
 * these calls are differentiated like any other. */
#include "parallel/exchange.h"
#include "runtime/program/internal.h"

int m2i_cut_applies(const m2_program *p, const m2_op *op)
{
    const m2_sequence_cut *cut = &p->spec.sequence;
    return cut->ranks > 1 &&
           (op == &m2_op_shortconv || op == &m2_op_longconv || (op == &m2_op_embed && cut->columns.width));
}

/* A call that a whole sequence would not have: it does not count where calls are numbered, for randomness. */
static m2_tid insert(m2_program *p, const char *path, const m2_op *op, const m2_attrs *attrs, m2_tid a,
                     m2_tid b)
{
    m2_tid in[M2_MAX_IN] = {a, b, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE},
           out[M2_MAX_OUT] = {M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE};
    m2_tid y = m2i_append(p, path, op, attrs, in, out);
    if (y == M2_NONE) return y;
    int local = op->id >= 0 || op == &m2_op_rows || op == &m2_op_spread || op == &m2_op_place;
    p->calls[p->n_calls - 1].context = local ? NULL : p->spec.sequence.context;
    p->inserted++;
    return y;
}

/* ---- parts of filters -------------------------------------------------------------------------------------------- */
static int maker(const m2_program *p, m2_tid t)
{
    for (int i = p->n_calls - 1; i >= 0; i--)
        if (p->calls[i].out[0] == t) return i;
    return -1;
}

static int readers(const m2_program *p, m2_tid t)
{
    int n = 0;
    for (int i = 0; i < p->n_calls; i++)
        for (int k = 0; k < p->calls[i].op->n_in; k++) n += p->calls[i].in[k] == t;
    return n;
}

static m2_tid cut_rows(m2_program *p, const char *path, m2_tid t, const m2_runs *rows, int before)
{
    int contiguous = rows->run == rows->count;
    m2_attrs a = {.i = {rows->at, rows->count, contiguous ? 0 : rows->run, contiguous ? 0 : rows->jump}};
    for (int i = 0; i < before; i++) /* another filter may read the same */
        if (p->calls[i].op == &m2_op_rows && p->calls[i].in[0] == t &&
            !memcmp(&p->calls[i].attrs, &a, sizeof a))
            return p->calls[i].out[0];
    m2_tid y = insert(p, path, &m2_op_rows, &a, t, M2_NONE);
    if (y == M2_NONE) return y;
    m2i_call c = p->calls[p->n_calls - 1];
    memmove(&p->calls[before + 1], &p->calls[before], (size_t)(p->n_calls - 1 - before) * sizeof c);
    p->calls[before] = c;
    return y;
}

/* The rates of decay are equally spaced over all rows; columns are numbered. */
static void cut_decay(m2_attrs *a, int dim, const m2_runs *part, int64_t whole)
{
    double from = a->f[M2_DECAY_DELTA0], step = 0;
    if (dim == 1) {
        a->i[M2_DECAY_AT] = part->at, a->i[M2_DECAY_RUN] = part->run, a->i[M2_DECAY_JUMP] = part->jump;
        return;
    }
    if (whole > 1) step = (a->f[M2_DECAY_DELTA1] - from) / (double)(whole - 1);
    a->f[M2_DECAY_DELTA0] = from + step * (double)part->at;
    a->f[M2_DECAY_DELTA1] = from + step * (double)(part->at + part->count - 1);
}

/* Which input of a call has dimension `dim` of its output as its first (a decay: as the same): -1 if that is not so simple. */
static int source_of(const m2_program *p, const m2i_call *c, int dim)
{
    if (c->op == &m2_op_decay || (c->op == &m2_op_sine && dim == 0)) return 0;
    int plain = c->op == &m2_op_linear && m2_program_desc(p, c->in[0]).rank == 2 &&
                !c->attrs.i[M2_LINEAR_X_CM] && !c->attrs.i[M2_LINEAR_Y_CM];
    return plain && (dim == 0 || c->in[2] == M2_NONE) ? dim : -1;
}

/* A part of dimension `dim` of t, before call `before`, which reads it. What makes t makes no more than this where it can. */
static m2_tid narrow(m2_program *p, const char *path, m2_tid t, int dim, const m2_runs *part, int before)
{
    if (t == M2_NONE || p->error.code != M2_OK || m2i_at(p, t)->desc.shape[dim] == part->count) return t;
    int i = maker(p, t), others = readers(p, t) - (before < p->n_calls);
    int from = i < 0 || others > 0 ? -1 : source_of(p, &p->calls[i], dim);
    if (from < 0 && dim == 0) return cut_rows(p, path, t, part, before);
    if (from < 0)
        return m2_program_reject(p,
                                 m2_fail(M2_BUG, "%s: a filter's columns cannot be cut where %s makes them",
                                         path, i < 0 ? "nothing" : p->calls[i].op->name));
    int decay = p->calls[i].op == &m2_op_decay;
    m2_tid x = narrow(p, p->calls[i].path, p->calls[i].in[from], decay ? dim : 0, part, i);
    if (x == M2_NONE) return x;
    i = maker(p, t); /* the list may have grown before it */
    p->calls[i].in[from] = x;
    if (decay) cut_decay(&p->calls[i].attrs, dim, part, m2i_at(p, t)->desc.shape[0]);
    m2i_at(p, t)->desc.shape[dim] = part->count;
    return t;
}

/* ---- convolutions ------------------------------------------------------------------------------------------------ */
static m2_tid short_convolution(m2_program *p, const char *path, const m2_attrs *attrs, const m2_tid *in,
                                m2_tid *out)
{
    m2_tid with[M2_MAX_IN];
    int64_t chunks = p->spec.sequence.columns.width ? p->spec.sequence.columns.used : 1;
    m2_attrs halo = {.i = {[M2_HALO_TAPS] = m2_program_desc(p, in[1]).shape[1], [M2_HALO_CHUNKS] = chunks}};
    m2_attrs own = attrs ? *attrs : (m2_attrs){0};
    own.i[M2_SHORTCONV_CHUNKS] = chunks;
    memcpy(with, in, (size_t)m2_op_shortconv.n_in * sizeof *in);
    if (halo.i[M2_HALO_TAPS] > 1) with[3] = insert(p, path, &m2_op_halo, &halo, in[0], M2_NONE);
    return m2i_append(p, path, &m2_op_shortconv, &own, with, out);
}

/* Filters that do not line up with the ranks' channels become one per channel. */
static m2_tid spread(m2_program *p, const char *path, const m2_channel_part *part, int64_t channels,
                     int64_t filters, m2_tid k)
{
    m2_attrs a = {.i = {[M2_SPREAD_FIRST] = part->channels.at,
                        [M2_SPREAD_COUNT] = part->channels.count,
                        [M2_SPREAD_EACH] = part->share == M2_SHARE_INDEX ? 0 : channels / filters,
                        [M2_SPREAD_FILTERS] = filters,
                        [M2_SPREAD_AT] = part->filters.at}};
    return k == M2_NONE || part->uniform ? k : insert(p, path, &m2_op_spread, &a, k, M2_NONE);
}

enum { U, K, KR, D, PRE, POST }; /* inputs of a long convolution */

/* A call with up to three inputs, which a whole sequence would not have. */
static m2_tid insert_local(m2_program *p, const char *path, const m2_op *op, const m2_attrs *attrs, m2_tid a,
                           m2_tid b, m2_tid c)
{
    m2_tid in[M2_MAX_IN] = {a, b, c, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE},
           out[M2_MAX_OUT] = {M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE};
    m2_tid y = m2i_append(p, path, op, attrs, in, out);
    p->inserted += y != M2_NONE;
    return y;
}

enum { GROUPS = 64 };

/* A long convolution while it is taken apart: groups of channels, what each has by now. */
typedef struct conv {
    m2_program *p;
    const char *path;
    int groups;
    int64_t channels, filters; /* of all groups on all ranks */
    int share;
    m2_channel_part part[GROUPS];
    m2_tid x[GROUPS], filter[GROUPS][3]; /* k, kr, D */
} conv;

/* The channels in `parts` equal parts, of which groups first, first + 1, ... are worked on here. */
static m2_status open_conv(conv *c, const m2_tid *in, const m2_attrs *attrs, int parts, int first)
{
    c->channels = m2_program_desc(c->p, in[U]).shape[0];
    c->filters = m2_program_desc(c->p, in[K]).shape[0];
    c->share = attrs ? (int)attrs->i[M2_LONGCONV_SHARE] : M2_SHARE_HEAD;
    if (c->groups > GROUPS)
        return m2_fail(M2_USAGE, "comm.groups=%d: at most %d groups of channels", c->groups, GROUPS);
    for (int g = 0; g < c->groups; g++)
        M2_TRY(m2_exchange_part(c->channels, c->filters, c->share, parts, first + g, &c->part[g]));
    return M2_OK;
}

/* The filters of each group, from arrays with those of all groups: rows `from` and so on. */
static void share_filters(conv *c, const m2_tid all[3], int64_t from)
{
    for (int g = 0; g < c->groups; g++)
        for (int i = 0; i < 3; i++) {
            m2_slab f = c->part[g].filters;
            m2_runs rows = {f.at - from, f.count, f.count, 0};
            m2_tid t = all[i];
            if (t != M2_NONE && c->p->error.code == M2_OK && m2_program_desc(c->p, t).shape[0] != f.count)
                t = cut_rows(c->p, c->path, t, &rows, c->p->n_calls);
            c->filter[g][i] = spread(c->p, c->path, &c->part[g], c->channels, c->filters, t);
        }
}

static m2_attrs share_of(const conv *c, int g)
{
    return (m2_attrs){.i[M2_LONGCONV_SHARE] = c->part[g].uniform ? c->part[g].share : M2_SHARE_HEAD};
}

/* u without its first gate, exchanged, convolved on this rank's channels. -> y without its last gate */
static m2_tid by_channels(conv *c, const m2_tid *in, const m2_attrs *attrs, m2_tid u)
{
    m2_program *p = c->p;
    const m2_sequence_cut *cut = &p->spec.sequence;
    int ranks = cut->ranks, n = c->groups;
    m2_channel_part own;
    m2_status st = open_conv(c, in, attrs, ranks * n, cut->rank * n);
    if (st == M2_OK) st = m2_exchange_part(c->channels, c->filters, c->share, ranks, cut->rank, &own);
    if (st != M2_OK) return m2_program_reject(p, m2_context(st, "%s", c->path));
    m2_runs rows = {own.filters.at, own.filters.count, own.filters.count, 0};
    m2_tid filter[3], rest = u, y = M2_NONE;
    for (int i = 0; i < 3; i++) filter[i] = narrow(p, c->path, in[K + i], 0, &rows, p->n_calls);
    share_filters(c, filter, own.filters.at);
    for (int g = 0; g < n; g++) {
        m2_attrs exchange = {.i = {ranks, n, g}};
        c->x[g] = insert(p, c->path, &m2_op_to_channels, &exchange, rest, M2_NONE);
        if (c->x[g] != M2_NONE) rest = p->calls[p->n_calls - 1].out[1];
    }
    for (int g = 0; g < n; g++) {
        m2_attrs exchange = {.i = {ranks, n, g}}, share = attrs ? *attrs : (m2_attrs){0};
        share.i[M2_LONGCONV_SHARE] = share_of(c, g).i[M2_LONGCONV_SHARE];
        m2_tid local[M2_MAX_IN] = {c->x[g], c->filter[g][0], c->filter[g][1], c->filter[g][2],
                                   M2_NONE, M2_NONE,         M2_NONE,         M2_NONE},
               out[M2_MAX_OUT];
        m2_tid x = m2i_append(p, c->path, &m2_op_longconv, &share, local, out);
        p->inserted += g > 0; /* one stands for the whole sequence's */
        y = insert(p, c->path, &m2_op_to_sequence, &exchange, x, y);
    }
    return y;
}

static m2_attrs column_stage(const m2_program *p)
{
    const m2_sequence_cut *cut = &p->spec.sequence;
    const m2_columns *c = &cut->columns;
    return (m2_attrs){.i = {[M2_COLUMNS_ROWS] = c->rows,
                            [M2_COLUMNS_WIDTH] = c->width,
                            [M2_COLUMNS_AT] = cut->rank * c->own,
                            [M2_COLUMNS_OWN] = c->own,
                            [M2_COLUMNS_LENGTH] = p->spec.length,
                            [M2_COLUMNS_OUT_DTYPE] = (int64_t)m2_program_compute_dtype(p)}};
}

/* The filters of this rank's columns, and of the mirrored ones for lags that reach ahead. */
static void cut_filters(conv *c, const m2_tid *in, int band, m2_tid filter[3])
{
    m2_program *p = c->p;
    const m2_sequence_cut *cut = &p->spec.sequence;
    int64_t length = m2_program_length(p), taps = m2_program_desc(p, in[K]).shape[1];
    m2_runs ahead = m2_columns_runs(&cut->columns, length, cut->ranks, cut->rank),
            back = m2_columns_runs(&cut->columns, length, cut->ranks, cut->ranks - 1 - cut->rank);
    if (band)
        m2_program_reject(
            p, m2_fail(M2_USAGE, "%s: the monarch exchange has no frequency-sparse filters", c->path));
    if (taps != length)
        m2_program_reject(p, m2_fail(M2_USAGE,
                                     "%s: the monarch exchange needs filters of all %lld taps, got %lld",
                                     c->path, (long long)length, (long long)taps));
    filter[0] = narrow(p, c->path, in[K], 1, &ahead, p->n_calls);
    filter[1] = narrow(p, c->path, in[KR], 1, &back, p->n_calls);
    filter[2] = in[D];
}

/* The same in the two block stages of the sequence's DFT, each rank with its columns, then with its rows. */
static m2_tid by_columns(conv *c, const m2_tid *in, const m2_attrs *attrs, m2_tid u)
{
    m2_program *p = c->p;
    int64_t ranks = p->spec.sequence.ranks, each = m2_program_desc(p, u).shape[0] / c->groups;
    m2_attrs stage = column_stage(p), swap = {.i[M2_EXCHANGE_RANKS] = ranks};
    m2_tid filter[3], k[GROUPS], y = M2_NONE;
    m2_status st = open_conv(c, in, attrs, c->groups, 0);
    if (st != M2_OK) return m2_program_reject(p, m2_context(st, "%s", c->path));
    cut_filters(c, in, attrs && attrs->f[M2_LONGCONV_BAND] > 0, filter);
    share_filters(c, filter, 0);
    for (int g = 0; g < c->groups; g++) {
        m2_runs own = {g * each, each, each, 0};
        m2_tid x = c->groups > 1 ? cut_rows(p, c->path, u, &own, p->n_calls) : u;
        k[g] = insert_local(p, c->path, &m2_op_columns, &stage, c->filter[g][0], c->filter[g][1],
                            c->filter[g][2]);
        k[g] = insert(p, c->path, &m2_op_swap, &swap, k[g], M2_NONE);
        x = insert_local(p, c->path, &m2_op_columns, &stage, x, M2_NONE, M2_NONE);
        c->x[g] = insert(p, c->path, &m2_op_swap, &swap, x, M2_NONE);
    }
    for (int g = 0; g < c->groups; g++) {
        m2_attrs rows = {
            .i = {[M2_CYCLIC_SHARE] = share_of(c, g).i[M2_LONGCONV_SHARE], [M2_CYCLIC_SEGMENTS] = ranks}};
        m2_tid z = insert_local(p, c->path, &m2_op_cyclic, &rows, c->x[g], k[g], M2_NONE);
        p->inserted -= g == 0; /* one stands for the whole sequence's */
        c->x[g] = insert(p, c->path, &m2_op_swap, &swap, z, M2_NONE);
    }
    for (int g = 0; g < c->groups; g++) {
        m2_attrs place = {
            .i = {[M2_PLACE_AT] = g * each, [M2_PLACE_COUNT] = each, [M2_PLACE_ROWS] = each * c->groups}};
        m2_tid x = insert_local(p, c->path, &m2_op_uncolumns, &stage, c->x[g], M2_NONE, M2_NONE);
        y = c->groups > 1 ? insert(p, c->path, &m2_op_place, &place, x, y) : x;
    }
    return y;
}

static m2_tid long_convolution(m2_program *p, const char *path, const m2_attrs *attrs, const m2_tid *in,
                               m2_tid *out)
{
    m2_tid u = in[U];
    if (in[PRE] != M2_NONE) u = insert(p, path, &m2_op_mul, NULL, u, in[PRE]);
    if (u == M2_NONE) return u;
    conv c = {.p = p, .path = path, .groups = p->spec.sequence.groups > 1 ? p->spec.sequence.groups : 1};
    u = (p->spec.sequence.columns.width ? by_columns : by_channels)(&c, in, attrs, u);
    if (in[POST] != M2_NONE) u = insert(p, path, &m2_op_mul, NULL, u, in[POST]);
    return out[0] = u;
}

static m2_tid embedding(m2_program *p, const char *path, const m2_attrs *attrs, const m2_tid *in, m2_tid *out)
{
    m2_attrs runs = *attrs;
    runs.i[M2_EMBED_RUN] = p->spec.sequence.columns.own;
    runs.i[M2_EMBED_JUMP] = p->spec.sequence.columns.width - p->spec.sequence.columns.own;
    return m2i_append(p, path, &m2_op_embed, &runs, in, out);
}

m2_tid m2i_append_cut(m2_program *p, const char *path, const m2_op *op, const m2_attrs *attrs,
                      const m2_tid *in, m2_tid *out)
{
    return (op == &m2_op_shortconv  ? short_convolution
            : op == &m2_op_longconv ? long_convolution
                                    : embedding)(p, path, attrs, in, out);
}
