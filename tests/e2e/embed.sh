#!/bin/bash
# m2 embed: one vector per document, the same in any batch, equal for equal documents, near for near ones; HDF5 and JSON lines
# say the same; longer positions; what is refused leaves no file.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run bert
"$M2" train config.yaml model.act=gelu_erf model.norm_eps=1e-12 run.dir=body >log 2>&1 || { cat log; fail "pretraining"; }
text 1 400 | awk 'BEGIN { RS = ".\n" } NF { gsub(/\n/, " "); print "{\"text\": \"" $0 "\"}" }' | head -20 >texts.jsonl
sed -n 3p texts.jsonl >>texts.jsonl                                # the third again
sed -n 3p texts.jsonl | sed -E 's/ [a-z]+"\}/"}/' >>texts.jsonl    # and without its last word
"$M2" prepare --tokenizer vocab.txt --out texts.h5 texts.jsonl >/dev/null || fail "m2 prepare"
n=$(wc -l <texts.jsonl)

embed() { # embed OUT OPTION...
    "$M2" embed body texts.h5 --out "$@" run.device=cpu run.threads=1 2>log || { cat log; fail "embed $*"; }
}
embed a.jsonl
embed b.jsonl --rows 5
[ "$(wc -l <a.jsonl)" = "$n" ] || fail "$(wc -l <a.jsonl) vectors of $n documents"
cut -d'[' -f2 a.jsonl | tr -d ']},' >a
cut -d'[' -f2 b.jsonl | tr -d ']},' >b
paste -d' ' a b | awk '{ for (i = 1; i <= NF / 2; i++) { d = $i - $(i + NF / 2); if (d * d > 1e-10) bad = 1 } } END { exit bad || NF != 64 }' ||
    fail "other vectors in other batches"
distance() { # distance LINE LINE
    awk -v p="$1" -v q="$2" 'NR == p || NR == q { for (i = 1; i <= NF; i++) x[NR, i] = $i; n = NF }
        END { for (i = 1; i <= n; i++) { d = x[p, i] - x[q, i]; s += d * d } print s }' a
}
same=$(distance 3 21) near=$(distance 3 22) far=$(distance 3 7)
awk -v s="$same" -v n="$near" -v f="$far" 'BEGIN { exit !(s < 1e-10 && n > 1e-8 && n < f) }' || fail "distances $same, $near, $far"

# against the model in plain Python, from the state dict
python=${M2_PYTHON:-python3}
if command -v "$python" >/dev/null; then
    "$M2" convert body body.safetensors 2>log || { cat log; fail "m2 convert"; }
    "$python" "$M2_SOURCE/tests/e2e/bert.py" embed body.safetensors vocab.txt texts.jsonl a.jsonl 2e-5 || fail "other vectors than in Python"
fi

embed c.h5
h5dump -d /embeddings -m '%.9g' -w 0 c.h5 2>/dev/null | grep -oE '^ *\([0-9]+,[0-9]+\): .*' | cut -d: -f2 | tr -d ' ' | tr ',' '\n' | grep . >c
if command -v h5dump >/dev/null; then
    cmp <(tr ' ' '\n' <a | grep .) c || fail "HDF5 and JSON lines differ"
fi
(ulimit -f 4; trap '' XFSZ; "$M2" embed body texts.h5 --out none.jsonl run.device=cpu run.threads=1 2>log)
[ $? = 74 ] && grep -q 'none.jsonl.*File too large' log && [ -z "$(ls | grep none)" ] || { cat log; fail "a full disk"; }
embed long.jsonl model.length=100
[ "$(wc -l <long.jsonl)" = "$n" ] || fail "longer positions"

if command -v "$python" >/dev/null; then # what such a model is: begun from the body, its update skipped
    "$M2" train config.yaml model.act=gelu_erf model.norm_eps=1e-12 model.length=100 train.init=body train.steps=1 optim.outlier=1e-30 \
        run.dir=longer >log 2>&1 && "$M2" convert longer longer.safetensors 2>log || { cat log; fail "a longer model"; }
    head -3 texts.jsonl >few.jsonl
    head -3 long.jsonl >few
    "$python" "$M2_SOURCE/tests/e2e/bert.py" embed longer.safetensors vocab.txt few.jsonl few 2e-5 || fail "other long vectors than in Python"
fi

refuse() { # refuse CODE PATTERN ARGUMENTS...
    local code=$1 pattern=$2
    shift 2
    "$M2" embed "$@" 2>err
    [ $? = "$code" ] && grep -q "$pattern" err || { cat err; fail "embed $*"; }
    [ ! -e none.h5 ] && [ -z "$(ls | grep none)" ] || fail "embed $*: left $(ls | grep none)"
}
refuse 64 'which checkpoint' body texts.h5
refuse 64 'ends with .h5 or .jsonl' body texts.h5 --out none.csv
refuse 65 'texts.h5 is a file: a run folder' texts.h5 texts.h5 --out none.h5
refuse 65 'no such' nobody texts.h5 --out none.h5
refuse 65 'there is no such file' body nothing.h5 --out none.h5
"$M2" prepare --tokenizer bytes --out bytes.h5 texts.jsonl >/dev/null
refuse 65 'another tokenizer' body bytes.h5 --out none.h5
cd "$work" && mkdir gpt && cd gpt && small_run && "$M2" train config.yaml run.dir=causal train.steps=2 >log 2>&1 || fail "gpt"
refuse 64 'm2 embed needs a masked language model' causal val.h5 --out none.h5
echo "distances of a document to itself $same, without a word $near, to another $far"
