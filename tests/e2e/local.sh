#!/bin/bash
# launch/local.sh: its help, what it refuses, the exit code of its program, and who is bound where: equal shares of the cores this
# process may use, which do not overlap; more ranks than cores share them all.
. "$M2_SOURCE/tests/e2e/common.bash" || exit 1
local=$M2_SOURCE/launch/local.sh
"$local" --help >log || fail "--help: exit code $?"
grep -q '^usage: local.sh \[-n RANKS\] PROGRAM' log && grep -q '^  -n RANKS' log || { cat log; fail "its help"; }
for bad in "" "--nonsense true" "-n 0 true" "-n two true" "-n 2"; do
    "$local" $bad >log 2>&1
    [ $? = 64 ] && grep -q 'local.sh' log || { cat log; fail "local.sh $bad: not refused"; }
done

"$local" -n 2 sh -c 'exit 65' >log 2>&1
[ $? = 65 ] || { cat log; fail "the program's exit code does not come through"; }

cores() { taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' | while IFS=- read -r a b; do seq "$a" "${b:-$a}"; done; }
bound() { "$local" -n "$1" sh -c 'taskset -cp $$ | sed "s/.*: //"' | tr ',' '\n' | while IFS=- read -r a b; do seq "$a" "${b:-$a}"; done; }
n=$(cores | wc -l)
[ "$("$local" sh -c 'echo rank' | wc -l)" = "$n" ] || [ -e /dev/nvidia0 ] || fail "not one rank per core"
[ "$(CUDA_VISIBLE_DEVICES=0,1,2 "$local" sh -c 'echo rank' | wc -l)" = 3 ] || fail "not one rank per GPU"
[ "$(bound "$n" | sort -n)" = "$(cores | sort -n)" ] || fail "$n ranks are not bound to a core each: $(bound "$n" | paste -sd' ')"
[ "$(bound $((n + 1)) | wc -l)" = $((n * (n + 1))) ] || fail "$((n + 1)) ranks do not share all $n cores"
one=$(cores | tail -1)
[ "$(taskset -c "$one" "$local" sh -c 'taskset -cp $$ | sed "s/.*: //"')" = "$one" ] || fail "it leaves the cores it was given"

# Ctrl-C reaches the whole process group, SIGTERM one process.
small_run
options="config.yaml train.steps=60 checkpoint.every=20 checkpoint.background=false train.log_every=20"
slow="env LD_PRELOAD=$M2_BUILD/bin/slow_disk.so SLOW_DISK_MS=100 $M2"
"$local" -n 2 "$M2" train $options run.dir=whole >log 2>&1 || { cat log; fail "the undisturbed run"; }
for signal in INT TERM; do
    setsid env --default-signal=INT "$local" -n 2 $slow train $options run.dir=$signal >log 2>&1 &
    pid=$!
    wait_for_step $signal 21 $pid
    [ $signal = TERM ] && kill -TERM $pid || kill -INT -- -$pid
    wait $pid
    code=$?
    [ $code = 75 ] && grep -q 'stopped by SIGUSR1 at step' log || { cat log; fail "SIG$signal: exit code $code, expected 75"; }
    "$local" -n 2 "$M2" train $options run.dir=$signal >log 2>&1 || { cat log; fail "going on after SIG$signal"; }
    grep -q 'resuming after step' log || { cat log; fail "SIG$signal: no checkpoint"; }
    [ "$(content $signal)" = "$(content whole)" ] || fail "SIG$signal: another final checkpoint"
done
"$local" -n 2 $slow train $options train.steps=100000 run.dir=killed >log 2>&1 &
pid=$!
wait_for_step killed 1 $pid
kill -KILL $pid
wait $pid 2>/dev/null
ranks_left() { grep -lz "run.dir=kille[d]" /proc/[0-9]*/cmdline 2>/dev/null; }
for i in $(seq 100); do ranks_left >log || break; sleep 0.1; done
! ranks_left || fail "ranks outlive a local.sh that was killed"
echo "Ctrl-C and SIGTERM: saved, exit code 75, same bits after going on"
echo "$n ranks on a core each, $((n + 1)) on all of them, one on the core that taskset left"
