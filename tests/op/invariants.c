/* invariants.c - what single ops promise beyond being functions with gradients: numbering of randomness,
 * counting rules, refusals, and the optimizer against a plain loop. On the CPU. */
#include "kernels/base/rng.h"
#include "kernels/ops/vmath.h"
#include "kernels/probe.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>

static m2_device *device;

/* ---- calls on plain arrays ----------------------------------------------------------------------------- */
static char scratch[1 << 16];

static m2_tensor tensor(m2_dtype dtype, const char *axes, int64_t a, int64_t b, int64_t c, void *data)
{
    m2_desc d = {.dtype = dtype, .rank = (int)strlen(axes), .shape = {a, b, c}};
    memcpy(d.axis, axes, (size_t)d.rank);
    return m2_tensor_make(&d, data);
}

static m2_status run(const m2_op *op, m2_call *c)
{
    c->op = op;
    c->n_in = op->n_in;
    c->n_out = op->n_out;
    c->device = device;
    c->workspace = scratch;
    c->workspace_bytes = (int64_t)sizeof scratch;
    return op->run(c);
}

/* ---- dropout ------------------------------------------------------------------------------------------- */
enum { ROWS = 6, LENGTH = 5, WIDTH = 7, DROPOUT_RNG = 11 };
static const m2_step dropout_step = {.seed = 5, .step = 9};

/* The slab starting at (b0, l0) of the array (ROWS, LENGTH, WIDTH), its first row at origin `from` after
 * `row0`. */
static void check_slab(int64_t b0, int64_t nb, int64_t l0, int64_t nl, int64_t row0, double p,
                       int channel_major)
{
    double x[ROWS * LENGTH * WIDTH], y[ROWS * LENGTH * WIDTH];
    int64_t shape[3] = {nb, nl, WIDTH}, whole[3] = {ROWS, LENGTH, WIDTH}, origin[3] = {b0, l0, 0};
    int at[3] = {0, 1, 2}; /* where B, L, C are */
    if (channel_major) at[0] = 1, at[1] = 2, at[2] = 0;
    m2_step step = dropout_step;
    step.row0 = row0;
    m2_call c = {.rng = DROPOUT_RNG, .step = &step};
    c.attrs.i[M2_DROPOUT_WHOLE_B] = ROWS;
    c.attrs.f[M2_DROPOUT_P] = p;
    c.in[0] = tensor(M2_F64, channel_major ? "CBL" : "BLC", 1, 1, 1, x);
    for (int d = 0; d < 3; d++) {
        c.in[0].shape[at[d]] = shape[d];
        c.in[0].whole[at[d]] = d ? whole[d] : nb; /* the batch's whole extent comes from the attribute */
        c.in[0].origin[at[d]] = d ? origin[d] : b0 - row0;
    }
    c.in[0].stride[2] = 1;
    c.in[0].stride[1] = c.in[0].shape[2];
    c.in[0].stride[0] = c.in[0].shape[2] * c.in[0].shape[1];
    c.out[0] = c.in[0];
    c.out[0].data = y;
    int64_t n = nb * nl * WIDTH, bad = 0;
    for (int64_t e = 0; e < n; e++) x[e] = (double)e + 1;
    CU_ASSERT_EQUAL(run(&m2_op_dropout, &c), M2_OK);
    m2_rng_key key = m2_rng_make_key(step.seed, (uint64_t)step.step, DROPOUT_RNG);
    for (int64_t e = 0; e < n; e++) {
        const int64_t *s = c.in[0].shape;
        int64_t i[3] = {e / (s[1] * s[2]), e / s[2] % s[1], e % s[2]};
        int64_t b = i[at[0]] + b0, l = i[at[1]] + l0, k = i[at[2]];
        int64_t global = channel_major ? (k * ROWS + b) * LENGTH + l : (b * LENGTH + l) * WIDTH + k;
        double want = m2_rng_uniform(key, (uint64_t)global) >= p ? x[e] / (1 - p) : 0;
        bad += fabs(y[e] - want) > 1e-12 * x[e];
    }
    CU_ASSERT_EQUAL(bad, 0);
}

