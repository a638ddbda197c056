/* shortconv.cu - depthwise causal convolution over channel-major rows, fused with the gates that follow it.
 *
 *   q[c,t] = sum_{i<K} w[c,i] x[c,t-K+1+i] + b[c].  Gated: q in thirds, g = q_lead, z = q_2 q_other (kernels/ops.h)
 *   dq_lead = dg, dq_2 = dz q_other, dq_other = dz q_2;  dx[t] = sum_i w[i] dq[t+K-1-i],  dw[i] = sum dq[t] x[t-K+1+i],
 *   db = sum dq.  q is recomputed in the backward.
 *
 * Mapping: thirds of one channel lie n = d B L elements apart, so a thread takes 8 positions of a row of the first third and
 * the same of the others, with the 8 before (forward) and after them (backward) as halo, which comes from the L1 cache.
 * Backward, a block stays with one channel (of each third) and a fixed part of its rows; its sums for dw and db go to
 * scratch and are added in order. Bytes: x once, g and z once; backward x, dg, dz in, dx out. K up to 9. */
#include "common.cuh"

namespace m2cu
{
namespace
{

struct Conv {
    Ref x, g, z, dx; /* g, z: outputs forward, their gradients backward */
    const float *w, *b;
    int64_t n, items;                   /* elements of a third; groups of 8 positions in it */
    int K, B, L, parts, lead, channels; /* parts: 3 when gated, else 1; channels of a third */
    FastDiv groups, rows;               /* per row; rows per channel */
    float *partial;
    int splits;
};

/* Which third is part i of a gated call: 0 the leading one (g), 1 and 2 the factors of z. */
__device__ __forceinline__ int third(const Conv &j, int i)
{
    return i == 0 ? j.lead : i == 1 ? 1 - j.lead : 2;
}

/* The taps of KMAX >= K, zeros first: x[t - KMAX + 1 + i] gets tap i. */
template <int KMAX> struct Taps {
    float w[KMAX], b;
    __device__ __forceinline__ void read(const Conv &j, int channel)
    {
#pragma unroll
        for (int i = 0; i < KMAX; i++) w[i] = i >= KMAX - j.K ? j.w[channel * j.K + i - (KMAX - j.K)] : 0.0f;
        b = j.b[channel];
    }
    /* q at x[at], x pointing into a window with KMAX - 1 elements before */
    __device__ __forceinline__ float apply(const float *x, int at) const
    {
        float q = b;
#pragma unroll
        for (int i = 0; i < KMAX; i++) q = fmaf(w[i], x[at - KMAX + 1 + i], q);
        return q;
    }
};

/* Where a thread's 8 positions are: row and offset in the third, and how many of them and after them exist. */
struct Place {
    int64_t at;
    int channel, n, next;
    bool before;
};

__device__ __forceinline__ Place place(const Conv &j, uint32_t item)
{
    uint32_t row = j.groups.div(item), t = (item - row * j.groups.d) * 8;
    int left = j.L - (int)t;
    return Place{(int64_t)row * j.L + t, (int)j.rows.div(row), left, left - 8, t > 0};
}

template <int KMAX, int PARTS> __global__ void __launch_bounds__(256) shortconv(Conv j)
{
    int64_t item = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (item >= j.items) return;
    Place p = place(j, (uint32_t)item);
    Eight e[PARTS][2];
    float q[PARTS][8];
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        int64_t at = third(j, i) * j.n + p.at;
        e[i][0] = fetch(j.x, at - 8, p.before ? 8 : 0);
        e[i][1] = fetch(j.x, at, p.n);
    }
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        float x[16];
        Taps<KMAX> taps;
        taps.read(j, third(j, i) * j.channels + p.channel);
        unpack(j.x, e[i][0], p.before ? 8 : 0, x);
        unpack(j.x, e[i][1], p.n, x + 8);
#pragma unroll
        for (int c = 0; c < 8; c++) q[i][c] = taps.apply(x, 8 + c);
    }
    if constexpr (PARTS == 1) {
        store(j.g, p.at, p.n, q[0]);
    } else {
        float z[8];
#pragma unroll
        for (int c = 0; c < 8; c++) z[c] = q[2][c] * q[1][c];
        if (j.g.data) store(j.g, p.at, p.n, q[0]);
        if (j.z.data) store(j.z, p.at, p.n, z);
    }
}

