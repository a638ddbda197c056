# slurm.bash - what the scripts that need a Slurm cluster share: each runs itself again inside one of its own (cluster.sh), with
# the small run of common.bash and the sources' launch folder.
[ -n "${M2_CLUSTER:-}" ] || exec "$M2_SOURCE/tests/e2e/cluster.sh" run bash "$0"
. "$M2_SOURCE/tests/e2e/common.bash"
cluster=$M2_SOURCE/tests/e2e/cluster.sh
ln -s "$M2_SOURCE/launch" launch
# A save every ten steps, on a disk that makes it take about half a second: runs last long enough for something to happen to them.
paced="config.yaml checkpoint.every=10 checkpoint.background=false train.log_every=100"
slow_disk="env LD_PRELOAD=$M2_BUILD/bin/slow_disk.so SLOW_DISK_MS=100 $M2"
export M2_PREFLIGHT=no
export TMPDIR=$M2_CLUSTER/local/self # jobs take it with them: every node's own disk

# [program=M2] submit [SBATCH OPTION...] -- CONFIG KEY=VALUE...: number of the new job, whose log is m2-NUMBER.log
submit() {
    local options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    M2=${program:-$slow_disk} sbatch --parsable "${options[@]}" launch/train.sbatch "$@"
}

# in_time SECONDS COMMAND...: until the command succeeds; a job that hangs is a failure, not an endless test
in_time() {
    local seconds=$1 end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || {
            squeue -t all
            tail -n 40 m2-*.log
            fail "after $seconds s still not: $*"
        }
        sleep 0.2
    done
}

state() { squeue -h -t all -o %T -j "$1"; }
is() { [ "$(state "$1")" = "$2" ]; }                                                     # is JOB STATE
logged() { grep -q -- "$2" "m2-$1.log" 2>/dev/null; }                                    # logged JOB TEXT
trained() { [ -e "$1/metrics.jsonl" ] && [ "$(wc -l <"$1/metrics.jsonl")" -ge "$2" ]; }  # trained RUN STEPS
nodes_of() { scontrol show hostnames "$(scontrol show job -o "$1" | tr " " "\n" | sed -n "s/^NodeList=//p")"; } # nodes_of JOB, one a line

# done_in SECONDS JOB: it ends, and well
done_in() {
    in_time "$1" ended "$2"
    is "$2" COMPLETED || { cat "m2-$2.log"; fail "job $2 is $(state "$2")"; }
}
ended() {
    case $(state "$1") in
    COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL | PREEMPTED | OUT_OF_MEMORY) ;;
    *) return 1 ;;
    esac
}

# ranks_of RUN: "PROCESS NODE" of each rank, as m2 hang tells it
ranks_of() { "$M2" hang "$1" | sed -nE 's/^rank [0-9]+ \(process ([0-9]+) on ([^)]+)\).*/\1 \2/p'; }
# gone FILE: of the ranks that ranks_of once told of, none is left on any node
gone() {
    local process node
    while read -r process node; do
        ! "$cluster" on "$node" kill -0 "$process" 2>/dev/null || return 1
    done <"$1"
}

# same_bits RUN OTHER: the same final checkpoint, and the same numbers at every step
same_bits() {
    [ -n "$(content "$1")" ] && [ "$(content "$1")" = "$(content "$2")" ] || fail "$1: another final checkpoint than $2"
    cmp <(numbers "$1") <(numbers "$2") || fail "$1: other metrics than $2"
}
