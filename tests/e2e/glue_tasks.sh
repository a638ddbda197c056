#!/bin/bash
# Every recipe of configs/glue on made-up files with the columns, the byte order mark, the missing header and the missing last
# newline of the published ones: two steps of training, then m2 eval with the scores of the task; a bad row is named by its line.
# Tasks of another number of classes start from an MNLI checkpoint: the body has its bits, the last layer is new, both are said.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run bert
"$M2" train config.yaml run.dir=body train.steps=2 optim.warmup=0 >log 2>&1 || { cat log; fail "pretraining"; }

# file PATH HEADER ROWS LABELS: rows of the columns of HEADER; sentences and labels ("a|b", or a range "0-5" of numbers) in turn
file() {
    mkdir -p "${1%/*}"
    text 3 4000 | tr -d . | awk -v header="$2" -v rows="$3" -v labels="$4" '
        BEGIN { n = split(header, name, " "); RS = "[ \n]+"; for (i = 1; i <= n; i++) gsub("_", " ", name[i]) }
        { word[NR] = $1 }
        function sentence(k,   s, i) { for (i = 1; i <= 3 + r % 4; i++) s = s (i > 1 ? " " : "") word[1 + (7 * r + k + i) % NR]; return s }
        function label() { if (labels == "0-5") return sprintf("%.3f", r * 5 / rows); k = split(labels, l, "|"); return l[1 + r % k] }
        END {
            for (i = 1; i <= n; i++) printf "%s%s", name[i], i < n ? "\t" : "\n"
            for (r = 0; r < rows; r++) for (i = 1; i <= n; i++)
                printf "%s%s", name[i] ~ /^(label|gold label|Quality|is duplicate|score)$/ ? label() : \
                    name[i] ~ /^(sentence|question)[12]?$|String$/ ? sentence(i) : i == 1 ? r : "x" i, i < n ? "\t" : "\n"
        }' | sed -E '1s/gold label/gold_label/; 1s/is duplicate/is_duplicate/; 1s/old index/old_index/' >"$1"
}
both() { # both FOLDER HEADER LABELS [FILE FOR VALIDATION]
    file glue/$1/train.tsv "$2" 96 "$3"
    file glue/$1/${4:-dev.tsv} "$2" 30 "$3"
}
two='entailment|not_entailment' three='entailment|neutral|contradiction'
parses='sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse'
both CoLA 'source label mark sentence' '0|1'
sed -i 1d glue/CoLA/{train,dev}.tsv # has no header
truncate -s -1 glue/CoLA/dev.tsv
both SST-2 'sentence label' '0|1'
both MRPC 'Quality #1_ID #2_ID #1_String #2_String' '0|1'
sed -i '1s/^/\xef\xbb\xbf/' glue/MRPC/{train,dev}.tsv
both RTE 'index sentence1 sentence2 label' $two
both STS-B 'index genre filename year old_index source1 source2 sentence1 sentence2 score' 0-5
both WNLI 'index sentence1 sentence2 label' '0|1'
both QNLI 'index question sentence label' $two
file glue/MNLI/train.tsv "index promptID pairID genre $parses sentence1 sentence2 label1 gold_label" 96 $three
file glue/MNLI/dev_matched.tsv "index promptID pairID genre $parses sentence1 sentence2 label1 label2 label3 label4 label5 gold_label" 30 $three
cp glue/MNLI/dev_matched.tsv glue/MNLI/dev_mismatched.tsv
both QQP 'id qid1 qid2 question1 question2 is_duplicate' '0|1'

