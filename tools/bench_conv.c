/* bench_conv.c - m2 bench conv: the long convolution's time per length, against what bounds it, against the device's own
 * Fourier transforms, and against the figures that others published; and what its cost model knows of its variants. */
#include "tools/bench.h"
#include "tools/conv_trial.h"

#include "kernels/base/log.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
    "m2 bench conv [options]     time of the long convolution (best of several runs)\n"
    "  --device SPEC      cpu, cuda, cuda:1, auto (auto)\n"
    "  --threads N        CPU threads, 0 = all (0)\n"
    "  --lengths A,B,...  positions (1024,2048,4096,8192,16384,32768,65536)\n"
    "  --tokens N         rows x positions; rows = N / length, at least 1 (65536)\n"
    "  --channels N       channels (64 on the CPU, 1024 on a GPU)\n"
    "  --filters N        filters, a divisor of the channels (one each)\n"
    "  --dtype T          f32, f64, bf16 (f32 on the CPU, bf16 on a GPU)\n"
    "  --gates            multiply before and after (so on a GPU unless --no-gates)\n"
    "  --two-sided        taps of negative lags as well\n"
    "  --seconds S        time to spend on each measurement (0.3)\n"
    "  --no-rival         do not measure FFTW (CPU, f32) or cuFFT (GPU)\n"
    "  --variants         list every way to run it, with the time measured and the time expected\n"
    "  --json             one JSON array instead of the table\n";

enum { MAX_LENGTHS = 32 };

typedef struct options {
    const char *device;
    conv_setup
        setup; /* dtype M2_DTYPE_COUNT, gates -1, channels and filters 0: as the device is usually used */
    int rival, variants, json, help;
    int64_t threads, length[MAX_LENGTHS];
    int lengths;
} options;

/* ---- options ------------------------------------------------------------------------------------------- */
static m2_status number(const char *name, const char *text, double least, double most, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end || !(*out >= least && *out <= most))
        return m2_fail(M2_USAGE, "m2 bench conv: %s %s: expected a number from %.15g to %.15g", name, text,
                       least, most);
    return M2_OK;
}

static m2_status lengths(const char *text, options *o)
{
    char one[32];
    for (o->lengths = 0; *text; o->lengths++) {
        size_t n = strcspn(text, ",");
        if (o->lengths == MAX_LENGTHS || n >= sizeof one)
            return m2_fail(M2_USAGE, "m2 bench conv: --lengths takes at most %d numbers", MAX_LENGTHS);
        memcpy(one, text, n);
        one[n] = 0;
        double v;
        M2_TRY(number("--lengths", one, 1, 1 << 30, &v));
        o->length[o->lengths] = (int64_t)v;
        text += n + (text[n] == ',');
    }
    return M2_OK;
}

/* Options with a value: 1 if `name` is one of them. */
static m2_status with_value(options *o, const char *name, const char *value, int *known)
{
    const struct {
        const char *name;
        int64_t *to;
        double least, most;
    } numbers[] = {
        {"--threads", &o->threads, 0, 4096},
        {"--tokens", &o->setup.tokens, 1, 1e12},
        {"--channels", &o->setup.channels, 1, 1e6},
        {"--filters", &o->setup.filters, 1, 1e6},
    };
    *known = 1;
    if (!strcmp(name, "--device")) return o->device = value, M2_OK;
    if (!strcmp(name, "--lengths")) return lengths(value, o);
    if (!strcmp(name, "--dtype")) return m2_dtype_parse(value, &o->setup.dtype);
    if (!strcmp(name, "--seconds")) return number(name, value, 0, 3600, &o->setup.seconds);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(name, numbers[i].name)) {
            double v;
            M2_TRY(number(name, value, numbers[i].least, numbers[i].most, &v));
            *numbers[i].to = (int64_t)v;
            return M2_OK;
        }
    *known = 0;
    return M2_OK;
}

