#!/bin/bash
# Gradients node by node: four ranks on two nodes (host names of their own, where that is allowed; else comm.node_ranks=2) train
# as all at once do, every stage of ZeRO to the same bits and the same checkpoint, which other ranks go on with. The plan says
# what goes over the network.
. "$M2_SOURCE/tests/e2e/common.bash"

cat >on_node.sh <<'END'
exec unshare --uts bash -c 'hostname "node$((OMPI_COMM_WORLD_RANK / 2))" && exec "$@"' - "$@"
END
nodes="bash on_node.sh" levels=
[ "$(ranks 2 bash on_node.sh hostname 2>/dev/null)" = "$(printf 'node0\nnode0')" ] || nodes= levels=comm.node_ranks=2

train() { # train RUN OPTION...
    local run=$1
    shift
    ranks 4 $nodes "$M2" train config.yaml train.steps=20 train.val_every=10 run.dir="$run" $levels "$@" >log 2>&1 ||
        { cat log; fail "$run"; }
}
by_node() { grep -q 'gradients are summed among the 2 ranks of a node first, then between 2 nodes' log; }
near() { # near TOLERANCE RUN RUN
    paste -d' ' <(losses "$2") <(losses "$3") | awk -v tol="$1" '
        { d = ($2 - $5) / $2 } $1 != $4 || d > tol || d < -tol { bad = 1 } END { exit bad || NR != 20 }' || fail "$2 and $3 differ"
}

small_run
sed -i 's/length: 48/length: 64/' config.yaml
echo 'comm.bucket_mib: 1' >>config.yaml
for mesh in 4x1 2x2; do
    for zero in 0 1 2; do
        train $mesh-$zero run.mesh=$mesh optim.zero=$zero
        by_node || { cat log; fail "$mesh: no word of nodes"; }
        cmp -s <(numbers $mesh-0) <(numbers $mesh-$zero) || fail "$mesh: stage $zero trains to other bits"
        "$M2" inspect checkpoint diff $mesh-0 $mesh-$zero >diff || { cat diff; fail "$mesh: comparing checkpoints"; }
        grep -qE 'tensors are equal bit for bit, 0 changed' diff || { cat diff; fail "$mesh: stage $zero saves another state"; }
    done
    train $mesh-flat run.mesh=$mesh comm.node_ranks=1
    by_node && fail "comm.node_ranks=1 goes by nodes"
    near 1e-4 $mesh-0 $mesh-flat
done

# saved by stage 2 of two nodes, gone on with by two ranks of one
train moved train.precision=f64 optim.zero=2 checkpoint.every=8
train whole train.precision=f64
rm -r moved/checkpoints/step-000000{20,16}
ranks 2 "$M2" train config.yaml train.steps=20 train.val_every=10 run.dir=moved train.precision=f64 optim.zero=1 >log 2>&1 ||
    { cat log; fail "going on with two ranks"; }
grep -q 'resuming after step 8' log || { cat log; fail "did not resume after step 8"; }
near 1e-10 whole moved

"$M2" inspect plan config.yaml --ranks 4 --local 2 run.transport=mpi >out || fail "plan"
grep -q '^reductions .*2 ranks of a node.*2 nodes' out || { cat out; fail "the plan says nothing of nodes"; }
"$M2" inspect plan config.yaml --ranks 4 comm.node_ranks=3 2>err && fail "3 of 4 ranks on a node"
grep -q 'comm.node_ranks=3 does not divide the 4 ranks' err || { cat err; fail "message about comm.node_ranks"; }
echo "node by node${nodes:+, found by host names}: as all at once"
