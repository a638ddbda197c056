/* submit.c - m2 submit CONFIG: a Slurm job script in the run folder, and sbatch. */
#define _GNU_SOURCE /* realpath */
#include "runtime/config.h"
#include "runtime/rundir.h"
#include "tools/tool.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char tool_submit_usage[] =
    "usage: m2 submit CONFIG.yaml --nodes N --gpus G --time T [--ranks R] [--dry-run] [KEY=VALUE ...]\n"
    "\n"
    "Writes a Slurm job script for m2 train into the run folder, hands it to sbatch, and says where the log\n"
    "will be. The job saves before its time limit and goes on, start after start, until it is done\n"
    "(launch/train.sbatch).\n"
    "\n"
    "  m2 submit configs/gpt/360m.yaml --nodes 4 --gpus 8 --time 24:00:00 data.train=/shared/c4.h5 \\\n"
    "            run.dir=/shared/runs/360m\n"
    "\n"
    "  --nodes N     (1)\n"
    "  --gpus G      GPUs of each node, one rank for each (0: train on the CPU)\n"
    "  --ranks R     ranks on each node (G, or 1)\n"
    "  --time T      limit of each start, as sbatch takes it: minutes, H:MM:SS, D-HH:MM:SS\n"
    "  --dry-run     print the script instead\n"
    "  KEY=VALUE     m2 help options. All nodes must see run.dir and the data\n"
    "\n"
    "What else sbatch should know goes through its environment: SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_QOS.\n"
    "M2_FAILURES, M2_RESTARTS and M2_PREFLIGHT reach the job: see launch/train.sbatch.\n";

typedef struct job {
    int64_t nodes, gpus, ranks;
    const char *time;
    int dry;
    m2_config cfg;
    int words; /* CONFIG and KEY=VALUE ... */
    char **word;
    char program[PATH_MAX], launch[PATH_MAX], folder[PATH_MAX]; /* absolute: m2, its scripts, the run */
} job;

/* ---- what is asked ----------------------------------------------------------------------------------------------- */
static m2_status check(job *j)
{
    if (j->nodes < 1) return m2_fail(M2_USAGE, "m2 submit: --nodes 0: expected at least 1");
    if (!j->time || !*j->time || strspn(j->time, "0123456789:-") != strlen(j->time))
        return m2_fail(M2_USAGE, "m2 submit: --time %s: expected the limit of a start: minutes, H:MM:SS or D-HH:MM:SS",
                       j->time ? j->time : "is missing");
    if (!j->ranks) j->ranks = j->gpus ? j->gpus : 1;
    int64_t ranks = j->nodes * j->ranks, batch = j->cfg.train_batch;
    if (!*j->cfg.run_mesh && batch % ranks)
        return m2_fail(M2_USAGE,
                       "m2 submit: train.batch=%" PRId64 " cannot be dealt to %" PRId64 " nodes x %" PRId64
                       " ranks: expected a multiple of %" PRId64,
                       batch, j->nodes, j->ranks, ranks);
    return M2_OK;
}

/* This program, and the launch folder of the sources: two above it (build/bin/m2), or in the current folder. */
static m2_status find_scripts(job *j)
{
    char *slash, guess[PATH_MAX + 32];
    ssize_t n = readlink("/proc/self/exe", j->program, sizeof j->program - 1);
    if (n < 0) return m2_fail(M2_TRANSIENT, "m2 submit: finding this program failed: %s", strerror(errno));
    j->program[n] = 0;
    snprintf(guess, sizeof guess, "%s", j->program);
    for (int up = 0; up < 3; up++)
        if ((slash = strrchr(guess, '/')) != NULL) *slash = 0;
    size_t length = strlen(guess);
    snprintf(guess + length, sizeof guess - length, "/launch/train.sbatch");
    if (access(guess, R_OK)) snprintf(guess, sizeof guess, "launch/train.sbatch");
    if (access(guess, R_OK))
        return m2_fail(M2_USAGE, "m2 submit: there is no launch/train.sbatch in %s/../.. nor here: "
                       "run it in the folder of the sources",
                       j->program);
    *strrchr(guess, '/') = 0;
    return realpath(guess, j->launch) ? M2_OK : m2_fail(M2_IO, "m2 submit: %s: %s", guess, strerror(errno));
}

static m2_status find_folder(job *j)
{
    char here[PATH_MAX] = "";
    m2_config *cfg = &j->cfg;
    if (!*cfg->run_dir) m2_rundir_default(cfg, j->word[0], cfg->run_dir, sizeof cfg->run_dir);
    if (cfg->run_dir[0] != '/' && !getcwd(here, sizeof here - 1))
        return m2_fail(M2_IO, "m2 submit: finding the current folder failed: %s", strerror(errno));
    int n = snprintf(j->folder, sizeof j->folder, "%s%s%s", here, *here ? "/" : "", cfg->run_dir);
    return n < (int)sizeof j->folder ? M2_OK : m2_fail(M2_USAGE, "m2 submit: run.dir '%.60s...' is too long", cfg->run_dir);
}

