/* bind.c - from a plan to memory: arenas, and every call finished to the last pointer. Nothing is allocated after it. */
#include "runtime/program/internal.h"
#include "kernels/base/log.h"
#include "parallel/comm.h"

#include <stdlib.h>
#include <xxhash.h>

/* ---- arenas ------------------------------------------------------------------------------------------------------ */
static m2_status take(m2_arena *a, int64_t bytes, char **out)
{
    void *at = NULL;
    if (bytes) M2_TRY(m2_arena_take(a, bytes, &at));
    *out = at;
    return M2_OK;
}

static m2_status create(m2_program *p, m2_arena *a, const char *name, int64_t bytes, int byte)
{
    m2_device *dev = p->b.device;
    M2_TRY(m2_arena_create(dev, M2_MEM_DEVICE, name, bytes, a));
    return bytes ? dev->api->fill(dev, a->base, byte, bytes, p->b.stream) : M2_OK;
}

/* Activations and scratch start as NaN: whatever is read before it is written shows. */
static m2_status create_arenas(m2_program *p)
{
    m2i_bound *b = &p->b;
    const m2_memory_plan *m = &p->memory;
    m2_arena *const arenas[] = {[M2I_MASTER] = &b->params,  [M2I_COPY] = &b->params,  [M2I_OWN] = &b->params,
                                [M2I_GRAD] = &b->grads,     [M2I_M] = &b->optimizer,  [M2I_V] = &b->optimizer,
                                [M2I_GROUPS] = &b->optimizer};
    M2_TRY(create(p, &b->params, "params", m->params, 0));
    M2_TRY(create(p, &b->grads, "grads", m->grads, 0));
    M2_TRY(create(p, &b->optimizer, "optimizer", m->optimizer, 0));
    M2_TRY(create(p, &b->io, "io", m->io, 0));
    M2_TRY(create(p, &b->activations, "activations", m->activations, 0xff));
    M2_TRY(create(p, &b->workspace, "workspace", m->workspace, 0xff));
    for (m2i_home h = b->shared ? M2I_GRAD : M2I_MASTER; h <= M2I_GROUPS; h++)
        M2_TRY(take(arenas[h], m2i_home_count(p, h) * m2_dtype_size(m2i_home_dtype(p, h)), &b->base[h]));
    b->base[M2I_IO] = b->io.base; /* placed by the plan, as are the activations */
    b->base[M2I_ACT] = b->activations.base;
    void *step;
    M2_TRY(m2_arena_take(&b->io, m->io, &step));
    b->step = step;
    return M2_OK;
}

