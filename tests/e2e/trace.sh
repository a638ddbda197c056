#!/bin/bash
# m2 bench step --trace: every call of the plan once in a step, lanes in order, and communication that runs beside compute,
# read off the timeline: gradient buckets beside the backward pass, ZeRO's parameters beside the next forward pass, exchanges
# of one group of channels beside the convolution of another. Order is asserted, never time.
. "$M2_SOURCE/tests/e2e/common.bash"
python=${M2_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "skipped: no python3"; exit 77; }
unset OPENBLAS_CORETYPE # the core type is chosen by m2
tiny=$M2_SOURCE/configs/gpt/tiny.yaml
# several gradient buckets of a MiB
model="model.width=192 model.layers=3 model.length=128 model.vocab=1024 train.batch=8 run.threads=1 run.device=cpu comm.bucket_mib=1"

traced() { # traced FILE RANKS MICROS PROPERTIES OPTION...: a timeline, as it should be
    local file=$1 n=$2 micros=$3 properties=$4
    shift 4
    ranks "$n" "$M2" bench step "$tiny" $model "$@" --steps 1 --trace "$file" --json >out 2>log || { cat log; fail "$file"; }
    [ ! -e "$file.tmp" ] || fail "$file.tmp is left behind"
    "$python" "$M2_SOURCE/tests/e2e/trace.py" "$file" "$n" "$micros" $properties || fail "$file: $*"
}

traced alone 1 2 "" train.micro=4
planned=$("$M2" inspect plan "$tiny" $model train.micro=4 --calls | grep -cE '^ *[0-9]+[*!|]? ')
"$python" - alone "$planned" <<'END' || fail "calls of the timeline and of the plan"
import json, sys
calls = {e["args"]["call"] for e in json.load(open(sys.argv[1]))["traceEvents"] if e["ph"] == "X"}
sys.exit(0 if calls == set(range(int(sys.argv[2]))) else f"{len(calls)} calls, planned {sys.argv[2]}")
END

for n in 2 4; do traced data-$n $n 1 reduce; done
traced micro 2 2 reduce train.micro=2
traced zero1 2 1 "reduce gather" optim.zero=1
traced zero2 2 2 "reduce gather" optim.zero=2 train.micro=2
traced groups 2 1 "groups weights" run.mesh=1x2 comm.groups=2 run.exchange=channel
"$M2" inspect plan "$tiny" $model --ranks 2 run.mesh=1x2 comm.groups=4 run.exchange=channel --calls |
    awk '/^ *[0-9]+[|!].* to_(channels|sequence) / { all++; there += /~/ } END { exit !(all && 4 * there == 3 * all) }' ||
    fail "what an exchange of one group of four leaves alone is copied"
traced monarch 4 1 "reduce groups" run.mesh=2x2 comm.groups=2 run.exchange=monarch

"$python" - <<'END' || { cat out; fail "overlap in the JSON of the bench, and of its timeline"; }
import collections, json
rows = json.load(open("out"))["overlap"]
assert {r["axis"] for r in rows} == {"data", "sequence"}, rows
assert sum(r["beside_seconds"] for r in rows) > 0, rows
events = [e for e in json.load(open("monarch"))["traceEvents"] if e["ph"] == "X"]
work = collections.defaultdict(list)
for e in events:
    if e["tid"] == 0 and e["cat"] != "communication":
        work[e["pid"]].append((e["ts"], e["ts"] + e["dur"]))
found = collections.Counter()
for e in events:
    if e["cat"] == "communication":
        found[e["args"]["axis"], e["args"]["op"]] += e["tid"] != 0 and sum(
            max(0, min(b, e["ts"] + e["dur"]) - max(a, e["ts"])) for a, b in work[e["pid"]])
for r in rows: # means of 3 steps on 4 ranks; times in the file have 12 digits
    beside = found[r["axis"], r["op"]] * 1e-6 / 12
    assert r["calls"] > 0 and r["beside_seconds"] <= r["seconds"] and abs(beside - r["beside_seconds"]) < 1e-6, (r, beside)
END
ranks 2 "$M2" bench step "$tiny" $model --steps 1 >out 2>log || fail "bench step"
grep -qE '^overlap: [0-9.]+ of [0-9.]+ ms of data all_reduce ran beside compute \([0-9]+%\)$' out || { cat out; fail "overlap printed"; }

"$M2" bench step "$tiny" $model --steps 1 --trace missing/file 2>err >out && fail "a timeline in a folder that is not there"
grep -q 'writing the timeline missing/file.tmp failed: No such file' err || { cat err; fail "message about the folder"; }
echo "timelines show what runs beside what"
