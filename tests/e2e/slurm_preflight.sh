#!/bin/bash
# Before its first step a job looks at its nodes. One whose disk is full, one that shows fewer GPUs than Slurm promised, one whose
# network is slow: each is named and excluded, and the job starts elsewhere by itself. Among fit nodes nobody is named.
export M2_CLUSTER_NODES=7
. "$M2_SOURCE/tests/e2e/slurm.bash" || exit 1
small_run
export M2_PREFLIGHT="--free 32" FAKE_GPUS=$M2_CLUSTER/local/self/gpus LD_LIBRARY_PATH=$M2_BUILD/bin/fake_gpus
program=$M2

# without NODES JOB: named with the reason in its first start, absent from the second, in which all is well
without() {
    done_in 90 "$2"
    logged "$2" "^unfit nodes: $1\$" || { cat m2-"$2".log; fail "$1: not named"; }
    logged "$2" "start 1: exit code 71: requeued, without $1\$" || { cat m2-"$2".log; fail "$1: not requeued"; }
    logged "$2" 'start 2: done' || { cat m2-"$2".log; fail "not done at its second start"; }
    ! nodes_of "$2" | grep -qxE "${1//,/|}" || fail "it ran on $1 again"
    ! sed '1,/start 2/d' m2-"$2".log | grep unfit || fail "at the second start another node is unfit"
    echo "$(grep -o 'unfit to train: .*' m2-"$2".log); done on $(nodes_of "$2" | paste -sd' ')"
}

"$cluster" on node1 mount -t tmpfs -o size=8m tmpfs "$TMPDIR"
echo 1 >"$M2_CLUSTER/local/node2/gpus"
job=$(submit -N 4 --gres=gpu:2 -t 5 -- config.yaml train.steps=20 run.dir=run)
without node1,node2 "$job"
logged "$job" 'unfit to train: node1 (disk .*8 MiB are left, expected 32), node2 (GPUs: 1, but 2 were promised)' || fail "no reasons"

"$cluster" speed node3 50mbit
job=$(submit -N 4 -t 5 --exclude=node1,node2 -- config.yaml train.steps=20 run.dir=another)
without node3 "$job"
logged "$job" 'unfit to train: node3 (link: to other nodes, where .* are usual)' || fail "no reason"
