/* exchange.c - all-to-alls between tokens and channels, and halos.
 *
 *   to_channels: block r of the channels goes to rank r; what comes from rank s is segment s of every row.
 *   to_sequence: segment r of every row goes to rank r; what comes from rank s are its channels. As maps of blocks both are
 *       y_r[s] = x_s[r], which is its own inverse and, being a permutation, its own adjoint.
 *   swap: the same map of blocks, of any array.
 *   halo: left_r = the last K - 1 tokens of x_{r-1};  adjoint: dx_r = dleft_{r+1} at its last K - 1 tokens, else 0. In chunks:
 *       of each chunk, around the end, where rank 0's chunk h gets the last rank's chunk h - 1. */
#include "parallel/exchange.h"

/* ---- shape rules ------------------------------------------------------------------------------------------------- */
static int64_t groups_of(const m2_attrs *attrs)
{
    return attrs->i[M2_EXCHANGE_GROUPS] > 1 ? attrs->i[M2_EXCHANGE_GROUPS] : 1;
}

static m2_status to_channels_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    int64_t ranks = attrs->i[M2_EXCHANGE_RANKS], groups = groups_of(attrs);
    char text[96];
    if (in[0].rank != 3 || ranks < 1 || in[0].shape[0] % (ranks * groups))
        return m2_fail(M2_USAGE,
                       "to_channels needs x (C, B, L) with C a multiple of the %lld ranks%s, got %s",
                       (long long)ranks, groups > 1 ? " times the groups" : "", m2_desc_print(text, &in[0]));
    out[0] = in[0];
    out[0].rank = 4;
    out[0].shape[0] = ranks, out[0].axis[0] = '.';
    out[0].shape[1] = in[0].shape[0] / ranks / groups;
    for (int i = 1; i < 4; i++) out[0].axis[i] = in[0].axis[i - 1];
    for (int i = 2; i < 4; i++) out[0].shape[i] = in[0].shape[i - 1];
    out[1] = attrs->i[M2_EXCHANGE_GROUP] + 1 < groups ? in[0] : m2_desc_none();
    return M2_OK;
}

static m2_status to_sequence_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    int64_t ranks = attrs->i[M2_EXCHANGE_RANKS];
    char text[96];
    if (in[0].rank != 4 || in[0].shape[0] != ranks)
        return m2_fail(M2_USAGE, "to_sequence needs x (%lld, C, B, L), one segment per rank, got %s",
                       (long long)ranks, m2_desc_print(text, &in[0]));
    out[0] = in[0];
    out[0].rank = 3;
    for (int i = 0; i < 3; i++) out[0].shape[i] = in[0].shape[i + 1], out[0].axis[i] = in[0].axis[i + 1];
    out[0].shape[0] *= ranks * groups_of(attrs);
    return in[1].rank < 0 || m2_desc_same_shape(&in[1], &out[0])
               ? M2_OK
               : m2_fail(M2_USAGE, "to_sequence: the rest is %s", m2_desc_print(text, &in[1]));
}

static m2_status swap_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    int64_t ranks = attrs->i[M2_EXCHANGE_RANKS];
    char text[96];
    if (in[0].rank < 1 || ranks < 1 || in[0].shape[0] % ranks)
        return m2_fail(M2_USAGE, "swap needs a first dimension that is a multiple of the %lld ranks, got %s",
                       (long long)ranks, m2_desc_print(text, &in[0]));
    out[0] = in[0];
    return M2_OK;
}

static int64_t chunks_of(const m2_attrs *attrs)
{
    return attrs->i[M2_HALO_CHUNKS] > 1 ? attrs->i[M2_HALO_CHUNKS] : 1;
}

static m2_status halo_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    int64_t taps = attrs->i[M2_HALO_TAPS], chunks = chunks_of(attrs);
    char text[96];
    if (in[0].rank != 3 || taps < 2 || in[0].shape[2] % chunks || in[0].shape[2] / chunks < taps - 1)
        return m2_fail(M2_USAGE,
                       "halo needs x (C, B, L) with at least %lld tokens (TAPS - 1 >= 1) in each of %lld "
                       "chunks on each rank, got %s",
                       (long long)taps - 1, (long long)chunks, m2_desc_print(text, &in[0]));
    out[0] = in[0];
    out[0].shape[2] = chunks * (taps - 1);
    return M2_OK;
}

