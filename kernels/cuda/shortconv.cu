/* shortconv.cu - depthwise causal convolution over channel-major rows, fused with the gates that follow it.
 *
 *   q[c,t] = sum_{i<K} w[c,i] x[c,t-K+1+i] + b[c].  Gated: q in thirds, g = q_lead, z = q_2 q_other (kernels/ops.h)
 *   dq_lead = dg, dq_2 = dz q_other, dq_other = dz q_2;  dx[t] = sum_i w[i] dq[t+K-1-i],  dw[i] = sum dq[t] x[t-K+1+i],
 *   db = sum dq.  q is recomputed in the backward.
 *
 * Mapping: thirds of one channel lie n = d B L elements apart, so a thread takes 8 positions of a row of the first third
 * and the same of the others, with a halo of HALO >= K - 1 before (and, backward, after) them from the L1 cache.
 * Backward, a block stays with one channel (of each third) and a fixed part of its rows; its sums for dw and db go to
 * scratch and are added in order. Before a row are zeros or `left`; the thread at its start gives dleft. More than 9 taps
 * go a slow way. Bytes: x once, g and z once; backward x, dg, dz in, dx out.
 * H200, gated, bf16, 3 taps, (4608, 32, 2048), share of copy speed: forward 87%, backward 84%. */
#include "common.cuh"

namespace m2cu
{
namespace
{

struct Conv {
    const void *x, *left, *dg, *dz;
    void *g, *z, *dx, *dleft;
    const float *w, *b;
    int64_t n, items;                   /* elements of a third; groups of 8 positions in it */
    int K, B, L, parts, lead, channels; /* parts: 3 when gated, else 1; channels of a third */
    FastDiv groups, rows;               /* per row; rows per channel */
    float *partial;
    int splits;
    bool acc, acc_left, wide; /* dx +=; dleft +=; rows are multiples of 8 */
};

/* COUNT consecutive elements as raw bits, so that loads can be on their way together. */
template <class T, int COUNT> struct Raw {
    static constexpr int BYTES = COUNT * (int)sizeof(T), WORD = BYTES < 16 ? BYTES : 16;
    alignas(WORD) T v[COUNT];
    /* [at, at + n) of p, the rest zero */
    __device__ __forceinline__ void read(const void *p, int64_t at, int n, bool wide)
    {
        const T *from = (const T *)p + at;
        if (wide && n >= COUNT) {
#pragma unroll
            for (int i = 0; i < BYTES; i += WORD) copy((char *)v + i, (const char *)from + i);
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i++) v[i] = i < n ? from[i] : T(0.0f);
        }
    }
    __device__ __forceinline__ void floats(float *x) const
    {
#pragma unroll
        for (int i = 0; i < COUNT; i++) x[i] = (float)v[i];
    }
    __device__ __forceinline__ void round(const float *x)
    {
#pragma unroll
        for (int i = 0; i < COUNT; i += 2) {
            if constexpr (sizeof(T) == 2) {
                *(uint32_t *)&v[i] = pack_two(x[i], x[i + 1]);
            } else {
                v[i] = x[i];
                v[i + 1] = x[i + 1];
            }
        }
    }
    __device__ __forceinline__ void write(void *p, int64_t at, int n, bool wide) const
    {
        T *to = (T *)p + at;
        if (wide && n >= COUNT) {
#pragma unroll
            for (int i = 0; i < BYTES; i += WORD) copy((char *)to + i, (const char *)v + i);
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i++)
                if (i < n) to[i] = v[i];
        }
    }

  private:
    static __device__ __forceinline__ void copy(char *to, const char *from)
    {
        if constexpr (WORD == 4) *(uint32_t *)to = *(const uint32_t *)from;
        if constexpr (WORD == 8) *(uint2 *)to = *(const uint2 *)from;
        if constexpr (WORD == 16) *(uint4 *)to = *(const uint4 *)from;
    }
};

/* Which third is part i of a gated call: 0 the leading one (g), 1 and 2 the factors of z. */
__device__ __forceinline__ int third(const Conv &j, int i)
{
    return i == 0 ? j.lead : i == 1 ? 1 - j.lead : 2;
}

