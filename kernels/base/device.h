/* device.h - where tensors live and calls run: the CPU, or one GPU.
 *
 * A device is a const table of functions plus state. Backends: "cpu" (device_cpu.c, always) and "cuda" (a module
 * loaded at run time: kernels/base/device_cuda.cu + kernels/cuda; absent module or driver is a reason, not a crash).
 * Streams order work; the CPU has one stream and everything on it is done when the call returns. */
#ifndef M2_BASE_DEVICE_H
#define M2_BASE_DEVICE_H

#include "kernels/base/tensor.h"

typedef struct m2_device m2_device;
typedef struct m2_stream m2_stream; /* opaque; NULL is the device's default stream */
typedef struct m2_event m2_event;   /* opaque */
typedef struct m2_graph m2_graph;   /* opaque: a captured sequence of calls */
struct m2_op;
struct m2_attrs;
struct m2_call;
struct m2_variant;
struct m2_rival;
typedef m2_status (*m2_run_fn)(const struct m2_call *call);

typedef enum m2_memory {
    M2_MEM_DEVICE, /* where calls read and write */
    M2_MEM_HOST    /* host memory the device can copy from and to asynchronously (pinned on a GPU) */
} m2_memory;

/* Names memory of a GPU to other processes on its host. */
typedef struct m2_ticket {
    unsigned char bytes[64];
} m2_ticket;

typedef struct m2_device_api {
    const char *kind; /* "cpu" | "cuda" */
    void (*close)(m2_device *dev);
    /* 256-byte aligned. alloc counts in dev->allocations: nothing allocates after planning, tests assert it. */
    m2_status (*alloc)(m2_device *dev, m2_memory kind, int64_t bytes, void **out);
    void (*free)(m2_device *dev, m2_memory kind, void *ptr);
    /* Any direction between device and host memory; asynchronous on the stream. */
    m2_status (*copy)(m2_device *dev, void *dst, const void *src, int64_t bytes, m2_stream *stream);
    /* `rows` pieces of `bytes` each, whose starts are dst_step and src_step bytes apart; as copy. */
    m2_status (*copy_rows)(m2_device *dev, void *dst, int64_t dst_step, const void *src, int64_t src_step, int64_t bytes,
                           int64_t rows, m2_stream *stream);
    m2_status (*fill)(m2_device *dev, void *dst, int byte, int64_t bytes, m2_stream *stream);
    /* urgent: its kernels go first where others wait for the same processors. */
    m2_status (*stream_create)(m2_device *dev, int urgent, m2_stream **out);
    void (*stream_destroy)(m2_device *dev, m2_stream *stream);
    m2_status (*stream_sync)(m2_device *dev, m2_stream *stream);
    m2_status (*event_create)(m2_device *dev, m2_event **out);
    void (*event_destroy)(m2_device *dev, m2_event *event);
    m2_status (*event_record)(m2_device *dev, m2_event *event, m2_stream *stream);
    m2_status (*event_wait)(m2_device *dev, m2_event *event, m2_stream *stream); /* stream waits for event */
    m2_status (*event_sync)(m2_device *dev, m2_event *event); /* the caller waits until all before it is done */
    m2_status (*event_seconds)(m2_device *dev, m2_event *from, m2_event *to, double *out); /* waits for `to` */
    /* Memory of this device for other processes' devices on the same host to copy to: `base`, from alloc, gets a ticket; who
     * borrows by it gets an address of its own. give_back before the lender frees it. These five are NULL on the CPU. */
    m2_status (*lend)(m2_device *dev, void *base, m2_ticket *out);
    m2_status (*borrow)(m2_device *dev, const m2_ticket *ticket, void **out);
    void (*give_back)(m2_device *dev, void *borrowed);
    /* A flag in such memory, in the order of the stream: sets it once all before is done; waits until it is `value` or less
     * than 2^31 beyond. No processor of the GPU waits. */
    m2_status (*raise)(m2_device *dev, uint32_t *flag, uint32_t value, m2_stream *stream);
    m2_status (*await)(m2_device *dev, const uint32_t *flag, uint32_t value, m2_stream *stream);
    /* How the op runs here, or NULL when this device has no kernel for it. */
    m2_run_fn (*lookup)(m2_device *dev, const struct m2_op *op);
    /* Bytes of scratch a call of the op needs here; in[] and out[] as for m2_op.workspace. */
    int64_t (*workspace)(m2_device *dev, const struct m2_op *op, const struct m2_attrs *attrs, const m2_desc *in,
                         const m2_desc *out);
    /* Ways in which a call of the op can run here (kernels/op.h): fills list[0 .. most), returns how many; 0: only one. */
    int (*variants)(m2_device *dev, const struct m2_op *op, const struct m2_attrs *attrs, const m2_desc *in,
                    struct m2_variant *list, int most);
    /* The long convolution through the device's own Fourier transforms, for benchmarks: kernels/rival.h. */
    m2_status (*rival)(m2_device *dev, const m2_desc *in, struct m2_rival **out);
    /* Graph capture of everything enqueued on `stream` between begin and end. NULL pointers on the CPU. */
    m2_status (*capture_begin)(m2_device *dev, m2_stream *stream);
    m2_status (*capture_end)(m2_device *dev, m2_stream *stream, m2_graph **out);
    m2_status (*graph_launch)(m2_device *dev, m2_graph *graph, m2_stream *stream);
    void (*graph_destroy)(m2_device *dev, m2_graph *graph);
    /* Large matrix products: measure the library's kernels when a shape is met first, outside capture, and keep the fastest in a
     * file in `folder`; whoever shares the file computes the same bits. NULL on the CPU. */
    m2_status (*tune)(m2_device *dev, const char *folder);
    /* Opens a named range for profilers (NVTX) around what follows, or closes the innermost: path NULL. NULL on the CPU. */
    void (*range)(m2_device *dev, const char *path);
} m2_device_api;

