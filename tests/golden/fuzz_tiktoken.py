#!/usr/bin/env python3
"""10,000 random Unicode strings: m2's GPT-2 tokens against tiktoken's. Exit 77 without tiktoken, h5py or the vocabulary.

    M2=build/bin/m2 M2_SHARED_DATA=../shared/data python3 tests/golden/fuzz_tiktoken.py [SEED]
"""
import json
import os
import random
import subprocess
import sys
import tempfile

data = os.environ.get("M2_SHARED_DATA") or os.path.join(os.environ.get("M2_SOURCE", "."), "../shared/data")
try:
    import h5py
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    import tiktoken.load

    tiktoken.load.read_file_cached = lambda path, expected_hash=None: open(path, "rb").read()
    ranks = data_gym_to_mergeable_bpe_ranks(f"{data}/gpt2/vocab.bpe", f"{data}/gpt2/encoder.json")
except (ImportError, OSError) as e:
    print(f"skipped: {e}")
    sys.exit(77)

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
reference = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
rng = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
ALPHABETS = [
    lambda: chr(rng.randrange(32, 127)),
    lambda: rng.choice(" \t\n\r\u00a0\u2003\u2028\u3000\u0085\x1c\u180e\u200b"),
    lambda: rng.choice(["'s", "'ll", "'RE", "n't", "'", "''", " '", "<|endoftext|>", "  ", "\n\n"]),
    lambda: chr(rng.randrange(0x80, 0x800)),
    lambda: chr(rng.choice([rng.randrange(0x800, 0xD800), rng.randrange(0xE000, 0x10000)])),
    lambda: chr(rng.randrange(0x10000, 0x110000)),
    lambda: rng.choice(["the", " of", "Water", "1234", "½", "Ⅷ", "é", "e\u0301", "你好", "🙂", "👩‍👩‍👧", "अनुच्छेद"]),
    lambda: rng.choice("ab 1.") * rng.randrange(1, 400),
]


def text():
    some = rng.sample(ALPHABETS, rng.randrange(1, 5))
    return "".join(rng.choice(some)() for _ in range(rng.randrange(1, 60)))


texts = [text() for _ in range(10000)]
with tempfile.TemporaryDirectory() as work:
    with open(f"{work}/t.jsonl", "w", encoding="utf-8", newline="\n") as f:
        for t in texts:
            f.write(json.dumps({"text": t}) + "\n")
    subprocess.run([os.environ["M2"], "prepare", "--tokenizer", f"{data}/gpt2", "--out", f"{work}/t.h5", f"{work}/t.jsonl"], check=True)
    with h5py.File(f"{work}/t.h5") as h:
        tokens, ends = h["tokens"][:].tolist(), h["documents"][:].tolist()
assert len(ends) == len(texts) + 1
bad = [i for i, t in enumerate(texts) if tokens[ends[i] : ends[i + 1] - 1] != reference.encode_ordinary(t)]
for i in bad[:5]:
    print(f"differs: {texts[i]!r}\n  m2       {tokens[ends[i]:ends[i + 1] - 1]}\n  tiktoken {reference.encode_ordinary(texts[i])}")
print(f"{len(texts) - len(bad)} of {len(texts)} strings have tiktoken {tiktoken.__version__}'s tokens")
sys.exit(bool(bad))
