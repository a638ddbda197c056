#!/bin/bash
# M2-BERT of 128 positions becomes one of 2048 and of 8192 (SPEC 3.7): position embeddings are repeated, positional features are
# those of the new length, everything else has the same bits, and a run says so; such a model trains, evaluates and embeds.
. "$M2_SOURCE/tests/e2e/common.bash"
python=${M2_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "no $python"; exit 77; }
small_run bert
"$M2" train config.yaml model.length=128 train.steps=2 optim.warmup=0 run.dir=body >log 2>&1 || { cat log; fail "pretraining"; }
"$M2" convert body body.safetensors 2>log || { cat log; fail "m2 convert"; }
for length in 2048 8192; do
    long="config.yaml model.length=$length train.init=body train.batch=2 optim.warmup=0"
    "$M2" train $long train.steps=1 optim.outlier=1e-30 run.dir=begun-$length >log 2>&1 || { cat log; fail "$length positions"; }
    grep -q 'update skipped' log || { cat log; fail "the update was not skipped"; }
    grep -q 'tensors from body/.*; repeated or cut to the new length: embed.position; new: block.0.mixer.filter.position, ' log ||
        { cat log; fail "$length positions: does not say what is repeated and what is new"; }
    "$M2" convert begun-$length long.safetensors 2>log || { cat log; fail "m2 convert"; }
    "$python" -I - "$M2_SOURCE/tests/e2e" body.safetensors long.safetensors <<'END' || fail "$length positions: other numbers"
import math, struct, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import safetensors as st
short, long = (st.read(p)[0] for p in sys.argv[2:])
assert short.keys() == long.keys()
equal = 0
for name, (dtype, shape, data) in long.items():
    was = short[name]
    if name.endswith("position_embeddings.weight"):
        length, times = shape[0], shape[0] // was[1][0]
        assert was[1][0] == 128 and data == was[2] * times, name
    elif name.endswith(".pos_emb.z"):
        n, x = shape[1], struct.unpack("<%df" % (len(data) // 4), data)
        for i in range(n):
            w = 2 * math.pi * i / n
            z = i / (n - 1), math.cos(1e-4 * w), math.cos(w), -math.sin(1e-4 * w), -math.sin(w)
            assert all(abs(a - b) < 1e-6 for a, b in zip(z, x[5 * i:5 * i + 5])), (name, i)
    elif not name.endswith((".pos_emb.t", ".position_ids")):
        assert (dtype, shape, data) == was, name
        equal += 1
print(f"{length} positions: the {128} repeated {times} times, {equal} tensors as they were")
END
    "$M2" train $long train.steps=2 train.val_every=2 train.val_batches=1 run.dir=long-$length >log 2>&1 || { cat log; fail "training at $length"; }
    losses long-$length | awk '$2 > 0 && $2 < 10 { n++ } END { exit n != 2 }' || { losses long-$length; fail "training at $length: losses"; }
    "$M2" embed body val.h5 --out long.jsonl --rows 1 model.length=$length run.device=cpu 2>log || { cat log; fail "embedding at $length"; }
done
# a document longer than 128 tokens counts whole
"$M2" embed body val.h5 --out short.jsonl --rows 1 run.device=cpu 2>log || { cat log; fail "embedding"; }
cmp -s <(cut -c-300 short.jsonl) <(cut -c-300 long.jsonl) && fail "more of a document makes no difference"
"$M2" train config.yaml model.length=64 train.init=body train.steps=1 optim.warmup=0 run.dir=shorter >log 2>&1 || { cat log; fail "fewer positions"; }
echo "from 128 to 2048 and 8192 positions, and to 64"
