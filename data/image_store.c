#include "data/image_store.h"
#include "data/image_files.h"
#include "data/picture.h"
#include "data/resample.h"
#include "data/vocab.h"
#include "kernels/base/log.h"
#include "kernels/base/threads.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char FORMAT[] = "m2 images 1";
enum { BATCH = 256, BATCH_BYTES = 64 << 20, CHUNK_BYTES = 64 << 10 };

typedef struct item { /* a picture of the batch that is being decoded */
    char *path, *data;
    size_t room, bytes;
    int32_t label;
    m2i_picture picture;
    m2_error error;
} item;

typedef struct maker {
    const m2_image_spec *spec;
    m2_image_report *report;
    m2i_image_files *files;
    m2_store *store;
    item items[BATCH];
    int64_t held;
    uint8_t *pixels; /* of a batch as the store has them */
    char **classes;  /* in the order in which they were met: labels are these until all are known */
    int64_t class_count, class_room;
    int32_t *labels;
    int64_t label_room;
    double started_at, shown_at;
} maker;

/* ---- classes ----------------------------------------------------------------------------------------------------- */
static m2_status find_class(maker *m, const char *name, size_t n, int32_t *label)
{
    for (int64_t i = m->class_count - 1; i >= 0; i--) /* the one before is the likeliest */
        if (strlen(m->classes[i]) == n && !memcmp(m->classes[i], name, n)) {
            *label = (int32_t)i;
            return M2_OK;
        }
    if (m->class_count == m->class_room) {
        m->class_room = 2 * m->class_room + 64;
        char **more = realloc(m->classes, (size_t)m->class_room * sizeof *more);
        if (!more) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " classes", m->class_room);
        m->classes = more;
    }
    *label = (int32_t)m->class_count;
    m->classes[m->class_count] = strndup(name, n);
    if (!m->classes[m->class_count]) return m2_fail(M2_TRANSIENT, "out of memory for the names of classes");
    m->class_count++;
    return M2_OK;
}

/* "train/cat/1.jpg": is it under `under`, and of which class? */
static m2_status classify(maker *m, const char *path, const char *inside, int *wanted, int32_t *label)
{
    const char *slash = strrchr(inside, '/'), *start = slash;
    size_t under = m->spec->under ? strlen(m->spec->under) : 0;
    if (!slash) return m2_fail(M2_DATA, "%s is in no folder whose name could be its class", path);
    while (start > inside && start[-1] != '/') start--;
    *wanted = !under;
    for (const char *p = inside, *end; !*wanted && p < start; p = end + 1) {
        end = strchr(p, '/');
        *wanted = (size_t)(end - p) == under && !memcmp(p, m->spec->under, under);
    }
    return *wanted ? find_class(m, start, (size_t)(slash - start), label) : M2_OK;
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */
static void decode(void *ctx, int64_t begin, int64_t end, int thread)
{
    maker *m = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        item *t = &m->items[i];
        m2_error_take(&t->error, m2i_picture_decode(t->data, t->bytes, &t->picture));
    }
}

/* The middle of a picture whose shorter side is brought to `size`. */
static m2_status cut_middle(const m2i_picture *p, int size, uint8_t *out)
{
    int side = p->height < p->width ? p->height : p->width;
    float *scratch = malloc((size_t)size * (size_t)size * 3 * sizeof *scratch);
    if (!scratch) return m2_fail(M2_TRANSIENT, "out of memory for a picture of %d x %d", size, size);
    m2_box box = {(p->height - side) / 2, (p->width - side) / 2, side, side};
    m2_status st = m2_resample(p->pixels, p->height, p->width, box, size, size, scratch);
    for (int64_t i = 0; st == M2_OK && i < (int64_t)size * size * 3; i++)
        out[i] = (uint8_t)(scratch[i] < 0 ? 0 : scratch[i] > 255 ? 255 : scratch[i] + 0.5f);
    free(scratch);
    return st;
}

static m2_status make_arrays(maker *m, int64_t height, int64_t width)
{
    int64_t chunk = CHUNK_BYTES / (height * width * 3);
    m2_array_info images = {M2_U8, 4, {0, height, width, 3}};
    m2_array_options options = {.chunk = chunk < 1 ? 1 : chunk, .fletcher32 = 1};
    m->report->height = height;
    m->report->width = width;
    m->pixels = malloc((size_t)(BATCH * height * width * 3));
    if (!m->pixels) return m2_fail(M2_TRANSIENT, "out of memory for %d pictures", BATCH);
    return m2_store_make(m->store, "/images", &images, &options);
}

