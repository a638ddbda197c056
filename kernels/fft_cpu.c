/* Stages are butterflies on V columns at a time: a block of b rows is loaded into registers, multiplied by the DFT
 * block (8 as an order-2 Monarch product itself), by the twiddles, and stored. The last factor is V itself: lanes
 * and vectors change places in registers. The inverse is the same code with real and imaginary parts swapped, which
 * conjugates every constant.
 *
 * Measured on one core at 4 GHz, AVX-512, float, in the first cache: 4.1 cycles per vector of V complex points and
 * stage of 8 (11.5 operations), 3.5 of 4, 7.2 for the last (19, of which 8 shuffles); 4.6 would be the bound of 8 if
 * every operation took one of two ports. A forward and an inverse transform take 0.60 ns per point at n = 2048 and
 * 1.0 at 65536, against 1.15 and 3.4 for two complex transforms of FFTW 3.3.10 (SSE2/AVX build). */
#ifndef REAL
#include "kernels/fft_cpu.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 32 * 1024 }; /* bytes that stay in the first cache from their first stage to their last */
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* w_r^q for the blocks whose products need them. */
static const double roots[9][7][2] = {
    [3] = {{1, 0}, {-0.5, -0.86602540378443865}, {-0.5, 0.86602540378443865}},
    [5] = {{1, 0},
           {0.30901699437494742, -0.95105651629515357},
           {-0.80901699437494742, -0.58778525229247313},
           {-0.80901699437494742, 0.58778525229247313},
           {0.30901699437494742, 0.95105651629515357}},
    [7] = {{1, 0},
           {0.62348980185873353, -0.78183148246802981},
           {-0.22252093395631440, -0.97492791218182361},
           {-0.90096886790241913, -0.43388373911755812},
           {-0.90096886790241913, 0.43388373911755812},
           {-0.22252093395631440, 0.97492791218182361},
           {0.62348980185873353, 0.78183148246802981}},
    [8] = {{1, 0},
           {0.70710678118654752, -0.70710678118654752},
           {0, -1},
           {-0.70710678118654752, -0.70710678118654752}},
};

/* Where the block product of size r leaves frequency k. */
INLINE int place(int r, int k)
{
    return r == 8 ? k % 4 * 2 + k / 4 : k;
}

typedef struct job {
    const m2i_fft *fft;
    m2i_fft_point point;
    void *ctx;
    int forward, inverse;
} job;

#define SELF "kernels/fft_cpu.c"
#include "kernels/ops/twice.h"

void m2i_fft_run(const m2i_fft *f, void *z, int forward, m2i_fft_point point, void *ctx, int inverse)
{
    job j = {f, point, ctx, forward, inverse};
    if (f->dtype == M2_F64) descend_f64(&j, 0, z, 0, f->rows);
    else descend_f32(&j, 0, z, 0, f->rows);
}

/* ---- plans and their tables ---------------------------------------------------------------------------- */
/* Costs: measured time of a forward and an inverse stage in cache per point, in ps (f32, 4 GHz, AVX-512). */
static const m2_fft_menu menu = {
    .fixed = 320,
    .count = 6,
    .block = {{8, 130}, {4, 110}, {2, 80}, {3, 110}, {5, 135}, {7, 170}},
};

static m2i_fft *known;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static m2i_fft *destroy(m2i_fft *f)
{
    for (int s = 0; f && s < M2_FFT_MAX_ORDER; s++) free(f->twiddle[s]);
    if (f) free(f->quarter), free(f->frequency);
    free(f);
    return NULL;
}

static m2i_fft *create(const m2_fft *plan, m2_dtype dtype)
{
    m2i_fft *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->plan = *plan;
    f->dtype = dtype;
    f->lanes = plan->factor[plan->order - 1];
    f->rows = plan->n % (4 * f->lanes) ? 4 * f->lanes / plan->n : 1;
    f->points = f->rows * plan->n;
    int made = dtype == M2_F64 ? tables_f64(f) : tables_f32(f);
    return made ? f : destroy(f);
}