/* From dq at the 8 positions and KMAX - 1 after them, and x at them and KMAX - 1 before: dx, and the sums for dw, db. */
template <int KMAX>
__device__ __forceinline__ void one_part(const Conv &j, const Place &p, int part, const Taps<KMAX> &taps,
                                         const float *x, const float *dq, float (&sums)[KMAX + 1])
{
    float dx[8];
#pragma unroll
    for (int c = 0; c < 8; c++) {
        dx[c] = 0;
#pragma unroll
        for (int i = 0; i < KMAX; i++) {
            dx[c] = fmaf(taps.w[i], dq[c + KMAX - 1 - i], dx[c]);
            sums[i] = fmaf(dq[c], x[8 + c - KMAX + 1 + i], sums[i]);
        }
        sums[KMAX] += dq[c];
    }
    if (j.dx.data) put(j.dx, part * j.n + p.at, p.n, dx);
}

/* x at the 8 positions, before and after: 24 floats, x[8] is the first position. */
struct Window {
    Eight e[3];
    __device__ __forceinline__ void fetch_from(const Ref &t, int64_t at, const Place &p)
    {
        e[0] = fetch(t, at - 8, p.before ? 8 : 0);
        e[1] = fetch(t, at, p.n);
        e[2] = fetch(t, at + 8, p.next);
    }
    __device__ __forceinline__ void read(const Ref &t, const Place &p, float *x) const
    {
        unpack(t, e[0], p.before ? 8 : 0, x);
        unpack(t, e[1], p.n, x + 8);
        unpack(t, e[2], p.next, x + 16);
    }
};

/* dy at the 8 positions and after: 16 floats. */
__device__ __forceinline__ void read_ahead(const Ref &t, const Place &p, float *dy)
{
    bool there = t.data != nullptr;
    Eight a = fetch(t, p.at, there ? p.n : 0), b = fetch(t, p.at + 8, there ? p.next : 0);
    unpack(t, a, there ? p.n : 0, dy);
    unpack(t, b, there ? p.next : 0, dy + 8);
}

template <int KMAX, int PARTS>
__device__ __forceinline__ void backward_item(const Conv &j, const Place &p, const Taps<KMAX> (&taps)[PARTS],
                                              float (&sums)[PARTS][KMAX + 1])
{
    float dq[8 + 8];
    if constexpr (PARTS == 1) {
        float x[24];
        Window w;
        w.fetch_from(j.x, p.at, p);
        read_ahead(j.g, p, dq);
        w.read(j.x, p, x);
        one_part<KMAX>(j, p, 0, taps[0], x, dq, sums[0]);
    } else {
        Window w0, w1, w2;
        w1.fetch_from(j.x, third(j, 1) * j.n + p.at, p);
        w2.fetch_from(j.x, third(j, 2) * j.n + p.at, p);
        w0.fetch_from(j.x, third(j, 0) * j.n + p.at, p);
        float x1[24], x2[24], dz[16], dy[16];
        read_ahead(j.z, p, dz);
        read_ahead(j.g, p, dy);
        w1.read(j.x, p, x1);
        w2.read(j.x, p, x2);
#pragma unroll
        for (int c = 0; c < 8 + KMAX - 1; c++) dq[c] = dz[c] * taps[1].apply(x1, 8 + c);
        one_part<KMAX>(j, p, 2, taps[2], x2, dq, sums[2]);
#pragma unroll
        for (int c = 0; c < 8 + KMAX - 1; c++) dq[c] = dz[c] * taps[2].apply(x2, 8 + c);
        one_part<KMAX>(j, p, third(j, 1), taps[1], x1, dq, sums[1]);
        w0.read(j.x, p, x1);
        one_part<KMAX>(j, p, third(j, 0), taps[0], x1, dy, sums[0]);
    }
}

