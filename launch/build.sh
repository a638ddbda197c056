#!/bin/bash
# build.sh [DIR] [cmake options] - configures and builds into DIR (default: build); quiet unless something fails.
set -eu
cd "$(dirname "$0")/.."
dir=${1:-build}
[ $# = 0 ] || shift
log=$dir/build.log
mkdir -p "$dir"
{ cmake -S . -B "$dir" -G Ninja "$@" && cmake --build "$dir"; } >"$log" 2>&1 || {
    grep -E -A5 'error|FAILED|CMake Error' "$log" | head -60 >&2
    echo "build.sh: the build failed; its full output is in $log" >&2
    exit 70
}
grep -E '^-- (CUDA|m2)' "$log" || true
