#!/bin/bash
# Everything that needs several GPUs of one host, on however many there are. Writes one JSON file, anew after every section, also
# when something does not hold: "failures" says how much, "failed" what.
#
#   tests/e2e/multigpu.sh [FILE.json]     default M2_BUILD/multigpu.json; M2, M2_SOURCE, M2_BUILD as ctest sets them, or this tree's
#
#   laws       NCCL against the laws of communicators and exchanges; gradients, losses and bytes of every mesh; f32 and bf16
#   equal      training on meshes data x sequence against one GPU: both exchanges, groups, stages of ZeRO, both families
#   bandwidth  m2 bench comm: bus bandwidth by verb and size
#   weak       M2-GPT 360M, data parallel with ZeRO 1, as many tokens per GPU on 1 ... N: efficiency, overlap, beside the plan
#   kill       one rank killed (SIGKILL): the job ends, half of the ranks go on
#   hang       one rank stopped (SIGSTOP): the watchdog names it, the job ends, all go on
#   sequence   the same model with every sequence cut over 1 ... N: 32K, 128K, 512K tokens, both exchanges
#   buckets    sizes of gradient buckets (only where asked for)
#
# M2_MULTIGPU_SECTIONS="laws equal": these, in this order; default: all but the last
# M2_MULTIGPU_RANKS="1 2 4": numbers of ranks to try (default: powers of two up to all GPUs, and all)
# M2_MULTIGPU_SECONDS=450: after so long, what may be left out of equal and sequence is (and said so); 0 = nothing
# M2_MULTIGPU_CONFIG, M2_MULTIGPU_TOKENS, M2_MULTIGPU_LENGTH, M2_MULTIGPU_LENGTHS: what is scaled (gpt/360m.yaml, 131072 tokens per
#   GPU and step, in sequences of 2048; sequence: 32768 131072 524288); M2_MULTIGPU_EXCHANGES="channel monarch"
# M2_MULTIGPU_STEPS=5: timed; M2_MULTIGPU_MACHINE=FILE.yaml: predicts (configs/machines/h200.yaml); M2_MULTIGPU_TRACES=FOLDER:
#   timelines of weak and sequence; M2_MULTIGPU_HANG=8: run.hang_timeout; M2_MULTIGPU_LIMIT=150: seconds that one run may take;
#   M2_MULTIGPU_MEMORY: GiB of a GPU (as nvidia-smi says)
# M2_MULTIGPU_DEVICE=cpu: everything but the speeds without a GPU
M2_SOURCE=${M2_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
export M2_BUILD=${M2_BUILD:-$M2_SOURCE/build}
M2=${M2:-$M2_BUILD/bin/m2}
. "$M2_SOURCE/tests/e2e/common.bash"
. "$M2_SOURCE/tests/e2e/multigpu.bash"
. "$M2_SOURCE/launch/env.sh"
set +u # a slip in one section must not take the others with it
device=${M2_MULTIGPU_DEVICE:-cuda}
there=$OLDPWD
out=$(cd "$there" && realpath -m "${1:-$M2_BUILD/multigpu.json}")
config=$(cd "$there" && realpath -m "${M2_MULTIGPU_CONFIG:-$M2_SOURCE/configs/gpt/360m.yaml}")
tokens=${M2_MULTIGPU_TOKENS:-131072}
length=${M2_MULTIGPU_LENGTH:-2048}
lengths=${M2_MULTIGPU_LENGTHS:-32768 131072 524288}
steps=${M2_MULTIGPU_STEPS:-5}
budget=${M2_MULTIGPU_SECONDS:-450}
sections=${M2_MULTIGPU_SECTIONS:-laws equal bandwidth weak kill hang sequence}
hang=${M2_MULTIGPU_HANG:-8}
limit=${M2_MULTIGPU_LIMIT:-150}
traces=${M2_MULTIGPU_TRACES:+$(cd "$there" && mkdir -p "$M2_MULTIGPU_TRACES" && realpath "$M2_MULTIGPU_TRACES")}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
# Switches that reduce inside NVLink's multicast are left alone unless the user asks: a machine may be shared.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
[ -z "${CUDA_VISIBLE_DEVICES:-}" ] || gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
if [ "$device" = cuda ] && [ "$gpus" = 0 ]; then
    echo "no GPU: nvidia-smi lists none"
    exit 77
fi
sizes=${M2_MULTIGPU_RANKS:-$(for ((n = 1; n < gpus; n *= 2)); do echo "$n"; done; echo $((gpus ? gpus : 2)))}
sizes=$(tr ' ' '\n' <<<"$sizes" | grep . | sort -nu)
most=$(tail -1 <<<"$sizes")
memory=${M2_MULTIGPU_MEMORY:-} machine=${M2_MULTIGPU_MACHINE:-} measured_machine=""
transport=mpi precisions="f32 f64"
if [ "$device" = cuda ]; then
    transport=nccl precisions="f32 bf16"
    memory=${memory:-$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | awk 'NR == 1 { print $1 / 1024 }')}
    machine=${machine:-$M2_SOURCE/configs/machines/h200.yaml}
