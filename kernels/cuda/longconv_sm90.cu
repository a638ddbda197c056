/* longconv_sm90.cu - the long convolution of bf16 rows on compute capability 9.0: warps with up to 255 registers, 226 KiB of
 * shared memory per block. Costs decide between these and those of longconv_mma.cu. At 16384 rows cost less here and filters
 * more, so these win where filters are shared. Backward at 8192 the transform that waits is in registers, so that two blocks fit
 * (0.83 to 0.80 ms); at 32768 and 65536 5 of its 8 groups are in shared memory (2 to 4% of the time), and at 32768 a table
 * besides, with a row's other tensors asked for ahead (4%; H200, 192 filters of 32 rows: 2.97 ms without, 2.90, 2.80).
 *
 * Clusters, whose blocks share a row, lose on an H200. Reading each other's 16-byte pieces goes at 0.8 to 1.3 TB/s, writing them
 * at 1.7 to 2.4 (the bulk copy engine: 2.0 to 3.6), and barriers wait for what is on its way to memory too. Tried: columns of a
 * row per block (32768, backward: as fast as one block for 128 filters, 24% slower for 1024); before rows came by lines, halves
 * of the frequencies per block, each made of the whole row, results exchanged (128 filters: forward at 65536 0.93 ms where one
 * block took 0.53 at 32768; backward 2.8, through memory 2.3). */
#define M2_OLDEST 900
#include "mma_conv.cuh"

namespace m2cu
{

const Variant sm90_variants[] = {
    backward_of<MmaFft<32, 8, 4>, 2, 113, true>(10.6f, 10.8f),
    forward_of<MmaFftLong<64, 1, 8>, 2>(4.1f, 5.8f),
    backward_of<MmaFftLong<64, 1, 8>, 1, 226>(10.6f, 30.6f),
    backward_of<MmaFftLong<128, 1, 16, 1, true>, 1, 226>(13.8f, 13.4f),
    backward_of<MmaFftLong<128, 2>, 1, 226>(20.5f, 19.3f),
};
const int sm90_variant_count = sizeof sm90_variants / sizeof *sm90_variants;

} // namespace m2cu