static void test_dropout(void)
{
    static const double ps[] = {0, 0.1, 0.5, 0.999};
    for (size_t i = 0; i < sizeof ps / sizeof *ps; i++)
        for (int cm = 0; cm < 2; cm++) {
            check_slab(0, ROWS, 0, LENGTH, 0, ps[i], cm);
            for (int64_t b = 0; b < ROWS; b++) {
                check_slab(b, ROWS - b, 0, LENGTH, b, ps[i], cm); /* a microbatch */
                check_slab(b, 1, 1, LENGTH - 2, b / 2, ps[i],
                           cm); /* a microbatch, a rank, a piece of the sequence */
            }
        }
}

static void test_dropout_share(void)
{
    enum { N = 1 << 16 };
    float *x = malloc(N * sizeof *x);
    m2_step step = dropout_step;
    m2_call c = {.rng = DROPOUT_RNG, .step = &step};
    c.attrs.f[M2_DROPOUT_P] = 0.3;
    double kept[2] = {0, 0};
    int both = 0;
    float *first = malloc(N * sizeof *first);
    for (int k = 0; k < 2; k++, step.step++) {
        float *y = k ? x : first;
        for (int i = 0; i < N; i++) y[i] = 1;
        c.in[0] = c.out[0] = tensor(M2_F32, "B", N, 0, 0, y); /* in place, as its descriptor permits */
        CU_ASSERT_EQUAL(run(&m2_op_dropout, &c), M2_OK);
        for (int i = 0; i < N; i++) kept[k] += y[i] != 0;
    }
    for (int i = 0; i < N; i++) both += x[i] != 0 && first[i] != 0;
    double sigma = sqrt(0.21 / N);
    CU_ASSERT_DOUBLE_EQUAL(kept[0] / N, 0.7, 5 * sigma);
    CU_ASSERT_DOUBLE_EQUAL(kept[1] / N, 0.7, 5 * sigma);
    CU_ASSERT_DOUBLE_EQUAL((double)both / N, 0.49, 5 * sqrt(0.25 / N)); /* another step, independent bits */
    free(x);
    free(first);
}

/* ---- cross entropy ------------------------------------------------------------------------------------- */
static m2_status xent(double *logits, int32_t *targets, int64_t rows, int64_t width, int64_t denom,
                      double *loss, double *hits, double *grad)
{
    double lse[16];
    m2_call c = {.attrs.i = {[M2_XENT_IGNORE] = -100, [M2_XENT_DENOM] = denom}};
    c.in[0] = tensor(M2_F64, "BC", rows, width, 0, logits);
    c.in[1] = tensor(M2_I32, "B", rows, 0, 0, targets);
    c.out[0] = tensor(M2_F64, "", 0, 0, 0, loss);
    c.out[1] = tensor(M2_F64, ".", rows, 0, 0, lse);
    c.out[2] = tensor(M2_F64, "", 0, 0, 0, hits);
    M2_TRY(run(&m2_op_xent, &c));
    m2_call g = {.attrs = c.attrs, .in = {c.in[0], c.in[1], c.out[1]}};
    g.out[0] = c.in[0];
    g.out[0].data = grad;
    return run(&m2_op_xent_grad, &g);
}

