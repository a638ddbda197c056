/* train.c - m2 train CONFIG.yaml [key=value ...] */
#include "kernels/base/log.h"
#include "parallel/comm.h"
#include "runtime/metrics.h"
#include "runtime/config.h"
#include "runtime/rundir.h"
#include "runtime/trainer.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

const char tool_train_usage[] =
    "usage: m2 train CONFIG.yaml [KEY=VALUE ...]\n"
    "       mpirun -np RANKS m2 train CONFIG.yaml [KEY=VALUE ...]      or srun, or launch/local.sh\n"
    "\n"
    "Trains the model that CONFIG.yaml describes on the token store data.train (m2 prepare writes one).\n"
    "KEY=VALUE changes an option: m2 help options lists them all.\n"
    "\n"
    "  m2 train configs/gpt/tiny.yaml data.train=text.h5 data.val=val.h5 run.dir=runs/first\n"
    "\n"
    "The run folder (run.dir) gets config.yaml, metrics.jsonl and checkpoints/. The same command goes on\n"
    "from the newest checkpoint, also with another number of ranks. SIGTERM, SIGUSR1 and Ctrl-C end the\n"
    "run after the current step with a checkpoint and exit code 75.\n"
    "\n"
    "task.name=NAME fine-tunes the model of train.init on a task of GLUE whose files are in task.data; "
    "task.seeds\n"
    "runs of it, each in a folder of run.dir (configs/glue has the published settings):\n"
    "\n"
    "  m2 train configs/glue/rte.yaml train.init=runs/bert task.data=glue run.dir=runs/rte\n"
    "\n"
    "Columns: step, training loss (nats per token, mean over the batch), validation loss, learning rate,\n"
    "gradient norm before clipping, tokens per second, time left.\n";

enum { SEEDS = 100 }; /* the most that task.seeds may be */

/* Several runs that differ in their seed only; then what their scores have in common. */
static m2_status train_seeds(const m2_config *cfg)
{
    double score[SEEDS], mean = 0, square = 0, best = -INFINITY;
    int n = (int)cfg->task_seeds;
    for (int i = 0; i < n; i++) {
        m2_config one = *cfg;
        m2_rundir dir;
        one.train_seed += i;
        int length =
            snprintf(one.run_dir, sizeof one.run_dir, "%s/seed-%" PRId64, cfg->run_dir, one.train_seed);
        if (length >= (int)sizeof one.run_dir)
            return m2_fail(M2_USAGE, "run.dir '%.60s...' is too long", cfg->run_dir);
        M2_TRY(m2_train(&one));
        M2_TRY(m2_rundir_paths(one.run_dir, &dir));
        M2_TRY(m2_metrics_last(dir.metrics, "val_score", &score[i]));
        mean += score[i] / n;
        best = score[i] > best ? score[i] : best;
    }
    for (int i = 0; i < n; i++) square += (score[i] - mean) * (score[i] - mean);
    m2_log(M2_LOG_INFO, "%s, %d seeds: mean %.4f, standard deviation %.4f, best %.4f", cfg->task_name, n,
           mean, sqrt(square / (n - 1)), best);
    return M2_OK;
}

m2_status tool_train(int argc, char **argv)
{
    static const m2_flag none[] = {{NULL, M2_FLAG_ON, NULL}};
    int rank, size, local_rank, local_size;
    m2_comm_launcher(&rank, &size, &local_rank, &local_size);
    m2_log_setup(M2_LOG_INFO, rank);
    M2_TRY(m2_flags_take(&argc, argv, none));
    m2_config cfg;
    M2_TRY(m2_config_take(argc, argv, &cfg));
    if (!*cfg.run_dir) m2_rundir_default(&cfg, argv[1], cfg.run_dir, sizeof cfg.run_dir);
    if (strcmp(cfg.task_name, "none") != 0 && cfg.task_seeds > 1) return train_seeds(&cfg);
    return m2_train(&cfg);
}
