#!/bin/bash
# Everything that needs several GPUs, on however many this machine has: NCCL against the laws of communicators, training on
# 1 ... N GPUs against one, weak scaling, gradient buckets, one rank killed, going on with half of the ranks. Writes one JSON
# file, also when something does not hold: "failures" says how much.
#
#   tests/e2e/multigpu.sh [FILE.json]     M2, M2_SOURCE, M2_BUILD as ctest sets them; default M2_BUILD/multigpu.json
#
# M2_MULTIGPU_RANKS="1 2 4": numbers of ranks to try (default: powers of two up to all GPUs, and all)
# M2_MULTIGPU_CONFIG, M2_MULTIGPU_BATCH, M2_MULTIGPU_LENGTH: what is scaled (gpt/360m.yaml, 16 sequences of 2048 per GPU)
# M2_MULTIGPU_DEVICE=cpu: everything but the speeds without a GPU
. "$M2_SOURCE/tests/e2e/common.bash"
device=${M2_MULTIGPU_DEVICE:-cuda}
out=$(cd "$OLDPWD" && realpath -m "${1:-${M2_BUILD:?}/multigpu.json}")
config=${M2_MULTIGPU_CONFIG:-$M2_SOURCE/configs/gpt/360m.yaml}
batch=${M2_MULTIGPU_BATCH:-16}
length=${M2_MULTIGPU_LENGTH:-2048}
# Switches that reduce inside NVLink's multicast are left alone unless the user asks: a machine may be shared.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
if [ "$device" = cuda ] && [ "$gpus" = 0 ]; then
    echo "no GPU: nvidia-smi lists none"
    exit 77
fi
sizes=${M2_MULTIGPU_RANKS:-$(for ((n = 1; n < gpus; n *= 2)); do echo "$n"; done; echo "$gpus")}
most=$(echo "$sizes" | tr ' ' '\n' | sort -n | tail -1)
transport=nccl
[ "$device" = cuda ] || transport=mpi
small_run
sed -i "s/device: cpu/device: $device/" config.yaml

failures=0
bad() {
    echo "  FAILED: $*"
    failures=$((failures + 1))
}
field() { sed -nE "s/.*\"$1\": ([^,}]*).*/\1/p" "$2" | head -1; } # field KEY FILE.json
# of_op OP FILE.json: its seconds in a step
of_op() { awk -v op="\"$1\"," '$1 == "\"op\":" { here = $2 == op } here && $1 == "\"seconds\":" { sub(",", "", $2); s = $2 } END { print s + 0 }' "$2"; }
json=""                                                          # the members of the file
member() { json="$json${json:+,$'\n'}  \"$1\": $2"; }
train() { # train N DIR [OPTION...]
    local n=$1 dir=$2
    shift 2
    ranks "$n" "$M2" train config.yaml run.dir="$dir" "$@" >"$dir.log" 2>&1 || { tail -20 "$dir.log"; bad "$dir"; }
    [ "$n" = 1 ] || grep -qE "on $n ranks? \($transport" "$dir.log" || { tail -20 "$dir.log"; bad "$dir: another transport than $transport"; }
}
worst() { # worst RUN RUN: largest relative difference of their losses
    paste -d' ' <(losses "$1") <(losses "$2") | awk '
        { d = ($2 - $5) / $2; d = d < 0 ? -d : d; if (!(d <= most)) most = d; n++; if ($1 != $4) bad = 1 }
        END { printf "%.2e", n == 50 && !bad ? most : 1 }'
}
at_most() { awk -v x="$1" -v y="$2" 'BEGIN { exit !(x <= y) }' || bad "$3: $1, allowed $2"; }

member machine "{\"gpus\": $gpus, \"name\": \"$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)\", \"date\": \"$(date -u +%FT%TZ)\"}"

echo "laws of communicators and exchanges"
laws=()
for n in $sizes; do
    if [ "$device" = cuda ]; then
        ranks "$n" "$M2_BUILD/bin/mpi-nccl" >log 2>&1 || { tail -20 log; bad "mpi-nccl on $n GPUs"; }
    else
        ranks "$n" "$M2_BUILD/bin/mpi-nccl" "$M2_BUILD/bin/fake_nccl.so" >log 2>&1 || { tail -20 log; bad "mpi-nccl on $n ranks"; }
    fi
    laws+=("$n")
    echo "  $n: $(sed -nE 's/ +asserts +([0-9]+) .*/\1/p' log) assertions hold"
done
member laws_hold_on_ranks "[$(IFS=,; echo "${laws[*]}")]"

echo "training on N against 1"
rows=""
precisions="f32 bf16"
[ "$device" = cuda ] || precisions="f32 f64"
for precision in $precisions; do
    tolerance=1e-4
    [ $precision != bf16 ] || tolerance=1e-2
    for n in $sizes; do
        [ $((12 % n)) = 0 ] || { echo "  $n ranks: the small batch of 12 cannot be shared evenly, left out"; continue; }
        train "$n" $precision-"$n" train.precision=$precision
        off=$(worst $precision-1 $precision-"$n")
        at_most "$off" $tolerance "$precision on $n ranks against one"
        rows="$rows${rows:+, }{\"ranks\": $n, \"precision\": \"$precision\", \"worst_relative_loss_difference\": $off}"
        echo "  $precision, $n: losses apart by at most $off"
    done