fi
[ -z "$machine" ] || machine=$(cd "$there" && realpath -m "$machine")

# ---- correctness -----------------------------------------------------------------------------------------------------
# laws_hold NAME N: the program NAME on N ranks; a row
laws_hold() {
    local name=$1 n=$2 said
    # shellcheck disable=SC2046
    ranks "$n" "$M2_BUILD/bin/$name" $([ "$device" = cuda ] || echo "$M2_BUILD/bin/fake_nccl.so") >log 2>&1 </dev/null ||
        { tail_of log 60; bad "$name on $n ranks"; return; }
    said=$(sed -nE 's/ +asserts +([0-9]+) .*/\1/p' log)
    grep -q 'skipped' log && { tail_of log 20; bad "$name on $n ranks: skipped"; return; }
    echo "  $n: $said assertions of $name hold$(grep -oE '[0-9]+ meshes equal' log | sed 's/^/, /' | tr -d '\n')"
    row "\"program\": \"$name\", \"ranks\": $n, \"assertions\": $(or_null "$said"), \"meshes_equal\": [$(grep -oE '[0-9]+ meshes equal' log | cut -d' ' -f1 | paste -sd,)]"
}
section_laws() {
    local n
    rows=""
    for n in $sizes; do laws_hold mpi-nccl "$n"; done
    [ "$most" = 1 ] || laws_hold mpi-sequence_gpus "$most"
    member laws_hold "[$rows]"
}

# What one rank finds, in every family and precision: on several GPUs at once.
references() {
    local family precision k=0 waits=""
    for family in gpt bert; do
        small $family
        for precision in $precisions; do
            if [ "$device" = cuda ]; then
                CUDA_VISIBLE_DEVICES=$(gpu_number $((k++ % gpus))) train 1 $precision-1 $equal train.precision="$precision" &
                waits="$waits $!"
            else
                train 1 "$precision-1" $equal train.precision="$precision"
            fi
        done
    done
    [ -z "$waits" ] || wait $waits
}
# agrees FAMILY PRECISION N MESH EXCHANGE GROUPS ZERO: trains so, compares with one rank, writes a row
agrees() {
    local family=$1 precision=$2 n=$3 mesh=$4 exchange=$5 groups=$6 zero=$7 off allowed run how="run.mesh=$4 optim.zero=$7"
    run=$precision-$mesh-$exchange-$groups-$zero
    case $precision in f32) allowed=1e-4 ;; bf16) allowed=1e-2 ;; f64) allowed=1e-9 ;; esac
    [ "$family" = gpt ] || case $precision in f32) allowed=1e-3 ;; bf16) allowed=2e-2 ;; esac
    [ "$exchange" = - ] || how="$how run.exchange=$exchange comm.groups=$groups"
    small "$family"
    # shellcheck disable=SC2086
    train "$n" "$run" $equal train.precision="$precision" $how || return
    off=$(worst "$equal_steps" "$precision-1" "$run")
    at_most "$off" $allowed "$family, $precision, mesh $mesh, exchange $exchange in $groups groups, ZeRO $zero: losses off one rank's"
    printf '  %-4s %-4s %-4s %-7s groups %s ZeRO %s: losses apart by at most %s\n' "$family" "$precision" "$mesh" "$exchange" "$groups" "$zero" "$off"
    row "\"family\": \"$family\", \"precision\": \"$precision\", \"ranks\": $n, \"data_x_sequence\": \"$mesh\", \"exchange\": \"$exchange\", \"groups\": $groups, \"zero\": $zero, \"worst_relative_loss_difference\": $off, \"allowed\": $allowed"
}
# The ways of N ranks: family, mesh, exchange, groups, stage of ZeRO; what is to be known first comes first.
ways() {
    local n=$1 half=$(($1 / 2))
    printf '%s\n' "gpt 1x$n channel 4 1" "gpt 1x$n monarch 1 2" "gpt ${n}x1 - 1 0" "gpt ${n}x1 - 1 1" "bert 1x$n monarch 2 1"
    [ $((n % 2)) = 1 ] || [ "$n" -lt 4 ] ||
        printf '%s\n' "gpt 2x$half channel 2 2" "bert 2x$half channel 1 0" "gpt 2x$half monarch 2 1"
    printf '%s\n' "gpt ${n}x1 - 1 2" "bert ${n}x1 - 1 2" "gpt 1x$n channel 1 0" "gpt 1x$n monarch 2 1" "bert 1x$n channel 4 1"
}
section_equal() {
    local n family mesh exchange groups zero precision left=0
    equal_steps=25
    equal="train.steps=$equal_steps train.val_every=15 checkpoint.every=0"
    rows=""
    references
    for n in $(sort -rn <<<"$sizes"); do # a smaller number's ways are parts of a larger one's
        [ "$n" -gt 1 ] || continue
        even "$n" || { echo "  $n ranks: the small batch of 24 cannot be shared evenly, left out"; continue; }
        while read -r family mesh exchange groups zero; do
            for precision in $precisions; do
                ! late $((-budget * 3 / 5)) || { left=$((left + 1)); continue; }
                agrees "$family" "$precision" "$n" "$mesh" "$exchange" "$groups" "$zero"
            done
        done < <(ways "$n")
    done
    [ $left = 0 ] || echo "  $left ways are left out: no time"
    member training_equals_one_rank "[$rows]"
    member equal_left_out $left
}

