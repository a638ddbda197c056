#!/bin/bash
# usage: local.sh [-n RANKS] PROGRAM [ARGUMENTS...]
#
# PROGRAM under mpirun on this machine:  launch/local.sh build/bin/m2 train configs/gpt/tiny.yaml data.train=text.h5
#
#   -n RANKS   default: one per GPU (of those that CUDA_VISIBLE_DEVICES lists, if it is set), else one per core
#
# Ranks get equal shares of the cores this process may use, neighbours first, and are bound to them; more ranks than cores share
# them unbound. The environment is that of env.sh beside this file. The exit code is the program's (m2 help exit-codes).
# Ctrl-C or SIGTERM: the ranks get SIGUSR1, at which m2 saves and ends with 75; at the second one they are killed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
help() { sed -n '2,10s/^# \{0,1\}//p' "$here/local.sh"; }
usage() { help | head -1 >&2; exit 64; }
case "${1:-}" in -h | --help) help; exit 0 ;; esac

# CPUs this process may use, neighbours first: by NUMA node, then core, then hardware thread.
cpus() {
    local allowed
    allowed=$(taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' | while IFS=- read -r a b; do seq "$a" "${b:-$a}"; done)
    lscpu -p=NODE,CORE,CPU | grep -v '^#' | sort -t, -n -k1,1 -k2,2 -k3,3 | cut -d, -f3 | grep -Fx "$allowed"
}

# Inside mpirun, before the program: take this rank's share of the CPUs. mpirun could bind too, but counts all CPUs of the
# machine even where a container or taskset allows a few.
if [ "${1:-}" = --as-rank ]; then
    shift
    mine=$(tr ' ' '\n' <<<"$M2_LOCAL_CPUS" | tail -n "+$((OMPI_COMM_WORLD_LOCAL_RANK * M2_LOCAL_SHARE + 1))" |
        head -n "$M2_LOCAL_SHARE" | paste -sd,)
    exec taskset -c "$mine" "$@"
fi

list=$(cpus)
cores=$(wc -l <<<"$list")
gpus=$(ls /dev/nvidia[0-9]* 2>/dev/null | wc -l)
[ -z "${CUDA_VISIBLE_DEVICES+set}" ] || gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true)
ranks=$((gpus > 0 ? gpus : cores))
while getopts n: option; do
    [ "$option" = n ] || usage
    ranks=$OPTARG
done
shift $((OPTIND - 1))
[[ $ranks =~ ^[1-9][0-9]*$ ]] || { echo "local.sh: -n $ranks: expected a number of ranks of at least 1" >&2; exit 64; }
[ $# -gt 0 ] || usage
command -v mpirun >/dev/null || { echo "local.sh: mpirun is missing: launch/packages.sh installs it" >&2; exit 64; }

. "$here/env.sh"
# Slots are ours to count, see above.
options=(--oversubscribe --bind-to none)
# mpirun refuses root, who is the only user in many containers.
[ "$(id -u)" != 0 ] || options+=(--allow-run-as-root)
share=$((cores / ranks))
# A rank that waits for a message spins, which is fastest on a core of its own and robs the others of a shared one.
# (Told to mpirun, because --oversubscribe makes it assume the latter.)
options+=(--mca mpi_yield_when_idle $((share == 0)))
[ $share = 0 ] || {
    export M2_LOCAL_CPUS=${list//$'\n'/ } M2_LOCAL_SHARE=$share
    set -- "$here/local.sh" --as-rank "$@"
}

# mpirun kills its ranks a second after a signal, too soon for a checkpoint; made to wait longer, it also waits that much longer
# whenever a rank fails. So it does not see Ctrl-C (setsid), but passes on SIGUSR1; and it does not outlive this script.
setpriv --pdeathsig KILL setsid mpirun "${options[@]}" -n "$ranks" "$@" <&0 &
pid=$!
told=0
trap 'told=$((told + 1)); [ $told = 1 ] && kill -USR1 $pid || kill -TERM $pid' INT TERM
while :; do
    code=0
    wait $pid || code=$?
    kill -0 $pid 2>/dev/null || exit $code
done
