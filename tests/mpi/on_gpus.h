/* on_gpus.h - CUnit on ranks that have a GPU each, or the CPU in place of one and a library in place of NCCL
 * (tests/fake/nccl.c). */
#ifndef M2_TESTS_ON_GPUS_H
#define M2_TESTS_ON_GPUS_H

#include "tests/mpi/on_mpi.h"

#include <stdlib.h>
#include <string.h>

static m2_device *gpu; /* this rank's */
static int own;        /* every rank has one of its own */
static m2_device_api fake_api;

static inline int skipped(void)
{
    if (!own) printf("skipped, %d ranks share the GPUs ... ", world->size);
    return !own;
}

/* fake: what NCCL is to be, NULL: itself. */
static inline m2_status open_gpu(const char *fake)
{
    char spec[32];
    int gpus = m2_device_gpus(), sharers;
    snprintf(spec, sizeof spec, "cuda:%d", gpus ? world->local_rank % gpus : 0);
    m2_status st = m2_device_open(fake ? "cpu" : spec, 1, &gpu);
    if (fake && st == M2_OK) {
        fake_api = *gpu->api;
        fake_api.kind = "fake";
        gpu->api = &fake_api;
        snprintf(gpu->uid, sizeof gpu->uid, "fake %d", world->rank);
        setenv("M2_NCCL_LIBRARY", fake, 1);
    }
    M2_TRY(m2_comm_agree(world, st));
    M2_TRY(m2_comm_sharers(world, gpu, &sharers));
    M2_TRY(world->api->all_reduce(world, &sharers, &sharers, 1, M2_I32, M2_MAX, NULL));
    own = sharers == 1;
    return M2_OK;
}
#endif
