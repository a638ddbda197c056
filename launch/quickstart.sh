#!/bin/bash
# quickstart.sh [TEXT...] - from a bare Debian machine to a language model that speaks, in about five minutes on two cores:
# packages, build, tokenizer, three minutes of training with mpirun (killed once on the way, resumed), evaluation, a sample.
# TEXT: .txt, .jsonl (also .zst, .gz) or folders; default: the Perl documentation, which Debian's package perl-doc installs.
# Everything it makes is under runs/quickstart. Run again, it resumes: delete that folder to start over.
set -eu
cd "$(dirname "$0")/.."
run=runs/quickstart
m2=build/bin/m2
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

say "1/7 packages"
if [ $# -gt 0 ]; then launch/packages.sh; else launch/packages.sh --demo; fi

say "2/7 build"
launch/build.sh build -DM2_CUDA=OFF
mkdir -p $run

say "3/7 data: tokenizer of 4096 entries, token store"
if [ ! -e $run/train.h5 ]; then
    if [ $# -gt 0 ]; then
        $m2 prepare --train-tokenizer 4096 --out $run/train.h5 --val-out $run/val.h5 --val-fraction 0.02 "$@"
    else
        pods=$(dpkg -L perl-doc | grep '\.pod$')
        mkdir -p $run/text
        for f in $pods; do cp "$f" "$run/text/$(basename "$f" .pod).txt"; done
        $m2 prepare --train-tokenizer 4096 --out $run/train.h5 --val-out $run/val.h5 --val-fraction 0.02 $run/text
    fi
fi

train() {
    launch/local.sh -n 2 $m2 train configs/gpt/tiny.yaml data.train=$run/train.h5 data.val=$run/val.h5 run.dir=$run/model \
        "train.steps=${QUICKSTART_STEPS:-1500}"
}

if [ ! -e $run/killed ]; then
    say "4/7 training on two ranks, until it is killed"
    train &
    pid=$!
    until ls $run/model/checkpoints/step-*/manifest.h5 >/dev/null 2>&1 || ! kill -0 $pid 2>/dev/null; do sleep 1; done
    sleep 5
    pkill -9 -P $pid 2>/dev/null || true
    kill -9 $pid 2>/dev/null || true
    wait $pid 2>/dev/null || true
    touch $run/killed
    echo "(killed with SIGKILL)"
fi
say "5/7 training goes on from the last checkpoint"
train

say "6/7 evaluation and a look into the checkpoint"
$m2 eval $run/model data.val=$run/val.h5
$m2 inspect checkpoint $run/model | head -20

say "7/7 a sample"
$m2 sample $run/model --prompt "The function returns" --tokens 80 --temperature 0.7 --seed 1
echo
say "done. Metrics: $run/model/metrics.jsonl   Next: README.md"
