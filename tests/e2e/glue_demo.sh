#!/bin/bash
# launch/glue_demo.sh on real text and real GLUE files, a few steps of everything: stopped, it leaves nothing running and goes on
# from its checkpoint; the table has all its rows and says the same as JSON; the pretrained model loads; a second call does nothing;
# other pretraining makes the scores that came from the old one void; and what is missing is named.
. "$M2_SOURCE/tests/e2e/common.bash"
shared=${M2_SHARED_DATA:-$M2_SOURCE/../shared/data}
[ -e "$shared/glue/SST-2/train.tsv" ] && [ -e "$shared/text/modern.val.jsonl.zst" ] || { echo "no shared data in $shared"; exit 77; }
command -v zstd >/dev/null || { echo "no zstd"; exit 77; }

# the first rows of the tasks are enough
mkdir -p data/glue/{SST-2,CoLA}
ln -s "$(realpath "$shared/bert")" "$(realpath "$shared/text")" data/
for f in glue/{SST-2,CoLA}/{train,dev}.tsv; do head -200 "$shared/$f" >data/$f; done
demo() { # demo STEPS LOG: STEPS of pretraining
    TEXTS=modern.val.jsonl.zst SENTENCES=500 DEVICE=cpu STEPS=$1 BATCH=8 TUNE_STEPS=2 SEEDS=1 JOBS=2 \
        bash "$M2_SOURCE/launch/glue_demo.sh" data out >"$2" 2>&1
}
rows() { # rows JSON: one line each
    sed -nE 's/^[[ ]\{"task": "([^"]*)", "start": "([a-z]+)"(, "seeds": [0-9]+)?, "mean": (-?[01]\.[0-9]{4})(, "[a-z]+": -?[01]\.[0-9]{4}){0,3}\}[],]$/\1 \2 \4/p' "$1"
}
scores() { find out -name '*.score' -printf '%P %T@\n' | sort; }

# told to stop in the middle of pretraining
TEXTS=modern.val.jsonl.zst SENTENCES=500 DEVICE=cpu STEPS=4000 BATCH=8 bash "$M2_SOURCE/launch/glue_demo.sh" data stopped >first 2>&1 &
pid=$!
wait_for_step stopped/pretrained 3 $pid
kill -TERM $pid
wait $pid
code=$?
[ $code = 75 ] || { cat first; fail "told to stop, it ended with $code"; }
pgrep -f "run.dir=$work/stopped/pretrained" >/dev/null && fail "pretraining still runs"
step=$(ls stopped/pretrained/checkpoints | tail -1 | sed 's/step-0*//')
"$M2" inspect checkpoint stopped/pretrained --verify >log || { cat log; fail "the checkpoint of the stop"; }
TEXTS=modern.val.jsonl.zst SENTENCES=500 DEVICE=cpu STEPS=4000 BATCH=8 bash "$M2_SOURCE/launch/glue_demo.sh" data stopped >first 2>&1 &
pid=$!
wait_for_step stopped/pretrained $((step + 1)) $pid
kill -TERM $pid
wait $pid
grep -q "resuming after step $step" first || { cat first; fail "did not resume after step $step"; }

demo 3 first || { cat first; fail "the demo"; }
for task in 'SST-2, accuracy' 'SST-2, a quarter of its labels' 'CoLA, Matthews'; do
    for start in majority random pretrained; do
        grep -Eq "^$task +$start +[-1]  +-?[01]\.[0-9]{4}( |\$)" out/table.txt || { cat out/table.txt; fail "no row '$task $start'"; }
    done
done
[ "$(grep -cE ' (random|pretrained) +1 +-?[01]\.[0-9]{4} +- +-?[01]' out/table.txt)" = 6 ] || { cat out/table.txt; fail "one seed has a deviation"; }
awk 'NR > 1 { t = substr($0, 1, 30); sub(/ +$/, "", t); n = split(substr($0, 31), c, " "); print t, c[1], c[3] }' out/table.txt >said
rows out/table.json | cmp - said || { cat out/table.json; fail "table.json and table.txt differ"; }
"$M2" eval out/pretrained --json run.device=cpu 2>/dev/null | grep -q '"loss": [0-9]' || fail "m2 eval of the pretrained model"
[ "$(wc -l <out/table.txt)" = 10 ] || { cat out/table.txt; fail "rows in the table"; }
documents=$("$M2" inspect store out/train.h5 | awk '/^documents/ { print $2 }')
[ "$documents" = 500 ] || fail "$documents sentences instead of 500"
grep -q 'tensors from' out/sst2/pretrained-19.log || fail "fine-tuning did not start from the pretrained model"
grep -q 'tensors from' out/sst2/random-19.log && fail "the control took parameters"

scores >before
cp out/table.txt table.before
demo 3 second || { cat second; fail "the second call"; }
scores | cmp - before || fail "the second call tuned again"
cmp out/table.txt table.before || fail "the second call made another table"

rm -r out/pretrained
demo 4 third || { cat third; fail "after pretraining again"; }
scores | diff - before | grep '^[<>]' >changed
grep -q random changed && fail "other pretraining changed what does not come from it"
[ "$(grep -c '^< .*pretrained' changed)" = 3 ] || { cat changed; fail "scores of the old pretraining were kept"; }

rm data/glue/CoLA/dev.tsv
demo 4 err && fail "ran without CoLA"
grep -q 'glue/CoLA/dev.tsv is missing' err || { cat err; fail "message about a missing file"; }