/* ---- the script -------------------------------------------------------------------------------------------------- */
/* As one word of bash. */
static void quote(FILE *out, const char *word)
{
    fputc('\'', out);
    for (; *word; word++)
        if (*word == '\'')
            fputs("'\\''", out);
        else
            fputc(*word, out);
    fputc('\'', out);
}

/* sbatch stops reading its options at a blank in a path, and knows % there. */
static m2_status check_path(const char *path)
{
    if (!strpbrk(path, " \t\n\\%\"'")) return M2_OK;
    return m2_fail(M2_USAGE, "m2 submit: run.dir '%s': sbatch takes no blanks, quotes, %% and \\ in the path of a log", path);
}

static void write_script(const job *j, FILE *out)
{
    const char *name = strrchr(j->word[0], '/');
    name = name ? name + 1 : j->word[0];
    fputs("#!/bin/bash\n", out);
    fprintf(out, "#SBATCH --job-name=m2-%.*s\n", (int)strcspn(name, ". "), name);
    fprintf(out, "#SBATCH --nodes=%" PRId64 "\n#SBATCH --ntasks-per-node=%" PRId64 "\n", j->nodes, j->ranks);
    if (j->gpus) fprintf(out, "#SBATCH --gpus-per-node=%" PRId64 "\n", j->gpus);
    fprintf(out, "#SBATCH --time=%s\n#SBATCH --signal=B:USR1@120\n#SBATCH --requeue\n#SBATCH --open-mode=append\n", j->time);
    fprintf(out, "#SBATCH --output=%s/m2-%%j.log\n", j->folder);
    fputs("# Written by m2 submit; to submit it again: sbatch with this file, in the same folder.\n", out);
    fputs("export M2=\"${M2:-", out);
    fprintf(out, "%s}\" M2_LAUNCH=", j->program);
    quote(out, j->launch);
    fputs("\nexec bash \"$M2_LAUNCH/train.sbatch\"", out);
    for (int i = 0; i < j->words; i++) {
        if (!strncmp(j->word[i], "run.dir=", 8)) continue;
        fputc(' ', out);
        quote(out, j->word[i]);
    }
    fputs(" run.dir=", out);
    quote(out, j->folder);
    fputc('\n', out);
}

/* ---- sbatch ------------------------------------------------------------------------------------------------------ */
static m2_status submit(const job *j)
{
    char script[PATH_MAX + 16], command[2 * PATH_MAX], answer[256] = "";
    m2_rundir run;
    M2_TRY(m2_rundir_paths(j->folder, &run));
    M2_TRY(m2_rundir_make(&run));
    snprintf(script, sizeof script, "%s/job.sbatch", j->folder);
    FILE *out = fopen(script, "w");
    if (out) write_script(j, out);
    int bad = !out || ferror(out);
    if (out && fclose(out)) bad = 1;
    if (bad) return m2_fail(M2_IO, "m2 submit: writing %s failed: %s", script, strerror(errno));
    snprintf(command, sizeof command, "sbatch --parsable '%s'", script); /* check_path: no quotes in it */
    FILE *in = popen(command, "r");
    if (in && !fgets(answer, sizeof answer, in)) answer[0] = 0;
    int code = in ? pclose(in) : -1;
    if (code || !*answer)
        return m2_fail(M2_TRANSIENT, "m2 submit: sbatch did not take %s (it says why above, if it is there at all)", script);
    answer[strcspn(answer, ";\n")] = 0;
    printf("job %s: %" PRId64 " node%s x %" PRId64 " rank%s, at most %s at a time\n", answer, j->nodes, j->nodes == 1 ? "" : "s",
           j->ranks, j->ranks == 1 ? "" : "s", j->time);
    printf("script   %s\nlog      %s/m2-%s.log\nmetrics  %s\n", script, j->folder, answer, run.metrics);
    return M2_OK;
}

m2_status tool_submit(int argc, char **argv)
{
    job j = {.nodes = 1};
    const m2_flag flags[] = {{"--nodes", M2_FLAG_INT, &j.nodes}, {"--gpus", M2_FLAG_INT, &j.gpus},
                             {"--ranks", M2_FLAG_INT, &j.ranks}, {"--time", M2_FLAG_TEXT, &j.time},
                             {"--dry-run", M2_FLAG_ON, &j.dry},  {NULL, M2_FLAG_ON, NULL}};
    M2_TRY(m2_flags_take(&argc, argv, flags));
    M2_TRY(m2_config_take(argc, argv, &j.cfg));
    j.words = argc - 1;
    j.word = argv + 1;
    M2_TRY(check(&j));
    M2_TRY(find_scripts(&j));
    M2_TRY(find_folder(&j));
    M2_TRY(check_path(j.folder));
    if (!j.dry) return submit(&j);
    write_script(&j, stdout);
    return M2_OK;
}
