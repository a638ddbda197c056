#!/bin/bash
# A rank that is stopped, or killed while the launcher lets the others wait for it, is named with its op and the collective,
# the job ends soon with exit code 71, and m2 hang tells the same afterwards. A run that ends well says so.
. "$(dirname "$0")/common.bash"
small_run

# start RUN "MPIRUN'S OPTIONS" KEY=VALUE...: three ranks in the background, for much longer than the test takes
start() {
    local run=$1 options=$2
    shift 2
    # shellcheck disable=SC2086
    ranks 3 $options "$M2" train config.yaml run.dir="$run" train.steps=1000000 train.val_every=0 \
        checkpoint.every=0 "$@" >"$run.log" 2>&1 &
    job=$!
    wait_for_step "$run" 20 $job
}
# process RUN RANK: its number, as m2 hang tells it
process() { "$M2" hang "$1" | sed -nE "s/^rank $2 \(process ([0-9]+) on.*/\1/p"; }
# ended SECONDS: waits that long for the job at most
ended() {
    local begin=$SECONDS
    while kill -0 $job 2>/dev/null; do
        [ $((SECONDS - begin)) -lt "$1" ] || { kill -9 $job; return 1; }
        sleep 0.2
    done
    wait $job
    code=$?
    took=$((SECONDS - begin))
}
# names RUN RANK WORDS: report, log and m2 hang name the rank
names() {
    local report=("$1"/flight/report-*.txt)
    [ -e "${report[0]}" ] || { cat "$1.log"; fail "$1: no report"; }
    head -1 "${report[0]}"
    grep -qE "^rank $2 of 3 \(process [0-9]+ on [^ ]+\) $3: step [0-9]+, (in|behind) [a-z_]+.*; the others wait for it in step [0-9]+ in [a-z_]+.* \(collective [0-9]+\)" \
        "${report[0]}" || { cat "${report[0]}"; fail "$1: the report does not name rank $2, its op and the collective"; }
    grep -q "ends the job: no progress .*rank $2 of 3 " "$1.log" || { cat "$1.log"; fail "$1: the log does not name rank $2"; }
    [ "$("$M2" hang "$1" | grep -c '^rank [0-2] (process')" = 3 ] || fail "$1: m2 hang does not tell of three ranks"
}

start stopped '' run.hang_timeout=3
kill -STOP "$(process stopped 1)" || fail "no process of rank 1"
ended 30 || fail "stopped: the job still hung after 30 s"
[ $code = 71 ] || { cat stopped.log; fail "stopped: exit code $code, expected 71"; }
names stopped 1 "is stopped .*"
echo "stopped: the job ended after $took s"

start killed '--mca orte_enable_recovery 1' # mpirun looks on
victim=$(process killed 2)
survivors="$(process killed 0) $(process killed 1)"
kill -KILL "$victim" || fail "no process of rank 2"
ended 30 || fail "killed: the job still hung after 30 s"
names killed 2 "has died"
"$M2" hang killed >told.txt
grep -q '^rank 2 of 3 .* has died: step' told.txt || { cat told.txt; fail "m2 hang does not name the dead rank"; }
for p in $survivors; do
    for i in $(seq 50); do kill -0 "$p" 2>/dev/null || continue 2; sleep 0.2; done
    fail "survivor $p still hangs"
done
echo "killed: the job ended after $took s"

ranks 2 "$M2" train config.yaml run.dir=well train.steps=5 >well.log 2>&1 || { cat well.log; fail "a run that ends well"; }
[ "$("$M2" hang well | grep -c 'has ended with exit code 0: ')" = 2 ] || { "$M2" hang well; fail "a run that ended well is not told so"; }
! ls well/flight/report-* 2>/dev/null || fail "a report of a run that ended well"
"$M2" hang nowhere 2>refused.log; [ $? = 65 ] && grep -q flight refused.log || fail "a folder without recorders"
"$M2" hang well
