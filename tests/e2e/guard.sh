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
    ranks "$ranks" "$faulty" train $options run.dir="$folder" "$@"
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

export FAULT_SLOW=0:10 # so that there is time for something to happen
for at in 25 45 52; do # killed, before and after the rollback's next checkpoint; it counts from when the row is written
    run 1 killed$at >log 2>&1 &
    pid=$!
    while kill -0 $pid 2>/dev/null && ! { grep -q rollback killed$at/metrics.jsonl && grep -q "^{\"step\": $at," killed$at/metrics.jsonl; } 2>/dev/null; do
        sleep 0.01
    done
    kill -9 $(pgrep -P $(pgrep -P $pid | head -1)) 2>/dev/null
    wait $pid 2>/dev/null
    run 1 killed$at >log 2>&1 || { cat log; fail "going on after kill -9 behind step $at"; }
    grep -q 'resuming after step' log || { cat log; fail "killed behind step $at, did not resume"; }
    same killed$at back1
done
for at in 10 30 45; do # interrupted at a step of its own, where a checkpoint is made that is no multiple of checkpoint.every
    run 1 stopped$at >log 2>&1 &
    pid=$!
    wait_for_step stopped$at $at $pid
    kill -USR1 "$(pgrep -P $pid | head -1)" 2>/dev/null
    wait $pid
    [ $? = 75 ] || { cat log; fail "SIGUSR1 at step $at: exit code"; }
    run 1 stopped$at >log 2>&1 || { cat log; fail "going on after SIGUSR1 at step $at"; }
    same stopped$at back1
done
unset FAULT_SLOW
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
