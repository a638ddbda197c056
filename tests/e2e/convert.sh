#!/bin/bash
# m2 convert: checkpoint to safetensors and back gives the same bits, moments too, in one file or several; a plain Python reader
# sees the same bytes, and h5py the same whole tensors in manifest.h5; a published M2-BERT state dict goes in and comes back bit
# for bit; averages are means; what cannot be converted is refused with a reason.
. "$M2_SOURCE/tests/e2e/common.bash"
python=${M2_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "no $python"; exit 77; }
check() { "$python" -I "$M2_SOURCE/tests/e2e/safetensors.py" "$@"; }
convert() { "$M2" convert "$@" >log 2>&1 || { cat log; fail "m2 convert $*"; }; }
refuse() { # refuse CODE PATTERN ARGUMENTS...
    local code=$1 pattern=$2 got
    shift 2
    "$M2" convert "$@" >log 2>&1
    got=$?
    [ $got = "$code" ] || { cat log; fail "$*: exit code $got, expected $code"; }
    grep -qE "^m2: error: .*$pattern" log || { cat log; fail "$*: does not say '$pattern'"; }
}
small_run
ranks 3 "$M2" train config.yaml run.dir=run train.steps=20 checkpoint.every=10 >log 2>&1 || { cat log; fail "a run"; }

# ---- there and back
convert run all.safetensors --moments
convert all.safetensors back
[ "$(content back)" = "$(content run)" ] || fail "a round trip in one file changed something"
convert run many --moments --file-mb 1
convert many back2
[ "$(content back2)" = "$(content run)" ] || fail "a round trip in several files changed something"
convert many/model.safetensors.index.json back3
[ "$(content back3)" = "$(content run)" ] || fail "a round trip through the index changed something"
"$M2" train config.yaml run.dir=back train.steps=25 >log 2>&1 || { cat log; fail "going on from the round trip"; }
"$M2" train config.yaml run.dir=run train.steps=25 >log 2>&1 || { cat log; fail "going on"; }
[ "$(content back)" = "$(content run)" ] || fail "a run that went through safetensors learns otherwise"
convert run half.safetensors --dtype bf16
convert half.safetensors backhalf
convert backhalf again.safetensors --dtype bf16
check same half.safetensors again.safetensors || fail "bf16 there and back"
"$M2" sample backhalf --prompt ka --tokens 5 >log 2>&1 || { cat log; fail "sampling from a model that went through bf16"; }
echo "there and back: same bits"

# ---- others' readers
convert run plain.safetensors
check h5py run/checkpoints/step-00000025/manifest.h5 plain.safetensors
case $? in 0) echo "h5py: whole tensors" ;; 77) echo "no h5py: skipped" ;; *) fail "h5py sees other tensors" ;; esac
check numpy plain.safetensors theirs.safetensors
case $? in
0)
    convert theirs.safetensors backtheirs --config run/config.yaml
    "$M2" inspect checkpoint diff run backtheirs >log
    grep -q '^38 tensors are equal bit for bit, 0 changed' log || { cat log; fail "a file of Python's safetensors"; }
    echo "Python's safetensors: both ways"
    ;;
77) echo "no safetensors for Python: skipped" ;;
*) fail "Python's safetensors reads something else" ;;
esac

# ---- published M2-BERT
for case in m2-bert m2-bert-additions; do
    for dtype in F32 F64; do
        options=$(check bert $case "$M2_SOURCE/tests/golden/bert.txt" $dtype published.safetensors) || fail "bert.txt"
        printf 'model:\n  family: bert\n' >bert.yaml
        rm -rf bert
        convert published.safetensors bert --config bert.yaml ${options/model.vocab=16/}
        convert bert exported.safetensors
        check same published.safetensors exported.safetensors || fail "$case $dtype: import and export changed something"
        convert exported.safetensors bert2
        [ "$(content bert2)" = "$(content bert)" ] || fail "$case $dtype: read again"
        rm -rf bert2
    done
