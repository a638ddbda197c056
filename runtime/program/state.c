/* state.c - the numbers in a bound program: reading, writing, initialising. */
#include "runtime/program/internal.h"
#include "kernels/base/normals.h"
#include "kernels/base/threads.h"

#include <math.h>
#include <stdlib.h>

static m2_status check_bound(const m2_program *p, const char *what)
{
    return p->stage == M2I_BOUND ? M2_OK : m2_fail(M2_BUG, "%s needs a bound program", what);
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */
m2_tensor m2_program_tensor(const m2_program *p, m2_tid t)
{
    if (p->stage != M2I_BOUND || t < 0 || t >= p->n_tensors) return (m2_tensor){.rank = -1};
    const m2i_tensor *x = m2i_at(p, t);
    char *base = p->b.base[x->home];
    return m2_tensor_make(&x->desc, base ? base + x->at : NULL);
}

static m2_status check_access(m2_program *p, m2_tid t, const char *what)
{
    M2_TRY(check_bound(p, what));
    if (t < 0 || t >= p->n_tensors)
        return m2_fail(M2_USAGE, "%s: tensor %d does not exist, the program has %d", what, (int)t,
                       p->n_tensors);
    const m2i_tensor *x = m2i_at(p, t);
    if (x->home <= M2I_OWN) M2_TRY(m2i_lane_drain(p->b.owner ? p->b.owner : p, M2_LANE_REDUCE)); /* a gather's */
    if (x->home != M2I_ACT || x->kept || x->lasting || (p->options.naive && x->first >= 0)) return M2_OK;
    char text[96];
    return m2_fail(M2_USAGE, "%s: tensor %d, %s, is not kept: name it with m2_program_output", what, (int)t,
                   m2_desc_print(text, &x->desc));
}

static m2_status copy_now(m2_program *p, void *to, const void *from, int64_t bytes)
{
    M2_TRY(p->b.device->api->copy(p->b.device, to, from, bytes, p->b.stream));
    return p->b.device->api->stream_sync(p->b.device, p->b.stream);
}

m2_status m2_program_read(m2_program *p, m2_tid t, void *host)
{
    M2_TRY(check_access(p, t, "m2_program_read"));
    m2_tensor x = m2_program_tensor(p, t);
    return copy_now(p, host, x.data, m2_tensor_bytes(&x));
}

m2_status m2_program_write(m2_program *p, m2_tid t, const void *host)
{
    M2_TRY(check_access(p, t, "m2_program_write"));
    if (m2i_at(p, t)->home == M2I_COPY)
        return m2_fail(M2_USAGE,
                       "m2_program_write: '%s' is a copy of its master: write that and call "
                       "m2_program_params_changed",
                       p->params[m2i_at(p, t)->param].name);
    m2_tensor x = m2_program_tensor(p, t);
    if (m2i_at(p, t)->home == M2I_IO) return m2i_feed(p, m2i_at(p, t)->at, host, m2_tensor_bytes(&x));
    return copy_now(p, x.data, host, m2_tensor_bytes(&x));
}

/* ---- flat state -------------------------------------------------------------------------------------------------- */
m2_status m2_program_part(m2_program *p, const char *which, m2_part *out)
{
    static const struct {
        const char *name;
        m2i_home home;
    } arrays[] = {{"param", M2I_MASTER}, {"m", M2I_M}, {"v", M2I_V}, {"grad", M2I_GRAD}};
    M2_TRY(check_bound(p, "m2_program_flat"));
    M2_TRY(m2i_lane_drain(p, M2_LANE_REDUCE));
    *out = (m2_part){.dtype = m2_program_precise_dtype(p), .shard = p->sharding.rank};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        if (strcmp(which, arrays[i].name)) continue;
        m2i_home home = arrays[i].home;
        int own = home == M2I_MASTER && m2i_master_is_sharded(p);
        out->base = p->b.base[own ? M2I_OWN : home];
        if (own) out->rest = p->b.base[M2I_MASTER] + p->whole * m2_dtype_size(out->dtype);
        if (own || m2i_in_shards(p, home)) out->shards = &p->shards;
        if (out->base) return M2_OK;
        return m2_fail(M2_USAGE, "this program has no flat '%s': it has no %s", which,
                       arrays[i].home == M2I_MASTER ? "parameters" : "backward or update region");
    }
    return m2_fail(M2_USAGE, "unknown flat array '%s': expected param, m, v or grad", which);
}

