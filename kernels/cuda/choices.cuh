/* choices.cuh - which of cuBLASLt's algorithms is the fastest for a product, measured once and kept in a file.
 *
 * All runs that share the file make the same choices, so they compute the same bits; ranks that meet a product at the same
 * time wait for the one that measures it. A line of the file is the product (hexadecimal bytes), the algorithm, and after #
 * what was measured, for people. */
#pragma once
#include "kernels/base/status.h"
#include <cublasLt.h>
#include <stddef.h>

namespace m2cu
{

struct Choices;

/* The file of this kind of GPU and library in `folder`, which is made if need be. */
m2_status choices_open(const char *folder, const char *gpu, Choices **out);
void choices_close(Choices *c); /* accepts NULL */
/* Reads what others added since. */
m2_status choices_read(Choices *c);
/* Takes the file for this process. Whoever holds it must not wait for another rank, which may be waiting for the file. */
m2_status choices_lock(Choices *c);
void choices_unlock(Choices *c);
/* Whether the product with this key has a choice among those read so far. */
bool choices_find(const Choices *c, const void *key, size_t bytes, cublasLtMatmulAlgo_t *out);
/* Appends one; `remark` says what was measured. To be called with the lock. */
m2_status choices_add(Choices *c, const void *key, size_t bytes, const cublasLtMatmulAlgo_t &algo,
                      const char *remark);

} // namespace m2cu