/* HALO + 1 >= K taps, zeros first: x[t - HALO + i] gets tap i. */
template <int HALO> struct Taps {
    float w[HALO + 1], b;
    __device__ __forceinline__ void read(const Conv &j, int channel)
    {
        int zeros = HALO + 1 - j.K;
#pragma unroll
        for (int i = 0; i <= HALO; i++) w[i] = i >= zeros ? j.w[channel * j.K + i - zeros] : 0.0f;
        b = j.b[channel];
    }
    /* q at x[at], x pointing into a window with HALO elements before */
    __device__ __forceinline__ float apply(const float *x, int at) const
    {
        float q = b;
#pragma unroll
        for (int i = 0; i <= HALO; i++) q = fmaf(w[i], x[at - HALO + i], q);
        return q;
    }
};

/* Where a thread's 8 positions are: offset and row in the third, channel, and how many of them exist, before and after. */
template <int HALO> struct Place {
    int64_t at;
    uint32_t row;
    int channel, n, before, after;
    __device__ __forceinline__ Place(const Conv &j, uint32_t item)
    {
        row = j.groups.div(item);
        uint32_t t = (item - row * j.groups.d) * 8;
        at = (int64_t)row * j.L + t;
        channel = (int)j.rows.div(row);
        n = j.L - (int)t;
        before = t ? HALO : 0;
        after = n - 8;
    }
};

/* Where part i's row has its K - 1 elements of left or dleft. */
template <int HALO> __device__ __forceinline__ int64_t left_row(const Conv &j, int part, const Place<HALO> &p)
{
    return ((int64_t)third(j, part) * j.channels * j.B + p.row) * (j.K - 1);
}

/* The HALO positions before a thread's: of the row, of the left neighbour's, or zeros. */
template <class T, int HALO, bool LEFT>
__device__ __forceinline__ void read_before(Raw<T, HALO> *raw, const Conv &j, int part, const Place<HALO> &p)
{
    if (!LEFT || p.before) {
        raw->read(j.x, third(j, part) * j.n + p.at - HALO, p.before, j.wide);
        return;
    }
    int zeros = HALO + 1 - j.K;
    const T *from = (const T *)j.left + left_row(j, part, p) - zeros;
#pragma unroll
    for (int i = 0; i < HALO; i++) raw->v[i] = i >= zeros ? from[i] : T(0.0f);
}

/* ---- forward ------------------------------------------------------------------------------------------------------- */
template <class T, int HALO, int PARTS, bool LEFT> __global__ void __launch_bounds__(256) shortconv(Conv j)
{
    int64_t item = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (item >= j.items) return;
    Place<HALO> p(j, (uint32_t)item);
    Raw<T, HALO> before[PARTS];
    Raw<T, 8> own[PARTS];
    float q[PARTS][8];
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        int64_t at = third(j, i) * j.n + p.at;
        own[i].read(j.x, at, p.n, j.wide);
        read_before<T, HALO, LEFT>(&before[i], j, i, p);
    }
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        float x[HALO + 8];
        Taps<HALO> taps;
        taps.read(j, third(j, i) * j.channels + p.channel);
        before[i].floats(x);
        own[i].floats(x + HALO);
#pragma unroll
        for (int c = 0; c < 8; c++) q[i][c] = taps.apply(x, HALO + c);
    }
    Raw<T, 8> out;
    if (j.g) {
        out.round(q[0]);
        out.write(j.g, p.at, p.n, j.wide);
    }
    if constexpr (PARTS == 3) {
        if (!j.z) return;
#pragma unroll
        for (int c = 0; c < 8; c++) q[2][c] *= q[1][c];
        out.round(q[2]);
        out.write(j.z, p.at, p.n, j.wide);
    }
}

/* ---- backward ------------------------------------------------------------------------------------------------------ */
/* x before, at and after the 8 positions; x[HALO] is the first of them. */
template <class T, int HALO, bool LEFT> struct Window {
    Raw<T, HALO> before, after;
    Raw<T, 8> own;
    __device__ __forceinline__ void read(const Conv &j, int part, const Place<HALO> &p)
    {
        int64_t at = third(j, part) * j.n + p.at;
        own.read(j.x, at, p.n, j.wide);
        read_before<T, HALO, LEFT>(&before, j, part, p);
        after.read(j.x, at + 8, p.after, j.wide);
    }
    __device__ __forceinline__ void floats(float *x) const
    {
        before.floats(x);
        own.floats(x + HALO);
        after.floats(x + HALO + 8);
    }
};

/* A gradient at the 8 positions and after them; absent: zero. */
template <class T, int HALO> struct Ahead {
    Raw<T, 8> own;
    Raw<T, HALO> after;
    __device__ __forceinline__ void read(const Conv &j, const void *dy, const Place<HALO> &p)
    {
        own.read(dy, p.at, dy ? p.n : 0, j.wide);
        after.read(dy, p.at + 8, dy ? p.after : 0, j.wide);
    }
    __device__ __forceinline__ void floats(float *x) const
    {
        own.floats(x);
        after.floats(x + 8);
    }
};

