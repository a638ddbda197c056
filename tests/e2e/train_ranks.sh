#!/bin/bash
# The same global batch on 1, 2, 3 and 4 ranks: losses agree over 50 steps, to 1e-4 in f32 and to 1e-10 in f64, and so do
# validation losses; microbatches do not matter either. Checkpoints of 3 ranks go on with 2.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run

agree() { # agree TOLERANCE RUN RUN
    paste -d' ' <(losses "$2") <(losses "$3") | awk -v tol="$1" '
        function off(x, y) { d = x - y; return (d < 0 ? -d : d) > tol * (x < 0 ? -x : x) }
        $1 != $4 || off($2, $5) || ($3 != "-") != ($6 != "-") || ($3 != "-" && off($3, $6)) { print "  step " $1 ": " $0; bad = 1 }
        { n++ }
        END { if (n != 50) { print "  " n " steps"; bad = 1 } exit bad }' || fail "$2 and $3 differ by more than $1"
}

for precision in f32 f64; do
    tolerance=1e-4
    [ $precision = f32 ] || tolerance=1e-10
    for n in 1 2 3 4; do
        ranks $n "$M2" train config.yaml train.precision=$precision run.dir=$precision-$n >log 2>&1 || { cat log; fail "$n ranks"; }
        [ $n = 1 ] || agree $tolerance $precision-1 $precision-$n
    done
    "$M2" train config.yaml train.precision=$precision train.micro=4 run.dir=$precision-micro >log 2>&1 || { cat log; fail micro; }
    agree $tolerance $precision-1 $precision-micro
done
[ "$(losses f32-1 | awk 'NR == 1 { first = $2 } { last = $2 } END { print (last < first - 1) }')" = 1 ] || fail "the loss did not fall"

# saved by 3 ranks, gone on with 2: as if nothing had happened
ranks 3 "$M2" train config.yaml train.precision=f64 run.dir=moved checkpoint.every=7 >log 2>&1 || { cat log; fail "3 ranks"; }
rm -r moved/checkpoints/step-000000{50,49}
ranks 2 "$M2" train config.yaml train.precision=f64 run.dir=moved >log 2>&1 || { cat log; fail "2 ranks going on"; }
grep -q 'resuming after step 42' log || { cat log; fail "did not resume after step 42"; }
agree 1e-10 f64-1 moved
echo "losses agree"
