#!/bin/bash
# glue_demo.sh DATA OUT - what pretraining is worth: bert/tiny learns from sentences for a few minutes, is then fine-tuned on
# SST-2 (all of its labels, and a quarter of them) and CoLA with several seeds, and is held against the same model from random
# initialisation, fine-tuned in the same way, and against the majority class.
# DATA: bert/vocab.txt, text/*.jsonl.zst (lines {"text": ...}) and glue/{SST-2,CoLA}/{train,dev}.tsv.
# OUT:  the sentences, the runs, logs, table.txt and table.json. Stopped and called again, it goes on where it was.
# Environment (defaults): M2 (build/bin/m2), DEVICE (cuda or cpu, as is there), STEPS (10000) of BATCH (256) rows of 64 tokens,
# SEEDS (5), JOBS (1; fine-tunings side by side), TEXTS (files of DATA/text to learn from);
# to try it out: SENTENCES (all; so many), TUNE_STEPS (none; so many).
set -eu -o pipefail
[ $# = 2 ] || { sed -n '2,10s/^# //p' "$0" >&2; exit 2; }
data=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
m2=$(realpath "${M2:-$(dirname "$0")/../build/bin/m2}")
cd "$(dirname "$0")/.."
. launch/env.sh
device=${DEVICE:-$(nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)}
texts=${TEXTS:-books.train.00.jsonl.zst books.train.01.jsonl.zst modern.train.jsonl.zst}
steps=${STEPS:-10000}
common="run.device=$device optim.clip=1"
say() { printf '\n== %s\n' "$*"; }
# run COMMAND...: told to stop, it passes that on, waits until the command has written its checkpoint, and ends with m2's code for it
run() {
    "$@" &
    trap "kill $! 2>/dev/null; wait $! || true; exit 75" TERM INT
    wait $!
}
need() { # need FILE...
    local f
    for f; do
        [ -e "$f" ] || { echo "glue_demo.sh: $f is missing: DATA is the folder that holds bert/, text/ and glue/" >&2; exit 2; }
    done
}
need "$data"/glue/{SST-2,CoLA}/{train,dev}.tsv

# Fine-tuning sees one sentence a row, so pretraining gets sentences as its documents. The text stays JSON: cut at empty lines and
# behind . ! ? of a word; headings, tables and fragments are left out: what is shorter than 25 or longer than 400 bytes, and what
# is more than a tenth neither letters nor commas.
sentences() { # sentences FILE.zst...
    zstd -dcq --long=27 "$@" | LC_ALL=C sed -E 's/^\{"text": "//; s/", "meta".*//; s/\\n[ \\n]*\\n/\n/g; s/\\n/ /g' |
        LC_ALL=C sed -E 's/([a-z0-9)][.!?](\\"|”|’|\))*) +/\1\n/g; s/_//g' |
        LC_ALL=C awk -v most="${SENTENCES:-0}" '
            { t = $0; n = length(t); if (n < 25 || n > 400) next; if (gsub(/[a-zA-Z ,]/, "", t) < 0.9 * n) next }
            !most || ++k <= most { print "{\"text\": \"" $0 "\"}" }'
}
store() { # store NAME FILE...
    local name=$1
    shift
    [ ! -e "$out/$name.h5" ] || return 0
    need "$data/bert/vocab.txt" "${@/#/$data/text/}"
    sentences "${@/#/$data/text/}" |
        $m2 prepare --format jsonl --on-error skip --tokenizer "$data/bert/vocab.txt" --out "$out/$name.h5" -
}

# Fine-tuning: NAME, configuration, learning rate, epochs, what it is called in the table
tunings="sst2 sst2 1e-3 1 SST-2, accuracy
quarter sst2 1e-3 0.25 SST-2, a quarter of its labels
cola cola 3e-4 8 CoLA, Matthews"

# tune NAME CONFIG LR EPOCHS random|pretrained SEED: its score into OUT/NAME/INIT-SEED.score
tune() {
    local run=$out/$1/$5-$6 extent=train.epochs=$4 scratch=true
    [ ! -e "$run.score" ] || return 0
    [ -z "${TUNE_STEPS:-}" ] || extent="train.epochs=0 train.steps=$TUNE_STEPS"
    [ "$5" = random ] || scratch=false
    run $m2 train configs/glue/$2.yaml $common train.init="$out/pretrained" task.scratch=$scratch task.data="$data/glue" \
        task.seeds=1 train.seed=$6 run.dir="$run" train.batch=64 $extent optim.lr=$3 train.log_every=500 >"$run.log" 2>&1 ||
        { local rc=$?; echo "glue_demo.sh: $1 from $5, seed $6, ended with $rc; see $run.log" >&2; return $rc; }
    grep -o '"val_score": [^,}]*' "$run/metrics.jsonl" | tail -1 | cut -d' ' -f2 >"$run.score"
    rm -r "$run/checkpoints"
    echo "$1 from $5, seed $6: $(cat "$run.score")"
}

majority() { # majority FILE HEADER-LINES COLUMN: the share of the most frequent class
    awk -F'\t' -v h=$2 -v c=$3 'NR > h { n[$c]++; k++ } END { for (i in n) if (n[i] > m) m = n[i]; printf "%.4f", m / k }' "$1"
}
# row TITLE START: of the scores on stdin; none yet, no row
row() {
    awk -v title="$1" -v start="$2" '
        { n++; s += $1; q += $1 * $1; if (n == 1 || $1 < lo) lo = $1; if (n == 1 || $1 > hi) hi = $1 }
        END { if (!n) exit
              v = n > 1 ? (q - s * s / n) / (n - 1) : 0
              sd = n > 1 ? sprintf("%8.4f", sqrt(v > 0 ? v : 0)) : "-" # one seed spreads by nothing that is known
              printf "%-30s %-11s %5d %8.4f %8s %8.4f %8.4f\n", title, start, n, s / n, sd, lo, hi }'
}
table() {
    local name config lr epochs title init score
    printf '%-30s %-11s %5s %8s %8s %8s %8s\n' task start seeds mean sd least best
    while read -r name config lr epochs title; do
        score=0 # of Matthews: what always says the same correlates with nothing
        [ $config != sst2 ] || score=$(majority "$data/glue/SST-2/dev.tsv" 1 2)
        printf '%-30s %-11s %5s %8.4f\n' "$title" majority - $score
        for init in random pretrained; do
            { cat "$out/$name/$init"-*.score 2>/dev/null || true; } | row "$title" $init
        done
    done <<<"$tunings"
}
# json: the table on stdin, a list of its rows
json() {
    awk 'NR == 1 { for (i = 2; i <= NF; i++) name[i] = $i; next }
        { title = substr($0, 1, 30); sub(/ +$/, "", title); n = split(substr($0, 31), cell, " ")
          printf "%s{\"task\": \"%s\", \"start\": \"%s\"", (NR > 2 ? ",\n " : "["), title, cell[1]
          for (i = 2; i <= n; i++) if (cell[i] != "-") printf ", \"%s\": %s", name[i + 1], cell[i]
          printf "}" }
        END { print "]" }'
}

say "1/4 sentences"
store train $texts
store val modern.val.jsonl.zst

say "2/4 pretraining"
run $m2 train configs/bert/tiny.yaml $common data.train="$out/train.h5" data.val="$out/val.h5" run.dir="$out/pretrained" \
    model.length=64 mlm.rows=packed train.batch="${BATCH:-256}" train.steps=$steps train.val_every=1000 train.val_batches=8 \
    train.log_every=200 checkpoint.every=2000
trap - TERM INT
# scores that came from other parameters no longer count
content=$($m2 inspect checkpoint "$out/pretrained" --verify | sed -nE 's/.*content ([0-9a-f]{16}).*/\1/p')
[ "$(cat "$out/pretrained.content" 2>/dev/null)" = "$content" ] || rm -rf "$out"/{sst2,quarter,cola}/pretrained-*
echo "$content" >"$out/pretrained.content"

say "3/4 fine-tuning"
finish() { # whatever happened: what is known so far
    local left=$(jobs -p)
    [ -z "$left" ] || kill $left 2>/dev/null || true
    wait
    say "4/4 what it was worth"
    table | tee "$out/table.txt"
    json <"$out/table.txt" >"$out/table.json"
}
trap finish EXIT
trap 'exit 75' TERM INT
running=0
while read -r name config lr epochs title; do
    mkdir -p "$out/$name"
    for ((seed = 19; seed < 19 + ${SEEDS:-5}; seed++)); do # both starts of a seed together: stopped early, they are still pairs
        for init in pretrained random; do
            [ $running -lt "${JOBS:-1}" ] || { wait -n; running=$((running - 1)); }
            tune $name $config $lr $epochs $init $seed </dev/null &
            running=$((running + 1))
        done
    done
done <<<"$tunings"
while [ $running -gt 0 ]; do
    wait -n
    running=$((running - 1))
done