/* Gradient of the K - 1 elements before a row, from dq at its first positions. */
template <class T, int HALO>
__device__ __forceinline__ void left_gradient(const Conv &j, int64_t row, const Taps<HALO> &taps,
                                              const float *dq)
{
    T *to = (T *)j.dleft + row - (HALO + 1 - j.K);
#pragma unroll
    for (int h = 0; h < HALO; h++) { /* position h - HALO; tap i takes it to position h - i */
        float sum = 0;
#pragma unroll
        for (int i = 0; i <= h; i++) sum = fmaf(taps.w[i], dq[h - i], sum);
        if (h >= HALO + 1 - j.K) to[h] = T(j.acc_left ? (float)to[h] + sum : sum);
    }
}

/* From dq at the 8 positions and HALO after them, and x at them and HALO before: dx, and the sums for dw, db. */
template <class T, int HALO, bool LEFT>
__device__ __forceinline__ void one_part(const Conv &j, const Place<HALO> &p, int part,
                                         const Taps<HALO> &taps, const float *x, const float *dq,
                                         float (&sums)[HALO + 2])
{
    float dx[8] = {};
    Raw<T, 8> out;
    int64_t at = third(j, part) * j.n + p.at;
    if (j.dx && j.acc) {
        out.read(j.dx, at, p.n, j.wide);
        out.floats(dx);
    }
#pragma unroll
    for (int c = 0; c < 8; c++) {
#pragma unroll
        for (int i = 0; i <= HALO; i++) {
            dx[c] = fmaf(taps.w[i], dq[c + HALO - i], dx[c]);
            sums[i] = fmaf(dq[c], x[c + i], sums[i]);
        }
        sums[HALO + 1] += dq[c];
    }
    if (LEFT && j.dleft && !p.before) left_gradient<T, HALO>(j, left_row(j, part, p), taps, dq);
    if (!j.dx) return;
    out.round(dx);
    out.write(j.dx, at, p.n, j.wide);
}

template <class T, int HALO, int PARTS, bool LEFT>
__device__ __forceinline__ void backward_item(const Conv &j, const Place<HALO> &p,
                                              const Taps<HALO> (&taps)[PARTS], float (&sums)[PARTS][HALO + 2])
{
    float x0[8 + 2 * HALO], dy[8 + HALO];
    Window<T, HALO, LEFT> w0;
    Ahead<T, HALO> g;
    w0.read(j, 0, p);
    g.read(j, j.dg, p);
    if constexpr (PARTS == 3) {
        Window<T, HALO, LEFT> w1, w2;
        Ahead<T, HALO> z;
        w1.read(j, 1, p);
        w2.read(j, 2, p);
        z.read(j, j.dz, p);
        float x1[8 + 2 * HALO], x2[8 + 2 * HALO], dz[8 + HALO], dq[8 + HALO];
        w1.floats(x1);
        w2.floats(x2);
        z.floats(dz);
#pragma unroll
        for (int c = 0; c < 8 + HALO; c++) dq[c] = dz[c] * taps[1].apply(x1, HALO + c);
        one_part<T, HALO, LEFT>(j, p, 2, taps[2], x2, dq, sums[2]);
#pragma unroll
        for (int c = 0; c < 8 + HALO; c++) dq[c] = dz[c] * taps[2].apply(x2, HALO + c);
        one_part<T, HALO, LEFT>(j, p, 1, taps[1], x1, dq, sums[1]);
    }
    w0.floats(x0);
    g.floats(dy);
    one_part<T, HALO, LEFT>(j, p, 0, taps[0], x0, dy, sums[0]);
}

template <class T, int HALO, int PARTS, bool LEFT>
__global__ void __launch_bounds__(256) shortconv_grad(Conv j)
{
    int channel = blockIdx.x;
    uint32_t per_channel = j.groups.d * j.B, share = (per_channel + j.splits - 1) / j.splits;
    uint32_t first = channel * per_channel, from = blockIdx.y * share, to = min(from + share, per_channel);
    Taps<HALO> taps[PARTS];
    float sums[PARTS][HALO + 2] = {};
#pragma unroll
    for (int i = 0; i < PARTS; i++) taps[i].read(j, third(j, i) * j.channels + channel);
    for (uint32_t i = from + threadIdx.x; i < to; i += 256)
        backward_item<T, HALO, PARTS, LEFT>(j, Place<HALO>(j, first + i), taps, sums);
    int zeros = HALO + 1 - j.K;
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        block_sum(sums[i], i & 1);
        float *p =
            j.partial + ((blockIdx.y * PARTS + third(j, i)) * (int64_t)j.channels + channel) * (j.K + 1);
        if (threadIdx.x) continue;
#pragma unroll
        for (int k = 0; k <= HALO; k++)
            if (k >= zeros) p[k - zeros] = sums[i][k];
        p[j.K] = sums[i][HALO + 1];
    }
}

