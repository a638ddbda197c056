/* longconv_mma.cu - gated long convolution of bf16 rows on tensor cores, forward and backward, fused; the formulas are
 * longconv.cu's, the transform mma_fft.cuh's (f16 operands).
 *
 * A block takes rows of one filter in turn, or (R > 32, filters enough) whole filters, from taps to their gradient; the
 * transform of a row, or of half of its frequencies (65536), stays in its shared memory, scaled as mma_rows.cuh says. Spectra
 * of filters are scaled to a maximum of 1 and kept in f16 with their scale. Gradients of spectra are summed over rows in f32, in
 * shared memory where they fit it (Fits).
 * Error against float64: 2.0e-3 relative L2, of which the bf16 result's own rounding is 1.7e-3.
 *
 * H200, 65,536 tokens x 1024 channels, gated, `m2 bench conv --device cuda --gates`, ms forward / with backward: a filter per
 * channel, and (--filters 128) one of 8 as in M2-GPT. Bound: bytes that must move, 0.13 / 0.39. Prediction: instructions of a row
 * in the machine code, four per clock and SM (16384 and 32768: before rows came by lines; 65536 was not counted; backward with
 * the transform back that y spares); the tensor cores' share of it is smaller at every length.
 *   L      prediction    a filter each  of 8 channels  what limits it
 *   1024   0.16 / 0.47   0.247 / 0.847  0.248 / 0.861  latency between barriers; 32 and 16 warps per SM (registers)
 *   2048   0.13 / 0.50   0.228 / 0.761  0.228 / 0.795  the same, 16 warps each
 *   4096   0.14 / 0.45   0.244 / 0.844  0.240 / 0.844  the same, 24 and 16 warps
 *   8192   0.13 / 0.49   0.310 / 1.117  0.280 / 1.008  backward: 16 warps per SM in two blocks (sm_80: one, 132 KiB)
 *   16384  0.19 / 0.60   0.369 / 1.281  0.291 / 1.059  one block, idle at its barriers; a filter is half a row's work or 2, for
 *                                       4 rows or 32
 *   32768  0.23 / 0.80   0.442 / 1.810  0.330 / 1.308  for 2 rows or 16; backward one transform at a time, of the other 3/8
 *                                       (sm_90; sm_80 all) wait in L2, as do the sums: more than L2 holds for all blocks
 *   65536  -             1.192 / 3.847  0.569 / 2.104  each of two passes reads the row; a filter, for 1 row or 8, is 0.8 to
 *                                       1.5 rows' work
 * What made it so: rows asked for by predicated loads, gates before the products they multiply (5 to 12%); from 16384 on, rows
 * read and written by whole lines, by way of the buffer (mma_fft_long.cuh): where the outer stage's lanes had 16 bytes of 32
 * rows each, L1 could not hold the sectors' other halves and L2 sent them twice (0.46 / 1.82 at 16384, 0.61 / 2.68 at 32768).
 * Tried: f32 sums in the inner stages (5% slower, same error), sums of spectra in registers (spills, 8% slower); at 8192 sums in
 * L2 and two blocks per SM (backward 1.02 for 0.90), or half of the sums there, 1.29; at 16384 sums in shared memory in place of
 * L1 (backward 2 to 10% slower); at 32768 asking for the next row (forward 6 to 10%, backward 2% slower, else 3 to 10% faster),
 * eight warps with 255 registers each (15 to 30% slower); R = 64 and 128 as one product with a matrix of R x R, 0.60 / 2.27 and
 * 1.05 / 4.13: constants from L2 for every row; a row in registers one stage ahead (backward 1.25 for 0.87 at 8192), or by
 * cp.async; rows by the bulk copy engine into shared memory, as far ahead as they fit (2 to 4% at 8192, nothing below); clamped
 * addresses in place of predicates (5 to 15% slower: registers); rows first out of the caches (.cs: 15% slower at 32768 while
 * lanes shared sectors); sums in L2 by vector atomics (32768: 4% slower to 2% faster, 65536 1 to 5% faster); the transform that
 * waits in registers at 4096, 4 warps, four blocks per SM (0.70 for 0.61, backward alone) and 16384 (1.33 for 1.23). */
#include "mma_conv.cuh"
#include <stdio.h>

