#!/bin/bash
# A rank that hangs and a rank that is killed, at once in two jobs over nodes. The watchdog names the one that hangs, its node, its
# op and the collective in which the others wait, ends the job with 71, and the job resumes without that node. The one that is
# killed is named within 30 s, and no rank outlives it. m2 hang tells the same of both. Then they train to the same final bits.
# A node that hangs and without which the job could not start is not excluded. One whose memory flips a bit (m2_faulty) is named by
# the comparison of ranks, and the job ends without it.
export M2_CLUSTER_NODES=4
. "$M2_SOURCE/tests/e2e/slurm.bash" || exit 1
small_run
echo 'echo "m2: error: rank 0 of 4 ends the job: no progress for 4.0 s: rank 1 of 4 (process 7 on node2) is running: step 3"; exit 71' >hangs
options="$paced train.steps=60 run.hang_timeout=4"

stopped=$(submit -N 2 --ntasks-per-node=2 -t 5 -- $options run.dir=stopped)
killed=$(submit -N 2 --ntasks-per-node=1 -t 5 -- $options run.dir=killed)
needed=$(program="bash ./hangs" M2_FAILURES=2 submit -N 4 --ntasks-per-node=1 -t 5 -- config.yaml run.dir=needed)
for run in stopped killed; do in_time 60 trained $run 15; done

ranks_of stopped >stopped.ranks
ranks_of killed >killed.ranks
[ "$(wc -l <stopped.ranks)" = 4 ] && [ "$(wc -l <killed.ranks)" = 2 ] || fail "m2 hang does not tell of all ranks: $(cat ./*.ranks)"
read -r process node < <(tail -1 stopped.ranks)
read -r victim its < <(tail -1 killed.ranks)
begin=$SECONDS
"$cluster" on "$node" kill -STOP "$process" || fail "no process $process on $node"
"$cluster" on "$its" kill -KILL "$victim" || fail "no process $victim on $its"

in_time 30 logged "$killed" "error: $its: task 1: Killed"
echo "killed: $(grep -o "error: $its: task.*: Killed" m2-"$killed".log), after $((SECONDS - begin)) s"
report() { ls "$1"/flight/report-* >/dev/null 2>&1; }
in_time 30 report stopped
echo "stopped: a report after $((SECONDS - begin)) s: $(head -1 stopped/flight/report-*)"
named="rank 3 of 4 \(process $process on $node\) .*: step [0-9]+, (in|behind) [a-z_]+.*; the others wait for it in step [0-9]+ in [a-z_]+.* \(collective [0-9]+\)"
head -1 stopped/flight/report-* | grep -qE "^$named" || fail "the report does not name rank, node, op and collective"
grep -qE "ends the job: no progress for [0-9.]+ s: $named" m2-"$stopped".log || { cat m2-"$stopped".log; fail "the log does not name them"; }
in_time 30 gone killed.ranks
"$M2" hang killed >told
grep -q '^rank 1 .*on '"$its"')' told || { cat told; fail "m2 hang does not tell of the killed rank"; }
in_time 30 logged "$stopped" "start 1: exit code 71: requeued, without $node\$"
in_time 5 gone stopped.ranks
cmp <("$M2" hang stopped) stopped/flight/report-* || fail "m2 hang does not tell what the report does"
in_time 30 logged "$killed" 'start 1: exit code [0-9]*: requeued$' # its death was no fault of the node

for job in "$stopped" "$killed"; do done_in 90 "$job"; done
# same JOB RUN RANKS [OPTION...]: done at the second start, with the bits of an undisturbed run
same() {
    logged "$1" 'start 2: done' || { cat m2-"$1".log; fail "$2: not done at its second start"; }
    ranks "$3" "$M2" train $options "${@:4}" run.dir="whole_$2" >log 2>&1 || { cat log; fail "the undisturbed run"; }
    same_bits "$2" "whole_$2"
    echo "$2: $(grep -o 'resuming after step [0-9]*' m2-"$1".log) on $(nodes_of "$1" | paste -sd' '), same bits"
}
same "$killed" killed 2
same "$stopped" stopped 4 comm.node_ranks=2 # sums as on two nodes
! nodes_of "$stopped" | grep -qx "$node" || fail "it ran on $node again"

in_time 60 ended "$needed"
logged "$needed" 'start 1: without node2 only 3 of 4 nodes would be left: it is not excluded' && is "$needed" FAILED &&
    logged "$needed" 'start 2: exit code 71: the job ends, after 2 failures in a row' || { cat m2-"$needed".log; fail "a node that is needed"; }
echo "$(grep 'start 1: without' m2-"$needed".log)"

cat >flips <<END
[ "\${SLURM_RESTART_COUNT:-0}" != 0 ] || export FAULT_FLIP=1:25
exec "$M2_BUILD/bin/m2_faulty" "\$@"
END
corrupt=$(program="bash ./flips" submit -N 3 --ntasks-per-node=1 -t 5 -- config.yaml run.dir=corrupt train.batch=12 run.check_every=10)
done_in 90 "$corrupt"
odd=$(sed -nE 's/.*silent corruption: after step 30 rank 1 \(([^)]+)\) does not hold the same bits as the other 2 ranks.*/\1/p' m2-"$corrupt".log)
[ -n "$odd" ] && logged "$corrupt" "start 1: exit code 71: requeued, without $odd\$" && logged "$corrupt" 'resuming after step 20' &&
    logged "$corrupt" 'start 2: done' || { cat m2-"$corrupt".log; fail "a rank that corrupts what it holds"; }
! nodes_of "$corrupt" | grep -qx "$odd" || fail "it ran on $odd again"
echo "corrupt: $odd is excluded, the job is done"
