/* longconv_mma.cuh - the tensor-core variant of the long convolution (longconv_mma.cu). */
#pragma once
#include "kernels/ops.h"

namespace m2cu
{

/* Its ways to run it, the cheapest first; 0 unless u is bf16 rows of at most 65536: else longconv.cu does. */
int mma_conv_count(const m2_desc &u, const m2_desc &k, bool grad);
/* `which` of them. */
int64_t mma_conv_workspace(const m2_attrs *attrs, const m2_desc &u, const m2_desc &k, bool grad, int64_t which);
/* Its name (outer radix, threads of a block) and the time expected of it. */
m2_variant mma_conv_variant(const m2_desc &u, const m2_desc &k, bool grad, int64_t which);
m2_status mma_conv_run(const m2_call *call, bool grad, int64_t which);

} // namespace m2cu
