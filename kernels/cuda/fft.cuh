/* fft.cuh - the Monarch DFT inside one thread block, in f32 registers.
 *
 * A transform of length N = R_0 R_1 ... R_{S-1} (SPEC 1.2, eq. 7-11) is S block stages: each is a product
 * with the block-diagonal DFT of size R_s followed by a twiddle; the permutation between stages is an
 * exchange through shared memory. N/P threads hold P points each. The small DFTs are evaluated by butterflies
 * in registers (the DFT block's own Monarch factorisation, unrolled), so no tensor core and no rounding below
 * f32 is involved.
 *
 * Addresses are in place: stage s sees the array as groups of M_s = N/(R_0..R_{s-1}) points, column c of
 * group g holds the elements g M_s + r C_s + c, C_s = M_s/R_s. The spectrum comes out digit-permuted and is
 * never un-permuted: element e of thread t is spectrum slot e T + t, and filters' spectra are stored in that
 * order.
 *
 * Real rows enter by the quarter twist of kernels/fft.h: sample j = r C_0 + c is multiplied by
 * exp(2 pi i j / 4N) = rho_r tau_c. rho is a constant per register, tau joins the first stage's twiddle. */
#pragma once
#include <cuda_bf16.h>
#include <stdint.h>

#define M2CU_HD __host__ __device__ __forceinline__

