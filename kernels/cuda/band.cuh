/* band.cuh - longconv's BAND on the GPU: band.cu. */
#pragma once
#include "kernels/op.h"
#include "kernels/ops.h"

namespace m2cu
{

/* The share of the filters' frequencies that stays; 0: all. */
inline double band_of(const m2_attrs *attrs)
{
    double band = attrs->f[M2_LONGCONV_BAND];
    return band > 0 && band < 1 ? band : 0;
}

/* A call of longconv or its gradient with a band, and its workspace; in[] as for the op's query. */
m2_status run_band(const m2_call *call, bool grad);
int64_t band_workspace(const m2_attrs *attrs, const m2_desc *in, bool grad);

} // namespace m2cu
