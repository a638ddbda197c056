#include "kernels/base/arena.h"

m2_status m2_arena_create(m2_device *dev, m2_memory kind, const char *name, int64_t bytes, m2_arena *out)
{
    *out = (m2_arena){.name = name, .device = dev, .kind = kind, .size = m2_align_up(bytes, M2_ALIGN)};
    if (bytes == 0) return M2_OK;
    void *p;
    m2_status st = dev->api->alloc(dev, kind, out->size, &p);
    if (st != M2_OK) return m2_context(st, "arena '%s'", name);
    out->base = p;
    return M2_OK;
}

void m2_arena_destroy(m2_arena *a)
{
    if (a->base) a->device->api->free(a->device, a->kind, a->base);
    *a = (m2_arena){0};
}

m2_status m2_arena_take(m2_arena *a, int64_t bytes, void **out)
{
    int64_t need = m2_align_up(bytes, M2_ALIGN);
    if (need > a->size - a->used)
        return m2_fail(M2_BUG, "arena '%s' of %lld bytes has %lld left, %lld were asked for", a->name,
                       (long long)a->size, (long long)(a->size - a->used), (long long)need);
    *out = a->base + a->used;
    a->used += need;
    if (a->used > a->high) a->high = a->used;
    return M2_OK;
}

void m2_arena_reset(m2_arena *a)
{
    a->used = 0;
}