static m2_status write_groups(m2_program *p)
{
    if (!p->has_update) return M2_OK;
    m2_device *dev = p->b.device;
    int64_t n = m2i_home_count(p, M2I_GROUPS), all = p->trained / M2_GROUP_BLOCK;
    uint8_t *groups = calloc((size_t)all + 1, 1);
    if (!groups) return m2_fail(M2_TRANSIENT, "out of memory for the optimizer's groups");
    for (int i = 0; i < p->n_params; i++) {
        const m2_param *row = &p->params[i];
        int64_t count = m2_desc_count(&m2i_at(p, row->tid)->desc);
        if (row->flags & M2_PARAM_FROZEN) continue;
        memset(groups + row->offset / M2_GROUP_BLOCK, row->group,
               (size_t)((count + M2_GROUP_BLOCK - 1) / M2_GROUP_BLOCK));
    }
    int64_t piece = n / (p->shards.buckets ? p->shards.buckets : 1);
    for (int b = 0; b < p->shards.buckets && n < all; b++) { /* the shard's, one piece after the other */
        int64_t at = m2_shards_piece(&p->shards, b, p->sharding.rank).flat.at / M2_GROUP_BLOCK;
        memmove(groups + b * piece, groups + at, (size_t)piece);
    }
    m2_status st = dev->api->copy(dev, p->b.base[M2I_GROUPS], groups, n, p->b.stream);
    if (st == M2_OK) st = dev->api->stream_sync(dev, p->b.stream);
    free(groups);
    return st;
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */
/* Runs of positions are a slab of a dimension of rows and one of columns: so dropout, which numbers elements, sees them. */
static void split_positions(m2_tensor *v, int d, const m2_sequence_cut *cut)
{
    const m2_columns *c = &cut->columns;
    for (int i = v->rank++; i > d + 1; i--) {
        v->shape[i] = v->shape[i - 1], v->whole[i] = v->whole[i - 1], v->origin[i] = v->origin[i - 1];
        v->stride[i] = v->stride[i - 1], v->axis[i] = v->axis[i - 1];
    }
    v->shape[d] = v->whole[d] = c->used, v->origin[d] = 0;
    v->shape[d + 1] = c->own, v->whole[d + 1] = c->width, v->origin[d + 1] = cut->rank * c->own;
    v->stride[d + 1] = v->stride[d], v->axis[d + 1] = v->axis[d];
    v->stride[d] *= c->own;
}

/* The view a call gets. Positions are numbered in the whole sequence; rows of the batch are, by step->row0. */
static m2_tensor view(const m2_program *p, const m2_op *op, m2_tid t)
{
    const m2i_tensor *x = m2i_at(p, t);
    const m2_sequence_cut *cut = &p->spec.sequence;
    char *base = p->b.base[x->home];
    m2_tensor v = m2_tensor_make(&x->desc, base ? base + x->at : NULL);
    if (x->step) v.stride[0] = x->step;
    for (int d = 0; d < v.rank && cut->ranks > 1; d++) {
        if (v.axis[d] != 'L' || v.shape[d] != p->spec.length) continue;
        v.whole[d] = m2_program_length(p);
        v.origin[d] = cut->rank * (cut->columns.width ? cut->columns.own : p->spec.length);
        if (op != &m2_op_dropout || !cut->columns.width) continue;
        split_positions(&v, d, cut);
        break;
    }
    return v;
}

static m2_tensor absent(void)
{
    return (m2_tensor){.rank = -1};
}

static m2_status bind_call(m2_program *p, const m2i_call *from, m2_call *c, m2_run_fn *run)
{
    m2i_bound *b = &p->b;
    *c = (m2_call){.op = from->op,
                   .attrs = from->attrs,
                   .n_in = from->op->n_in,
                   .n_out = from->op->n_out,
                   .rng = from->rng,
                   .workspace = b->workspace.base + (from->beside ? b->workspace.size - p->lane_scratch : 0),
                   .step = b->step,
                   .context = from->context,
                   .device = b->device,
                   .stream = m2i_lane_stream(p, from->lane)};
    for (int i = 0; i < M2_MAX_IN; i++) c->in[i] = from->in[i] == M2_NONE ? absent() : view(p, from->op, from->in[i]);
    for (int j = 0; j < M2_MAX_OUT; j++) {
        c->out[j] = from->out[j] == M2_NONE ? absent() : view(p, from->op, from->out[j]);
        if (from->out[j] == M2_NONE || m2i_at(p, from->out[j])->home != M2I_ACT) continue;
        int64_t end =
            m2_align_up((char *)c->out[j].data + m2_tensor_bytes(&c->out[j]) - b->activations.base, M2_ALIGN);
        if (end > b->activations_high) b->activations_high = end;
    }
    c->workspace_bytes = m2i_call_workspace(p, from, b->device->threads, b->device);
    int64_t scratch = m2_align_up(c->workspace_bytes, M2_ALIGN);
    if (from->beside && scratch) scratch += b->workspace.size - p->lane_scratch;
    if (scratch > b->workspace_high) b->workspace_high = scratch;
    if (scratch > b->workspace.size)
        return m2_fail(M2_BUG, "%s (%s) needs %lld bytes of workspace, %lld were planned", from->path,
                       from->op->name, (long long)c->workspace_bytes, (long long)b->workspace.size);
    *run = from->op->id < 0 ? from->op->run : b->device->api->lookup(b->device, from->op);
    if (!*run)
        return m2_fail(M2_USAGE, "%s: %s has no kernel on %s; use another device or precision", from->path,
                       from->op->name, b->device->name);
    return M2_OK;
}

/* The first n calls: a segment ends at each collective, and before each call that waits. */
static void cut_segments(m2_program *p, int n)
{
    m2i_bound *b = &p->b;
    m2i_segment s = {.collective = -1};
    for (int i = 0; i < n; i++) {
        const m2i_call *c = &p->calls[i];
        if (c->wait || c->wait_sum || c->wait_params) {
            s.end = i;
            b->segments[b->n_segments++] = s;
            s = (m2i_segment){.begin = i, .collective = -1};
            s.wait = c->wait, s.wait_sum = c->wait_sum, s.wait_params = c->wait_params;
        }
        if (!c->context) continue;
        s.end = i, s.collective = i;
        b->exchanges += !c->once;
        b->segments[b->n_segments++] = s;
        s = (m2i_segment){.begin = i + 1, .collective = -1};
    }
    s.end = n;
    b->segments[b->n_segments++] = s;
}

static m2_status bind_calls(m2_program *p)
{
    m2i_bound *b = &p->b;
    int n = 0, segments = 1;
    for (; n < p->n_calls && p->calls[n].region != M2_UPDATE; n++)
        segments += (p->calls[n].context != NULL) + (p->calls[n].wait || p->calls[n].wait_sum || p->calls[n].wait_params);
    for (int i = n; i < p->n_calls; i++) b->gathers += p->calls[i].lane == M2_LANE_REDUCE;
    b->calls = calloc((size_t)p->n_calls + 1, sizeof *b->calls);
    b->run = calloc((size_t)p->n_calls + 1, sizeof *b->run);
    b->segments = calloc((size_t)segments, sizeof *b->segments);
    if (!b->calls || !b->run || !b->segments)
        return m2_fail(M2_TRANSIENT, "out of memory for %d bound calls", p->n_calls);
    for (int i = 0; i < p->n_calls; i++) M2_TRY(bind_call(p, &p->calls[i], &b->calls[i], &b->run[i]));
    b->whole.end = n;
    cut_segments(p, n);
    if (!b->base[M2I_COPY] || b->shared) return M2_OK;
    m2i_call cast = {.op = &m2_op_cast, .path = "refresh"};
    cast.attrs.i[M2_CAST_OUT_DTYPE] = m2_program_compute_dtype(p);
    for (int i = 0; i < M2_MAX_IN; i++) cast.in[i] = M2_NONE;
    for (int j = 0; j < M2_MAX_OUT; j++) cast.out[j] = M2_NONE;
    return bind_call(p, &cast, &b->refresh, &b->refresh_run);
}

/* ---- exchanges --------------------------------------------------------------------------------------------------- */
/* Where the sequence's exchanges read and write among the activations. */
static uint64_t places(const m2_program *p)
{
    uint64_t h = 0;
    for (int i = 0; i < p->n_calls; i++) {
        const m2i_call *c = &p->calls[i];
        for (int j = 0; c->context == p->spec.sequence.context && j < M2_MAX_OUT; j++)
            if (c->out[j] != M2_NONE) h = XXH3_64bits_withSeed(&m2i_at(p, c->out[j])->at, sizeof(int64_t), h);
    }
    return h;
}

static m2_status lend_activations(m2_program *p)
{
    m2i_bound *b = &p->b;
    if (p->spec.sequence.ranks < 2 || p->options.no_peers) return M2_OK;
    return m2_comm_lend(p->spec.sequence.context, b->activations.base, b->activations.size, places(p), &b->lent);
}

static void take_activations_back(m2_program *p)
{
    if (!p->b.lent) return;
    if (m2_comm_take_back(p->spec.sequence.context, p->b.activations.base) != M2_OK)
        m2_log(M2_LOG_WARN, "activations lent to other ranks: %s", m2_message());
}

/* ---- bind -------------------------------------------------------------------------------------------------------- */
/* bf16: what stays f32 are the filters' networks; tf32 has three bits more than bf16. */
static m2_status set_precision(m2_program *p)
{
    m2_device *dev = p->b.device;
    m2_precision precision = p->spec.precision;
    if (precision == M2_PREC_TF32 && !strcmp(dev->api->kind, "cpu"))
        return m2_fail(M2_USAGE, "precision tf32 needs a GPU, %s has none of it: use f32", dev->name);
    dev->tf32 = precision == M2_PREC_TF32 || precision == M2_PREC_BF16;
    return M2_OK;
}

static m2_status bind(m2_program *p)
{
    M2_TRY(set_precision(p));
    m2i_plan_workspace(p, p->b.device->threads, p->b.device); /* again: this device knows its scratch */
    if (!p->b.shared) M2_TRY(p->b.device->api->stream_create(p->b.device, 0, &p->b.stream));
    M2_TRY(m2i_lanes_open(p));
    M2_TRY(create_arenas(p));
    M2_TRY(m2i_transfer_open(p));
    M2_TRY(write_groups(p));
    M2_TRY(bind_calls(p));
    M2_TRY(p->b.device->api->stream_sync(p->b.device, p->b.stream));
    M2_TRY(lend_activations(p));
    p->stage = M2I_BOUND;
    return M2_OK;
}

static m2_status check_bind(const m2_program *p)
{
    M2_TRY(m2_program_error(p));
    if (p->stage == M2I_PLANNED) return M2_OK;
    return m2_fail(M2_BUG, "m2_program_bind needs a planned program that is not bound yet");
}

m2_status m2_program_bind(m2_program *p, m2_device *dev)
{
    M2_TRY(check_bind(p));
    p->b.device = dev;
    m2_status st = bind(p);
    if (st != M2_OK) m2i_unbind(p);
    return st;
}

static m2_status check_tables(const m2_program *p, const m2_program *owner)
{
    if (owner->stage != M2I_BOUND)
        return m2_fail(M2_BUG, "the program whose parameters are to be shared is not bound");
    if (p->spec.mode != M2_MODE_EVAL) return m2_fail(M2_BUG, "only an EVAL program can share parameters");
    if (p->n_params != owner->n_params || p->spec.precision != owner->spec.precision)
        return m2_fail(M2_BUG, "parameters cannot be shared: %d rows against %d, or another precision",
                       p->n_params, owner->n_params);
    for (int i = 0; i < p->n_params; i++) {
        const m2_param *a = &p->params[i], *b = &owner->params[i];
        if (strcmp(a->name, b->name) || a->rank != b->rank ||
            a->flags != b->flags || memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims))
            return m2_fail(
                M2_BUG,
                "parameters cannot be shared: row %d is '%s' here and '%s' there, or of another shape", i,
                a->name, b->name);
    }
    return M2_OK;
}