m2_status m2_program_flat(m2_program *p, const char *which, void **base, m2_dtype *dtype)
{
    m2_part part;
    M2_TRY(m2_program_part(p, which, &part));
    *base = part.base;
    *dtype = part.dtype;
    return M2_OK;
}

/* Element `from` of a flat array of the master, n elements, to element `to` of the copies. */
static m2_status refresh(m2_program *p, m2i_home home, int64_t from, int64_t to, int64_t n)
{
    m2i_bound *b = &p->b;
    m2_desc master = m2_desc_make(m2_program_precise_dtype(p), ".", n), copy = master;
    copy.dtype = m2_program_compute_dtype(p);
    if (!n) return M2_OK;
    b->refresh.in[0] = m2_tensor_make(&master, b->base[home] + from * m2_dtype_size(master.dtype));
    b->refresh.out[0] = m2_tensor_make(&copy, b->base[M2I_COPY] + to * m2_dtype_size(copy.dtype));
    return b->refresh_run(&b->refresh);
}

m2_status m2_program_params_changed(m2_program *p)
{
    M2_TRY(check_bound(p, "m2_program_params_changed"));
    M2_TRY(m2i_lane_drain(p, M2_LANE_REDUCE));
    if (!p->b.refresh_run) return M2_OK;
    if (!m2i_master_is_sharded(p)) {
        M2_TRY(refresh(p, M2I_MASTER, 0, 0, p->flat));
        return m2_program_sync(p);
    }
    for (int b = 0; b < p->shards.buckets; b++) {
        m2_shard_part own = m2_shards_piece(&p->shards, b, p->sharding.rank);
        M2_TRY(refresh(p, M2I_OWN, own.at, own.flat.at, own.flat.count));
    }
    M2_TRY(refresh(p, M2I_MASTER, p->whole, p->trained, p->flat - p->trained));
    M2_TRY(m2i_gather_params(p));
    return m2_program_sync(p);
}

/* ---- initial values ---------------------------------------------------------------------------------------------- */
typedef struct init {
    const m2_param *row;
    m2_rng_key key;
    int64_t width; /* last dimension */
    m2_dtype dtype;
    void *out;
} init;

/* SPEC 3.3: t, cos(f_b w), -sin(f_b w) with t = n / (L_max - 1), w = 2 pi n / L_max, f_b from 1e-4 to bands - 1. */
static double position_feature(int64_t n, int64_t column, int64_t width, double length)
{
    int64_t bands = (width - 1) / 2, band = (column - 1) % bands;
    if (column == 0) return length > 1 ? (double)n / (length - 1) : 0;
    double f = bands > 1 ? 1e-4 + (double)band * ((double)(bands - 1) - 1e-4) / (double)(bands - 1) : 1e-4;
    double w = 2 * 3.14159265358979323846 * (double)n / length;
    return column <= bands ? cos(f * w) : -sin(f * w);
}

enum { AT_ONCE = 512 }; /* elements whose values are computed together */

