#!/bin/bash
# The same global batch on 1, 2, 3 and 4 ranks, for each family: losses agree over 50 steps, to 1e-4 in f32 and to 1e-10 in
# f64, and so do validation losses; microbatches do not matter either. Checkpoints of 3 ranks go on with 2, and m2 eval
# finds the validation loss again.
. "$M2_SOURCE/tests/e2e/common.bash"

agree() { # agree TOLERANCE RUN RUN
    paste -d' ' <(losses "$2") <(losses "$3") | awk -v tol="$1" '
        function off(x, y) { d = x - y; return (d < 0 ? -d : d) > tol * (x < 0 ? -x : x) }
        $1 != $4 || off($2, $5) || ($3 != "-") != ($6 != "-") || ($3 != "-" && off($3, $6)) { print "  step " $1 ": " $0; bad = 1 }
        { n++ }
        END { if (n != 50) { print "  " n " steps"; bad = 1 } exit bad }' || fail "$2 and $3 differ by more than $1"
}

train() { # train RANKS RUN OPTION...
    local n=$1 run=$2
    shift 2
    ranks "$n" "$M2" train config.yaml run.dir="$run" "$@" >log 2>&1 || { cat log; fail "$run on $n ranks"; }
}

for family in gpt bert; do
    mkdir "$work/$family" && cd "$work/$family" || exit 1
    small_run $family
    for precision in f32 f64; do
        tolerance=1e-4
        [ $precision = f32 ] || tolerance=1e-10
        for n in 1 2 3 4; do
            train $n $precision-$n train.precision=$precision
            [ $n = 1 ] || agree $tolerance $precision-1 $precision-$n
        done
        train 1 $precision-micro train.precision=$precision train.micro=4
        agree $tolerance $precision-1 $precision-micro
    done
    losses f32-1 | awk 'NR == 1 { first = $2 } { last = $2 } END { exit !(last < first - 0.7) }' || { losses f32-1; fail "$family: the loss did not fall"; }

    # saved by 3 ranks, gone on with 2: as if nothing had happened
    train 3 moved train.precision=f64 checkpoint.every=7
    rm -r moved/checkpoints/step-000000{50,49}
    train 2 moved train.precision=f64
    grep -q 'resuming after step 42' log || { cat log; fail "did not resume after step 42"; }
    agree 1e-10 f64-1 moved

    train 1 whole train.precision=f64 train.val_batches=1000 train.val_every=0
    val=$(losses whole | awk 'END { print $3 }')
    found=$("$M2" eval whole --json train.precision=f64 train.micro=5 2>/dev/null | sed -E 's/.*"loss": ([^,]+).*/\1/')
    awk -v a="$val" -v b="$found" 'BEGIN { d = (a - b) / a; exit !(d < 1e-10 && d > -1e-10) }' || fail "m2 eval: $found, in training $val"
    echo "$family: losses agree"
done