static void test_xent_counting(void)
{
    double x[] = {1, 3, 3, 0, /**/ 1, 3, 3, 0, /**/ 9, 0, 0, 0, /**/ 5, 5, 5, 5}, loss, hits, g[16];
    int32_t tie_low[] = {1, 2, -100, 0}, none[] = {-100, -100, -100, -100};
    CU_ASSERT_EQUAL(xent(x, tie_low, 4, 4, 0, &loss, &hits, g), M2_OK);
    CU_ASSERT_EQUAL(hits, 2); /* of two equal maxima only the lower index counts */
    double lse = 3 + log(2 + exp(-2) + exp(-3)), sum = 2 * (lse - 3) + log(4);
    CU_ASSERT_DOUBLE_EQUAL(loss, sum / 3, 1e-12);
    for (int i = 8; i < 12; i++) CU_ASSERT_EQUAL(g[i], 0); /* ignored row */
    CU_ASSERT_DOUBLE_EQUAL(g[12], (0.25 - 1) / 3, 1e-12);
    CU_ASSERT_EQUAL(xent(x, tie_low, 4, 4, 100, &loss, &hits, g), M2_OK);
    CU_ASSERT_DOUBLE_EQUAL(loss, sum / 100, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(g[13], 0.25 / 100, 1e-12);
    CU_ASSERT_EQUAL(xent(x, none, 4, 4, 0, &loss, &hits, g), M2_OK);
    CU_ASSERT(loss == 0 && hits == 0 && g[0] == 0);
}

static void test_xent_extremes(void)
{
    double x[] = {1e4, -1e4, -INFINITY, 0}, loss, hits, g[4], nan_row[] = {0, NAN, 0, 0};
    int32_t best[] = {0}, far[] = {1}, beyond[] = {4};
    CU_ASSERT_EQUAL(xent(x, best, 1, 4, 0, &loss, &hits, g), M2_OK);
    CU_ASSERT(loss == 0 && hits == 1 && g[2] == 0);
    CU_ASSERT_EQUAL(xent(x, far, 1, 4, 0, &loss, &hits, g), M2_OK);
    CU_ASSERT(loss == 2e4 && hits == 0);
    static double wide[3000]; /* ties far apart, in different blocks of whatever kernel */
    static double wide_grad[3000];
    int32_t low[] = {100}, high[] = {2500};
    wide[100] = wide[2500] = 3;
    CU_ASSERT_EQUAL(xent(wide, low, 1, 3000, 0, &loss, &hits, wide_grad), M2_OK);
    CU_ASSERT_EQUAL(hits, 1);
    CU_ASSERT_EQUAL(xent(wide, high, 1, 3000, 0, &loss, &hits, wide_grad), M2_OK);
    CU_ASSERT_EQUAL(hits, 0);
    CU_ASSERT_EQUAL(xent(nan_row, best, 1, 4, 0, &loss, &hits, g), M2_OK);
    CU_ASSERT(isnan(loss));
    CU_ASSERT_EQUAL(xent(x, beyond, 1, 4, 0, &loss, &hits, g), M2_DATA);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "target 4"));
}

/* A target that is all in one class is that class; a row of zeros does not count. */
static void test_softxent(void)
{
    enum { R = 5, V = 6 };
    double x[R * V], hard_grad[R * V], soft_grad[R * V], t[R * V] = {0}, loss, hits, soft_loss, lse[R],
                                                               soft_hits;
    int32_t target[R] = {2, 0, -100, 5, 3};
    for (int i = 0; i < R * V; i++) x[i] = sin(7.0 * i) * 3;
    for (int r = 0; r < R; r++)
        if (target[r] >= 0) t[r * V + target[r]] = 1;
    CU_ASSERT_EQUAL(xent(x, target, R, V, 3, &loss, &hits, hard_grad), M2_OK);
    m2_desc matrix = m2_desc_make(M2_F64, ".C", (int64_t)R, (int64_t)V), scalar = m2_desc_make(M2_F64, ""),
            rows = m2_desc_make(M2_F64, ".", (int64_t)R);
    m2_call c = {.attrs = {.i[M2_SOFTXENT_DENOM] = 3}, .n_in = 2, .n_out = 3};
    c.in[0] = m2_tensor_make(&matrix, x);
    c.in[1] = m2_tensor_make(&matrix, t);
    c.out[0] = m2_tensor_make(&scalar, &soft_loss);
    c.out[1] = m2_tensor_make(&rows, lse);
    c.out[2] = m2_tensor_make(&scalar, &soft_hits);
    CU_ASSERT_EQUAL(run(&m2_op_softxent, &c), M2_OK);
    m2_call g = {.attrs = c.attrs, .n_in = 4, .n_out = 1};
    g.in[0] = c.in[0], g.in[1] = c.in[1], g.in[2] = c.out[1];
    g.out[0] = m2_tensor_make(&matrix, soft_grad);
    CU_ASSERT_EQUAL(run(&m2_op_softxent_grad, &g), M2_OK);
    CU_ASSERT_DOUBLE_EQUAL(soft_loss, loss, 1e-13);
    CU_ASSERT_EQUAL(soft_hits, hits);
    for (int i = 0; i < R * V; i++) CU_ASSERT_DOUBLE_EQUAL(soft_grad[i], hard_grad[i], 1e-13);
}