static m2_runs runs_of(const m2_attrs *attrs)
{
    const int64_t *a = attrs->i;
    int64_t run = a[M2_ROWS_RUN] > 0 ? a[M2_ROWS_RUN] : a[M2_ROWS_COUNT] > 0 ? a[M2_ROWS_COUNT] : 1;
    return (m2_runs){a[M2_ROWS_AT], a[M2_ROWS_COUNT], run, a[M2_ROWS_JUMP]};
}

static m2_status rows_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    m2_runs r = runs_of(attrs);
    char text[96];
    if (in[0].rank < 1 || r.at < 0 || r.count < 1 || r.count % r.run ||
        m2_runs_at(&r, r.count - 1) >= in[0].shape[0])
        return m2_fail(M2_USAGE, "%lld rows from %lld on in runs of %lld are not rows of %s",
                       (long long)r.count, (long long)r.at, (long long)r.run, m2_desc_print(text, &in[0]));
    out[0] = in[0];
    out[0].shape[0] = r.count;
    return M2_OK;
}

/* ---- cost -------------------------------------------------------------------------------------------------------- */
int64_t m2_exchange_bytes(const m2_op *op, const m2_attrs *attrs, const m2_desc *in, const m2_desc *out,
                          int rank, int ranks)
{
    if (op == &m2_op_to_channels) return m2_desc_bytes(&out[0]) / ranks * (ranks - 1);
    if (op == &m2_op_to_sequence || op == &m2_op_swap) return m2_desc_bytes(&in[0]) / ranks * (ranks - 1);
    int around = (op == &m2_op_halo || op == &m2_op_halo_grad) && chunks_of(attrs) > 1;
    if (around) return ranks > 1 ? m2_desc_bytes(op == &m2_op_halo ? &out[0] : &in[0]) : 0;
    if (op == &m2_op_halo) return rank + 1 < ranks ? m2_desc_bytes(&out[0]) : 0;
    if (op == &m2_op_halo_grad) return rank > 0 ? m2_desc_bytes(&in[0]) : 0;
    return 0;
}

/* Both arrays of a part: what is outside it is not touched. */
static void part_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    (void)attrs;
    int64_t a = m2_desc_bytes(&in[0]), b = m2_desc_bytes(&out[0]);
    *cost = (m2_cost){.bytes = 2 * (double)(a < b ? a : b)};
}

/* ---- exchange ---------------------------------------------------------------------------------------------------- */
static m2_status check(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_CHECK(c && m2_tensor_dense(&call->in[0]) && m2_tensor_dense(&call->out[0]));
    return M2_OK;
}

static m2_status check_ranks(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_TRY(check(call));
    if (call->attrs.i[M2_EXCHANGE_RANKS] == c->size) return M2_OK;
    return m2_fail(M2_BUG, "%s was planned for %lld ranks and runs on %d", call->op->name,
                   (long long)call->attrs.i[M2_EXCHANGE_RANKS], c->size);
}

static m2_status swap_run(const m2_call *call)
{
    m2_comm *c = call->context;
    M2_TRY(check_ranks(call));
    return m2_comm_swap(c, call->in[0].data, call->out[0].data, m2_tensor_count(&call->in[0]) / c->size,
                        call->in[0].dtype, call->stream);
}

/* The rest where it is wanted, unless it is there already. */
static m2_status keep_rest(const m2_call *call, const m2_tensor *from, const m2_tensor *to)
{
    if (!from->data || !to->data || from->data == to->data) return M2_OK;
    return call->device->api->copy(call->device, to->data, from->data, m2_tensor_bytes(to), call->stream);
}

/* Group g of the channels of each rank, as elements: every rank's block of the whole array has all groups. */
static int64_t group_at(const m2_call *call, int64_t block)
{
    return call->attrs.i[M2_EXCHANGE_GROUP] * block;
}

