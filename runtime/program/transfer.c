/* transfer.c - what crosses between host and device while a program runs: inputs and the step's numbers through a ring of
 * pinned memory, scalars back behind the work. The host waits only for what is several runs old. */
#include "runtime/program/internal.h"

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status take(m2_program *p, int64_t bytes, void *out)
{
    void *at = NULL;
    M2_TRY(m2_arena_take(&p->b.host, bytes, &at));
    memcpy(out, &at, sizeof at);
    return M2_OK;
}

m2_status m2i_transfer_open(m2_program *p)
{
    m2i_bound *b = &p->b;
    m2i_transfer *x = &b->transfer;
    const m2_device_api *api = b->device->api;
    int64_t post = (int64_t)sizeof(double) * M2I_POST_SCALARS;
    int64_t bytes = M2I_SLOTS * p->memory.io + M2I_POSTS * m2_align_up(post, M2_ALIGN);
    M2_TRY(m2_arena_create(b->device, M2_MEM_HOST, "transfer", bytes, &b->host));
    for (int i = 0; i < M2I_SLOTS; i++) {
        M2_TRY(take(p, p->memory.io, &x->slot[i]));
        M2_TRY(api->event_create(b->device, &x->sent[i]));
    }
    for (int i = 0; i < M2I_POSTS; i++) {
        M2_TRY(take(p, post, &x->post[i]));
        M2_TRY(api->event_create(b->device, &x->posted[i]));
    }
    return M2_OK;
}

void m2i_transfer_close(m2_program *p)
{
    m2i_transfer *x = &p->b.transfer;
    m2_device *dev = p->b.device;
    for (int i = 0; i < M2I_SLOTS; i++)
        if (x->sent[i]) dev->api->event_destroy(dev, x->sent[i]);
    for (int i = 0; i < M2I_POSTS; i++)
        if (x->posted[i]) dev->api->event_destroy(dev, x->posted[i]);
    *x = (m2i_transfer){0};
}

/* ---- in ---------------------------------------------------------------------------------------------------------- */
m2_status m2i_feed(m2_program *p, int64_t at, const void *from, int64_t bytes)
{
    m2i_bound *b = &p->b;
    m2i_transfer *x = &b->transfer;
    const m2_device_api *api = b->device->api;
    if (!x->open && x->used[x->at]) M2_TRY(api->event_sync(b->device, x->sent[x->at]));
    x->open = 1;
    memcpy(x->slot[x->at] + at, from, (size_t)bytes);
    return api->copy(b->device, b->io.base + at, x->slot[x->at] + at, bytes, b->stream);
}

m2_status m2i_feed_step(m2_program *p, const m2_step *step)
{
    m2i_bound *b = &p->b;
    if (b->step_known && !memcmp(&b->last_step, step, sizeof *step)) return M2_OK;
    b->last_step = *step;
    b->step_known = 1;
    return m2i_feed(p, (int64_t)((char *)b->step - b->io.base), step, sizeof *step);
}

m2_status m2i_fed(m2_program *p)
{
    m2i_bound *b = &p->b;
    m2i_transfer *x = &b->transfer;
    if (!x->open) return M2_OK;
    M2_TRY(b->device->api->event_record(b->device, x->sent[x->at], b->stream));
    x->used[x->at] = 1;
    x->open = 0;
    x->at = (x->at + 1) % M2I_SLOTS;
    return M2_OK;
}

/* ---- out --------------------------------------------------------------------------------------------------------- */
static m2_status check_post(const m2_program *p, m2_tid t)
{
    m2_desc d = m2_program_desc(p, t);
    if (d.rank < 0 || m2_desc_count(&d) != 1 || (d.dtype != M2_F32 && d.dtype != M2_F64))
        return m2_fail(M2_BUG, "m2_program_post: tensor %d of the program is not a float scalar", (int)t);
    const m2i_tensor *x = m2i_at(p, t);
    if (x->kept || x->lasting || p->options.naive) return M2_OK;
    return m2_fail(M2_USAGE, "m2_program_post: tensor %d is not kept: name it with m2_program_output",
                   (int)t);
}

m2_status m2_program_post(m2_program *p, const m2_tid *t, int n)
{
    m2i_bound *b = &p->b;
    m2i_transfer *x = &b->transfer;
    if (p->stage != M2I_BOUND) return m2_fail(M2_BUG, "m2_program_post needs a bound program");
    if (n > M2I_POST_SCALARS || x->posts - x->taken == M2I_POSTS)
        return m2_fail(M2_BUG, "m2_program_post: %d scalars, at most %d fit, or %d posts are outstanding", n,
                       M2I_POST_SCALARS, M2I_POSTS);
    int k = (int)(x->posts % M2I_POSTS);
    for (int i = 0; i < n; i++) {
        M2_TRY(check_post(p, t[i]));
        m2_tensor s = m2_program_tensor(p, t[i]);
        x->type[k][i] = s.dtype;
        M2_TRY(b->device->api->copy(b->device, &x->post[k][i], s.data, m2_tensor_bytes(&s), b->stream));
    }
    x->n[k] = n;
    x->posts++;
    return b->device->api->event_record(b->device, x->posted[k], b->stream);
}

m2_status m2_program_take(m2_program *p, double *values)
{
    m2i_bound *b = &p->b;
    m2i_transfer *x = &b->transfer;
    if (x->posts == x->taken) return m2_fail(M2_BUG, "m2_program_take: nothing was posted");
    int k = (int)(x->taken % M2I_POSTS);
    M2_TRY(b->device->api->event_sync(b->device, x->posted[k]));
    x->taken++;
    for (int i = 0; i < x->n[k]; i++) {
        float single;
        memcpy(&single, &x->post[k][i], sizeof single);
        values[i] = x->type[k][i] == M2_F32 ? (double)single : x->post[k][i];
    }
    return M2_OK;
}
