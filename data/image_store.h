/* image_store.h - a store of pictures with labels, and how one is made of class folders or tar archives of JPEG and PNG.
 *
 *     /images     u8 (N, height, width, 3), chunked and checksummed
 *     /labels     i32 (N): the class, an index of the sorted class names
 *     attributes  format, classes (names, one a line), count of each in class_counts, and what the writer adds
 *
 * The class of a picture is the folder that holds it: train/cat/0001.jpg is a cat. */
#ifndef M2_IMAGE_STORE_H
#define M2_IMAGE_STORE_H

#include "data/store.h"

typedef struct m2_image_report {
    int64_t images, classes, height, width;
    int64_t bytes; /* of files */
    int64_t skipped;
    char first_skipped[512];
    double seconds;
} m2_image_report;

typedef struct m2_image_spec {
    char *const *paths; /* folders, and tar archives, packed or not */
    int64_t count;
    const char *out;
    const char *under; /* only what has a folder of this name above it ("train"); NULL = all */
    int64_t
        size; /* the shorter side is brought to it and the middle cut out; 0 = all pictures are of one size */
    int threads;
    int skip_errors;          /* pictures that cannot be read are counted, not fatal */
    const char *const *notes; /* attributes: key, value, ..., NULL */
    void (*progress)(void *ctx, const m2_image_report *now); /* a few times a second; may be NULL */
    void *ctx;
} m2_image_spec;

/* Pictures in the order of the archive, or of the names in a folder. M2_DATA names a picture that is broken, of another size
 * than the first one, or in no folder. */
M2_API m2_status m2_image_store_make(const m2_image_spec *spec, m2_image_report *out) M2_MUST_USE;

typedef struct m2_image_store_info {
    int64_t images, height, width, classes;
} m2_image_store_info;
/* M2_DATA if the open store is none of pictures. */
M2_API m2_status m2_image_store_info_read(m2_store *s, m2_image_store_info *out) M2_MUST_USE;
M2_API int m2_image_store_is(m2_store *s);

#endif
