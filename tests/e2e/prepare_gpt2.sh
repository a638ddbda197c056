#!/bin/bash
# WikiText-2's validation text with GPT-2's tokenizer has the known number of tokens. Needs the shared data.
set -u
data=${M2_SHARED_DATA:-${M2_SOURCE:-.}/../shared/data}
[ -r "$data/gpt2/vocab.bpe" ] && [ -r "$data/text/wikitext-2.valid.txt" ] || { echo "skipped: no $data/gpt2 (set M2_SHARED_DATA)"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${M2:?the m2 program}" prepare --tokenizer "$data/gpt2" --out "$work/valid.h5" "$data/text/wikitext-2.valid.txt" | tee "$work/out" || exit 1
grep -q "1 documents, 258659 tokens" "$work/out" || { echo "expected 258659 tokens"; exit 1; }