static m2_status place(maker *m, item *t, uint8_t *to)
{
    const m2i_picture *p = &t->picture;
    const m2_image_report *r = m->report;
    if (t->error.code != M2_OK) return m2_context(m2_error_put(&t->error), "%s", t->path);
    if (m->spec->size) return cut_middle(p, (int)m->spec->size, to);
    if (p->height != r->height || p->width != r->width)
        return m2_fail(M2_DATA,
                       "%s has %d x %d pixels, the pictures before it %" PRId64 " x %" PRId64
                       ": give --size to bring all to one size",
                       t->path, p->width, p->height, r->width, r->height);
    memcpy(to, p->pixels, (size_t)(r->height * r->width * 3));
    return M2_OK;
}

static m2_status keep_label(maker *m, int32_t label)
{
    if (m->report->images == m->label_room) {
        m->label_room = 2 * m->label_room + 4096;
        int32_t *more = realloc(m->labels, (size_t)m->label_room * sizeof *more);
        if (!more) return m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " labels", m->label_room);
        m->labels = more;
    }
    m->labels[m->report->images++] = label;
    return M2_OK;
}

static m2_status skip(maker *m, m2_status st)
{
    if (st != M2_DATA || !m->spec->skip_errors) return st;
    if (!m->report->skipped++)
        snprintf(m->report->first_skipped, sizeof m->report->first_skipped, "%s", m2_message());
    return M2_OK;
}

static m2_status place_batch(maker *m, int64_t *placed)
{
    *placed = 0;
    for (int64_t i = 0; i < m->held; i++) {
        item *t = &m->items[i];
        if (!m->pixels && t->error.code == M2_OK)
            M2_TRY(m->spec->size ? make_arrays(m, m->spec->size, m->spec->size)
                                 : make_arrays(m, t->picture.height, t->picture.width));
        m2_status st = place(m, t, m->pixels + *placed * m->report->height * m->report->width * 3);
        if (st == M2_OK) {
            ++*placed;
            st = keep_label(m, t->label);
        }
        free(t->picture.pixels);
        t->picture.pixels = NULL;
        M2_TRY(skip(m, st));
    }
    return M2_OK;
}

static m2_status flush(maker *m)
{
    int64_t placed;
    m2_threads_for(m->spec->threads, m->held, 1, decode, m);
    M2_TRY(place_batch(m, &placed));
    m->held = 0;
    if (placed) M2_TRY(m2_store_append(m->store, "/images", placed, m->pixels));
    double now = m2_now();
    m->report->seconds = now - m->started_at;
    if (!m->spec->progress || now - m->shown_at < 0.25) return M2_OK;
    m->shown_at = now;
    m->spec->progress(m->spec->ctx, m->report);
    return M2_OK;
}

