/* bench_loader.c - m2 bench loader STORE: how fast batches come out of a token store when nobody computes. */
#include "data/image_loader.h"
#include "data/image_store.h"
#include "kernels/base/log.h"
#include "tools/bench.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const char bench_loader_usage[] =
    "usage: m2 bench loader STORE [--length N] [--rows N] [--workers N] [--seconds S] [--json]\n"
    "\n"
    "Tokens per second that the loader alone delivers, shuffled, from a token store (or a mixture of them, "
    "as\n"
    "data.train names it). From a store of pictures: pictures per second, cropped to 224, flipped and "
    "mixed.\n"
    "\n"
    "  --length N   tokens of a row (2048)\n"
    "  --rows N     of a batch (32)\n"
    "  --workers N  loader threads: data.workers (1)\n"
    "  --seconds S  to measure for (3)\n";

enum { SIDE = 224 };

typedef struct settings {
    int64_t length, rows, workers;
    double seconds;
    int json;
} settings;

static int64_t at(void *ctx, int64_t batch)
{
    return batch * *(const int64_t *)ctx;
}

static m2_status measure(m2_loader *l, const settings *s, int64_t *batches, double *seconds)
{
    size_t tokens = (size_t)(s->rows * s->length);
    int32_t *batch = malloc(2 * tokens * sizeof *batch);
    if (!batch) return m2_fail(M2_TRANSIENT, "out of memory for a batch of %zu tokens", tokens);
    m2_status st = M2_OK;
    for (int i = 0; i < 4 && st == M2_OK; i++)
        st = m2_loader_next(l, batch, batch + tokens); /* the file is open, the cache warm */
    double start = m2_now();
    for (*batches = 0; st == M2_OK && (*seconds = m2_now() - start) < s->seconds; ++*batches)
        st = m2_loader_next(l, batch, batch + tokens);
    free(batch);
    return st;
}

static m2_status measure_pictures(m2_image_loader *l, const settings *s)
{
    size_t floats = (size_t)s->rows * SIDE * SIDE * 3;
    float *pixels = malloc(floats * sizeof *pixels);
    m2_status st = pixels ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for a batch of %zu floats", floats);
    int64_t batches = 0;
    double start = m2_now(), seconds = 0;
    for (; st == M2_OK && (seconds = m2_now() - start) < s->seconds; batches++)
        st = m2_image_loader_next(l, pixels, NULL, NULL);
    free(pixels);
    M2_TRY(st);
    printf("%.0f pictures/s: %" PRId64 " batches of %" PRId64 " x %d x %d from %" PRId64
           " pictures in %.1f s, %" PRId64 " worker%s\n",
           (double)(batches * s->rows) / seconds, batches, s->rows, SIDE, SIDE, m2_image_loader_pictures(l),
           seconds, s->workers, s->workers == 1 ? "" : "s");
    return M2_OK;
}

static m2_status bench_pictures(const char *path, settings *s)
{
    m2_image_loader *l;
    m2_image_loader_spec spec = {.path = path,
                                 .rows = s->rows,
                                 .shuffle = 1,
                                 .workers = (int)s->workers,
                                 .augment = m2_augment_usual(1, SIDE)};
    spec.augment.mixup = 0.8;
    spec.augment.cutmix = 1;
    M2_TRY(m2_image_loader_open(&spec, at, &s->rows, 0, &l));
    m2_status st = measure_pictures(l, s);
    m2_image_loader_close(&l);
    return st;
}

/* What the path names, if it is one store, decides. */
static m2_status holds_pictures(const char *path, int *pictures)
{
    m2_store *store;
    *pictures = 0;
    if (access(path, F_OK)) return M2_OK; /* a mixture, or an error that the loader names */
    M2_TRY(m2_store_open(path, &store));
    *pictures = m2_image_store_is(store);
    m2_store_close(&store);
    return M2_OK;
}

m2_status bench_loader(int argc, char **argv)
{
    int pictures;
    settings s = {.length = 2048, .rows = 32, .workers = 1, .seconds = 3};
    const m2_flag flags[] = {{"--length", M2_FLAG_INT, &s.length},   {"--rows", M2_FLAG_INT, &s.rows},
                             {"--workers", M2_FLAG_INT, &s.workers}, {"--seconds", M2_FLAG_REAL, &s.seconds},
                             {"--json", M2_FLAG_ON, &s.json},        {NULL, M2_FLAG_ON, NULL}};
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (argc != 2)
        return m2_fail(M2_USAGE, "which store? m2 bench loader STORE [--length N] [--rows N] [--workers N]");
    if (s.length < 1 || s.rows < 1 || s.workers < 1 || s.workers > 64 || !(s.seconds > 0))
        return m2_fail(
            M2_USAGE,
            "--length, --rows and --workers are at least 1 (--workers at most 64), --seconds more than 0");
    M2_TRY(holds_pictures(argv[1], &pictures));
    if (pictures) return bench_pictures(argv[1], &s);
    m2_loader_spec spec = {
        .path = argv[1], .length = s.length, .shuffle = 1, .rows = s.rows, .workers = (int)s.workers};
    m2_loader *l;
    int64_t batches = 0;
    double seconds = 0;
    M2_TRY(m2_loader_open(&spec, at, &s.rows, 0, &l));
    m2_status st = measure(l, &s, &batches, &seconds);
    int64_t sequences = m2_loader_sequences(l);
    m2_loader_close(&l);
    M2_TRY(st);
    char rate[32];
    double tokens = (double)(batches * s.rows * s.length);
    if (s.json)
        printf("{\"store\": \"%s\", \"length\": %" PRId64 ", \"rows\": %" PRId64 ", \"workers\": %" PRId64
               ", \"tokens\": %.0f, \"seconds\": %.4f, \"tokens_per_s\": %.6g}\n",
               argv[1], s.length, s.rows, s.workers, tokens, seconds, tokens / seconds);
    else
        printf("%s tokens/s: %" PRId64 " batches of %" PRId64 " x %" PRId64 " from %" PRId64
               " sequences in %.1f s, %" PRId64 " worker%s\n",
               m2_human_count(rate, tokens / seconds), batches, s.rows, s.length, sequences, seconds,
               s.workers, s.workers == 1 ? "" : "s");
    return M2_OK;
}
