/* picture.h - JPEG and PNG files as pixels. */
#ifndef M2_DATA_PICTURE_H
#define M2_DATA_PICTURE_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>

enum { M2I_PICTURE_SIDE = 1 << 15 };

typedef struct m2i_picture {
    int height, width;
    uint8_t *pixels; /* height x width x 3, red green blue; malloc'd */
} m2i_picture;

/* Decodes the file bytes[0 .. n): grey, palettes and CMYK become RGB, transparent pixels are drawn on black. M2_DATA names the
 * place where a file is cut off or broken. */
m2_status m2i_picture_decode(const void *bytes, size_t n, m2i_picture *out) M2_MUST_USE;

#endif