m2_status m2i_fft_get_plan(const m2_fft *plan, m2_dtype dtype, const m2i_fft **out)
{
    if (dtype != M2_F32 && dtype != M2_F64)
        return m2_fail(M2_USAGE, "the CPU's Monarch DFT computes in f32 or f64, not in %s", m2_dtype_name(dtype));
    int lanes = (int)(M2I_VECTOR / m2_dtype_size(dtype)), order = plan->order;
    int fits = plan->factor[order - 1] == lanes && (plan->n % (4 * lanes) == 0 || 4 * lanes % plan->n == 0);
    for (int s = 0; s < order - 1; s++) fits = fits && plan->factor[s] <= 8 && stages_f32[plan->factor[s]][0];
    if (!fits)
        return m2_fail(M2_USAGE,
                       "the CPU's Monarch DFT in %s has blocks of 2, 3, 4, 5, 7 and 8, the last of %d, and rows "
                       "that divide or are a multiple of %d points; the plan of %lld points is another",
                       m2_dtype_name(dtype), lanes, 4 * lanes, (long long)plan->n);
    pthread_mutex_lock(&lock);
    m2i_fft *f = known;
    while (f && (f->dtype != dtype || memcmp(&f->plan, plan, sizeof *plan))) f = f->next;
    if (!f && (f = create(plan, dtype))) {
        f->next = known;
        known = f;
    }
    pthread_mutex_unlock(&lock);
    *out = f;
    return f ? M2_OK : m2_fail(M2_TRANSIENT, "no memory for the tables of a Monarch DFT of %lld points",
                               (long long)plan->n);
}

static m2_fft_menu menu_of(m2_dtype dtype)
{
    m2_fft_menu own = menu;
    own.last = (int)(M2I_VECTOR / m2_dtype_size(dtype));
    own.multiple = 4 * own.last;
    return own;
}

int m2i_fft_choices(int64_t points, m2_dtype dtype, m2_fft plan[M2I_FFT_CHOICES], double seconds[M2I_FFT_CHOICES])
{
    m2_fft_menu own = menu_of(dtype);
    int count;
    if (m2_fft_list(points, &own, M2I_FFT_CHOICES, plan, seconds, &count) != M2_OK) return 0;
    for (int i = 0; i < count; i++) seconds[i] *= 1e-12 * (double)m2_dtype_size(dtype) / 4;
    return count;
}

m2_status m2i_fft_get(int64_t points, m2_dtype dtype, int which, const m2i_fft **out)
{
    m2_fft plan[M2I_FFT_CHOICES];
    double cost[M2I_FFT_CHOICES];
    m2_fft_menu own = menu_of(dtype);
    int count;
    if (which < 0 || which >= M2I_FFT_CHOICES)
        return m2_fail(M2_USAGE, "plan %d of a Monarch DFT was asked for; they are 0 to %d", which, M2I_FFT_CHOICES - 1);
    M2_TRY(m2_fft_list(points, &own, which + 1, plan, cost, &count));
    if (which >= count)
        return m2_fail(M2_USAGE, "plan %d of a Monarch DFT of %lld points was asked for; there are %d", which,
                       (long long)points, count);
    return m2i_fft_get_plan(&plan[which], dtype, out);
}

/* The last stage leaves four rows of V points in an order of its own; the smallest transform with all four shows it: the
 * frequency of a point is the angle that a lone 1 at position 1 got. */
static m2_status order_of_last(m2_dtype dtype, int *frequency)
{
    int lanes = (int)(M2I_VECTOR / m2_dtype_size(dtype));
    m2_fft plan;
    const m2i_fft *f;
    _Alignas(M2I_VECTOR) char memory[2 * 4 * M2I_VECTOR];
    M2_TRY(m2_fft_make(2, (int[]){4, lanes}, &plan));
    M2_TRY(m2i_fft_get_plan(&plan, dtype, &f));
    memset(memory, 0, sizeof memory);
    float *single = (float *)(void *)memory;
    double *wide = (double *)(void *)memory;
    if (dtype == M2_F64) wide[1] = 1;
    else single[1] = 1;
    m2i_fft_run(f, memory, 1, NULL, NULL, 0);
    for (int p = 0; p < 4 * lanes; p++) {
        int re = 2 * (p - p % lanes) + p % lanes, im = re + lanes;
        double x = dtype == M2_F64 ? wide[re] : (double)single[re], y = dtype == M2_F64 ? wide[im] : (double)single[im];
        double turns = -atan2(y, x) / 6.283185307179586;
        frequency[p] = (int)(lrint(turns * 4 * lanes) + 4 * lanes) % (4 * lanes);
    }
    return M2_OK;
}

