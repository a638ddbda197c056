#!/bin/bash
# glue_demo.sh DATA OUT - what pretraining is worth: bert/tiny learns from text for a few minutes, is then fine-tuned on SST-2 and
# CoLA with several seeds, and is held against the same model from random initialisation and against the majority class.
# DATA: bert/vocab.txt, text/*.jsonl.zst (lines {"text": ...}) and glue/{SST-2,CoLA}/{train,dev}.tsv.
# OUT:  the sentences, the runs and table.txt. Run again, it goes on where it was; delete a folder in it to repeat that part.
# Environment (defaults): M2 (build/bin/m2), DEVICE (cuda or cpu, as is there), STEPS (2441) of 256 rows of 64 tokens, SEEDS (5),
# TEXTS (files of DATA/text to learn from), SENTENCES (all; to try it out: so many), TUNE_STEPS (none; to try it out: so many).
set -eu -o pipefail
cd "$(dirname "$0")/.."
[ $# = 2 ] || { sed -n '2,7s/^# //p' "$0" >&2; exit 2; }
. launch/env.sh
data=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
m2=${M2:-build/bin/m2}
device=${DEVICE:-$(nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)}
texts=${TEXTS:-books.train.00.jsonl.zst books.train.01.jsonl.zst modern.train.jsonl.zst}
seeds=${SEEDS:-5}
common="run.device=$device optim.clip=1"
say() { printf '\n== %s\n' "$*"; }
for f in bert/vocab.txt glue/SST-2/train.tsv glue/CoLA/train.tsv text/modern.val.jsonl.zst; do
    [ -e "$data/$f" ] || { echo "glue_demo.sh: $data/$f is missing: DATA is the folder that holds bert/, text/ and glue/" >&2; exit 2; }
done

# Fine-tuning sees one sentence a row, so pretraining gets sentences as its documents. The text stays JSON: cut at escaped
# newlines and behind . ! ? before a capital letter; what is shorter than three words or has no letters is left out.
sentences() { # sentences FILE.zst...
    zstd -dcq --long=27 "$@" | perl -ne '
        s/\\\\/\x01/g;
        s/\\"/\x02/g;
        next unless /"text":\s*"([^"]*)"/;
        for (split /(?:\\n)+|(?<=[.!?])\s+(?=[A-Z\x02])|(?<=[.!?]\x02)\s+(?=[A-Z\x02])/, $1) {
            s/^\s+|\s+$//g;
            next unless /[a-z]/ && tr/ // >= 2;
            s/\x01/\\\\/g;
            s/\x02/\\"/g;
            print "{\"text\": \"$_\"}\n";
        }' | awk -v most="${SENTENCES:-0}" '!most || NR <= most'
}

say "1/4 sentences"
store() { # store NAME FILE.zst...
    [ ! -e "$out/$1.h5" ] || return 0
    sentences "${@:2}" | $m2 prepare --format jsonl --on-error skip --tokenizer "$data/bert/vocab.txt" --out "$out/$1.h5" -
}
(cd "$data/text" && ls $texts >/dev/null)
store train $(printf "$data/text/%s " $texts)
store val "$data/text/modern.val.jsonl.zst"

say "2/4 pretraining"
$m2 train configs/bert/tiny.yaml $common data.train="$out/train.h5" data.val="$out/val.h5" run.dir="$out/pretrained" model.length=64 \
    mlm.rows="${ROWS:-packed}" train.batch="${BATCH:-256}" train.steps="${STEPS:-2441}" train.val_every=500 train.val_batches=8 train.log_every=100 \
    checkpoint.every=1000

# tune TASK random|pretrained OPTION...: the score of every seed into OUT/TASK.INIT.scores
tune() {
    local task=$1 init=$2 run=$out/$1.$2 scratch=false s
    shift 2
    [ ! -e "$run.scores" ] || return 0
    [ $init = pretrained ] || scratch=true
    [ -z "${TUNE_STEPS:-}" ] || set -- "$@" train.epochs=0 train.steps=$TUNE_STEPS
    say "$task from $init"
    $m2 train configs/glue/$task.yaml $common train.init="$out/pretrained" task.scratch=$scratch task.data="$data/glue" run.dir="$run" \
        task.seeds=$seeds "$@"
    for s in $(find "$run" -name metrics.jsonl | sort); do # one seed has no folder of its own
        grep -o '"val_score": [^,}]*' "$s" | tail -1 | cut -d' ' -f2
    done >"$run.scores.part"
    mv "$run.scores.part" "$run.scores"
}

say "3/4 fine-tuning"
for init in pretrained random; do
    tune sst2 $init train.batch=64 train.epochs=2 optim.lr=1e-3 train.log_every=500
    tune cola $init train.batch=32 train.epochs=8 optim.lr=3e-4 train.log_every=500
done

say "4/4 what it was worth"
majority() { # majority FILE HEADER-LINES COLUMN: the share of the most frequent class
    awk -F'\t' -v h=$2 -v c=$3 'NR > h { n[$c]++; k++ } END { for (i in n) if (n[i] > m) m = n[i]; printf "%.4f", m / k }' "$1"
}
{
    printf '%-22s %-12s %5s %8s %8s %8s %8s\n' task init seeds mean sd least best
    printf '%-22s %-12s %5s %8s\n' "SST-2 accuracy" majority - $(majority "$data/glue/SST-2/dev.tsv" 1 2) "CoLA Matthews" majority - 0
    for task in "sst2:SST-2 accuracy" "cola:CoLA Matthews"; do
        for init in random pretrained; do
            awk -v task="${task#*:}" -v init=$init '{ n++; s += $1; q += $1 * $1; if (n == 1 || $1 < lo) lo = $1; if (n == 1 || $1 > hi) hi = $1 }
                END { v = n > 1 ? (q - s * s / n) / (n - 1) : 0; printf "%-22s %-12s %5d %8.4f %8.4f %8.4f %8.4f\n", task, init, n, s / n, sqrt(v > 0 ? v : 0), lo, hi }' \
                "$out/${task%%:*}.$init.scores"
        done
    done
} | tee "$out/table.txt"
