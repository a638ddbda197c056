#!/bin/bash
# preflight.sh [flags of m2 doctor] - in a Slurm job, before its first step: are all its nodes fit? m2 doctor looks at each of them
# and at what they are to each other. Exit code 0, or 71 and a line "unfit nodes: node3,node4" if some can be named.
# M2: the program (build/bin/m2); M2_PREFLIGHT_SECONDS: after so many, those that have not answered are unfit (120).
set -u
read -ra m2 <<<"${M2:-build/bin/m2}"
seconds=${M2_PREFLIGHT_SECONDS:-120}
[ -n "${SLURM_JOB_ID:-}" ] || { echo "preflight.sh: for Slurm jobs; on one machine: m2 doctor" >&2; exit 64; }
report=$(mktemp "${TMPDIR:-/tmp}/m2-preflight-XXXXXX" 2>/dev/null || mktemp /dev/shm/m2-preflight-XXXXXX) || exit 71
trap 'rm -f "$report"' EXIT

timeout -k 5 "$seconds" srun --mpi=pmix -K1 --overlap "${m2[@]}" doctor "$@" >"$report" 2>&1
code=$?
grep -v '^srun: ' "$report"
[ $code != 0 ] || exit 0
! grep -q '^m2: error: unknown\|^m2: error: m2 doctor' "$report" || exit 64
! grep -q '^unfit nodes: ' "$report" || exit 71

# Together they failed without a word about who is to blame, or hang: each alone, without MPI.
echo "preflight.sh: exit code $code from all nodes together; now each node alone"
timeout -k 5 "$seconds" srun --mpi=none --overlap -n "$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 bash -c '
    told=$("$@" 2>&1) && echo "fit: $SLURMD_NODENAME" || echo "$told" | sed "s/^/$SLURMD_NODENAME: /"
    ' - "${m2[@]}" doctor --alone "$@" >"$report" 2>&1
grep ': m2: error: ' "$report"
unfit=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -vFx "$(sed -n 's/^fit: //p' "$report")" | paste -sd,)
[ -z "$unfit" ] || echo "unfit nodes: $unfit"
exit 71