# ---- speed -----------------------------------------------------------------------------------------------------------
section_bandwidth() {
    local list
    [ "$most" -gt 1 ] || { echo "  one rank exchanges nothing"; return; }
    measured_machine=$work/machine.yaml
    { [ -n "$machine" ] && cp "$machine" "$measured_machine"; } || measured_machine=""
    # shellcheck disable=SC2046
    ranks "$most" "$M2" bench comm run.device="$device" --json --most $([ "$device" = cuda ] && echo 1073741824 || echo 1048576) \
        ${measured_machine:+--machine-out "$measured_machine"} >comm.json 2>log </dev/null ||
        { tail_of log 20; bad "m2 bench comm"; measured_machine=""; return; }
    only_json comm.json
    list=$(bus_bandwidth comm.json)
    tr '}' '\n' <<<"$list" | sed -nE 's/.*"ranks": ([0-9]+), "verb": "([a-z_]+)".*"bus_gbs": ([0-9.]+).*/  \1 ranks, \2: bus bandwidth \3 GB\/s/p'
    member bus_bandwidth "[$list]"
    member bench_comm "$(or_null "$(cat comm.json)")"
}

# efficient N SPEED FIRST_N FIRST_SPEED: tokens per second and rank, over those of the first
efficient() { calc "$2 / $1 / ($4 / $3)"; }
section_weak() {
    local n batch first="" first_n speed efficiency
    batch=$((tokens / length > 0 ? tokens / length : 1))
    echo "  $(basename "$config"): $batch x $length tokens per rank and step, ZeRO 1"
    rows=""
    for n in $sizes; do
        local options="model.length=$length train.batch=$((n * batch)) optim.zero=1"
        # shellcheck disable=SC2086
        measure "$n" weak-$n "$steps" $batch $options || { bad "weak scaling on $n ranks: $why"; continue; }
        speed=$(field tokens_per_s step.json)
        [ -n "$first" ] || { first=$speed first_n=$n; }
        efficiency=$(efficient "$n" "$speed" "$first_n" "$first")
        # shellcheck disable=SC2086
        row "\"ranks\": $n, $said, \"efficiency\": $efficiency, $(predicted "$n" $options $way)"
        echo "  $n: $speed tokens/s, efficiency $efficiency, MFU $(field mfu step.json), of communication beside computing: $(overlap_share step.json)"
    done
    member weak_scaling "{\"config\": \"$(basename "$config")\", \"tokens_per_rank\": $((batch * length)), \"length\": $length, \"zero\": 1, \"command\": \"m2 bench step CONFIG model.length=$length train.batch=${batch}N train.micro=$batch train.recompute=none optim.zero=1\", \"target_on_8\": 0.92, \"rows\": [$rows]}"
}

