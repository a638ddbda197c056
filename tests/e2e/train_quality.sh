#!/bin/bash
# Training learns: a tiny M2-GPT learns 16 sequences by heart (loss < 0.1), and 300 steps on Shakespeare beat the entropy of
# single characters, computed here, by more than a nat on text it has not seen.
. "$M2_SOURCE/tests/e2e/common.bash"
last() { # last RUN FIELD
    sed -nE "s/.*\"$2\": ([^,}]+).*/\1/p" "$1/metrics.jsonl" | tail -1
}
below() {
    awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'
}

text 3 400 | head -c $((16 * 64 + 1)) >small.txt
[ "$(wc -c <small.txt)" = $((16 * 64 + 1)) ] || fail "the text is too short"
"$M2" prepare --tokenizer bytes --out small.h5 small.txt >/dev/null || fail "m2 prepare"
cat >heart.yaml <<END
model.width: 64
model.layers: 2
model.length: 64
model.dropout: 0
train.batch: 16
train.steps: 300
optim.lr: 0.003
optim.weight_decay: 0
run.device: cpu
END
"$M2" train heart.yaml data.train=small.h5 run.dir=heart >log 2>&1 || { cat log; fail "learning by heart"; }
loss=$(last heart loss)
below "$loss" 0.1 || { cat log; fail "16 sequences by heart: loss $loss, expected below 0.1"; }
echo "16 sequences by heart: loss $loss"

data=${M2_SHARED_DATA:-$M2_SOURCE/../shared/data}/text/tinyshakespeare.txt
[ -r "$data" ] || { echo "no $data: the second half is skipped"; exit 77; }
head -c 1000000 "$data" >train.txt
tail -c 100000 "$data" >val.txt
for part in train val; do
    "$M2" prepare --tokenizer bytes --out $part.h5 $part.txt >/dev/null || fail "m2 prepare"
done
entropy=$(od -An -v -tu1 -w1 val.txt | awk '{ n[$1]++ } END { for (b in n) h -= n[b] / NR * log(n[b] / NR); print h }')
cat >gpt.yaml <<END
model.width: 128
model.layers: 3
model.length: 128
train.batch: 16
train.steps: 300
train.val_every: 0
train.val_batches: 40
optim.lr: 0.003
run.device: cpu
END
ranks 2 "$M2" train gpt.yaml data.train=train.h5 data.val=val.h5 run.dir=gpt >log 2>&1 || { cat log; fail "Shakespeare"; }
loss=$(last gpt val_loss)
below "$loss" "$(awk -v h="$entropy" 'BEGIN { print h - 1 }')" ||
    { cat log; fail "validation loss $loss, expected more than 1 below the entropy $entropy of single characters"; }
echo "Shakespeare: validation loss $loss nats per character, entropy of single characters $entropy"
