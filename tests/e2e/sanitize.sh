#!/bin/bash
# The tests again with the compiler's checks: address and undefined behaviour (ranks as threads among them), then data races
# in what runs several threads: loader, ranks as threads, their exchanges and programs. The builds stay, so a second run is quick.
set -u
cd "$M2_BUILD" || exit 1
export ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
long="unit-sequence|unit-longconv_grid" # take minutes so; what they run, others here run on fewer shapes
check() { # check SANITIZERS TARGETS_AND_TESTS (a regular expression of test names)
    local kind=$1 tests=$2 dir=sanitize-${1%%,*}
    cmake -S "$M2_SOURCE" -B "$dir" -G Ninja -DM2_CUDA=OFF -DM2_SANITIZE="$kind" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
        -DCMAKE_C_FLAGS_RELWITHDEBINFO="-O1 -g" >"$dir.log" 2>&1 || { cat "$dir.log"; exit 1; }
    local targets
    targets=$(ninja -C "$dir" -t targets all | sed -nE 's/^((unit-[a-z_0-9]+|fuzz-program|m2-test-op|m2-test-invariants)): phony.*/\1/p' |
        grep -E "$tests" | grep -vE "^($long)\$")
    ninja -C "$dir" $targets >"$dir.log" 2>&1 || { tail -40 "$dir.log"; exit 1; }
    (cd "$dir" && ctest -j2 --output-on-failure -R "$tests" -E "^($long)\$") || { echo "FAILED under -fsanitize=$kind"; exit 1; }
}
check address,undefined '^(unit-|fuzz-|m2-test|op-(value|grad|bounds|shard|invariants)$)'
check thread '^unit-(loader|image_loader|comm|exchange|program_ranks|generate|sequence_groups)$'
