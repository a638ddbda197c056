#!/bin/bash
# M2-ViT on CIFAR-10: the same on 1 and 3 ranks and after a stop, better than chance after 300 steps, found again by m2 eval.
. "$M2_SOURCE/tests/e2e/common.bash"
data=${M2_SHARED_DATA:-$M2_SOURCE/../shared/data}/images/cifar10_jpeg.tar.xz
[ -r "$data" ] || { echo "no $data: skipped"; exit 77; }
"$M2" prepare --images --under test --out pictures.h5 "$data" >/dev/null 2>&1 || fail "m2 prepare --images"
cat >config.yaml <<END
base: $M2_SOURCE/configs/vit/tiny.yaml
model: {width: 32, layers: 2, filter: {width: 16}}
data: {train: pictures.h5, val: pictures.h5, crop: 0.5}
train: {batch: 24, steps: 60, val_every: 30, val_batches: 4}
checkpoint: {every: 20, keep: 10}
run: {device: cpu, threads: 1}
END
for n in 1 3; do
    ranks $n "$M2" train config.yaml train.precision=f64 run.dir=n$n >log 2>&1 || { cat log; fail "$n ranks"; }
done
paste -d' ' <(losses n1) <(losses n3) | awk '
    function off(x, y) { d = x - y; return d * d > 1e-20 * x * x }
    $1 != $4 || off($2, $5) || ($3 != "-" && off($3, $6)) { print; bad = 1 }
    END { exit bad || NR != 60 }' || fail "1 and 3 ranks differ"
# mixed pictures and smoothed labels: the loss is that of distributions
for n in 1 2; do
    ranks $n "$M2" train config.yaml train.precision=f64 data.mixup=0.8 data.cutmix=1 data.smoothing=0.1 run.dir=m$n >log 2>&1 ||
        { cat log; fail "mixed, $n ranks"; }
done
paste -d' ' <(losses m1) <(losses m2) | awk '{ d = $2 - $5; if (d * d > 1e-20 * $2 * $2) { print; bad = 1 } } END { exit bad || NR != 60 }' ||
    fail "mixed pictures: 1 and 2 ranks differ"
cmp -s <(losses m1) <(losses n1) && fail "mixing changes nothing"

before=$(content n3)
rm -r n3/checkpoints/step-000000{40,60}
ranks 3 "$M2" train config.yaml train.precision=f64 run.dir=n3 >log 2>&1 || { cat log; fail "going on"; }
grep -q 'resuming after step 20' log || { cat log; fail "did not resume"; }
[ "$(content n3)" = "$before" ] || fail "other bits after a stop"

"$M2" train config.yaml train.steps=300 train.val_every=0 train.val_batches=1000 run.dir=long >log 2>&1 || { cat log; fail "300 steps"; }
top1=$("$M2" eval long --json 2>/dev/null | sed -E 's/.*"top1": ([0-9.]+).*/\1/')
awk -v a="$top1" 'BEGIN { exit !(a > 0.2) }' || fail "top-1 $top1, chance is 0.1"
[ "$top1" = "$(grep -o '"val_score": [^,]*' long/metrics.jsonl | tail -1 | cut -d' ' -f2)" ] || fail "m2 eval says $top1"

"$M2" train config.yaml model.classes=5 run.dir=none 2>err
[ $? = 65 ] && grep -q 'has 10 classes, more than model.classes=5' err || { cat err; fail "too few classes"; }
"$M2" train config.yaml model.patch=5 run.dir=none 2>err
[ $? = 64 ] && grep -q 'model.patch=5 does not divide' err || { cat err; fail "a patch that does not divide"; }
"$M2" train config.yaml model.patch=8 run.dir=none 2>err
[ $? = 64 ] && grep -q 'need 16' err || { cat err; fail "another number of patches"; }
[ ! -e none ] || fail "a refused run left a folder"
echo "top-1 $top1 after 300 steps"
