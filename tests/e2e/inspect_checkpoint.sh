#!/bin/bash
# m2 inspect checkpoint: any flipped bit of any file is named by --verify with its rank, and refused by a run that would go on
# from it; folders that have lost files show what is left and name what is not; statistics, differences and JSON are right.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run
ranks 3 "$M2" train config.yaml run.dir=run train.steps=20 checkpoint.every=10 >log 2>&1 || { cat log; fail "a run"; }
last=checkpoints/step-00000020
inspect() { # inspect CODE PATTERN ARGUMENTS...
    local code=$1 pattern=$2 got
    shift 2
    "$M2" inspect checkpoint "$@" >log 2>&1
    got=$?
    [ $got = "$code" ] || { head -50 log; fail "$*: exit code $got, expected $code"; }
    grep -qE -- "$pattern" log || { head -50 log; fail "$*: does not say '$pattern'"; }
}

# ---- whole
inspect 0 'is whole: 112 tensors in [0-9]+ slabs' run --verify
inspect 0 'loader  goes on at row 240: epoch 1, 4.3% through the 5555 sequences of train.h5' run
inspect 0 'adam    after 20 updates: gradients of 0\.[0-9]+ .*next learning rate' run
inspect 0 '^  embed.weight +264 x 32 +f32 +0 ' run
inspect 0 '^  norm.weight +32 +f32 +2 .*\|.*█.*\|$' run --histogram
inspect 0 '^second moments v .* 0-2 ' run
inspect 0 '^  embed.weight .*' run --all
[ "$(grep -c '^  embed.weight ' log)" = 3 ] || fail "--all does not show the moments"
inspect 0 '^model:' run --config

# ---- differences
inspect 0 '^112 tensors are equal bit for bit, 0 changed, 0 cannot be compared' diff run run/$last --all
inspect 0 '^param/embed.weight +0\.[0-9]+ +0\.[0-9]+ +[0-9]+ of 8448$' diff run/checkpoints/step-00000010 run
"$M2" train config.yaml run.dir=other train.steps=2 model.layers=1 optim.warmup=0 >log 2>&1 || { cat log; fail "another run"; }
inspect 0 'param/block.1.mixer.in.weight +only in A' diff run other
if command -v python3 >/dev/null; then
    for words in "run --histogram" "run --verify" "diff run other"; do
        "$M2" inspect checkpoint $words --json >out.json || fail "$words --json"
        python3 -m json.tool out.json >/dev/null || fail "$words --json is no JSON"
    done
    "$M2" inspect checkpoint run --json --histogram | python3 -c '
import json, sys
report = json.load(sys.stdin)
for t in report["tensors"]:
    n = 1
    for d in t["shape"]: n *= d
    assert sum(t["histogram"]) == n and t["min"] <= t["mean"] <= t["max"] and not t["not_finite"], t["name"]
assert report["step"] == 20 and report["rows"] == 240 and not report["damages"]' || fail "--json: wrong numbers"
fi

# ---- any flipped bit
flip() { # flip FILE BYTE BIT
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf "\\$(printf %o $((byte ^ (1 << $3))))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}
RANDOM=5
n=0
for file in run/$last/*; do
    size=$(wc -c <"$file")
    for _ in 1 2 3 4 5 6 7 8; do
        at=$(((RANDOM * 32768 + RANDOM) % size)) bit=$((RANDOM % 8)) name=${file##*/}
        flip "$file" $at $bit
        case $name in
        rank-*)
            rank=$((10#${name:5:5}))
            pattern="^damaged: ((param|m|v)/[a-z0-9_.]+ \(rank $rank\): .*$name: array|rank $rank: .*$name is damaged: its bytes between) "
            ;;
        *) pattern="^damaged: the description: .*manifest.h5 is damaged, or manifest.xxh" ;;
        esac
        inspect 65 "$pattern" run --verify
        "$M2" train config.yaml run.dir=run train.steps=30 checkpoint.every=10 >log 2>&1
        [ $? = 65 ] || { cat log; fail "byte $at of $file: a run goes on from it"; }
        grep -q '^m2: error: .*damaged' log || { cat log; fail "byte $at of $file: no reason"; }
        flip "$file" $at $bit
        n=$((n + 1))
    done
done
inspect 0 'is whole' run --verify
echo "$n flipped bits: each one named, each one refused"

# where h5dump says that a tensor lies, it is that tensor, of that rank, and no other
if command -v h5dump >/dev/null; then
    named=0
    for file in run/$last/rank-*; do
        name=${file##*/}
        h5dump -p -H "$file" | awk '$1 == "GROUP" { group = $2 } $1 == "DATASET" { set = $2 } $1 == "SIZE" { size = $2 }
            $1 == "OFFSET" { gsub(/"/, "", group); gsub(/"|@.*/, "", set); print group "/" set, int($2 + size / 2) }' >places
        [ "$(wc -l <places)" -ge 30 ] || fail "$file: $(wc -l <places) slabs"
        while read -r tensor at; do
            flip "$file" "$at" 3
            inspect 65 "^damaged: $tensor \(rank $((10#${name:5:5}))\): " run --verify </dev/null
            [ "$(grep -c '^damaged: ' log)" = 1 ] || { cat log; fail "one byte of $tensor damages more"; }
            flip "$file" "$at" 3
            named=$((named + 1))
        done < <(awk 'NR % 3 == 1' places)
    done
    inspect 0 'is whole' run --verify
    echo "a flipped byte in $named slabs: tensor and rank named"
fi

# ---- lost files
cp -r run cut
rm cut/$last/rank-00001.h5
inspect 65 '^damaged: rank 1: rank-00001.h5 is missing, with [0-9]+ slabs from param/' cut --verify
inspect 65 '^        skip +8  f32 +1 +8 elements lost' cut
rm cut/$last/manifest.h5
inspect 65 '^damaged: the description: .*manifest.h5 is missing' cut
inspect 65 '^damaged: param/block.0.mixer.skip: 8 of its 8 elements are in no file' cut
inspect 65 '^  embed.weight +264 x 32 +f32 +0 +-' cut
truncate -s 5000 cut/$last/rank-00000.h5
inspect 65 '^damaged: rank 0: its file cannot be read' cut/$last
rm cut/$last/rank-*
inspect 65 'manifest.h5' cut
echo "lost files: what is left is shown, what is not is named"
