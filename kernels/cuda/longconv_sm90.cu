/* longconv_sm90.cu - the long convolution of bf16 rows on compute capability 9.0: warps with up to 255 registers, 226 KiB of
 * shared memory per block, and clusters, whose blocks share a row and use each other's shared memory (cluster.cuh). Costs decide
 * between these and those of longconv_mma.cu: here rows cost less and filters more, so they win where filters are shared.
 *
 * H200, 65,536 tokens x 1024 channels, backward alone, ms: by one block of 512 threads, and by
 *                       filters: 1024          128
 *   16384  256 threads  1.37, 1.43   1.27, 1.19
 *   32768  2 x 256      2.08, 2.51   1.88, 1.74  both transforms and their sums on chip, half of each in either block
 * Blocks of a cluster read each other's 16-byte pieces at 0.8 to 1.3 TB/s and write them at 1.7 to 2.4 (the bulk copy engine: 2.0
 * to 3.6), fastest in clusters of 2. Tried at 32768: clusters of 8 blocks of 128 threads 3.31, 2.20, of 4 blocks of
 * 256 4.32, 3.27; forward (0.61 by one block) 2, 4 and 8 blocks 0.80, 1.19, 1.27. */
#define M2_OLDEST 900
#include "mma_conv.cuh"

namespace m2cu
{

const Variant sm90_variants[] = {
    forward_of<MmaFftLong<64, 1, 8>, 2>(5.5f, 5.2f),
    backward_of<MmaFftLong<64, 1, 8>, 1, 226>(17.3f, 14.4f),
    backward_of<MmaFftLong<128, 2, 8>, 1, 226>(24.2f, 25.6f),
};
const int sm90_variant_count = sizeof sm90_variants / sizeof *sm90_variants;

} // namespace m2cu
