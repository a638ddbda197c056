#include "runtime/bench_save.h"
#include "kernels/base/log.h"
#include "runtime/checkpoint.h"
#include "runtime/eval.h"
#include "runtime/feed.h"
#include "runtime/optim.h"
#include "runtime/planner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WARM_UP = 3, ALONE = 10, PIECE = 4 << 20 };

typedef struct bench {
    m2_bench_save *out;
    m2_feed *feed;
    int32_t *batch;
    int64_t predicted;
    m2_step step;
    m2_state state;
    m2_saver *saver;
    char folder[M2_PATH];
} bench;

/* ---- steps ------------------------------------------------------------------------------------------------------- */
static m2_status invent(bench *b)
{
    const m2_batch *batch = &b->out->training.batch;
    m2_feed_spec spec = {.training = 1, .rows = batch->micro, .slice = m2_feed_slice_of(&b->out->cfg, &b->out->ranks)};
    m2_schedule schedule;
    M2_TRY(m2_schedule_make(&b->out->cfg, &schedule));
    b->step = m2_optim_step(&b->out->cfg, &schedule, 1);
    M2_TRY(m2_feed_open(&b->out->cfg, &spec, &b->feed));
    b->batch = malloc((size_t)m2_feed_size(b->feed) * sizeof *b->batch);
    if (!b->batch) return m2_fail(M2_TRANSIENT, "out of memory for the inputs of a step");
    M2_TRY(m2_feed_next(b->feed, batch->micro, b->batch, &b->predicted));
    b->predicted *= (int64_t)batch->micros * batch->ranks;
    return M2_OK;
}

/* Until the device is done. */
static m2_status run_step(bench *b, double *seconds)
{
    const m2_batch *batch = &b->out->training.batch;
    m2_program *p = b->out->training.program;
    double begin = m2_now(), loss;
    for (int a = 0; a < batch->micros; a++) {
        b->step.row0 = m2_batch_row0(batch, a);
        M2_TRY(m2_feed_write(b->feed, b->batch, b->predicted, p));
        M2_TRY(m2_program_run(p, &b->step, a, batch->micros));
    }
    M2_TRY(m2_program_run_update(p, &b->step));
    M2_TRY(m2_read_scalar(p, m2_program_find(p, "loss"), &loss));
    *seconds = m2_now() - begin;
    return M2_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static m2_status time_alone(bench *b)
{
    double took[ALONE], unused;
    for (int i = 0; i < WARM_UP; i++) M2_TRY(run_step(b, &unused));
    for (int i = 0; i < ALONE; i++) M2_TRY(run_step(b, &took[i]));
    qsort(took, ALONE, sizeof *took, by_value);
    b->out->step = (took[ALONE / 2 - 1] + took[ALONE / 2]) / 2;
    return M2_OK;
}

/* ---- the disk ---------------------------------------------------------------------------------------------------- */
static m2_status plain_write(const bench *b, double *seconds)
{
    char path[M2_PATH + 32];
    char *piece = malloc(PIECE);
    int64_t bytes = m2_saver_statistics(b->saver).bytes;
    if (!piece) return m2_fail(M2_TRANSIENT, "out of memory for a plain write");
    for (int i = 0; i < PIECE; i++) piece[i] = (char)((uint32_t)i * 2654435761u >> 13);
    snprintf(path, sizeof path, "%s/plain-%05d", b->folder, b->out->ranks.comm->rank);
    double begin = m2_now();
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666), bad = fd < 0;
    for (int64_t done = 0; !bad && done < bytes;) {
        ssize_t n = write(fd, piece, (size_t)(bytes - done < PIECE ? bytes - done : PIECE));
        bad = n <= 0;
        done += n;
    }
    bad = bad || fsync(fd);
    m2_status st = bad ? m2_fail(M2_IO, "writing %s failed: %s", path, strerror(errno)) : M2_OK;
    *seconds = m2_now() - begin;
    if (fd >= 0) close(fd);
    unlink(path);
    free(piece);
    return st;
}

/* ---- a save ------------------------------------------------------------------------------------------------------ */
static m2_status most(m2_comm *host, double *values, int n)
{
    return host->api->all_reduce(host, values, values, n, M2_F64, M2_MAX, NULL);
}

/* As the trainer does it: a step, then a word between the ranks. */
static m2_status train_on(bench *b, m2_bench_saved *s)
{
    m2_comm *host = b->out->ranks.comm->host;
    double total = 0, seconds;
    while (m2_saver_pending(b->saver)) {
        int64_t busy, committed;
        M2_TRY(run_step(b, &seconds));
        total += seconds;
        s->steps++;
        busy = m2_saver_busy(b->saver);
        M2_TRY(host->api->all_reduce(host, &busy, &busy, 1, M2_I64, M2_MAX, NULL));
        if (!busy) M2_TRY(m2_saver_advance(b->saver, &committed));
    }
    s->step = s->steps ? total / (double)s->steps : 0;
    return M2_OK;
}

