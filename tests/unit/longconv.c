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

enum { U, K, KR, D, PRE, POST, DY }; /* inputs; those of the gradient op in the same slots */
enum { DU, DK, DKR, DD, DPRE, DPOST };

static m2_device *device;

static double noise(uint64_t i) /* in (-1, 1) */
{
    i = (i + 1) * 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 31)) * 0xbf58476d1ce4e5b9u;
    return (double)(int64_t)(i ^ (i >> 29)) / 9223372036854775808.0;
}

/* ---- one problem: arrays in double, run in either type ----------------------------------------------------------- */
typedef struct problem {
    m2_dtype dtype;
    int64_t c, b, l, f, lk;
    int share;
    unsigned present;     /* mask of U .. DY */
    double *in[7], *y, *out[6];
} problem;

static int64_t count_of(const problem *p, int slot)
{
    return slot == D ? p->f : slot == K || slot == KR ? p->f * p->lk : p->c * p->b * p->l;
}

static problem make(m2_dtype dtype, int64_t c, int64_t b, int64_t l, int64_t f, int64_t lk, int share, unsigned present)
{
    problem p = {dtype, c, b, l, f, lk, share, present | 1 << U | 1 << K | 1 << DY, {0}, NULL, {0}};
    for (int i = 0; i < 7; i++) {
        if (!(p.present >> i & 1)) continue;
        p.in[i] = malloc(sizeof(double) * (size_t)count_of(&p, i));
        for (int64_t e = 0; e < count_of(&p, i); e++) {
            double v = noise((uint64_t)(e + 1000003 * i));
            p.in[i][e] = dtype == M2_F32 ? (double)(float)v : v; /* inputs have no rounding of their own */
        }
    }
    p.y = calloc((size_t)(c * b * l), sizeof(double));
    for (int i = 0; i < 6; i++) p.out[i] = calloc((size_t)count_of(&p, i), sizeof(double));
    return p;
}

static void destroy(problem *p)
{
    for (int i = 0; i < 7; i++) free(p->in[i]);
    for (int i = 0; i < 6; i++) free(p->out[i]);
    free(p->y);
}

static m2_tensor tensor_of(const problem *p, int slot, const double *from)
{
    m2_desc d = slot == D                  ? m2_desc_make(p->dtype, "C", p->f)
                : slot == K || slot == KR ? m2_desc_make(p->dtype, "CL", p->f, p->lk)
                                          : m2_desc_make(p->dtype, "CBL", p->c, p->b, p->l);
    void *data = malloc((size_t)m2_desc_bytes(&d) + 1);
    for (int64_t i = 0; from && i < count_of(p, slot); i++) {
        if (p->dtype == M2_F64) ((double *)data)[i] = from[i];
        else ((float *)data)[i] = (float)from[i];
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
    if (!gradient) CU_ASSERT(op->shape(&c.attrs, in, shape) == M2_OK && m2_desc_same_shape(&shape[0], &in[U]));
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

/* ---- the definition: sums over j, nothing shared with the library ------------------------------------------------ */
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
                s += weight(p, filter_of(p, row / p->b), t, j) * p->in[U][row * p->l + j] * gate(p, PRE, row * p->l + j);
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
        {3, 2, 3, M2_SHARE_HEAD, 1 << KR | 1 << D | 1 << PRE | 1 << POST},
        {6, 5, 1, M2_SHARE_INDEX, 1 << PRE | 1 << D},
        {6, 1, 2, M2_SHARE_INDEX, 1 << POST},
    };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
            for (int part = 0; part < 2; part++) {
                int64_t l = lengths[i], lk = part ? (l + 2) / 3 : l;
                if (l >= 1000 && k != 3 && k != 2) continue;
                for (m2_dtype t = M2_F32; t <= M2_F64; t++) {
                    problem p = make(t, cases[k].c, cases[k].b, l, cases[k].f, lk, cases[k].share, cases[k].present);
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
                            printf("  L %d, case %d, Lk %d, %s: gradient %d off by %g\n", (int)l, (int)k, (int)lk,
                                   m2_dtype_name(t), s, e);
                        CU_ASSERT(e < 4 * limit(t));
                        free(want[s]);
                    }
                    free(y);
                    destroy(&p);
                }
            }
}

int main(void)
{
    if (m2_device_open("cpu", 0, &device) != M2_OK) return 1;
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("longconv", NULL, NULL);
    CU_add_test(s, "forward and backward equal the defining sums", equals_sums);
    CU_basic_run_tests();
    int bad = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    m2_device_close(&device);
    return bad;
}