/* Ranks that share state pad it: the owner's parameters are where it put them. */
static void adopt_places(m2_program *p, const m2_program *owner)
{
    for (int i = 0; i < p->n_params; i++) {
        p->params[i].offset = owner->params[i].offset;
        m2i_at(p, p->params[i].tid)->at = m2i_at(owner, owner->params[i].tid)->at;
    }
    p->trained = owner->trained;
    p->flat = owner->flat;
    p->whole = owner->whole;
}

m2_status m2_program_bind_shared(m2_program *p, m2_program *owner)
{
    M2_TRY(check_bind(p));
    M2_TRY(check_tables(p, owner));
    adopt_places(p, owner);
    p->b.device = owner->b.device;
    p->b.shared = 1;
    p->b.owner = owner;
    p->b.stream = owner->b.stream; /* so that it reads parameters after the update before it */
    p->b.base[M2I_MASTER] = owner->b.base[M2I_MASTER];
    p->b.base[M2I_COPY] = owner->b.base[M2I_COPY];
    p->memory.params = 0;
    m2_status st = bind(p);
    if (st != M2_OK) m2i_unbind(p);
    return st;
}

static void destroy_graphs(m2_device *dev, m2i_segment *s)
{
    for (int v = 0; v < 4; v++)
        if (s->graph[v]) dev->api->graph_destroy(dev, s->graph[v]);
}

