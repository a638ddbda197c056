/* prepare_images.c - m2 prepare --images FOLDER|ARCHIVE...: pictures become a store. */
#include "data/image_store.h"
#include "kernels/base/log.h"
#include "kernels/base/threads.h"
#include "tools/prepare.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct options {
    const char *out, *under, *on_error;
    int64_t size, threads;
    int images, force;
} options;

static m2_status check(const options *o, int words)
{
    if (words < 2)
        return m2_fail(M2_USAGE, "which pictures? m2 prepare --images --out STORE.h5 FOLDER|ARCHIVE.tar...");
    if (!o->out) return m2_fail(M2_USAGE, "which store is to be written? Give --out STORE.h5");
    if (o->size > 4096) return m2_fail(M2_USAGE, "--size %" PRId64 " is more than 4096", o->size);
    if (o->threads < 1 || o->threads > 1024)
        return m2_fail(M2_USAGE, "--threads %" PRId64 " is not in 1 .. 1024", o->threads);
    if (strcmp(o->on_error, "stop") && strcmp(o->on_error, "skip"))
        return m2_fail(M2_USAGE, "--on-error %s: expected stop or skip", o->on_error);
    return prepare_check_free(o->out, o->force);
}

static void show_progress(void *ctx, const m2_image_report *r)
{
    double *next = ctx;
    char bytes[32];
    int terminal = isatty(STDERR_FILENO);
    if (!terminal && r->seconds < *next) return;
    *next = r->seconds + 10;
    fprintf(stderr, "%s%" PRId64 " pictures  %.0f/s  %s read%s", terminal ? "\r" : "", r->images,
            (double)r->images / (r->seconds + 1e-9), m2_human_bytes(bytes, r->bytes),
            terminal ? "\033[K" : "\n");
}

static m2_status make(const options *o, char **paths, int count, const char *const *notes)
{
    m2_image_report r;
    double next = 10;
    m2_image_spec spec = {.paths = paths,
                          .count = count,
                          .out = o->out,
                          .under = o->under,
                          .size = o->size,
                          .threads = (int)o->threads,
                          .skip_errors = !strcmp(o->on_error, "skip"),
                          .notes = notes,
                          .progress = show_progress,
                          .ctx = &next};
    m2_status st = m2_image_store_make(&spec, &r);
    if (isatty(STDERR_FILENO) && r.images) fputs("\r\033[K", stderr);
    M2_TRY(st);
    char bytes[32];
    printf("%s: %" PRId64 " pictures of %" PRId64 " x %" PRId64 " in %" PRId64 " classes\n", o->out, r.images,
           r.width, r.height, r.classes);
    if (r.skipped) printf("%" PRId64 " errors left out, the first: %s\n", r.skipped, r.first_skipped);
    printf("%s of files, %.0f pictures/s with %" PRId64 " threads, %.1f s\n", m2_human_bytes(bytes, r.bytes),
           (double)r.images / (r.seconds + 1e-9), o->threads, r.seconds);
    return M2_OK;
}

m2_status prepare_images(int argc, char **argv)
{
    options o = {.on_error = "stop", .threads = m2_threads_available()};
    const m2_flag flags[] = {
        {"--images", M2_FLAG_ON, &o.images},       {"--out", M2_FLAG_TEXT, &o.out},
        {"--under", M2_FLAG_TEXT, &o.under},       {"--size", M2_FLAG_INT, &o.size},
        {"--on-error", M2_FLAG_TEXT, &o.on_error}, {"--threads", M2_FLAG_INT, &o.threads},
        {"--force", M2_FLAG_ON, &o.force},         {NULL, M2_FLAG_ON, NULL}};
    char *command = prepare_command(argv, argc), date[32], *sources = NULL;
    m2_status st = m2_flags_take(&argc, argv, flags);
    if (st == M2_OK) st = check(&o, argc);
    prepare_date(date);
    sources = prepare_join(argv + 1, argc - 1, "\n");
    const char *notes[] = {"date", date, "command", command, "sources", sources, NULL};
    if (st == M2_OK && (!command || !sources))
        st = m2_fail(M2_TRANSIENT, "out of memory for the names of files");
    if (st == M2_OK) st = make(&o, argv + 1, argc - 1, notes);
    free(command);
    free(sources);
    return st;
}
