#!/bin/bash
# Without any signal a run saves and ends with 75 when run.minutes are over, or run.margin before the end of its Slurm job; it goes
# on with the same bits.
. "$M2_SOURCE/tests/e2e/common.bash" || exit 1
small_run
options="config.yaml train.steps=60 checkpoint.every=20 train.log_every=50"
ranks 2 "$M2" train $options run.dir=whole >log 2>&1 || { cat log; fail "the undisturbed run"; }
stops() { # stops WHY COMMAND...
    local why=$1
    shift
    "$@" >log 2>&1
    local code=$?
    [ $code = 75 ] || { cat log; fail "$why: exit code $code, expected 75"; }
    grep -q "stopped by $why at step" log || { cat log; fail "does not say that $why stopped it"; }
    echo "$(grep -o 'stopped by .*' log)"
}
stops "run.minutes" ranks 2 "$M2" train $options run.dir=run run.minutes=1e-6
SLURM_JOB_END_TIME=$(($(date +%s) + 20)) stops "the job's time limit" ranks 2 "$M2" train $options run.dir=run
ranks 2 "$M2" train $options run.dir=run run.margin=0 >log 2>&1 || { cat log; fail "going on"; }
[ "$(content run)" = "$(content whole)" ] || fail "another final checkpoint"
