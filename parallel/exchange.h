/* exchange.h - the long and the short convolution of a sequence that is cut over ranks: collectives as ops.
 *
 * P ranks each hold l = L / P consecutive tokens of all C channels, (C, B, l). The channel exchange gives each rank all L
 * tokens of C / P channels instead, the convolution runs there on those channels' filters alone, and the exchange goes back:
 *
 *     u (C, B, l) --to_channels--> (P, C/P, B, l) --longconv--> (P, C/P, B, l) --to_sequence--> y (C, B, l)
 *
 * Both directions send consecutive blocks and receive consecutive blocks: the first dimension counts the segments of a
 * row, which longconv reads and writes where they lie (kernels/ops.h). Nothing is packed. Only the convolution's input and
 * output move; gates stay with the tokens. The short convolution needs the K - 1 tokens before its own: `halo`.
 *
 * The Monarch exchange serves any number of ranks: each has some columns of the sequence as a matrix (columns.h), does the
 * first block stage of the convolution there, and the permutation between the block stages is the exchange:
 *
 *     u (C, B, l) --columns--> (R, C, B, 2c) --swap--> rows --cyclic--> rows --swap--> (R, C, B, 2c) --uncolumns--> y (C, B, l)
 *
 * Filters go the same way, from the taps of a rank's own columns. Spectra are never un-permuted. The short convolution's halo
 * is then one per chunk, a row of the rank's columns: the chunk before the first rank's is the last rank's, of the row before.
 *
 * The call's context is the communicator of the sequence axis. Gradients are the adjoints for a loss that is the sum of
 * the ranks' losses: to_channels and to_sequence are each other's, halo's sends back what was received. */
#ifndef M2_EXCHANGE_H
#define M2_EXCHANGE_H

#include "kernels/ops.h"
#include "parallel/comm.h"
#include "parallel/layout.h"

enum { M2_EXCHANGE_RANKS = 0, M2_EXCHANGE_GROUPS, M2_EXCHANGE_GROUP };
enum { M2_HALO_TAPS = 0, M2_HALO_CHUNKS };
enum { M2_ROWS_AT = 0, M2_ROWS_COUNT, M2_ROWS_RUN, M2_ROWS_JUMP };
enum { M2_PLACE_AT = 0, M2_PLACE_COUNT, M2_PLACE_RUN, M2_PLACE_JUMP, M2_PLACE_ROWS };
enum { M2_SPREAD_FIRST = 0, M2_SPREAD_COUNT, M2_SPREAD_EACH, M2_SPREAD_FILTERS, M2_SPREAD_AT };

#ifdef __cplusplus
extern "C" {
#endif

/* With GROUPS > 1 the channels of every rank go in so many groups, one per call, of which this is GROUP, and x is handed on as
 * `rest` to the call of the next group; to_sequence gets its group's channels and puts them among the rest. In place where the
 * plan can. */
extern M2_API const m2_op m2_op_to_channels; /* x (C, B, l) -> y (RANKS, C/RANKS/GROUPS, B, l), [rest] like x */
extern M2_API const m2_op m2_op_to_sequence; /* x (RANKS, c, B, l), [rest] -> y (RANKS c GROUPS, B, l) */
/* x (RANKS n, ...) -> y: block s of y is rank s's block for this rank. Its own adjoint. */
extern M2_API const m2_op m2_op_swap;
/* With CHUNKS > 1 each of a row's chunks has its own: left (C, B, CHUNKS (TAPS-1)), rank 0's from the last rank, a chunk
 * earlier. */
extern M2_API const m2_op
    m2_op_halo; /* x (C, B, l) -> left (C, B, TAPS-1): the left neighbour's last tokens, rank 0: 0 */
extern M2_API const m2_op m2_op_halo_grad; /* dleft -> dx, zero but at the last TAPS-1 tokens */
/* x (n, ...) -> x[AT : AT + COUNT], or with RUN > 0 rows AT + i + i / RUN * JUMP: the rows of a parameter that this rank needs.
 * No communication; context unused. */
extern M2_API const m2_op m2_op_rows;
extern M2_API const m2_op m2_op_rows_grad; /* dy -> dx, zero outside the rows */
/* x (COUNT, ...), [rest] -> y (ROWS, ...): rest with x in the place of rows AT, AT + 1, ... */
extern M2_API const m2_op m2_op_place;

/* x (f, ...), filters AT, AT + 1, ... of all FILTERS -> y (COUNT, ...), one per channel FIRST, FIRST + 1, ...: that of channel
 * c is c / EACH, or with EACH = 0, c % FILTERS. No communication; context unused. */
extern M2_API const m2_op m2_op_spread;
extern M2_API const m2_op m2_op_spread_grad; /* dy -> dx: sums over the channels of a filter, in their order */

/* The part of m2_collective_bytes that is this header's ops. */
M2_API int64_t m2_exchange_bytes(const m2_op *op, const m2_attrs *attrs, const m2_desc *in, const m2_desc *out,
                                 int rank, int ranks);

/* Which part of a long convolution a rank does, given C channels with F filters shared as SHARE says. */
typedef struct m2_channel_part {
    m2_slab channels; /* of C */
    m2_slab filters;  /* of F: all that these channels need */
    /* 1: local filters count = filters.count, and longconv's SHARE gives channel c of the part the right one.
     * 0: channels and filters do not line up: the filters must be gathered, one per channel (index below). */
    int uniform;
    int share; /* SHARE of the local call */
} m2_channel_part;
/* M2_USAGE if the ranks do not divide the channels. */
M2_API m2_status m2_exchange_part(int64_t channels, int64_t filters, int share, int ranks, int rank,
                                  m2_channel_part *out) M2_MUST_USE;
/* The filter of a channel: of C channels with F filters. */
static inline int64_t m2_filter_of(int64_t channels, int64_t filters, int share, int64_t channel)
{
    return share == M2_SHARE_INDEX ? channel % filters : channel / (channels / filters);
}

#ifdef __cplusplus
}
#endif
#endif
