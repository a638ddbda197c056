/* sums.cu - sums over rows and scattered rows, in an order that depends on shapes alone. No float atomics.
 *
 * Columns (column_sums): a block owns 256 columns of a strip of rows; its 8 warps take every eighth row, a lane 8 columns.
 *   The strips' sums go to scratch, `fold` adds them in order. Moves x once plus 4 bytes per strip and column.
 * Rows (row_sums): a block per row.
 * Scatter: a block owns the destination rows r with r % CLASSES == its index, for 256 columns. It collects their sources
 *   from the index list, sorts them by (row, position), and a warp per destination row adds them up; rows with many
 *   sources take the whole block. Moves `from` once, touched rows of `to` twice, the list CLASSES times (from
 *   the L2 cache). */
#include "common.cuh"

namespace m2cu
{
namespace
{

constexpr int TILE = 256, LANES = 8, STRIPS = 1056, FOLD = 32; /* warps of a block that folds */

int64_t strip_count(int64_t rows, int64_t width)
{
    int64_t tiles = ceil_div(width, TILE), strips = STRIPS / (tiles < STRIPS ? tiles : STRIPS),
            most = ceil_div(rows, 32);
    return strips < most ? (strips > 0 ? strips : 1) : most;
}

__global__ void __launch_bounds__(256)
    column_strips(Ref x, int64_t rows, int width, int64_t strip, float *partial)
{
    __shared__ float sums[LANES][TILE];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, col = blockIdx.x * TILE + lane * 8, n = width - col;
    int64_t row = blockIdx.y * strip + warp, end = min((blockIdx.y + 1) * strip, rows);
    float sum[8] = {};
    constexpr int BATCH = 4;
    for (; n > 0 && row < end; row += BATCH * LANES) {
        Eight e[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            e[k] = fetch(x, (row + k * LANES) * width + col, row + k * LANES < end ? n : 0);
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            float v[8];
            unpack(x, e[k], row + k * LANES < end ? n : 0, v);
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += v[i];
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) sums[warp][lane * 8 + i] = sum[i];
    __syncthreads();
    int c = blockIdx.x * TILE + threadIdx.x;
    if (c >= width) return;
    float total = 0;
#pragma unroll
    for (int w = 0; w < LANES; w++) total += sums[w][threadIdx.x];
    partial[(int64_t)blockIdx.y * width + c] = total;
}

__global__ void __launch_bounds__(32 * FOLD)
    fold_strips(const float *partial, int64_t strips, int64_t width, int64_t split, float *out, bool acc,
                float *out2, bool acc2)
{
    __shared__ float sums[FOLD][32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t c = (int64_t)blockIdx.x * 32 + lane;
    float sum = 0;
    if (c < width) {
#pragma unroll 8
        for (int64_t s = warp; s < strips; s += FOLD) sum += partial[s * width + c];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp || c >= width) return;
    sum = 0;
#pragma unroll
    for (int w = 0; w < FOLD; w++) sum += sums[w][lane];
    float *to = c < split ? out : out2;
    if (!to) return;
    int64_t at = c < split ? c : c - split;
    to[at] = (c < split ? acc : acc2) ? to[at] + sum : sum;
}

__global__ void __launch_bounds__(256) row_totals(Ref x, int64_t n, float *out, bool acc)
{
    int64_t row = blockIdx.x;
    float sum[1] = {0};
    constexpr int BATCH = 4;
    for (int64_t at = threadIdx.x * 8; at < n; at += BATCH * 256 * 8) {
        Eight e[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            e[k] = fetch(x, row * n + at + k * 2048, (int)min(n - at - k * 2048, (int64_t)8));
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            float v[8];
            unpack(x, e[k], (int)min(n - at - k * 2048, (int64_t)8), v);
#pragma unroll
            for (int i = 0; i < 8; i++) sum[0] += v[i];
        }
    }
    block_sum(sum, 0);
    if (threadIdx.x == 0) out[row] = acc ? out[row] + sum[0] : sum[0];
}

/* ---- scatter ------------------------------------------------------------------------------------------------------- */
constexpr int CLASSES = 88, LIST = 4096, SCAN = 2048, LONG = 64; /* 6 tiles of 256 columns: 4 blocks per SM */

__device__ void sort_keys(uint64_t *key, int count) /* ascending, bitonic; count a power of two */
{
    for (int size = 2; size <= count; size *= 2)
        for (int step = size / 2; step; step /= 2) {
            for (int i = threadIdx.x; i < count / 2; i += blockDim.x) {
                int a = 2 * i - (i & (step - 1)), b = a + step;
                uint64_t x = key[a], y = key[b];
                if ((x > y) == ((a & size) == 0)) key[a] = y, key[b] = x;
            }
            __syncthreads();
        }
}

/* sum += the 8 columns from col on of COUNT listed rows, in order. */
template <int COUNT>
__device__ __forceinline__ void add_rows(const Ref &from, const uint64_t *key, int width, int col, int n,
                                         float (&sum)[8])
{
    Eight e[COUNT];
#pragma unroll
    for (int k = 0; k < COUNT; k++) e[k] = fetch(from, (int64_t)(uint32_t)key[k] * width + col, n);
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        float v[8];
        unpack(from, e[k], n, v);
#pragma unroll
        for (int c = 0; c < 8; c++) sum[c] += v[c];
    }
}

struct Scatter {
    const int32_t *idx;
    int64_t n, skip, rows;
    Ref from, to;
    int width;
    bool acc;
};

/* What a block holds: its list of keys (destination << 32 | source), and where the long runs of it start. */
struct List {
    uint64_t key[LIST];
    float part[8][TILE];
    int count, longs, start[LIST / LONG];
};

__device__ __forceinline__ int run_end(const List &l, int i, int count)
{
    uint32_t row = (uint32_t)(l.key[i] >> 32);
    int end = i + 1;
    while (end < count && (uint32_t)(l.key[end] >> 32) == row) end++;
    return end;
}

__device__ __forceinline__ void add_run(const Scatter &j, const uint64_t *key, int count, int col, int n,
                                        float (&sum)[8])
{
    constexpr int BATCH = 4;
    int i = 0;
    for (; i + BATCH <= count; i += BATCH) add_rows<BATCH>(j.from, key + i, j.width, col, n, sum);
    for (; i < count; i++) add_rows<1>(j.from, key + i, j.width, col, n, sum);
}

/* to[row] += sum, or = where nothing was added to it before. */
__device__ __forceinline__ void finish(const Scatter &j, uint32_t row, int col, int n, bool fresh,
                                       float (&sum)[8])
{
    if (n <= 0) return;
    if (fresh)
        store(j.to, (int64_t)row * j.width + col, n, sum);
    else
        put(j.to, (int64_t)row * j.width + col, n, sum);
}

/* A run of many sources: each warp sums a part of it, the parts are added in order. */
__device__ void add_long_run(const Scatter &j, List &l, int i, int count, int col, bool fresh)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = j.width - col, end = run_end(l, i, count);
    int share = (end - i + 7) / 8, from = min(i + warp * share, end), to = min(from + share, end);
    float sum[8] = {};
    add_run(j, l.key + from, to - from, col, n, sum);
#pragma unroll
    for (int c = 0; c < 8; c++) l.part[warp][lane * 8 + c] = sum[c];
    __syncthreads();
    if (warp == 0) {
#pragma unroll
        for (int c = 0; c < 8; c++) {
            sum[c] = 0;
            for (int w = 0; w < 8; w++) sum[c] += l.part[w][lane * 8 + c];
        }
        finish(j, (uint32_t)(l.key[i] >> 32), col, n, fresh, sum);
    }
    __syncthreads();
}

/* Adds the listed rows. A warp takes the runs that start at its places. */
__device__ void flush(const Scatter &j, List &l, int count, int col, bool fresh)
{
    int full = 2, n = j.width - col;
    while (full < count) full *= 2;
    for (int i = count + threadIdx.x; i < full; i += blockDim.x) l.key[i] = ~0ull;
    if (threadIdx.x == 0) l.longs = 0;
    __syncthreads();
    sort_keys(l.key, full);
    for (int i = threadIdx.x / 32; i < count; i += blockDim.x / 32) {
        uint32_t row = (uint32_t)(l.key[i] >> 32);
        if (i && (uint32_t)(l.key[i - 1] >> 32) == row) continue;
        if (i + LONG <= count && (uint32_t)(l.key[i + LONG - 1] >> 32) == row) {
            if (threadIdx.x % 32 == 0) l.start[atomicAdd(&l.longs, 1)] = i;
            continue;
        }
        float sum[8] = {};
        add_run(j, l.key + i, run_end(l, i, count) - i, col, n, sum);
        finish(j, row, col, n, fresh, sum);
    }
    __syncthreads();
    for (int k = 0; k < l.longs; k++) add_long_run(j, l, l.start[k], count, col, fresh);
}

__global__ void __launch_bounds__(256) scatter(Scatter j)
{
    __shared__ List l;
    int col = blockIdx.y * TILE + threadIdx.x % 32 * 8;
    bool fresh = !j.acc;
    if (threadIdx.x == 0) l.count = 0;
    __syncthreads();
    for (int64_t base = 0; base < j.n; base += SCAN) {
        int32_t r[SCAN / 256];
#pragma unroll
        for (int k = 0; k < SCAN / 256; k++) {
            int64_t i = base + k * 256 + threadIdx.x;
            r[k] = i < j.n ? j.idx[i] : -1;
        }
#pragma unroll
        for (int k = 0; k < SCAN / 256; k++)
            if (r[k] >= 0 && r[k] % CLASSES == (int)blockIdx.x && r[k] < j.rows && r[k] != j.skip)
                l.key[atomicAdd(&l.count, 1)] =
                    (uint64_t)r[k] << 32 | (uint32_t)(base + k * 256 + threadIdx.x);
        __syncthreads();
        int held = l.count;
        __syncthreads();
        if (held <= LIST - SCAN) continue;
        flush(j, l, held, col, fresh);
        fresh = false;
        if (threadIdx.x == 0) l.count = 0;
        __syncthreads();
    }
    if (l.count) flush(j, l, l.count, col, fresh);
}

} // namespace

int64_t column_partials(int64_t rows, int64_t width)
{
    return strip_count(rows, width) * width;
}

void column_sums(const m2_tensor &x, int64_t rows, int64_t width, float *partial, float *out, bool acc,
                 cudaStream_t s)
{
    int64_t strips = strip_count(rows, width);
    if (rows > 0 && width > 0) {
        dim3 grid((unsigned)ceil_div(width, TILE), (unsigned)strips);
        column_strips<<<grid, 256, 0, s>>>(ref(x, width), rows, (int)width, ceil_div(rows, strips), partial);
    }
    fold(partial, rows > 0 ? strips : 0, width, width, out, acc, nullptr, false, s);
}

void fold(const float *partial, int64_t strips, int64_t width, int64_t split, float *out, bool acc,
          float *out2, bool acc2, cudaStream_t s)
{
    if (width > 0)
        fold_strips<<<(unsigned)ceil_div(width, 32), 32 * FOLD, 0, s>>>(partial, strips, width, split, out, acc,
                                                                  out2, acc2);
}

void row_sums(const m2_tensor &x, int64_t rows, int64_t n, float *out, bool acc, cudaStream_t s)
{
    if (rows > 0) row_totals<<<(unsigned)rows, 256, 0, s>>>(ref(x, n), n, out, acc);
}

void scatter_rows(const int32_t *idx, int64_t n, int64_t skip, const m2_tensor &from, const m2_tensor &to,
                  int64_t width, bool acc, cudaStream_t s)
{
    int64_t rows = width ? m2_tensor_count(&to) / width : 0;
    if (!acc) cudaMemsetAsync(to.data, 0, (size_t)m2_tensor_bytes(&to), s);
    if (n <= 0 || rows <= 0) return;
    dim3 grid(CLASSES, (unsigned)ceil_div(width, TILE));
    scatter<<<grid, 256, 0, s>>>(
        Scatter{idx, n, skip, rows, ref(from, width), ref(to, width, 1), (int)width, acc});
}

} // namespace m2cu
