/* train.c - m2 train CONFIG.yaml [key=value ...] */
#include "kernels/base/log.h"
#include "parallel/comm.h"
#include "runtime/config.h"
#include "runtime/rundir.h"
#include "runtime/trainer.h"
#include "tools/tool.h"

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
    "Columns: step, training loss (nats per token, mean over the batch), validation loss, learning rate,\n"
    "gradient norm before clipping, tokens per second, time left.\n";

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
    return m2_train(&cfg);
}
