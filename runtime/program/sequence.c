/* sequence.c - a sequence cut over ranks: what comes around the calls that look beyond a token (ARCHITECTURE 5).
 *
 *   short convolution   its last input becomes the halo: the left neighbour's last tokens
 *   long convolution    u (C, B, l) -> to_channels -> longconv on C / P channels -> to_sequence -> (C, B, l)
 *
 * Gates stay with the tokens: they become products outside the exchange. Filters are made for a rank's own channels only:
 * their rows are cut off where they begin, at the weights. Backward these calls are differentiated like any other. */
#include "parallel/exchange.h"
#include "runtime/program/internal.h"

int m2i_cut_applies(const m2_program *p, const m2_op *op)
{
    return p->spec.sequence.ranks > 1 && (op == &m2_op_shortconv || op == &m2_op_longconv);
}

/* A call that a whole sequence would not have: it does not count where calls are numbered, for randomness. */
static m2_tid insert(m2_program *p, const char *path, const m2_op *op, const m2_attrs *attrs, m2_tid a,
                     m2_tid b)
{
    m2_tid in[M2_MAX_IN] = {a, b, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE}, out[M2_MAX_OUT];
    m2_tid y = m2i_append(p, path, op, attrs, in, out);
    if (y == M2_NONE) return y;
    int local = op->id >= 0 || op == &m2_op_rows || op == &m2_op_spread;
    p->calls[p->n_calls - 1].context = local ? NULL : p->spec.sequence.context;
    p->inserted++;
    return y;
}

/* ---- rows of filters --------------------------------------------------------------------------------------------- */
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

static m2_tid cut_rows(m2_program *p, const char *path, m2_tid t, m2_slab rows, int before)
{
    m2_attrs a = {.i = {[M2_ROWS_AT] = rows.at, [M2_ROWS_COUNT] = rows.count}};
    m2_tid y = insert(p, path, &m2_op_rows, &a, t, M2_NONE);
    if (y == M2_NONE) return y;
    m2i_call c = p->calls[p->n_calls - 1];
    memmove(&p->calls[before + 1], &p->calls[before], (size_t)(p->n_calls - 1 - before) * sizeof c);
    p->calls[before] = c;
    return y;
}

/* The rates of decay are equally spaced over all rows. */
static void cut_decay(m2_attrs *a, m2_slab rows, int64_t whole)
{
    double from = a->f[M2_DECAY_DELTA0], step = 0;
    if (whole > 1) step = (a->f[M2_DECAY_DELTA1] - from) / (double)(whole - 1);
    a->f[M2_DECAY_DELTA0] = from + step * (double)rows.at;
    a->f[M2_DECAY_DELTA1] = from + step * (double)(rows.at + rows.count - 1);
}

/* Rows of t, before call `before`, which reads it. What makes t makes no more than these where that is a matter of rows. */
static m2_tid narrow(m2_program *p, const char *path, m2_tid t, m2_slab rows, int before)
{
    if (t == M2_NONE || p->error.code != M2_OK || m2i_at(p, t)->desc.shape[0] == rows.count) return t;
    int i = maker(p, t), others = readers(p, t) - (before < p->n_calls);
    const m2i_call *c = i < 0 ? NULL : &p->calls[i];
    int linear = c && c->op == &m2_op_linear && m2_program_desc(p, c->in[0]).rank == 2;
    if (others > 0 || !c || (c->op != &m2_op_decay && !linear)) return cut_rows(p, path, t, rows, before);
    m2_tid x = narrow(p, c->path, c->in[0], rows, i);
    if (x == M2_NONE) return x;
    i = maker(p, t); /* the list may have grown before it */
    p->calls[i].in[0] = x;
    if (!linear) cut_decay(&p->calls[i].attrs, rows, m2i_at(p, t)->desc.shape[0]);
    m2i_at(p, t)->desc.shape[0] = rows.count;
    return t;
}

/* ---- convolutions ------------------------------------------------------------------------------------------------ */
static m2_tid short_convolution(m2_program *p, const char *path, const m2_attrs *attrs, const m2_tid *in,
                                m2_tid *out)
{
    m2_tid with[M2_MAX_IN];
    m2_attrs halo = {.i[M2_HALO_TAPS] = m2_program_desc(p, in[1]).shape[1]};
    memcpy(with, in, (size_t)m2_op_shortconv.n_in * sizeof *in);
    if (halo.i[M2_HALO_TAPS] > 1) with[3] = insert(p, path, &m2_op_halo, &halo, in[0], M2_NONE);
    return m2i_append(p, path, &m2_op_shortconv, attrs, with, out);
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

static m2_tid long_convolution(m2_program *p, const char *path, const m2_attrs *attrs, const m2_tid *in,
                               m2_tid *out)
{
    enum { U, K, KR, D, PRE, POST };
    const m2_sequence_cut *cut = &p->spec.sequence;
    int64_t channels = m2_program_desc(p, in[U]).shape[0], filters = m2_program_desc(p, in[K]).shape[0];
    m2_channel_part part;
    m2_status st =
        m2_exchange_part(channels, filters, attrs ? (int)attrs->i[M2_LONGCONV_SHARE] : M2_SHARE_HEAD,
                         cut->ranks, cut->rank, &part);
    if (st != M2_OK) return m2_program_reject(p, m2_context(st, "%s", path));
    m2_attrs exchange = {.i[M2_EXCHANGE_RANKS] = p->spec.sequence.ranks},
             share = {.i[M2_LONGCONV_SHARE] = part.uniform ? part.share : M2_SHARE_HEAD};
    m2_tid u = in[U], local[M2_MAX_IN];
    for (int i = 0; i < M2_MAX_IN; i++) local[i] = M2_NONE;
    for (int i = K; i <= D; i++)
        local[i] =
            spread(p, path, &part, channels, filters, narrow(p, path, in[i], part.filters, p->n_calls));
    if (in[PRE] != M2_NONE) u = insert(p, path, &m2_op_mul, NULL, u, in[PRE]);
    local[U] = insert(p, path, &m2_op_to_channels, &exchange, u, M2_NONE);
    m2_tid y = m2i_append(p, path, &m2_op_longconv, &share, local, out);
    out[0] = insert(p, path, &m2_op_to_sequence, &exchange, y, M2_NONE);
    if (in[POST] != M2_NONE) out[0] = insert(p, path, &m2_op_mul, NULL, out[0], in[POST]);
    return out[0];
}

m2_tid m2i_append_cut(m2_program *p, const char *path, const m2_op *op, const m2_attrs *attrs,
                      const m2_tid *in, m2_tid *out)
{
    return (op == &m2_op_shortconv ? short_convolution : long_convolution)(p, path, attrs, in, out);
}
