/* build.c - the builder: scopes, tensors, calls, the parameter table. */
#include "runtime/program/internal.h"

#include <stdarg.h>
#include <stdlib.h>

/* ---- life, error, memory of the lists ---------------------------------------------------------------------------- */
m2_program *m2_program_new(const m2_program_spec *spec)
{
    m2_program *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->spec = *spec;
    p->error.code = M2_OK;
    return p;
}

void m2_program_free(m2_program **program)
{
    m2_program *p = *program;
    if (!p) return;
    m2i_unbind(p);
    for (int i = 0; i < p->n_strings; i++) free(p->strings[i]);
    free(p->strings);
    free(p->params);
    free(p->calls);
    free(p->tensors);
    free(p);
    *program = NULL;
}

const m2_program_spec *m2_program_spec_of(const m2_program *p)
{
    return &p->spec;
}

int64_t m2_program_length(const m2_program *p)
{
    return p->spec.length * (p->spec.sequence.ranks > 1 ? p->spec.sequence.ranks : 1);
}

m2_dtype m2_program_precise_dtype(const m2_program *p)
{
    return p->spec.precision == M2_PREC_F64 ? M2_F64 : M2_F32;
}

m2_dtype m2_program_compute_dtype(const m2_program *p)
{
    return p->spec.precision == M2_PREC_BF16 ? M2_BF16 : m2_program_precise_dtype(p);
}

m2_status m2_program_error(const m2_program *p)
{
    return p->error.code == M2_OK ? M2_OK : m2_error_put(&p->error);
}

m2_tid m2_program_reject(m2_program *p, m2_status st)
{
    if (st != M2_OK && p->error.code == M2_OK) m2_error_take(&p->error, st);
    return M2_NONE;
}

int m2i_grow(m2_program *p, void *array, int n, int *room, size_t size)
{
    if (p->error.code != M2_OK) return 0;
    if (n < *room) return 1;
    int more = *room ? 2 * *room : 64;
    void **at = array, *grown = realloc(*at, (size_t)more * size);
    if (!grown) {
        m2_program_reject(p, m2_fail(M2_TRANSIENT, "out of memory for a program of %d calls", p->n_calls));
        return 0;
    }
    *at = grown;
    *room = more;
    return 1;
}

static const char *keep_string(m2_program *p, const char *text)
{
    if (!m2i_grow(p, &p->strings, p->n_strings, &p->room_strings, sizeof *p->strings)) return "";
    size_t n = strlen(text) + 1;
    char *copy = malloc(n);
    if (!copy) {
        m2_program_reject(p, m2_fail(M2_TRANSIENT, "out of memory for a name"));
        return "";
    }
    memcpy(copy, text, n);
    return p->strings[p->n_strings++] = copy;
}

static int building(m2_program *p, const char *what)
{
    if (p->error.code != M2_OK) return 0;
    if (p->stage == M2I_BUILDING) return 1;
    m2_program_reject(p, m2_fail(M2_BUG, "%s was added after m2_program_backward or m2_program_plan", what));
    return 0;
}

/* ---- scopes ------------------------------------------------------------------------------------------------------ */
/* scope.name into buf; longer than buf is an error. */
static int join(m2_program *p, const char *name, char *buf, size_t size)
{
    int n = snprintf(buf, size, "%s%s%s", p->scope, *p->scope && *name ? "." : "", name);
    if (n >= 0 && (size_t)n < size) return 1;
    m2_program_reject(
        p, m2_fail(M2_USAGE, "the name %s.%s is longer than %d characters", p->scope, name, (int)size - 1));
    return 0;
}

static void push(m2_program *p, int block, const char *fmt, va_list ap)
{
    char name[sizeof p->scope], path[sizeof p->scope];
    vsnprintf(name, sizeof name, fmt, ap);
    if (p->error.code != M2_OK) return;
    if (p->depth == M2I_MAX_DEPTH) {
        m2_program_reject(
            p, m2_fail(M2_BUG, "scope %s.%s is nested deeper than %d", p->scope, name, M2I_MAX_DEPTH));
        return;
    }
    if (!join(p, name, path, sizeof path)) return;
    p->outer[p->depth].length = (int)strlen(p->scope);
    p->outer[p->depth++].block = p->block;
    memcpy(p->scope, path, sizeof path);
    if (block && !p->block) p->block = ++p->blocks; /* the outermost block is the unit */
}

