/* feed_kinds.h - how each task reads its rows: the kinds of feeds (feed_text.c, feed_glue.c, feed_image.c). Private. */
#ifndef M2_FEED_KINDS_H
#define M2_FEED_KINDS_H

#include "data/image_loader.h"
#include "data/mask.h"
#include "runtime/feed.h"

enum { M2I_FEED_PARTS = 3 };

typedef struct m2i_feed_kind m2i_feed_kind;

struct m2_feed {
    const m2i_feed_kind *kind;
    m2_feed_spec spec;
    int64_t length, batch; /* batch: the next one */
    int counts;            /* the number of targets differs from batch to batch */
    struct {
        const char *input; /* of the program */
        int64_t at, count; /* in the batch */
    } parts[M2I_FEED_PARTS];
    int n_parts;
    int64_t size;
    m2_loader *loader;
    m2_row_frame frame;
    m2_mask mask;
    double rate; /* of hidden tokens */
    int64_t vocab;
    int32_t *whole;           /* tokens, then targets of a batch, where spec.slice is less than they are long */
    int32_t *scratch;         /* places and labels of a row */
    const m2_glue_task *task; /* classify */
    m2_glue_rows glue;
    m2_image_loader *pictures; /* image */
    float *pixels, *shares; /* of a batch; of its targets in each class of the store */
    int64_t side, patch, classes; /* classes: targets are distributions over as many; 0: they are numbers of classes */
    uint64_t seed;
};

struct m2i_feed_kind {
    const char *task;
    int counts; /* targets */
    void (*parts)(m2_feed *f);
    m2_status (*check)(m2_feed *f, const m2_config *cfg); /* can this file be of the task? Before open */
    m2_status (*open)(m2_feed *f, const m2_config *cfg);
    m2_status (*next)(m2_feed *f, int64_t row, int64_t keep, int32_t *batch, int64_t *predicted);
    int64_t (*invent)(const m2_feed *f, int32_t *batch); /* without data; returns the number of targets */
};

/* The next input of a batch. */
void m2i_feed_part(m2_feed *f, const char *input, int64_t count);
void m2i_feed_random(const m2_feed *f, uint64_t stream, int64_t n, int32_t *out); /* ids of the vocabulary */

extern const m2i_feed_kind m2i_feed_causal, m2i_feed_mlm, m2i_feed_embed, m2i_feed_classify, m2i_feed_image;

#endif
