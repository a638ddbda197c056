#!/bin/bash
# Training on the CUDA module for the CPU (tests/emulated): losses are the CPU's, graphs and plain launches agree to the bit, bf16 is
# near, and two ranks that share a sequence, by either exchange, agree with one.
. "$M2_SOURCE/tests/e2e/common.bash"
[ -e "$M2_BUILD/bin/emulated/libm2_cuda.so" ] || { echo "skipped: no CUDA module for the CPU"; exit 77; }
small_run gpt
steps=3

train() { # train RANKS RUN OPTION...
    local n=$1 dir=$2
    shift 2
    ranks "$n" "$M2" train config.yaml run.dir="$dir" train.steps=$steps train.val_every=0 checkpoint.every=0 "$@" >log 2>&1 ||
        { cat log; fail "$dir"; }
}
near() { # near ALLOWED RUN RUN: their losses
    paste -d' ' <(losses "$2") <(losses "$3") | awk -v allowed="$1" -v steps=$steps '
        function off(x, y) { d = (x - y) / x; d = d < 0 ? -d : d; if (d > most) most = d }
        { off($2, $5) }
        END { printf "  apart by at most %.1e\n", most; exit !(NR == steps && most <= allowed) }' || fail "$2 and $3 differ"
}

train 1 cpu train.precision=f32
export LD_LIBRARY_PATH=$M2_BUILD/bin/emulated${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
train 1 f32 run.device=cuda train.precision=f32
grep -q 'emulated CUDA' log || { cat log; fail "it ran on something else"; }
near 1e-6 cpu f32
train 1 plain run.device=cuda train.precision=f32 run.graphs=off
cmp <(losses f32) <(losses plain) || fail "graphs and plain launches differ"
train 1 bf16 run.device=cuda train.precision=bf16
near 1e-3 cpu bf16
for exchange in channel monarch; do
    train 2 $exchange run.device=cuda train.precision=f32 run.mesh=1x2 run.exchange=$exchange comm.groups=2
    near 1e-5 cpu $exchange
done
echo "the CUDA kernels train as the CPU's"