void m2_program_push(m2_program *p, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    push(p, 0, fmt, ap);
    va_end(ap);
}

void m2_program_push_block(m2_program *p, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    push(p, 1, fmt, ap);
    va_end(ap);
}

void m2_program_pop(m2_program *p)
{
    if (p->error.code != M2_OK) return;
    if (!p->depth) {
        m2_program_reject(p, m2_fail(M2_BUG, "m2_program_pop without an open scope"));
        return;
    }
    p->depth--;
    p->scope[p->outer[p->depth].length] = 0;
    p->block = p->outer[p->depth].block;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */
m2_tid m2i_tensor_new(m2_program *p, m2_desc desc, m2i_home home)
{
    if (!m2i_grow(p, &p->tensors, p->n_tensors, &p->room_tensors, sizeof *p->tensors)) return M2_NONE;
    p->tensors[p->n_tensors] = (m2i_tensor){.desc = desc,
                                            .home = home,
                                            .param = -1,
                                            .of = M2_NONE,
                                            .total = M2_NONE,
                                            .grad = M2_NONE,
                                            .clone = M2_NONE,
                                            .first = -1};
    return p->n_tensors++;
}

m2_tid m2i_flat_slice(m2_program *p, m2i_home home, int64_t from, int64_t n)
{
    m2_dtype t = m2i_home_dtype(p, home);
    m2_tid id = m2i_tensor_new(p, m2_desc_make(t, ".", n), home);
    if (id != M2_NONE) m2i_at(p, id)->at = from * m2_dtype_size(t);
    return id;
}

m2_tid m2_program_find(const m2_program *p, const char *name)
{
    for (int i = 0; i < p->n_tensors; i++)
        if (p->tensors[i].name && !strcmp(p->tensors[i].name, name)) return i;
    return M2_NONE;
}

static int known(m2_program *p, m2_tid t)
{
    return t >= 0 && t < p->n_tensors;
}

static int name_is_free(m2_program *p, const char *name)
{
    if (m2_program_find(p, name) == M2_NONE) return 1;
    m2_program_reject(p, m2_fail(M2_USAGE, "two inputs or outputs are named '%s'", name));
    return 0;
}

m2_tid m2_program_input(m2_program *p, const char *name, m2_desc desc)
{
    if (!building(p, name) || !name_is_free(p, name)) return M2_NONE;
    if (m2_desc_count(&desc) <= 0)
        return m2_program_reject(p, m2_fail(M2_USAGE, "input '%s' is empty", name));
    m2_tid t = m2i_tensor_new(p, desc, M2I_IO);
    if (t == M2_NONE) return t;
    m2i_at(p, t)->name = keep_string(p, name);
    m2i_at(p, t)->lasting = 1;
    return t;
}

m2_desc m2_program_desc(const m2_program *p, m2_tid t)
{
    return t >= 0 && t < p->n_tensors ? p->tensors[t].desc : m2_desc_none();
}

/* A scalar of the forward region is a sum over rows, so over microbatches it adds up: its name goes to the total. */
void m2_program_output(m2_program *p, const char *name, m2_tid t)
{
    if (p->error.code != M2_OK || !name_is_free(p, name)) return;
    if (!known(p, t)) {
        m2_program_reject(
            p, m2_fail(M2_USAGE, "output '%s' names tensor %d, which does not exist", name, (int)t));
        return;
    }
    if (p->stage >= M2I_PLANNED) {
        m2_program_reject(p, m2_fail(M2_BUG, "output '%s' was named after m2_program_plan", name));
        return;
    }
    m2_desc d = m2i_at(p, t)->desc;
    if (p->stage == M2I_BUILDING && d.rank == 0 && (d.dtype == M2_F32 || d.dtype == M2_F64)) {
        m2_tid total = m2i_tensor_new(p, d, M2I_ACT);
        char path[sizeof p->scope + 1];
        if (total == M2_NONE || !join(p, name, path, sizeof path)) return;
        m2i_call_accumulate(p, path, M2_FORWARD, t, total, 0, 1);
        m2i_at(p, t)->total = total;
        t = total;
    }
    if (m2i_at(p, t)->name) {
        m2_program_reject(p,
                          m2_fail(M2_USAGE, "output '%s' is already named '%s'", name, m2i_at(p, t)->name));
        return;
    }
    m2i_at(p, t)->name = keep_string(p, name);
    m2i_at(p, t)->kept = 1;
    m2i_at(p, t)->lasting |= d.rank == 0;
}

/* ---- parameters -------------------------------------------------------------------------------------------------- */
static m2_desc param_desc(const m2_program *p, const m2_param *row)
{
    m2_desc d = {.rank = row->rank};
    d.dtype = row->flags & M2_PARAM_PRECISE ? m2_program_precise_dtype(p) : m2_program_compute_dtype(p);
    for (int i = 0; i < row->rank; i++)
        d.shape[i] = row->dims[i], d.axis[i] = row->axis[i] ? row->axis[i] : '.';
    return d;
}

static m2_tid tie(m2_program *p, const m2_param *old, const m2_param *row)
{
    if (old->rank == row->rank && !memcmp(old->dims, row->dims, (size_t)row->rank * sizeof *row->dims) &&
        old->flags == row->flags)
        return old->tid;
    char a[96], b[96];
    m2_desc da = param_desc(p, old), db = param_desc(p, row);
    return m2_program_reject(p, m2_fail(M2_USAGE, "parameter '%s' is declared twice, as %s and as %s",
                                        row->name, m2_desc_print(a, &da), m2_desc_print(b, &db)));
}

m2_tid m2_program_param(m2_program *p, m2_param row)
{
    if (!building(p, row.name)) return M2_NONE;
    char name[sizeof row.name];
    if (!join(p, row.name, name, sizeof name)) return M2_NONE;
    memcpy(row.name, name, sizeof name);
    if (row.rank < 0 || row.rank > M2_MAX_RANK || row.group < 0 || row.group >= M2_MAX_GROUPS)
        return m2_program_reject(
            p, m2_fail(M2_BUG, "parameter '%s' has rank %d and group %d", name, row.rank, row.group));
    for (int i = 0; i < p->n_params; i++)
        if (!strcmp(p->params[i].name, name)) return tie(p, &p->params[i], &row);
    m2_desc d = param_desc(p, &row);
    if (m2_desc_count(&d) <= 0)
        return m2_program_reject(p, m2_fail(M2_USAGE, "parameter '%s' is empty", name));
    if (!m2i_grow(p, &p->params, p->n_params, &p->room_params, sizeof *p->params)) return M2_NONE;
    m2_tid t = m2i_tensor_new(p, d, d.dtype == m2_program_precise_dtype(p) ? M2I_MASTER : M2I_COPY);
    if (t == M2_NONE) return t;
    m2i_at(p, t)->param = p->n_params;
    row.tid = t;
    row.grad = M2_NONE;
    p->params[p->n_params++] = row;
    return t;
}

enum { READ_IN_P, READ_AS_COPY, FROZEN, PLACES };

static int place_of(const m2_program *p, const m2_param *row)
{
    if (row->flags & M2_PARAM_FROZEN) return FROZEN;
    return m2i_at(p, row->tid)->home == M2I_MASTER ? READ_IN_P : READ_AS_COPY;
}

/* Trained parameters first, so that what the optimizer and the reductions see is one contiguous array; among them first those
 * that are read in P beside copies, so that ZeRO keeps one short stretch of the master whole. */
void m2i_layout_params(m2_program *p)
{
    int64_t at = 0;
    for (int place = 0; place < PLACES; place++) {
        for (int i = 0; i < p->n_params; i++) {
            m2_param *row = &p->params[i];
            if (place_of(p, row) != place) continue;
            m2i_tensor *t = m2i_at(p, row->tid);
            int64_t gap = place == FROZEN && t->home == M2I_MASTER ? p->trained - p->whole : 0;
            row->offset = at;
            t->at = (at - gap) * m2_dtype_size(t->desc.dtype);
            at += (m2_desc_count(&t->desc) + M2_GROUP_BLOCK - 1) / M2_GROUP_BLOCK * M2_GROUP_BLOCK;
        }
        int64_t bucket = p->shards.bucket;
        if (place == READ_IN_P && m2i_master_is_sharded(p)) p->whole = (at + bucket - 1) / bucket * bucket;
        if (place != READ_AS_COPY) continue;
        p->trained = at = p->shards.total > at ? p->shards.total : at;
        if (!m2i_master_is_sharded(p)) p->whole = at;
    }
    p->flat = at;
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */
m2i_call *m2i_call_new(m2_program *p, const char *path, const m2_op *op, const m2_attrs *attrs,
                       m2_region region, const m2_tid *in, const m2_tid *out)
{
    if (!m2i_grow(p, &p->calls, p->n_calls, &p->room_calls, sizeof *p->calls)) return NULL;
    m2i_call *c = &p->calls[p->n_calls];
    *c = (m2i_call){.op = op, .region = region, .block = p->block};
    if (attrs) c->attrs = *attrs;
    c->path = keep_string(p, path);
    c->rng = (uint64_t)(p->n_calls - p->inserted); /* of a forward call: its index. Clones and gradients copy it */
    for (int i = 0; i < M2_MAX_IN; i++) c->in[i] = i < op->n_in ? in[i] : M2_NONE;
    for (int j = 0; j < M2_MAX_OUT; j++) c->out[j] = j < op->n_out ? out[j] : M2_NONE;
    if (p->error.code != M2_OK) return NULL;
    p->n_calls++;
    return c;
}

void m2i_call_accumulate(m2_program *p, const char *path, m2_region region, m2_tid from, m2_tid to,
                         int add_first, int add_later)
{
    m2_attrs a = {.i[M2_CAST_OUT_DTYPE] = to == M2_NONE ? M2_F32 : m2i_at(p, to)->desc.dtype};
    m2i_call *c = m2i_call_new(p, path, &m2_op_cast, &a, region, &from, &to);
    if (!c) return;
    c->acc_first = (unsigned)add_first;
    c->acc_later = (unsigned)add_later;
}

void m2i_call_descs(const m2_program *p, const m2i_call *c, m2_desc *in, m2_desc *out)
{
    for (int i = 0; i < M2_MAX_IN; i++) in[i] = m2_program_desc(p, c->in[i]);
    for (int j = 0; j < M2_MAX_OUT; j++) out[j] = m2_program_desc(p, c->out[j]);
}

static m2_status check_inputs(m2_program *p, const char *path, const m2_op *op, const m2_tid *in)
{
    if (!op->shape) return m2_fail(M2_BUG, "%s: %s has no shape rule, models cannot call it", path, op->name);
    for (int i = 0; i < op->n_in; i++) {
        if (in[i] == M2_NONE ? !(op->optional >> i & 1) : !known(p, in[i]))
            return m2_fail(M2_USAGE, "%s: input '%s' of %s %s", path, op->in_name[i], op->name,
                           in[i] == M2_NONE ? "is missing" : "is not a tensor of this program");
    }
    return M2_OK;
}

m2_tid m2i_append(m2_program *p, const char *path, const m2_op *op, const m2_attrs *attrs, const m2_tid *in, m2_tid *out)
{
    static const m2_attrs zeros;
    m2_desc from[M2_MAX_IN], to[M2_MAX_OUT];
    if (p->error.code != M2_OK) return M2_NONE;
    for (int i = 0; i < M2_MAX_IN; i++) from[i] = i < op->n_in ? m2_program_desc(p, in[i]) : m2_desc_none();
    for (int j = 0; j < M2_MAX_OUT; j++) to[j] = m2_desc_none();
    m2_status st = op->shape(attrs ? attrs : &zeros, from, to);
    if (st != M2_OK) return m2_program_reject(p, m2_context(st, "%s", path));
    for (int j = 0; j < op->n_out; j++)
        if (to[j].rank >= 0) out[j] = m2i_tensor_new(p, to[j], M2I_ACT);
    m2i_call_new(p, path, op, attrs, M2_FORWARD, in, out);
    return p->error.code == M2_OK ? out[0] : M2_NONE;
}

m2_tid m2_program_call(m2_program *p, const char *name, const m2_op *op, const m2_attrs *attrs,
                       const m2_tid *in, m2_tid *out)
{
    for (int j = 0; j < op->n_out; j++) out[j] = M2_NONE;
    char path[sizeof p->scope + 1];
    if (!building(p, name) || !join(p, name, path, sizeof path)) return M2_NONE;
    m2_status st = check_inputs(p, path, op, in);
    if (st != M2_OK) return m2_program_reject(p, st);
    return (m2i_cut_applies(p, op) ? m2i_append_cut : m2i_append)(p, path, op, attrs, in, out);
}

m2_tid m2_build_unary(m2_program *p, const char *name, const m2_op *op, const m2_attrs *attrs, m2_tid x)
{
    m2_tid in[M2_MAX_IN] = {x, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE},
           out[M2_MAX_OUT];
    return m2_program_call(p, name, op, attrs, in, out);
}

m2_tid m2_build_binary(m2_program *p, const char *name, const m2_op *op, const m2_attrs *attrs, m2_tid a,
                       m2_tid b)
{
    m2_tid in[M2_MAX_IN] = {a, b, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE, M2_NONE}, out[M2_MAX_OUT];
    return m2_program_call(p, name, op, attrs, in, out);
}

/* ---- what the lists add up to ------------------------------------------------------------------------------------ */
m2_cost m2i_call_cost(const m2_program *p, const m2i_call *c)
{
    m2_desc in[M2_MAX_IN], out[M2_MAX_OUT];
    m2_cost cost = {0};
    m2i_call_descs(p, c, in, out);
    (c->op->cost ? c->op->cost : m2_op_cost_bytes)(&c->attrs, in, out, &cost);
    for (int j = 0; j < M2_MAX_OUT; j++) /* what a call adds to is read as well */
        if (c->acc_first >> j & 1 && out[j].rank >= 0) cost.bytes += (double)m2_desc_bytes(&out[j]);
    return cost;
}

int64_t m2i_call_workspace(const m2_program *p, const m2i_call *c, int threads, m2_device *dev)
{
    m2_desc in[M2_MAX_IN], out[M2_MAX_OUT];
    m2i_call_descs(p, c, in, out);
    if (dev && dev->api->workspace && c->op->id >= 0) return dev->api->workspace(dev, c->op, &c->attrs, in, out);
    return c->op->workspace ? c->op->workspace(&c->attrs, in, out, threads) : 0;
}

m2_cost m2_program_cost(const m2_program *p, unsigned regions)
{
    m2_cost sum = {0};
    for (int i = 0; i < p->n_calls; i++) {
        if (!(p->calls[i].region & regions)) continue;
        m2_cost c = m2i_call_cost(p, &p->calls[i]);
        sum.flops += c.flops;
        sum.bytes += c.bytes;
    }
    return sum;
}

double m2_program_model_flops(const m2_program *p)
{
    double flops = 0;
    for (int i = 0; i < p->n_calls; i++)
        if (p->calls[i].region != M2_UPDATE && !p->calls[i].again) flops += m2i_call_cost(p, &p->calls[i]).flops;
    return flops;
}

int64_t m2_program_param_count(const m2_program *p)
{
    int64_t n = 0;
    for (int i = 0; i < p->n_params; i++)
        if (!(p->params[i].flags & M2_PARAM_FROZEN)) n += m2_desc_count(&m2i_at(p, p->params[i].tid)->desc);
    return n;
}

int m2_program_params(const m2_program *p, const m2_param **rows)
{
    *rows = p->params;
    return p->n_params;
}

int64_t m2_program_flat_count(const m2_program *p)
{
    return p->flat;
}

int64_t m2_program_flat_trained(const m2_program *p)
{
    return p->trained;
}

int m2_program_calls(const m2_program *p)
{
    return p->n_calls;
}

m2_call_info m2_program_call_info(const m2_program *p, int i)
{
    const m2i_call *c = &p->calls[i];
    m2_call_info info = {.path = c->path, .op = c->op, .region = c->region, .again = c->again, .attrs = c->attrs,
                         .context = c->context, .once = c->once, .beside = c->beside, .wait = c->wait,
                         .lane = c->lane, .wait_sum = c->wait_sum, .wait_params = c->wait_params};
    info.cost = m2i_call_cost(p, c);
    m2i_call_descs(p, c, info.in, info.out);
    return info;
}
