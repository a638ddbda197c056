#!/bin/bash
# m2 prepare and m2 inspect store from the command line: what comes out, that it depends on nothing else, and what is said
# about bad input.
set -u
m2=${M2:?the m2 program}
[ -x "$m2" ] || { echo "no program $m2"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export SOURCE_DATE_EPOCH=1700000000
failed=0
fail() { echo "FAILED: $*"; failed=1; }
ok() { "$@" >out.txt 2>err.txt || { fail "exit $? from $*"; cat err.txt; }; }
# refuses CODE TEXT COMMAND...: exits with CODE and says TEXT in one line; the store is not there
refuses() {
    local code=$1 text=$2
    shift 2
    rm -f bad.h5
    "$@" >out.txt 2>err.txt
    local got=$?
    [ $got = "$code" ] || fail "exit $got instead of $code from $*: $(cat err.txt)"
    grep -qF -- "$text" err.txt || fail "'$text' is not said by $*: $(cat err.txt)"
    [ "$(wc -l <err.txt)" = 1 ] || fail "more than one line from $*: $(cat err.txt)"
    [ ! -e bad.h5 ] && [ -z "$(ls bad.h5.tmp-* 2>/dev/null)" ] || fail "something is left of bad.h5 by $*"
}

# Some text: 40 documents of JSON lines and a text of 300 KB, packed in every way.
mkdir -p text/deep
for i in $(seq 400); do echo "Line $i: the quick brown fox, isn't it? $((i * 7919 % 1000)) times over."; done >text/deep/b.txt
for i in $(seq 5); do cat text/deep/b.txt text/deep/b.txt >more && cat more more more >text/deep/b.txt.new; done
cat text/deep/b.txt.new text/deep/b.txt >text/deep/c && mv text/deep/c text/deep/b.txt && rm -f text/deep/b.txt.new more
for i in $(seq 40); do echo "{\"text\": \"Document $i is about $((i * i)) \\u00e4pfel.\\nSecond line.\", \"id\": $i}"; done >text/a.jsonl
echo hidden >text/.hidden.txt

# bytes: what is put in comes out, document by document
ok "$m2" prepare --tokenizer bytes --out plain.h5 text
grep -q "41 documents" out.txt || fail "not 41 documents: $(cat out.txt)"
ok "$m2" inspect store plain.h5 --text 40
cmp -s out.txt text/deep/b.txt || fail "the last document is not text/deep/b.txt"
ok "$m2" inspect store plain.h5 --text 6
[ "$(cat out.txt)" = "Document 7 is about 49 äpfel.
Second line." ] || fail "document 6 is: $(cat out.txt)"
ok "$m2" inspect store plain.h5 --verify
grep -q "^whole" out.txt || fail "a fresh store is not whole: $(cat out.txt)"

# the same store from packed files (names apart), from standard input, and with one thread
ok "$m2" prepare --train-tokenizer 300 --out one.h5 --save-tokenizer t.m2 text/deep/b.txt
cp one.h5 keep.h5
ok taskset -c 0 "$m2" prepare --train-tokenizer 300 --out one.h5 --save-tokenizer t.m2 text/deep/b.txt --force
ok "$m2" prepare --tokenizer t.m2 --out two.h5 text/deep/b.txt
ok taskset -c "$(taskset -cp $$ | sed 's/.*: *//; s/[,-].*//')" "$m2" prepare --tokenizer t.m2 --out two.h5 --force text/deep/b.txt
mkdir one two
(cd one && ok "$m2" prepare --tokenizer ../t.m2 --out s.h5 ../text)
(cd two && ok taskset -c "$(taskset -cp $$ | sed 's/.*: *//; s/[,-].*//')" "$m2" prepare --tokenizer ../t.m2 --out s.h5 ../text)
cmp one/s.h5 two/s.h5 || fail "one thread writes another store"
gzip -k text/deep/b.txt && mv text/deep/b.txt.gz b.gz
for pack in "zstd -q -c" "xz -c" "gzip -c"; do
    (head -c 100000 text/deep/b.txt | $pack; tail -c +100001 text/deep/b.txt | $pack) >packed.txt # two frames
    ok "$m2" prepare --tokenizer bytes --out packed.h5 --force packed.txt
    ok "$m2" inspect store packed.h5 --text 0
    cmp -s out.txt text/deep/b.txt || fail "text packed by $pack comes out changed"
done
"$m2" prepare --tokenizer bytes --out stdin.h5 - <text/deep/b.txt >/dev/null 2>err.txt || fail "standard input: $(cat err.txt)"
ok "$m2" inspect store stdin.h5 --text 0
cmp -s out.txt text/deep/b.txt || fail "standard input comes out changed"

# validation: nothing is lost, nothing is in both
ok "$m2" prepare --tokenizer bytes --out tr.h5 --val-out va.h5 --val-fraction 0.1 text/deep/b.txt
"$m2" inspect store tr.h5 --text 0 >a.txt && "$m2" inspect store va.h5 --text 0 >>a.txt
cmp -s a.txt text/deep/b.txt || fail "training and validation are not the whole text"
size=$("$m2" inspect store va.h5 --text 0 | wc -c)
whole=$(wc -c <text/deep/b.txt)
[ $((size * 1000 / whole)) -ge 99 ] && [ $((size * 1000 / whole)) -le 100 ] || fail "validation has $size of $whole bytes"
ok "$m2" prepare --tokenizer bytes --out tr.h5 --val-out va.h5 --val-fraction 0.3 --force text/a.jsonl
n=$(for s in tr va; do "$m2" inspect store $s.h5 | sed -n 's/^documents *//p'; done | paste -sd+)
[ $((n)) = 40 ] || fail "$n documents instead of 40 in both"

# another field, from standard input
sed 's/"text"/"body"/; s/"id"/"text"/' text/a.jsonl >body.jsonl
"$m2" prepare --tokenizer bytes --field body --format jsonl --out body.h5 - <body.jsonl >out.txt 2>err.txt || fail "--field body: $(cat err.txt)"
ok "$m2" inspect store body.h5 --text 6
[ "$(head -1 out.txt)" = "Document 7 is about 49 äpfel." ] || fail "--field body: $(cat out.txt)"
printf '{"text": "ok"}\n{"text": "\xc3("}\n' >utf8.jsonl

# duplicates
cat text/a.jsonl text/a.jsonl >twice.jsonl
ok "$m2" prepare --tokenizer bytes --dedup --out dedup.h5 twice.jsonl
grep -q "^40 documents left out as duplicates" out.txt && grep -q " 40 documents" out.txt || fail "dedup: $(cat out.txt)"

mkdir same && for i in 1 2 3; do head -50 text/deep/b.txt >same/$i.txt; done && echo other >same/2.txt
ok "$m2" prepare --tokenizer bytes --dedup --out same.h5 same
grep -q "^1 documents left out as duplicates" out.txt && grep -q " 2 documents" out.txt || fail "dedup of texts: $(cat out.txt)"

# bad input
refuses 64 "exists; --force overwrites it" "$m2" prepare --tokenizer bytes --out plain.h5 text
ok "$m2" inspect store plain.h5 --verify
refuses 64 "which text?" "$m2" prepare --tokenizer bytes --out bad.h5
refuses 64 "either --tokenizer" "$m2" prepare --out bad.h5 text
refuses 74 "none.txt" "$m2" prepare --tokenizer bytes --out bad.h5 text none.txt
refuses 74 "no-tokenizer" "$m2" prepare --tokenizer no-tokenizer --out bad.h5 text
refuses 74 "no/folder/bad.h5" "$m2" prepare --tokenizer bytes --out no/folder/bad.h5 text
mkdir empty && refuses 65 "holds no text" "$m2" prepare --tokenizer bytes --out bad.h5 empty
refuses 65 "too small for 5000 tokens" "$m2" prepare --train-tokenizer 5000 --out bad.h5 text/a.jsonl
seq 60000 | zstd -q -c >whole.zst
head -c 2000 whole.zst >cut.txt.zst
refuses 65 "cut.txt.zst: cut off inside zstd data at byte 2000" "$m2" prepare --tokenizer bytes --out bad.h5 cut.txt.zst
{ head -c 1500 whole.zst; head -c 200 /dev/zero | tr '\0' 'x'; tail -c +1701 whole.zst; } >broken.txt.zst
refuses 65 "broken.txt.zst: broken zstd data at byte" "$m2" prepare --tokenizer bytes --out bad.h5 broken.txt.zst
{ head -3 text/a.jsonl; echo '{"txt": "other name"}'; tail -5 text/a.jsonl; } >field.jsonl
refuses 65 'field.jsonl:4: no text under "text"' "$m2" prepare --tokenizer bytes --out bad.h5 field.jsonl
{ head -7 text/a.jsonl; echo '{"text": "not closed'; } >broken.jsonl
refuses 65 "utf8.jsonl:2: not JSON, at byte 10: not UTF-8" "$m2" prepare --tokenizer bytes --out bad.h5 utf8.jsonl
refuses 65 "broken.jsonl:8: not JSON" "$m2" prepare --tokenizer bytes --out bad.h5 broken.jsonl
ok "$m2" prepare --tokenizer bytes --out skip.h5 --on-error skip field.jsonl broken.jsonl
grep -q "^2 errors left out, the first: field.jsonl:4" out.txt || fail "skip: $(cat out.txt)"
grep -q " 15 documents" out.txt || fail "skip: $(cat out.txt)"

# damaged stores
head -c $(($(wc -c <plain.h5) / 2)) plain.h5 >half.h5
refuses 65 "half.h5, it is cut off or damaged" "$m2" inspect store half.h5
refuses 65 "not an HDF5 file" "$m2" inspect store text/a.jsonl
refuses 74 "none.h5" "$m2" inspect store none.h5
cp plain.h5 flip.h5
printf '\377' | dd of=flip.h5 bs=1 seek=$(($(wc -c <plain.h5) * 3 / 4)) conv=notrunc 2>/dev/null
refuses 65 "flip.h5: cannot read array" "$m2" inspect store flip.h5 --verify
[ $failed = 0 ] && echo "prepare: all as expected"
exit $failed