done
"$python" -I - published.safetensors other.safetensors <<'END' || fail "another decay"
import sys
raw = bytearray(open(sys.argv[1], "rb").read())
import json, struct
n = struct.unpack("<Q", raw[:8])[0]
at = next(t["data_offsets"][0] for k, t in json.loads(raw[8:8 + n]).items() if k.endswith("filter_fn2.modulation.deltas"))
raw[8 + n + at:16 + n + at] = struct.pack("<d", -1)
open(sys.argv[2], "wb").write(raw)
END
refuse 65 'element 0 of .*filter_fn2.modulation.deltas is -1, m2 computes with -3.07' other.safetensors out --config bert.yaml ${options/model.vocab=16/}
convert bert own.safetensors --names m2
convert own.safetensors bert3
[ "$(content bert3)" = "$(content bert)" ] || fail "own names of an M2-BERT"

mkdir unlike # an M2-BERT that the published ones are not: a network of three layers, dense MLPs
(cd unlike && small_run bert && "$M2" train config.yaml model.filter.layers=3 model.mlp=dense train.steps=2 optim.warmup=0 run.dir=run) >log 2>&1 ||
    { cat log; fail "another M2-BERT"; }
convert unlike/run unlike.safetensors --moments
convert unlike.safetensors unlike/back
[ "$(content unlike/back)" = "$(content unlike/run)" ] || fail "another M2-BERT loses something on its way"

# ---- averages
convert --average run/checkpoints/step-00000010 run/checkpoints/step-00000025 mean
convert --average run run same
"$M2" inspect checkpoint diff run same | grep -q '^38 tensors are equal bit for bit, 0 changed' || fail "the mean of one and the same"
convert run/checkpoints/step-00000010 a.safetensors
convert mean m.safetensors
"$python" -I - a.safetensors plain.safetensors m.safetensors "$M2_SOURCE/tests/e2e" <<'END' || fail "the average is no mean"
import struct, sys
sys.path.insert(0, sys.argv[4])
sys.dont_write_bytecode = True
import safetensors as st
a, b, m = (st.read(p)[0] for p in sys.argv[1:4])
for name in m:
    x, y, z = (struct.unpack("<%df" % (len(t[name][2]) // 4), t[name][2]) for t in (a, b, m))
    for p, q, r in zip(x, y, z):
        assert struct.pack("<f", (p + q) / 2) == struct.pack("<f", r), name
END
convert --average run/checkpoints/step-00000010 run mean.safetensors
"$M2" eval mean >log 2>&1 || { cat log; fail "evaluating an average"; }

"$M2" train config.yaml run.dir=mean train.steps=30 >log 2>&1
[ $? = 65 ] || { cat log; fail "a run went on without moments"; }
grep -q 'train.init=mean/checkpoints/step-00000025' log || { cat log; fail "does not say how to start from a model without moments"; }
"$M2" train config.yaml run.dir=new train.init=mean train.steps=2 optim.warmup=0 >log 2>&1 || { cat log; fail "a start from an average"; }

# ---- refusals
refuse 64 'has a checkpoint already' plain.safetensors run
refuse 64 'inputs for one result' run run out
refuse 64 'expected f32, bf16 or f64' run x.safetensors --dtype i64
refuse 64 'name its configuration' published.safetensors out
refuse 65 'names of an M2-BERT, the configuration is of model.family=gpt' published.safetensors out --config config.yaml
refuse 65 'tensor embed.weight has another shape|another shape' plain.safetensors out --config config.yaml model.width=64
refuse 65 'is none of this model|is missing' plain.safetensors out --config config.yaml model.vocab=264 model.layers=3
refuse 65 'train.h5 is neither a .safetensors file nor a run folder; a file of PyTorch' train.h5 out
refuse 64 'm2 does not write .bin files' run model.bin
head -c 3000 plain.safetensors >short.safetensors
refuse 65 'short.safetensors' short.safetensors out
head -c $(($(wc -c <plain.safetensors) - 4)) plain.safetensors >cut.safetensors
refuse 65 'cut off or damaged' cut.safetensors out
mkdir empty
refuse 65 'there is no such run|no checkpoint|holds no' empty out
rm many/model-00001-of-*.safetensors
refuse 65 'model-00001-of-[0-9]*.safetensors is missing' many out
[ ! -e out/checkpoints/step-00000025 ] || fail "a refused conversion left a checkpoint"
echo "refusals: one sentence each"
