#!/bin/bash
# kill -9 at a random step and SIGUSR1, each followed by the same command: the same bits as a run that nothing happened to, in
# the final checkpoint and in every number of metrics.jsonl. A finished run says so; a running one is not disturbed.
# The masked language model is told to stop too: what it hides depends on the row alone.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run
options="config.yaml train.steps=300 checkpoint.every=20 train.log_every=50"
run() { # run FOLDER
    ranks 2 "$M2" train $options run.dir="$1"
}
same() { # same FOLDER: as the undisturbed run
    [ "$(content "$1")" = "$(content whole)" ] || fail "$1: another final checkpoint"
    cmp <(numbers "$1") <(numbers whole) || fail "$1: other metrics"
    [ "$(wc -l <"$1/metrics.jsonl")" = 300 ] || fail "$1: $(wc -l <"$1/metrics.jsonl") records"
}
run whole >log 2>&1 || { cat log; fail "the undisturbed run"; }
[ -n "$(content whole)" ] || fail "no content hash"

for try in 1 2; do # killed
    at=$((25 + RANDOM % 200))
    run killed$try >log 2>&1 &
    pid=$!
    wait_for_step killed$try $at $pid
    children=$(pgrep -P $pid)
    kill -9 $(for c in $children $pid; do pgrep -P "$c"; done) $children 2>/dev/null
    wait $pid 2>/dev/null && fail "killed at step $at, but the run ended well"
    run killed$try >log 2>&1 || { cat log; fail "going on after kill -9 at step $at"; }
    grep -q 'resuming after step' log || { cat log; fail "killed at step $at, did not resume"; }
    same killed$try
    echo "killed at step $at: $(grep -o 'resuming after step [0-9]*' log), same bits"
done

run stopped >log 2>&1 & # told to stop
pid=$!
wait_for_step stopped 30 $pid
mpirun=$(pgrep -P $pid | head -1)
kill -USR1 "${mpirun:-$pid}"
wait $pid
code=$?
[ $code = 75 ] || { cat log; fail "SIGUSR1: exit code $code, expected 75"; }
grep -q 'stopped by SIGUSR1 at step' log || { cat log; fail "did not say where it stopped"; }
step=$(ls stopped/checkpoints | tail -1)
[ "$(ls stopped/checkpoints/"$step" | grep -c h5)" = 3 ] || fail "no checkpoint at the stop"
run stopped >log 2>&1 || { cat log; fail "going on after SIGUSR1"; }
same stopped
echo "stopped by SIGUSR1 ($step): exit code 75, same bits"

run whole >log 2>&1 || fail "a finished run again"
grep -q 'is complete: 300 of 300 steps' log || { cat log; fail "a finished run does not say so"; }

run busy >log 2>&1 & # two at once
pid=$!
wait_for_step busy 5 $pid
run busy >second 2>&1
code=$?
wait $pid || { cat log; fail "the first of two runs"; }
if ! grep -q 'is complete' second; then # unless the first one was done before the second gave up waiting
    [ $code = 64 ] || { cat second; fail "the second of two runs: exit code $code"; }
    grep -q 'another run uses this folder (process' second || { cat second; fail "the second run does not say why"; }
fi
same busy
echo "two runs in one folder: the first is not disturbed"

small_run bert
run masked >log 2>&1 || { cat log; fail "the undisturbed masked run"; }
run halted >log 2>&1 &
pid=$!
wait_for_step halted 30 $pid
mpirun=$(pgrep -P $pid | head -1)
kill -USR1 "${mpirun:-$pid}"
wait $pid
run halted >log 2>&1 || { cat log; fail "a masked run going on after SIGUSR1"; }
grep -q 'resuming after step' log || { cat log; fail "the masked run did not resume"; }
[ "$(content halted)" = "$(content masked)" ] || fail "masked: another final checkpoint"
cmp <(numbers halted) <(numbers masked) || fail "masked: other metrics"
echo "masked language model: same bits"
