#!/usr/bin/env python3
"""All of text/books.train with GPT-2's tokenizer: m2's rate beside tiktoken's, peak memory, and the same bytes from 1, 2, 3
ranks and after three kills. Minutes; needs 2 GB of disk. Exit 77 without tiktoken or the data.

    M2=build/bin/m2 M2_SHARED_DATA=../shared/data python3 tests/golden/prepare_books.py
"""
import glob
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

data = os.environ.get("M2_SHARED_DATA") or os.path.join(os.environ.get("M2_SOURCE", "."), "../shared/data")
data = os.path.abspath(data)
m2 = os.path.abspath(os.environ["M2"])
books = sorted(glob.glob(f"{data}/text/books.train.*.jsonl.zst"))
try:
    import h5py
    import numpy
    import tiktoken
    import tiktoken.load

    tiktoken.load.read_file_cached = lambda path, expected_hash=None: open(path, "rb").read()
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(f"{data}/gpt2/vocab.bpe", f"{data}/gpt2/encoder.json")
    if not books:
        raise OSError(f"no {data}/text/books.train.*")
except (ImportError, OSError) as e:
    print(f"skipped: {e}")
    sys.exit(77)
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
reference = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
os.environ["SOURCE_DATE_EPOCH"] = "1700000000"


def tiktoken_rate():
    """The tokens of each book of the first shard, and how many per second one core makes."""
    lines = subprocess.run(["zstd", "-dc", books[0]], stdout=subprocess.PIPE, check=True).stdout.splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    ids, seconds = [], 0
    for text in texts:
        start = time.process_time()
        tokens = reference.encode_ordinary(text)
        seconds += time.process_time() - start
        ids.append(numpy.array(tokens, dtype=numpy.uint16))
    return ids, sum(map(len, ids)) / seconds


def same_tokens(path, expected):
    """Do the first documents of the store have these tokens?"""
    with h5py.File(path) as h:
        ends = h["documents"][: len(expected) + 1]
        return all(numpy.array_equal(h["tokens"][ends[i] : ends[i + 1] - 1], e) for i, e in enumerate(expected))


def start(folder, n=1, *flags):
    os.makedirs(folder, exist_ok=True)
    launch = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", str(n)] if n > 1 else []
    command = launch + [m2, "prepare", "--tokenizer", f"{data}/gpt2", "--out", "s.h5", *flags, *books]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(p):
    """Output, seconds of CPU and peak MB of a process that ends well."""
    out = p.stdout.read()
    _, code, usage = os.wait4(p.pid, 0)
    assert code == 0, out
    return out, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def digest(folder):
    with open(f"{folder}/s.h5", "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def pieces(folder):
    return len([f for f in glob.glob(f"{folder}/s.h5.parts/*") if "." not in os.path.basename(f)])


with tempfile.TemporaryDirectory() as work:
    os.chdir(work)
    expected, theirs = tiktoken_rate()
    n = sum(map(len, expected))
    print(f"tiktoken {tiktoken.__version__}: {theirs / 1e6:.2f}M tokens/s per core ({n} tokens of one shard)", flush=True)
    start_time = time.monotonic()
    out, cpu, peak = finish(start("whole"))
    wall = time.monotonic() - start_time
    tokens = int(re.search(r"(\d+) tokens \(", out).group(1))
    print(out.strip())
    print(f"m2: {tokens} tokens in {wall:.1f} s ({cpu:.1f} s of CPU, reading and writing included), peak {peak:.0f} MB")
    print(f"m2: {tokens / cpu / 1e6:.2f}M tokens/s per core, {tokens / cpu / theirs:.1f} x tiktoken", flush=True)
    whole = digest("whole")
    equal = same_tokens("whole/s.h5", expected)
    print(f"the {n} tokens of the first shard are {'' if equal else 'NOT '}those of tiktoken")
    os.remove("whole/s.h5")
    failed = peak >= 500 or not equal
    for r in (2, 3):
        finish(start(f"ranks{r}", r))
        same = digest(f"ranks{r}") == whole
        failed |= not same
        print(f"{r} ranks: {'identical' if same else 'ANOTHER STORE'}", flush=True)
        os.remove(f"ranks{r}/s.h5")
    for kill in range(3):
        p = start("killed")
        while p.poll() is None and pieces("killed") < 12 * (kill + 1):
            time.sleep(0.01)
        assert p.poll() is None, "it ended before it was killed"
        p.send_signal(signal.SIGKILL)
        p.wait()
        print(f"killed with {pieces('killed')} pieces done", flush=True)
    finish(start("killed"))
    same = digest("killed") == whole
    failed |= not same
    print(f"after three kills: {'identical' if same else 'ANOTHER STORE'}")
sys.exit(failed)
