/* cuda.h - of the driver's interface, what kernels/base/device_cuda.cu names; there is no driver (cuda_runtime.h). */
#pragma once
#include "cuda_runtime.h"
typedef int CUresult;
typedef cudaStream_t CUstream;
typedef uintptr_t CUdeviceptr;
enum { CUDA_SUCCESS, CU_STREAM_WRITE_VALUE_DEFAULT = 0, CU_STREAM_WAIT_VALUE_GEQ = 0 };
CUresult cuStreamWriteValue32(CUstream, CUdeviceptr, uint32_t, unsigned);
CUresult cuStreamWaitValue32(CUstream, CUdeviceptr, uint32_t, unsigned);