static m2_status read_all(maker *m)
{
    size_t held_bytes = 0;
    for (;;) {
        item *t = &m->items[m->held];
        const char *path, *inside;
        int wanted = 0;
        m2_status st = m2i_image_files_next(m->files, &path, &inside, &t->data, &t->room, &t->bytes);
        if (st == M2_DATA && m->spec->skip_errors)
            return skip(m, st); /* of a broken archive, what came before it */
        M2_TRY(st);
        if (!path) return M2_OK;
        M2_TRY(skip(m, classify(m, path, inside, &wanted, &t->label)));
        if (!wanted) continue;
        free(t->path);
        if (!(t->path = strdup(path))) return m2_fail(M2_TRANSIENT, "out of memory for the names of files");
        m->report->bytes += (int64_t)t->bytes;
        held_bytes += t->bytes;
        if (++m->held < BATCH && held_bytes < BATCH_BYTES) continue;
        M2_TRY(flush(m));
        held_bytes = 0;
    }
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */
static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static m2_status write_labels(maker *m)
{
    int64_t n = m->class_count, zero = 0;
    m2_array_info info = {M2_I32, 1, {m->report->images}};
    m2_array_options options = {.chunk = 16384, .fletcher32 = 1};
    char **sorted = malloc((size_t)n * sizeof *sorted);
    int32_t *place_of = malloc((size_t)n * sizeof *place_of);
    int64_t *counts = calloc((size_t)n, sizeof *counts);
    m2i_text names = {0}, numbers = {0};
    m2_status st = sorted && place_of && counts
                       ? M2_OK
                       : m2_fail(M2_TRANSIENT, "out of memory for %" PRId64 " classes", n);
    if (st == M2_OK) {
        memcpy(sorted, m->classes, (size_t)n * sizeof *sorted);
        qsort(sorted, (size_t)n, sizeof *sorted, by_name);
        for (int64_t i = 0; i < n; i++)
            place_of[i] =
                (int32_t)((char **)bsearch(&m->classes[i], sorted, (size_t)n, sizeof *sorted, by_name) -
                          sorted);
        for (int64_t i = 0; i < m->report->images; i++) counts[m->labels[i] = place_of[m->labels[i]]]++;
    }
    for (int64_t i = 0; i < n && st == M2_OK; i++) {
        st = m2i_text_print(&names, "%s%s", i ? "\n" : "", sorted[i]);
        if (st == M2_OK) st = m2i_text_print(&numbers, "%s%" PRId64, i ? "\n" : "", counts[i]);
    }
    if (st == M2_OK) st = m2_store_make(m->store, "/labels", &info, &options);
    if (st == M2_OK) st = m2_store_write(m->store, "/labels", &zero, info.shape, m->labels);
    if (st == M2_OK) st = m2_store_set_text(m->store, "/", "classes", names.data);
    if (st == M2_OK) st = m2_store_set_text(m->store, "/", "class_counts", numbers.data);
    free(names.data);
    free(numbers.data);
    free(sorted);
    free(place_of);
    free(counts);
    return st;
}

static m2_status make(maker *m)
{
    const m2_image_spec *s = m->spec;
    M2_TRY(m2i_image_files_open(s->paths, s->count, &m->files));
    M2_TRY(m2_store_create(s->out, &m->store));
    M2_TRY(read_all(m));
    M2_TRY(flush(m));
    if (!m->report->images)
        return m2_fail(
            M2_DATA,
            "no picture was found: expected .jpg, .jpeg or .png files in class folders, or tar archives of "
            "them%s%s",
            s->under ? ", under a folder " : "", s->under ? s->under : "");
    m->report->classes = m->class_count;
    M2_TRY(write_labels(m));
    M2_TRY(m2_store_set_text(m->store, "/", "format", FORMAT));
    for (const char *const *n = s->notes; n && *n; n += 2)
        M2_TRY(m2_store_set_text(m->store, "/", n[0], n[1]));
    return m2_store_commit(&m->store);
}

m2_status m2_image_store_make(const m2_image_spec *spec, m2_image_report *out)
{
    memset(out, 0, sizeof *out);
    maker *m = calloc(1, sizeof *m);
    if (!m) return m2_fail(M2_TRANSIENT, "out of memory for making %s", spec->out);
    m->spec = spec;
    m->report = out;
    m->started_at = m2_now();
    m2_status st = make(m);
    out->seconds = m2_now() - m->started_at;
    m2i_image_files_close(&m->files);
    m2_store_close(&m->store);
    for (int i = 0; i < BATCH; i++) {
        free(m->items[i].path);
        free(m->items[i].data);
        free(m->items[i].picture.pixels);
    }
    for (int64_t i = 0; i < m->class_count; i++) free(m->classes[i]);
    free(m->classes);
    free(m->labels);
    free(m->pixels);
    free(m);
    return st;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */
int m2_image_store_is(m2_store *s)
{
    return m2_store_has(s, "/images") && m2_store_has(s, "/labels");
}

m2_status m2_image_store_info_read(m2_store *s, m2_image_store_info *out)
{
    m2_array_info images, labels;
    char *text = NULL;
    if (!m2_image_store_is(s))
        return m2_fail(
            M2_DATA,
            "%s is no store of pictures: it has no /images or no /labels (m2 prepare --images writes one)",
            m2_store_path(s));
    M2_TRY(m2_store_info(s, "/images", &images));
    M2_TRY(m2_store_info(s, "/labels", &labels));
    if (images.rank != 4 || images.dtype != M2_U8 || images.shape[3] != 3 || labels.rank != 1 ||
        labels.dtype != M2_I32 || labels.shape[0] != images.shape[0])
        return m2_fail(M2_DATA, "%s: /images should be u8 (N, height, width, 3) and /labels i32 (N)",
                       m2_store_path(s));
    *out = (m2_image_store_info){images.shape[0], images.shape[1], images.shape[2], 1};
    M2_TRY(m2_store_get_text(s, "/", "classes", &text));
    for (const char *p = text; *p; p++) out->classes += *p == '\n';
    free(text);
    return M2_OK;
}
