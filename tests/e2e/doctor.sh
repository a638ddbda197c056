#!/bin/bash
# m2 doctor says what this machine has, alone and over ranks, and ends with 71 and a reason when something is missing.
. "$M2_SOURCE/tests/e2e/common.bash" || exit 1
unset CUDA_VISIBLE_DEVICES
"$M2" doctor >log 2>&1 || { cat log; fail "m2 doctor"; }
for row in 'program .*MPI.*HDF5' 'processor\|GPU memory' 'memory .*GiB of' 'GPUs ' 'disk .*with fsync'; do
    grep -q "^  $row" log || { cat log; fail "no row '$row'"; }
done
! grep -q unfit log || { cat log; fail "this machine is unfit"; }
ranks 3 "$M2" doctor --dir "$work" >log 2>&1 || { cat log; fail "m2 doctor on 3 ranks"; }
grep -q '^  all-reduce .*3 ranks.*right sums' log || { cat log; fail "no all-reduce"; }
[ "$(grep -c '^  program' log)" = 1 ] || { cat log; fail "what is the same is told more than once"; }
unfit() { # unfit REASON COMMAND...
    local reason=$1 code
    shift
    "$@" >log 2>&1
    code=$?
    [ $code = 71 ] || { cat log; fail "$reason: exit code $code, expected 71"; }
    grep -q "^m2: error: unfit to train: $(hostname) ($reason" log || { cat log; fail "no reason: $reason"; }
    grep -qx "unfit nodes: $(hostname)" log || { cat log; fail "$reason: not named"; }
}
unfit "disk $work/none: No such file" "$M2" doctor --dir "$work/none"
unfit "disk .*: .* are left, expected 1000000000" ranks 2 "$M2" doctor --dir "$work" --free 1000000000
unfit "GPUs: 2, but 3 were promised" env LD_LIBRARY_PATH="$M2_BUILD/bin/fake_gpus" CUDA_VISIBLE_DEVICES=0,1,2 "$M2" doctor --alone
unfit "all-reduce: 2 ranks, .*slower than expected" ranks 2 "$M2" doctor --least-gbs 1e6
"$M2" doctor --gpu 3 >log 2>&1
[ $? = 64 ] || fail "a bad flag: exit code $?"
echo "fit alone and over ranks; a missing folder, a full disk, a lost GPU and a slow network are named"
