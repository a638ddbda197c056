/* on_gpus.h - CUnit on ranks that have a GPU each, or the CPU in place of one, with memory that processes share in place of a
 * GPU's, and a library in place of NCCL (tests/fake/nccl.c). */
#ifndef M2_TESTS_ON_GPUS_H
#define M2_TESTS_ON_GPUS_H

#include "tests/mpi/on_mpi.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static m2_device *gpu; /* this rank's */
static int own;        /* every rank has one of its own */
static m2_device_api fake_api;

/* ---- the CPU's memory as a GPU's, which other processes can map ------------------------------------------------------ */
enum { FAKE_HEAD = 4096, FAKE_NAME = 40 }; /* ahead of each piece: its bytes and, for who borrows it, its name */
typedef struct fake_head {
    size_t bytes;
    int file;
    char name[FAKE_NAME];
} fake_head;

static inline m2_status fake_map(int file, size_t bytes, void **out)
{
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (p == MAP_FAILED) return m2_fail(M2_TRANSIENT, "no memory to share");
    *out = p + FAKE_HEAD;
    return M2_OK;
}

static inline fake_head *fake_head_of(void *p)
{
    return (fake_head *)((char *)p - FAKE_HEAD);
}

static inline m2_status fake_alloc(m2_device *dev, m2_memory kind, int64_t bytes, void **out)
{
    (void)kind;
    size_t all = (size_t)bytes + FAKE_HEAD;
    int file = memfd_create("a GPU's memory", 0);
    dev->allocations++;
    if (file < 0 || ftruncate(file, (off_t)all) != 0) return m2_fail(M2_TRANSIENT, "no memory to share");
    M2_TRY(fake_map(file, all, out));
    fake_head *h = fake_head_of(*out);
    *h = (fake_head){.bytes = all, .file = file};
    snprintf(h->name, sizeof h->name, "/proc/%d/fd/%d", (int)getpid(), file);
    return M2_OK;
}

static inline void fake_free(m2_device *dev, m2_memory kind, void *p)
{
    (void)dev, (void)kind;
    if (!p) return;
    close(fake_head_of(p)->file);
    munmap(fake_head_of(p), fake_head_of(p)->bytes);
}

static inline m2_status fake_lend(m2_device *dev, void *base, m2_ticket *out)
{
    (void)dev;
    memcpy(out->bytes, fake_head_of(base)->name, FAKE_NAME);
    return M2_OK;
}

static inline m2_status fake_borrow(m2_device *dev, const m2_ticket *ticket, void **out)
{
    (void)dev;
    int file = open((const char *)ticket->bytes, O_RDWR);
    off_t all = file < 0 ? 0 : lseek(file, 0, SEEK_END);
    m2_status st = all ? fake_map(file, (size_t)all, out) : m2_fail(M2_TRANSIENT, "cannot open %s", (const char *)ticket->bytes);
    if (file >= 0) close(file);
    return st;
}

static inline void fake_give_back(m2_device *dev, void *borrowed)
{
    (void)dev;
    munmap(fake_head_of(borrowed), fake_head_of(borrowed)->bytes);
}

static inline m2_status fake_raise(m2_device *dev, uint32_t *flag, uint32_t value, m2_stream *stream)
{
    (void)dev, (void)stream;
    __atomic_store_n(flag, value, __ATOMIC_RELEASE);
    return M2_OK;
}

static inline m2_status fake_await(m2_device *dev, const uint32_t *flag, uint32_t value, m2_stream *stream)
{
    (void)dev, (void)stream;
    while ((int32_t)(__atomic_load_n(flag, __ATOMIC_ACQUIRE) - value) < 0) sched_yield();
    return M2_OK;
}

static inline void fake_memory(m2_device_api *a)
{
    a->alloc = fake_alloc, a->free = fake_free;
    a->lend = fake_lend, a->borrow = fake_borrow, a->give_back = fake_give_back;
    a->raise = fake_raise, a->await = fake_await;
}

/* ---- the GPU --------------------------------------------------------------------------------------------------------- */
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
        fake_memory(&fake_api);
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
