/* The long convolution against the sums that define it, its laws, and (long rows) FFTW. */
#include "kernels/fft_cpu.h"
#include "kernels/ops.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef M2_FFTW
#include <fftw3.h>
#endif

enum { U, K, KR, D, PRE, POST, Y, DY, SLOTS }; /* inputs; those of the gradient op in the same slots */
enum { DU, DK, DKR, DD, DPRE, DPOST };

static m2_device *device;

static double noise(uint64_t i) /* in (-1, 1) */
{
    i = (i + 1) * 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 31)) * 0xbf58476d1ce4e5b9u;
    return (double)(int64_t)(i ^ (i >> 29)) / 9223372036854775808.0;
}

/* ---- one problem: arrays in double, run in either type ------------------------------------------------- */
typedef struct problem {
    m2_dtype dtype;
    int64_t c, b, l, f, lk;
    int share;
    unsigned present; /* mask of U .. DY */
    double *in[SLOTS], *y, *out[6];
} problem;

static int64_t count_of(const problem *p, int slot)
{
    return slot == D ? p->f : slot == K || slot == KR ? p->f * p->lk : p->c * p->b * p->l;
}

static problem make(m2_dtype dtype, int64_t c, int64_t b, int64_t l, int64_t f, int64_t lk, int share,
                    unsigned present)
{
    problem p = {dtype, c, b, l, f, lk, share, present | 1 << U | 1 << K | 1 << DY, {0}, NULL, {0}};
    for (int i = 0; i < SLOTS; i++) {
        if (!(p.present >> i & 1)) continue;
        p.in[i] = malloc(sizeof(double) * (size_t)count_of(&p, i));
        for (int64_t e = 0; e < count_of(&p, i); e++) {
            double v = noise((uint64_t)(e + 1000003 * (i == DY ? 6 : i)));
            p.in[i][e] = dtype == M2_F32 ? (double)(float)v : v; /* inputs have no rounding of their own */
        }
    }
    p.y = calloc((size_t)(c * b * l), sizeof(double));
    for (int i = 0; i < 6; i++) p.out[i] = calloc((size_t)count_of(&p, i), sizeof(double));
    return p;
}

static void destroy(problem *p)
{
    for (int i = 0; i < SLOTS; i++) free(p->in[i]);
    for (int i = 0; i < 6; i++) free(p->out[i]);
    free(p->y);
}

static m2_tensor tensor_of(const problem *p, int slot, const double *from)
{
    m2_desc d = slot == D                 ? m2_desc_make(p->dtype, "C", p->f)
                : slot == K || slot == KR ? m2_desc_make(p->dtype, "CL", p->f, p->lk)
                                          : m2_desc_make(p->dtype, "CBL", p->c, p->b, p->l);
    void *data = malloc((size_t)m2_desc_bytes(&d) + 1);
    for (int64_t i = 0; from && i < count_of(p, slot); i++) {
        if (p->dtype == M2_F64)
            ((double *)data)[i] = from[i];
        else
            ((float *)data)[i] = (float)from[i];
    }
    return m2_tensor_make(&d, data);
}

static void read_back(const problem *p, int slot, m2_tensor *t, double *to)
{
    for (int64_t i = 0; i < count_of(p, slot); i++)
        to[i] = p->dtype == M2_F64 ? ((double *)t->data)[i] : (double)((float *)t->data)[i];
    free(t->data);
}

static void run(problem *p, int gradient)
{
    const m2_op *op = gradient ? &m2_op_longconv_grad : &m2_op_longconv;
    m2_call c = {.op = op, .n_in = op->n_in, .n_out = op->n_out, .device = device};
    m2_desc in[M2_MAX_IN], out[M2_MAX_OUT];
    c.attrs.i[M2_LONGCONV_SHARE] = p->share;
    for (int i = 0; i < M2_MAX_IN; i++) in[i] = m2_desc_none();
    for (int i = 0; i < M2_MAX_OUT; i++) out[i] = m2_desc_none();
    for (int i = 0; i < op->n_in; i++)
        if (p->present >> i & 1) {
            c.in[i] = tensor_of(p, i, p->in[i]);
            in[i] = m2_tensor_desc(&c.in[i]);
        }
    for (int i = 0; i < op->n_out; i++)
        if (!gradient || p->present >> i & 1) c.out[i] = tensor_of(p, i, NULL);
    m2_desc shape[M2_MAX_OUT];
    if (!gradient)
        CU_ASSERT(op->shape(&c.attrs, in, shape) == M2_OK && m2_desc_same_shape(&shape[0], &in[U]));
    c.workspace_bytes = op->workspace(&c.attrs, in, out, device->threads);
    CU_ASSERT_FATAL(device->api->alloc(device, M2_MEM_DEVICE, c.workspace_bytes, &c.workspace) == M2_OK);
    memset(c.workspace, 0xff, (size_t)c.workspace_bytes); /* NaN */
    m2_status st = op->run(&c);
    if (st != M2_OK) puts(m2_message());
    CU_ASSERT_FATAL(st == M2_OK);
    device->api->free(device, M2_MEM_DEVICE, c.workspace);
    for (int i = 0; i < op->n_in; i++)
        if (p->present >> i & 1) free(c.in[i].data);
    for (int i = 0; i < op->n_out; i++)
        if (c.out[i].data) read_back(p, i, &c.out[i], gradient ? p->out[i] : p->y);
}

