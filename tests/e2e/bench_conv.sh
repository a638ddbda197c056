#!/bin/bash
# m2 bench conv: every length is reported with its floor, its variants and the cost model's choice, the outputs equal FFTW's
# (the program compares them and fails if not), and the JSON is one array that parses.
. "$(dirname "$0")/common.bash"

small="--device cpu --channels 4 --tokens 4096 --seconds 0.01"
"$M2" bench conv $small --lengths 100,1024 --variants >table 2>log || { cat log; fail "the table"; }
for l in 100 1024; do grep -qE "^ +$l +[0-9]+ +[0-9.]+ +[0-9.]+ " table || { cat table; fail "no line for L = $l"; }; done
[ "$(grep -c 'chosen$' table)" = 4 ] || { cat table; fail "the choice for each length, forward and backward"; }

for more in "" "--gates" "--two-sided --filters 2" "--gates --two-sided --dtype f64"; do
    "$M2" bench conv $small --lengths 3,1000,2048 --json $more >json 2>log || { cat log; fail "--json $more"; }
    "${PYTHON:-python3}" - <<'END' || { cat json; fail "the JSON of $more"; }
import json
rows = json.load(open("json"))
assert [r["length"] for r in rows] == [3, 1000, 2048]
for r in rows:
    assert r["forward_ms"] > 0 and r["forward_backward_ms"] > r["forward_ms"] and r["forward_of_floor"] > 0
    for op in ("forward", "backward"):
        ways = r[op + "_variants"]
        assert ways and sum(w["chosen"] for w in ways) == 1 and r[op + "_choice_slower_by"] >= 0
        assert len({w["name"] for w in ways}) == len(ways)
    assert "rival" not in r or r["rival_difference"] < 1e-4
END
done
grep -q rival log || "$M2" bench conv $small --lengths 64 2>&1 | grep -q "x$" || fail "neither a ratio nor a reason why there is none"
"$M2" bench conv $small --filters 3 2>err && fail "3 filters for 4 channels"
grep -q "does not divide" err || fail "the message says why"
echo ok
