/* resample.h - a box of a picture as another picture, anti-aliased. */
#ifndef M2_DATA_RESAMPLE_H
#define M2_DATA_RESAMPLE_H

#include "kernels/base/status.h"
#include <stdint.h>

typedef struct m2_box {
    double y, x, height, width; /* in pixels; inside the picture */
} m2_box;

/* source (height, width, 3) u8; out (out_height, out_width, 3), 0 .. 255. Each way a triangle as wide as the reduction, at
 * least one pixel each side: the bilinear filter of enlarging, and the usual one of reducing. Weights sum to 1, so that a
 * picture of one colour stays what it is; a box onto as many pixels is copied exactly. */
M2_API m2_status m2_resample(const uint8_t *source, int height, int width, m2_box box, int out_height,
                             int out_width, float *out) M2_MUST_USE;

#endif
