#!/bin/bash
# A rank that takes longer for its own work (m2_faulty) is named with its node in the log and in metrics.jsonl, though every rank's
# steps take equally long; ranks that all take long are not. Steps are made long by sleeping, so other load does not matter.
. "$M2_SOURCE/tests/e2e/common.bash"
faulty=$M2_BUILD/bin/m2_faulty
small_run
node=$(hostname)
run() { # run RANKS FOLDER KEY=VALUE...: 24 steps of 30 ms
    local ranks=$1 folder=$2
    shift 2
    FAULT_EVEN=0:30 ranks "$ranks" "$faulty" train config.yaml train.steps=25 train.val_every=0 checkpoint.every=0 run.pace_every=4 \
        run.dir="$folder" "$@" >log 2>&1 || { cat log; fail "$folder"; }
}
named() { # named FOLDER RANK RANKS: twice, after 3 and 6 windows, and nobody else
    [ "$(grep -cE "^rank [0-9]+ \(" log)" = 2 ] || { cat log; fail "$1: not named twice"; }
    grep -qE "^rank $2 \($node\) is [0-9.]+x slower than the median of $3 ranks over the last 12 steps" log &&
        grep -qE "^rank $2 \($node\) is [0-9.]+x slower than the median of $3 ranks over the last 24 steps" log ||
        { cat log; fail "$1: rank $2 is not named"; }
    [ "$(sed -nE 's/^\{"step": ([0-9]+),.*"slow_rank": ([0-9]+), "slow_ratio": [0-9.]+.*/\1 \2/p' "$1/metrics.jsonl" | tr '\n' ' ')" = "13 $2 25 $2 " ] ||
        { cat "$1/metrics.jsonl"; fail "$1: rank $2 is not in metrics.jsonl"; }
    grep 'slower than the median' log
}
FAULT_SLOW=2:90 run 3 slow
named slow 2 3
FAULT_SLOW=0:90 run 2 first # of two the faster one is the measure
named first 0 2
FAULT_SLOW=1:90 run 2 cut run.mesh=seq=2 comm.groups=2 # waiting in the exchanges of a step is not work
named cut 1 2
run 3 even
! grep -q slower log || { cat log; fail "an even job has a straggler"; }
! grep -q slow_rank even/metrics.jsonl || fail "an even job has a straggler in metrics.jsonl"
FAULT_SLOW=1:90 run 2 off run.straggler=0 train.steps=13
! grep -q slower log || { cat log; fail "run.straggler=0"; }
[ "$(content slow)" = "$(content even)" ] || fail "a slow rank changed what was computed"
echo "even ranks: nobody is named"