static int flag(options *o, const char *name)
{
    const struct {
        const char *name;
        int *to, value;
    } flags[] = {
        {"--gates", &o->setup.gates, 1},
        {"--no-gates", &o->setup.gates, 0},
        {"--two-sided", &o->setup.two_sided, 1},
        {"--no-rival", &o->rival, 0},
        {"--no-fftw", &o->rival, 0},
        {"--variants", &o->variants, 1},
        {"--json", &o->json, 1},
        {"--help", &o->help, 1},
        {"-h", &o->help, 1},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (!strcmp(name, flags[i].name)) return *flags[i].to = flags[i].value, 1;
    return 0;
}

static m2_status parse(int argc, char **argv, options *o)
{
    *o = (options){.device = "auto",
                   .rival = 1,
                   .setup = {.gates = -1, .tokens = 65536, .dtype = M2_DTYPE_COUNT, .seconds = 0.3}};
    for (int64_t l = 1024; l <= 65536; l *= 2) o->length[o->lengths++] = l;
    for (int i = 0; i < argc; i++) {
        int known;
        if (flag(o, argv[i])) continue;
        M2_TRY(with_value(o, argv[i], i + 1 < argc ? argv[i + 1] : "", &known));
        if (!known)
            return m2_fail(M2_USAGE, "m2 bench conv: unknown option %s; m2 bench conv --help lists them",
                           argv[i]);
        i++;
    }
    return M2_OK;
}

/* ---- what is measured ---------------------------------------------------------------------------------- */
enum { MAX_VARIANTS = 16 };

typedef struct timing {        /* of the op or its gradient; seconds */
    double best, floor, rival; /* rival 0: not measured */
    m2_cost cost;
    int variants, chosen, fastest;
    struct {
        m2_variant expected;
        double best;
    } variant[MAX_VARIANTS];
} timing;

typedef struct line {
    int64_t length, rows;
    timing of[2]; /* forward, backward */
    char rival[32];
    double difference; /* of the rival's outputs from ours */
} line;

static m2_status time_variants(conv_trial *t, double seconds, timing *r)
{
    m2_variant list[MAX_VARIANTS];
    double best[MAX_VARIANTS];
    const m2_device_api *api = t->device->api;
    r->variants = api->variants(t->device, t->call.op, &t->call.attrs, t->in, list, MAX_VARIANTS);
    if (r->variants) M2_TRY(conv_trial_time(t, seconds, 1, r->variants, best));
    for (int i = 0; i < r->variants; i++) {
        r->variant[i].expected = list[i];
        r->variant[i].best = best[i];
        if (list[i].seconds < list[r->chosen].seconds) r->chosen = i;
        if (best[i] < best[r->fastest]) r->fastest = i;
    }
    return M2_OK;
}

static double slower_by(const timing *r) /* the choice than the fastest */
{
    return r->variants ? r->variant[r->chosen].best / r->variant[r->fastest].best - 1 : 0;
}

/* The rival's time; its absence is said once. */
static m2_status time_rival(conv_trial *t, const options *o, int gradient, line *r)
{
    m2_rival *rival = NULL;
    double most = o->setup.dtype == M2_BF16 ? 1e-2 : 1e-4;
    if (t->device->api->rival(t->device, t->in, &rival) != M2_OK) {
        m2_log_once(M2_LOG_WARN, "no rival to compare with: %s", m2_message());
        return M2_OK;
    }
    m2_status st = M2_OK;
    if (!gradient || rival->gradient) {
        snprintf(r->rival, sizeof r->rival, "%s", rival->name);
        st = conv_trial_time_rival(t, o->setup.seconds, rival, &r->of[gradient].rival);
    }
    if (st == M2_OK && !gradient) st = conv_trial_compare(t, rival, &r->difference);
    if (st == M2_OK && !(r->difference <= most))
        st = m2_fail(M2_BUG, "m2 bench conv: at L = %lld the results differ from %s by %.3g (relative L2)",
                     (long long)r->length, rival->name, r->difference);
    rival->close(rival);
    return st;
}

static m2_status time_op(m2_device *dev, const options *o, double bandwidth, int gradient, line *r)
{
    conv_trial t;
    timing *own = &r->of[gradient];
    double seconds = o->setup.seconds;
    m2_status st = conv_trial_open(dev, &o->setup, r->length, gradient, &t);
    if (st == M2_OK) st = conv_trial_time(&t, seconds, 0, 1, &own->best);
    if (st == M2_OK) st = time_variants(&t, 2 * seconds, own);
    if (st == M2_OK && o->rival) st = time_rival(&t, o, gradient, r);
    own->cost = t.cost;
    own->floor = t.cost.bytes / bandwidth;
    conv_trial_close(&t);
    return st;
}

/* ---- what others published ----------------------------------------------------------------------------- */
/* Milliseconds, forward and forward + backward, of the gated causal convolution of 65,536 tokens x 1024 channels. Quoted, not
 * measured here: from one NVIDIA H200 with CUDA 13 and PyTorch 2.11, on 2026-11-23; FlashFFTConv at revision b877102. */
typedef struct quotation {
    int64_t length;
    struct {
        double forward, both;
    } flash_bf16, flash_fp16, torch_fft;
} quotation;

static const quotation quotations[] = {
    {1024, {1.39, 6.11}, {0.77, 3.21}, {2.20, 6.48}},  {2048, {1.08, 4.06}, {0.98, 3.68}, {2.27, 6.65}},
    {4096, {1.46, 5.06}, {1.34, 4.61}, {2.32, 6.78}},  {8192, {3.05, 10.5}, {2.01, 7.06}, {2.44, 7.28}},
    {16384, {3.83, 14.3}, {2.59, 9.96}, {2.86, 8.41}}, {32768, {5.52, 16.4}, {4.97, 14.7}, {3.39, 9.91}},
    {65536, {7.41, 19.8}, {7.12, 18.6}, {5.15, 13.4}},
};

/* NULL unless this is the problem that was measured there. */
static const quotation *quoted(const m2_device *dev, const options *o, int64_t length)
{
    const conv_setup *s = &o->setup;
    int same = s->gates && !s->two_sided && s->channels == 1024 && s->tokens == 65536 && s->dtype == M2_BF16;
    for (size_t i = 0; same && i < sizeof quotations / sizeof *quotations; i++)
        if (quotations[i].length == length && strcmp(dev->api->kind, "cpu")) return &quotations[i];
    return NULL;
}

/* ---- the report ---------------------------------------------------------------------------------------- */
static double of_both(const line *r, size_t member) /* sum of a double member of both timings */
{
    double v[2];
    for (int i = 0; i < 2; i++) memcpy(&v[i], (const char *)&r->of[i] + member, sizeof v[i]);
    return v[0] + v[1];
}
#define BOTH(r, member) of_both(r, offsetof(timing, member))

static void print_json_variants(const timing *t, const char *name)
{
    printf(",\n   \"%s_variants\": [", name);
    for (int i = 0; i < t->variants; i++)
        printf("%s\n    {\"name\": \"%s\", \"measured_ms\": %.6g, \"expected_ms\": %.6g, \"chosen\": %s}",
               i ? "," : "", t->variant[i].expected.name, t->variant[i].best * 1e3,
               t->variant[i].expected.seconds * 1e3, i == t->chosen ? "true" : "false");
    printf("],\n   \"%s_choice_slower_by\": %.4g", name, slower_by(t));
}

static void print_json(const options *o, const m2_device *dev, double bandwidth, const line *r, int first)
{
    const conv_setup *s = &o->setup;
    const timing *f = &r->of[0], *b = &r->of[1];
    printf(
        "%s\n  {\"device\": \"%s\", \"dtype\": \"%s\", \"length\": %lld, \"rows\": %lld, \"channels\": %lld, "
        "\"filters\": %lld, \"gates\": %s, \"two_sided\": %s,\n   \"forward_ms\": %.6g, "
        "\"forward_backward_ms\": "
        "%.6g, \"floor_forward_ms\": %.6g, \"floor_forward_backward_ms\": %.6g, \"bandwidth_gbytes_per_s\": "
        "%.6g,\n"
        "   \"forward_of_floor\": %.4g, \"forward_backward_of_floor\": %.4g, \"gflops\": %.6g, "
        "\"gbytes_per_s\": %.6g",
        first ? "[" : ",", dev->name, m2_dtype_name(s->dtype), (long long)r->length, (long long)r->rows,
        (long long)s->channels, (long long)s->filters, s->gates ? "true" : "false",
        s->two_sided ? "true" : "false", f->best * 1e3, BOTH(r, best) * 1e3, f->floor * 1e3,
        BOTH(r, floor) * 1e3, bandwidth / 1e9, f->best / f->floor, BOTH(r, best) / BOTH(r, floor),
        BOTH(r, cost.flops) / BOTH(r, best) / 1e9, BOTH(r, cost.bytes) / BOTH(r, best) / 1e9);
    if (f->rival > 0)
        printf(",\n   \"rival\": \"%s\", \"rival_forward_ms\": %.6g, \"times_rival_forward\": %.4g, "
               "\"rival_difference\": %.3g",
               r->rival, f->rival * 1e3, f->rival / f->best, r->difference);
    if (b->rival > 0)
        printf(", \"rival_forward_backward_ms\": %.6g, \"times_rival_forward_backward\": %.4g",
               BOTH(r, rival) * 1e3, BOTH(r, rival) / BOTH(r, best));
    const quotation *q = quoted(dev, o, r->length);
    if (q)
        printf(",\n   \"quoted\": {\"flashfftconv_bf16_ms\": [%g, %g], \"flashfftconv_fp16_ms\": [%g, %g], "
               "\"torch_fft_ms\": [%g, %g]}, \"times_flashfftconv_bf16\": [%.4g, %.4g]",
               q->flash_bf16.forward, q->flash_bf16.both, q->flash_fp16.forward, q->flash_fp16.both,
               q->torch_fft.forward, q->torch_fft.both, q->flash_bf16.forward / f->best / 1e3,
               q->flash_bf16.both / BOTH(r, best) / 1e3);
    print_json_variants(f, "forward");
    print_json_variants(b, "backward");
    printf("}");
}

static void print_header(const options *o, const m2_device *dev, double bandwidth)
{
    const conv_setup *s = &o->setup;
    int gpu = strcmp(dev->api->kind, "cpu") != 0;
    printf("%s, memory %.1f GB/s; %s, %lld channels, %lld filters%s%s; milliseconds, best run\n", dev->name,
           bandwidth / 1e9, m2_dtype_name(s->dtype), (long long)s->channels, (long long)s->filters,
           s->gates ? ", gated" : "", s->two_sided ? ", two-sided" : "");
    printf("floor: bytes that must move, at the memory's speed; choice: how much slower the variant that the "
           "cost model\n"
           "takes is than the fastest; rival: r2c, product, c2r with zeros to 2L through %s%s\n",
           gpu ? "cuFFT, in f32" : "FFTW, on the same threads",
           gpu ? ";\nFlashFFTConv, bf16: not measured here, quoted from an H200" : "");
    printf("%8s %5s %9s %9s  %6s %6s  %8s  %6s %6s  %9s %6s", "L", "rows", "forward", "+backward", "/floor",
           "/floor", "GFLOP/s", "choice", "choice", "rival", "ratio");
    if (gpu) printf(" %9s %6s  %12s", "+backward", "ratio", "FlashFFTConv");
    printf("\n");
}

static void print_line(const options *o, const m2_device *dev, const line *r)
{
    const timing *f = &r->of[0], *b = &r->of[1];
    const quotation *q = quoted(dev, o, r->length);
    printf("%8lld %5lld %9.3f %9.3f  %6.2f %6.2f  %8.1f  %5.1f%% %5.1f%%", (long long)r->length,
           (long long)r->rows, f->best * 1e3, BOTH(r, best) * 1e3, f->best / f->floor,
           BOTH(r, best) / BOTH(r, floor), BOTH(r, cost.flops) / BOTH(r, best) / 1e9, 100 * slower_by(f),
           100 * slower_by(b));
    if (f->rival > 0) printf("  %9.3f %5.2fx", f->rival * 1e3, f->rival / f->best);
    if (b->rival > 0) printf(" %9.3f %5.2fx", BOTH(r, rival) * 1e3, BOTH(r, rival) / BOTH(r, best));
    if (q) printf("  %5.2f / %5.2f", q->flash_bf16.forward, q->flash_bf16.both);
    printf("\n");
    for (int i = 0; o->variants && i < 2; i++)
        for (int v = 0; v < r->of[i].variants; v++)
            printf("%14s %-8s %-36s %9.3f measured %9.3f expected%s\n", "", i ? "backward" : "forward",
                   r->of[i].variant[v].expected.name, r->of[i].variant[v].best * 1e3,
                   r->of[i].variant[v].expected.seconds * 1e3, v == r->of[i].chosen ? "  chosen" : "");
    fflush(stdout);
}

static m2_status bench(m2_device *dev, const options *o)
{
    double bandwidth;
    M2_TRY(conv_bandwidth(dev, &bandwidth));
    if (!o->json) print_header(o, dev, bandwidth);
    for (int i = 0; i < o->lengths; i++) {
        line r = {.length = o->length[i], .rows = conv_rows(&o->setup, o->length[i])};
        for (int gradient = 0; gradient < 2; gradient++) M2_TRY(time_op(dev, o, bandwidth, gradient, &r));
        if (o->json)
            print_json(o, dev, bandwidth, &r, i == 0);
        else
            print_line(o, dev, &r);
    }
    if (o->json) printf("\n]\n");
    return M2_OK;
}

m2_status m2_bench_conv(int argc, char **argv)
{
    options o;
    M2_TRY(parse(argc, argv, &o));
    if (o.help) {
        fputs(usage, stdout);
        return M2_OK;
    }
    m2_device *dev;
    M2_TRY(m2_device_open(o.device, (int)o.threads, &dev));
    int cpu = !strcmp(dev->api->kind, "cpu");
    conv_setup *s = &o.setup;
    if (!s->channels) s->channels = cpu ? 64 : 1024;
    if (!s->filters) s->filters = s->channels;
    if (s->dtype == M2_DTYPE_COUNT) s->dtype = cpu ? M2_F32 : M2_BF16;
    if (s->gates < 0) s->gates = !cpu;
    if (s->dtype == M2_F64) o.rival = 0;
    m2_status st = s->channels % s->filters == 0
                       ? bench(dev, &o)
                       : m2_fail(M2_USAGE, "m2 bench conv: --filters %lld does not divide --channels %lld",
                                 (long long)s->filters, (long long)s->channels);
    m2_device_close(&dev);
    return st;
}
