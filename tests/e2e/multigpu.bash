# multigpu.bash - what the sections of multigpu.sh share: failures that are written down, fields of JSON, runs, plans.

# ---- the file ------------------------------------------------------------------------------------------------------
failures=0
failed=""
json=""
bad() {
    echo "  FAILED: $*"
    failures=$((failures + 1))
    failed="$failed${failed:+, }\"$(tr -d '"\\' <<<"$*" | tr '\n\t' '  ' | cut -c1-300 | sed 's/ *$//')\""
}
tail_of() { tail -n "${2:-12}" "$1" 2>/dev/null | cut -c1-400 | sed 's/^/    /'; }
member() { json="$json${json:+,$'\n'}  \"$1\": $2"; } # of the file: NAME JSON
rows=""
row() { rows="$rows${rows:+,$'\n'    }{$1}"; }
# The file as far as it goes: a time limit loses nothing of what was done.
save() {
    printf '{\n%s,\n  "seconds": %s,\n  "failed": [%s],\n  "failures": %s\n}\n' "$json" "$SECONDS" "$failed" "$failures" >"$out.part" &&
        mv "$out.part" "$out"
}
# late [SECONDS]: is the time up for what may be left out (so much later: for all)?
late() { [ "$budget" != 0 ] && [ $SECONDS -ge $((budget + ${1:-0})) ]; }

