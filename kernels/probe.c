/* probe.c - probes in a device's memory: one image with canaries, one upload, one run, one read-back. */
#include "kernels/probe.h"
#include "kernels/base/arena.h"

#include <stdlib.h>

enum { CANARY = 0xff }; /* NaN as f32, f64 and bf16, -1 as an index */

/* ---- layout -------------------------------------------------------------------------------------------- */
/* Room for `bytes` at the next aligned place after a canary of at least M2_ALIGN. */
static int64_t place(m2_bound *b, int64_t bytes)
{
    int64_t at = m2_align_up(b->bytes, M2_ALIGN) + M2_ALIGN;
    b->bytes = at + bytes;
    return at;
}

/* The input whose memory output j uses, or -1. */
static int shared_input(const m2_probe *p, int j, unsigned flags)
{
    int i = p->op->updates[j] - 1;
    if (i < 0 && (flags & M2_PROBE_IN_PLACE) && !(p->acc >> j & 1)) i = p->op->inplace[j] - 1;
    if (i < 0 || p->in[i].desc.rank < 0 || p->out[j].desc.rank < 0) return -1;
    return m2_desc_bytes(&p->in[i].desc) == m2_desc_bytes(&p->out[j].desc) ? i : -1;
}

static void lay_out(const m2_probe *p, unsigned flags, m2_bound *b)
{
    m2_desc in[M2_MAX_IN], out[M2_MAX_OUT];
    for (int i = 0; i < M2_MAX_IN; i++) {
        in[i] = p->in[i].desc;
        b->at_in[i] = in[i].rank < 0 ? -1 : place(b, m2_desc_bytes(&in[i]));
    }
    for (int j = 0; j < M2_MAX_OUT; j++) {
        out[j] = p->out[j].desc;
        int i = shared_input(p, j, flags);
        b->at_out[j] = i >= 0 ? b->at_in[i] : out[j].rank < 0 ? -1 : place(b, m2_desc_bytes(&out[j]));
    }
    b->call.workspace_bytes = b->device->api->workspace(b->device, p->op, &p->attrs, in, out);
    b->at_workspace = place(b, b->call.workspace_bytes);
    b->at_step = place(b, (int64_t)sizeof p->step);
    b->bytes = m2_align_up(b->bytes, M2_ALIGN) + M2_ALIGN;
}

/* ---- elements ------------------------------------------------------------------------------------------ */
static uint16_t to_bf16(double x)
{
    return m2_bf16_from_f32((float)x);
}

static double from_bf16(uint16_t x)
{
    return (double)m2_bf16_to_f32(x);
}

static void put(char *at, const m2_slot *s)
{
    int64_t n = m2_desc_count(&s->desc);
#define EACH(type, convert)                                                                                  \
    for (int64_t e = 0; e < n; e++) ((type *)(void *)at)[e] = convert(s->value[e % s->period])
    switch (s->desc.dtype) {
    case M2_F32: EACH(float, (float)); break;
    case M2_F64: EACH(double, (double)); break;
    case M2_BF16: EACH(uint16_t, to_bf16); break;
    case M2_I32: EACH(int32_t, (int32_t)); break;
    default: EACH(uint8_t, (uint8_t)); break;
    }
#undef EACH
}

/* Reads the values; returns the first element that still is all-ones, or -1. */
static int64_t get(const char *at, m2_slot *s)
{
    int64_t n = s->period, missing = -1, size = m2_dtype_size(s->desc.dtype);
    const unsigned char untouched[8] = {CANARY, CANARY, CANARY, CANARY, CANARY, CANARY, CANARY, CANARY};
#define EACH(type, convert)                                                                                  \
    for (int64_t e = 0; e < n; e++) s->value[e] = convert(((const type *)(const void *)at)[e])
    switch (s->desc.dtype) {
    case M2_F32: EACH(float, (double)); break;
    case M2_F64: EACH(double, (double)); break;
    case M2_BF16: EACH(uint16_t, from_bf16); break;
    case M2_I32: EACH(int32_t, (double)); break;
    default: EACH(uint8_t, (double)); break;
    }
#undef EACH
    for (int64_t e = n - 1; e >= 0; e--)
        if (!memcmp(at + e * size, untouched, (size_t)size)) missing = e;
    return missing;
}

/* ---- binding ------------------------------------------------------------------------------------------- */
static m2_tensor view(const m2_bound *b, const m2_slot *s, int64_t at)
{
    if (at < 0) return (m2_tensor){.data = NULL};
    m2_tensor t = m2_tensor_make(&s->desc, b->memory + at);
    for (int d = 0; d < t.rank; d++) t.whole[d] = s->whole[d], t.origin[d] = s->origin[d];
    return t;
}

static m2_status upload(const m2_probe *p, m2_bound *b)
{
    m2_device *dev = b->device;
    M2_TRY(dev->api->alloc(dev, M2_MEM_HOST, b->bytes, (void **)&b->image));
    M2_TRY(dev->api->alloc(dev, M2_MEM_DEVICE, b->bytes, (void **)&b->memory));
    memset(b->image, CANARY, (size_t)b->bytes);
    for (int i = 0; i < M2_MAX_IN; i++)
        if (b->at_in[i] >= 0) put(b->image + b->at_in[i], &p->in[i]);
    for (int j = 0; j < M2_MAX_OUT; j++)
        if (b->at_out[j] >= 0 && p->acc >> j & 1) put(b->image + b->at_out[j], &p->out[j]);
    memcpy(b->image + b->at_step, &p->step, sizeof p->step);
    M2_TRY(dev->api->copy(dev, b->memory, b->image, b->bytes, NULL));
    return dev->api->stream_sync(dev, NULL);
}

