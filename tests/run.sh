#!/bin/bash
# run.sh [ctest options] - the tests: installs what they need, builds (CUDA too if nvcc is there), runs ctest.
set -eu
cd "$(dirname "$0")/.."
launch/packages.sh --tests
launch/build.sh build
cd build
exec ctest --output-on-failure "$@"
