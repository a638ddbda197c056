/* ring.h - batches that worker threads make ahead and one consumer takes in order: what loaders share. */
#ifndef M2_DATA_RING_H
#define M2_DATA_RING_H

#include "data/loader.h"

typedef struct m2i_ring m2i_ring;

typedef struct m2i_ring_spec {
    int workers, depth;    /* threads; batches ahead (0 = 2 * workers + 2) */
    size_t bytes, scratch; /* of a batch; of what each worker has for itself */
    /* Makes batch `batch`. Called by several workers at once. */
    m2_status (*fill)(void *ctx, int64_t batch, void *to, void *scratch);
    void *ctx;
} m2i_ring_spec;

m2_status m2i_ring_open(const m2i_ring_spec *spec, int64_t first_batch, m2i_ring **out) M2_MUST_USE;
/* Waits for the next batch, which stays until released. A worker's failure comes out here, now and at each later call. */
m2_status m2i_ring_hold(m2i_ring *r, const void **batch) M2_MUST_USE;
void m2i_ring_release(m2i_ring *r);
m2_loader_stats m2i_ring_statistics(const m2i_ring *r);
void m2i_ring_close(m2i_ring **r); /* accepts NULL; nulls */

#endif