/* ---- the definition: sums over j, nothing shared with the library -------------------------------------- */
static double tap(const problem *p, int slot, int64_t f, int64_t lag)
{
    return (p->present >> slot & 1) && lag < p->lk ? p->in[slot][f * p->lk + lag] : 0;
}

static double gate(const problem *p, int slot, int64_t at)
{
    return p->present >> slot & 1 ? p->in[slot][at] : 1;
}

static int64_t filter_of(const problem *p, int64_t channel)
{
    return p->share == M2_SHARE_INDEX ? channel % p->f : channel / (p->c / p->f);
}

static double weight(const problem *p, int64_t f, int64_t t, int64_t j)
{
    if (j > t) return tap(p, KR, f, j - t - 1);
    return tap(p, K, f, t - j) + (t == j && p->present >> D & 1 ? p->in[D][f] : 0);
}

static void by_sums(const problem *p, double *y)
{
    for (int64_t row = 0; row < p->c * p->b; row++)
        for (int64_t t = 0; t < p->l; t++) {
            double s = 0;
            for (int64_t j = 0; j < p->l; j++)
                s += weight(p, filter_of(p, row / p->b), t, j) * p->in[U][row * p->l + j] *
                     gate(p, PRE, row * p->l + j);
            y[row * p->l + t] = s * gate(p, POST, row * p->l + t);
        }
}

static void gradient_by_sums(const problem *p, double *out[6])
{
    for (int i = 0; i < 6; i++) memset(out[i], 0, sizeof(double) * (size_t)count_of(p, i));
    for (int64_t row = 0; row < p->c * p->b; row++) {
        int64_t f = filter_of(p, row / p->b), at = row * p->l;
        for (int64_t t = 0; t < p->l; t++) {
            double ds = p->in[DY][at + t] * gate(p, POST, at + t), s = 0;
            for (int64_t j = 0; j < p->l; j++) {
                double w = weight(p, f, t, j), a = p->in[U][at + j] * gate(p, PRE, at + j);
                s += w * a;
                out[DU][at + j] += w * ds * gate(p, PRE, at + j);
                out[DPRE][at + j] += w * ds * p->in[U][at + j];
                if (j > t && j - t - 1 < p->lk) out[DKR][f * p->lk + j - t - 1] += ds * a;
                if (j <= t && t - j < p->lk) out[DK][f * p->lk + t - j] += ds * a;
                if (j == t) out[DD][f] += ds * a;
            }
            out[DPOST][at + t] = s * p->in[DY][at + t];
        }
    }
}

static double distance(int64_t n, const double *a, const double *b) /* relative L2 */
{
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++) {
        d += (a[i] - b[i]) * (a[i] - b[i]);
        s += b[i] * b[i];
    }
    return s > 0 ? sqrt(d / s) : sqrt(d);
}

static double limit(m2_dtype t)
{
    return t == M2_F64 ? 2e-15 : 1e-6;
}

enum { everything = 1 << KR | 1 << D | 1 << PRE | 1 << POST };

