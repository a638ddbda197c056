#!/bin/bash
# Fine-tuning on tasks of GLUE, with made-up sentences: what can be learned is learned, the same on 1, 2 and 3 ranks and again
# after a stop; seeds, a start from another task, scores of m2 eval, longer positions, and what is refused.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run bert
"$M2" train config.yaml run.dir=body >log 2>&1 || { cat log; fail "pretraining"; }

# rows FROM N: sentences of six words; 1 where one of them is one of the two most frequent
often=$(tr -d . <train.txt | tr ' ' '\n' | sort | uniq -c | sort -rn | awk 'NF == 2 && n++ < 2 { printf "%s ", $2 }')
rows() {
    text 1 40000 | tr '\n' ' ' | tr -d . | cut -d' ' -f$(($1 * 6 + 1))-$((($1 + $2) * 6)) | awk -v often="$often" '
        BEGIN { n = split(often, w, " "); RS = " "; print "sentence\tlabel" }
        { s = s (k ? " " : "") $1; for (i = 1; i <= n; i++) if ($1 == w[i]) y = 1
          if (++k == 6) { print s "\t" y + 0; s = ""; k = y = 0 } }'
}
mkdir -p glue/SST-2 glue/STS-B
rows 0 600 >glue/SST-2/train.tsv
rows 600 200 >glue/SST-2/dev.tsv
for part in train dev; do # similarity of a sentence and its beginning: how much of it there is
    awk -F'\t' 'BEGIN { print "sentence1\tsentence2\tscore" }
        NR > 1 { split($1, w, " "); s = w[1]; n = NR % 6; for (i = 2; i <= n; i++) s = s " " w[i]; print $1 "\t" s "\t" n }' \
        glue/SST-2/$part.tsv >glue/STS-B/$part.tsv
done
common="train.init=body task.data=glue run.device=cpu run.threads=1 task.seeds=1 train.batch=24 optim.lr=0.003"

score() { # score NAME RUN
    "$M2" eval "$2" --json 2>/dev/null | sed -E "s/.*\"$1\": ([-0-9.e]+).*/\1/"
}
for n in 1 2 3; do
    ranks $n "$M2" train "$M2_SOURCE/configs/glue/sst2.yaml" $common train.epochs=8 train.precision=f64 train.val_every=50 \
        checkpoint.every=60 checkpoint.keep=2 run.dir=sst2-$n >log 2>&1 || { cat log; fail "sst2 on $n ranks"; }
    # 30 steps: at this learning rate rounding is tenfold every few steps
    paste -d' ' <(losses sst2-1) <(losses sst2-$n) | head -30 | awk '
        function off(x, y) { d = x - y; return d * d > 1e-20 * x * x }
        off($2, $5) { print; bad = 1 }
        END { exit bad || NR != 30 }' || fail "1 and $n ranks differ"
done
majority=$(awk -F'\t' 'NR > 1 { n[$2]++ } END { m = n[0] > n[1] ? n[0] : n[1]; print m / (NR - 1) }' glue/SST-2/dev.tsv)
found=$(score accuracy sst2-1)
awk -v a="$found" -v m="$majority" 'BEGIN { exit !(a > m + 0.1) }' || fail "accuracy $found, the majority has $majority"
[ "$found" = "$(grep -o '"val_score": [^,]*' sst2-1/metrics.jsonl | tail -1 | cut -d' ' -f2)" ] || fail "m2 eval says $found"
echo "sst2: accuracy $found, majority $majority"

before=$(content sst2-2)
rm -r sst2-2/checkpoints/step-00000200
ranks 2 "$M2" train "$M2_SOURCE/configs/glue/sst2.yaml" $common train.epochs=8 train.precision=f64 train.val_every=50 \
    checkpoint.every=60 checkpoint.keep=2 run.dir=sst2-2 >log 2>&1 || { cat log; fail "sst2 going on"; }
grep -q 'resuming after step' log || fail "sst2 did not resume"
[ "$(content sst2-2)" = "$before" ] || fail "sst2 after a stop: another checkpoint"

# a number instead of classes, two seeds, from the body of another task
"$M2" train "$M2_SOURCE/configs/glue/stsb.yaml" $common train.init=sst2-1 task.seeds=2 train.epochs=16 optim.lr=0.001 run.dir=stsb >log 2>&1 ||
    { cat log; fail "stsb"; }
grep -q 'stsb, 2 seeds: mean' log || { cat log; fail "no summary of seeds"; }
similar=$(score spearman stsb/seed-20)
awk -v s="$similar" 'BEGIN { exit !(s > 0.1) }' || { cat log; fail "stsb: spearman $similar"; }
echo "stsb: spearman $similar"
"$M2" train "$M2_SOURCE/configs/glue/sst2.yaml" $common task.scratch=true train.epochs=0.1 run.dir=scratch >log 2>&1 || fail scratch
grep -q 'tensors from' log && fail "task.scratch took parameters"

# a longer model from a shorter one
"$M2" train config.yaml model.length=96 train.init=body train.steps=2 run.dir=longer >log 2>&1 || { cat log; fail "longer"; }
"$M2" train config.yaml model.width=16 train.init=body run.dir=narrow 2>err && fail "another width"
grep -q 'train.init=body.*another model' err || { cat err; fail "message about another width"; }

sed '7s/\t.*//' glue/SST-2/train.tsv >bad.tsv
"$M2" train "$M2_SOURCE/configs/glue/sst2.yaml" $common data.train=bad.tsv run.dir=none 2>err
[ $? = 65 ] && grep -q 'bad.tsv:7: 1 cell between tabs, expected 2' err || { cat err; fail "a bad row"; }
"$M2" train "$M2_SOURCE/configs/glue/sst2.yaml" $common train.init= run.dir=none 2>err
[ $? = 64 ] && grep -q 'train.init is not set' err || { cat err; fail "no train.init"; }
[ ! -e none ] || fail "a refused run left a folder"