struct m2_device {
    const m2_device_api *api;
    char name[96];         /* "CPU, 2 threads, AVX-512", "NVIDIA H200" */
    char uid[36];          /* of the GPU itself, whatever ordinal a process knows it by; "" on the CPU */
    int index;             /* GPU ordinal; 0 on the CPU */
    int threads;           /* CPU threads that calls may use */
    int tf32;              /* GPU: products of f32 matrices may round their inputs to tf32. Set before the first run */
    int64_t memory;        /* bytes in all */
    double peak_flops;     /* peak FLOP/s in the dtype training uses (measured on the CPU, datasheet on a GPU) */
    double peak_bandwidth; /* bytes/s, read + write */
    int64_t allocations;   /* number of alloc calls so far */
    int64_t drains;        /* times the host waited for all of a stream so far (stream_sync) */
    void *state;
};

#ifdef __cplusplus
extern "C" {
#endif

/* spec: "cpu", "cuda", "cuda:1", or "auto" (a GPU if the module, a driver and a device are there, else the CPU, with
 * the reason logged once). threads: CPU threads for calls, 0 = all available to the process. Caller closes. */
M2_API m2_status m2_device_open(const char *spec, int threads, m2_device **out);
M2_API void m2_device_close(m2_device **dev); /* accepts NULL; nulls the pointer */
M2_API int m2_device_gpus(void);              /* GPUs this process sees; 0 without the module or a driver. Opens none */

/* The table the CUDA module exports under this symbol name; NULL returned means no usable device, with a message. */
#define M2_DEVICE_MODULE_SYMBOL "m2_device_cuda_open"
typedef m2_status (*m2_device_module_open)(int index, int threads, m2_device **out);
#define M2_DEVICE_MODULE_COUNT "m2_device_cuda_count" /* and how many GPUs it sees, without opening one */
typedef int (*m2_device_module_count)(void);

m2_status m2_device_open_cpu(int threads, m2_device **out);

#ifdef __cplusplus
}
#endif
#endif