static m2_status add_frequencies(m2i_fft *f)
{
    int group = 4 * f->lanes, own[4 * M2I_VECTOR];
    M2_TRY(order_of_last(f->dtype, own));
    int32_t *table = malloc((size_t)f->plan.n * sizeof *table);
    if (!table)
        return m2_fail(M2_TRANSIENT, "no memory for the frequencies of a Monarch DFT of %lld points",
                       (long long)f->plan.n);
    for (int64_t p = 0; p < f->plan.n; p++) {
        int k = own[p % group]; /* of {4, V}: row k % 4 of these four, and in it frequency k / 4 */
        table[p] = (int32_t)m2_fft_frequency(&f->plan, p - p % group + k % 4 * f->lanes + k / 4);
    }
    pthread_mutex_lock(&lock);
    if (f->frequency) free(table);
    else f->frequency = table;
    pthread_mutex_unlock(&lock);
    return M2_OK;
}

m2_status m2i_fft_get_band(int64_t points, m2_dtype dtype, const m2i_fft **out)
{
    m2_fft plan;
    m2_fft_menu own = menu_of(dtype);
    M2_TRY(m2_fft_exact(points, &own, &plan));
    M2_TRY(m2i_fft_get_plan(&plan, dtype, out));
    return (*out)->frequency ? M2_OK : add_frequencies((m2i_fft *)(uintptr_t)*out);
}

double m2i_fft_flops(int64_t points, m2_dtype dtype)
{
    static const double block[17] = {[2] = 2, [3] = 5.3,  [4] = 4,  [5] = 9.6,
                                     [7] = 14, [8] = 8.25, [16] = 12.5};
    m2_fft plan;
    m2_fft_menu own = menu_of(dtype);
    if (m2_fft_choose(points, &own, &plan) != M2_OK) return 0;
    double per_point = block[plan.factor[plan.order - 1]];
    for (int s = 0; s + 1 < plan.order; s++)
        per_point += block[plan.factor[s]] + 6.0 * (plan.factor[s] - 1) / plan.factor[s];
    return per_point * (double)plan.n;
}

#else
/* ---- vectors ------------------------------------------------------------------------------------------- */
#define VEC   NAME(m2i_vec)
#define LANES ((int)(M2I_VECTOR / sizeof(REAL)))

/* One shuffle: lane i comes from lane at(i) of a, or from lane at(i) - LANES of b. */
#ifdef __clang__ /* sees by itself that these moves are one shuffle; GCC wants to be told */
#define SHUFFLE(a, b, at)                                                                                    \
    VEC shuffled;                                                                                            \
    UNROLL for (int i = 0; i < LANES; i++) shuffled[i] = (at) < LANES ? (a)[(at) % LANES] : (b)[(at) % LANES];\
    return shuffled
#else
#define SHUFFLE(a, b, at)                                                                                    \
    __typeof__((a) < (b)) from;                                                                              \
    UNROLL for (int i = 0; i < LANES; i++) from[i] = (at);                                                   \
    return __builtin_shuffle(a, b, from)
#endif

/* Every second block of BLOCK lanes, from the first or the second on: those of a, then those of b. */
#define BLOCK (LANES >= 4 ? LANES / 4 : 1)
#define HALF  (LANES / 2)
INLINE VEC NAME(pick)(VEC a, VEC b, int second)
{
    SHUFFLE(a, b, (i < HALF ? 0 : LANES) + (i % HALF / BLOCK * 2 + second) * BLOCK + i % BLOCK);
}

/* The lower or upper halves of every block, `unit` lanes of a and of b in turn. */
INLINE VEC NAME(zip)(VEC a, VEC b, int block, int unit, int upper)
{
    SHUFFLE(a, b, i / unit % 2 * LANES + i / block * block + upper * block / 2 + /* whose, which block, which half */
                      i % block / (2 * unit) * unit + i % unit);
}

/* Four vectors of four blocks: blocks and vectors change places. */
INLINE void NAME(transpose_blocks)(VEC *r)
{
    VEC a = NAME(pick)(r[0], r[1], 0), b = NAME(pick)(r[0], r[1], 1);
    VEC c = NAME(pick)(r[2], r[3], 0), d = NAME(pick)(r[2], r[3], 1);
    r[0] = NAME(pick)(a, c, 0), r[1] = NAME(pick)(b, d, 0);
    r[2] = NAME(pick)(a, c, 1), r[3] = NAME(pick)(b, d, 1);
}