/* dw (C, K) and db (C) from partial (splits, C, K + 1). */
__global__ void __launch_bounds__(256)
    fold_taps(const float *partial, int splits, int C, int K, float *dw, bool acc_w, float *db, bool acc_b)
{
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= C * (K + 1)) return;
    float sum = 0;
    for (int s = 0; s < splits; s++) sum += partial[(int64_t)s * C * (K + 1) + i];
    int c = i / (K + 1), k = i % (K + 1);
    float *to = k < K ? dw : db;
    if (!to) return;
    int at = k < K ? c * K + k : c;
    to[at] = (k < K ? acc_w : acc_b) ? to[at] + sum : sum;
}

/* ---- any number of taps: a thread per position, q recomputed wherever it is read; slow ------------------------------- */
template <class T> struct Positions {
    const Conv &j;
    int64_t row;                                                       /* of a third */
    __device__ __forceinline__ int64_t left(int part, int64_t t) const /* where left and dleft have t < 0 */
    {
        return ((int64_t)part * j.channels * j.B + row) * (j.K - 1) + t + j.K - 1;
    }
    __device__ __forceinline__ float x(int part, int64_t t) const
    {
        if (t >= 0) return (float)((const T *)j.x)[part * j.n + row * j.L + t];
        return j.left ? (float)((const T *)j.left)[left(part, t)] : 0.0f;
    }
    __device__ __forceinline__ float dy(const void *p, int64_t t) const
    {
        return p ? (float)((const T *)p)[row * j.L + t] : 0.0f;
    }
    __device__ float q(int i, int64_t t) const
    {
        int channel = third(j, i) * j.channels + (int)(row / j.B);
        float sum = j.b[channel];
        for (int k = 0; k < j.K; k++)
            sum = fmaf(j.w[channel * j.K + k], x(third(j, i), t - j.K + 1 + k), sum);
        return sum;
    }
    __device__ float dq(int i, int64_t t) const
    {
        if (t < 0 || t >= j.L) return 0;
        return i == 0 ? dy(j.dg, t) : dy(j.dz, t) * q(3 - i, t);
    }
    /* Gradient of x at t, or of left where t < 0. */
    __device__ float dx(int i, int64_t t) const
    {
        int channel = third(j, i) * j.channels + (int)(row / j.B);
        float sum = 0;
        for (int k = 0; k < j.K; k++) sum = fmaf(j.w[channel * j.K + k], dq(i, t + j.K - 1 - k), sum);
        return sum;
    }
};

template <class T> __global__ void __launch_bounds__(256) any_forward(Conv j)
{
    int64_t item = (int64_t)blockIdx.x * 256 + threadIdx.x, t = item % j.L;
    if (item >= j.n) return;
    Positions<T> p = {j, item / j.L};
    if (j.g) ((T *)j.g)[item] = T(p.q(0, t));
    if (j.z && j.parts == 3) ((T *)j.z)[item] = T(p.q(1, t) * p.q(2, t));
}

template <class T> __device__ __forceinline__ void give(void *to, int64_t at, float v, bool acc)
{
    T *p = (T *)to + at;
    *p = T(acc ? (float)*p + v : v);
}

/* Rows with their K - 1 positions before them. */
template <class T> __global__ void __launch_bounds__(256) any_dx(Conv j)
{
    int64_t item = (int64_t)blockIdx.x * 256 + threadIdx.x, length = j.L + j.K - 1,
            t = item % length - (j.K - 1);
    Positions<T> p = {j, item / length};
    if (p.row >= (int64_t)j.channels * j.B) return;
    for (int i = 0; i < j.parts; i++) {
        int part = third(j, i);
        if (t >= 0 && j.dx) give<T>(j.dx, part * j.n + p.row * j.L + t, p.dx(i, t), j.acc);
        if (t < 0 && j.dleft) give<T>(j.dleft, p.left(part, t), p.dx(i, t), j.acc_left);
    }
}