static void equals_sums(void)
{
    static const int64_t lengths[] = {1, 2, 3, 5, 16, 100, 127, 128, 196, 1000, 1024, 3000};
    static const struct {
        int64_t c, b, f;
        int share;
        unsigned present;
    } cases[] = {
        {1, 1, 1, M2_SHARE_HEAD, 0},
        {4, 3, 2, M2_SHARE_HEAD, 1 << D},
        {4, 3, 2, M2_SHARE_INDEX, 1 << KR},
        {3, 2, 3, M2_SHARE_HEAD, everything},
        {6, 5, 1, M2_SHARE_INDEX, 1 << PRE | 1 << D},
        {6, 1, 2, M2_SHARE_INDEX, 1 << POST},
    };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
            for (int part = 0; part < 2; part++) {
                int64_t l = lengths[i], lk = part ? (l + 2) / 3 : l;
                if (l >= 1000 && k != 3 && k != 2) continue;
                for (m2_dtype t = M2_F32; t <= M2_F64; t++) {
                    problem p =
                        make(t, cases[k].c, cases[k].b, l, cases[k].f, lk, cases[k].share, cases[k].present);
                    double *want[6], *y = malloc(sizeof(double) * (size_t)(p.c * p.b * l));
                    for (int s = 0; s < 6; s++) want[s] = malloc(sizeof(double) * (size_t)count_of(&p, s));
                    by_sums(&p, y);
                    gradient_by_sums(&p, want);
                    run(&p, 0);
                    run(&p, 1);
                    CU_ASSERT(distance(p.c * p.b * l, p.y, y) < limit(t));
                    for (int s = 0; s < 6; s++) {
                        double e = p.present >> s & 1 ? distance(count_of(&p, s), p.out[s], want[s]) : 0;
                        if (!(e < 4 * limit(t)))
                            printf("  L %d, case %d, Lk %d, %s: gradient %d off by %g\n", (int)l, (int)k,
                                   (int)lk, m2_dtype_name(t), s, e);
                        CU_ASSERT(e < 4 * limit(t));
                        free(want[s]);
                    }
                    free(y);
                    destroy(&p);
                }
            }
}

/* ---- long rows: the same through FFTW in double -------------------------------------------------------- */
#ifdef M2_FFTW
static void by_fftw(const problem *p, double *y) /* one row of one filter, no gates */
{
    int64_t n = 2 * p->l;
    double *x = fftw_malloc(sizeof(double) * (size_t)(n + 2)),
           *k = fftw_malloc(sizeof(double) * (size_t)(n + 2));
    fftw_complex *cx = (fftw_complex *)x, *ck = (fftw_complex *)k;
    fftw_plan forward = fftw_plan_dft_r2c_1d((int)n, x, cx, FFTW_ESTIMATE);
    fftw_plan inverse = fftw_plan_dft_c2r_1d((int)n, cx, x, FFTW_ESTIMATE);
    for (int64_t i = 0; i < n; i++) {
        x[i] = i < p->l ? p->in[U][i] : 0;
        k[i] = i < p->l ? weight(p, 0, i, 0) : i > p->l ? tap(p, KR, 0, n - i - 1) : 0;
    }
    fftw_execute_dft_r2c(forward, k, ck);
    fftw_execute(forward);
    for (int64_t i = 0; i <= p->l; i++) {
        double re = cx[i][0] * ck[i][0] - cx[i][1] * ck[i][1];
        cx[i][1] = cx[i][0] * ck[i][1] + cx[i][1] * ck[i][0];
        cx[i][0] = re;
    }
    fftw_execute(inverse);
    for (int64_t i = 0; i < p->l; i++) y[i] = x[i] / (double)n;
    fftw_destroy_plan(forward);
    fftw_destroy_plan(inverse);
    fftw_free(x);
    fftw_free(k);
}

static void equals_fftw(void)
{
    static const int64_t lengths[] = {4097, 12288, 65536, 100003, 1048576};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (m2_dtype t = M2_F32; t <= M2_F64; t++) {
            problem p =
                make(t, 1, 1, lengths[i], 1, lengths[i] - (int64_t)i, M2_SHARE_HEAD, 1 << KR | 1 << D);
            double *want = malloc(sizeof(double) * (size_t)p.l);
            by_fftw(&p, want);
            run(&p, 0);
            CU_ASSERT(distance(p.l, p.y, want) < limit(t));
            free(want);
            destroy(&p);
        }
}
#endif

/* ---- laws ---------------------------------------------------------------------------------------------- */
static const int64_t law_lengths[] = {1, 7, 128, 600, 2048, 9000};
enum { LAW_LENGTHS = sizeof law_lengths / sizeof *law_lengths };

/* Largest change of outputs before t, relative to the largest output, when input t changes. */
static double leak(m2_dtype dtype, int64_t l, int64_t t, unsigned present)
{
    problem p = make(dtype, 1, 1, l, 1, l, M2_SHARE_HEAD, present);
    double *before = malloc(sizeof(double) * (size_t)l), size = 0, change = 0;
    run(&p, 0);
    memcpy(before, p.y, sizeof(double) * (size_t)l);
    p.in[U][t] = -2 * p.in[U][t] + 1;
    run(&p, 0);
    for (int64_t i = 0; i < l; i++) {
        if (fabs(before[i]) > size) size = fabs(before[i]);
        if (i < t && fabs(p.y[i] - before[i]) > change) change = fabs(p.y[i] - before[i]);
    }
    free(before);
    destroy(&p);
    return change / size;
}

