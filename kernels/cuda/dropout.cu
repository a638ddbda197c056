/* dropout.cu - y = keep ? x / (1 - P) : 0 with the CPU's bits: keep is a function of (seed, step, call, global element).
 *
 * A thread takes 8 elements; where they are consecutive in the global array, two Philox blocks serve them. The
 * batch row of this microbatch's first row, the seed and the step are read from device memory: a captured graph stays valid.
 * Bytes: x once, y once; 20 rounds of Philox per 8 elements are about as much work for the multipliers. */
#include "common.cuh"

#include "kernels/base/rng.h"

namespace m2cu
{
namespace
{

struct Dropout {
    Ref x, y;
    const m2_step *step;
    uint64_t rng;
    int64_t n, run;  /* elements; consecutive ones in the global array */
    int rank, outer; /* dimensions [0, outer) number the runs */
    int rows;        /* the batch dimension, or -1 */
    int64_t shape[M2_MAX_RANK], whole[M2_MAX_RANK], origin[M2_MAX_RANK];
    int64_t first, row; /* where all is one run: global index of element 0, and of one batch row more */
    uint32_t least;     /* draws below this are dropped */
    float scale;
};

/* The global index of local element `at`. */
__device__ __forceinline__ uint64_t global_index(const Dropout &j, int64_t at, int64_t row0)
{
    if (j.outer == 0) return (uint64_t)(at + j.first + row0 * j.row);
    uint64_t run = (uint64_t)(at / j.run), to = (uint64_t)(at % j.run), scale = 1;
#pragma unroll
    for (int d = M2_MAX_RANK - 1; d >= 0; d--) {
        if (d >= j.rank) continue;
        uint64_t i = 0;
        if (d < j.outer) {
            i = run % (uint64_t)j.shape[d];
            run /= (uint64_t)j.shape[d];
        }
        to += (i + (uint64_t)(j.origin[d] + (d == j.rows ? row0 : 0))) * scale;
        scale *= (uint64_t)j.whole[d];
    }
    return to;
}

/* x = 8 elements from `at` on, dropped or scaled. */
__device__ __forceinline__ void drop(const Dropout &j, m2_rng_key key, int64_t row0, int64_t at, int n,
                                     float (&x)[8])
{
    uint32_t draw[8];
    uint64_t first = global_index(j, at, row0);
    if ((j.outer == 0 || at % j.run + 8 <= j.run) && first % 4 == 0) {
        m2_rng_block a = m2_rng_draw(key, first >> 2), b = m2_rng_draw(key, (first >> 2) + 1);
#pragma unroll
        for (int i = 0; i < 4; i++) draw[i] = a.v[i], draw[4 + i] = b.v[i];
    } else {
#pragma unroll 1
        for (int i = 0; i < n; i++) {
            uint32_t v = m2_rng_u32(key, global_index(j, at + i, row0));
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (k == i) draw[k] = v;
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = i < n && draw[i] >= j.least ? x[i] * j.scale : 0.0f;
}

constexpr int GROUPS = 2; /* per thread: one is not enough memory traffic in flight beside the arithmetic */

__global__ void __launch_bounds__(256) dropout(Dropout j)
{
    __shared__ m2_rng_key key;
    if (threadIdx.x == 0) key = m2_rng_make_key(j.step->seed, (uint64_t)j.step->step, j.rng);
    int64_t first = ((int64_t)blockIdx.x * GROUPS * 256 + threadIdx.x) * 8, row0 = j.step->row0;
    Eight e[GROUPS];
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
        e[g] = fetch(j.x, first + g * 2048, (int)min(j.n - first - g * 2048, (int64_t)8));
    __syncthreads();
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        int64_t at = first + g * 2048;
        int n = (int)min(j.n - at, (int64_t)8);
        if (n <= 0) return;
        float x[8];
        unpack(j.x, e[g], n, x);
        drop(j, key, row0, at, n, x);
        put(j.y, at, n, x);
    }
}

/* Dimensions inside the innermost cut one are whole, so runs go from there on. */
void find_runs(Dropout *j, const m2_tensor &x, int64_t whole_b)
{
    j->rank = j->outer = x.rank;
    j->run = 1;
    j->rows = -1;
    bool open = true; /* everything further in is whole */
    for (int d = x.rank - 1; d >= 0; d--) {
        bool rows = x.axis[d] == 'B';
        if (rows) j->rows = d;
        j->shape[d] = x.shape[d];
        j->whole[d] = rows && whole_b ? whole_b : x.whole[d];
        j->origin[d] = x.origin[d];
        if (!open) continue;
        j->run *= x.shape[d];
        j->outer = d;
        open = x.shape[d] == j->whole[d];
    }
    int64_t scale = 1;
    for (int d = x.rank - 1; d >= 0; d--) {
        j->first += j->origin[d] * scale;
        if (d == j->rows) j->row = scale;
        scale *= j->whole[d];
    }
}

} // namespace
} // namespace m2cu

extern "C" m2_status m2i_cuda_dropout(const m2_call *c)
{
    using namespace m2cu;
    M2_TRY(check(c));
    if (!c->step) return m2_fail(M2_BUG, "dropout was called without a step");
    double p = c->attrs.f[M2_DROPOUT_P];
    Dropout j = {};
    j.n = m2_tensor_count(&c->in[0]);
    j.x = ref(c->in[0]), j.y = ref(c->out[0], 0, c->acc & 1);
    j.step = c->step;
    j.rng = c->rng;
    j.least = (uint32_t)ceil(p * 4294967296.0 - 0.5);
    j.scale = (float)(1 / (1 - p));
    find_runs(&j, c->in[0], c->attrs.i[M2_DROPOUT_WHOLE_B]);
    if (j.n > 0) dropout<<<(unsigned)ceil_div(j.n, GROUPS * 2048), 256, 0, stream_of(c)>>>(j);
    return launched(c);
}
