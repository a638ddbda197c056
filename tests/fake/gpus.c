/* gpus.c - in place of libm2_cuda.so: as many GPUs as the file FAKE_GPUS says, 2 where there is none; each is the CPU. */
#include "kernels/base/device.h"

#include <stdio.h>
#include <stdlib.h>

M2_API int m2_device_cuda_count(void);
M2_API m2_status m2_device_cuda_open(int index, int threads, m2_device **out);

int m2_device_cuda_count(void)
{
    int n = 2;
    const char *name = getenv("FAKE_GPUS");
    FILE *file = name ? fopen(name, "r") : NULL;
    if (file && fscanf(file, "%d", &n) != 1) n = 0;
    if (file) fclose(file);
    return n;
}

m2_status m2_device_cuda_open(int index, int threads, m2_device **out)
{
    (void)index;
    return m2_device_open("cpu", threads, out);
}