static m2_status to_channels_run(const m2_call *call)
{
    m2_comm *c = call->context;
    const m2_tensor *x = &call->in[0], *y = &call->out[0];
    M2_TRY(check_ranks(call));
    int64_t block = m2_tensor_count(y) / c->size, e = m2_dtype_size(x->dtype);
    M2_TRY(keep_rest(call, x, &call->out[1]));
    return m2_comm_swap_apart(c, (const char *)x->data + group_at(call, block) * e,
                              block * groups_of(&call->attrs), y->data, block, block, x->dtype, call->stream);
}

static m2_status to_sequence_run(const m2_call *call)
{
    m2_comm *c = call->context;
    const m2_tensor *x = &call->in[0], *y = &call->out[0];
    M2_TRY(check_ranks(call));
    int64_t block = m2_tensor_count(x) / c->size, e = m2_dtype_size(x->dtype);
    M2_TRY(keep_rest(call, &call->in[1], y));
    return m2_comm_swap_apart(c, x->data, block, (char *)y->data + group_at(call, block) * e,
                              block * groups_of(&call->attrs), block, x->dtype, call->stream);
}

/* ---- halo -------------------------------------------------------------------------------------------------------- */
/* The last positions of every chunk of x (C, B, L), as rows for copy_rows; left has as many in all. */
typedef struct tail {
    char *at;
    int64_t step, bytes, rows;
} tail;

static tail tail_of(const m2_call *call, const m2_tensor *x, const m2_tensor *left)
{
    int64_t e = m2_dtype_size(x->dtype), chunks = chunks_of(&call->attrs), length = x->shape[2] / chunks,
            width = left->shape[2] / chunks;
    return (tail){(char *)x->data + (length - width) * e, length * e, width * e,
                  x->shape[0] * x->shape[1] * chunks};
}

/* What the last rank sends is a chunk late for rank 0: to[h] = from[h - by], zeros where there is none. by 1 or -1. */
static m2_status shift_chunks(const m2_call *call, void *to, const void *from, const m2_tensor *left, int by)
{
    m2_device *dev = call->device;
    int64_t row = left->shape[2] * m2_dtype_size(left->dtype), chunk = row / chunks_of(&call->attrs);
    M2_TRY(dev->api->fill(dev, to, 0, m2_tensor_bytes(left), call->stream));
    return dev->api->copy_rows(dev, (char *)to + (by > 0 ? chunk : 0), row,
                               (const char *)from + (by > 0 ? 0 : chunk), row, row - chunk,
                               left->shape[0] * left->shape[1], call->stream);
}

static int64_t halo_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)in, (void)threads;
    return (chunks_of(attrs) > 1 ? 2 : 1) * m2_desc_bytes(&out[0]);
}

static m2_status halo_run(const m2_call *call)
{
    m2_comm *c = call->context;
    m2_device *dev = call->device;
    M2_TRY(check(call));
    const m2_tensor *left = &call->out[0];
    tail t = tail_of(call, &call->in[0], left);
    int around = chunks_of(&call->attrs) > 1, first = c->rank == 0, last = c->rank + 1 == c->size;
    int64_t n = m2_tensor_count(left);
    if (!last || around)
        M2_TRY(
            dev->api->copy_rows(dev, call->workspace, t.bytes, t.at, t.step, t.bytes, t.rows, call->stream));
    if (around) {
        void *came = first ? (char *)call->workspace + m2_tensor_bytes(left) : left->data;
        M2_TRY(m2_comm_rotate(c, 1, call->workspace, came, n, left->dtype, call->stream));
        return first ? shift_chunks(call, left->data, came, left, 1) : M2_OK;
    }
    if (first) M2_TRY(dev->api->fill(dev, left->data, 0, m2_tensor_bytes(left), call->stream));
    return m2_comm_shift(c, 1, call->workspace, left->data, n, left->dtype, call->stream);
}

static int64_t halo_grad_workspace(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, int threads)
{
    (void)attrs, (void)out, (void)threads;
    return 2 * m2_desc_bytes(&in[0]);
}

