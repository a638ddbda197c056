/* comm_self.c - one rank: verbs copy, on the stream. */
#include "parallel/comm.h"

#include <stdlib.h>
#include <string.h>

static m2_status move(m2_comm *c, const void *from, void *to, int64_t count, m2_dtype t, m2_stream *s)
{
    int64_t bytes = count * m2_dtype_size(t);
    if (bytes <= 0 || from == to) return M2_OK;
    if (c->device) return c->device->api->copy(c->device, to, from, bytes, s);
    memmove(to, from, (size_t)bytes);
    return M2_OK;
}

static m2_status self_reduce(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t,
                             m2_reduce op, m2_stream *s)
{
    (void)op;
    return move(c, send, recv, count, t, s);
}

static m2_status self_all_gather(m2_comm *c, const void *send, void *recv, int64_t count, m2_dtype t,
                                 m2_stream *s)
{
    return move(c, send, recv, count, t, s);
}

static m2_status self_all_to_all(m2_comm *c, const void *send, const int64_t *send_count,
                                 const int64_t *send_at, void *recv, const int64_t *recv_count,
                                 const int64_t *recv_at, m2_dtype t, m2_stream *s)
{
    (void)recv_count;
    int64_t e = m2_dtype_size(t);
    return move(c, (const char *)send + send_at[0] * e, (char *)recv + recv_at[0] * e, send_count[0], t, s);
}

static m2_status self_broadcast(m2_comm *c, void *buf, int64_t count, m2_dtype t, int root, m2_stream *s)
{
    (void)c, (void)buf, (void)count, (void)t, (void)root, (void)s;
    return M2_OK;
}

static m2_status self_send(m2_comm *c, const void *buf, int64_t count, m2_dtype t, int to, m2_stream *s)
{
    (void)c, (void)buf, (void)count, (void)t, (void)s;
    return m2_fail(M2_BUG, "a message to rank %d of a communicator of one rank", to);
}

static m2_status self_recv(m2_comm *c, void *buf, int64_t count, m2_dtype t, int from, m2_stream *s)
{
    (void)c, (void)buf, (void)count, (void)t, (void)s;
    return m2_fail(M2_BUG, "a message from rank %d of a communicator of one rank", from);
}

static m2_status self_nothing(m2_comm *c)
{
    (void)c;
    return M2_OK;
}

static m2_status self_split(m2_comm *c, int colour, int key, m2_comm **out)
{
    (void)colour, (void)key;
    return m2_comm_open_self(c->device, out);
}

static void self_abort(m2_comm *c, m2_status why)
{
    (void)c, (void)why; /* no one waits */
}

static void self_close(m2_comm *c)
{
    if (c->host != c) free(c->host);
    free(c);
}

static const m2_comm_api self_api = {
    .kind = "self",
    .all_reduce = self_reduce,
    .all_gather = self_all_gather,
    .reduce_scatter = self_reduce,
    .all_to_all = self_all_to_all,
    .broadcast = self_broadcast,
    .send = self_send,
    .recv = self_recv,
    .barrier = self_nothing,
    .split = self_split,
    .check = self_nothing,
    .abort = self_abort,
    .close = self_close,
};

m2_status m2_comm_open_self(m2_device *dev, m2_comm **out)
{
    m2_comm *c = calloc(1, sizeof *c), *host = dev ? calloc(1, sizeof *host) : c;
    if (!c || !host) {
        free(c);
        return m2_fail(M2_TRANSIENT, "out of memory for a communicator");
    }
    *c = (m2_comm){.api = &self_api, .size = 1, .local_size = 1, .device = dev, .host = host};
    if (host != c) {
        *host = *c;
        host->device = NULL;
    }
    *out = c;
    return M2_OK;
}
