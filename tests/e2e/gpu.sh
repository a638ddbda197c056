#!/bin/bash
# Training on one GPU against training on the CPU, and against itself: f32 and bf16 losses, graphs and plain launches,
# ranks that share the GPU, going on from a checkpoint, evaluation and sampling. Skipped where there is no GPU.
# M2_GPU=cuda:N picks the GPU. All that does not hold is reported before it ends.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run
gpu=${M2_GPU:-cuda:0}
export M2_LOG=debug
"$M2" train config.yaml run.device="$gpu" train.steps=1 train.val_every=0 run.dir=probe >log 2>&1 || {
    grep -qE 'no CUDA module|no usable GPU|there is no GPU' log && { grep -m1 -oE '(no CUDA module|no usable|there is no).*' log; exit 77; }
    cat log
    fail "a first step on $gpu"
}

# The tiny GPT's depth and filters, in a size that the CPU steps quickly through
cat >tiny.yaml <<-END
	base: $M2_SOURCE/configs/gpt/tiny.yaml
	model: {width: 64, length: 128}
	train: {batch: 8, steps: 100, val_every: 50, val_batches: 2}
	data: {train: train.h5, val: val.h5}
	optim: {lr: 1e-3}  # at 3e-3 the first steps are chaotic: f32 and f64 part on the CPU too
	checkpoint: {every: 20, keep: 100}
END
train() { # train DIR [OPTION...]
    local dir=$1
    shift
    "$M2" train "${config:-tiny.yaml}" run.dir="$dir" "$@" >"$dir.log" 2>&1 || { tail -20 "$dir.log"; bad "$dir"; }
}
failures=0
bad() {
    echo "  FAILED: $*"
    failures=$((failures + 1))
}
seconds() { date +%s.%N; }
took() { echo "$(awk -v a="$1" -v b="$(seconds)" 'BEGIN { printf "%.1f s", b - a }')"; }

# agree TOLERANCE RUN RUN: losses and validation losses of 100 steps, relatively
agree() {
    paste -d' ' <(losses "$2") <(losses "$3") | awk -v tol="$1" -v name="$2 and $3" '
        function off(x, y) { d = (x - y) / x; d = d < 0 ? -d : d; if (!(d <= worst)) worst = d; return !(d <= tol) }
        $1 != $4 || off($2, $5) || ($3 != "-") != ($6 != "-") || ($3 != "-" && off($3, $6)) { bad = 1 }
        { n++ }
        END { printf "  %s: %d steps, losses apart by at most %.1e (allowed %s)\n", name, n, worst, tol; exit bad || n != 100 }' ||
        bad "$2 and $3 differ by more than $1"
}
same() { # same RUN RUN: checkpoints, metrics, bit for bit
    [ -n "$(content "$1")" ] && [ "$(content "$1")" = "$(content "$2")" ] || { bad "$1 and $2: another final checkpoint"; return; }
    cmp <(numbers "$1") <(numbers "$2") || { bad "$1 and $2: other metrics"; return; }
    echo "  $1 and $2: same bits"
}

echo "the CPU's losses, by f32 and bf16 on $gpu"
at=$(seconds)
train cpu run.device=cpu train.precision=f32
echo "  cpu: $(took "$at")"
for precision in f32 tf32 bf16; do
    at=$(seconds)
    train $precision run.device="$gpu" train.precision=$precision
    echo "  $precision: $(took "$at"), $(grep -o 'NVIDIA[^;)]*' $precision.log | head -1)"
done
agree 1e-4 cpu f32
agree 1e-2 cpu tf32
agree 1e-2 cpu bf16
for way in f32 tf32 bf16; do # nothing is allocated once planned, and the host never waits until the GPU has nothing to do
    [ "${gpu%%:*}" = cpu ] || grep -q 'the steps allocated 0 times and drained the device 0 times' $way.log || { tail -20 $way.log; bad "$way: allocations or waits"; }
done

echo "graphs, plain launches, the naive plan, microbatches, recomputation"
for precision in f32 bf16; do
    train $precision-plain run.device="$gpu" train.precision=$precision run.graphs=off
    train $precision-naive run.device="$gpu" train.precision=$precision train.plan=naive
    train $precision-again run.device="$gpu" train.precision=$precision train.recompute=block
    for way in plain naive again; do same $precision $precision-$way; done
    train $precision-micro run.device="$gpu" train.precision=$precision train.micro=2
done
agree 1e-4 f32 f32-micro
agree 1e-2 bf16 bf16-micro

