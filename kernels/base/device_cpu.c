/* device_cpu.c - the CPU as a device: one stream, everything done on return. */
#include "kernels/base/device.h"
#include "kernels/base/log.h"
#include "kernels/base/threads.h"
#include "kernels/rival.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void cpu_close(m2_device *dev)
{
    free(dev);
}

static m2_status cpu_alloc(m2_device *dev, m2_memory kind, int64_t bytes, void **out)
{
    (void)kind;
    dev->allocations++;
    size_t n = (size_t)((bytes > 0 ? bytes : 1) + 255) / 256 * 256;
    *out = aligned_alloc(256, n);
    if (*out) return M2_OK;
    char asked[32];
    return m2_fail(M2_TRANSIENT, "out of memory: %s could not be allocated on the CPU",
                   m2_human_bytes(asked, bytes));
}

static void cpu_free(m2_device *dev, m2_memory kind, void *ptr)
{
    (void)dev, (void)kind;
    free(ptr);
}

static m2_status cpu_copy(m2_device *dev, void *dst, const void *src, int64_t bytes, m2_stream *stream)
{
    (void)dev, (void)stream;
    if (bytes > 0 && dst != src) memmove(dst, src, (size_t)bytes);
    return M2_OK;
}

static m2_status cpu_copy_rows(m2_device *dev, void *dst, int64_t dst_step, const void *src, int64_t src_step,
                               int64_t bytes, int64_t rows, m2_stream *stream)
{
    (void)dev, (void)stream;
    for (int64_t i = 0; bytes > 0 && i < rows; i++)
        memcpy((char *)dst + i * dst_step, (const char *)src + i * src_step, (size_t)bytes);
    return M2_OK;
}

static m2_status cpu_fill(m2_device *dev, void *dst, int byte, int64_t bytes, m2_stream *stream)
{
    (void)dev, (void)stream;
    if (bytes > 0) memset(dst, byte, (size_t)bytes);
    return M2_OK;
}

static m2_status cpu_stream_create(m2_device *dev, int urgent, m2_stream **out)
{
    (void)dev, (void)urgent;
    *out = NULL; /* the default stream is the only one */
    return M2_OK;
}

static void cpu_stream_destroy(m2_device *dev, m2_stream *stream)
{
    (void)dev, (void)stream;
}

static m2_status cpu_stream_sync(m2_device *dev, m2_stream *stream)
{
    (void)stream;
    dev->drains++;
    return M2_OK;
}

struct m2_event {
    double at;
};

static m2_status cpu_event_create(m2_device *dev, m2_event **out)
{
    (void)dev;
    *out = calloc(1, sizeof **out);
    return *out ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for an event");
}

static void cpu_event_destroy(m2_device *dev, m2_event *event)
{
    (void)dev;
    free(event);
}

static m2_status cpu_event_record(m2_device *dev, m2_event *event, m2_stream *stream)
{
    (void)dev, (void)stream;
    event->at = m2_now();
    return M2_OK;
}

static m2_status cpu_event_wait(m2_device *dev, m2_event *event, m2_stream *stream)
{
    (void)dev, (void)event, (void)stream;
    return M2_OK;
}

static m2_status cpu_event_sync(m2_device *dev, m2_event *event)
{
    (void)dev, (void)event;
    return M2_OK;
}

static m2_status cpu_event_seconds(m2_device *dev, m2_event *from, m2_event *to, double *out)
{
    (void)dev;
    *out = to->at - from->at;
    return M2_OK;
}

static m2_run_fn cpu_lookup(m2_device *dev, const m2_op *op)
{
    (void)dev;
    return op->run;
}

static int64_t cpu_workspace(m2_device *dev, const m2_op *op, const m2_attrs *attrs, const m2_desc *in,
                             const m2_desc *out)
{
    return op->workspace ? op->workspace(attrs, in, out, dev->threads) : 0;
}

static int cpu_variants(m2_device *dev, const m2_op *op, const m2_attrs *attrs, const m2_desc *in, m2_variant *list,
                        int most)
{
    return op->variants ? op->variants(attrs, in, dev->threads, list, most) : 0;
}

static const m2_device_api cpu_api = {
    .kind = "cpu",
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .copy = cpu_copy,
    .copy_rows = cpu_copy_rows,
    .fill = cpu_fill,
    .stream_create = cpu_stream_create,
    .stream_destroy = cpu_stream_destroy,
    .stream_sync = cpu_stream_sync,
    .event_create = cpu_event_create,
    .event_destroy = cpu_event_destroy,
    .event_record = cpu_event_record,
    .event_wait = cpu_event_wait,
    .event_sync = cpu_event_sync,
    .event_seconds = cpu_event_seconds,
    .lookup = cpu_lookup,
    .workspace = cpu_workspace,
    .variants = cpu_variants,
    .rival = m2i_rival_fftw,
};

m2_status m2_device_open_cpu(int threads, m2_device **out)
{
    m2_device *dev = calloc(1, sizeof *dev);
    if (!dev) return m2_fail(M2_TRANSIENT, "out of memory for a device");
    dev->api = &cpu_api;
    dev->threads = threads > 0 ? threads : m2_threads_available();
    dev->memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    snprintf(dev->name, sizeof dev->name, "CPU, %d thread%s", dev->threads, dev->threads == 1 ? "" : "s");
    *out = dev;
    return M2_OK;
}