m2_status m2_probe_bind(const m2_probe *p, m2_device *dev, unsigned flags, m2_bound *b)
{
    *b = (m2_bound){.device = dev, .run = dev->api->lookup(dev, p->op)};
    if (!b->run) return m2_fail(M2_USAGE, "%s has no kernel for op %s", dev->name, p->op->name);
    lay_out(p, flags, b);
    m2_status st = upload(p, b);
    if (st != M2_OK) {
        m2_probe_unbind(b);
        return st;
    }
    m2_call *c = &b->call;
    c->op = p->op;
    c->attrs = p->attrs;
    c->n_in = p->op->n_in;
    c->n_out = p->op->n_out;
    for (int i = 0; i < c->n_in; i++) c->in[i] = view(b, &p->in[i], b->at_in[i]);
    for (int j = 0; j < c->n_out; j++) c->out[j] = view(b, &p->out[j], b->at_out[j]);
    c->acc = p->acc;
    c->rng = 7;
    c->workspace = b->memory + b->at_workspace;
    c->step = (const m2_step *)(const void *)(b->memory + b->at_step);
    c->device = dev;
    return M2_OK;
}

void m2_probe_unbind(m2_bound *b)
{
    if (b->memory) b->device->api->free(b->device, M2_MEM_DEVICE, b->memory);
    if (b->image) b->device->api->free(b->device, M2_MEM_HOST, b->image);
    *b = (m2_bound){0};
}

/* ---- one checked run ----------------------------------------------------------------------------------- */
static int by_place(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Everything that is nobody's must still be a canary. */
static m2_status check_canaries(const m2_probe *p, const m2_bound *b)
{
    int64_t taken[M2_MAX_IN + M2_MAX_OUT + 2][2];
    int n = 0;
    for (int i = 0; i < M2_MAX_IN; i++)
        if (b->at_in[i] >= 0) taken[n][0] = b->at_in[i], taken[n++][1] = m2_desc_bytes(&p->in[i].desc);
    for (int j = 0; j < M2_MAX_OUT; j++)
        if (b->at_out[j] >= 0) taken[n][0] = b->at_out[j], taken[n++][1] = m2_desc_bytes(&p->out[j].desc);
    taken[n][0] = b->at_workspace, taken[n++][1] = b->call.workspace_bytes;
    taken[n][0] = b->at_step, taken[n++][1] = (int64_t)sizeof p->step;
    qsort(taken, (size_t)n, sizeof *taken, by_place);
    int64_t at = 0;
    for (int k = 0; k <= n; k++) {
        int64_t end = k < n ? taken[k][0] : b->bytes;
        for (; at < end; at++)
            if ((unsigned char)b->image[at] != CANARY)
                return m2_fail(M2_BUG, "%s wrote outside its tensors, %lld bytes %s", p->op->name,
                               (long long)(k ? at - taken[k - 1][0] - taken[k - 1][1] : end - at),
                               k ? "after the end of one" : "before the first");
        if (k < n && taken[k][0] + taken[k][1] > at) at = taken[k][0] + taken[k][1];
    }
    return M2_OK;
}

static m2_status read_back(m2_probe *p, m2_bound *b, const char *before)
{
    m2_device *dev = b->device;
    M2_TRY(dev->api->copy(dev, b->image, b->memory, b->bytes, NULL));
    M2_TRY(dev->api->stream_sync(dev, NULL));
    M2_TRY(check_canaries(p, b));
    unsigned overwritten = 0;
    for (int j = 0; j < p->op->n_out; j++)
        for (int i = 0; i < p->op->n_in; i++)
            if (b->at_out[j] >= 0 && b->at_out[j] == b->at_in[i]) overwritten |= 1u << i;
    for (int i = 0; i < p->op->n_in; i++)
        if (b->at_in[i] >= 0 && !(overwritten >> i & 1) &&
            memcmp(b->image + b->at_in[i], before + b->at_in[i], (size_t)m2_desc_bytes(&p->in[i].desc)))
            return m2_fail(M2_BUG, "%s changed its input %s", p->op->name, p->op->in_name[i]);
    for (int j = 0; j < p->op->n_out; j++) {
        if (b->at_out[j] < 0) continue;
        int64_t missing = get(b->image + b->at_out[j], &p->out[j]);
        if (missing >= 0)
            return m2_fail(M2_BUG, "%s did not write element %lld of its output %s", p->op->name,
                           (long long)missing, p->op->out_name[j]);
    }
    return M2_OK;
}

m2_status m2_probe_run(m2_probe *p, m2_device *dev, unsigned flags)
{
    m2_bound b;
    M2_TRY(m2_probe_bind(p, dev, flags, &b));
    m2_status st = M2_OK;
    char *before = malloc((size_t)b.bytes);
    if (!before) M2_TRY_GOTO(st, m2_fail(M2_TRANSIENT, "out of memory for a probe"), done);
    memcpy(before, b.image, (size_t)b.bytes);
    M2_TRY_GOTO(st, b.run(&b.call), done);
    M2_TRY_GOTO(st, read_back(p, &b, before), done);
done:
    free(before);
    m2_probe_unbind(&b);
    return st;
}
