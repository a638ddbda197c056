#!/bin/bash
# A bit of a parameter changes on one rank (m2_faulty): the comparison of ranks names that rank, its node and the tensor, the job
# ends with exit code 71, and nothing that came after is saved. Two ranks differ without a majority. Untouched runs go on.
. "$M2_SOURCE/tests/e2e/common.bash"
faulty=$M2_BUILD/bin/m2_faulty
small_run
node=$(hostname)
run() { # run RANKS FOLDER KEY=VALUE...
    local ranks=$1 folder=$2
    shift 2
    ranks "$ranks" "$faulty" train config.yaml train.steps=60 train.val_every=0 checkpoint.every=20 run.dir="$folder" "$@" >log 2>&1
    code=$?
}
ended() { # ended FOLDER "CHECKPOINTS" WORDS
    [ $code = 71 ] || { cat log; fail "$1: exit code $code, expected 71"; }
    grep -qE "^m2: error: silent corruption: $3" log || { cat log; fail "$1: not told"; }
    [ "$(grep -c 'silent corruption' log)" = 1 ] || { cat log; fail "$1: told more than once"; }
    [ "$(ls "$1/checkpoints" | tr '\n' ' ')" = "$2" ] || fail "$1: checkpoints $(ls "$1/checkpoints")"
    grep -oE 'silent corruption: .{50}.*' log
}
export FAULT_FLIP=1:23
run 3 odd run.check_every=10
ended odd 'step-00000020 ' "after step 30 rank 1 \($node\) does not hold the same bits as the other 2 ranks, first in param/[a-z0-9.]+ \([0-9]+ of [0-9]+ tensors differ\).* the checkpoint of step 20 is from before this"
run 3 odd2 run.check_every=1 # at once, and only in that tensor
tensor=$(sed -nE 's/^flipped a bit of (.*)/\1/p' log | head -1)
ended odd2 'step-00000020 ' "after step 23 rank 1 \($node\) does not .*, first in param/$tensor \(1 of "
run 3 unsaved run.check_every=1000 # a checkpoint is compared before it is written
ended unsaved 'step-00000020 ' "after step 40 rank 1 "
run 2 two run.check_every=5
ended two 'step-00000020 ' "after step 25 rank 0 \($node\), rank 1 \($node\) do not hold the same bits, first in param/.*they are only two, so it cannot be told which is wrong"
FAULT_FLIP=0:3 run 3 early run.check_every=2 optim.zero=0 # rank 0 is not always right
ended early '' "after step 4 rank 0 \($node\) does not .*no checkpoint was written"
run 2 off run.check_every=0
[ $code = 0 ] || { cat log; fail "run.check_every=0: exit code $code"; }

unset FAULT_FLIP
run 3 odd run.check_every=10
[ $code = 0 ] && grep -q 'resuming after step 20' log || { cat log; fail "the same command on sound nodes"; }
for options in optim.zero=1 optim.zero=2 run.mesh=seq=2; do # what is in shards is left out; who shares a sequence is compared too
    run 2 "sound-$options" run.check_every=1 $options
    [ $code = 0 ] || { cat log; fail "a sound run with $options: exit code $code"; }
done
FAULT_FLIP=1:7 run 2 cut run.check_every=1 run.mesh=seq=2
ended cut '' "after step 7 rank 0 .*, rank 1 .* do not hold the same bits, first in param/$tensor \(1 of "
