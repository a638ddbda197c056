#!/bin/bash
# A checkpoint of any mesh and ZeRO stage is loaded by any other: what is loaded has the bits of what was saved, parameters and
# moments, and the run goes on with the losses of the run that was not interrupted, to the bit where the mesh is the same, to 1e-4
# where it is not. Every pair of meshes, the stages in turn. M2_FULL_MATRIX=1: every pair of (mesh, stage), for some minutes.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run
meshes=("1" "2" "4" "4 run.mesh=2x2" "4 run.mesh=1x4") # ranks and options
stages=(0 1 2)
zero() { # zero N: the option for the N-th stage in turn
    echo "optim.zero=${stages[$(($1 % ${#stages[@]}))]}"
}
train() { # train RUN MESH OPTIONS...
    local run=$1 mesh=($2)
    shift 2
    ranks "${mesh[0]}" "$M2" train config.yaml run.dir="$run" "${mesh[@]:1}" train.steps=20 train.val_every=0 data.val= \
        checkpoint.every=10 "$@" >log 2>&1 || { cat log; fail "$run on '$mesh' $*"; }
}
later() { # later RUN: "step loss" after step 10
    losses "$1" | awk '$1 > 10 { print $1, $2 }'
}
# held S T "ZERO OF T": mesh T loads what S saved and saves it again: one step, whose update is skipped because every gradient is
# an outlier
held() {
    local s=$1 t=$2 zero=$3
    cp -r from$s/. to
    train to "${meshes[$t]}" $zero train.steps=11 optim.outlier=1e-30 train.max_skips=2
    grep -q 'resuming after step 10' log || { cat log; fail "'${meshes[$s]}' to '${meshes[$t]}': did not resume"; }
    grep -q 'step 11: update skipped' log || { cat log; fail "'${meshes[$s]}' to '${meshes[$t]}': the update was not skipped"; }
    "$M2" inspect checkpoint diff to/checkpoints/step-000000{10,11} --json >log || { cat log; fail "m2 inspect checkpoint diff"; }
    [ "$(grep -cE '"(param|m|v)/.*"differ": 0,' log)" = 112 ] && [ "$(grep -c '"v/' log)" = 37 ] && [ "$(grep -c '"name"' log)" = 112 ] ||
        { cat log; fail "'${meshes[$s]}' to '${meshes[$t]}' $zero: parameters or moments changed"; }
    rm -r to
}
pair() { # pair S T "ZERO OF T": from the checkpoint of run S on the mesh T
    local s=$1 t=$2 zero=$3
    rm -rf to
    mkdir to
    held $s $t $zero
    cp -r from$s to
    train to "${meshes[$t]}" $zero
    grep -q 'resuming after step 10' log || { cat log; fail "'${meshes[$s]}' to '${meshes[$t]}': did not resume"; }
    if [ $s = $t ]; then
        cmp <(later from$s) <(later to) || fail "'${meshes[$s]}' to $zero: other losses"
    else
        paste <(later from$s) <(later to) | awk '
            { d = $2 - $4; if (d < 0) d = -d; if (d > 1e-4 || $1 != $3) bad = 1 }
            END { exit bad || NR != 10 }' || { paste <(later from$s) <(later to); fail "'${meshes[$s]}' to '${meshes[$t]}' $zero"; }
    fi
    pairs=$((pairs + 1))
}
pairs=0
for s in "${!meshes[@]}"; do
    saved=$(zero $s)
    [ "${M2_FULL_MATRIX:-}" = 1 ] && saved="optim.zero=0 optim.zero=1 optim.zero=2"
    for z in $saved; do
        rm -rf from$s
        train from$s "${meshes[$s]}" $z
        [ "$(later from$s | wc -l)" = 10 ] || fail "from$s: not 10 losses"
        rm -r from$s/checkpoints/step-00000020
        for t in "${!meshes[@]}"; do
            loaded=$(zero $((s + t + 1)))
            [ "${M2_FULL_MATRIX:-}" = 1 ] && loaded="optim.zero=0 optim.zero=1 optim.zero=2"
            for y in $loaded; do pair $s $t $y; done
        done
    done
done
echo "$pairs pairs of meshes ($(printf '%s; ' "${meshes[@]}")ZeRO stages ${stages[*]}): parameters and moments to the bit, next 10 losses"