/* ---- embedding, gather --------------------------------------------------------------------------------- */
static void test_embed(void)
{
    int32_t ids[] = {2, 0, 2, 1}, bad[] = {0, 1, 2, 3};
    float table[] = {1, 2, 10, 20, 100, 200}, pos[] = {.1f, .2f, .3f, .4f, .5f, .6f}, y[8];
    m2_call c = {.attrs.i = {[M2_EMBED_PAD] = -1}};
    c.in[0] = tensor(M2_I32, "BL", 2, 2, 0, ids);
    c.in[1] = tensor(M2_F32, ".C", 3, 2, 0, table);
    c.in[2] = tensor(M2_F32, ".C", 3, 2, 0, pos);
    c.out[0] = tensor(M2_F32, "BLC", 2, 2, 2, y);
    c.in[0].origin[1] = 1; /* positions 1 and 2 of 3 */
    CU_ASSERT_EQUAL(run(&m2_op_embed, &c), M2_OK);
    CU_ASSERT_DOUBLE_EQUAL(y[0], 100.3, 1e-4);
    CU_ASSERT_DOUBLE_EQUAL(y[7], 20.6, 1e-4);
    c.in[0].origin[1] = 2;
    CU_ASSERT_EQUAL(run(&m2_op_embed, &c), M2_USAGE); /* position 3 */
    c.in[0].origin[1] = 0;
    c.in[0].data = bad;
    CU_ASSERT_EQUAL(run(&m2_op_embed, &c), M2_DATA);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), "token id 3 at row 1, position 1"));
}

static void test_embed_pad(void)
{
    int32_t ids[] = {2, 0, 2, 1};
    float dy[] = {1, 2, 3, 4, 5, 6, 7, 8}, dtable[] = {9, 9, 9, 9, 9, 9};
    m2_call c = {.attrs.i = {[M2_EMBED_PAD] = 2}};
    c.in[0] = tensor(M2_I32, "BL", 2, 2, 0, ids);
    c.in[1] = tensor(M2_F32, "BLC", 2, 2, 2, dy);
    c.out[0] = tensor(M2_F32, ".C", 3, 2, 0, dtable);
    CU_ASSERT_EQUAL(run(&m2_op_embed_grad, &c), M2_OK);
    const float want[] = {3, 4, 7, 8, 0, 0};
    CU_ASSERT_EQUAL(memcmp(dtable, want, sizeof want), 0);
    c.acc = 1;
    dtable[4] = 5;
    CU_ASSERT_EQUAL(run(&m2_op_embed_grad, &c), M2_OK);
    CU_ASSERT(dtable[0] == 6 && dtable[4] == 5);
}

static void test_gather(void)
{
    float x[] = {1, 2, 3}, y[4];
    int32_t idx[] = {2, -1, 2, 0}, bad[] = {0, 3, 0, 0};
    m2_call c = {.in = {tensor(M2_F32, ".C", 3, 1, 0, x), tensor(M2_I32, ".", 4, 0, 0, idx)}};
    c.out[0] = tensor(M2_F32, ".C", 4, 1, 0, y);
    CU_ASSERT_EQUAL(run(&m2_op_gather, &c), M2_OK);
    CU_ASSERT(y[0] == 3 && y[1] == 0 && y[2] == 3 && y[3] == 1);
    c.in[1].data = bad;
    CU_ASSERT_EQUAL(run(&m2_op_gather, &c), M2_DATA);
}

/* ---- adam ---------------------------------------------------------------------------------------------- */
enum { N = 2 * M2_GROUP_BLOCK };

typedef struct adam_state {
    double p[N], m[N], v[N];
} adam_state;