/* y += x on the call's device. */
static m2_status add_to(const m2_call *call, void *y, const void *x, const m2_desc *d)
{
    m2_tensor ty = m2_tensor_make(d, y);
    m2_call add = {.op = &m2_op_add, .n_in = 2, .n_out = 1, .device = call->device, .stream = call->stream};
    add.in[0] = add.out[0] = ty;
    add.in[1] = ty;
    add.in[1].data = (void *)(uintptr_t)x;
    m2_run_fn run = call->device->api->lookup(call->device, &m2_op_add);
    return run ? run(&add)
               : m2_fail(M2_USAGE, "%s cannot add %s", call->device->name, m2_dtype_name(d->dtype));
}

static m2_status halo_grad_run(const m2_call *call)
{
    m2_comm *c = call->context;
    m2_device *dev = call->device;
    M2_TRY(check(call));
    const m2_tensor *dleft = &call->in[0], *dx = &call->out[0];
    m2_desc d = m2_tensor_desc(dleft);
    tail t = tail_of(call, dx, dleft);
    char *came = call->workspace, *old = came + m2_tensor_bytes(dleft);
    int around = chunks_of(&call->attrs) > 1, late = around && c->rank == 0;
    if (late) M2_TRY(shift_chunks(call, old, dleft->data, dleft, -1));
    M2_TRY((around ? m2_comm_rotate : m2_comm_shift)(c, -1, late ? old : dleft->data, came, m2_desc_count(&d),
                                                     d.dtype, call->stream));
    if (!(call->acc & 1)) M2_TRY(dev->api->fill(dev, dx->data, 0, m2_tensor_bytes(dx), call->stream));
    if (!around && c->rank + 1 == c->size) return M2_OK;
    if (call->acc & 1) {
        M2_TRY(dev->api->copy_rows(dev, old, t.bytes, t.at, t.step, t.bytes, t.rows, call->stream));
        M2_TRY(add_to(call, came, old, &d));
    }
    return dev->api->copy_rows(dev, t.at, t.step, came, t.bytes, t.bytes, t.rows, call->stream);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */
static char *row_at(const m2_call *call, const m2_tensor *whole)
{
    int64_t row = whole->shape[0] ? m2_tensor_bytes(whole) / whole->shape[0] : 0;
    return (char *)whole->data + call->attrs.i[M2_ROWS_AT] * row;
}

static m2_status rows_run(const m2_call *call)
{
    const m2_tensor *y = &call->out[0];
    m2_runs r = runs_of(&call->attrs);
    int64_t row = m2_tensor_bytes(y) / r.count;
    if (r.run == r.count) /* one piece, however long */
        return call->device->api->copy(call->device, y->data, row_at(call, &call->in[0]), m2_tensor_bytes(y),
                                       call->stream);
    return call->device->api->copy_rows(call->device, y->data, r.run * row, row_at(call, &call->in[0]),
                                        (r.run + r.jump) * row, r.run * row, r.count / r.run, call->stream);
}

static m2_status rows_grad_run(const m2_call *call)
{
    const m2_tensor *dy = &call->in[0], *dx = &call->out[0];
    m2_runs r = runs_of(&call->attrs);
    char *to = row_at(call, dx), *from = dy->data;
    m2_desc d = m2_tensor_desc(dy);
    int64_t row = m2_tensor_bytes(dy) / r.count;
    d.shape[0] = r.run;
    for (int64_t i = 0; (call->acc & 1) && i < r.count; i += r.run)
        M2_TRY(add_to(call, to + (i + i / r.run * r.jump) * row, from + i * row, &d));
    if (call->acc & 1) return M2_OK;
    M2_TRY(call->device->api->fill(call->device, dx->data, 0, m2_tensor_bytes(dx), call->stream));
    if (r.run == r.count) return call->device->api->copy(call->device, to, from, m2_tensor_bytes(dy), call->stream);
    return call->device->api->copy_rows(call->device, to, (r.run + r.jump) * row, from, r.run * row,
                                        r.run * row, r.count / r.run, call->stream);
}

/* ---- place ------------------------------------------------------------------------------------------------------- */
static m2_status place_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    const int64_t *a = attrs->i;
    char text[96];
    out[0] = in[0];
    out[0].shape[0] = a[M2_PLACE_ROWS];
    if (in[0].rank < 1 || in[0].shape[0] != a[M2_PLACE_COUNT] || a[M2_PLACE_AT] < 0 || a[M2_PLACE_RUN] ||
        a[M2_PLACE_AT] + in[0].shape[0] > a[M2_PLACE_ROWS] ||
        (in[1].rank >= 0 && !m2_desc_same_shape(&in[1], &out[0])))
        return m2_fail(M2_USAGE, "place cannot put %s at row %lld of %lld", m2_desc_print(text, &in[0]),
                       (long long)a[M2_PLACE_AT], (long long)a[M2_PLACE_ROWS]);
    return M2_OK;
}

