#!/bin/bash
# sbatch over 4 nodes x 2 ranks trains gpt/tiny: the same losses, and the same bits, as 8 ranks of mpirun on one node. A job that
# gets USR1 before its time limit saves, ends with 75, is requeued and resumes: the same bits as an uninterrupted
# one. m2 submit writes such a job, hands it to sbatch and says where its log is.
. "$M2_SOURCE/tests/e2e/slurm.bash" || exit 1
small_run
mkdir configs
cp -r "$M2_SOURCE"/configs/* configs
tiny="configs/gpt/tiny.yaml data.train=train.h5 data.val=val.h5 train.batch=8 train.steps=4 train.val_every=2 train.val_batches=1
      train.log_every=1 run.device=cpu run.threads=1"

# Slurm looks every 30 s whose limit comes near: the first start is slow enough to be there then.
cat >slow_start <<-END
	export SLOW_DISK_MS=\$((SLURM_RESTART_COUNT ? 20 : 800))
	exec ${slow_disk/SLOW_DISK_MS=100/} "\$@"
	END
told=$(program="bash ./slow_start" submit -N 2 -t 1 --signal=B:USR1@58 -- $paced train.steps=100 run.margin=1 run.dir=told)
four=$(program=$M2 submit -N 4 --ntasks-per-node=2 -t 5 -- $tiny run.dir=four)
in_time 90 ended "$four"
done_in 1 "$four"
ranks 8 "$M2" train $tiny comm.node_ranks=2 run.dir=one >log 2>&1 || { cat log; fail "8 ranks on one node"; }
logged "$four" 'on 8 ranks (mpi' || fail "job $four did not run on 8 ranks: $(cat m2-"$four".log)"
logged "$four" 'on node\[1-4\]' || fail "job $four did not run on 4 nodes"
same_bits four one
echo "gpt/tiny on 4 nodes x 2 ranks: as 8 ranks of mpirun, losses $(losses four | cut -d' ' -f2 | paste -sd' ')"

unset M2_PREFLIGHT
"$M2" submit config.yaml --nodes 2 --time 5 --dry-run train.steps=20 run.dir=sent >script || fail "m2 submit --dry-run"
bash -n script || { cat script; fail "its script is no bash"; }
[ ! -e sent ] || fail "--dry-run made a folder"
"$M2" submit config.yaml --nodes 2 --time 5 train.steps=20 run.dir=sent "data.train=$PWD/train.h5" >log 2>&1 || { cat log; fail "m2 submit"; }
cmp script sent/job.sbatch >/dev/null && fail "the script does not have what the command line said"
sent=$(sed -n 's/^job \([0-9]*\): 2 nodes x 1 rank,.*/\1/p' log)
[ -n "$sent" ] || { cat log; fail "it does not say which job"; }
in_time 60 ended "$sent"
file=$(sed -n 's/^log *//p' log)
is "$sent" COMPLETED && grep -q 'start 1: done' "$file" || { cat log "$file"; fail "job $sent is $(state "$sent")"; }
grep -q '^  all-reduce .*right sums' "$file" || { cat "$file"; fail "no preflight"; }
for bad in "--nodes 5 --time 5" "--nodes 2 --time tomorrow" "--nodes 2" "--nodes 0 --time 5"; do
    "$M2" submit config.yaml $bad run.dir=bad >log 2>&1
    [ $? = 64 ] && [ ! -e bad ] || { cat log; fail "m2 submit $bad"; }
done
echo "m2 submit: job $sent, its log in $(basename "$file"), done after a preflight"

ranks 2 "$M2" train $paced train.steps=100 run.dir=whole >log 2>&1 || { cat log; fail "the undisturbed run"; }
done_in 90 "$told"
logged "$told" 'start 1: exit code 75 after SIGUSR1: requeued' || { cat m2-"$told".log; fail "not requeued after exit code 75"; }
logged "$told" 'run: told, resuming after step' || { cat m2-"$told".log; fail "did not resume"; }
logged "$told" 'start 2: done' || fail "not done at its second start"
same_bits told whole
echo "USR1: exit code 75, requeued, $(grep -o 'resuming after step [0-9]*' m2-"$told".log), the same bits as uninterrupted"
