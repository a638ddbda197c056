/* rival.h - the long convolution as it is without this project: through the device's own Fourier transforms.
 *
 * Rows padded with zeros to 2L, real to complex, product with the filter's spectrum, complex to real; gates and skip as
 * passes of their own; f32 throughout, spectra of filters made anew in each call. FFTW on the CPU (forward only), cuFFT on a
 * GPU, both found at run time. For benchmarks, and as a witness. */
#ifndef M2_KERNELS_RIVAL_H
#define M2_KERNELS_RIVAL_H

#include "kernels/ops.h"

typedef struct m2_rival m2_rival;
struct m2_rival {
    char name[32]; /* "FFTW", "cuFFT" */
    int gradient;  /* 1: runs longconv_grad as well */
    /* A call of longconv, or its gradient, with the shapes it was opened for, in the default stream. */
    m2_status (*run)(m2_rival *r, const m2_call *call);
    void (*close)(m2_rival *r);
};

#ifdef __cplusplus
extern "C" {
#endif
/* dev->api->rival of the two devices. For calls with inputs in[M2_MAX_IN] of longconv, u in one piece. M2_USAGE with the
 * reason where there is no such library or it cannot do that. The caller closes. */
m2_status m2i_rival_fftw(m2_device *dev, const m2_desc *in, m2_rival **out) M2_MUST_USE;
m2_status m2i_rival_cufft(m2_device *dev, const m2_desc *in, m2_rival **out) M2_MUST_USE;
#ifdef __cplusplus
}
#endif
#endif