done
member training_equals_one_rank "[$rows]"

if "$M2" bench comm --help >/dev/null 2>&1; then
    echo "bandwidth"
    ranks "$most" "$M2" bench comm --json run.device="$device" >comm.json 2>log || { tail -20 log; bad "m2 bench comm"; }
    [ ! -s comm.json ] || member bench_comm "$(cat comm.json)"
fi

echo "weak scaling: $config, $batch x $length tokens per rank"
rows=""
alone=""
step_alone=""
for n in $sizes; do
    ranks "$n" "$M2" bench step "$config" model.length="$length" train.batch=$((n * batch)) run.device="$device" --json >step.json 2>log ||
        { tail -20 log; bad "m2 bench step on $n ranks"; continue; }
    speed=$(field tokens_per_s step.json)
    [ -n "$alone" ] || alone=$(awk -v s="$speed" -v n="$n" 'BEGIN { print s / n }')
    # what a step takes longer than alone is communication that nothing hid
    step=$(field step_seconds step.json)
    [ -n "$step_alone" ] || step_alone=$step
    talk=$(of_op all_reduce step.json)
    hidden=$(awk -v t="$talk" -v s="$step" -v a="$step_alone" 'BEGIN { if (t <= 0) { print "null"; exit } h = 1 - (s - a) / t; h = h < 0 ? 0 : h; h = (h > 1) ? 1 : h; printf "%.4f", h }')
    efficiency=$(awk -v s="$speed" -v n="$n" -v a="$alone" 'BEGIN { printf "%.4f", s / (n * a) }')
    rows="$rows${rows:+, }{\"ranks\": $n, \"tokens_per_s\": $speed, \"step_seconds\": $step, \"mfu\": $(field mfu step.json), \"efficiency\": $efficiency, \"all_reduce_seconds\": $talk, \"hidden\": $hidden}"
    echo "  $n: $speed tokens/s, efficiency $efficiency, MFU $(field mfu step.json), all_reduce $talk s, of it hidden $hidden"
done
member weak_scaling "{\"config\": \"$(basename "$config")\", \"batch_per_rank\": $batch, \"length\": $length, \"rows\": [$rows]}"

if [ "$most" -gt 1 ]; then
    echo "gradient buckets on $most ranks"
    rows=""
    for mib in 4 16 64 256; do
        ranks "$most" "$M2" bench step "$config" model.length="$length" train.batch=$((most * batch)) run.device="$device" comm.bucket_mib=$mib \
            --json >step.json 2>log || { tail -20 log; bad "m2 bench step with buckets of $mib MiB"; continue; }
        rows="$rows${rows:+, }{\"bucket_mib\": $mib, \"tokens_per_s\": $(field tokens_per_s step.json)}"
        echo "  $mib MiB: $(field tokens_per_s step.json) tokens/s"
    done
    member buckets "{\"ranks\": $most, \"rows\": [$rows]}"
fi

echo "one of $most ranks is killed; going on with half of them"
half=$((most > 1 ? most / 2 : 1))
long="train.steps=3000 checkpoint.every=50 train.val_every=0 train.batch=$((12 * most)) train.precision=f32"
ranks "$most" "$M2" train config.yaml run.dir=killed $long >log 2>&1 &
pid=$!
wait_for_step killed 120 $pid
victim=$(pgrep -P "$(pgrep -P $pid | head -1)" | tail -1) # the shell's mpirun's
since=$(date +%s)
kill -9 "$victim"
wait $pid
code=$?
took=$(($(date +%s) - since))
[ $code != 0 ] || bad "the job ended well though a rank was killed"
at_most $took 60 "seconds from the kill to the end of the job"
done_before=$(ls killed/checkpoints | grep -c '^step-')
[ "$done_before" -gt 0 ] || bad "no checkpoint before the kill"
stop=$(($(ls killed/checkpoints | sed -nE 's/^step-0*([0-9]+)$/\1/p' | tail -1) + 40))
ranks "$half" "$M2" train config.yaml run.dir=killed $long train.steps=$stop >log 2>&1 || { tail -20 log; bad "going on with $half ranks"; }
grep -q 'resuming after step' log || { tail -20 log; bad "did not resume"; }
echo "  job over after $took s (exit code $code), $(grep -o 'resuming after step [0-9]*' log) on $half ranks, $stop steps done"
member killed_rank "{\"seconds_to_end\": $took, \"exit_code\": $code, \"resumed_on_ranks\": $half, \"steps_done\": $stop}"

member failures $failures
printf '{\n%s\n}\n' "$json" >"$out"
echo "written: $out"
[ $failures = 0 ] || { echo "$failures things do not hold"; exit 1; }
