#!/bin/bash
# m2 bench step: a real step without a token store, alone and on two ranks; its counts are those of the plan, its loss that of
# an untrained model; training reports MFU.
. "$M2_SOURCE/tests/e2e/common.bash"
unset OPENBLAS_CORETYPE # the core type is chosen by m2
small="model.width=64 model.layers=2 model.length=96 model.vocab=320 train.batch=4 run.threads=1 run.device=cpu"
tiny=$M2_SOURCE/configs/gpt/tiny.yaml

field() { grep -oE "\"$1\": [-0-9.e+]+" | head -1 | cut -d' ' -f2; } # of JSON on stdin
check() { awk "BEGIN { exit !($1) }" || { cat one.json; fail "$2: $1"; }; }

"$M2" bench step "$tiny" $small --steps 2 --json >one.json || fail "bench step"
"$M2" inspect plan "$tiny" $small --json >plan.json || fail "inspect plan"
loss=$(field loss <one.json) mfu=$(field mfu <one.json)
check "$loss > 0.5 * log(320) && $loss < 1.5 * log(320)" "loss of random tokens"
check "$mfu > 0" "MFU"
for key in parameters flops_per_step; do
    a=$(field $key <one.json) b=$(field $key <plan.json)
    check "($a - $b) < 1e-5 * $b && ($b - $a) < 1e-5 * $b" "$key of bench and plan"
done
sum=$(grep -oE '"seconds": [-0-9.e+]+' one.json | awk '{ s += $2 } END { print s }')
whole=$(field profiled_step_seconds <one.json)
check "$sum > 0 && $sum <= $whole * 1.001" "the ops' share of the profiled step"

# calls of the table are those of the plan, per op; microbatches multiply them
"$M2" inspect plan "$tiny" $small --calls | awk '$1 ~ /^[0-9]+[*!]?$/ && NF > 5 { print $3 }' | sort | uniq -c | awk '{ print $2, $1 }' >planned
"$M2" bench step "$tiny" $small --steps 1 >out || fail "bench step"
awk '$6 ~ /%$/ || $7 ~ /%$/ { if ($1 != "between") print $1, $2 }' out | sort >measured
cmp -s planned measured || { diff planned measured; fail "calls of bench and plan"; }
"$M2" bench step "$tiny" $small train.micro=2 --steps 1 | awk '$1 == "longconv" || $1 == "adam" { print $1, $2 }' | sort >micro
printf 'adam 1\nlongconv 4\n' | cmp -s - micro || { cat micro; fail "calls with two microbatches"; }

# two ranks share the step: the same FLOPs, an all_reduce in the table
ranks 2 "$M2" bench step "$tiny" $small --steps 2 --json >two.json 2>log || { cat log; fail "two ranks"; }
a=$(field flops_per_step <one.json) b=$(field flops_per_step <two.json)
check "$b >= $a && $b < 1.2 * $a" "FLOPs on one and two ranks" # each rank makes its own filters
grep -q '"op": "all_reduce"' two.json || fail "no all_reduce on two ranks"
check "$(field bytes_sent <two.json) > 0 && $(field bytes_sent <two.json) == $(field bytes_planned <two.json)" "bytes sent and planned"
[ "$(field collectives_off_plan <two.json)" = 0 ] || fail "a collective sends other bytes than planned"

# a masked language model: the mean over its hidden places
"$M2" bench step "$M2_SOURCE/configs/bert/80m.yaml" $small train.micro=2 --steps 2 --json >one.json || fail "bench step of bert"
loss=$(field loss <one.json)
check "$loss > 0.5 * log(320) && $loss < 1.5 * log(320)" "loss of random hidden tokens"

small_run
"$M2" train config.yaml train.steps=2 run.dir=run >log 2>&1 || { cat log; fail "training"; }
mfu=$(tail -1 run/metrics.jsonl | field mfu)
check "\"$mfu\" != \"\" && \"$mfu\" + 0 > 0 && \"$mfu\" + 0 < 2" "mfu in metrics.jsonl"

"$M2" bench step "$tiny" --steps 0 2>err && fail "--steps 0"
grep -q -- '--steps 0: expected 1 to 1000000' err || { cat err; fail "message about --steps"; }
echo "steps measured"