template <int KMAX, int PARTS> __global__ void __launch_bounds__(256) shortconv_grad(Conv j)
{
    int channel = blockIdx.x;
    uint32_t per_channel = j.groups.d * j.rows.d, share = (per_channel + j.splits - 1) / j.splits;
    uint32_t first = channel * per_channel, from = blockIdx.y * share, to = min(from + share, per_channel);
    Taps<KMAX> taps[PARTS];
    float sums[PARTS][KMAX + 1] = {};
#pragma unroll
    for (int i = 0; i < PARTS; i++) taps[i].read(j, third(j, i) * j.channels + channel);
    for (uint32_t i = from + threadIdx.x; i < to; i += 256)
        backward_item<KMAX, PARTS>(j, place(j, first + i), taps, sums);
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        block_sum(sums[i]);
        float *p =
            j.partial + ((blockIdx.y * PARTS + third(j, i)) * (int64_t)j.channels + channel) * (j.K + 1);
        if (threadIdx.x) continue;
#pragma unroll
        for (int k = 0; k < KMAX; k++)
            if (k >= KMAX - j.K) p[k - (KMAX - j.K)] = sums[i][k];
        p[j.K] = sums[i][KMAX];
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

/* ---- host ---------------------------------------------------------------------------------------------------------- */
typedef void conv_kernel(Conv);

/* Instances by taps, rows are {most taps, one part, three parts}. */
struct Row {
    int K;
    conv_kernel *single, *gated, *single_grad, *gated_grad;
};

template <int K> Row row()
{
    return Row{K, shortconv<K, 1>, shortconv<K, 3>, shortconv_grad<K, 1>, shortconv_grad<K, 3>};
}

m2_status pick(const m2_call *c, int K, Row *out)
{
    const Row table[] = {row<3>(), row<5>(), row<9>()};
    for (const Row &r : table)
        if (K <= r.K) return *out = r, M2_OK;
    return m2_fail(M2_USAGE, "%s on CUDA: %d taps, at most 9", c->op->name, K);
}

/* Blocks per channel: enough to fill a large GPU with few channels. */
int split_count(int64_t channels, int64_t groups)
{
    int64_t splits = channels ? ceil_div(1056, channels) : 1, most = ceil_div(groups, 256);
    return (int)(splits < most ? splits : most > 0 ? most : 1);
}

m2_status make_job(const m2_call *c, Conv *j)
{
    M2_TRY(check(c));
    const m2_tensor &x = c->in[0], &w = c->in[1];
    if (w.dtype != M2_F32 || c->in[2].dtype != M2_F32)
        return m2_fail(M2_USAGE, "%s on CUDA: w and b must be f32, not %s", c->op->name,
                       m2_dtype_name(w.dtype));
    int64_t gate = c->attrs.i[M2_SHORTCONV_GATE];
    j->parts = gate == M2_GATE_NONE ? 1 : 3;
    j->lead = gate == M2_GATE_SECOND; /* 0 for a single part */
    j->channels = (int)(x.shape[0] / j->parts);
    j->B = (int)x.shape[1], j->L = (int)x.shape[2], j->K = (int)w.shape[1];
    j->n = (int64_t)j->channels * j->B * j->L;
    j->x = ref(x, j->L);
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
    Row r;
    M2_TRY(make_job(c, &j));
    M2_TRY(pick(c, j.K, &r));
    j.g = ref(c->out[0], j.L), j.z = ref(c->out[1], j.L);
    conv_kernel *kernel = j.parts == 1 ? r.single : r.gated;
    if (j.items) kernel<<<(unsigned)ceil_div(j.items, 256), 256, 0, stream_of(c)>>>(j);
    return launched(c);
}

int64_t partial_bytes(int64_t channels, int64_t parts, int64_t B, int64_t L, int64_t K)
{
    return split_count(channels, B * ceil_div(L, 8)) * channels * parts * (K + 1) * (int64_t)sizeof(float);
}

m2_status backward(const m2_call *c)
{
    Conv j = {};
    Row r;
    M2_TRY(make_job(c, &j));
    M2_TRY(pick(c, j.K, &r));
    M2_TRY(check_workspace(c, partial_bytes(j.channels, j.parts, j.B, j.L, j.K)));
    j.g = ref(c->in[3], j.L), j.z = ref(c->in[4], j.L), j.dx = ref(c->out[0], j.L, c->acc & 1);
    j.partial = (float *)c->workspace;
    conv_kernel *kernel = j.parts == 1 ? r.single_grad : r.gated_grad;
    int C = j.channels * j.parts;
    if (j.channels) kernel<<<dim3(j.channels, j.splits), 256, 0, stream_of(c)>>>(j);
    float *dw = (float *)c->out[1].data, *db = (float *)c->out[2].data;
    if (C && (dw || db))
        fold_taps<<<(unsigned)ceil_div((int64_t)C * (j.K + 1), 256), 256, 0, stream_of(c)>>>(
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
    return m2cu::partial_bytes(in[0].shape[0] / parts, parts, in[0].shape[1], in[0].shape[2], in[1].shape[1]);
}
