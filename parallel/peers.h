/* peers.h - even exchanges among GPUs of one host as copies into each other's memory (m2_comm_lend), without processors of
 * theirs. Private to parallel/.
 *
 * Each rank has two flags for every other one, in memory of its own GPU: `ready`, raised by the other when its side may be
 * written, and `done`, raised by the other when it has written here. Exchange number n of a communicator, on a stream:
 *
 *     to all: ready = n;   for each: await ready = n, copy its block into its memory, its done = n;   from all: await done = n
 *
 * All in the order of the stream: the host goes on, and what ran before the exchange has read what is overwritten. */
#ifndef M2_PEERS_H
#define M2_PEERS_H

#include "parallel/comm.h"

/* 1: an exchange into [recv, recv + bytes) goes this way; the same on every rank. */
int m2_peers_reach(const m2_comm *c, const void *recv, int64_t bytes);
/* Block r of send, r * send_step bytes further, to rank r, which puts it recv_step * rank bytes behind its recv. */
m2_status m2_peers_swap(m2_comm *c, const void *send, int64_t send_step, void *recv, int64_t recv_step, int64_t bytes,
                        m2_stream *s) M2_MUST_USE;
void m2_peers_close(m2_comm *c); /* accepts a communicator without any */

#endif