common="task.data=glue run.device=cpu run.threads=1 task.seeds=1"
tune() { # tune TASK RUN OPTION...
    local task=$1 run=$2
    shift 2
    "$M2" train "$M2_SOURCE/configs/glue/$task.yaml" $common train.batch=48 train.epochs=1 optim.warmup=0 run.dir="$run" "$@" >log 2>&1
}
trained=0
while read -r task folder scores; do
    tune $task $task train.init=body || { cat log; fail "$task"; }
    [ "$(wc -l <$task/metrics.jsonl)" = 2 ] || { cat log; fail "$task: $(wc -l <$task/metrics.jsonl) steps of two"; }
    grep -q '; new: classify.pool.weight, classify.pool.bias, classify.out.weight, classify.out.bias$' log || { cat log; fail "$task: what is new"; }
    "$M2" eval $task --json >out 2>err || { cat err; fail "m2 eval of $task"; }
    [ "$(grep -oE '"rows": 30,|"[a-z0-9]+": -?[0-9.e+-]+[,}]' out | cut -d'"' -f2 | tail -n +2 | tr '\n' ' ')" = "rows loss $scores " ] ||
        { cat out; fail "$task: scores"; }
    grep -q '"rows": 30,' out || { cat out; fail "$task: rows"; }
    trained=$((trained + 1))
done <<'END'
cola CoLA matthews accuracy
sst2 SST-2 accuracy
mrpc MRPC f1 accuracy
rte RTE accuracy
stsb STS-B spearman pearson
wnli WNLI accuracy
qnli QNLI accuracy
mnli MNLI accuracy
qqp QQP accuracy f1
END
[ $trained = "$(ls "$M2_SOURCE"/configs/glue/*.yaml | wc -l)" ] || fail "$trained recipes of $(ls "$M2_SOURCE"/configs/glue)"
"$M2" eval mnli --json 2>/dev/null | sed 's/dev_matched/X/' >a
"$M2" eval mnli --json data.val=glue/MNLI/dev_mismatched.tsv 2>/dev/null | sed 's/dev_mismatched/X/' | cmp - a || fail "the other half of MNLI"
echo "$trained recipes trained and scored"

# ---- a fine-tuned model goes through safetensors with its classifier
"$M2" convert mnli mnli.safetensors --moments >log 2>&1 && "$M2" convert mnli.safetensors again >log 2>&1 || { cat log; fail "m2 convert"; }
[ "$(content again)" = "$(content mnli)" ] || fail "a fine-tuned model loses something on its way through safetensors"
grep -aq '"classifier.weight"' mnli.safetensors || fail "no classifier.weight in a fine-tuned model"

# ---- from MNLI's three classes to two, or to a number
for task in rte mrpc stsb; do # an update that is skipped leaves what the run began with
    tune $task from-mnli-$task train.init=mnli train.epochs=0.5 optim.outlier=1e-30 || { cat log; fail "$task from mnli"; }
    grep -q 'update skipped' log || { cat log; fail "the update was not skipped"; }
    grep -qE 'parameters: [0-9]+ of [0-9]+ tensors from mnli/checkpoints/step-00000002; new: classify.out.weight, classify.out.bias$' log ||
        { cat log; fail "$task from mnli: what is new is not said"; }
    said=$(sed -nE 's/.*parameters: ([0-9]+) of ([0-9]+) tensors.*/\1 \2/p' log)
    "$M2" inspect checkpoint diff mnli from-mnli-$task --json >diff
    equal=$(grep -cE '"param/.*"differ": 0,' diff)
    [ "$said" = "$equal $((equal + 2))" ] || { cat diff; fail "$task from mnli: $equal tensors are equal, said $said"; }
    grep -E '"param/' diff | grep -vE '"differ": 0,' >new
    [ "$(grep -cE '"param/classify.out.(weight|bias)"' new)" = "$(wc -l <new)" ] || { cat new; fail "$task from mnli: other tensors changed"; }
done
echo "from mnli: ${said% *} of ${said#* } tensors to the bit, the last layer is new"

# ---- bad rows, one of each layout, named by line; left out on demand and counted
bad() { # bad TASK FOLDER SED PATTERN: line 9 changed
    sed -E "$3" glue/$2/train.tsv >bad.tsv
    tune $1 none train.init=body data.train=bad.tsv task.on_error=stop
    [ $? = 65 ] && grep -q "bad.tsv:9: $4" log || { cat log; fail "$1: a bad row"; }
    [ ! -e none ] || fail "$1: a refused run left a folder"
    tune $1 left-out train.init=body data.train=bad.tsv task.on_error=skip || { cat log; fail "$1 without its bad row"; }
    grep -q 'bad.tsv: 1 bad row left out' log || { cat log; fail "$1: a bad row left out in silence"; }
    rm -r left-out
}
bad cola CoLA '9s/\t[01]\t/\tyes\t/' "'yes' in column 2 .*expected 0|1"
bad sst2 SST-2 '9s/\t.*//' '1 cell between tabs, expected 2'
bad mrpc MRPC '9s/^[01]/2/' "'2' in column Quality .*expected 0|1"
bad rte RTE '9s/\t[a-z_]+$/\tneutral/' "'neutral' in column label .*expected entailment|not_entailment"
bad stsb STS-B '9s/\t[0-9.]+$/\tnan/' "'nan' in column score .*expected a number"
bad wnli WNLI '9s/$/\tmore/' '5 cells between tabs, expected 4'
bad qnli QNLI '9s/\t[a-z_]+$/\t/' "'' in column label"
bad mnli MNLI '9s/\t[a-z]+$/\t-/' "'-' in column gold_label .*expected entailment|neutral|contradiction"
bad qqp QQP '9s/\t.*//' '1 cell between tabs, expected 6'
echo "bad rows of nine layouts: each named by line"
