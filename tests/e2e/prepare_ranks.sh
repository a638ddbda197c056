#!/bin/bash
# m2 prepare by 1, 2 and 3 ranks and threads, killed on the way and started again: always the same bytes; and every kind of
# corrupt input is named, or counted and left out.
. "$M2_SOURCE/tests/e2e/common.bash"
export SOURCE_DATE_EPOCH=1700000000

text 1 60000 >some.txt
for i in $(seq 24); do cat some.txt; done >many.txt
mkdir -p in/one in/five
split -n l/2 many.txt in/one/ --additional-suffix=.txt
for i in 1 2 3 4 5; do
    awk -v i=$i '{ gsub(/["\\]/, ""); printf "{\"id\": %d, \"text\": \"%s %d\"}\n", NR, $0, NR % (900 + i) }' some.txt >in/five/$i.jsonl
done
zstd -q --rm in/five/2.jsonl && xz in/five/3.jsonl && gzip in/five/4.jsonl
"$M2" prepare --train-tokenizer 350 --save-tokenizer t.m2 --out t.h5 some.txt >/dev/null || fail "a tokenizer"

# One unbroken run, then others in folders of their own: the command, which the store keeps, is the same.
prepare() { # prepare FOLDER RANKS [FLAG...]
    local folder=$1 n=$2
    shift 2
    mkdir -p "$folder"
    (cd "$folder" && ranks "$n" "$M2" prepare --tokenizer ../t.m2 --dedup --out s.h5 --val-out v.h5 --val-fraction 0.1 "$@" \
        '../in/five/*' ../in/one) >"$folder/log" 2>&1
}
same() { cmp "$1/s.h5" whole/s.h5 && cmp "$1/v.h5" whole/v.h5 && [ ! -e "$1/s.h5.parts" ] || fail "$1 is not the unbroken store"; }
mkdir whole
(cd whole && "$M2" prepare --tokenizer ../t.m2 --dedup --out s.h5 --val-out v.h5 --val-fraction 0.1 '../in/five/*' ../in/one) >log ||
    { cat log; fail "an unbroken run"; }
grep -q "documents left out as duplicates" log || { cat log; fail "no duplicates were found"; }
"$M2" inspect store whole/s.h5 --verify | grep -q '^whole' || fail "the store is not whole"
for n in 1 2 3; do
    prepare ranks$n $n --threads $n || { cat ranks$n/log; fail "$n ranks"; }
    same ranks$n
done
prepare threads 1 --threads 5 || fail "5 threads"
same threads

# kill -9 as soon as it has made a few pieces more; three times
mkdir killed
pieces() { find killed/s.h5.parts -name '*-*[0-9]' ! -name '*.*' 2>/dev/null | wc -l; }
kills=0
for want in 1 4 6; do
    (cd killed && exec "$M2" prepare --tokenizer ../t.m2 --dedup --out s.h5 --val-out v.h5 --val-fraction 0.1 --threads 1 \
        '../in/five/*' ../in/one) >killed/log 2>&1 &
    while kill -0 $! 2>/dev/null && [ "$(pieces)" -lt $want ]; do sleep 0.003; done
    kill -9 $! 2>/dev/null && kills=$((kills + 1))
    wait $! 2>/dev/null
done
echo "killed $kills times, $(pieces) pieces were made"
[ $kills -ge 2 ] && [ ! -e killed/s.h5 ] || fail "it was not killed in time"
first=$(find killed/s.h5.parts -name '*-*[0-9]' | sort | head -1)
printf 'x' | dd of="$first" bs=1 seek=5000 conv=notrunc 2>/dev/null # a damaged piece is made again
echo torn >killed/s.h5.tmp-1 # as a kill while joining leaves
prepare killed 2 --threads 1 || { cat killed/log; fail "going on after the kills"; }
grep -q 'went on from' killed/log || { cat killed/log; fail "nothing was kept"; }
same killed
[ "$(ls killed)" = "log
s.h5
v.h5" ] || { ls killed; fail "something is left of the killed runs"; }
ranks 7 "$M2" prepare --tokenizer bytes --out few.h5 some.txt >log 2>&1 || { cat log; fail "more ranks than work"; }

# A vocabulary beyond 16 bits: tokens of 32, in pieces and in the store
(printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]'; seq -f 'w%.0f' 70000) >vocab.txt
seq -f 'w%.0f' 1 7 70000 >words.txt
for n in 1 2; do
    ranks $n "$M2" prepare --tokenizer vocab.txt --out wide.h5 --force words.txt some.txt >log 2>&1 || { cat log; fail "a large vocabulary"; }
    cp wide.h5 wide$n.h5
done
cmp wide1.h5 wide2.h5 || fail "ranks write another store of 32-bit tokens"
"$M2" inspect store wide.h5 --verify >log && grep -q '(u32)' log && grep -q '^whole' log || { cat log; fail "32-bit tokens"; }
[ "$("$M2" inspect store wide.h5 --text 0 | tr -s ' ' '\n')" = "$(cat words.txt)" ] || fail "32-bit tokens are other words"

# Corrupt input: stop names file and place, skip counts and goes on; the counts do not depend on ranks.
head -c 3000 some.txt >bad.txt && printf 'in\377\376valid\n' >>bad.txt && tail -c +3001 some.txt >>bad.txt
head -c $(($(zstd -q -c in/five/1.jsonl | wc -c) / 2)) <(zstd -q -c in/five/1.jsonl) >cut.jsonl.zst
(head -20 in/five/1.jsonl; echo '{"txt": "no text"}'; echo '{"text": "not clo') >field.jsonl
stop() { # stop PATTERN FILE
    "$M2" prepare --tokenizer bytes --out bad.h5 "$2" >log 2>&1
    [ $? = 65 ] || { cat log; fail "$2: exit code"; }
    grep -qE "$1" log || { cat log; fail "$2: not '$1'"; }
    [ ! -e bad.h5 ] && [ ! -e bad.h5.parts ] || fail "$2: something is left"
}
stop 'bad.txt: byte 3002 of the text, 0xff, is not UTF-8' bad.txt
stop 'cut.jsonl.zst: cut off inside zstd data at byte [0-9]+' cut.jsonl.zst
stop 'field.jsonl:21: no text under "text"' field.jsonl
for n in 1 2; do
    ranks $n "$M2" prepare --tokenizer bytes --on-error skip --out skip.h5 --force bad.txt field.jsonl cut.jsonl.zst >log 2>&1 ||
        { cat log; fail "--on-error skip with $n ranks"; }
    grep -qE '^(5|6) errors left out, the first: bad.txt: byte 3002 ' log || { cat log; fail "the report of $n ranks"; }
    grep -v '^tokenizer' log >log$n
done
cmp log1 log2 || fail "ranks count errors differently"
"$M2" inspect store skip.h5 --text 0 >zero.txt
(head -c 3000 some.txt; printf 'invalid\n'; tail -c +3001 some.txt) | cmp - zero.txt || fail "more than the bad bytes is left out"
echo "prepare under ranks and kills: all as expected"