static void adam_loop(adam_state *s, const double *g, const m2_step *step, int64_t decay, double norm)
{
    double clip = step->clip > 0 && norm > step->clip ? step->clip / norm : 1;
    for (int i = 0; i < N; i++) {
        double lr = step->lr * step->group[i / M2_GROUP_BLOCK].lr_scale;
        double wd = step->group[i / M2_GROUP_BLOCK].weight_decay;
        double x = g[i] * clip;
        s->m[i] = 0.9 * s->m[i] + 0.1 * x;
        s->v[i] = 0.95 * s->v[i] + 0.05 * x * x;
        double mhat = s->m[i] / (1 - pow(0.9, (double)step->step)),
               vhat = s->v[i] / (1 - pow(0.95, (double)step->step));
        if (decay == M2_DECAY_COUPLED)
            s->p[i] -= lr * wd * s->p[i];
        else
            s->p[i] *= 1 - lr / step->lr_peak * wd;
        s->p[i] -= lr * mhat / (sqrt(vhat) + 1e-8);
    }
}

static m2_status adam_call(m2_dtype dtype, adam_state *s, double *g, const m2_step *step, int64_t decay,
                           double *norm2, uint16_t *p16)
{
    float f[4][N]; /* p, g, m, v */
    void *data[4] = {s->p, g, s->m, s->v};
    uint8_t groups[] = {0, 1};
    for (int k = 0; k < 4 && dtype == M2_F32; k++) {
        for (int i = 0; i < N; i++) f[k][i] = (float)((double *)data[k])[i];
        data[k] = f[k];
    }
    m2_call c = {.step = step, .attrs = {.i = {[M2_ADAM_DECAY] = decay}, .f = {0.9, 0.95, 1e-8}}};
    for (int k = 0; k < 4; k++) c.in[k] = tensor(dtype, ".", N, 0, 0, data[k]);
    c.in[4] = tensor(M2_U8, ".", 2, 0, 0, groups);
    if (norm2) c.in[5] = tensor(M2_F64, "", 0, 0, 0, norm2);
    c.out[0] = c.in[0], c.out[1] = c.in[2], c.out[2] = c.in[3];
    if (p16) c.out[3] = tensor(M2_BF16, ".", N, 0, 0, p16);
    M2_TRY(run(&m2_op_adam, &c));
    for (int i = 0; i < N && dtype == M2_F32; i++)
        s->p[i] = (double)f[0][i], s->m[i] = (double)f[2][i], s->v[i] = (double)f[3][i];
    return M2_OK;
}

static void compare_adam(m2_dtype dtype, int64_t decay, double clip, double tol)
{
    adam_state want = {0}, got;
    m2_rng_key key = m2_rng_make_key(1, 2, 3);
    for (int i = 0; i < N; i++) want.p[i] = (double)(float)m2_rng_normal(key, (uint64_t)i);
    got = want;
    m2_step step = {.lr_peak = 0.01, .clip = clip, .group = {{1, 0.1}, {0.5, 0}}};
    uint16_t p16[N];
    for (step.step = 1; step.step <= 5; step.step++) {
        double g[N], norm2 = 0;
        step.lr = 0.01 / (double)step.step;
        for (int i = 0; i < N; i++) {
            g[i] = (double)(float)m2_rng_normal(key, (uint64_t)(step.step * N + i));
            norm2 += g[i] * g[i];
        }
        adam_loop(&want, g, &step, decay, sqrt(norm2));
        CU_ASSERT_EQUAL(adam_call(dtype, &got, g, &step, decay, &norm2, p16), M2_OK);
    }
    double worst = 0;
    int rounding = 0;
    for (int i = 0; i < N; i++) {
        worst = fmax(worst, fabs(got.p[i] - want.p[i]));
        worst = fmax(worst, fabs(got.m[i] - want.m[i]));
        worst = fmax(worst, fabs(got.v[i] - want.v[i]));
        rounding += p16[i] != m2_bf16_from_f32((float)got.p[i]);
    }
    CU_ASSERT(worst <= tol);
    CU_ASSERT_EQUAL(rounding, 0);
}