echo "ranks that share $gpu"
for n in 2 4; do
    for precision in f32 bf16; do
        ranks $n "$M2" train tiny.yaml run.dir=$precision-$n run.device="$gpu" train.precision=$precision >log 2>&1 ||
            { tail -20 log; bad "$n ranks"; }
        grep -q 'transport mpi, staged through pinned memory: .* share one GPU' log || { tail -20 log; bad "$n ranks: no reason for the transport"; }
    done
    agree 1e-4 f32 f32-$n
    agree 1e-2 bf16 bf16-$n
done
for precision in f32 bf16; do # a step of one microbatch: every stage of ZeRO computes the same bits
    for zero in 0 1 2; do
        run=$precision-2-zero$zero
        ranks 2 "$M2" train tiny.yaml run.dir="$run" run.device="$gpu" train.precision=$precision train.micro=4 optim.zero=$zero >log 2>&1 ||
            { tail -20 log; bad "$run"; continue; }
        cmp <(numbers "$precision-2-zero0") <(numbers "$run") && echo "  $run: same metrics as zero0" || bad "$run: other metrics than zero0"
    done
done
"$M2" train tiny.yaml run.device="$gpu" run.transport=mpi train.precision=f32 run.dir=f32-alone >log 2>&1 || { tail -20 log; bad "one rank over MPI"; }
same f32 f32-alone

