#!/bin/bash
# What a cluster does to jobs, all at once: slurmctld restarts under one, another is preempted, saves and is requeued, the third is
# cancelled and leaves a checkpoint that loads, the fourth fails at every start until it gives up and says why, the fifth has a
# time limit that no signal warns of. What was to be done in the end has the same bits as an undisturbed run. And small ones: what a bad
# configuration and too many starts lead to, an array of seeds and a job that waits for it.
. "$M2_SOURCE/tests/e2e/slurm.bash" || exit 1
small_run
options="$paced train.steps=100"
printf '#!/bin/sh\nsleep 0.5\nexit 71\n' >broken
chmod +x broken

two="-N 1 --ntasks-per-node=2 -t 5"
calm=$(submit $two -- $options run.dir=calm)
spot=$(submit $two -p spot --exclusive -- $options run.dir=spot)
gone=$(submit $two -- $options run.dir=gone)
broken=$(program=./broken M2_FAILURES=3 submit $two -- $options run.dir=broken)
limit=$(submit -N 1 --ntasks-per-node=2 -t 1 --signal=B:CONT@1 -- $options run.margin=52 run.dir=limit)
echo 'exit $1' >exits
refused=$(program="bash ./exits 65" submit -t 5 -- config.yaml run.dir=refused)
endless=$(program="bash ./exits 75" M2_RESTARTS=1 submit -t 5 -- config.yaml run.dir=endless)
seeds=$(program=$M2 submit --array=0-1 -t 5 -- config.yaml train.steps=5 train.seed=%a run.dir=seed-%a)
after=$(program=$M2 submit --dependency=afterok:"$seeds" -t 5 -- config.yaml train.steps=5 run.dir=after)
for run in calm spot gone limit; do in_time 60 trained $run 5; done
sbatch -Q -w "$(nodes_of "$spot")" -N 1 --exclusive -t 1 --wrap 'sleep 1'
scancel "$gone"
"$cluster" controller restart
logged "$calm" 'done' && fail "the job was done before slurmctld restarted"
ranks 2 "$M2" train $options run.dir=whole >log 2>&1 || { cat log; fail "the undisturbed run"; }

done_in 60 "$calm"
! logged "$calm" 'start 2' || fail "the restart of slurmctld started the job anew"
same_bits calm whole
echo "slurmctld restarted: job unharmed"

done_in 90 "$spot"
logged "$spot" 'stopped by SIGTERM at step' || fail "preempted without a checkpoint"
logged "$spot" 'start 1: exit code 75.*: requeued' || { cat m2-"$spot".log; fail "preempted, not requeued"; }
logged "$spot" 'resuming after step' || fail "did not resume"
same_bits spot whole
echo "preempted: saved, requeued, $(grep -o 'resuming after step [0-9]*' m2-"$spot".log), same bits"

in_time 30 ended "$gone"
is "$gone" CANCELLED || fail "scancel: job is $(state "$gone")"
logged "$gone" 'exit code 75 after SIGTERM: the job ends, as it was told to before its time' || { cat m2-"$gone".log; fail "no reason"; }
"$M2" inspect checkpoint gone --verify >log 2>&1 || { cat log; fail "scancel left a bad checkpoint"; }
ranks 2 "$M2" train $options run.dir=gone >log 2>&1 || { cat log; fail "going on after scancel"; }
grep -q 'resuming after step' log || { cat log; fail "did not resume after scancel"; }
same_bits gone whole
echo "cancelled: not requeued, its checkpoint loads: $(grep -o 'resuming after step [0-9]*' log), same bits"

in_time 90 ended "$broken"
is "$broken" FAILED || fail "failing job is $(state "$broken")"
logged "$broken" 'start 3: exit code 71: the job ends, after 3 failures in a row (M2_FAILURES=3)' || { cat m2-"$broken".log; fail "no reason"; }
! logged "$broken" 'start 4' || fail "started once more"
echo "failing at every start: $(grep 'start 3: exit' m2-"$broken".log)"

done_in 90 "$after"
for seed in 0 1; do
    grep -q "^  seed: $seed\$" seed-$seed/config.yaml || fail "array: seed-$seed/config.yaml has another seed"
    [ seed-$seed/metrics.jsonl -ot after/metrics.jsonl ] || fail "the job that waits for the array did not wait"
done
is "$refused" FAILED && logged "$refused" 'start 1: exit code 65: the job ends, as starting it again would not help' ||
    { cat m2-"$refused".log; fail "exit code 65 leads to another start"; }
in_time 60 ended "$endless"
logged "$endless" 'start 2: exit code 75: the job ends, after 2 starts (M2_RESTARTS=1)' && is "$endless" FAILED ||
    { cat m2-"$endless".log; fail "no limit of starts"; }
echo "exit code 65: no second start; M2_RESTARTS: no third one; an array of seeds, and a job after it"

done_in 90 "$limit"
logged "$limit" "stopped by the job's time limit at step" || { cat m2-"$limit".log; fail "the time limit was not seen"; }
logged "$limit" 'start 1: exit code 75: requeued' || fail "not requeued at its time limit"
same_bits limit whole
echo "time limit without a signal: saved, requeued, same bits"
