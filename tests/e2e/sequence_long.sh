#!/bin/bash
# A sequence of 1,048,576 tokens: one step of a small model on 4 ranks, each in an address space that the planned memory and a
# fixed allowance for the process itself fit into, and one rank alone does not. What the ranks used is what was planned, to the
# byte.
. "$M2_SOURCE/tests/e2e/common.bash"

allowance=$((900 << 10)) # KiB: the program, its libraries, MPI's shared memory, reading data

planned() { # planned RANKS MESH [OPTION]: KiB per rank
    "$M2" inspect plan config.yaml --ranks "$1" run.mesh="$2" ${3:+"$3"} 2>/dev/null |
        awk '/^memory/ { on = 1; next } /^[a-z]/ { on = 0 } on { sum += $(NF - 1) } END { printf "%d\n", sum / 1024 }'
}

text 1 220000 >train.txt
"$M2" prepare --tokenizer bytes --out train.h5 train.txt >/dev/null || fail "m2 prepare"
cat >config.yaml <<END
model: {width: 8, layers: 2, length: 1048576, share: 4, dropout: 0}
model.filter: {width: 4, emb: 3, layers: 1}
train: {batch: 1, steps: 1}
data: {train: train.h5}
run: {device: cpu, threads: 1}
checkpoint.every: 0
END
alone=$(planned 1 1x1) each=$(planned 4 1x4 run.exchange=channel) monarch=$(planned 4 1x4 run.exchange=monarch)
[ "$monarch" -lt "$each" ] || each=$monarch
limit=$((each + allowance))
echo "planned: $((alone >> 10)) MiB on one rank, $((each >> 10)) MiB on each of 4; limit $((limit >> 10)) MiB"
[ "$alone" -gt "$limit" ] || fail "one rank fits the limit too"
cat >limited.sh <<END
ulimit -v $limit
exec "$M2" train config.yaml "\$@"
END
for exchange in channel monarch; do
    ranks 4 bash limited.sh run.dir=$exchange run.mesh=1x4 run.exchange=$exchange >log 2>&1 ||
        { cat log; fail "four ranks in $((limit >> 10)) MiB each, $exchange exchange"; }
    [ "$(losses $exchange | awk '{ print $1, ($2 > 5 && $2 < 6) }')" = "1 1" ] || { losses $exchange; fail "no step, or a strange loss"; }
done
[ "$(losses channel | awk '{ printf "%.5f", $2 }')" = "$(losses monarch | awk '{ printf "%.5f", $2 }')" ] ||
    { losses channel monarch; fail "the exchanges differ"; }
bash limited.sh run.dir=one run.mesh= train.micro=1 >log 2>&1 && fail "one rank alone went on beyond the limit"
grep -qiE 'out of memory|cannot (allocate|reserve)|needs .* and .* has' log || { cat log; fail "the failure of one rank is not about memory"; }
grep -iE 'memory|allocate' log | head -1

# the same step counted by the arenas of each rank: their high-water marks are the plan, kind by kind
memory() { grep -oE '"(params|grads|optimizer|activations|workspace|io)": [0-9]+' "$1" | sort; }
"$M2" inspect plan config.yaml --ranks 4 --local 4 run.mesh=1x4 run.exchange=channel --json >plan.json 2>err || { cat err; fail "plan"; }
ranks 4 "$M2" bench step config.yaml run.mesh=1x4 run.exchange=channel --steps 1 --json >step.json 2>err || { cat err; fail "m2 bench step"; }
[ "$(memory plan.json | wc -l)" = 6 ] || fail "memory of six kinds"
cmp -s <(memory plan.json) <(memory step.json) || { diff <(memory plan.json) <(memory step.json); fail "memory used is not what was planned"; }
echo "memory used is what was planned: $(memory plan.json | tr '\n' ' ')"
