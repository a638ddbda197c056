/* augment.h - pictures as a vision model is trained on them.
 *
 * Every draw is a function of (seed, position in the stream): the same on any number of ranks and threads, after a resume,
 * and read again. Position p is mixed with p ^ 1, and both with the same mixture or box: the sum of such a pair of pictures,
 * and of their targets, is what it was before. */
#ifndef M2_AUGMENT_H
#define M2_AUGMENT_H

#include "data/resample.h"

typedef struct m2_augment {
    uint64_t seed;
    int size; /* pictures become size x size x 3 */
    double area[2],
        ratio[2]; /* of a random crop: share of the picture's area, width : height; area[0] = 0: no crop */
    double flip;  /* probability of left and right changed */
    double mean[3],
        deviation[3];     /* of the data, of values in 0 .. 1; what comes out has mean 0, deviation 1 */
    double mixup, cutmix; /* parameters of their beta distributions; 0 = none; both: either, evenly drawn */
    double smoothing;     /* of targets: this share is spread over all classes */
} m2_augment;

/* Inception's crop for training with ImageNet's mean and deviation, flips, nothing mixed. */
M2_API m2_augment m2_augment_usual(uint64_t seed, int size);
/* Validation: the middle square, no draws. Mean, deviation and size are kept. */
M2_API m2_augment m2_augment_none(const m2_augment *a);
/* M2_USAGE for values out of their ranges. */
M2_API m2_status m2_augment_check(const m2_augment *a) M2_MUST_USE;

/* The draws for the picture at `position`. */
M2_API m2_box m2_augment_crop(const m2_augment *a, int64_t position, int height, int width);
M2_API int m2_augment_flips(const m2_augment *a, int64_t position);

typedef struct m2_mixing {
    int partner;             /* 1: with position ^ 1 */
    double share;            /* of the picture itself in its target; the rest is the partner's */
    int y, x, height, width; /* cutmix: this box is the partner's. Height 0: mixup, every pixel is shared */
} m2_mixing;
M2_API m2_mixing m2_augment_mixing(const m2_augment *a, int64_t position);

/* Crop, flip, normalise: source (height, width, 3) u8 to out (size, size, 3). */
M2_API m2_status m2_augment_picture(const m2_augment *a, int64_t position, const uint8_t *source, int height,
                                    int width, float *out) M2_MUST_USE;
/* own (size, size, 3) and its target (classes), which become mixed with the partner's; `own` may not be `partner`. */
M2_API void m2_augment_mix(const m2_augment *a, const m2_mixing *m, const float *partner, float *own);
/* The target of labels own and partner: (classes), sums to 1. */
M2_API void m2_augment_target(const m2_augment *a, const m2_mixing *m, int32_t own, int32_t partner,
                              int64_t classes, float *target);

#endif