/* A block per channel of x and tap; tap K is the bias. */
template <class T> __global__ void __launch_bounds__(256) any_taps(Conv j)
{
    int i = blockIdx.x / j.channels, channel = blockIdx.x % j.channels, k = blockIdx.y;
    float sum[1] = {0};
    for (int64_t at = threadIdx.x; at < (int64_t)j.B * j.L; at += 256) {
        Positions<T> p = {j, (int64_t)channel * j.B + at / j.L};
        int64_t t = at % j.L;
        sum[0] += p.dq(i, t) * (k < j.K ? p.x(third(j, i), t - j.K + 1 + k) : 1.0f);
    }
    block_sum(sum, 0);
    if (threadIdx.x == 0) j.partial[((int64_t)third(j, i) * j.channels + channel) * (j.K + 1) + k] = sum[0];
}

/* ---- host ---------------------------------------------------------------------------------------------------------- */
typedef void conv_kernel(Conv);

/* The kernels for at most `taps` taps of one dtype, without and with `left`. */
struct Row {
    m2_dtype dtype;
    int taps;
    conv_kernel *single[2], *gated[2], *single_grad[2], *gated_grad[2];
};

template <class T, int HALO> Row row(m2_dtype dtype)
{
    return Row{dtype,
               HALO + 1,
               {shortconv<T, HALO, 1, false>, shortconv<T, HALO, 1, true>},
               {shortconv<T, HALO, 3, false>, shortconv<T, HALO, 3, true>},
               {shortconv_grad<T, HALO, 1, false>, shortconv_grad<T, HALO, 1, true>},
               {shortconv_grad<T, HALO, 3, false>, shortconv_grad<T, HALO, 3, true>}};
}

/* NULL: more taps than the fast kernels hold. */
const Row *pick(m2_dtype dtype, int taps)
{
    typedef __nv_bfloat16 bf16;
    static const Row table[] = {row<bf16, 2>(M2_BF16), row<bf16, 4>(M2_BF16), row<bf16, 8>(M2_BF16),
                                row<float, 2>(M2_F32), row<float, 4>(M2_F32), row<float, 8>(M2_F32)};
    for (const Row &r : table)
        if (r.dtype == dtype && taps <= r.taps) return &r;
    m2_log_once(M2_LOG_INFO, "short convolutions of %d taps are slow on CUDA: its fast kernels hold up to 9",
                taps);
    return nullptr;
}

/* Blocks per channel: enough to fill a large GPU with few channels. */
int split_count(int64_t channels, int64_t groups)
{
    int64_t splits = channels ? ceil_div(1056, channels) : 1, most = ceil_div(groups, 256);
    return (int)(splits < most ? splits : most > 0 ? most : 1);
}

int64_t chunks_of(const m2_attrs *attrs)
{
    return attrs->i[M2_SHORTCONV_CHUNKS] > 1 ? attrs->i[M2_SHORTCONV_CHUNKS] : 1;
}

m2_status make_job(const m2_call *c, Conv *j)
{
    M2_TRY(check(c));
    const m2_tensor &x = c->in[0], &w = c->in[1];
    for (int i = 0; i < c->n_in; i++)
        if (i != 1 && i != 2 && !m2_absent(&c->in[i]) && c->in[i].dtype != x.dtype)
            return m2_fail(M2_USAGE, "%s on CUDA: %s is %s and x %s, they must agree", c->op->name,
                           c->op->in_name[i], m2_dtype_name(c->in[i].dtype), m2_dtype_name(x.dtype));
    if (w.dtype != M2_F32 || c->in[2].dtype != M2_F32)
        return m2_fail(M2_USAGE, "%s on CUDA: w and b must be f32, not %s", c->op->name,
                       m2_dtype_name(w.dtype));
    int64_t gate = c->attrs.i[M2_SHORTCONV_GATE];
    j->parts = gate == M2_GATE_NONE ? 1 : 3;
    j->lead = gate == M2_GATE_SECOND; /* 0 for a single part */
    j->channels = (int)(x.shape[0] / j->parts);
    int64_t chunks = chunks_of(&c->attrs); /* a chunk with its own left is a row like any other */
    j->B = (int)(x.shape[1] * chunks), j->L = (int)(x.shape[2] / chunks), j->K = (int)w.shape[1];
    j->n = (int64_t)j->channels * j->B * j->L;
    j->x = x.data, j->left = c->in[3].data;
    j->wide = j->L % 8 == 0;
    for (int i = 0; i < c->n_in; i++) j->wide = j->wide && (uintptr_t)c->in[i].data % 16 == 0;
    for (int i = 0; i < c->n_out; i++) j->wide = j->wide && (uintptr_t)c->out[i].data % 16 == 0;
    j->w = (const float *)w.data, j->b = (const float *)c->in[2].data;
    int64_t groups = ceil_div(j->L, 8);
    j->items = (int64_t)j->channels * j->B * groups;
    j->groups = FastDiv(groups ? groups : 1), j->rows = FastDiv(j->B ? j->B : 1);
    j->splits = split_count(j->channels, j->B * groups);
    return j->items >> 31 ? m2_fail(M2_USAGE, "%s on CUDA: more than 2^31 groups of elements", c->op->name)
                          : M2_OK;
}

