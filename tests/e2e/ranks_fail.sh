#!/bin/bash
# A rank that aborts, exits or is killed while the others wait for it ends the whole job, soon, with its exit code; so does an
# error that NCCL finds in the background while a collective never ends.
set -u
cd "$M2_BUILD" || exit 1
bad=0
ends() { # ends WAY CODE...: the job ends with one of the codes
    local way=$1 code
    shift
    timeout -k 5 60 "${MPIEXEC:-mpirun}" -n 3 bin/mpi-comm "$way" 2>ranks_fail.log
    code=$?
    case " $* " in
    *" $code "*) echo "$way: exit code $code" ;;
    *) echo "$way: exit code $code, expected $*; 124 or 137 is a job that hung"; cat ranks_fail.log; bad=1 ;;
    esac
}
ends abort 74
grep -q 'rank 2 of 3 ends the job: the disk is full' ranks_fail.log || { echo "the reason is not told:"; cat ranks_fail.log; bad=1; }
ends exit 3 71
[ $bad = 0 ] || exit 1
# killed: mpirun ends with 137, as a timeout would, so the time tells them apart
begin=$SECONDS
timeout -k 5 60 "${MPIEXEC:-mpirun}" -n 3 bin/mpi-comm kill 2>ranks_fail.log
code=$?
[ $code = 137 ] && [ $((SECONDS - begin)) -lt 60 ] || { echo "kill: exit code $code after $((SECONDS - begin)) s"; exit 1; }
echo "kill: exit code 137 after $((SECONDS - begin)) s"
meeting=$(mktemp -d)
TMPDIR=$meeting M2_FAKE_NCCL_DIES=10 timeout -k 5 60 "${MPIEXEC:-mpirun}" -n 2 bin/mpi-nccl "$PWD/bin/fake_nccl.so" dies 2>ranks_fail.log
code=$?
rm -rf "$meeting"
[ $code = 71 ] && grep -q "NCCL reports 'an error' in the background" ranks_fail.log || { echo "nccl: exit code $code"; cat ranks_fail.log; exit 1; }
echo "an error of NCCL: exit code 71"
