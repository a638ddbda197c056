#!/bin/bash
# A checkpoint that cannot be written (here: files may not grow beyond 200 KiB) ends the run with exit 74 and the reason; the
# checkpoint before it is whole, nothing half-written stays, and with room again the run goes on.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run
options="config.yaml train.steps=20 checkpoint.every=10 run.dir=run"
"$M2" train $options train.steps=10 >log 2>&1 || { cat log; fail "the first steps"; }
before=$(content run)
(
    ulimit -f 200
    trap '' XFSZ
    exec "$M2" train $options
) >log 2>&1
code=$?
[ $code = 74 ] || { cat log; fail "exit code $code, expected 74"; }
grep -q '^m2: error: saving checkpoint of step 20: .*rank-00000.h5.*: File too large$' log || { cat log; fail "does not say why"; }
[ "$(ls run/checkpoints)" = step-00000010 ] || fail "left behind: $(ls run/checkpoints)"
[ "$(content run)" = "$before" ] || fail "the older checkpoint changed"
"$M2" train $options >log 2>&1 || { cat log; fail "going on with room again"; }
"$M2" inspect checkpoint run --verify | grep -q 'step-00000020 is whole' || fail "no checkpoint of step 20"
echo "disk full: exit 74, the older checkpoint is whole, the run goes on"
