#!/usr/bin/env python3
"""Writes data/unicode.def: which characters \\p{L}, \\p{N} and \\s match in tiktoken's regular expressions, asked of
tiktoken itself, so that the Unicode version is the reference's.

    python3 tests/golden/unicode_classes.py > data/unicode.def        (tiktoken from PyPI; 5 seconds)
"""
import tiktoken

BYTES = {bytes([i]): i for i in range(256)}


def ranges(pattern):
    match = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=BYTES, special_tokens={}).encode_ordinary
    out = []
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000 or not match(chr(c)):
            continue
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


print("/* unicode.def - CLASS(first, last): what \\p{L}, \\p{N} and \\s match. Written by tests/golden/unicode_classes.py with")
print(f" * tiktoken {tiktoken.__version__}; not to be edited. */")
for name, pattern in (("LETTER", r"\p{L}"), ("NUMBER", r"\p{N}"), ("SPACE", r"\s")):
    line = ""
    for first, last in ranges(pattern):
        item = f"{name}(0x{first:X}, 0x{last:X})"
        if len(line) + len(item) > 110:
            print(line)
            line = ""
        line += (" " if line else "") + item
    print(line)