static m2_status place_run(const m2_call *call)
{
    const m2_tensor *x = &call->in[0], *y = &call->out[0];
    M2_TRY(keep_rest(call, &call->in[1], y));
    return call->device->api->copy(call->device, row_at(call, y), x->data, m2_tensor_bytes(x), call->stream);
}

/* ---- spread ------------------------------------------------------------------------------------------------------ */
static m2_status spread_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    char text[96];
    if (in[0].rank < 1 || attrs->i[M2_SPREAD_COUNT] < 1)
        return m2_fail(M2_USAGE, "spread needs rows and channels, got %s for %lld",
                       m2_desc_print(text, &in[0]), (long long)attrs->i[M2_SPREAD_COUNT]);
    out[0] = in[0];
    out[0].shape[0] = attrs->i[M2_SPREAD_COUNT];
    return M2_OK;
}

/* The row of x, (n, ...), that channel i of y has. */
static m2_status spread_row(const m2_call *call, const m2_tensor *x, int64_t i, char **row, m2_desc *one)
{
    const int64_t *a = call->attrs.i;
    int64_t c = a[M2_SPREAD_FIRST] + i;
    int64_t at = (a[M2_SPREAD_EACH] ? c / a[M2_SPREAD_EACH] : c % a[M2_SPREAD_FILTERS]) - a[M2_SPREAD_AT];
    M2_CHECK(at >= 0 && at < x->shape[0]);
    *one = m2_tensor_desc(x);
    one->shape[0] = 1;
    *row = (char *)x->data + at * m2_desc_bytes(one);
    return M2_OK;
}

static m2_status spread_run(const m2_call *call)
{
    const m2_tensor *x = &call->in[0], *y = &call->out[0];
    for (int64_t i = 0; i < y->shape[0]; i++) {
        char *row = NULL;
        m2_desc one;
        M2_TRY(spread_row(call, x, i, &row, &one));
        int64_t bytes = m2_desc_bytes(&one);
        M2_TRY(call->device->api->copy(call->device, (char *)y->data + i * bytes, row, bytes, call->stream));
    }
    return M2_OK;
}

static m2_status spread_grad_run(const m2_call *call)
{
    const m2_tensor *dy = &call->in[0], *dx = &call->out[0];
    if (!(call->acc & 1))
        M2_TRY(call->device->api->fill(call->device, dx->data, 0, m2_tensor_bytes(dx), call->stream));
    for (int64_t i = 0; i < dy->shape[0]; i++) {
        char *row = NULL;
        m2_desc one;
        M2_TRY(spread_row(call, dx, i, &row, &one));
        M2_TRY(add_to(call, row, (const char *)dy->data + i * m2_desc_bytes(&one), &one));
    }
    return M2_OK;
}