static m2_status save(bench *b, int number, m2_bench_saved *s)
{
    m2_comm *host = b->out->ranks.comm->host;
    m2_save_spec spec = {.folder = b->folder, .step = number, .config = "", .tokenizer = "", .keep = 1};
    *s = (m2_bench_saved){0};
    M2_TRY(host->api->barrier(host));
    M2_TRY(plain_write(b, &s->plain));
    M2_TRY(host->api->barrier(host));
    M2_TRY(m2_program_sync(b->out->training.program));
    M2_TRY(m2_saver_start(b->saver, &spec));
    M2_TRY(train_on(b, s));
    m2_saver_stats stats = m2_saver_statistics(b->saver);
    s->stalled = stats.stalled;
    s->copied = stats.copied;
    s->wrote = stats.wrote;
    s->published = stats.published;
    double values[] = {s->stalled, s->copied, s->wrote, s->published, s->plain};
    M2_TRY(most(host, values, 5));
    s->stalled = values[0];
    s->copied = values[1];
    s->wrote = values[2];
    s->published = values[3];
    s->plain = values[4];
    return M2_OK;
}

/* The same new folder on all ranks. */
static m2_status make_folder(bench *b, const char *folder)
{
    m2_comm *comm = b->out->ranks.comm;
    int64_t pid = getpid();
    M2_TRY(comm->host->api->broadcast(comm->host, &pid, 1, M2_I64, 0, NULL));
    int n = snprintf(b->folder, sizeof b->folder, "%s/m2-bench-save-%" PRId64, folder, pid);
    m2_status st = M2_OK;
    if (n >= (int)sizeof b->folder - 100)
        st = m2_fail(M2_USAGE, "--folder '%.60s...' is too long", folder);
    else if (comm->rank == 0 && mkdir(b->folder, 0777))
        st = m2_fail(M2_IO, "making folder %s failed: %s", b->folder, strerror(errno));
    return m2_comm_agree(comm, st);
}

static m2_status measure(bench *b)
{
    m2_bench_save *out = b->out;
    m2_comm *comm = out->ranks.comm;
    M2_TRY(m2_ranks_alone(comm, invent(b)));
    M2_TRY(
        m2_ranks_alone(comm, m2_program_init_params(out->training.program, (uint64_t)out->cfg.train_seed)));
    M2_TRY(m2_comm_agree(comm, m2_program_params_changed(out->training.program))); /* a master may be in shards */
    M2_TRY(m2_ranks_alone(comm, m2_state_of(out->training.program, out->ranks.device, 1, &b->state)));
    M2_TRY(m2_comm_agree(comm, m2_saver_open(&b->state, comm, &b->saver)));
    out->bytes = m2_saver_statistics(b->saver).bytes;
    M2_TRY(comm->host->api->all_reduce(comm->host, &out->bytes, &out->bytes, 1, M2_I64, M2_SUM, NULL));
    M2_TRY(m2_ranks_alone(comm, time_alone(b)));
    for (int i = 0; i < out->n; i++) M2_TRY(m2_ranks_alone(comm, save(b, i + 1, &out->save[i])));
    return M2_OK;
}

m2_status m2_bench_saves(const m2_config *cfg, const char *folder, int n, m2_bench_save *out)
{
    bench b = {.out = out};
    int chosen;
    *out = (m2_bench_save){.cfg = *cfg, .n = n};
    M2_TRY(m2_planned_vocab(&out->cfg, &chosen));
    M2_TRY(m2_ranks_open(&out->cfg, &out->ranks));
    m2_status st = m2_training_check(&out->cfg, &out->ranks);
    if (st == M2_OK) st = m2_training_make(&out->cfg, &out->ranks, &out->training);
    if (st == M2_OK) st = make_folder(&b, folder);
    if (st == M2_OK) {
        st = measure(&b);
        m2_saver_close(&b.saver);
        if (out->ranks.comm->rank == 0 && st == M2_OK) st = m2_checkpoint_remove(b.folder);
    }
    m2_feed_close(&b.feed);
    free(b.batch);
    if (st != M2_OK) m2_bench_save_close(out);
    return st;
}

void m2_bench_save_close(m2_bench_save *b)
{
    m2_program_free(&b->training.program);
    m2_ranks_close(&b->ranks);
    *b = (m2_bench_save){0};
}