section_sequence() {
    local l n exchange rows_per_group first first_n speed efficiency options status exchanges least
    rows=""
    least=$(head -1 <<<"$sizes")
    for l in $lengths; do
        first=""
        for n in $sizes; do
            [ $((l % n)) = 0 ] || { echo "  $l tokens are not divided by $n ranks: left out"; continue; }
            rows_per_group=$((n * tokens / l > 0 ? n * tokens / l : 1))
            [ "$n" = 1 ] && exchanges=- || exchanges=${M2_MULTIGPU_EXCHANGES:-channel monarch}
            for exchange in $exchanges; do
                options="model.length=$l run.mesh=data=1,seq=$n train.batch=$rows_per_group optim.zero=1"
                [ "$exchange" = - ] || options="$options run.exchange=$exchange"
                # the last to go are all ranks, the first those between one and all
                if late 90 || { late && [ "$n" != "$most" ]; } || { late $((-budget / 4)) && [ "$n" != "$most" ] && [ "$n" != "$least" ]; }; then
                    row "\"length\": $l, \"ranks\": $n, \"exchange\": \"$exchange\", \"left_out\": \"no time\""
                    echo "  $l on $n, $exchange: left out, no time"
                    continue
                fi
                # shellcheck disable=SC2086
                measure "$n" "sequence-$l-$n-$exchange" $((steps > 3 ? 3 : steps)) "$rows_per_group" $options
                status=$?
                if [ $status = 1 ]; then
                    echo "  $l on $n, $exchange: does not fit ($why)"
                    row "\"length\": $l, \"ranks\": $n, \"exchange\": \"$exchange\", \"fits\": false, \"why\": \"$why\""
                    continue
                fi
                [ $status = 0 ] || { bad "$l tokens cut over $n ranks, exchange $exchange: $why"; continue; }
                speed=$(field tokens_per_s step.json)
                [ -n "$first" ] || { first=$speed first_n=$n; }
                efficiency=$(efficient "$n" "$speed" "$first_n" "$first")
                # shellcheck disable=SC2086
                row "\"length\": $l, \"ranks\": $n, \"exchange\": \"$exchange\", \"fits\": true, \"batch\": $rows_per_group, $said, \"efficiency\": $efficiency, \"of_ranks\": $first_n, $(predicted "$n" $options $way)"
                echo "  $l on $n, $exchange ($way): $speed tokens/s, efficiency $efficiency of $first_n's, beside computing: $(overlap_share step.json)"
            done
        done
        member "sequence_scaling_$l" "{\"config\": \"$(basename "$config")\", \"target_on_8\": $([ "$l" = 32768 ] && echo 0.85 || echo null), \"rows\": [$rows]}"
        rows=""
        save
    done
}

section_buckets() {
    local mib batch=$((tokens / length > 0 ? tokens / length : 1))
    rows=""
    [ "$most" -gt 1 ] || return
    for mib in 4 16 64 256; do
        measure "$most" buckets-$mib "$steps" $batch model.length="$length" train.batch=$((most * batch)) optim.zero=1 comm.bucket_mib=$mib ||
            { bad "buckets of $mib MiB: $why"; continue; }
        row "\"bucket_mib\": $mib, $said"
        echo "  $mib MiB: $(field tokens_per_s step.json) tokens/s, beside computing: $(overlap_share step.json)"
    done
    member buckets "{\"ranks\": $most, \"rows\": [$rows]}"
}

