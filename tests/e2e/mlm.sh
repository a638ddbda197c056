#!/bin/bash
# m2 eval of a masked language model: loss and accuracy against what can be counted by hand. A head that says the same whatever it
# reads is right as often as its word is hidden; a model of one sentence is always right on it, and wrong exactly where another
# text has another word. The same on any number of ranks and in any batch, and again.
. "$M2_SOURCE/tests/e2e/common.bash"
python=${M2_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "no $python"; exit 77; }
printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]' red green blue gold grey pink teal navy >vocab.txt
prepare() { # prepare NAME: documents of NAME.jsonl
    "$M2" prepare --force --tokenizer vocab.txt --out $1.h5 $1.jsonl >log 2>&1 || { cat log; fail "m2 prepare"; }
}
number() { # number NAME CHECKPOINT OPTION...: of m2 eval --json
    local name=$1
    shift
    ${on:-} "$M2" eval "$@" --json run.device=cpu run.threads=1 2>err | sed -E "s/.*\"$name\": ([-0-9.e+]+).*/\1/" || { cat err; fail "eval $*"; }
}
close() { # close X Y TOLERANCE WHAT
    awk -v x="$1" -v y="$2" -v t="$3" 'BEGIN { d = x - y; exit !(d * d <= t * t && x != "" && y != "") }' || { cat err; fail "$4: $1, expected $2"; }
}

# ---- one sentence
awk 'BEGIN { for (i = 0; i < 60; i++) print "{\"text\": \"red green blue gold grey pink teal navy\"}" }' >train.jsonl
awk 'BEGIN { for (i = 0; i < 60; i++) # the seventh of eight words is another in every document
    print "{\"text\": \"red green blue gold grey pink " (i % 2 ? "red" : "gold") " navy\"}" }' >other.jsonl
prepare train
prepare other
family bert >bert.yaml
"$M2" train bert.yaml data.train=train.h5 data.val=train.h5 model.share=1 model.dropout=0 model.mlp_dropout=0 \
    model.act=gelu_erf model.width=32 model.layers=2 model.length=10 mlm.rows=document mlm.rate=0.5 train.batch=32 train.steps=150 \
    train.val_every=0 optim.lr=0.01 optim.warmup=0.1 run.dir=sentence run.device=cpu run.threads=1 >log 2>&1 || { cat log; fail "training"; }
close "$(number top1 sentence mlm.val_rate=1)" 1 0 "accuracy on the sentence"
close "$(number loss sentence mlm.val_rate=1)" 0 0.05 "loss on the sentence"
close "$(number tokens sentence mlm.val_rate=1)" 480 0 "hidden tokens of 60 documents of 8 words"
close "$(number top1 sentence mlm.val_rate=1 data.val=other.h5)" 0.875 1e-9 "accuracy where one word of eight is another"

# ---- a head that says the same everywhere, on documents of other lengths
awk 'BEGIN { split("red green blue gold grey pink teal navy", w, " ")
    for (i = 0; i < 211; i++) { s = ""; for (k = 0; k <= i % 8; k++) s = s (k ? " " : "") w[1 + (i * i + 3 * k) % 8]; print "{\"text\": \"" s "\"}" } }' >mixed.jsonl
prepare mixed
"$M2" convert sentence state.safetensors >log 2>&1 || { cat log; fail "m2 convert"; }
"$python" "$M2_SOURCE/tests/e2e/bert.py" bias state.safetensors fixed.safetensors vocab.txt blue=2 grey=1 || fail "a head of biases"
"$M2" convert fixed.safetensors fixed --config sentence/config.yaml --tokenizer vocab.txt >log 2>&1 || { cat log; fail "m2 convert back"; }
vocab=$("$M2" inspect checkpoint fixed --config | awk '$1 == "vocab:" { print $2 }') # words, and what they are padded to
expected=$(grep -oE 'red|green|blue|gold|grey|pink|teal|navy' mixed.jsonl | awk -v vocab="$vocab" '
    { n++; blue += $1 == "blue"; grey += $1 == "grey" }
    END { printf "%d %.12g %.12g", n, blue / n, log(vocab - 2 + exp(2) + exp(1)) - (2 * blue + grey) / n }')
read -r tokens top1 loss <<<"$expected"
for way in "" "ranks 2" "ranks 3"; do
    for micro in 1 7; do
        on=$way
        options="data.val=mixed.h5 mlm.val_rate=1 train.micro=$micro"
        close "$(number tokens fixed $options)" "$tokens" 0 "tokens, '$way' $micro"
        close "$(number top1 fixed $options)" "$top1" 1e-9 "accuracy, '$way' $micro"
        close "$(number loss fixed $options)" "$loss" 1e-5 "loss, '$way' $micro"
    done
done
on=
"$M2" eval fixed data.val=mixed.h5 mlm.val_rate=1 run.device=cpu >log 2>&1 || { cat log; fail "the table"; }
grep -qE "top-1 +$(awk -v x=$top1 'BEGIN { printf "%.2f", 100 * x }') +% of hidden tokens" log || { cat log; fail "accuracy in the table"; }
a=$(number top1 fixed data.val=mixed.h5) b=$(number top1 fixed data.val=mixed.h5) n=$(number tokens fixed data.val=mixed.h5)
[ "$a" = "$b" ] || fail "other tokens are hidden the second time"
close "$n" "$(awk -v n=$tokens 'BEGIN { print 0.15 * n }')" "$(awk -v n=$tokens 'BEGIN { print 5 * sqrt(n * 0.15 * 0.85) }')" "tokens hidden at 0.15"
echo "accuracy $top1 and loss $loss of $tokens hidden tokens: as counted"