static void test_adam(void)
{
    for (int64_t decay = 0; decay < 2; decay++)
        for (int clipped = 0; clipped < 2; clipped++) {
            compare_adam(M2_F64, decay, clipped ? 3.0 : 0, 1e-14);
            compare_adam(M2_F32, decay, clipped ? 3.0 : 0, 2e-6);
        }
}

static void test_adam_skips(void)
{
    m2_step step = {
        .step = 1, .lr = 0.1, .lr_peak = 0.1, .clip = 1, .outlier = 10, .group = {{1, 0.1}, {1, 0.1}}};
    const double norms[] = {NAN, INFINITY, 100.01, 99.9};
    for (int k = 0; k < 4; k++) {
        adam_state s, before;
        double g[N], norm2 = norms[k];
        for (int i = 0; i < N; i++) s.p[i] = 1, s.m[i] = 2, s.v[i] = 3, g[i] = k < 2 ? norm2 : 1;
        before = s;
        CU_ASSERT_EQUAL(adam_call(M2_F64, &s, g, &step, 0, &norm2, NULL), M2_OK);
        CU_ASSERT_EQUAL(memcmp(&s, &before, sizeof s) == 0,
                        k < 3); /* the last norm is just below the outlier limit */
    }
}

/* ---- elementary functions ------------------------------------------------------------------------------ */
static double ulps(float got, double want)
{
    float near = (float)want;
    double size = (double)nextafterf(fabsf(near), INFINITY) - fabs((double)near);
    return fabs((double)got - want) / size;
}

static void test_functions(void)
{
    double e = 0, t = 0, s = 0, c = 0, tail = 0;
    for (float x = -86.9f; x <= 88.7f; x += 3.1e-4f) e = fmax(e, ulps(m2i_vexp_f32(x), exp((double)x)));
    for (float x = -12; x <= 12; x += 2.3e-5f) {
        t = fmax(t, ulps(m2i_vtanh_f32(x), tanh((double)x)));
        s = fmax(s, ulps(m2i_vsigmoid_f32(x), m2i_vsigmoid_f64((double)x)));
        double error = fabs((double)m2i_vcdf_f32(x) - m2i_vcdf_f64((double)x));
        c = fmax(c, error);
        if (x > -3) tail = fmax(tail, error / m2i_vcdf_f64((double)x));
    }
    CU_ASSERT(e <= 3 && t <= 3 && s <= 3 && c <= 1e-7 && tail <= 1e-5);
    if (e > 3 || t > 3 || s > 3 || c > 1e-7 || tail > 1e-5)
        fprintf(stderr, "exp %.2f tanh %.2f sigmoid %.2f ulp, cdf %.1e, tail %.1e\n", e, t, s, c, tail);
    CU_ASSERT(isnan(m2i_vexp_f32(NAN)) && isnan(m2i_vtanh_f32(NAN)) && isnan(m2i_vcdf_f32(NAN)));
    CU_ASSERT(m2i_vexp_f32(-INFINITY) == 0 && isinf(m2i_vexp_f32(INFINITY)) && isinf(m2i_vexp_f32(89)));
    CU_ASSERT(m2i_vcdf_f32(-40) == 0 && m2i_vcdf_f32(40) == 1 && m2i_vtanh_f32(50) == 1 &&
              m2i_vsigmoid_f32(-200) == 0);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
        {"dropout numbers elements globally", test_dropout},
        {"dropout keeps the right share", test_dropout_share},
        {"xent counts rows, ties, denominators", test_xent_counting},
        {"xent at extremes", test_xent_extremes},
        {"softxent of one class", test_softxent},
        {"embed: positions, bad ids", test_embed},
        {"embed: the padding row", test_embed_pad},
        {"gather", test_gather},
        {"adam against a plain loop", test_adam},
        {"adam skips bad norms", test_adam_skips},
        {"elementary functions", test_functions},
    };
    if (m2_device_open("cpu", 2, &device) != M2_OK) return fprintf(stderr, "%s\n", m2_message()), 1;
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("invariants", NULL, NULL);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) CU_add_test(suite, tests[i].name, tests[i].run);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    m2_device_close(&device);
    return failures != 0;
}
