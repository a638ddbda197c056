#!/usr/bin/env python3
"""10,000 random Unicode strings: m2's BERT tokens against Hugging Face's. Exit 77 without tokenizers, h5py or the vocabulary.

    M2=build/bin/m2 M2_SHARED_DATA=../shared/data python3 tests/golden/fuzz_tokenizers.py [SEED]
"""
import json
import os
import random
import subprocess
import sys
import tempfile

data = os.environ.get("M2_SHARED_DATA") or os.path.join(os.environ.get("M2_SOURCE", "."), "../shared/data")
vocab = f"{data}/bert/vocab.txt"
try:
    import h5py
    import tokenizers

    open(vocab).close()
except (ImportError, OSError) as e:
    print(f"skipped: {e}")
    sys.exit(77)

# Without the special tokens, which m2 takes as plain text.
reference = tokenizers.Tokenizer(tokenizers.models.WordPiece.from_file(vocab, unk_token="[UNK]"))
reference.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
reference.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
rng = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
ALPHABETS = [
    lambda: chr(rng.randrange(32, 127)),
    lambda: rng.choice(" \t\n\r\u00a0\u2003\u2028\u3000\u0085\x1c\u180e\u200b"),
    lambda: chr(rng.randrange(0x80, 0x800)),
    lambda: chr(rng.choice([rng.randrange(0x800, 0xD800), rng.randrange(0xE000, 0x10000)])),
    lambda: chr(rng.randrange(0x10000, 0x110000)),
    lambda: rng.choice(["The", " of", "Water", "1234", "½", "É", "e\u0301", "你好", "🙂", "한국", "अनुच्छेद", "Ω", "İ", "ß", "[UNK]"]),
    lambda: rng.choice("ab1.") * rng.randrange(1, 120),
]


def text():
    some = rng.sample(ALPHABETS, rng.randrange(1, 5))
    return "a" + "".join(rng.choice(some)() for _ in range(rng.randrange(1, 60)))


texts = [text() for _ in range(10000)]
with tempfile.TemporaryDirectory() as work:
    with open(f"{work}/t.jsonl", "w", encoding="utf-8", newline="\n") as f:
        for t in texts:
            f.write(json.dumps({"text": t}) + "\n")
    subprocess.run([os.environ["M2"], "prepare", "--tokenizer", vocab, "--out", f"{work}/t.h5", f"{work}/t.jsonl"], check=True)
    with h5py.File(f"{work}/t.h5") as h:
        tokens, ends = h["tokens"][:].tolist(), h["documents"][:].tolist()
assert len(ends) == len(texts) + 1
bad = [i for i, t in enumerate(texts) if tokens[ends[i] : ends[i + 1] - 1] != reference.encode(t).ids]
for i in bad[:5]:
    print(f"differs: {texts[i]!r}\n  m2         {tokens[ends[i]:ends[i + 1] - 1]}\n  tokenizers {reference.encode(texts[i]).ids}")
print(f"{len(texts) - len(bad)} of {len(texts)} strings have tokenizers {tokenizers.__version__}'s tokens")
sys.exit(bool(bad))
