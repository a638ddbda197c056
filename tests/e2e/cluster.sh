#!/bin/bash
# cluster.sh - a real Slurm cluster on one Linux machine, for as long as a command runs.
#
#   cluster.sh run COMMAND...          starts it, runs COMMAND on its login node (which is the controller's), stops everything
#   cluster.sh run bash                a shell there: sinfo, sbatch launch/train.sbatch ..., scontrol
#   cluster.sh                         a test of itself
# and in COMMAND:
#   cluster.sh on NODE COMMAND...      as ssh NODE would
#   cluster.sh power NODE off|on       off: everything on it is gone within the same instant
#   cluster.sh cable NODE out|in       the node lives on and hears nobody
#   cluster.sh speed NODE RATE|full    its network, such as 100mbit
#   cluster.sh controller restart      slurmctld ends, saving its state, and starts again
#   cluster.sh up [SECONDS]            waits until every node that has power and a cable takes jobs
#
# Every node has a slurmd, a host name, an address, processes, shared memory and a local disk ($M2_CLUSTER/local/self, TMPDIR of
# jobs) of its own: Linux namespaces, joined by a bridge that no packet leaves. They share the other files. All processes live in
# one PID namespace, so they end with the script, however it ends. Partitions: main; spot, whose jobs main's preempt.
# M2_CLUSTER_NODES (5): node1, node2, ... with 4 CPUs and two GPUs, which are files that only count.
# Exit code 77, with the reason: this needs root, namespaces and Slurm.
set -u
self=$(readlink -f "$0")
nodes=${M2_CLUSTER_NODES:-5}
net=10.88.0

# ---- outside ---------------------------------------------------------------------------------------------------------------
skip() { echo "skipped: $*"; exit 77; }

apart=(unshare --net --uts --ipc --mount --pid --fork --kill-child --mount-proc --propagation private)

can_run() {
    local program
    [ "$(id -u)" = 0 ] || skip "a cluster of namespaces needs root"
    for program in slurmctld slurmd sbatch munged ip unshare nsenter setpriv; do
        command -v $program >/dev/null || skip "$program is not installed (launch/packages.sh --tests)"
    done
    "${apart[@]}" sh -c 'ip link add br0 type bridge && mount -t tmpfs tmpfs /dev/shm' 2>/dev/null ||
        skip "no right to make namespaces, bridges and mounts here"
}

