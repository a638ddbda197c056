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
unfit "HDF5: HDF5 1.8.4 is found here, but m2 was built for" env LD_PRELOAD="$M2_BUILD/bin/other_hdf5.so" "$M2" doctor
file=$work/nospace
trap 'umount "$work/nospace" 2>/dev/null; rm -rf "$work"' EXIT
mkdir "$file" && mount -t tmpfs -o size=4m tmpfs "$file" 2>/dev/null && {
    unfit "disk .*: 4 MiB are left, expected 64" "$M2" doctor --dir "$file"
    unfit "disk .*: writing .* failed: No space left on device" "$M2" doctor --dir "$file" --free 0
    umount "$file"
}

# What programs read: a line of JSON for each stage, the same verdicts, the same exit codes.
json() { # json VERDICT CODE COMMAND...
    local verdict=$1 code=$2
    shift 2
    "$@" >log 2>err
    [ $? = "$code" ] || { cat log err; fail "$*: exit code is not $code"; }
    python3 - "$verdict" <<'END' || { cat log; fail "$*: not the JSON of a machine that is $verdict"; }
import json, sys
lines = [json.loads(line) for line in open("log")]
assert [l["stage"] for l in lines] in (["nodes"], ["nodes", "network"])
for l in lines:
    bad = [r["node"] for r in l["ranks"] for f in r["findings"] if f["verdict"] == "unfit"]
    assert l["fit"] == (not bad) and sorted(set(bad)) == sorted(l["unfit"])
    assert all({"what", "verdict", "text"} <= set(f) for r in l["ranks"] for f in r["findings"])
assert ("fit" if all(l["fit"] for l in lines) else "unfit") == sys.argv[1]
END
}
if command -v python3 >/dev/null; then
    json fit 0 "$M2" doctor --json
    json fit 0 ranks 2 "$M2" doctor --json
    json unfit 71 "$M2" doctor --json --dir "$work/none"
fi

# How GPUs reach each other comes from the driver's tool; without mpirun and srun that is said, and the machine is fit nevertheless.
mkdir tools
printf '%s\n' '#!/bin/sh' '[ "$1" = topo ] || exit 0' \
    'printf "\tGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\nGPU0\t X \tNV18\tNV18\tPIX\t0-7\n"' \
    'printf "GPU1\tNV18\t X \tNV18\tPIX\t0-7\nGPU2\tNV18\t${LAST:-NV18}\t X \tPIX\t0-7\nNIC0\tPIX\tPIX\tPIX\t X \n"' >tools/nvidia-smi
chmod +x tools/nvidia-smi
echo 3 >gpus
three="env LD_LIBRARY_PATH=$M2_BUILD/bin/fake_gpus FAKE_GPUS=gpus PATH=$work/tools:$PATH $M2 doctor --alone"
$three >log 2>&1 && grep -q '^  GPU links      3 pairs over NV18$' log || { cat log; fail "no links between GPUs"; }
LAST=SYS $three >log 2>&1
grep -q '^  GPU links      doubtful: 2 pairs over NV18, 1 pair over SYS: not alike$' log || { cat log; fail "no odd link"; }
PATH=/nonexistent "$M2" doctor >log 2>&1 && /bin/grep -q 'launchers .*doubtful: neither mpirun nor srun' log || { cat log; fail "no launchers"; }
# srun without --mpi=pmix would start so many runs that know nothing of each other.
SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=0 SLURM_STEP_TASKS_PER_NODE=2 SLURM_NODEID=0 "$M2" doctor >log 2>&1
[ $? = 64 ] && grep -q 'with srun say --mpi=pmix' log || { cat log; fail "srun without PMIx is not seen"; }
# Looking alone is what launch/preflight.sh does where ranks fail together.
SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=0 SLURM_STEP_TASKS_PER_NODE=2 SLURM_NODEID=0 "$M2" doctor --alone >log 2>&1 ||
    { cat log; fail "--alone under srun"; }
"$M2" doctor --gpu 3 >log 2>&1
[ $? = 64 ] || fail "a bad flag: exit code $?"
echo "fit alone and over ranks; a missing folder, a full disk, another HDF5, a lost GPU and a slow network are named"
echo "links between GPUs, JSON, and a launcher that does not join its ranks"
