#!/bin/bash
# Stores joined by m2 prepare --merge read as one, wherever they are, train like one, and name the piece that is damaged,
# missing or another one than it was. Pictures from the command line.
. "$M2_SOURCE/tests/e2e/common.bash"
text 1 20000 >a.txt
text 2 30000 >b.txt
"$M2" prepare --tokenizer bytes --out whole.h5 a.txt b.txt a.txt >/dev/null || fail "m2 prepare"
mkdir deep
for x in a b; do "$M2" prepare --tokenizer bytes --out deep/$x.h5 $x.txt >/dev/null || fail "m2 prepare"; done
"$M2" prepare --merge --out deep/all.h5 deep/a.h5 deep/b.h5 deep/a.h5 >log || { cat log; fail "--merge"; }
"$M2" prepare --merge --out far.h5 deep/a.h5 deep/b.h5 deep/a.h5 >log || { cat log; fail "--merge from elsewhere"; }
mkdir moved && cp deep/*.h5 moved && rm -r deep # pieces beside the store move with it
for s in moved/all.h5; do
    "$M2" inspect store $s --verify >log || { cat log; fail "$s"; }
    grep -q '^whole' log && grep -q 'a.h5: 1 documents, ' log && grep -q '^command *prepare --merge' log || { cat log; fail "$s is not described"; }
    for i in 0 1 2; do cmp <("$M2" inspect store $s --text $i) <("$M2" inspect store whole.h5 --text $i) || fail "$s, document $i"; done
done
"$M2" inspect store far.h5 --verify >log 2>&1
[ $? = 74 ] && grep -q 'far.h5: a piece of /tokens: .*deep/a.h5' log || { cat log; fail "a piece that is gone"; }
small_run
for s in whole moved/all; do
    "$M2" train config.yaml run.dir=$(basename $s) data.train=$s.h5 data.val=val.h5 >log 2>&1 || { cat log; fail "training on $s"; }
done
cmp <(numbers whole | sed 's/, "seconds.*//') <(numbers all | sed 's/, "seconds.*//') || fail "training on the merged store differs"

flip() { # flip FILE BYTE
    local byte=$(od -An -tu1 -j $2 -N 1 "$1")
    printf "\\$(printf %o $((byte ^ 1)))" | dd of="$1" bs=1 seek=$2 conv=notrunc 2>/dev/null
}
at=$(($(wc -c <moved/b.h5) * 2 / 3))
flip moved/b.h5 $at
for s in b all; do
    "$M2" inspect store moved/$s.h5 --verify >log 2>&1
    [ $? = 65 ] || { cat log; fail "a flipped byte in $s"; }
    range=$(sed -nE 's/.*moved\/b.h5: cannot read array .*, in bytes ([0-9]+) to ([0-9]+) of the file.*/\1 \2/p' log)
    read -r from to <<<"$range"
    [ -n "$range" ] && [ "$from" -le $at ] && [ $at -lt "$to" ] || { cat log; fail "byte $at is not in '$range'"; }
done
"$M2" prepare --tokenizer bytes --force --out moved/a.h5 b.txt >/dev/null
"$M2" inspect store moved/all.h5 --verify >log 2>&1
[ $? = 65 ] && grep -qE 'moved/a.h5: array /tokens has [0-9]+ elements now, and had [0-9]+' log || { cat log; fail "another piece"; }
"$M2" prepare --train-tokenizer 260 --out other.h5 a.txt >/dev/null 2>&1
"$M2" prepare --merge --out bad.h5 whole.h5 other.h5 >log 2>&1
[ $? = 65 ] && grep -q 'other.h5 was written with another tokenizer' log && [ ! -e bad.h5 ] || { cat log; fail "two tokenizers"; }
"$M2" prepare --images --out bad.h5 a.txt >log 2>&1
[ $? = 65 ] && grep -q 'a.txt: byte 0 of the archive is not the beginning of a tar header' log || { cat log; fail "no pictures"; }
echo "merged stores: all as expected"
