#!/bin/bash
# m2 inspect plan: the published parameter counts; memory and traffic of many ranks without allocating any of it; what it
# predicts is what training then has.
. "$M2_SOURCE/tests/e2e/common.bash"
configs=$M2_SOURCE/configs/gpt

field() { grep -oE "\"$1\": [0-9.e+]+" | head -1 | cut -d' ' -f2; } # of JSON on stdin

# every configuration that comes with m2 can be planned, with its exact count and the count as people say it
while read -r name count said; do
    "$M2" inspect plan "$M2_SOURCE/configs/$name.yaml" run.device=cpu >out || fail "inspect plan $name"
    grep -q "^parameters  *$said ($count)\$" out || { cat out; fail "$name: expected $said ($count) parameters"; }
    grep -q '^memory .* per rank$' out || { cat out; fail "$name: no memory"; }
    echo "$name"
done >planned <<END
bert/110m 115583616 115.6M
bert/260m 259133760 259.1M
bert/341m 341038144 341.0M
bert/80m 80267328 80.3M
bert/tiny 7143552 7.1M
gpt/145m 144567936 144.6M
gpt/1b 995532608 995.5M
gpt/360m 361844736 361.8M
gpt/hyena-153m 152483904 152.5M
gpt/tiny 1438944 1.4M
vit/b16 45632536 45.6M
vit/tiny 475914 475.9K
END
(cd "$M2_SOURCE/configs" && ls {bert,gpt,vit}/*.yaml) | sed 's/\.yaml//' | LC_ALL=C sort | diff - planned || { cat planned; fail "not every configuration was planned"; }

# 64 ranks of 360M parameters in an address space where not even the weights of one would fit
(ulimit -v 1000000 && exec "$M2" inspect plan "$configs/360m.yaml" --ranks 64 run.device=cpu --json) >plan.json || fail "64 ranks in 1 GB"
[ "$(field ranks <plan.json)" = 64 ] || fail "--ranks 64 gave $(field ranks <plan.json)"
[ "$(field total <plan.json)" -gt 6000000000 ] || fail "memory per rank"
# a ring or any other even exchange of n bytes: 2 (P-1)/P n from every rank, the loss's few bytes besides
sent=$(field bytes <plan.json) whole=$(field grads <plan.json)
awk -v s="$sent" -v w="$whole" 'BEGIN { x = s / (w * 2 * 63 / 64); exit !(x > 0.9999 && x < 1.0001) }' || fail "$sent bytes for $whole of gradients"

# every call, forward and backward, one line each
"$M2" inspect plan "$configs/tiny.yaml" run.device=cpu --calls >calls || fail "--calls"
grep -qE '^ +[0-9]+ +block\.3\.mixer\.conv +longconv ' calls || fail "forward of block.3.mixer.conv is not listed"
grep -qE 'block\.3\.mixer\.conv +longconv_grad ' calls || fail "backward of block.3.mixer.conv is not listed"
[ "$(awk 'length > 160' calls | wc -l)" = 0 ] || fail "--calls prints lines over 160 columns"

# the plan and the run agree
small_run
"$M2" inspect plan config.yaml --ranks 2 --local 2 >out || fail "plan of the small run"
ranks 2 "$M2" train config.yaml train.steps=2 run.dir=run >log 2>&1 || { cat log; fail "training"; }
planned=$(sed -nE 's/^memory +(.*) per rank$/\1/p' out)
grep -q "; $planned per rank" log || { cat out log; fail "training does not have the planned $planned per rank"; }

# memory, byte for byte: what the plan of 2 ranks says, and the high-water marks of the arenas after steps on 2 ranks
memory() { grep -oE '"(params|grads|optimizer|activations|workspace|io)": [0-9]+' "$1" | sort; }
for mesh in data=2,seq=1 data=1,seq=2; do
    "$M2" inspect plan config.yaml --ranks 2 --local 2 run.mesh=$mesh --json >plan.json || fail "plan of $mesh"
    ranks 2 "$M2" bench step config.yaml run.mesh=$mesh --steps 1 --json >step.json || fail "steps on $mesh"
    [ "$(memory plan.json | wc -l)" = 6 ] || fail "memory of six kinds"
    cmp -s <(memory plan.json) <(memory step.json) || { diff <(memory plan.json) <(memory step.json); fail "memory on $mesh"; }
done

# a machine that m2 bench measured, and a step predicted on it: its parts add up
"$M2" bench ops --device cpu --op norm --machine-out machine.yaml >/dev/null || fail "bench ops"
ranks 2 "$M2" bench comm run.device=cpu --most 65536 --machine-out machine.yaml >comm || fail "bench comm"
grep -q '^all_to_all among 2 on a node: latency .* us, bandwidth .* GB/s$' comm || { cat comm; fail "bench comm prints no all_to_all"; }
grep -q '^  norm_grad: ' machine.yaml || { cat machine.yaml; fail "no row for norm_grad"; }
"$M2" bench step config.yaml --steps 2 --machine-out machine.yaml >/dev/null || fail "bench step"
"$M2" inspect plan config.yaml --ranks 2 --machine machine.yaml run.mesh=seq=2 --json >plan.json || fail "plan for a machine"
awk -F'[:,]' '{ gsub(/[" ]/, "", $1); v[$1] = $2 + 0 }
    END { sum = v["compute_seconds"] + v["exchange_seconds"] + v["reduce_seconds"] + v["agreement_seconds"]
          exit !(v["exchange_seconds"] > 0 && sum > 0.9999 * v["step_seconds"] && sum < 1.0001 * v["step_seconds"]) }' plan.json ||
    { cat plan.json; fail "the parts of the predicted step"; }
"$M2" inspect plan config.yaml --ranks 2 --machine machine.yaml --mesh auto >out || fail "--mesh auto"
grep -qE '^chosen +data=[12],seq=[12].* ms per step, .* the next mesh, data=[12],seq=[12]' out || { cat out; fail "no reason for the mesh"; }
"$M2" inspect plan "$M2_SOURCE/configs/gpt/tiny.yaml" --ranks 16 --machine "$M2_SOURCE/configs/machines/h200.yaml" >out || fail "a committed machine"
grep -q 'bf16' out || { cat out; fail "not planned for a GPU"; }
ranks 2 "$M2" train config.yaml train.steps=1 run.dir=auto-run run.mesh=auto run.machine=machine.yaml >log 2>&1 || { cat log; fail "training with run.mesh=auto"; }
grep -qE "run.mesh=auto: data=[12],seq=[12].* ms per step" log || { cat log; fail "training does not say why it takes a mesh"; }
ranks 2 "$M2" train config.yaml train.steps=1 run.dir=no-run run.mesh=auto >log 2>&1 && fail "run.mesh=auto without run.machine"
grep -q 'set run.machine=FILE' log || { cat log; fail "message about run.machine"; }
"$M2" inspect plan config.yaml --mesh auto 2>err && fail "--mesh auto without a machine"
grep -q 'run.mesh=auto needs --machine FILE' err || { cat err; fail "message about --mesh auto"; }
"$M2" inspect plan config.yaml --machine config.yaml 2>err && fail "a configuration as machine"
grep -q "config.yaml:2: a machine has no 'model.width'" err || { cat err; fail "message about a machine"; }

# what cannot be is said in one sentence
"$M2" inspect plan "$configs/tiny.yaml" --ranks 3 2>err && fail "3 ranks for 16 sequences"
grep -q 'cannot be shared evenly by 3 ranks' err || { cat err; fail "message about 3 ranks"; }
"$M2" inspect plan "$configs/tiny.yaml" --rank 3 2>err && fail "--rank"
grep -q 'did you mean --ranks' err || fail "--rank does not suggest --ranks"
echo "plans agree"
