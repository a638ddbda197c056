#!/bin/bash
# Gradients that are not numbers, in the steps that read certain rows (m2_faulty): skipped; when they last, the run goes back to
# its checkpoint, passes these rows over and finishes. Killed or stopped on the way, it ends with the same bits. With trouble
# everywhere it stops after train.max_rollbacks and says why.
. "$M2_SOURCE/tests/e2e/common.bash"
faulty=$M2_BUILD/bin/m2_faulty
small_run
options="config.yaml train.steps=60 checkpoint.every=20 train.val_every=20 train.max_skips=3"
export FAULT_GRADIENTS=408-456 # what steps 35 ... 38 read
run() { # run RANKS FOLDER KEY=VALUE...
    local ranks=$1 folder=$2
    shift 2
    local launch=ranks
    [ "$ranks" -gt 1 ] && launch+=" $ranks" || launch=""
    $launch "$faulty" train $options run.dir="$folder" "$@"
}
same() { # same FOLDER LIKE: what training left, to the bit
    [ "$(content "$1")" = "$(content "$2")" ] || fail "$1: another final checkpoint than $2"
    cmp <(numbers "$1") <(numbers "$2") || fail "$1: other metrics than $2"
}

for n in 1 2; do
    run $n back$n >log 2>&1 || { cat log; fail "$n ranks: the run does not recover"; }
    grep -q 'rollback 1 of at most 3, from step 37 to the checkpoint of step 20 and past rows 240 to 443 (step 35: loss .*; step 37: ' log ||
        { cat log; fail "$n ranks: the rollback is not told"; }
    # ... the window has one more step, which is skipped without going back
    [ "$(grep -c 'update skipped' log)" = 4 ] || { cat log; fail "$n ranks: not 4 skipped updates"; }
    grep -q '^{"step": 21, "event": "rollback", "number": 1, "from_step": 37, "to_step": 20, "skipped": 3, "first_row": 240, "next_row": 444, .*"at_norm": null}$' \
        back$n/metrics.jsonl || { cat back$n/metrics.jsonl; fail "$n ranks: no event in metrics.jsonl"; }
    [ "$(grep -vc event back$n/metrics.jsonl)" = 60 ] || fail "$n ranks: not one record a step"
    tail -1 back$n/metrics.jsonl | grep -q '"skips": 4, "rollbacks": 1,' || fail "$n ranks: not counted"
    # step 60 has read 17 steps' rows more than it would have: tokens say so
    tail -1 back$n/metrics.jsonl | grep -q "^{\"step\": 60, \"tokens\": $(((60 + 17) * 12 * 48))," || fail "$n ranks: tokens"
    echo "$n ranks: back once, then to the end"
done

# begin FOLDER PATTERN STEP: in the background, slowly, until metrics.jsonl has a line with the pattern, and that step
begin() {
    FAULT_SLOW=0:30 run 1 "$1" >log 2>&1 &
    pid=$!
    while kill -0 $pid 2>/dev/null && ! { grep -q "$2" "$1/metrics.jsonl" && grep -q "^{\"step\": $3," "$1/metrics.jsonl"; } 2>/dev/null; do
        sleep 0.02
    done
    child=$(pgrep -P $pid | head -1)
}
go_on() { # go_on FOLDER
    run 1 "$1" >log 2>&1 || { cat log; fail "$1: going on"; }
    grep -q 'resuming after step' log || { cat log; fail "$1: did not resume"; }
    same "$1" back1
}
for at in 24 44; do # killed behind the rollback, before and after the next checkpoint
    begin killed$at rollback $at
    kill -9 "$child"
    wait $pid && fail "killed behind step $at, but the run ended well"
    go_on killed$at
done
for at in 10 30; do # interrupted at a step of its own: a checkpoint that is no multiple of checkpoint.every; before ...
    begin stopped$at step $at
    kill -USR1 "$child"
    wait $pid
    [ $? = 75 ] || { cat log; fail "SIGUSR1 at step $at: exit code"; }
    go_on stopped$at
done
begin stopped rollback 26 # ... and after the rollback
kill -USR1 "$child"
wait $pid
[ $? = 75 ] || { cat log; fail "SIGUSR1 behind the rollback: exit code"; }
go_on stopped
echo "interrupted and resumed: the same bits"

FAULT_GRADIENTS=300-100000000 run 2 always train.max_rollbacks=2 >log 2>&1
code=$?
[ $code = 65 ] || { cat log; fail "trouble everywhere: exit code $code, expected 65"; }
[ "$(grep -c 'rollback [12] of at most 2' log)" = 2 ] || { cat log; fail "not two rollbacks"; }
grep -q '^m2: error: stopped at step 23: 3 updates in a row were skipped because the gradient norm was not finite or an outlier, after 2 of at most 2 rollbacks (step 21: .*step 23: loss .*gradient norm nan; rows [0-9]* to [0-9]* of train.h5); the newest checkpoint is of step 20' log ||
    { cat log; fail "trouble everywhere: no reason"; }
FAULT_GRADIENTS=300-100000000 run 2 always train.max_rollbacks=2 >again 2>&1
[ $? = 65 ] || { cat again; fail "the same command again: another exit code"; }
FAULT_GRADIENTS= ranks 2 "$M2" train $options run.dir=always >log 2>&1 || { cat log; fail "with the trouble mended"; }

# relative outliers: none in an even run; with a factor of nearly 1 they are skipped, and told with the limit
unset FAULT_GRADIENTS
"$M2" train $options run.dir=even optim.outlier_factor=100 >log 2>&1 || { cat log; fail "optim.outlier_factor=100"; }
! grep -q skipped log || { cat log; fail "an even run has outliers"; }
"$M2" train $options run.dir=strict optim.outlier_factor=0.5 train.max_rollbacks=0 >log 2>&1
[ $? = 65 ] && grep -q 'after 0 of at most 0 rollbacks (step 21: loss [0-9.]*, gradient norm [0-9.]* > [0-9.]*;' log ||
    { cat log; fail "optim.outlier_factor=0.5"; }
echo "trouble everywhere: stopped with the reason"
