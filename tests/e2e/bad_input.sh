#!/bin/bash
# What a user can get wrong: each mistake gives one sentence, its exit code (m2 help exit-codes), and changes no file.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run
"$M2" train config.yaml run.dir=good train.steps=20 checkpoint.every=10 >log 2>&1 || { cat log; fail "a good run"; }

files() {
    find . -type f ! -name log ! -name lock ! -path '*/fence/*' ! -path '*/flight/*' | sort | xargs cksum
}
# refuse CODE PATTERN COMMAND...
refuse() {
    local code=$1 pattern=$2 got
    shift 2
    local before after
    before=$(files)
    "$@" >log 2>&1
    got=$?
    after=$(files)
    [ $got = "$code" ] || { cat log; fail "$*: exit code $got, expected $code"; }
    [ "$(grep -c '^m2: error: ' log)" = 1 ] || { cat log; fail "$*: expected one line of error"; }
    grep '^m2: error: ' log | grep -qE -- "$pattern" || { cat log; fail "$*: the message does not say '$pattern'"; }
    [ "$before" = "$after" ] || { diff <(echo "$before") <(echo "$after"); fail "$*: files changed"; }
    echo "ok: $code $(grep '^m2: error: ' log | cut -c 12-)"
}
train() { # train ARGUMENTS...: of a run that must not come into being
    "$M2" train config.yaml run.dir=none "$@"
}

# ---- command line and configuration: 64
refuse 64 'which configuration' "$M2" train
refuse 64 'nope.yaml' "$M2" train nope.yaml
refuse 64 "did you mean 'train'" "$M2" trian config.yaml
refuse 64 'train.steps' train train.stpes=3
refuse 64 'train.steps' train train.steps=many
refuse 64 'train.steps' train train.steps=-1
refuse 64 'optim.schedule' train optim.schedule=cosin
refuse 64 'data.train is not set' train data.train=
refuse 64 'model.share' train model.share=5
refuse 64 'use 10 or 15' ranks 5 "$M2" train config.yaml run.dir=none
refuse 64 'use 4, or fewer ranks' ranks 4 "$M2" train config.yaml run.dir=none train.batch=3
refuse 64 'train.micro = 5 .*use 4 or 6' train train.micro=5
refuse 64 'optim.warmup' train optim.warmup=100
refuse 64 'run.device' train run.device=abacus
refuse 64 'run.strict is set and there is no usable GPU' env CUDA_VISIBLE_DEVICES= "$M2" train config.yaml run.dir=none \
    run.strict=on run.device=auto
refuse 64 'nccl needs a GPU on every rank' ranks 2 "$M2" train config.yaml run.dir=none run.transport=nccl
refuse 64 'train.precision=bf16 needs a GPU' train train.precision=bf16

# ---- data: 65
refuse 65 'data.train=nope.h5: there is no such file' train data.train=nope.h5
refuse 65 'data.val=nope.h5: there is no such file' train data.val=nope.h5
head -c 2000 train.h5 >short.h5
head -c $(($(wc -c <train.h5) / 2)) train.h5 >half.h5
refuse 65 'short.h5' train data.train=short.h5
refuse 65 'half.h5' train data.train=half.h5
refuse 65 'train.txt' train data.train=train.txt
refuse 65 'too few for one sequence of model.length=1000000' train model.length=1000000
"$M2" prepare --train-tokenizer 260 --out other.h5 train.txt >/dev/null || fail "m2 prepare --train-tokenizer"
"$M2" prepare --train-tokenizer 300 --out larger.h5 train.txt >/dev/null || fail "m2 prepare --train-tokenizer"
refuse 65 'other.h5 was written with another tokenizer' train data.val=other.h5
refuse 65 'other.h5 was written with another tokenizer .bpe.* than data.tokenizer .bytes' \
    train data.train=other.h5 data.val= data.tokenizer=bytes
refuse 65 'no token .CLS.*needs a WordPiece vocabulary' train model.family=bert model.share=1
refuse 65 'vocabulary of 300.* model.vocab=264' train data.train=larger.h5 data.val= model.vocab=264

# ---- a run that is there: nothing of it may change
refuse 64 'model.width' "$M2" train config.yaml run.dir=good model.width=64
refuse 64 'train.batch' "$M2" train config.yaml run.dir=good train.batch=24 train.steps=40
refuse 65 'another tokenizer' "$M2" train config.yaml run.dir=good data.train=other.h5 data.val=

# ---- checkpoints: 65
refuse 65 'nope: there is no such run' "$M2" eval nope
refuse 65 'nope: there is no such run' "$M2" sample nope --prompt x
refuse 65 'nope: there is no such run' "$M2" inspect checkpoint nope
mkdir -p empty
refuse 65 'holds no checkpoint' "$M2" eval empty
refuse 65 'of another model: .*param/.* in the file and .* in this model' "$M2" eval good model.width=64
refuse 65 'of another model' "$M2" eval good model.layers=3
refuse 65 'other.h5 was written with another tokenizer' "$M2" eval good data.val=other.h5
refuse 64 'top-p' "$M2" sample good --top-p 2
refuse 64 '--temprature' "$M2" sample good --temprature 1

cp -r good torn # a byte flipped in the largest tensor
at=$(($(wc -c <torn/checkpoints/step-00000020/rank-00000.h5) / 2))
byte=$(od -An -tu1 -j $at -N 1 torn/checkpoints/step-00000020/rank-00000.h5)
printf "\\$(printf %o $((byte ^ 1)))" | dd of=torn/checkpoints/step-00000020/rank-00000.h5 bs=1 seek=$at conv=notrunc 2>/dev/null
refuse 65 'rank-00000.h5: array .* is damaged' "$M2" inspect checkpoint torn --verify
refuse 65 'tensor .*/.*: torn/checkpoints/step-00000020/rank-00000.h5: array .* is damaged' \
    "$M2" train config.yaml run.dir=torn train.steps=30 checkpoint.every=10
rm torn/checkpoints/step-00000020/rank-00000.h5
refuse 65 'tensor param/.*: torn/checkpoints/step-00000020/rank-00000.h5 is missing' \
    "$M2" train config.yaml run.dir=torn train.steps=30 checkpoint.every=10
rm torn/checkpoints/step-00000020/manifest.h5
refuse 65 'lost its manifest.h5: delete this folder to go on from step 10' \
    "$M2" train config.yaml run.dir=torn train.steps=30 checkpoint.every=10

# ---- a run that learns nothing: 65 after train.max_skips skipped updates
"$M2" train config.yaml run.dir=skips optim.outlier=1e-9 train.max_skips=3 >log 2>&1
code=$?
[ $code = 65 ] || { cat log; fail "skipped updates: exit code $code, expected 65"; }
grep -q '^m2: error: stopped at step 3: 3 updates in a row were skipped' log || { cat log; fail "skipped updates: no reason"; }
[ "$(sed -nE 's/.*"skips": ([0-9]+).*/\1/p' skips/metrics.jsonl | tr '\n' ' ')" = "1 2 3 " ] || fail "skips are not counted"

# ---- the file system: 74
echo occupied >file
refuse 74 'making folder file/checkpoints failed' "$M2" train config.yaml run.dir=file
[ ! -e none ] || fail "a refused run left a folder"
