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
traced groups 2 1 groups run.mesh=1x2 comm.groups=2 run.exchange=channel
traced monarch 4 1 "reduce groups" run.mesh=2x2 comm.groups=2 run.exchange=monarch

"$python" - <<'END' || { cat out; fail "overlap in the JSON of the bench"; }
import json
rows = json.load(open("out"))["overlap"]
assert {r["axis"] for r in rows} == {"data", "sequence"}, rows
assert all(r["calls"] > 0 and 0 <= r["beside_seconds"] <= r["seconds"] for r in rows), rows
assert sum(r["beside_seconds"] for r in rows) > 0, rows
END
ranks 2 "$M2" bench step "$tiny" $model --steps 1 >out 2>log || fail "bench step"
grep -qE '^overlap: [0-9.]+ of [0-9.]+ ms of data all_reduce ran beside compute \([0-9]+%\)$' out || { cat out; fail "overlap printed"; }

"$M2" bench step "$tiny" $model --steps 1 --trace missing/file 2>err >out && fail "a timeline in a folder that is not there"
grep -q 'writing the timeline missing/file.tmp failed: No such file' err || { cat err; fail "message about the folder"; }
echo "timelines show what runs beside what"