if command -v python3 >/dev/null; then
    echo "what runs beside what while ranks share $gpu, read off their timelines"
    large="model.width=512 model.layers=4 model.length=1024 model.vocab=4096 train.batch=16 comm.bucket_mib=4"
    while read -r n mesh wanted options; do
        file=$work/trace-$n-${wanted//+/-}.json
        ranks "$n" "$M2" bench step tiny.yaml $large run.device="$gpu" run.transport=mpi run.mesh="$mesh" train.precision=bf16 \
            $options --steps 3 --trace "$file" >out 2>log </dev/null || { tail -20 log; bad "a timeline of $n ranks, $mesh $options"; continue; }
        python3 "$M2_SOURCE/tests/e2e/trace.py" "$file" "$n" 1 ${wanted//+/ } || bad "$n ranks, $mesh $options: no overlap"
        grep '^overlap' out | sed 's/^/    /'
    done <<-END
	2 2x1 reduce
	4 4x1 reduce
	2 2x1 reduce+gather optim.zero=1
	2 2x1 gather+reduce optim.zero=2
	2 1x2 reduce+groups comm.groups=4 run.exchange=channel
	2 1x2 groups comm.groups=4 run.exchange=monarch
	END
else
    echo "no python3: timelines are left out"
fi

echo "sequences cut over ranks that share $gpu: both exchanges, all channels at once and in groups"
for how in 2:1x2:channel:1 2:1x2:monarch:1 2:1x2:channel:4 4:1x4:monarch:2 4:2x2:channel:2 3:1x3:monarch:1; do
    IFS=: read -r n mesh exchange groups <<<"$how"
    more= alone=
    [ "$mesh" != 1x3 ] || more="model.length=126 model.width=64" alone=-126 # ranks that divide no channels, a DFT of no power of two
    for precision in f32 bf16; do
        [ -z "$alone" ] || [ -d $precision$alone ] || train $precision$alone run.device="$gpu" train.precision=$precision $more
        run=$precision-$mesh-$exchange-$groups
        ranks "$n" "$M2" train tiny.yaml run.dir="$run" run.device="$gpu" train.precision=$precision run.mesh="$mesh" \
            run.exchange="$exchange" comm.groups="$groups" $more >log 2>&1 || { tail -20 log; bad "$run"; continue; }
        agree $([ $precision = f32 ] && echo 1e-4 || echo 1e-2) $precision$alone "$run"
        [ "$groups" = 1 ] && continue
        ranks "$n" "$M2" train tiny.yaml run.dir="$run-naive" run.device="$gpu" train.precision=$precision run.mesh="$mesh" \
            run.exchange="$exchange" comm.groups="$groups" train.plan=naive >log 2>&1 || { tail -20 log; bad "$run-naive"; continue; }
        same "$run" "$run-naive"
    done
done

echo "a trace of the calls that allocate or make the host wait, between launches 10 and 60"
M2_CUDA_TRACE=$work/trace LD_PRELOAD=${M2_BUILD:?}/bin/cudart_trace.so "$M2" train tiny.yaml run.dir=traced run.device="$gpu" \
    train.val_every=0 checkpoint.every=0 >log 2>&1 || { tail -20 log; bad "a traced run"; }
if [ "${gpu%%:*}" = cuda ]; then
    awk '$1 == "cudaGraphLaunch" { n++ } n >= 10 && n < 60 { print }' trace | sort | uniq -c | sed 's/^/  /'
    [ "$(grep -c cudaGraphLaunch trace)" -ge 90 ] || bad "fewer graph launches than steps"
    awk '$1 == "cudaGraphLaunch" { n++ } n >= 10 && n < 60 && $1 != "cudaGraphLaunch" && $1 != "cudaEventSynchronize" { exit 1 }' trace ||
        bad "the steps allocate or drain the device"
fi

echo "going on from step 40"
for precision in f32 bf16; do
    mkdir -p $precision-again2
    cp -r $precision/. $precision-again2
    rm -r $precision-again2/checkpoints/step-00000{060,080,100}
    train $precision-again2 run.device="$gpu" train.precision=$precision
    grep -q 'resuming after step 40' $precision-again2.log || { cat $precision-again2.log; bad "did not resume after step 40"; }
    same $precision $precision-again2
done

echo "evaluation and sampling"
loss() { "$M2" eval "$1" --json run.device="$2" train.precision="$3" 2>>log | sed -nE 's/.*"loss": ([^,]*),.*/\1/p'; }
close() { awk -v a="$1" -v b="$2" -v tol="$3" 'BEGIN { d = (a - b) / a; exit !(a > 0 && d <= tol && -d <= tol) }' || bad "evaluations $1 and $2"; }
close "$(loss f32 cpu f32)" "$(loss f32 "$gpu" f32)" 1e-5
close "$(loss f32 cpu f32)" "$(loss f32 "$gpu" bf16)" 1e-2
[ "$("$M2" sample f32 --prompt ka --tokens 20 --temperature 0 run.device=cpu 2>/dev/null)" = \
    "$("$M2" sample f32 --prompt ka --tokens 20 --temperature 0 run.device="$gpu" train.precision=f32 2>/dev/null)" ] || bad "samples differ"
echo "  evaluations and samples agree"

echo "a masked language model, and fine-tuning it: the CPU's losses"
mkdir "$work/bert" && cd "$work/bert" || exit 1
small_run bert
sed 's/^  steps: .*/  steps: 100/; s/^  lr: .*/  lr: 0.0005/' config.yaml >tiny.yaml
printf 'sentence\tlabel\n' >rows.tsv
text 1 40000 | tr '\n' ' ' | tr -d . | cut -d' ' -f1-3600 | xargs -n 6 | awk '{ print $0 "\t" (length($1) > 4) }' >>rows.tsv
train cpu run.device=cpu train.precision=f32
for precision in f32 bf16; do
    tolerance=$([ $precision = f32 ] && echo 1e-4 || echo 2e-2)
    train $precision run.device="$gpu" train.precision=$precision
    agree $tolerance cpu $precision
    train $precision-naive run.device="$gpu" train.precision=$precision train.plan=naive
    same $precision $precision-naive
done
for task in sst2 qnli; do # classes from the first position, from the mean of all
    [ $task = sst2 ] || awk -F'\t' 'NR == 1 { print "question\tsentence\tlabel"; next }
        { print $1 "\t" $1 "\t" ($2 ? "" : "not_") "entailment" }' rows.tsv >pairs.tsv
    file=$([ $task = sst2 ] && echo rows.tsv || echo pairs.tsv)
    tune="task.name=$task train.init=cpu data.train=$file data.val=$file"
    train cpu-$task run.device=cpu train.precision=f32 $tune
    train f32-$task run.device="$gpu" train.precision=f32 $tune
    agree 1e-3 cpu-$task f32-$task
done

pictures=${M2_SHARED_DATA:-$M2_SOURCE/../shared/data}/images/cifar10_jpeg.tar.xz
if [ -r "$pictures" ]; then
    echo "pictures"
    "$M2" prepare --images --under test --out pictures.h5 "$pictures" >log 2>&1 || { tail -5 log; bad "m2 prepare --images"; }
    cat >vit.yaml <<-END
	base: $M2_SOURCE/configs/vit/tiny.yaml
	model: {width: 32, layers: 2, filter: {width: 16}}
	data: {train: pictures.h5, val: pictures.h5}
	train: {batch: 16, steps: 100, val_every: 50, val_batches: 2}
	END
    config=vit.yaml
    train vit-cpu run.device=cpu train.precision=f32
    for precision in f32 bf16; do
        train vit-$precision run.device="$gpu" train.precision=$precision
        train vit-$precision-plain run.device="$gpu" train.precision=$precision run.graphs=off
        same vit-$precision vit-$precision-plain
    done
    agree 1e-4 vit-cpu vit-f32
    agree 2e-2 vit-cpu vit-bf16
else
    echo "no $pictures: M2-ViT is left out"
fi

[ $failures = 0 ] || { echo "$failures things do not hold"; exit 1; }
