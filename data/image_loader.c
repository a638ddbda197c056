#include "data/image_loader.h"
#include "data/image_store.h"
#include "data/ring.h"
#include "data/sampler.h"

#include <stdlib.h>
#include <string.h>

struct m2_image_loader {
    m2_image_loader_spec spec;
    m2_loader_at at;
    void *at_ctx;
    m2_store *store;
    m2_image_store_info info;
    m2_mixture order;
    int32_t *labels; /* of the whole store */
    m2i_ring *ring;  /* of batches: pixels, targets, labels */
};

static size_t picture_size(const m2_image_loader *l) /* in floats */
{
    return (size_t)l->spec.augment.size * (size_t)l->spec.augment.size * 3;
}

static int64_t number_of(const m2_image_loader *l, int64_t position)
{
    int store;
    int64_t number;
    m2_mixture_item(&l->order, position, &store, &number);
    return number;
}

static m2_status load(const m2_image_loader *l, int64_t position, uint8_t *stored, float *out)
{
    const m2_image_store_info *info = &l->info;
    int64_t offset[4] = {number_of(l, position)}, count[4] = {1, info->height, info->width, 3};
    M2_TRY(m2_store_read(l->store, "/images", offset, count, stored));
    return m2_augment_picture(&l->spec.augment, position, stored, (int)info->height, (int)info->width, out);
}

/* The pictures at the positions of a pair, each mixed with the other: into out[0] and out[1], of which one may be NULL. */
static m2_status load_pair(const m2_image_loader *l, int64_t even, void *scratch, float *const out[2])
{
    const m2_augment *a = &l->spec.augment;
    m2_mixing m = m2_augment_mixing(a, even);
    size_t n = picture_size(l);
    float *own[2] = {scratch, (float *)scratch + n};
    uint8_t *stored = (uint8_t *)(own[1] + n);
    for (int i = 0; i < 2; i++)
        if (out[i] || m.partner) M2_TRY(load(l, even + i, stored, own[i]));
    for (int i = 0; i < 2; i++) {
        if (!out[i]) continue;
        memcpy(out[i], own[i], n * sizeof *own[i]);
        m2_augment_mix(a, &m, own[1 - i], out[i]);
    }
    return M2_OK;
}

static m2_status fill(void *ctx, int64_t batch, void *to, void *scratch)
{
    const m2_image_loader *l = ctx;
    const m2_augment *a = &l->spec.augment;
    int64_t first = l->at(l->at_ctx, batch), n = l->spec.rows, classes = l->info.classes;
    size_t size = picture_size(l);
    float *pixels = to, *targets = pixels + (size_t)n * size;
    int32_t *labels = (int32_t *)(targets + n * classes);
    for (int64_t i = 0, step; i < n; i += step) {
        int64_t p = first + i;
        step = p % 2 == 0 && i + 1 < n ? 2 : 1;
        float *own = pixels + (size_t)i * size;
        M2_TRY(load_pair(l, p & ~(int64_t)1, scratch,
                         (float *[2]){p % 2 ? NULL : own, p % 2       ? own
                                                          : step == 2 ? own + size
                                                                      : NULL}));
    }
    for (int64_t i = 0; i < n; i++) {
        m2_mixing m = m2_augment_mixing(a, first + i);
        labels[i] = l->labels[number_of(l, first + i)];
        m2_augment_target(a, &m, labels[i], l->labels[number_of(l, (first + i) ^ 1)], classes,
                          targets + i * classes);
    }
    return M2_OK;
}

m2_status m2_image_loader_next(m2_image_loader *l, float *pixels, float *targets, int32_t *labels)
{
    const void *batch;
    size_t n = (size_t)l->spec.rows, all = n * picture_size(l), classes = n * (size_t)l->info.classes;
    M2_TRY(m2i_ring_hold(l->ring, &batch));
    const float *from = batch;
    if (pixels) memcpy(pixels, from, all * sizeof *pixels);
    if (targets) memcpy(targets, from + all, classes * sizeof *targets);
    if (labels) memcpy(labels, from + all + classes, n * sizeof *labels);
    m2i_ring_release(l->ring);
    return M2_OK;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */
static m2_status read_labels(m2_image_loader *l)
{
    int64_t zero = 0, n = l->info.images;
    l->labels = malloc((size_t)n * sizeof *l->labels + 1);
    if (!l->labels) return m2_fail(M2_TRANSIENT, "out of memory for %lld labels", (long long)n);
    M2_TRY(m2_store_read(l->store, "/labels", &zero, &n, l->labels));
    for (int64_t i = 0; i < n; i++)
        if (l->labels[i] < 0 || l->labels[i] >= l->info.classes)
            return m2_fail(M2_DATA, "%s: picture %lld has label %d of %lld classes", l->spec.path,
                           (long long)i, l->labels[i], (long long)l->info.classes);
    return M2_OK;
}

static m2_status open_into(m2_image_loader *l, int64_t first_batch)
{
    const m2_image_loader_spec *s = &l->spec;
    const double whole = 1;
    if (s->rows < 1 || s->workers < 1 || s->depth < 0)
        return m2_fail(M2_BUG, "a loader needs rows and workers >= 1");
    M2_TRY(m2_augment_check(&s->augment));
    M2_TRY(m2_store_open(s->path, &l->store));
    M2_TRY(m2_image_store_info_read(l->store, &l->info));
    M2_TRY(read_labels(l));
    M2_TRY(m2_mixture_make(1, &l->info.images, &whole, s->augment.seed, s->shuffle, &l->order));
    size_t n = (size_t)s->rows, size = picture_size(l);
    m2i_ring_spec ring = {.workers = s->workers,
                          .depth = s->depth,
                          .bytes = n * (size + (size_t)l->info.classes + 1) * sizeof(float),
                          .scratch = 2 * size * sizeof(float) + (size_t)(l->info.height * l->info.width * 3),
                          .fill = fill,
                          .ctx = l};
    return m2i_ring_open(&ring, first_batch, &l->ring);
}

m2_status m2_image_loader_open(const m2_image_loader_spec *spec, m2_loader_at at, void *ctx,
                               int64_t first_batch, m2_image_loader **out)
{
    m2_image_loader *l = *out = calloc(1, sizeof *l);
    if (!l) return m2_fail(M2_TRANSIENT, "out of memory for a loader");
    l->spec = *spec;
    l->at = at;
    l->at_ctx = ctx;
    m2_status st = open_into(l, first_batch);
    l->spec.path = NULL; /* the caller's text may go */
    if (st != M2_OK) m2_image_loader_close(out);
    return st;
}

m2_loader_stats m2_image_loader_statistics(const m2_image_loader *l)
{
    return m2i_ring_statistics(l->ring);
}

int64_t m2_image_loader_pictures(const m2_image_loader *l)
{
    return l->info.images;
}

int64_t m2_image_loader_classes(const m2_image_loader *l)
{
    return l->info.classes;
}

void m2_image_loader_close(m2_image_loader **lp)
{
    m2_image_loader *l = *lp;
    *lp = NULL;
    if (!l) return;
    m2i_ring_close(&l->ring);
    m2_store_close(&l->store);
    free(l->labels);
    free(l);
}