run() {
    [ -z "${M2_CLUSTER:-}" ] || { echo "cluster.sh: this is a cluster already ($M2_CLUSTER)" >&2; exit 64; }
    [ $# -gt 0 ] || { sed -n '2,23s/^# \{0,1\}//p' "$self"; exit 64; }
    can_run
    M2_CLUSTER=$(mktemp -d "${TMPDIR:-/tmp}/m2-cluster-XXXXXX")
    export M2_CLUSTER SLURM_CONF=$M2_CLUSTER/slurm.conf
    trap 'rm -rf "$M2_CLUSTER"' EXIT
    # The kernel ends the namespace with this script: even SIGKILL leaves nothing behind but the folder.
    setpriv --pdeathsig KILL "${apart[@]}" "$self" __login "$@"
}

# ---- the login node --------------------------------------------------------------------------------------------------------
configure() {
    local i
    mkdir -p "$M2_CLUSTER"/{log,state,spool,tmp,local/self,dev,pid}
    chmod 755 "$M2_CLUSTER"
    (umask 077; head -c 1024 /dev/urandom >"$M2_CLUSTER/munge.key")
    { echo "127.0.0.1 localhost"; echo "$net.254 login"; } >"$M2_CLUSTER/hosts"
    for i in $(seq "$nodes"); do
        mkdir -p "$M2_CLUSTER"/{spool,tmp,local}/node"$i"
        echo "$net.$i node$i" >>"$M2_CLUSTER/hosts"
    done
    mknod -m 666 "$M2_CLUSTER/dev/gpu0" c 1 3
    mknod -m 666 "$M2_CLUSTER/dev/gpu1" c 1 3
    echo "NodeName=node[1-$nodes] Name=gpu Type=fake File=$M2_CLUSTER/dev/gpu[0-1]" >"$M2_CLUSTER/gres.conf"
    # Nothing uses control groups, but slurmd looks for some where they are not mounted, unless it is told which.
    echo "CgroupPlugin=cgroup/v1" >"$M2_CLUSTER/cgroup.conf"
    # Short times, so that tests are: cred_expire is also how long a requeued job waits (default 120 s), SlurmdTimeout when
    # a silent node is given up (300 s), KillWait how long a job that must end may take (30 s).
    cat >"$SLURM_CONF" <<-END
	ClusterName=m2
	SlurmctldHost=login($net.254)
	SlurmUser=root
	SlurmdUser=root
	AuthType=auth/munge
	AuthInfo=socket=$M2_CLUSTER/munge.socket,cred_expire=5
	CredType=cred/munge
	StateSaveLocation=$M2_CLUSTER/state
	SlurmdSpoolDir=$M2_CLUSTER/spool/%n
	SlurmctldPidFile=$M2_CLUSTER/pid/slurmctld
	SlurmdPidFile=$M2_CLUSTER/pid/slurmd.%n
	SlurmctldLogFile=$M2_CLUSTER/log/slurmctld
	SlurmdLogFile=$M2_CLUSTER/log/slurmd.%n
	TmpFS=$M2_CLUSTER/tmp/%n
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	SwitchType=switch/none
	MpiDefault=pmix
	SelectType=select/cons_tres
	SelectTypeParameters=CR_Core
	SchedulerParameters=bf_interval=2,sched_min_interval=200000,batch_sched_delay=0
	PreemptType=preempt/partition_prio
	PreemptMode=REQUEUE
	SlurmdParameters=config_overrides
	ReturnToService=2
	SlurmctldTimeout=30
	SlurmdTimeout=6
	MessageTimeout=5
	TCPTimeout=2
	KillWait=10
	MinJobAge=3600
	InactiveLimit=0
	GresTypes=gpu
	NodeName=node[1-$nodes] CPUs=4 CoresPerSocket=4 RealMemory=4000 Gres=gpu:fake:2 State=UNKNOWN
	PartitionName=main Nodes=ALL Default=YES MaxTime=UNLIMITED PriorityTier=10 PreemptMode=OFF
	PartitionName=spot Nodes=ALL Default=NO MaxTime=UNLIMITED PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
	END
}

pid_of() { cat "$M2_CLUSTER/pid/$1" 2>/dev/null || { echo "cluster.sh: $1 is off" >&2; exit 71; }; }

# boot NODE: its processes, then the cable between it and the bridge
boot() {
    local pid cable=cable${1#node}
    "${apart[@]}" "$self" __node "$1" </dev/null >>"$M2_CLUSTER/log/$1" 2>&1 &
    pid=$!
    echo $pid >"$M2_CLUSTER/pid/$1"
    until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
    ip link delete "$cable" 2>/dev/null # a dead node's may linger
    ip link add "$cable" type veth peer name eth0 netns $pid
    ip link set "$cable" master br0 up
}

# The first process of the cluster.
login() {
    local i
    hostname login
    configure
    mount --bind "$M2_CLUSTER/hosts" /etc/hosts
    ip link set lo up
    ip link add br0 type bridge
    ip address add $net.254/24 dev br0
    ip link set br0 up
    munged --force --socket="$M2_CLUSTER/munge.socket" --key-file="$M2_CLUSTER/munge.key" --pid-file="$M2_CLUSTER/pid/munged" \
        --log-file="$M2_CLUSTER/log/munged" --seed-file="$M2_CLUSTER/munge.seed" || skip "munged does not start"
    (while :; do slurmctld -D >>"$M2_CLUSTER/log/slurmctld.out" 2>&1; sleep 0.2; done) &
    for i in $(seq "$nodes"); do boot "node$i"; done
    up 30 || { tail -5 "$M2_CLUSTER"/log/*; exit 1; }
    "$@"
}

# The first process of a node: it also reaps what loses its parent.
node() {
    hostname "$1"
    mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
    mount --bind "$M2_CLUSTER/local/$1" "$M2_CLUSTER/local/self"
    until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
    ip link set lo up
    ip address add "$net.${1#node}/24" dev eth0
    ip link set eth0 up
    slurmd -D -N "$1" &
    while :; do wait -n || sleep 0.5; done
}

# ---- what a command may do -------------------------------------------------------------------------------------------------
up() {
    local end=$((SECONDS + ${1:-30})) well
    while well=$(sinfo -h -N -p main -o %t 2>/dev/null | grep -cE '^(idle|mix|alloc|comp)$'); [ "$well" != "$(expected)" ]; do
        [ $SECONDS -lt $end ] || { echo "cluster.sh: $well of $(expected) nodes are up" >&2; return 71; }
        sleep 0.2
    done
}

# Nodes with power and a cable.
expected() {
    local n=0 i
    for i in $(seq "$nodes"); do
        [ -e "$M2_CLUSTER/pid/node$i" ] && ip link show "cable$i" 2>/dev/null | grep -q ',UP' && n=$((n + 1))
    done
    echo $n
}

on() {
    local pid init
    pid=$(pid_of "$1") || exit
    init=$(cat /proc/$pid/task/$pid/children)
    shift
    nsenter -t ${init% } --net --uts --ipc --mount --pid "--wd=$PWD" -- "$@"
}

power() {
    local pid
    case $2 in
    on) boot "$1" ;;
    off)
        pid=$(pid_of "$1") || exit
        rm -f "$M2_CLUSTER/pid/$1" "$M2_CLUSTER/pid/slurmd.$1"
        kill -KILL $pid
        ;;
    esac
}

cable() {
    case $2 in
    out) ip link set "cable${1#node}" down ;;
    in) ip link set "cable${1#node}" up ;;
    esac
}

speed() {
    case $2 in
    full) on "$1" tc qdisc delete dev eth0 root ;;
    *) on "$1" tc qdisc replace dev eth0 root tbf rate "$2" burst 256kb latency 50ms ;;
    esac
}

controller() {
    local before
    before=$(cat "$M2_CLUSTER/pid/slurmctld")
    kill "$before"
    while [ -e "/proc/$before" ]; do sleep 0.1; done
    until scontrol ping 2>/dev/null | grep -q UP; do sleep 0.1; done
}

check_itself() {
    local out
    out=$("$self" run srun -N "$nodes" --mpi=none hostname)
    case $? in
    0) ;;
    77) echo "$out"; exit 77 ;;
    *) echo "FAILED: $out"; exit 1 ;;
    esac
    [ "$(sort <<<"$out")" = "$(seq -f node%g "$nodes")" ] || { echo "FAILED: srun says $out"; exit 1; }
    "$self" run bash -c 'exit 33'
    [ $? = 33 ] || { echo "FAILED: the command's exit code is not passed on"; exit 1; }
    echo "a cluster of $nodes nodes ran a step on each of them, and its command's exit code came through"
}

verb=${1:-}
[ $# = 0 ] || shift
case "$verb" in
'') check_itself ;;
run) run "$@" ;;
__login) login "$@" ;;
__node) node "$@" ;;
on | power | cable | speed | controller | up)
    [ -n "${M2_CLUSTER:-}" ] || { echo "cluster.sh $verb: there is no cluster: cluster.sh run COMMAND starts one" >&2; exit 64; }
    "$verb" "$@"
    ;;
*) sed -n '2,23s/^# \{0,1\}//p' "$self"; exit 64 ;;
esac