m2_status forward(const m2_call *c)
{
    Conv j = {};
    M2_TRY(make_job(c, &j));
    const Row *r = pick(c->in[0].dtype, j.K);
    j.g = c->out[0].data, j.z = c->out[1].data;
    if (!j.items) return M2_OK;
    cudaStream_t s = stream_of(c);
    if (r)
        (j.parts == 1 ? r->single
                      : r->gated)[j.left != nullptr]<<<(unsigned)ceil_div(j.items, 256), 256, 0, s>>>(j);
    else if (c->in[0].dtype == M2_BF16)
        any_forward<__nv_bfloat16><<<(unsigned)ceil_div(j.n, 256), 256, 0, s>>>(j);
    else
        any_forward<float><<<(unsigned)ceil_div(j.n, 256), 256, 0, s>>>(j);
    return launched(c);
}

int64_t partial_bytes(int64_t channels, int64_t parts, int64_t B, int64_t L, int64_t K)
{
    return split_count(channels, B * ceil_div(L, 8)) * channels * parts * (K + 1) * (int64_t)sizeof(float);
}

template <class T> void any_backward(Conv &j, cudaStream_t s)
{
    j.splits = 1;
    int64_t positions = (int64_t)j.channels * j.B * (j.L + j.K - 1);
    if ((j.dx || j.dleft) && positions) any_dx<T><<<(unsigned)ceil_div(positions, 256), 256, 0, s>>>(j);
    if (j.channels) any_taps<T><<<dim3(j.channels * j.parts, j.K + 1), 256, 0, s>>>(j);
}

m2_status backward(const m2_call *c)
{
    Conv j = {};
    M2_TRY(make_job(c, &j));
    M2_TRY(check_workspace(c, partial_bytes(j.channels, j.parts, j.B, j.L, j.K)));
    const Row *r = pick(c->in[0].dtype, j.K);
    j.dg = c->in[4].data, j.dz = c->in[5].data, j.dx = c->out[0].data;
    j.dleft = c->out[3].data;
    j.acc = c->acc & 1, j.acc_left = c->acc & 8;
    j.partial = (float *)c->workspace;
    cudaStream_t s = stream_of(c);
    if (r && j.channels)
        (j.parts == 1 ? r->single_grad
                      : r->gated_grad)[j.left != nullptr]<<<dim3(j.channels, j.splits), 256, 0, s>>>(j);
    if (!r && c->in[0].dtype == M2_BF16) any_backward<__nv_bfloat16>(j, s);
    if (!r && c->in[0].dtype == M2_F32) any_backward<float>(j, s);
    int C = j.channels * j.parts;
    float *dw = (float *)c->out[1].data, *db = (float *)c->out[2].data;
    if (C && (dw || db))
        fold_taps<<<(unsigned)ceil_div((int64_t)C * (j.K + 1), 256), 256, 0, s>>>(
            j.partial, j.splits, C, j.K, dw, c->acc & 2, db, c->acc & 4);
    return launched(c);
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_shortconv(const m2_call *c)
{
    return m2cu::forward(c);
}

extern "C" m2_status m2i_cuda_shortconv_grad(const m2_call *c)
{
    return m2cu::backward(c);
}

extern "C" int64_t m2i_cuda_shortconv_grad_workspace(const m2_attrs *attrs, const m2_desc *in,
                                                     const m2_desc *)
{
    int64_t parts = attrs->i[M2_SHORTCONV_GATE] == M2_GATE_NONE ? 1 : 3;
    int64_t chunks = m2cu::chunks_of(attrs);
    return m2cu::partial_bytes(in[0].shape[0] / parts, parts, in[0].shape[1] * chunks, in[0].shape[2] / chunks,
                               in[1].shape[1]);
}