namespace m2cu
{
namespace
{

/* By length. Measured on an H200; by threads per SM (registers): forward of 4096 points 512:
 * 0.325 ms, 768: 0.301, of 8192 512: 0.397, 1024: 0.420; backward of 2048 512: 0.66, 640: 0.72, 768: 0.77. */
const Variant variants[] = {
    forward_of<MmaFft<1, 1, 4>, 24>(4.0f),        backward_of<MmaFft<1, 1, 4>, 16>(10.0f),
    forward_of<MmaFft<2, 2, 4>, 12>(4.0f),        backward_of<MmaFft<2, 2, 4>, 8>(10.0f),
    forward_of<MmaFft<4, 4, 4>, 8>(4.0f),         backward_of<MmaFft<4, 4, 4>, 4>(8.8f),
    forward_of<MmaFft<8, 4, 8>, 4>(4.0f),         backward_of<MmaFft<8, 4, 8>, 4>(8.2f),
    forward_of<MmaFft<16, 8, 4>, 3>(4.0f),        backward_of<MmaFft<16, 8, 4>, 2>(9.0f),
    forward_of<MmaFft<32, 8, 4>, 2>(4.8f),        backward_of<MmaFft<32, 16, 2>, 1>(11.2f, 9.4f),
    forward_of<MmaFftLong<64>, 1>(4.5f, 2.8f),    backward_of<MmaFftLong<64>, 1>(11.6f, 9.8f),
    forward_of<MmaFftLong<128>, 1>(4.7f, 3.8f),   backward_of<MmaFftLong<128>, 1>(14.2f, 12.3f),
    forward_of<MmaFftLong<128, 2>, 1>(7.1f, 11),  backward_of<MmaFftLong<128, 2>, 1>(20.6f, 19.1f),
};

bool has_sm90()
{
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
}

int64_t length_of(const m2_desc &u)
{
    return u.shape[u.rank - 1] * (u.rank == 4 ? u.shape[0] : 1);
}
double seconds_of(const Variant &v, const m2_desc &u, const m2_desc &k)
{
    const double F = (double)k.shape[0], rows = (double)u.shape[u.rank - 3] * (double)u.shape[u.rank - 2];
    return (double)v.N * (rows * v.cost + F * v.filter) * 1e-12;
}
/* Variant number `which`, from 0, of those that take the shortest transform of u's rows, the cheapest first; NULL: there are not
 * so many. */
const Variant *find(const m2_desc &u, const m2_desc &k, bool grad, int64_t which)
{
    const Variant *list[1 + 8];
    int n = 0;
    for (const Variant &v : variants)
        if (!n && v.grad == grad && v.N >= length_of(u)) list[n++] = &v;
    for (int i = 0; n && i < sm90_variant_count && has_sm90(); i++) {
        const Variant &v = sm90_variants[i];
        if (v.grad != grad || v.N != list[0]->N) continue;
        int at = n++;
        for (; at > 0 && seconds_of(*list[at - 1], u, k) > seconds_of(v, u, k); at--) list[at] = list[at - 1];
        list[at] = &v;
    }
    return which < n ? list[which] : nullptr;
}

/* In half rows' time: blocks' longest queue, a filter's transform (complex, twice its inner stages) being two rows and the
 * gradient's sums per block half a one; and where blocks have whole filters. */
int64_t apart(int64_t F, int64_t count, int64_t splits, int64_t blocks)
{
    return ceil_div(F, blocks) * 4 + ceil_div(F * splits, blocks) * (2 * ceil_div(count, splits) + 1);
}
int64_t whole(int64_t F, int64_t count, int64_t blocks)
{
    return ceil_div(F, blocks) * (2 * count + 5);
}

Plan make_plan(const Variant &v, const m2_attrs *attrs, const m2_desc &u, const m2_desc &k)
{
    const int64_t *cbl = u.shape + u.rank - 3, segments = u.rank == 4 ? u.shape[0] : 1, F = k.shape[0];
    Plan p = {};
    p.N = v.N;
    p.rows = {cbl[1],
              cbl[2] * segments,
              F,
              (int)(cbl[0] / F),
              attrs->i[M2_LONGCONV_SHARE] == M2_SHARE_INDEX,
              (int)(cbl[0] / F * cbl[1]),
              cbl[2],
              FastDiv(cbl[2]),
              segments > 1 ? (cbl[0] * cbl[1] - 1) * cbl[2] : 0};
    int64_t most = (256 << 20) / (8 * v.N); /* sums of spectra in 256 MiB */
    p.nf = (int)(F < most ? F : most);
    int64_t want = ceil_div(8 * v.blocks, p.nf), count = p.rows.count > 0 ? p.rows.count : 1;
    p.splits = (int)(want < count ? want : count);
    for (int s = p.splits - 1; s > 0 && v.N > 16384; s--) /* few large shares lose at 16384: 0.33 ms for 0.29, 128 filters */
        if (apart(F, count, s, v.blocks) < apart(F, count, p.splits, v.blocks)) p.splits = s;
    if (v.whole && whole(F, count, v.blocks) <= apart(F, count, p.splits, v.blocks))
        p.splits = 0, p.nf = (int)(F < v.blocks ? F : v.blocks);
    int64_t sets = p.splits ? p.splits : 1;
    p.constants = align256((int64_t)v.constants * 16);
    p.K = align256(p.nf * v.N * 4);
    p.scales = align256(p.nf * 4);
    p.dK = v.grad ? align256(p.nf * v.N * 8 * sets) : 0;
    p.temp = align256(p.nf * sets * v.temp * 16);
    return p;
}

bool aligned(const m2_tensor &t)
{
    return (uintptr_t)t.data % 16 == 0;
}

} // namespace

int mma_conv_count(const m2_desc &u, const m2_desc &k, bool grad)
{
    int n = 0;
    if (u.dtype != M2_BF16) return 0;
    while (find(u, k, grad, n)) n++;
    return n;
}

int64_t mma_conv_workspace(const m2_attrs *attrs, const m2_desc &u, const m2_desc &k, bool grad, int64_t which)
{
    return make_plan(*find(u, k, grad, which), attrs, u, k).total();
}

m2_variant mma_conv_variant(const m2_desc &u, const m2_desc &k, bool grad, int64_t which)
{
    const Variant *v = find(u, k, grad, which);
    m2_variant out = {};
    snprintf(out.name, sizeof out.name, "%d x 16 x 16, tensor cores, %d threads", (int)(v->N / 256) % 1000, v->threads % 10000);
    out.seconds = seconds_of(*v, u, k);
    return out;
}

m2_status mma_conv_run(const m2_call *call, bool grad, int64_t which)
{
    const m2_tensor *in = call->in, *out = call->out;
    m2_desc u = m2_tensor_desc(&in[0]), k = m2_tensor_desc(&in[1]);
    const Variant *v = find(u, k, grad, which);
    Job j = {};
    j.p = make_plan(*v, &call->attrs, u, k);
    M2_TRY(check_workspace(call, j.p.total()));
    char *at = (char *)call->workspace;
    j.constants = (uint4 *)at, at += j.p.constants;
    j.K = (uint4 *)at, at += j.p.K;
    j.scales = (float *)at, at += j.p.scales;
    j.dK = (float4 *)at, at += j.p.dK;
    j.temp = (uint4 *)at;
    j.stream = stream_of(call);
    const int64_t Lk = in[1].shape[1];
    j.taps = {(float *)in[1].data, (float *)in[2].data, (float *)in[3].data, Lk, false, false, false,
              Lk % 8 == 0 && aligned(in[1]) && aligned(in[2])};
    j.io.u = (const bf16 *)in[0].data, j.io.pre = (const bf16 *)in[4].data,
    j.io.post = (const bf16 *)in[5].data;
    j.io.wide =
        u.shape[u.rank - 1] % 8 == 0 && aligned(in[0]) && aligned(in[4]) && aligned(in[5]) && aligned(out[0]);
    if (!grad) {
        j.io.y = (bf16 *)out[0].data;
    } else {
        j.io.made = (const bf16 *)in[6].data, j.io.dy = (const bf16 *)in[7].data;
        j.io.du = (bf16 *)out[0].data, j.io.dpre = (bf16 *)out[4].data, j.io.dpost = (bf16 *)out[5].data;
        j.io.acc_du = call->acc & 1, j.io.acc_dpre = call->acc & 16, j.io.acc_dpost = call->acc & 32;
        j.io.wide = j.io.wide && aligned(in[6]) && aligned(in[7]) && aligned(out[4]) && aligned(out[5]);
        j.dtaps = {(float *)out[1].data,    (float *)out[2].data,    (float *)out[3].data,
                   Lk,                      (call->acc & 2) != 0,    (call->acc & 4) != 0,
                   (call->acc & 8) != 0,    Lk % 8 == 0 && aligned(out[1]) && aligned(out[2])};
    }
    v->begin(j);
    if (!j.p.splits) v->run(j, 0, j.p.nf);
    for (int f0 = 0; j.p.splits && f0 < j.p.rows.F; f0 += j.p.nf)
        v->run(j, f0, (int)(j.p.rows.F - f0 < j.p.nf ? j.p.rows.F - f0 : j.p.nf));
    return launched(call);
}

} // namespace m2cu