/* In every block of four lanes, lanes and vectors change places; in blocks of two, of vectors 0 and 1, 2 and 3. */
INLINE void NAME(transpose_lanes)(VEC *r)
{
    int block = LANES == 16 ? 4 : 2;
    VEC a = NAME(zip)(r[0], r[1], block, 1, 0), b = NAME(zip)(r[0], r[1], block, 1, 1);
    VEC c = NAME(zip)(r[2], r[3], block, 1, 0), d = NAME(zip)(r[2], r[3], block, 1, 1);
    if (block == 4) {
        r[0] = NAME(zip)(a, c, 4, 2, 0), r[1] = NAME(zip)(a, c, 4, 2, 1);
        r[2] = NAME(zip)(b, d, 4, 2, 0), r[3] = NAME(zip)(b, d, 4, 2, 1);
    } else {
        r[0] = a, r[1] = b, r[2] = c, r[3] = d;
    }
}

/* ---- block products in registers: x + i y, elements 0, s, 2s, ... -------------------------------------- */
INLINE void NAME(times)(VEC *x, VEC *y, VEC c, VEC s) /* (x + i y) (c + i s) */
{
    VEC t = *x * c - *y * s;
    *y = *y * c + *x * s;
    *x = t;
}

INLINE void NAME(turn)(VEC *x, VEC *y, const double *w)
{
    NAME(times)(x, y, (REAL)w[0] - (VEC){0}, (REAL)w[1] - (VEC){0});
}

INLINE void NAME(dft2)(VEC *x, VEC *y)
{
    VEC tx = x[0] - x[1], ty = y[0] - y[1];
    x[0] += x[1], y[0] += y[1];
    x[1] = tx, y[1] = ty;
}

INLINE void NAME(dft4)(VEC *x, VEC *y, int s)
{
    VEC ax = x[0] + x[2 * s], ay = y[0] + y[2 * s], bx = x[0] - x[2 * s], by = y[0] - y[2 * s];
    VEC cx = x[s] + x[3 * s], cy = y[s] + y[3 * s], dx = x[s] - x[3 * s], dy = y[s] - y[3 * s];
    x[0] = ax + cx, y[0] = ay + cy;
    x[s] = bx + dy, y[s] = by - dx;
    x[2 * s] = ax - cx, y[2 * s] = ay - cy;
    x[3 * s] = bx - dy, y[3 * s] = by + dx;
}

INLINE void NAME(dft8)(VEC *x, VEC *y)
{
    NAME(dft4)(x, y, 2);
    NAME(dft4)(x + 1, y + 1, 2);
    UNROLL for (int k = 1; k < 4; k++) NAME(turn)(&x[2 * k + 1], &y[2 * k + 1], roots[8][k]);
    UNROLL for (int k = 0; k < 4; k++) NAME(dft2)(x + 2 * k, y + 2 * k);
}

/* Rows k and r - k share the sums and differences of elements j and r - j: half of the block product. */
INLINE void NAME(dft_odd)(int r, VEC *x, VEC *y)
{
    VEC ox[7], oy[7];
    ox[0] = x[0], oy[0] = y[0];
    UNROLL for (int j = 1; j <= r / 2; j++) ox[0] += x[j] + x[r - j], oy[0] += y[j] + y[r - j];
    UNROLL for (int k = 1; k <= r / 2; k++) {
        VEC ax = x[0], ay = y[0], bx = {0}, by = {0};
        UNROLL for (int j = 1; j <= r / 2; j++) {
            REAL c = (REAL)roots[r][j * k % r][0], s = (REAL)roots[r][j * k % r][1];
            ax += c * (x[j] + x[r - j]), ay += c * (y[j] + y[r - j]);
            bx += s * (x[j] - x[r - j]), by += s * (y[j] - y[r - j]);
        }
        ox[k] = ax - by, oy[k] = ay + bx;
        ox[r - k] = ax + by, oy[r - k] = ay - bx;
    }
    UNROLL for (int k = 0; k < r; k++) x[k] = ox[k], y[k] = oy[k];
}

INLINE void NAME(block)(int r, VEC *x, VEC *y)
{
    if (r == 2) NAME(dft2)(x, y);
    else if (r == 4) NAME(dft4)(x, y, 1);
    else if (r == 8) NAME(dft8)(x, y);
    else NAME(dft_odd)(r, x, y);
}