static void causality(void)
{
    for (int i = 0; i < LAW_LENGTHS; i++) {
        int64_t l = law_lengths[i];
        for (int q = 1; q <= 3; q++) {
            int64_t t = q * (l - 1) / 3;
            CU_ASSERT(leak(M2_F32, l, t, 1 << D) < 1e-6);
            CU_ASSERT(leak(M2_F64, l, t, 1 << D) < 1e-14);
            if (t > 0) CU_ASSERT(leak(M2_F64, l, t, 1 << KR) > 1e-3); /* the check does see the future */
        }
    }
}

/* y is linear in the input and, for a fixed input, in the filter. */
static void linearity(void)
{
    for (int i = 0; i < LAW_LENGTHS; i++) {
        for (int slot = U; slot <= K; slot++) {
            problem a = make(M2_F64, 2, 2, law_lengths[i], 1, law_lengths[i], M2_SHARE_HEAD, 0);
            problem b = make(M2_F64, 2, 2, law_lengths[i], 1, law_lengths[i], M2_SHARE_HEAD, 0);
            problem c = make(M2_F64, 2, 2, law_lengths[i], 1, law_lengths[i], M2_SHARE_HEAD, 0);
            for (int64_t e = 0; e < count_of(&a, slot); e++) {
                b.in[slot][e] = noise((uint64_t)e + 77777);
                c.in[slot][e] = 2 * a.in[slot][e] - 3 * b.in[slot][e];
            }
            run(&a, 0);
            run(&b, 0);
            run(&c, 0);
            for (int64_t e = 0; e < count_of(&a, U); e++) a.y[e] = 2 * a.y[e] - 3 * b.y[e];
            CU_ASSERT(distance(count_of(&a, U), a.y, c.y) < 1e-14);
            destroy(&a);
            destroy(&b);
            destroy(&c);
        }
    }
}

/* Convolution with one tap of lag m shifts; with the same filter, input and filter may change roles. */
static void shift_and_exchange(void)
{
    for (int i = 0; i < LAW_LENGTHS; i++) {
        int64_t l = law_lengths[i], m = l / 3;
        problem p = make(M2_F64, 1, 1, l, 1, l, M2_SHARE_HEAD, 0),
                q = make(M2_F64, 1, 1, l, 1, l, M2_SHARE_HEAD, 0);
        memcpy(q.in[U], p.in[K], sizeof(double) * (size_t)l);
        memcpy(q.in[K], p.in[U], sizeof(double) * (size_t)l);
        run(&p, 0);
        run(&q, 0);
        CU_ASSERT(distance(l, p.y, q.y) < 1e-14);
        for (int64_t t = 0; t < l; t++) p.in[K][t] = t == m;
        run(&p, 0);
        double worst = 0;
        for (int64_t t = 0; t < l; t++) worst = fmax(worst, fabs(p.y[t] - (t >= m ? p.in[U][t - m] : 0)));
        CU_ASSERT(worst < 1e-14);
        destroy(&p);
        destroy(&q);
    }
}

/* Convolution theorem: sum_t y[t] x^t = (sum a x^t) (sum k x^t) up to x^L when both are short enough not to be cut. */
static void theorem(void)
{
    for (int i = 2; i < LAW_LENGTHS; i++) {
        int64_t l = law_lengths[i], half = l / 2;
        problem p = make(M2_F64, 1, 1, l, 1, half, M2_SHARE_HEAD, 0);
        for (int64_t t = half; t < l; t++) p.in[U][t] = 0;
        run(&p, 0);
        for (int q = 0; q < 8; q++) {
            double re[3] = {0}, im[3] = {0}, angle = 0.1 + 0.7 * q, norm[3] = {0};
            const double *s[3] = {p.in[U], p.in[K], p.y};
            for (int which = 0; which < 3; which++)
                for (int64_t t = 0; t < (which == 1 ? half : l); t++) {
                    re[which] += s[which][t] * cos(angle * (double)t);
                    im[which] += s[which][t] * sin(angle * (double)t);
                    norm[which] += s[which][t] * s[which][t];
                }
            double size = sqrt(norm[0] * norm[1]) * (double)l;
            CU_ASSERT(fabs(re[0] * re[1] - im[0] * im[1] - re[2]) < 1e-13 * size);
            CU_ASSERT(fabs(re[0] * im[1] + im[0] * re[1] - im[2]) < 1e-13 * size);
        }
        destroy(&p);
    }
}

static double inner(int64_t n, const double *a, const double *b)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