static void initial_values(const init *j, int64_t from, int64_t n, double *x)
{
    const m2_param *row = j->row;
    double a = row->init_a;
    if (row->init == M2_INIT_NORMAL) m2_rng_normals(j->key, from, n, x);
    for (int64_t i = 0; i < n; i++) {
        int64_t e = from + i;
        switch (row->init) {
        case M2_INIT_ZERO: x[i] = 0; break;
        case M2_INIT_CONST: x[i] = a; break;
        case M2_INIT_NORMAL: x[i] *= a; break;
        case M2_INIT_UNIFORM: x[i] = a * (2 * m2_rng_uniform(j->key, (uint64_t)e) - 1); break;
        case M2_INIT_POSEMB: x[i] = position_feature(e / j->width, e % j->width, j->width, a); break;
        }
    }
    for (int64_t i = 0; row->pad_row >= 0 && i < n; i++)
        if ((from + i) / j->width == row->pad_row) x[i] = 0;
}

static void init_elements(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const init *j = ctx;
    double x[AT_ONCE];
    for (int64_t at = begin; at < end; at += AT_ONCE) {
        int64_t n = end - at < AT_ONCE ? end - at : AT_ONCE;
        initial_values(j, at, n, x);
        if (j->dtype == M2_F64)
            memcpy((double *)j->out + at, x, (size_t)n * sizeof *x);
        else
            for (int64_t i = 0; i < n; i++) ((float *)j->out)[at + i] = (float)x[i];
    }
}

static uint64_t hash(const char *name) /* FNV-1a */
{
    uint64_t h = 14695981039346656037u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 1099511628211u;
    return h;
}

/* The stream of random numbers that a row starts from. */
static uint64_t init_stream(const m2_param *row)
{
    const char *name = row->name;
    if (row->flags & M2_PARAM_ALIKE && !strncmp(name, "block.", 6))
        name += 6 + strspn(name + 6, "0123456789");
    return hash(name);
}

/* The values of a row to where this rank keeps them. */
static m2_status put_row(m2_program *p, const m2_param *row, const char *values, int64_t n, int64_t size)
{
    int bucket = 0;
    m2_shard_part part;
    if (!m2i_master_is_sharded(p)) return copy_now(p, p->b.base[M2I_MASTER] + row->offset * size, values, n * size);
    if (row->flags & M2_PARAM_FROZEN)
        return copy_now(p, p->b.base[M2I_MASTER] + (row->offset - p->trained + p->whole) * size, values, n * size);
    while (m2_shards_next(&p->shards, p->sharding.rank, (m2_slab){row->offset, n}, &bucket, &part))
        M2_TRY(copy_now(p, p->b.base[M2I_OWN] + part.at * size, values + (part.flat.at - row->offset) * size,
                        part.flat.count * size));
    return M2_OK;
}

m2_status m2_program_init_params(m2_program *p, uint64_t seed)
{
    M2_TRY(check_bound(p, "m2_program_init_params"));
    M2_TRY(m2i_lane_drain(p, M2_LANE_REDUCE));
    if (p->b.shared)
        return m2_fail(M2_BUG, "m2_program_init_params: the parameters belong to another program");
    m2_dtype dtype = m2_program_precise_dtype(p);
    int64_t largest = 0, size = m2_dtype_size(dtype);
    for (int i = 0; i < p->n_params; i++) {
        int64_t n = m2_desc_count(&m2i_at(p, p->params[i].tid)->desc);
        if (n > largest) largest = n;
    }
    void *host = malloc((size_t)(largest * size) + 1);
    if (!host)
        return m2_fail(M2_TRANSIENT, "out of memory for the initial values of %lld elements",
                       (long long)largest);
    m2_status st = M2_OK;
    for (int i = 0; i < p->n_params && st == M2_OK; i++) {
        const m2_param *row = &p->params[i];
        int64_t n = m2_desc_count(&m2i_at(p, row->tid)->desc);
        init j = {.row = row, .key = m2_rng_make_key(seed, 0, init_stream(row)), .dtype = dtype, .out = host};
        j.width = row->rank ? row->dims[row->rank - 1] : 1;
        m2_threads_for(p->b.device->threads, n, 4096, init_elements, &j);
        st = put_row(p, row, host, n, size);
    }
    free(host);
    return st == M2_OK && !m2i_master_is_sharded(p) ? m2_program_params_changed(p) : st;
}
