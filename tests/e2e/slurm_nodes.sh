#!/bin/bash
# What happens to nodes, at once to three jobs: a power cut, a cable that is out for 40 s, a rank that is killed. Every job ends
# by itself, is requeued, resumes elsewhere with at most one checkpoint interval lost, and has the same final bits as an
# undisturbed run. The start that was cut off lives on and commits nothing after its successor began.
export M2_CLUSTER_NODES=6
. "$M2_SOURCE/tests/e2e/slurm.bash" || exit 1
small_run
short="$paced train.steps=150"
long="$paced train.steps=350"

power=$(submit -N 2 --ntasks-per-node=1 --exclusive -t 5 -- $short run.dir=power)
cable=$(program=${slow_disk/=100/=200} submit -N 1 --ntasks-per-node=2 --exclusive -t 5 -- $long run.dir=cable)
killed=$(submit -N 1 --ntasks-per-node=2 --exclusive -t 5 -- $short run.dir=killed)
for run in power cable killed; do in_time 60 trained $run 21; done

cut=$(nodes_of "$power" | tail -1)
off=$(nodes_of "$cable")
node=$(nodes_of "$killed")
steps=$(wc -l <power/metrics.jsonl)
"$cluster" power "$cut" off
"$cluster" cable "$off" out
out=$SECONDS
ranks_of killed >killed.ranks
read -r victim _ <killed.ranks
"$cluster" on "$node" kill -KILL "$victim"
in_time 30 logged "$killed" "error: $node: task 0: Killed"
died="rank 0 of 2 \\(process $victim on $node\\) has died: step [0-9]+, .*; the others wait for it in step [0-9]+ in [a-z_]+"
in_time 30 grep -qsE "^$died" killed/flight/report-00000001.txt
in_time 30 logged "$killed" 'start 1: exit code [0-9]*: requeued$'
in_time 5 gone killed.ranks
echo "rank killed: $(grep -o "error: $node: task.*: Killed" m2-"$killed".log), $((SECONDS - out)) s later the job is requeued"
head -1 killed/flight/report-00000001.txt

in_time 60 logged "$power" 'start 2: m2 train'
in_time 60 logged "$power" 'resuming after step'
resumed=$(grep -o 'resuming after step [0-9]*' m2-"$power".log | grep -o '[0-9]*$')
[ "$resumed" -ge 20 ] && [ $((steps - resumed)) -le 10 ] || fail "power cut at step $steps, but the job resumed after $resumed"
grep 'start 2: m2 train' m2-"$power".log | grep -qv "$cut\b" || fail "it resumed on the node without power"
echo "power cut of $cut at step $steps: $(grep -o 'resuming after step.*' m2-"$power".log) on $(nodes_of "$power" | paste -sd' ')"

in_time 60 logged "$cable" 'start 2: m2 train'
in_time 60 logged "$cable" 'has been taken over by Slurm job .*, restart 1'
! logged "$cable" 'start 2: done' || fail "the job was done before the old start noticed"
ranks 2 "$M2" train $short run.dir=whole >log 2>&1 || { cat log; fail "the undisturbed run"; }
ranks 2 "$M2" train $long run.dir=whole_long >log 2>&1 || { cat log; fail "the undisturbed long run"; }
while [ $((SECONDS - out)) -lt 40 ]; do sleep 0.5; done
"$cluster" cable "$off" in

for job in "$killed" "$power" "$cable"; do done_in 120 "$job"; done
same_bits killed whole
same_bits power whole
same_bits cable whole_long
! ls cable/checkpoints | grep -q tmp || fail "left behind: $(ls cable/checkpoints)"
[ "$(grep -c 'start 2: done' m2-"$cable".log)" = 1 ] && ! logged "$cable" 'start 3' ||
    { cat m2-"$cable".log; fail "the old start disturbed the new one"; }
echo "cable of $off out for 40 s: $(grep -o 'taken over by.*' m2-"$cable".log); the new start: same bits"