namespace m2cu
{

using c32 = float2;

__device__ __forceinline__ c32 operator+(c32 a, c32 b)
{
    return make_float2(a.x + b.x, a.y + b.y);
}
__device__ __forceinline__ c32 operator-(c32 a, c32 b)
{
    return make_float2(a.x - b.x, a.y - b.y);
}
__device__ __forceinline__ c32 mul(c32 a, c32 b)
{
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
/* a conj(b) */
__device__ __forceinline__ c32 mulc(c32 a, c32 b)
{
    return make_float2(a.x * b.x + a.y * b.y, a.y * b.x - a.x * b.y);
}
/* multiplication by w for SIGN = -1 (forward), by its conjugate for +1 */
template <int SIGN> __device__ __forceinline__ c32 twist(c32 a, c32 w)
{
    return SIGN < 0 ? mul(a, w) : mulc(a, w);
}
/* multiplication by exp(SIGN i pi / 2) */
template <int SIGN> __device__ __forceinline__ c32 quarter(c32 a)
{
    return SIGN < 0 ? make_float2(a.y, -a.x) : make_float2(-a.y, a.x);
}

/* exp(-2 pi i k / 32) */
__device__ __forceinline__ constexpr float cos32(int k)
{
    constexpr float c[9] = {1.0f,
                            0.98078528040323044913f,
                            0.92387953251128675613f,
                            0.83146961230254523708f,
                            0.70710678118654752440f,
                            0.55557023301960222474f,
                            0.38268343236508977173f,
                            0.19509032201612826785f,
                            0.0f};
    k &= 31;
    return k <= 8 ? c[k] : k <= 16 ? -c[16 - k] : k <= 24 ? -c[k - 16] : c[32 - k];
}
template <int R> __device__ __forceinline__ c32 root(int k)
{
    return make_float2(cos32(k * (32 / R)), -cos32((k * (32 / R) + 24) & 31));
}

/* y[k] = sum_r x[r] exp(SIGN 2 pi i r k / R), natural order both ways. */
template <int R, int SIGN> __device__ __forceinline__ void dft(c32 (&x)[R])
{
    if constexpr (R == 2) {
        c32 a = x[0];
        x[0] = a + x[1];
        x[1] = a - x[1];
    } else if constexpr (R == 4) {
        c32 a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = quarter<SIGN>(x[1] - x[3]);
        x[0] = a + c, x[1] = b + d, x[2] = a - c, x[3] = b - d;
    } else if constexpr (R > 4) {
        constexpr int A = 4, B = R / 4;
        c32 y[A][B];
#pragma unroll
        for (int b = 0; b < B; b++) {
            c32 col[A];
#pragma unroll
            for (int a = 0; a < A; a++) col[a] = x[a * B + b];
            dft<A, SIGN>(col);
#pragma unroll
            for (int a = 0; a < A; a++) y[a][b] = a * b ? twist<SIGN>(col[a], root<R>(a * b)) : col[a];
        }
#pragma unroll
        for (int a = 0; a < A; a++) {
            dft<B, SIGN>(y[a]);
#pragma unroll
            for (int b = 0; b < B; b++) x[b * A + a] = y[a][b];
        }
    }
}

__device__ __forceinline__ constexpr int high_bit(int k)
{
    return k >= 16 ? 16 : k >= 8 ? 8 : k >= 4 ? 4 : k >= 2 ? 2 : 1;
}
/* x[k] *= w^k for SIGN < 0, its conjugate else; with TAU, tau w^k. Powers by doubling: depth log R keeps the
 * error near 1 ulp. */
template <int R, int SIGN, bool TAU = false>
__device__ __forceinline__ void twiddle(c32 *x, c32 w, c32 tau = make_float2(1, 0))
{
    static_assert(R <= 32, "high_bit");
    c32 p[R], power = w;
    p[0] = tau;
    if (TAU) x[0] = twist<SIGN>(x[0], tau);
#pragma unroll
    for (int k = 1; k < R; k++) {
        int h = high_bit(k);
        if (h == k && k > 1) power = mul(power, power); /* w^h */
        p[k] = h != k || TAU ? mul(p[k - h], power) : power;
        x[k] = twist<SIGN>(x[k], p[k]);
    }
}

/* rho_r = exp(+2 pi i r / 4R), r < R */
__device__ __forceinline__ constexpr float cos128(int k) /* 0 <= k <= 32 */
{
    constexpr float c[33] = {
        1.0f, 0.99879545620517241f, 0.99518472667219693f, 0.98917650996478101f,
        0.98078528040323043f, 0.97003125319454397f, 0.95694033573220882f, 0.94154406518302081f,
        0.92387953251128674f, 0.90398929312344334f, 0.88192126434835505f, 0.85772861000027212f,
        0.83146961230254524f, 0.80320753148064494f, 0.77301045336273699f, 0.74095112535495911f,
        0.70710678118654757f, 0.67155895484701833f, 0.63439328416364549f, 0.59569930449243347f,
        0.55557023301960229f, 0.51410274419322166f, 0.47139673682599781f, 0.4275550934302822f,
        0.38268343236508984f, 0.33688985339222005f, 0.29028467725446233f, 0.24298017990326398f,
        0.19509032201612833f, 0.14673047445536175f, 0.09801714032956077f, 0.049067674327418126f,
        0.0f};
    return c[k];
}
template <int R> __device__ __forceinline__ c32 rho(int r)
{
    return make_float2(cos128(r * (32 / R)), cos128(32 - r * (32 / R)));
}
template <int R> __device__ __forceinline__ c32 enter(float v, int r)
{
    c32 q = rho<R>(r);
    return make_float2(v * q.x, v * q.y);
}
/* Re(z conj(rho_r)) */
template <int R> __device__ __forceinline__ float leave(c32 z, int r)
{
    c32 q = rho<R>(r);
    return z.x * q.x + z.y * q.y;
}
/* tau_c = exp(+2 pi i c / 4N) */
__device__ __forceinline__ c32 tau_of(int64_t c, int64_t N)
{
    float re, im;
    sincospif(0.5f * (float)c / (float)N, &im, &re);
    return make_float2(re, im);
}

template <int N_, int P_> struct Fft {
    static constexpr int N = N_, P = P_, T = N / P;
    M2CU_HD static constexpr int stages()
    {
        int s = 0;
        for (int m = N; m > 1; m /= m < P ? m : P) s++;
        return s;
    }
    static constexpr int S = stages();
    M2CU_HD static constexpr int size(int s)
    {
        int m = N;
        while (s--) m /= m < P ? m : P;
        return m;
    }                                                                               /* M_s */
    M2CU_HD static constexpr int radix(int s) { return size(s) < P ? size(s) : P; } /* R_s */
    M2CU_HD static constexpr int columns(int s) { return size(s) / radix(s); }      /* C_s */
    static constexpr int words =
        N + N / 16; /* float2 of shared memory: one pad per 16 keeps all stages conflict-free */

    c32 w[S > 1 ? S - 1 : 1]; /* exp(-2 pi i c_s / M_s) of this thread's column in each twiddled stage */
    c32 tau;

    __device__ __forceinline__ void init(int t)
    {
#pragma unroll
        for (int s = 0; s < S - 1; s++) {
            float re, im;
            sincospif(-2.0f * (float)(t % columns(s)) / (float)size(s), &im, &re);
            w[s] = make_float2(re, im);
        }
        tau = tau_of(t, N); /* only code that enters or leaves rows keeps it */
    }
    /* To call in each turn of a loop over transforms: else the compiler keeps all powers of w in registers, which
     * costs more in blocks per SM than computing them anew. */
    __device__ __forceinline__ void forget_powers()
    {
#pragma unroll
        for (int s = 0; s < S - 1; s++) asm volatile("" : "+f"(w[s].x), "+f"(w[s].y));
        asm volatile("" : "+f"(tau.x), "+f"(tau.y));
    }
    static __device__ __forceinline__ int pad(int a)
    {
        return a + (a >> 4);
    }
    template <int s> static __device__ __forceinline__ int address(int t, int q, int r)
    {
        int id = t + T * q, g = id / columns(s), c = id % columns(s);
        return pad(g * size(s) + r * columns(s) + c);
    }
    /* element e of thread t before stage s is (q, r) = (e / R_s, e % R_s) */
    template <int s> static __device__ __forceinline__ void put(const c32 (&x)[P], c32 *smem, int t)
    {
        constexpr int R = radix(s);
#pragma unroll
        for (int e = 0; e < P; e++) smem[address<s>(t, e / R, e % R)] = x[e];
    }
    template <int s> static __device__ __forceinline__ void get(c32 (&x)[P], const c32 *smem, int t)
    {
        constexpr int R = radix(s);
#pragma unroll
        for (int e = 0; e < P; e++) x[e] = smem[address<s>(t, e / R, e % R)];
    }
    template <int s, int SIGN> static __device__ __forceinline__ void block_dft(c32 (&x)[P])
    {
        constexpr int R = radix(s);
#pragma unroll
        for (int q = 0; q < P / R; q++) dft<R, SIGN>(*reinterpret_cast<c32(*)[R]>(&x[q * R]));
    }
    template <int s, int SIGN, bool TAU> __device__ __forceinline__ void block_twiddle(c32 (&x)[P]) const
    {
        constexpr int R = radix(s);
#pragma unroll
        for (int q = 0; q < P / R; q++) twiddle<R, SIGN, TAU && s == 0>(&x[q * R], w[s], tau);
    }

    /* x in natural order: element e is sample e T + t (TAU: entered by rho_e). Out: permuted spectrum. The
     * buffer must be free of readers. */
    template <bool TAU> __device__ __forceinline__ void forward(c32 (&x)[P], c32 *smem, int t) const
    {
        fwd<0, TAU>(x, smem, t);
    }
    /* Back; unscaled. */
    template <bool TAU> __device__ __forceinline__ void inverse(c32 (&x)[P], c32 *smem, int t) const
    {
        inv<S - 1, TAU>(x, smem, t);
    }

  private:
    template <int s, bool TAU> __device__ __forceinline__ void fwd(c32 (&x)[P], c32 *smem, int t) const
    {
        block_dft<s, -1>(x);
        if constexpr (s < S - 1) {
            block_twiddle<s, -1, TAU>(x);
            put<s>(x, smem, t);
            __syncthreads();
            get<s + 1>(x, smem, t);
            fwd<s + 1, TAU>(x, smem, t);
        }
    }
    template <int s, bool TAU> __device__ __forceinline__ void inv(c32 (&x)[P], c32 *smem, int t) const
    {
        if constexpr (s < S - 1) block_twiddle<s, 1, TAU>(x);
        block_dft<s, 1>(x);
        if constexpr (s > 0) {
            put<s>(x, smem, t);
            __syncthreads();
            get<s - 1>(x, smem, t);
            inv<s - 1, TAU>(x, smem, t);
        }
    }
};

} // namespace m2cu
