/* longconv_mma.cuh - the tensor-core variant of the long convolution (longconv_mma.cu). */
#pragma once
#include "kernels/ops.h"

namespace m2cu
{

/* Whether the variant takes u (bf16 rows of at most 32768); else longconv.cu does. */
bool mma_conv_takes(const m2_attrs *attrs, const m2_desc &u);
int64_t mma_conv_workspace(const m2_attrs *attrs, const m2_desc &u, const m2_desc &k, bool grad);
/* Its name and the time expected of it. */
m2_variant mma_conv_variant(const m2_attrs *attrs, const m2_desc &u, const m2_desc &k, bool grad);
m2_status mma_conv_run(const m2_call *call, bool grad);

} // namespace m2cu
