#!/usr/bin/env python3
"""Writes data/bert_fold.def: what BERT's uncased normaliser makes of each character, and which characters are punctuation
to it, asked of Hugging Face's tokenizers, so that its Unicode version is the reference's.

    python3 tests/golden/bert_fold.py > data/bert_fold.def        (tokenizers from PyPI; 30 seconds)
"""
import tokenizers
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

normal, cut = BertNormalizer(lowercase=True), BertPreTokenizer()
gone, ideographs, punctuation, spaces, folds = [], [], [], [], []


def extend(ranges, c):
    if ranges and ranges[-1][1] == c - 1:
        ranges[-1][1] = c
    else:
        ranges.append([c, c])


for c in range(0x110000):
    if 0xD800 <= c < 0xE000 or 0xAC00 <= c <= 0xD7A3:  # surrogates; Hangul syllables decompose by arithmetic
        continue
    out = normal.normalize_str(chr(c))
    if out == "":
        extend(gone, c)
    elif out == " ":
        extend(spaces, c)
    elif out == f" {chr(c)} ":
        extend(ideographs, c)
    elif out.strip() != chr(c):
        wide = out != out.strip()  # an ideograph for compatibility: its plain form, still with spaces around
        folds.append((c, [ord(x) for x in out.strip()], wide))
    if out not in ("", " ") and len(cut.pre_tokenize_str(f"a{chr(c)}a")) == 3 and out.strip() == chr(c) and out == chr(c):
        extend(punctuation, c)

print("/* bert_fold.def - GONE, SPACE, IDEOGRAPH, PUNCTUATION(first, last); FOLD(from, wide, to...). Written by")
print(f" * tests/golden/bert_fold.py with tokenizers {tokenizers.__version__}; not to be edited. */")
line = ""


def item(text):
    global line
    if len(line) + len(text) > 110:
        print(line)
        line = ""
    line += (" " if line else "") + text


for name, ranges in (("GONE", gone), ("SPACE", spaces), ("IDEOGRAPH", ideographs), ("PUNCTUATION", punctuation)):
    for first, last in ranges:
        item(f"{name}(0x{first:X}, 0x{last:X})")
for c, to, wide in folds:
    item(f"FOLD(0x{c:X}, {int(wide)}, {', '.join(f'0x{x:X}' for x in to)})")
print(line)
