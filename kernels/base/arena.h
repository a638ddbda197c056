/* arena.h - bump allocators named by the lifetime of what is in them (params, grads, optimizer, activations, ...).
 * One device allocation at creation, none afterwards. Not thread-safe. */
#ifndef M2_BASE_ARENA_H
#define M2_BASE_ARENA_H

#include "kernels/base/device.h"

enum { M2_ALIGN = 256 }; /* every allocation's alignment, in bytes */

typedef struct m2_arena {
    const char *name; /* static string */
    m2_device *device;
    m2_memory kind;
    char *base;
    int64_t size, used, high; /* bytes; high = high-water mark */
} m2_arena;

static inline int64_t m2_align_up(int64_t bytes, int64_t align)
{
    return (bytes + align - 1) / align * align;
}

m2_status m2_arena_create(m2_device *dev, m2_memory kind, const char *name, int64_t bytes, m2_arena *out) M2_MUST_USE;
void m2_arena_destroy(m2_arena *a); /* accepts a zeroed or destroyed arena */
/* M2_BUG when it does not fit: sizes were planned. */
m2_status m2_arena_take(m2_arena *a, int64_t bytes, void **out) M2_MUST_USE;
void m2_arena_reset(m2_arena *a); /* used = 0; keeps `high` */
#endif