# ---- numbers -------------------------------------------------------------------------------------------------------
field() { sed -nE "s/.*\"$1\": ([^,}]*).*/\1/p" "$2" | head -1; } # field KEY FILE.json
calc() { awk "BEGIN { printf \"${2:-%.4f}\", ($1) }"; }            # calc EXPRESSION [FORMAT]
or_null() { echo "${1:-null}"; }
only_json() { sed -i '/^{$/,/^}$/!d' "$1"; }                         # NCCL says its version and warnings on standard output
# The list of overlaps of m2 bench step --json, in a line
overlaps() { awk '/"overlap": \[/ { on = 1; sub(/.*"overlap": /, "") } on { gsub(/^ +/, ""); printf "%s ", $0 } on && /\]/ { exit }' "$1" | sed 's/,* *$//'; }
# Of all communication of a step, the share that ran beside computing
overlap_share() {
    overlaps "$1" | tr '{' '\n' | awk -F'[:,}]' '{ for (i = 1; i < NF; i++) {
            if ($i ~ /"seconds"/) all += $(i + 1)
            if ($i ~ /"beside_seconds"/) beside += $(i + 1) } }
        END { if (all > 0) printf "%.4f", beside / all; else printf "null" }'
}
# Of m2 bench comm --json: for the largest message of each verb and size of group, the GB/s that each rank sends, which is what
# nccl-tests call bus bandwidth, and its share of 370 GB/s, which NVLink is planned to give on 8 GPUs
bus_bandwidth() {
    awk '/"ranks": / { n = $2 + 0 }
        /"(all_reduce|all_gather|reduce_scatter|all_to_all)": [{]/ { split($1, w, "\""); verb = w[2] }
        /"sent": / { sent = $2 + 0 }
        /"seconds": / && verb {
            seconds = $2 + 0
            rate = seconds > 0 ? sent / seconds * 1e-9 : 0
            key = n "|" verb
            if (!(key in said)) order[++k] = key
            said[key] = sprintf("{\"ranks\": %d, \"verb\": \"%s\", \"bytes_sent\": %d, \"bus_gbs\": %.3f, \"of_370_gbs\": %.3f}",
                n, verb, sent, rate, rate / 370) }
        END { for (i = 1; i <= k; i++) { if (i > 1) printf ", "; printf "%s", said[order[i]] } }' "$1"
}
at_most() { awk -v x="$1" -v y="$2" 'BEGIN { exit !(x <= y) }' || bad "$3: $1, allowed $2"; }
# worst STEPS RUN RUN: largest relative difference of their losses and validation losses; 1 where steps are missing
worst() {
    paste -d' ' <(losses "$2" 2>/dev/null) <(losses "$3" 2>/dev/null) | awk -v steps="$1" '
        function off(x, y) { d = (x - y) / x; d = d < 0 ? -d : d; if (!(d <= most)) most = d }
        { off($2, $5); if ($3 != "-" || $6 != "-") off($3, $6); n++; if ($1 != $4) bad = 1 }
        END { printf "%.2e", n == steps && !bad ? most : 1 }'
}

# ---- runs ----------------------------------------------------------------------------------------------------------
# ranks N COMMAND...: as in common.bash, but none hangs for longer than $limit
ranks() {
    local n=$1
    shift
    timeout -k 10 "$limit" "${MPIEXEC:-mpirun}" --bind-to none -np "$n" "$@"
}
# The GPU that is number K of those this process may use
gpu_number() { if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then cut -d, -f$(($1 + 1)) <<<"$CUDA_VISIBLE_DEVICES"; else echo "$1"; fi; }
# small FAMILY: a folder with a small model of it and its data; afterwards there
small() {
    cd "$work" || exit 1
    [ -d "$1" ] || { mkdir "$1" && cd "$1" && small_run "$1" && sed -i "s/device: cpu/device: $device/" config.yaml; }
    cd "$work/$1" || exit 1
}
# A number of ranks divides 24 rows, 192 positions and 96 channels, or is left out.
shape="model.width=96 model.length=192 train.batch=24 train.val_batches=1"
even() { [ $((24 % $1)) = 0 ]; }
train() { # train N DIR [OPTION...]; says no when it failed
    local n=$1 dir=$2
    shift 2
    # shellcheck disable=SC2086
    ranks "$n" "$M2" train config.yaml $shape run.dir="$dir" run.hang_timeout=60 "$@" >"$dir.log" 2>&1 </dev/null || {
        tail_of "$dir.log"
        "$M2" hang "$dir" 2>/dev/null | head -$((n + 1)) | sed 's/^/    /'
        bad "$dir"
        return 1
    }
    [ "$n" = 1 ] || grep -qE "on $n ranks? \($transport" "$dir.log" ||
        { tail_of "$dir.log"; bad "$dir: another transport than $transport"; return 1; }
}
process() { "$M2" hang "$1" 2>/dev/null | sed -nE "s/^rank $2 \(process ([0-9]+) on.*/\1/p"; } # process RUN RANK: its number
# ended PID SECONDS: waits so long at most; exit code in $code, time in $took
ended() {
    local begin=$SECONDS
    while kill -0 "$1" 2>/dev/null; do
        [ $((SECONDS - begin)) -lt "$2" ] || { pkill -TERM -P "$1"; wait "$1"; code=none took=$2; return 1; }
        sleep 0.2
    done
    wait "$1"
    code=$?
    took=$((SECONDS - begin))
}

# ---- steps of a large model -------------------------------------------------------------------------------------------
# plan N [OPTION...]: plan.json of $config
plan() {
    local n=$1
    shift
    "$M2" inspect plan "$config" --ranks "$n" --local "$n" ${machine:+--machine "$machine"} "$@" --json >plan.json 2>plan.log </dev/null
}
# GiB that a plan of N ranks may have: less where NCCL needs some too
room() {
    [ -n "$memory" ] || { echo 1e9; return; }
    calc "$memory * ($1 > 1 ? 0.95 : 0.975)" %.3f
}
# predicted N OPTION...: tokens per second as the machine description says, and with the network that was measured here
predicted() {
    local n=$1 given=null measured=null machine=$machine
    shift
    if [ -n "$machine" ]; then
        plan "$n" "$@" && given=$(field tokens_per_s plan.json)
        if [ -n "$measured_machine" ] && [ "$n" -gt 1 ]; then
            machine=$measured_machine
            plan "$n" "$@" && measured=$(field tokens_per_s plan.json)
        fi
    fi
    echo "\"predicted_tokens_per_s\": $(or_null "$given"), \"predicted_with_measured_network\": $(or_null "$measured")"
}
# measure N NAME STEPS ROWS OPTION...: m2 bench step of N ranks into step.json, in the first way that fits: ROWS sequences in a
# microbatch of a group or as few as must be, then with blocks recomputed. The way is left in $way, its members of a row in
# $said. Returns 1 where nothing fits, 2 where it failed.
measure() {
    local n=$1 name=$2 steps=$3 full=$4 micro recompute need tried="" status trace=()
    shift 4
    [ -z "$traces" ] || trace=(--trace "$traces/$name.json")
    for recompute in none block; do
        for ((micro = full; micro >= 1; micro /= 2)); do
            [ $((full % micro)) = 0 ] || continue
            way="train.micro=$micro train.recompute=$recompute"
            # shellcheck disable=SC2086
            plan "$n" "$@" $way || { tail_of plan.log; why=$(tail -1 plan.log); return 2; }
            need=$(calc "$(field total plan.json) / 1073741824" %.3f)
            if [ "$(calc "$need > $(room "$n")" %d)" = 1 ]; then
                tried="$tried${tried:+; }$recompute, $micro at once: $need GiB planned"
                continue
            fi
            # shellcheck disable=SC2086
            M2_LOG=debug ranks "$n" "$M2" bench step "$config" "$@" $way run.device="$device" --steps "$steps" "${trace[@]}" --json \
                >step.json 2>log </dev/null && status=0 || status=$?
            if [ $status = 0 ] && only_json step.json && [ -s step.json ]; then
                said="\"micro\": $micro, \"recompute\": \"$recompute\", \"planned_gib\": $need, \"too_large\": \"$tried\""
                said="$said, \"step_seconds\": $(field step_seconds step.json), \"tokens_per_s\": $(field tokens_per_s step.json)"
                said="$said, \"tokens_per_s_per_rank\": $(calc "$(field tokens_per_s step.json) / $n" %.1f), \"mfu\": $(field mfu step.json)"
                said="$said, \"bytes_sent\": $(field bytes_sent step.json), \"bytes_planned\": $(field bytes_planned step.json)"
                said="$said, \"overlap_share\": $(overlap_share step.json), \"overlap\": $(overlaps step.json)"
                [ "$(field collectives_off_plan step.json)" = 0 ] || bad "$name: $(field collectives_off_plan step.json) collectives sent other bytes than planned"
                return 0
            fi
            if ! grep -qiE 'out of (GPU )?memory' log step.json; then
                tail_of log 20
                why=$(grep -m1 'error' log | cut -c1-200)
                [ $status != 124 ] || why="$way: not over after $limit s (M2_MULTIGPU_LIMIT)"
                return 2
            fi
            tried="$tried${tried:+; }$recompute, $micro at once: out of memory, $need GiB planned"
            echo "    $name, $way: out of memory"
        done
    done
    why=$tried
    return 1
}
