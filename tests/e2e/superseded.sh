#!/bin/bash
# Two jobs in one run folder: a job that Slurm gave up, but which still runs (its node was cut off), is superseded by its own
# next start: it stops with a clear message and exit 64, commits nothing more, and the new one ends with the same bits as if it
# had been alone.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run
options="config.yaml train.steps=1200 checkpoint.every=20 train.log_every=200 train.val_every=0"
"$M2" train $options run.dir=whole >log 2>&1 || { cat log; fail "the undisturbed run"; }

SLURM_JOB_ID=7 "$M2" train $options run.dir=run >old 2>&1 &
old=$!
wait_for_step run 60 $old
SLURM_JOB_ID=7 SLURM_RESTART_COUNT=1 "$M2" train $options run.dir=run >new 2>&1 &
new=$!
wait $old
code=$?
wait $new || { cat new; fail "the new job"; }
[ $code = 64 ] || { cat old; fail "the superseded job: exit code $code, expected 64"; }
grep -q '^m2: error: .*run has been taken over by Slurm job 7, restart 1, process' old || { cat old; fail "does not say why"; }
grep -q 'taking the run over' new || { cat new; fail "the new job does not say what it does"; }
grep -q 'resuming after step' new || { cat new; fail "the new job began anew"; }
[ "$(content run)" = "$(content whole)" ] || fail "another final checkpoint"
cmp <(numbers run) <(numbers whole) || fail "other metrics"
! ls run/checkpoints | grep -q tmp || fail "left behind: $(ls run/checkpoints)"
echo "superseded: $(grep -o 'taken over by.*' old)"
echo "the new job: $(grep -o 'resuming after step [0-9]*' new), same bits"