/* ---- which filters ----------------------------------------------------------------------------------------------- */
m2_status m2_exchange_part(int64_t channels, int64_t filters, int share, int ranks, int rank,
                           m2_channel_part *out)
{
    if (channels % ranks)
        return m2_fail(
            M2_USAGE,
            "the channel exchange needs ranks that divide the %lld channels, and there are %d: choose "
            "another sequence size of the mesh",
            (long long)channels, ranks);
    int64_t own = channels / ranks, first = own * rank, sharing = channels / filters;
    int by_index = share == M2_SHARE_INDEX;
    *out = (m2_channel_part){.channels = {first, own}, .filters = {0, filters}, .share = share};
    if (by_index) { /* F consecutive channels use all filters in turn */
        out->uniform = own % filters == 0 || filters % own == 0;
        if (filters % own == 0) out->filters = (m2_slab){first % filters, own};
    } else {
        out->uniform = own % sharing == 0 || sharing % own == 0;
        int64_t low = first / sharing, high = (first + own - 1) / sharing;
        out->filters = (m2_slab){low, high - low + 1};
    }
    return M2_OK;
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */
const m2_op m2_op_to_channels = {
    .name = "to_channels",
    .id = -1,
    .n_in = 1,
    .n_out = 2,
    .in_name = {"x"},
    .out_name = {"y", "rest"},
    .attr_i = {"ranks", "groups", "group"},
    .shape = to_channels_shape,
    .cost = part_cost,
    .run = to_channels_run,
    .grad = &m2_op_to_sequence,
    .diff_in = 1,
    .diff_out = 3,
    .inplace = {[1] = 1},
    .linear = 1,
};

const m2_op m2_op_to_sequence = {
    .name = "to_sequence",
    .id = -1,
    .n_in = 2,
    .n_out = 1,
    .optional = 2,
    .in_name = {"x", "rest"},
    .out_name = {"y"},
    .attr_i = {"ranks", "groups", "group"},
    .shape = to_sequence_shape,
    .cost = part_cost,
    .run = to_sequence_run,
    .grad = &m2_op_to_channels,
    .diff_in = 3,
    .diff_out = 1,
    .inplace = {2},
    .linear = 1,
};

const m2_op m2_op_swap = {
    .name = "swap",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"y"},
    .attr_i = {"ranks"},
    .shape = swap_shape,
    .cost = m2_op_cost_bytes,
    .run = swap_run,
    .grad = &m2_op_swap,
    .diff_in = 1,
    .diff_out = 1,
    .linear = 1,
};

const m2_op m2_op_halo = {
    .name = "halo",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"left"},
    .attr_i = {"taps", "chunks"},
    .shape = halo_shape,
    .cost = part_cost,
    .workspace = halo_workspace,
    .run = halo_run,
    .grad = &m2_op_halo_grad,
    .diff_in = 1,
    .diff_out = 1,
    .linear = 1,
};

const m2_op m2_op_halo_grad = {
    .name = "halo_grad",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"dleft"},
    .out_name = {"dx"},
    .attr_i = {"taps", "chunks"},
    .cost = m2_op_cost_bytes,
    .workspace = halo_grad_workspace,
    .run = halo_grad_run,
    .acc = 1,
    .linear = 1,
};

const m2_op m2_op_rows = {
    .name = "rows",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"y"},
    .attr_i = {"at", "count", "run", "jump"},
    .shape = rows_shape,
    .cost = part_cost,
    .run = rows_run,
    .grad = &m2_op_rows_grad,
    .diff_in = 1,
    .diff_out = 1,
    .linear = 1,
};

const m2_op m2_op_rows_grad = {
    .name = "rows_grad",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"dy"},
    .out_name = {"dx"},
    .attr_i = {"at", "count", "run", "jump"},
    .cost = m2_op_cost_bytes,
    .run = rows_grad_run,
    .acc = 1,
    .linear = 1,
};

/* What of y is x's is nobody else's: the rest's gradient there is never read. */
const m2_op m2_op_place = {
    .name = "place",
    .id = -1,
    .n_in = 2,
    .n_out = 1,
    .optional = 2,
    .in_name = {"x", "rest"},
    .out_name = {"y"},
    .attr_i = {"at", "count", "run", "jump", "rows"},
    .shape = place_shape,
    .cost = part_cost,
    .run = place_run,
    .grad = &m2_op_rows,
    .diff_in = 1,
    .diff_out = 1,
    .passes = 2,
    .inplace = {2},
};

const m2_op m2_op_spread = {
    .name = "spread",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"y"},
    .attr_i = {"first", "count", "each", "filters", "at"},
    .shape = spread_shape,
    .cost = m2_op_cost_bytes,
    .run = spread_run,
    .grad = &m2_op_spread_grad,
    .diff_in = 1,
    .diff_out = 1,
    .linear = 1,
};

const m2_op m2_op_spread_grad = {
    .name = "spread_grad",
    .id = -1,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"dy"},
    .out_name = {"dx"},
    .attr_i = {"first", "count", "each", "filters", "at"},
    .cost = m2_op_cost_bytes,
    .run = spread_grad_run,
    .acc = 1,
    .linear = 1,
};