/* y is linear in each input (k, kr, D together): <y, dy> = <input, its gradient>. */
static void adjoints(void)
{
    static const unsigned sets[] = {1 << U, 1 << PRE, 1 << POST, 1 << K | 1 << KR | 1 << D};
    for (int i = 0; i < LAW_LENGTHS; i++)
        for (m2_dtype t = M2_F32; t <= M2_F64; t++) {
            problem p = make(t, 6, 3, law_lengths[i], 2, law_lengths[i], M2_SHARE_INDEX, everything);
            run(&p, 0);
            run(&p, 1);
            double left = inner(count_of(&p, U), p.y, p.in[DY]);
            double size = sqrt(inner(count_of(&p, U), p.y, p.y) * inner(count_of(&p, U), p.in[DY], p.in[DY]));
            for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
                double right = 0;
                for (int slot = 0; slot < 6; slot++)
                    if (sets[s] >> slot & 1) right += inner(count_of(&p, slot), p.in[slot], p.out[slot]);
                CU_ASSERT(fabs(left - right) < 4 * limit(t) * size);
            }
            destroy(&p);
        }
}

/* dpost by way of y, and of the convolution again where a gate is too small for that, in some rows of a bundle. */
static void gradient_of_gates(void)
{
    for (int i = 0; i < LAW_LENGTHS; i++)
        for (m2_dtype t = M2_F32; t <= M2_F64; t++)
            for (int zeros = 0; zeros < 2; zeros++) {
                problem p = make(t, 6, 3, law_lengths[i], 2, law_lengths[i], M2_SHARE_INDEX, everything);
                double *want = malloc(sizeof *want * (size_t)count_of(&p, U));
                for (int64_t row = 0; zeros && row < p.c * p.b; row += 5)
                    p.in[POST][row * p.l + row % p.l] = row ? 0 : 0x1p-90;
                run(&p, 0);
                run(&p, 1);
                memcpy(want, p.out[DPOST], sizeof *want * (size_t)count_of(&p, U));
                p.present |= 1 << Y;
                p.in[Y] = malloc(sizeof *p.in[Y] * (size_t)count_of(&p, U));
                memcpy(p.in[Y], p.y, sizeof *p.in[Y] * (size_t)count_of(&p, U));
                run(&p, 1);
                CU_ASSERT(distance(count_of(&p, U), p.out[DPOST], want) < limit(t));
                CU_ASSERT(!zeros || p.out[DPOST][0] == want[0]); /* the same arithmetic */
                free(want);
                destroy(&p);
            }
}

/* Units of work depend on shapes only: 1, 2 and 5 threads give the same bits, with few and with many filters. */
static void threads(void)
{
    for (int64_t f = 1; f <= 12; f *= 12) {
        problem p = make(M2_F32, 12, 24, 200, f, 150, M2_SHARE_HEAD, everything);
        problem q = make(M2_F32, 12, 24, 200, f, 150, M2_SHARE_HEAD, everything);
        device->threads = 1;
        run(&p, 0);
        run(&p, 1);
        for (int n = 2; n <= 5; n += 3) {
            device->threads = n;
            run(&q, 0);
            run(&q, 1);
            CU_ASSERT(memcmp(p.y, q.y, sizeof(double) * (size_t)count_of(&p, U)) == 0);
            for (int i = 0; i < 6; i++)
                CU_ASSERT(memcmp(p.out[i], q.out[i], sizeof(double) * (size_t)count_of(&p, i)) == 0);
        }
        destroy(&p);
        destroy(&q);
    }
}

int main(void)
{
    if (m2_device_open("cpu", 0, &device) != M2_OK) return 1;
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("longconv", NULL, NULL);
    CU_add_test(s, "forward and backward equal the defining sums", equals_sums);
    CU_add_test(s, "causality, and that its check can fail", causality);
    CU_add_test(s, "linearity", linearity);
    CU_add_test(s, "shift, and exchange of input and filter", shift_and_exchange);
    CU_add_test(s, "convolution theorem", theorem);
    CU_add_test(s, "adjoint identities", adjoints);
    CU_add_test(s, "gradients of gates by way of y", gradient_of_gates);
    CU_add_test(s, "the same bits with any number of threads", threads);
#ifdef M2_FFTW
    CU_add_test(s, "long rows equal FFTW", equals_fftw);
#endif
    CU_basic_run_tests();
    int bad = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    m2_device_close(&device);
#ifndef M2_FFTW
    if (!bad) {
        puts("everything but the comparison with FFTW passed: fftw3 was not found by pkg-config when this "
             "was built");
        return 77;
    }
#endif
    return bad;
}
