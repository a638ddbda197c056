/* sums.cu - sums over rows and scattered rows, in an order that depends on shapes alone. No float atomics.
 *
 * Columns (column_sums): a block owns 256 columns of a strip of rows; its 8 warps take every eighth row, a lane 8 columns.
 *   The strips' sums go to scratch, `fold` adds them in order. Moves x once plus 4 bytes per strip and column.
 * Rows (row_sums): a block per row.
 * Scatter: a block owns the destination rows r with r % CLASSES == its index, for 256 columns. It collects their sources
 *   from the index list, sorts them by (row, position), and a warp per destination row adds them up. A row is written by
 *   one warp at a time, in order of position. Moves `from` once, touched rows of `to` twice, the list CLASSES times (from
 *   the L2 cache). */
#include "common.cuh"

namespace m2cu
{
namespace
{

constexpr int TILE = 256, LANES = 8, STRIPS = 1056;

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

__global__ void __launch_bounds__(256)
    fold_strips(const float *partial, int64_t strips, int64_t width, int64_t split, float *out, bool acc,
                float *out2, bool acc2)
{
    __shared__ float sums[LANES][32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t c = (int64_t)blockIdx.x * 32 + lane;
    float sum = 0;
    if (c < width)
        for (int64_t s = warp; s < strips; s += LANES) sum += partial[s * width + c];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp || c >= width) return;
    sum = 0;
#pragma unroll
    for (int w = 0; w < LANES; w++) sum += sums[w][lane];
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
    block_sum(sum);
    if (threadIdx.x == 0) out[row] = acc ? out[row] + sum[0] : sum[0];
}

/* ---- scatter ------------------------------------------------------------------------------------------------------- */
constexpr int CLASSES = 128, LIST = 4096, SCAN = 2048;

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

/* Adds the listed rows: keys (destination << 32 | source), any order. A warp takes the runs that start at its places. */
__device__ void flush(uint64_t *key, int count, const Ref &from, const Ref &to, int width, int col)
{
    int full = 2, n = width - col;
    while (full < count) full *= 2;
    for (int i = count + threadIdx.x; i < full; i += blockDim.x) key[i] = ~0ull;
    __syncthreads();
    sort_keys(key, full);
    for (int i = threadIdx.x / 32; i < count; i += blockDim.x / 32) {
        uint32_t row = (uint32_t)(key[i] >> 32);
        if (i && (uint32_t)(key[i - 1] >> 32) == row) continue;
        float sum[8] = {};
        constexpr int BATCH = 4;
        int j = i, end = i + 1;
        while (end < count && (uint32_t)(key[end] >> 32) == row) end++;
        for (; j + BATCH <= end; j += BATCH) add_rows<BATCH>(from, &key[j], width, col, n, sum);
        for (; j < end; j++) add_rows<1>(from, &key[j], width, col, n, sum);
        if (n > 0) put(to, (int64_t)row * width + col, n, sum);
    }
    __syncthreads();
}

__global__ void __launch_bounds__(256)
    scatter(const int32_t *idx, int64_t n, int64_t skip, int64_t rows, Ref from, Ref to, int width)
{
    __shared__ uint64_t key[LIST];
    __shared__ int count;
    int col = blockIdx.y * TILE + threadIdx.x % 32 * 8;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    for (int64_t base = 0; base < n; base += SCAN) {
#pragma unroll
        for (int k = 0; k < SCAN / 256; k++) {
            int64_t i = base + k * 256 + threadIdx.x;
            int32_t r = i < n ? idx[i] : -1;
            if (r >= 0 && r % CLASSES == (int)blockIdx.x && r < rows && r != skip)
                key[atomicAdd(&count, 1)] = (uint64_t)r << 32 | (uint32_t)i;
        }
        __syncthreads();
        int held = count;
        __syncthreads();
        if (held <= LIST - SCAN) continue;
        flush(key, held, from, to, width, col);
        if (threadIdx.x == 0) count = 0;
        __syncthreads();
    }
    if (count) flush(key, count, from, to, width, col);
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
        fold_strips<<<(unsigned)ceil_div(width, 32), 256, 0, s>>>(partial, strips, width, split, out, acc,
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
    scatter<<<grid, 256, 0, s>>>(idx, n, skip, rows, ref(from, width), ref(to, width, 1), (int)width);
}

} // namespace m2cu
