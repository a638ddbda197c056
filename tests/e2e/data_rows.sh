#!/bin/bash
# What a row of training data may be: any text, the beginning of a document, documents that do not predict each other, a
# mixture of stores. The loss is a mean over what is predicted, on any number of ranks.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run
text 3 6000 | awk '{ printf "{\"text\": \"%s\"}\n", $0 }' >short.jsonl # documents of about 60 bytes
"$M2" prepare --tokenizer bytes --out short.h5 short.jsonl >/dev/null || fail "m2 prepare"
"$M2" prepare --tokenizer bytes --out short.val.h5 --val-out v.h5 --val-fraction 0.3 short.jsonl >/dev/null || fail "m2 prepare"

compare() { # compare NAME ARGUMENTS...: 1 rank, 2 ranks
    local name=$1
    shift
    "$M2" train config.yaml run.dir=$name-1 "$@" >log 2>&1 || { cat log; fail "$name"; }
    ranks 2 "$M2" train config.yaml run.dir=$name-2 "$@" >log 2>&1 || { cat log; fail "$name with 2 ranks"; }
    paste <(losses $name-1) <(losses $name-2) | awk -v name=$name '
        { d = $2 - $5; if (d < 0) d = -d; if (d > 2e-5 * $2) bad = 1; if (d > most) most = d; last = $2; if (NR == 1) first = $2 }
        END { printf "%s: loss %.4f to %.4f, ranks differ by %.1g\n", name, first, last, most
              exit bad || NR != 50 || first < 5.4 || first > 5.8 || last > first - 0.3 }' || fail "$name: losses"
}
compare packed
compare starts data.train=short.h5 data.mask_starts=true
compare truncated data.train=short.h5 data.val=v.h5 data.documents=truncated
compare mixture data.train=train.h5:3,short.h5:1

# Only what is there is predicted: of each document its bytes but the first, and its end.
"$M2" eval truncated-1 --json model.length=48 >eval.json || fail "m2 eval"
documents=$("$M2" inspect store v.h5 | sed -n 's/^documents *//p')
counted=$(for i in $(seq 0 $((documents - 1))); do "$M2" inspect store v.h5 --text $i | wc -c; done | awk '{ n += $1 < 48 ? $1 : 48 } END { print n }')
got=$(sed -E 's/.*"tokens": ([0-9]+),.*/\1/' eval.json)
[ "$got" = "$counted" ] || { cat eval.json; fail "$got tokens were predicted of $counted"; }
"$M2" train config.yaml run.dir=no data.train=train.h5:3,val.h5 >log 2>&1
[ $? = 64 ] || { cat log; fail "half a mixture"; }
"$M2" train config.yaml run.dir=no data.train=train.h5:3,nope.h5:1 >log 2>&1
[ $? = 65 ] && grep -q 'nope.h5: there is no such file' log || { cat log; fail "a mixture with a store that is not there"; }