# ---- failures ----------------------------------------------------------------------------------------------------------
# newest RUN: the step of its newest checkpoint that was committed
newest() { ls "$1"/checkpoints/step-*/manifest.h5 2>/dev/null | sed -nE 's|.*/step-0*([0-9]+)/manifest.h5|\1|p' | tail -1; }
# begin_long RUN OPTION...: $most ranks for much longer than it takes, in the background as $job; back behind a first checkpoint
begin_long() {
    local run=$1
    shift
    long="train.steps=1000000 checkpoint.every=50 train.val_every=0 train.precision=f32 optim.zero=1"
    # shellcheck disable=SC2086
    ranks "$most" "$M2" train config.yaml $shape run.dir="$run" $long "$@" >"$run.log" 2>&1 </dev/null &
    job=$!
    wait_for_step "$run" 60 $job
    while kill -0 $job 2>/dev/null && [ -z "$(newest "$run")" ]; do sleep 0.1; done
}
# go_on RUN N: N ranks go on for 20 steps behind the newest checkpoint; $from: the step they resumed after
go_on() {
    local newest
    newest=$(newest "$1")
    [ -n "$newest" ] || { bad "$1: no checkpoint"; return; }
    # shellcheck disable=SC2086
    ranks "$2" "$M2" train config.yaml $shape run.dir="$1" $long train.steps=$((newest + 20)) >again.log 2>&1 </dev/null ||
        { tail_of again.log; bad "$1: going on with $2 ranks"; return; }
    from=$(sed -nE 's/.*resuming after step ([0-9]+).*/\1/p' again.log | head -1)
    [ "$from" = "$newest" ] || { tail_of again.log; bad "$1: did not resume after step $newest"; }
    [ "$(tail -1 "$1/metrics.jsonl" | sed -nE 's/^\{"step": ([0-9]+),.*/\1/p')" = $((newest + 20)) ] || bad "$1: not all steps done"
}
section_kill() {
    local half=$((most > 1 ? most / 2 : 1)) victim left="" r from=""
    small gpt
    begin_long killed
    victim=$(process killed $((most - 1)))
    [ -n "$victim" ] || { tail_of killed.log 20; kill "$job"; bad "killed: did not begin to train"; return; }
    for ((r = 0; r < most; r++)); do left="$left $(process killed $r)"; done
    kill -KILL "$victim"
    ended $job 60 || bad "killed: the job still hung after 60 s"
    [ "$code" != 0 ] || bad "the job ended well though a rank was killed"
    sleep 1
    for r in $left; do kill -0 "$r" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$r/status" && { bad "killed: process $r is left"; kill -KILL "$r"; }; done
    go_on killed $half
    echo "  rank $((most - 1)) of $most killed: job over after $took s (exit code $code), resumed after step $(or_null "$from") on $half ranks"
    member killed_rank "{\"ranks\": $most, \"rank\": $((most - 1)), \"seconds_to_end\": $took, \"exit_code\": \"$code\", \"resumed_on_ranks\": $half, \"resumed_after_step\": $(or_null "$from")}"
}
section_hang() {
    local rank=$((most - 1)) victim report told names=false waits=false from="" bound=$((${hang%.*} + 30))
    [ "$most" -gt 1 ] || { echo "  one rank waits for nobody"; return; }
    small gpt
    begin_long stopped run.hang_timeout="$hang"
    victim=$(process stopped $rank)
    [ -n "$victim" ] || { tail_of stopped.log 20; kill "$job"; bad "stopped: did not begin to train"; return; }
    kill -STOP "$victim"
    ended $job $bound || bad "stopped: the job still hung after $bound s"
    kill -KILL "$victim" 2>/dev/null
    [ "$code" = 71 ] || { tail_of stopped.log 20; bad "stopped: exit code $code, expected 71"; }
    report=$(head -1 stopped/flight/report-*.txt 2>/dev/null)
    told=$("$M2" hang stopped 2>/dev/null | head -1)
    grep -qE "^rank $rank of $most \(process $victim on [^ ]+\) (is stopped|has died).*: step [0-9]+, (in|behind) " <<<"$report" && names=true
    grep -q 'the others wait for it in step [0-9]* in .*(collective [0-9]*)' <<<"$report" && waits=true
    $names || { tail_of stopped.log; bad "stopped: the report does not name rank $rank: $report"; }
    [ -n "$told" ] && [ "$told" = "$report" ] || bad "m2 hang does not tell the report: $told"
    grep -q "no progress .*rank $rank of $most " stopped.log || bad "stopped: the log does not name rank $rank"
    go_on stopped "$most"
    echo "  ${report:-no report}"
    echo "  rank $rank of $most stopped: job over after $took s (run.hang_timeout=$hang, exit code $code), resumed after step $(or_null "$from")"
    member stopped_rank "{\"ranks\": $most, \"rank\": $rank, \"hang_timeout\": $hang, \"seconds_to_end\": $took, \"exit_code\": \"$code\", \"named\": $names, \"collective_named\": $waits, \"report\": \"$(tr -d '"\\' <<<"$report")\", \"resumed_after_step\": $(or_null "$from")}"
}

# ---- all of it -----------------------------------------------------------------------------------------------------------
member machine "{\"device\": \"$device\", \"gpus\": $gpus, \"name\": \"$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)\", \"memory_gib\": $(or_null "$memory"), \"date\": \"$(date -u +%FT%TZ)\"}"
member ranks "[$(paste -sd, <<<"$sizes")]"
save
for section in $sections; do
    declare -F "section_$section" >/dev/null || { bad "M2_MULTIGPU_SECTIONS: no section $section"; continue; }
    begun=$SECONDS
    echo "[$SECONDS s] $section"
    cd "$work" || exit 1
    "section_$section"
    member "seconds_$section" $((SECONDS - begun))
    save
    echo "[$SECONDS s] $section took $((SECONDS - begun)) s, $failures failures so far"
done
save
echo "written: $out"
[ $failures = 0 ] || { echo "$failures things do not hold"; exit 1; }
