/* threads.h - the one way CPU code uses several cores.
 *
 * m2_threads_for cuts [0, n) into contiguous pieces of at least `grain` items and runs body on each, on at most
 * `threads` cores, returning when all are done. Which piece a thread gets depends only on (n, grain, threads):
 * results are repeatable. threads == 1 is a plain call. The body must not fail; `thread` is in [0, threads). */
#ifndef M2_BASE_THREADS_H
#define M2_BASE_THREADS_H

#include "kernels/base/status.h"
#include <stdint.h>

typedef void (*m2_body)(void *ctx, int64_t begin, int64_t end, int thread);

M2_API void m2_threads_for(int threads, int64_t n, int64_t grain, m2_body body, void *ctx);
M2_API int m2_threads_available(void); /* cores this process may run on */
#endif
