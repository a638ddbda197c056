/* conv_trial.h - the long convolution, or its gradient, on a device with made-up tensors, to be timed: m2 bench conv. */
#ifndef M2_TOOLS_CONV_TRIAL_H
#define M2_TOOLS_CONV_TRIAL_H

#include "kernels/rival.h"

typedef struct conv_setup {
    int gates, two_sided;
    int64_t tokens, channels, filters;
    m2_dtype dtype;
    double seconds; /* to spend on each measurement */
} conv_setup;

typedef struct conv_trial {
    m2_device *device;
    m2_call call;
    m2_desc in[M2_MAX_IN], out[M2_MAX_OUT];
    m2_run_fn run;
    m2_cost cost;
} conv_trial;

/* Rows of `length` positions: as many as make setup.tokens, at least one. */
static inline int64_t conv_rows(const conv_setup *s, int64_t length)
{
    return s->tokens / length > 0 ? s->tokens / length : 1;
}

m2_status conv_trial_open(m2_device *dev, const conv_setup *s, int64_t length, int gradient,
                          conv_trial *t) M2_MUST_USE;
void conv_trial_close(conv_trial *t); /* accepts a zeroed one, and one that did not open */
/* The best time of a run, after one that does not count, of the variants (kernels/op.h) from `first` on, in turn: what else
 * the machine does hits all of them. Or through the rival. */
m2_status conv_trial_time(conv_trial *t, double seconds, int first, int count, double *best) M2_MUST_USE;
m2_status conv_trial_time_rival(conv_trial *t, double seconds, m2_rival *rival, double *best) M2_MUST_USE;
/* Runs both once: *difference is the relative L2 distance of their outputs y. */
m2_status conv_trial_compare(conv_trial *t, m2_rival *rival, double *difference) M2_MUST_USE;

/* Bytes read and written per second by a plain copy, measured. */
m2_status conv_bandwidth(m2_device *dev, double *bytes_per_second) M2_MUST_USE;
#endif