/* ---- stages -------------------------------------------------------------------------------------------- */
/* `rows` rows of r x m points; w: twiddles of one row. Inverse: x is the imaginary part. */
INLINE void NAME(stage)(int r, int inverse, REAL *z, int64_t rows, int64_t m, const REAL *w)
{
    for (int64_t row = 0; row < rows; row++, z += 2 * r * m) {
        const VEC *t = (const VEC *)w;
        for (int64_t c = 0; c < m; c += LANES, t += 2 * (r - 1)) {
            VEC x[8], y[8];
            UNROLL for (int j = 0; j < r; j++) {
                const VEC *p = (const VEC *)(z + 2 * (j * m + c));
                x[j] = p[inverse], y[j] = p[!inverse];
                if (inverse && j) NAME(times)(&x[j], &y[j], t[2 * j - 2], t[2 * j - 1]);
            }
            NAME(block)(r, x, y);
            UNROLL for (int k = 0; k < r; k++) {
                VEC *p = (VEC *)(z + 2 * (k * m + c));
                int i = place(r, k);
                if (!inverse && k) NAME(times)(&x[i], &y[i], t[2 * k - 2], t[2 * k - 1]);
                p[inverse] = x[i], p[!inverse] = y[i];
            }
        }
    }
}

/* The last stage, four vectors at a time. Its factor V is an order-2 Monarch product again, V = 4 (V/4): blocks of
 * lanes change places with vectors, a block product of 4, twiddles w, then the lanes of a block the same. */
INLINE void NAME(upper)(int inverse, VEC *x, VEC *y, const VEC *w)
{
    for (int k = 1; inverse && LANES > 4 && k < 4; k++) NAME(times)(&x[k], &y[k], w[2 * k - 2], w[2 * k - 1]);
    if (inverse) NAME(dft4)(x, y, 1);
    NAME(transpose_blocks)(x);
    NAME(transpose_blocks)(y);
    if (!inverse) NAME(dft4)(x, y, 1);
    for (int k = 1; !inverse && LANES > 4 && k < 4; k++) NAME(times)(&x[k], &y[k], w[2 * k - 2], w[2 * k - 1]);
}

INLINE void NAME(lower_block)(VEC *x, VEC *y)
{
    if (LANES == 16) NAME(dft4)(x, y, 1);
    else NAME(dft2)(x, y), NAME(dft2)(x + 2, y + 2);
}

INLINE void NAME(lower)(int inverse, VEC *x, VEC *y)
{
    if (inverse) NAME(lower_block)(x, y);
    NAME(transpose_lanes)(x);
    NAME(transpose_lanes)(y);
    if (!inverse) NAME(lower_block)(x, y);
}

INLINE void NAME(last)(int inverse, REAL *z, int64_t points, const REAL *w)
{
    VEC t[6], x[4], y[4];
    UNROLL for (int i = 0; i < 6; i++) t[i] = ((const VEC *)w)[i];
    for (VEC *p = (VEC *)z, *end = (VEC *)(z + 2 * points); p < end; p += 8) {
        UNROLL for (int i = 0; i < 4; i++) x[i] = p[2 * i + inverse], y[i] = p[2 * i + !inverse];
        if (inverse && LANES != 4) NAME(lower)(1, x, y);
        if (LANES >= 4) NAME(upper)(inverse, x, y, t);
        if (!inverse && LANES != 4) NAME(lower)(0, x, y);
        UNROLL for (int i = 0; i < 4; i++) p[2 * i + inverse] = x[i], p[2 * i + !inverse] = y[i];
    }
}

