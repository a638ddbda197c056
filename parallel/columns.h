/* columns.h - how the tokens of a sequence lie for its exchanges, and which exchange to take. Pure arithmetic.
 *
 * Channel exchange: rank r of P has L / P consecutive tokens. Monarch exchange: the L tokens are the first USED rows of a
 * matrix of WIDTH columns, t = t1 WIDTH + t2, and rank r has columns t2 in [r OWN, (r + 1) OWN) of every row, row behind row.
 * The DFT has ROWS >= USED rows, a multiple of P, the ones beyond USED zero: ROWS / P go to each rank. */
#ifndef M2_COLUMNS_H
#define M2_COLUMNS_H

#include "parallel/layout.h"

typedef struct m2_columns {
    int64_t rows, used, width, own; /* width 0: consecutive tokens */
} m2_columns;

typedef enum m2_exchange_kind { M2_EXCHANGE_CHANNEL, M2_EXCHANGE_MONARCH } m2_exchange_kind;

typedef struct m2_exchange_ask {
    const char *want;               /* "auto", "channel", "monarch" */
    int64_t length, channels, filters, taps; /* taps of the short convolution: they reach into one neighbour only */
    int ranks;
    m2_dtype compute; /* of activations */
    int groups;       /* wanted, 0: chosen */
    int beside;       /* 1: an exchange costs no core of this rank (a network, a GPU) */
} m2_exchange_ask;

typedef struct m2_exchange_choice {
    m2_exchange_kind kind;
    m2_columns columns;                   /* of the kind chosen */
    int groups;                           /* the channels are exchanged in, so that one is while another is convolved */
    int64_t channel_bytes, monarch_bytes; /* that a rank sends for a sequence in one long convolution; -1: impossible */
    char why[320];                        /* a sentence for people */
} m2_exchange_choice;

#ifdef __cplusplus
extern "C" {
#endif
/* The cheapest matrix for `length` tokens over `ranks`, which divide them, with at least `least` columns on each rank: that
 * which sends least, few rows where that is equal. M2_USAGE if there is none. */
M2_API m2_status m2_columns_choose(int64_t length, int ranks, int64_t least, m2_columns *out) M2_MUST_USE;
/* The tokens of a rank; contiguous if width is 0. */
M2_API m2_runs m2_columns_runs(const m2_columns *c, int64_t length, int ranks, int rank);
/* "auto" takes what sends fewer bytes, of what is possible. M2_USAGE where what is wanted is not, or nothing is. */
M2_API m2_status m2_exchange_choose(const m2_exchange_ask *ask, m2_exchange_choice *out) M2_MUST_USE;
#ifdef __cplusplus
}
#endif
#endif
