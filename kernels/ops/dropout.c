/* dropout.c - y = keep ? x / (1 - P) : 0, keep a pure function of (seed, step, call, global element).
 *
 * Four consecutive elements share one Philox block. A slab is a set of runs that are contiguous in the global array;
 * keep bits are made for a stretch of blocks at a time, so that the rounds vectorise across blocks. */
#ifndef REAL
#include "kernels/base/rng.h"
#include "kernels/ops/common.h"

/* ---- shape rule ---------------------------------------------------------------------------------------- */
static m2_status dropout_shape(const m2_attrs *attrs, const m2_desc *in, m2_desc *out)
{
    double p = attrs->f[M2_DROPOUT_P];
    out[0] = in[0];
    if (p >= 0 && p < 1) return M2_OK;
    return m2_fail(M2_USAGE, "dropout: probability %g is outside [0, 1)", p);
}

/* ---- cost ---------------------------------------------------------------------------------------------- */
static void dropout_cost(const m2_attrs *attrs, const m2_desc *in, const m2_desc *out, m2_cost *cost)
{
    m2_op_cost_bytes(attrs, in, out, cost);
    cost->flops = (double)m2_desc_count(&in[0]);
}

/* ---- which elements are kept --------------------------------------------------------------------------- */
typedef struct job {
    const m2_call *call;
    m2_rng_key key;
    uint32_t least; /* draws below this are dropped */
    int outer;      /* dimensions [0, outer) index runs, the rest is one run */
    int64_t run;    /* elements of a run */
    int64_t whole[M2_MAX_RANK], origin[M2_MAX_RANK];
} job;

/* (v + 1/2) 2^-32 >= p, i.e. v >= 2^32 p - 1/2; both sides are exact in double. */
static uint32_t least_kept(double p)
{
    return (uint32_t)ceil(p * 4294967296.0 - 0.5);
}

/* Dimensions inside the innermost cut one are whole, so runs go from there on. */
static void find_runs(job *j, const m2_tensor *x)
{
    j->outer = x->rank;
    j->run = 1;
    int open = 1; /* everything further in is whole */
    for (int d = x->rank - 1; d >= 0; d--) {
        int rows = x->axis[d] == 'B';
        int64_t whole_b = j->call->attrs.i[M2_DROPOUT_WHOLE_B];
        j->whole[d] = rows && whole_b ? whole_b : x->whole[d];
        j->origin[d] = x->origin[d] + (rows ? j->call->step->row0 : 0);
        if (open) {
            j->run *= x->shape[d];
            j->outer = d;
            open = x->shape[d] == j->whole[d];
        }
    }
}

/* The global index of the first element of run r. */
static uint64_t run_start(const job *j, const m2_tensor *x, int64_t r)
{
    uint64_t at = 0, scale = 1;
    for (int d = x->rank - 1; d >= 0; d--) {
        int64_t i = 0;
        if (d < j->outer) {
            i = r % x->shape[d];
            r /= x->shape[d];
        }
        at += (uint64_t)(i + j->origin[d]) * scale;
        scale *= (uint64_t)j->whole[d];
    }
    return at;
}

/* Between two stretches of memory traffic lies a stretch of arithmetic, too long for the processor's own prefetching:
 * without asking AHEAD elements early the op takes twice as long. */
enum { BLOCKS = 64, AHEAD = 256 };

/* The draws of 4 * BLOCKS consecutive elements from block `first` on: m2_rng_draw, rounds outside, blocks inside. */
static void draw_blocks(m2_rng_key key, uint64_t first, uint32_t out[4 * BLOCKS])
{
    uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS], k0 = key.k[0], k1 = key.k[1];
    for (int i = 0; i < BLOCKS; i++) {
        c0[i] = (uint32_t)(first + (uint64_t)i);
        c1[i] = (uint32_t)((first + (uint64_t)i) >> 32);
        c2[i] = c3[i] = 0;
    }
    for (int r = 0; r < 10; r++) {
        SIMD
        for (int i = 0; i < BLOCKS; i++) {
            uint64_t a = (uint64_t)0xD2511F53u * c0[i], b = (uint64_t)0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t)(b >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)b;
            c2[i] = (uint32_t)(a >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)a;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    SIMD
    for (int i = 0; i < BLOCKS; i++) {
        out[4 * i] = c0[i];
        out[4 * i + 1] = c1[i];
        out[4 * i + 2] = c2[i];
        out[4 * i + 3] = c3[i];
    }
}

#define SELF "kernels/ops/dropout.c"
#include "kernels/ops/twice.h"

static m2_status dropout_run(const m2_call *c)
{
    m2_dtype real;
    M2_TRY(m2i_check(c, 0, &real));
    if (!c->step) return m2_fail(M2_BUG, "dropout was called without a step");
    job j = {.call = c, .key = m2_rng_make_key(c->step->seed, (uint64_t)c->step->step, c->rng)};
    j.least = least_kept(c->attrs.f[M2_DROPOUT_P]);
    find_runs(&j, &c->in[0]);
    m2i_spread(c, real, M2I_PAIR(dropout), m2_tensor_count(&c->in[0]), 1, &j);
    return M2_OK;
}

#else
/* ---- forward and backward: dx = keep ? dy / (1 - P) : 0 ------------------------------------------------ */
/* Elements of one stretch: global indices from `at` on. */
static void NAME(stretch)(const job *j, uint64_t at, int64_t n, const REAL *x, REAL *y)
{
    uint32_t draws[4 * BLOCKS];
    REAL scale = (REAL)(1 / (1 - j->call->attrs.f[M2_DROPOUT_P]));
    int acc = j->call->acc & 1;
    while (n > 0) {
        int64_t skip = (int64_t)(at & 3), count = 4 * BLOCKS - skip < n ? 4 * BLOCKS - skip : n;
        for (int64_t i = count + AHEAD; i < count + AHEAD + 4 * BLOCKS; i += 64 / (int64_t)sizeof(REAL)) {
            __builtin_prefetch(x + i);
            __builtin_prefetch(y + i, 1);
        }
        draw_blocks(j->key, at >> 2, draws);
        const uint32_t *v = draws + skip;
        STORE_EACH(i, count, y, acc, v[i] >= j->least ? x[i] * scale : 0);
        at += (uint64_t)count;
        x += count;
        y += count;
        n -= count;
    }
}

static void NAME(dropout)(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = ctx;
    const m2_tensor *x = &j->call->in[0];
    while (begin < end) {
        int64_t r = begin / j->run, inside = begin % j->run;
        int64_t n = j->run - inside < end - begin ? j->run - inside : end - begin;
        uint64_t at = run_start(j, x, r) + (uint64_t)inside;
        NAME(stretch)(j, at, n, (const REAL *)x->data + begin, (REAL *)j->call->out[0].data + begin);
        begin += n;
    }
}
#endif

#ifndef REAL
/* ---- descriptor ---------------------------------------------------------------------------------------- */
const m2_op m2_op_dropout = {
    .name = "dropout",
    .id = M2_OP_dropout,
    .n_in = 1,
    .n_out = 1,
    .in_name = {"x"},
    .out_name = {"y"},
    .attr_i = {"whole_b"},
    .attr_f = {"p"},
    .shape = dropout_shape,
    .cost = dropout_cost,
    .run = dropout_run,
    .grad = &m2_op_dropout,
    .diff_out = 1,
    .diff_in = 1,
    .acc = 1,
    .inplace = {1},
    .linear = 1,
};
#endif
