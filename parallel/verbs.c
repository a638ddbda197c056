/* verbs.c - the verbs as exchanges of blocks, for transports over host memory.
 *
 *   all_gather      one exchange: the same block to everyone
 *   reduce_scatter  one exchange: block r to rank r, summed there
 *   all_reduce      both, each rank summing one slab of the array; a small array goes to everyone whole
 *   broadcast       the root scatters slabs, then all gather; a small array goes to everyone whole
 * A GPU's memory is staged through pinned memory, piece by piece. */
#include "parallel/verbs.h"
#include "kernels/base/arena.h"
#include "parallel/layout.h"

#include <stdlib.h>
#include <string.h>

static m2i_wire *wire(m2_comm *c)
{
    return c->state;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static int64_t piece_size(int size)
{
    int64_t least = 4 << 20, blocks = (int64_t)size << 16; /* amortise latency: blocks of 64 KiB at least */
    return blocks > least ? blocks : least;
}

m2_status m2i_wire_open(m2_comm *c, m2i_wire *w, const m2i_wire_api *api)
{
    size_t n = (size_t)c->size;
    w->api = api;
    w->piece_bytes = piece_size(c->size);
    int64_t room = w->piece_bytes + 16 * c->size; /* slabs differ by one element */
    w->blocks = calloc(n, sizeof *w->blocks);
    w->pieces = calloc(n, sizeof *w->pieces);
    w->terms = calloc(n, sizeof *w->terms);
    w->scratch = aligned_alloc(M2_ALIGN, (size_t)m2_align_up(room, M2_ALIGN));
    m2_status st = M2_OK;
    if (!w->blocks || !w->pieces || !w->terms || !w->scratch)
        st = m2_fail(M2_TRANSIENT, "out of memory for a communicator of %d ranks", c->size);
    if (st == M2_OK && c->device && strcmp(c->device->api->kind, "cpu") != 0) {
        st = c->device->api->alloc(c->device, M2_MEM_HOST, room, (void **)&w->out);
        if (st == M2_OK) st = c->device->api->alloc(c->device, M2_MEM_HOST, room, (void **)&w->in);
    }
    if (st != M2_OK) m2i_wire_close(c, w);
    return st;
}

void m2i_wire_close(m2_comm *c, m2i_wire *w)
{
    if (w->in) c->device->api->free(c->device, M2_MEM_HOST, w->in);
    if (w->out) c->device->api->free(c->device, M2_MEM_HOST, w->out);
    free(w->scratch);
    free(w->terms);
    free(w->pieces);
    free(w->blocks);
    *w = (m2i_wire){0};
}

m2_status m2i_wire_fail(m2i_wire *w, m2_status st)
{
    if (st == M2_OK || w->failed.code != M2_OK) return st;
    m2_error_take(&w->failed, st);
    return m2_error_put(&w->failed);
}

m2_status m2i_check_wire(m2_comm *c)
{
    m2_error *e = &wire(c)->failed;
    if (e->code == M2_OK) return M2_OK;
    return m2_fail(M2_TRANSIENT, "this communicator failed before: %s", e->message);
}

/* ---- staging ----------------------------------------------------------------------------------------------------- */
static int staged(m2_comm *c)
{
    return wire(c)->in != NULL;
}

static m2_status copy(m2_comm *c, void *dst, const void *src, int64_t bytes, m2_stream *s)
{
    if (bytes <= 0 || dst == src) return M2_OK;
    if (staged(c)) return c->device->api->copy(c->device, dst, src, bytes, s);
    memmove(dst, src, (size_t)bytes);
    return M2_OK;
}

static m2_status sync(m2_comm *c, m2_stream *s)
{
    return staged(c) ? c->device->api->stream_sync(c->device, s) : M2_OK;
}

/* The next piece of w->blocks, at most `most` bytes of each block, through w->out and w->in. Consecutive blocks with one
 * source are copied once. *more: a piece is left. */
static m2_status exchange_piece(m2_comm *c, int64_t most, int *more, m2_stream *s)
{
    m2i_wire *w = wire(c);
    char *out = w->out, *in = w->in;
    *more = 0;
    for (int r = 0; r < c->size; r++) {
        m2i_block *b = &w->blocks[r], *p = &w->pieces[r];
        int64_t give = b->send_bytes < most ? b->send_bytes : most,
                take = b->recv_bytes < most ? b->recv_bytes : most;
        if (r && b->send == b[-1].send && give == p[-1].send_bytes) {
            p->send = p[-1].send;
        } else {
            M2_TRY(copy(c, out, b->send, give, s));
            p->send = out;
            out += give;
        }
        p->send_bytes = give;
        p->recv = in;
        p->recv_bytes = take;
        in += take;
    }
    M2_TRY(sync(c, s));
    M2_TRY(w->api->exchange(c, w->pieces));
    for (int r = 0; r < c->size; r++) {
        m2i_block *b = &w->blocks[r], *p = &w->pieces[r];
        M2_TRY(copy(c, b->recv, p->recv, p->recv_bytes, s));
        b->send += p->send_bytes, b->send_bytes -= p->send_bytes;
        b->recv += p->recv_bytes, b->recv_bytes -= p->recv_bytes;
        *more |= b->send_bytes > 0 || b->recv_bytes > 0;
    }
    return sync(c, s); /* the pinned memory is used again */
}

/* Exchanges w->blocks, whose pointers are to memory of the communicator's device. */
static m2_status exchange(m2_comm *c, m2_stream *s)
{
    m2i_wire *w = wire(c);
    if (!staged(c)) return w->api->exchange(c, w->blocks);
    int64_t most = w->piece_bytes / c->size / 16 * 16;
    for (int more = 1; more;) M2_TRY(exchange_piece(c, most, &more, s));
    return M2_OK;
}

/* ---- moving ------------------------------------------------------------------------------------------------------ */
m2_status m2i_all_gather(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_stream *s)
{
    M2_TRY(m2i_check_wire(c));
    int64_t n = count * m2_dtype_size(t);
    for (int r = 0; r < c->size; r++) wire(c)->blocks[r] = (m2i_block){send, n, (char *)recv + r * n, n};
    return exchange(c, s);
}

m2_status m2i_all_to_all(m2_comm *c, const void *send, const int64_t *send_count, const int64_t *send_at,
                         void *recv, const int64_t *recv_count, const int64_t *recv_at, m2_dtype t,
                         m2_stream *s)
{
    M2_TRY(m2i_check_wire(c));
    int64_t e = m2_dtype_size(t);
    for (int r = 0; r < c->size; r++)
        wire(c)->blocks[r] = (m2i_block){(const char *)send + send_at[r] * e, send_count[r] * e,
                                         (char *)recv + recv_at[r] * e, recv_count[r] * e};
    return exchange(c, s);
}

/* The rest works on host memory, w->pieces being the arguments: slabs that ranks form or own. */

/* Gives away what the caller put on the send side of w->pieces and takes every rank's block for this one, `bytes` each,
 * into w->scratch; terms[] get their places, this rank's own block staying where it is. */
static m2_status scatter(m2_comm *c, int64_t bytes)
{
    m2i_wire *w = wire(c);
    for (int r = 0; r < c->size; r++) {
        w->pieces[r].recv = w->scratch + r * bytes;
        w->pieces[r].recv_bytes = bytes;
        w->terms[r] = w->pieces[r].recv;
    }
    w->terms[c->rank] = w->pieces[c->rank].send;
    w->pieces[c->rank] = (m2i_block){0};
    return w->api->exchange(c, w->pieces);
}

/* Every rank gets the slabs of an array of n elements of e bytes that others have in place; `has_all` (or -1) needs none. */
static m2_status gather_slabs(m2_comm *c, char *array, int64_t n, int64_t e, int has_all)
{
    m2i_wire *w = wire(c);
    m2_slab mine = m2_slab_of(n, c->size, c->rank);
    for (int r = 0; r < c->size; r++) {
        m2_slab b = m2_slab_of(n, c->size, r);
        w->pieces[r] = (m2i_block){array + mine.at * e, r == has_all ? 0 : mine.count * e, array + b.at * e,
                                   c->rank == has_all ? 0 : b.count * e};
    }
    w->pieces[c->rank] = (m2i_block){0};
    return w->api->exchange(c, w->pieces);
}

/* ---- reducing ---------------------------------------------------------------------------------------------------- */
static m2_status check_reduction(m2_comm *c, m2_dtype t, m2_reduce op)
{
    M2_TRY(m2i_check_wire(c));
    return m2i_fold_terms(NULL, wire(c)->terms, 1, 0, t, op);
}

static m2_status reduce_piece(m2_comm *c, const char *src, char *dst, int64_t n, m2_dtype t, m2_reduce op)
{
    m2i_wire *w = wire(c);
    int64_t e = m2_dtype_size(t);
    if (n * e <= M2I_SMALL) {
        for (int r = 0; r < c->size; r++) w->pieces[r] = (m2i_block){.send = src, .send_bytes = n * e};
        M2_TRY(scatter(c, n * e));
        return m2i_fold_terms(dst, w->terms, c->size, n, t, op);
    }
    for (int r = 0; r < c->size; r++) {
        m2_slab b = m2_slab_of(n, c->size, r);
        w->pieces[r] = (m2i_block){.send = src + b.at * e, .send_bytes = b.count * e};
    }
    m2_slab mine = m2_slab_of(n, c->size, c->rank);
    M2_TRY(scatter(c, mine.count * e));
    M2_TRY(m2i_fold_terms(dst + mine.at * e, w->terms, c->size, mine.count, t, op));
    return gather_slabs(c, dst, n, e, -1);
}

m2_status m2i_all_reduce(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t, m2_reduce op,
                         m2_stream *s)
{
    M2_TRY(check_reduction(c, t, op));
    m2i_wire *w = wire(c);
    int64_t e = m2_dtype_size(t), most = w->piece_bytes / e;
    for (int64_t at = 0; at < count; at += most) {
        int64_t n = count - at < most ? count - at : most;
        const char *src = staged(c) ? w->out : (const char *)send + at * e;
        char *dst = staged(c) ? w->in : (char *)recv + at * e;
        if (staged(c)) M2_TRY(copy(c, w->out, (const char *)send + at * e, n * e, s));
        M2_TRY(sync(c, s)); /* also the copy from w->in of the piece before */
        M2_TRY(reduce_piece(c, src, dst, n, t, op));
        if (staged(c)) M2_TRY(copy(c, (char *)recv + at * e, w->in, n * e, s));
    }
    return sync(c, s);
}

m2_status m2i_reduce_scatter(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t,
                             m2_reduce op, m2_stream *s)
{
    M2_TRY(check_reduction(c, t, op));
    m2i_wire *w = wire(c);
    int64_t e = m2_dtype_size(t), most = w->piece_bytes / e / c->size;
    for (int64_t at = 0; at < count; at += most) {
        int64_t n = count - at < most ? count - at : most;
        for (int r = 0; r < c->size; r++) {
            const char *block = (const char *)send + (r * count + at) * e;
            if (staged(c)) {
                char *place = w->out + r * n * e;
                M2_TRY(copy(c, place, block, n * e, s));
                block = place;
            }
            w->pieces[r] = (m2i_block){.send = block, .send_bytes = n * e};
        }
        M2_TRY(sync(c, s));
        M2_TRY(scatter(c, n * e));
        char *dst = staged(c) ? w->in : (char *)recv + at * e;
        M2_TRY(m2i_fold_terms(dst, w->terms, c->size, n, t, op));
        if (staged(c)) M2_TRY(copy(c, (char *)recv + at * e, w->in, n * e, s));
    }
    return sync(c, s);
}

/* ---- from one ---------------------------------------------------------------------------------------------------- */
static m2_status broadcast_piece(m2_comm *c, char *buf, int64_t n, int root)
{
    m2i_wire *w = wire(c);
    int whole = n <= M2I_SMALL;
    for (int r = 0; r < c->size; r++) w->pieces[r] = (m2i_block){0};
    for (int r = 0; r < c->size; r++) {
        m2_slab b = whole ? (m2_slab){0, n} : m2_slab_of(n, c->size, r);
        if (r == root) continue;
        if (c->rank == root)
            w->pieces[r] = (m2i_block){.send = buf + b.at, .send_bytes = b.count};
        else if (c->rank == r)
            w->pieces[root] = (m2i_block){.recv = buf + b.at, .recv_bytes = b.count};
    }
    M2_TRY(w->api->exchange(c, w->pieces));
    return whole ? M2_OK : gather_slabs(c, buf, n, 1, root);
}

m2_status m2i_broadcast(m2_comm *c, void *buf, int64_t count, m2_dtype t, int root, m2_stream *s)
{
    M2_TRY(m2i_check_wire(c));
    m2i_wire *w = wire(c);
    int64_t bytes = count * m2_dtype_size(t);
    for (int64_t at = 0; at < bytes; at += w->piece_bytes) {
        int64_t n = bytes - at < w->piece_bytes ? bytes - at : w->piece_bytes;
        char *there = (char *)buf + at, *here = staged(c) ? w->in : there;
        if (c->rank == root) M2_TRY(copy(c, here, there, n, s));
        M2_TRY(sync(c, s));
        M2_TRY(broadcast_piece(c, here, n, root));
        if (c->rank != root) M2_TRY(copy(c, there, here, n, s));
    }
    return sync(c, s);
}

m2_status m2i_send(m2_comm *c, const void *buf, int64_t count, m2_dtype t, int to, m2_stream *s)
{
    M2_TRY(m2i_check_wire(c));
    m2i_wire *w = wire(c);
    int64_t bytes = count * m2_dtype_size(t);
    if (!staged(c)) return w->api->push(c, buf, bytes, to);
    for (int64_t at = 0; at < bytes; at += w->piece_bytes) {
        int64_t n = bytes - at < w->piece_bytes ? bytes - at : w->piece_bytes;
        M2_TRY(copy(c, w->out, (const char *)buf + at, n, s));
        M2_TRY(sync(c, s));
        M2_TRY(w->api->push(c, w->out, n, to));
    }
    return M2_OK;
}

m2_status m2i_recv(m2_comm *c, void *buf, int64_t count, m2_dtype t, int from, m2_stream *s)
{
    M2_TRY(m2i_check_wire(c));
    m2i_wire *w = wire(c);
    int64_t bytes = count * m2_dtype_size(t);
    if (!staged(c)) return w->api->pull(c, buf, bytes, from);
    for (int64_t at = 0; at < bytes; at += w->piece_bytes) {
        int64_t n = bytes - at < w->piece_bytes ? bytes - at : w->piece_bytes;
        M2_TRY(w->api->pull(c, w->in, n, from));
        M2_TRY(copy(c, (char *)buf + at, w->in, n, s));
        M2_TRY(sync(c, s));
    }
    return M2_OK;
}

/* ---- predictions: what the algorithms above give to other ranks -------------------------------------------------- */
static int64_t reduced(int64_t n, int64_t e, int rank, int size)
{
    if (n * e <= M2I_SMALL) return (size - 1) * n * e;
    return (n + (size - 2) * m2_slab_of(n, size, rank).count) * e;
}

int64_t m2_comm_bytes_all_reduce(int64_t count, m2_dtype t, int rank, int size)
{
    int64_t e = m2_dtype_size(t), most = piece_size(size) / e;
    if (size == 1) return 0;
    return count / most * reduced(most, e, rank, size) + reduced(count % most, e, rank, size);
}

int64_t m2_comm_bytes_all_gather(int64_t count, m2_dtype t, int size)
{
    return (size - 1) * count * m2_dtype_size(t);
}

int64_t m2_comm_bytes_reduce_scatter(int64_t count, m2_dtype t, int size)
{
    return (size - 1) * count * m2_dtype_size(t);
}

static int64_t broadcasted(int64_t n, int rank, int root, int size)
{
    if (n <= M2I_SMALL) return rank == root ? (size - 1) * n : 0;
    int64_t slab = m2_slab_of(n, size, rank).count;
    return rank == root ? n + (size - 2) * slab : (size - 2) * slab;
}

int64_t m2_comm_bytes_broadcast(int64_t count, m2_dtype t, int rank, int root, int size)
{
    int64_t bytes = count * m2_dtype_size(t), most = piece_size(size);
    if (size == 1) return 0;
    return bytes / most * broadcasted(most, rank, root, size) + broadcasted(bytes % most, rank, root, size);
}
