#include "runtime/batch.h"

#include <inttypes.h>

m2_status m2_batch_cut(int64_t global, int64_t micro, int rank, int ranks, m2_batch *out)
{
    if (global % ranks) {
        int64_t below = global / ranks * ranks, above = below + ranks;
        if (!below)
            return m2_fail(M2_USAGE,
                           "train.batch = %" PRId64 " sequences cannot be shared by %d ranks: use %" PRId64
                           ", or fewer ranks",
                           global, ranks, above);
        return m2_fail(M2_USAGE,
                       "train.batch = %" PRId64 " sequences cannot be shared evenly by %d ranks: use %" PRId64
                       " or %" PRId64,
                       global, ranks, below, above);
    }
    int64_t share = global / ranks;
    if (!micro) micro = share;
    if (micro > share)
        return m2_fail(M2_USAGE,
                       "train.micro = %" PRId64 " is more than the %" PRId64 " sequences of each rank", micro,
                       share);
    if (share % micro) {
        int64_t below = micro, above = micro;
        while (share % below) below--;
        while (share % above) above++;
        return m2_fail(M2_USAGE,
                       "train.micro = %" PRId64 " does not divide the %" PRId64
                       " sequences of each rank: use %" PRId64 " or %" PRId64,
                       micro, share, below, above);
    }
    *out = (m2_batch){.global = global, .share = share, .micro = micro, .rank = rank, .ranks = ranks};
    out->micros = (int)(share / micro);
    return M2_OK;
}

int m2_batch_shrink(m2_batch *b)
{
    if (b->micro == 1) return 0;
    do b->micro--;
    while (b->share % b->micro);
    b->micros = (int)(b->share / b->micro);
    return 1;
}

int64_t m2_batch_row0(const m2_batch *b, int micro)
{
    return b->rank * b->share + micro * b->micro;
}

int64_t m2_batch_at(void *ctx, int64_t i)
{
    const m2_batch *b = ctx;
    return b->start + i / b->micros * b->global + m2_batch_row0(b, (int)(i % b->micros));
}
