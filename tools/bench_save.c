/* bench_save.c - m2 bench save CONFIG: what a checkpoint costs the training that goes on. */
#include "kernels/base/log.h"
#include "parallel/comm.h"
#include "runtime/bench_save.h"
#include "tools/bench.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

const char bench_save_usage[] =
    "usage: m2 bench save CONFIG.yaml [KEY=VALUE ...] [--folder DIR] [--saves N] [--json]\n"
    "\n"
    "Trains on random tokens, alone or under mpirun, and saves checkpoints in the background. Each save is\n"
    "preceded by a plain write and fsync of as many bytes by each rank: what dd conv=fsync measures. The\n"
    "slowest rank counts.\n"
    "\n"
    "  --folder DIR  on the disk to measure (.); a folder in it is made and removed\n"
    "  --saves N     how many (3)\n"
    "  --json        for programs\n"
    "\n"
    "Columns: milliseconds that training waited, of them for the copy out of the device; seconds of the\n"
    "writer; its GB/s, the plain write's, the share; seconds until the commit after that; steps meanwhile\n"
    "and how much slower each was than alone.\n";

static double rate(const m2_bench_save *b, double seconds)
{
    return seconds > 0 ? (double)b->bytes / seconds * 1e-9 : 0;
}

static void print_text(const m2_bench_save *b)
{
    char params[32], bytes[32];
    printf("%s, %s parameters; %d rank%s on %s; a save is %s; a step alone takes %.3f ms\n\n",
           b->cfg.model_family, m2_human_count(params, (double)m2_program_param_count(b->training.program)),
           b->training.batch.ranks, b->training.batch.ranks == 1 ? "" : "s", b->ranks.device->name,
           m2_human_bytes(bytes, b->bytes), b->step * 1e3);
    printf("%4s %9s %9s %9s %9s %9s %7s %9s %7s %8s\n", "save", "stall ms", "copy ms", "writer s", "GB/s",
           "plain", "share", "commit s", "steps", "slower");
    for (int i = 0; i < b->n; i++) {
        const m2_bench_saved *s = &b->save[i];
        printf("%4d %9.1f %9.1f %9.3f %9.2f %9.2f %6.0f%% %9.3f %7" PRId64 " %7.1f%%\n", i + 1,
               s->stalled * 1e3, s->copied * 1e3, s->wrote, rate(b, s->wrote), rate(b, s->plain),
               100 * s->plain / s->wrote, s->published, s->steps, 100 * (s->step / b->step - 1));
    }
}

static m2_status print_json(const m2_bench_save *b)
{
    json_t *saves = json_array();
    for (int i = 0; i < b->n; i++) {
        const m2_bench_saved *s = &b->save[i];
        json_array_append_new(saves, json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:f}",
                                               "stall_seconds", s->stalled, "copy_seconds", s->copied,
                                               "writer_seconds", s->wrote, "writer_gb_per_s",
                                               rate(b, s->wrote), "plain_gb_per_s", rate(b, s->plain),
                                               "share", s->plain / s->wrote, "commit_seconds", s->published,
                                               "steps", (json_int_t)s->steps, "step_seconds", s->step));
    }
    json_t *root =
        json_pack("{s:s, s:i, s:I, s:I, s:f, s:o}", "device", b->ranks.device->name, "ranks",
                  b->ranks.comm->size, "parameters", (json_int_t)m2_program_param_count(b->training.program),
                  "bytes", (json_int_t)b->bytes, "step_seconds", b->step, "saves", saves);
    int bad = !root || json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    json_decref(root);
    putchar('\n');
    return bad ? m2_fail(M2_IO, "cannot write JSON to standard output") : M2_OK;
}

m2_status bench_save(int argc, char **argv)
{
    int json = 0, rank, size, local_rank, local_size;
    int64_t saves = 3;
    const char *folder = ".";
    const m2_flag flags[] = {{"--saves", M2_FLAG_INT, &saves},
                             {"--folder", M2_FLAG_TEXT, &folder},
                             {"--json", M2_FLAG_ON, &json},
                             {NULL, M2_FLAG_ON, NULL}};
    m2_config cfg;
    m2_bench_save b;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    m2_log_setup(M2_LOG_WARN, rank);
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (saves < 1 || saves > M2_BENCH_SAVES)
        return m2_fail(M2_USAGE, "--saves %" PRId64 ": expected 1 to %d", saves, M2_BENCH_SAVES);
    M2_TRY(m2_config_take(argc, argv, &cfg));
    M2_TRY(m2_bench_saves(&cfg, folder, (int)saves, &b));
    m2_status st = M2_OK;
    if (b.ranks.comm->rank == 0 && json) st = print_json(&b);
    if (b.ranks.comm->rank == 0 && !json) print_text(&b);
    m2_bench_save_close(&b);
    return st;
}
