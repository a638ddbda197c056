/* cudart_trace.c - for LD_PRELOAD: writes the name of every call that allocates or may make the host wait, and of every graph
 * launch, to the file M2_CUDA_TRACE, in order. The calls take integers and pointers only, so one shape serves all. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

typedef int (*call)(long, long, long, long, long, long);

static FILE *out;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_trace(void)
{
    const char *path = getenv("M2_CUDA_TRACE");
    out = path ? fopen(path, "w") : NULL;
    if (out) setvbuf(out, NULL, _IOLBF, 0);
}

/* The runtime was opened by the CUDA module, out of sight of RTLD_NEXT. */
static call find(const char *name)
{
    static const char *const libraries[] = {"libcudart.so.13", "libcudart.so.12"};
    for (int i = 0; i < 2; i++) {
        void *library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);
        union {
            void *object;
            call function;
        } symbol = {.object = library ? dlsym(library, name) : NULL};
        if (symbol.object) return symbol.function;
    }
    fprintf(stderr, "cudart_trace: no CUDA runtime has %s\n", name);
    _Exit(3);
}

#define TRACE(name)                                                                                          \
    __attribute__((visibility("default"))) int name(long a, long b, long c, long d, long e, long f);         \
    int name(long a, long b, long c, long d, long e, long f)                                                 \
    {                                                                                                        \
        static call real;                                                                                    \
        pthread_once(&once, open_trace);                                                                     \
        if (!real) real = find(#name);                                                                       \
        if (out) fprintf(out, "%s\n", #name);                                                                \
        return real(a, b, c, d, e, f);                                                                       \
    }

TRACE(cudaGetDeviceCount)
TRACE(cudaMalloc)
TRACE(cudaMallocAsync)
TRACE(cudaMallocHost)
TRACE(cudaHostAlloc)
TRACE(cudaFree)
TRACE(cudaFreeHost)
TRACE(cudaMemcpy)
TRACE(cudaMemset)
TRACE(cudaStreamSynchronize)
TRACE(cudaDeviceSynchronize)
TRACE(cudaEventSynchronize)
TRACE(cudaGraphLaunch)
