# common.bash - what the end-to-end scripts share: a folder of their own, a deterministic text, runs, comparisons.
set -u
work=$(mktemp -d "${TMPDIR:-/tmp}/m2-e2e-XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() {
    echo "FAILED: $*"
    exit 1
}

# ranks N COMMAND...: under mpirun, whose own messages are left out
ranks() {
    local n=$1
    shift
    "${MPIEXEC:-mpirun}" --bind-to none -np "$n" "$@"
}

# text SEED WORDS: sentences of made-up words, some much more frequent than others, the same on every machine
text() {
    awk -v seed="$1" -v words="$2" '
        function draw(n) { seed = (seed * 16807) % 2147483647; return seed % n }
        BEGIN {
            split("ka to mi ren sul va do pel ni ora", part, " ")
            for (i = 0; i < 60; i++) word[i] = part[1 + draw(10)] part[1 + draw(10)] (draw(3) ? "" : part[1 + draw(10)])
            for (i = 1; i <= words; i++) {
                a = draw(60); b = draw(60); c = draw(60)
                w = word[a < b ? (a < c ? a : c) : (b < c ? b : c)]
                printf "%s%s", w, i % 11 == 0 ? ".\n" : " "
            }
        }'
}

# WordPiece for text(): words that lack an entry become letters
vocabulary() {
    printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]' . {a..z} \#\#{a..z} $(text 1 2000 | tr -d . | tr ' ' '\n' | sort -u | head -40)
}

# family NAME: what small_run adds to the configuration
family() {
    case $1 in
    gpt) echo 'model.share: 4' ;;
    bert) printf '%s\n' 'model.family: bert' 'model.share: 1' 'model.mlp: blockdiag_glu' 'model.mlp_dropout: 0.1' \
        'model.filter.emb: 5' 'mlm.rows: packed' 'optim.groups: one' 'optim.decay: free' 'optim.weight_decay: 1e-5' ;;
    esac
}

# small_run [FAMILY]: a small model that trains in milliseconds: config.yaml, train.h5, val.h5
small_run() {
    local family=${1:-gpt} tokenizer=bytes part
    [ "$family" = gpt ] || { vocabulary >vocab.txt; tokenizer=vocab.txt; }
    text 1 40000 >train.txt
    text 2 4000 >val.txt
    for part in train val; do
        "$M2" prepare --force --tokenizer $tokenizer --out $part.h5 $part.txt >/dev/null || fail "m2 prepare"
    done
    cat >config.yaml <<-END
	model:
	  width: 32
	  layers: 2
	  length: 48
	train:
	  batch: 12
	  steps: 50
	  val_every: 25
	  val_batches: 2
	data:
	  train: train.h5
	  val: val.h5
	optim:
	  lr: 0.001
	checkpoint:
	  every: 20
	run:
	  device: cpu
	  threads: 1
	$(family "$family")
	END
}

# losses RUN: one "step loss val_loss" a line
losses() {
    sed -E 's/^\{"step": ([0-9]+),.*"loss": ([^,]+), "grad_norm".*("val_loss": ([^,]+), "val_top1").*/\1 \2 \4/;
            s/^\{"step": ([0-9]+),.*"loss": ([^,]+), "grad_norm".*/\1 \2 -/' "$1/metrics.jsonl"
}

# numbers RUN: the metrics without what depends on the clock or on when the process started
numbers() {
    sed -E 's/, "skips".*//' "$1/metrics.jsonl"
}

# content RUN: hash of everything in its newest checkpoint
content() {
    "$M2" inspect checkpoint "$1" --verify | sed -nE 's/.*content ([0-9a-f]{16}).*/\1/p'
}

# wait_for_step RUN N PID: until RUN has done N steps or PID is gone
wait_for_step() {
    while kill -0 "$3" 2>/dev/null && ! { [ -e "$1/metrics.jsonl" ] && [ "$(wc -l <"$1/metrics.jsonl")" -ge "$2" ]; }; do
        sleep 0.02
    done
}