void m2i_unbind(m2_program *p)
{
    m2i_bound *b = &p->b;
    if (!b->device) return;
    m2_device *dev = b->device;
    m2i_lanes_close(p);
    take_activations_back(p);
    m2i_profile_end(p);
    m2i_trace_end(p);
    destroy_graphs(dev, &b->whole);
    for (int s = 0; s < b->n_segments; s++) destroy_graphs(dev, &b->segments[s]);
    m2i_transfer_close(p);
    free(b->segments);
    free(b->run);
    free(b->calls);
    m2_arena *arenas[] = {&b->host,      &b->workspace, &b->activations, &b->io,
                          &b->optimizer, &b->grads,     &b->params};
    for (size_t i = 0; i < sizeof arenas / sizeof *arenas; i++) m2_arena_destroy(arenas[i]);
    if (b->stream && !b->shared) dev->api->stream_destroy(dev, b->stream);
    *b = (m2i_bound){0};
}

m2_memory_plan m2_program_memory_used(const m2_program *p)
{
    const m2i_bound *b = &p->b;
    return (m2_memory_plan){.params = b->params.high,
                            .grads = b->grads.high,
                            .optimizer = b->optimizer.high,
                            .activations = b->activations_high,
                            .workspace = b->workspace_high,
                            .io = b->io.high};
}
