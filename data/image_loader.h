/* image_loader.h - batches of augmented pictures and their targets, made ahead by worker threads.
 *
 * Picture `p` of an endless stream is number sampler(p) of the store, drawn upon by its position alone (augment.h): the same
 * for any number of ranks and workers, whatever the batches. */
#ifndef M2_IMAGE_LOADER_H
#define M2_IMAGE_LOADER_H

#include "data/augment.h"
#include "data/loader.h"

typedef struct m2_image_loader m2_image_loader;

typedef struct m2_image_loader_spec {
    const char *path; /* image store */
    int64_t rows;     /* per batch handed out */
    int shuffle;      /* 0: picture p is number p modulo their number (validation) */
    int workers, depth;
    m2_augment augment; /* its seed is also the order's */
} m2_image_loader_spec;

M2_API m2_status m2_image_loader_open(const m2_image_loader_spec *spec, m2_loader_at at, void *ctx,
                                      int64_t first_batch, m2_image_loader **out) M2_MUST_USE;
/* pixels (rows, size, size, 3), targets (rows, classes), labels (rows): the picture's own class. Each may be NULL. */
M2_API m2_status m2_image_loader_next(m2_image_loader *l, float *pixels, float *targets,
                                      int32_t *labels) M2_MUST_USE;
M2_API m2_loader_stats m2_image_loader_statistics(const m2_image_loader *l);
M2_API int64_t m2_image_loader_pictures(const m2_image_loader *l); /* per epoch */
M2_API int64_t m2_image_loader_classes(const m2_image_loader *l);
M2_API void m2_image_loader_close(m2_image_loader **l); /* accepts NULL; nulls */

#endif