#define STAGE(r)                                                                                             \
    static void NAME(forward##r)(REAL *z, int64_t rows, int64_t m, const REAL *w)                            \
    {                                                                                                        \
        NAME(stage)(r, 0, z, rows, m, w);                                                                    \
    }                                                                                                        \
    static void NAME(inverse##r)(REAL *z, int64_t rows, int64_t m, const REAL *w)                            \
    {                                                                                                        \
        NAME(stage)(r, 1, z, rows, m, w);                                                                    \
    }
STAGE(2) STAGE(3) STAGE(4) STAGE(5) STAGE(7) STAGE(8)
#undef STAGE

typedef void (*NAME(stage_fn))(REAL *z, int64_t rows, int64_t m, const REAL *w);
#define ROW(r) [r] = {NAME(forward##r), NAME(inverse##r)}
static const NAME(stage_fn) NAME(stages)[9][2] = {ROW(2), ROW(3), ROW(4), ROW(5), ROW(7), ROW(8)};
#undef ROW

static void NAME(forward_last)(REAL *z, int64_t points, const REAL *w)
{
    NAME(last)(0, z, points, w);
}

static void NAME(inverse_last)(REAL *z, int64_t points, const REAL *w)
{
    NAME(last)(1, z, points, w);
}

/* ---- the way through the stages ------------------------------------------------------------------------ */
/* Stage s and all inner ones of `rows` rows: depth first until a piece fits the cache, then stage after stage. */
static void NAME(descend)(const job *j, int s, REAL *z, int64_t first, int64_t rows)
{
    const m2i_fft *f = j->fft;
    int last = f->plan.order - 1;
    int64_t m = m2_fft_columns(&f->plan, s), b = f->plan.factor[s], points = rows * b * m;
    int cuts = s < last && rows == 1 && m % (4 * LANES) == 0; /* the last stage takes four vectors */
    if (cuts && points * 2 * (int64_t)sizeof(REAL) > PIECE) {
        if (j->forward) NAME(stages)[b][0](z, 1, m, f->twiddle[s]);
        for (int64_t k = 0; k < b; k++) NAME(descend)(j, s + 1, z + 2 * k * m, first + k * m, 1);
        if (j->inverse) NAME(stages)[b][1](z, 1, m, f->twiddle[s]);
        return;
    }
    for (int t = s; j->forward && t < last; t++) {
        b = f->plan.factor[t], m = m2_fft_columns(&f->plan, t);
        NAME(stages)[b][0](z, points / (b * m), m, f->twiddle[t]);
    }
    if (j->forward) NAME(forward_last)(z, points, f->twiddle[last]);
    if (j->point) j->point(j->ctx, z, first, points);
    if (j->inverse) NAME(inverse_last)(z, points, f->twiddle[last]);
    for (int t = last - 1; j->inverse && t >= s; t--) {
        b = f->plan.factor[t], m = m2_fft_columns(&f->plan, t);
        NAME(stages)[b][1](z, points / (b * m), m, f->twiddle[t]);
    }
}

/* ---- tables -------------------------------------------------------------------------------------------- */
static void NAME(split)(const double *pairs, REAL *out)
{
    for (int i = 0; i < LANES; i++) out[i] = (REAL)pairs[2 * i], out[LANES + i] = (REAL)pairs[2 * i + 1];
}

static int NAME(tables)(m2i_fft *f)
{
    int last = f->plan.order - 1;
    double root[2 * 8 * LANES];
    for (int s = 0; s < last; s++) {
        int64_t b = f->plan.factor[s], m = m2_fft_columns(&f->plan, s);
        REAL *w = f->twiddle[s] = aligned_alloc(M2I_VECTOR, (size_t)(2 * (b - 1) * m) * sizeof(REAL));
        if (!w) return 0;
        for (int64_t c = 0; c < m; c += LANES) {
            m2_fft_twiddle(&f->plan, s, c, c + LANES, root);
            for (int64_t i = LANES; i < b * LANES; i += LANES, w += 2 * LANES) NAME(split)(root + 2 * i, w);
        }
    }
    REAL *w = f->twiddle[last] = aligned_alloc(M2I_VECTOR, (size_t)(2 * 3 * LANES) * sizeof(REAL));
    if (!w) return 0;
    for (int k = 1; k < 4; k++, w += 2 * LANES) {
        int low = LANES > 4 ? LANES / 4 : 1; /* w_V^{k j}, j = the lower bits of the lane */
        for (int i = 0; i < LANES; i++) m2_fft_root(k * (i % low), LANES, root + 2 * i);
        NAME(split)(root, w);
    }
    int64_t high = f->plan.n / LANES, length = (2 * high + LANES - 1) / LANES * LANES;
    w = f->quarter = aligned_alloc(M2I_VECTOR, (size_t)(2 * LANES + length) * sizeof(REAL));
    if (!w) return 0;
    m2_fft_quarter(f->plan.n, 0, LANES, root);
    NAME(split)(root, w);
    w += 2 * LANES;
    for (int64_t c = 0; c < high; c++) {
        m2_fft_quarter(f->plan.n, c * LANES, c * LANES + 1, root);
        w[2 * c] = (REAL)root[0], w[2 * c + 1] = (REAL)root[1];
    }
    return 1;
}
#endif
