#!/bin/bash
# The dependency law: who may include whom, and where foreign headers may appear. Prints each breach; exit 1 if any.
cd "${M2_SOURCE:-$(dirname "$0")/../..}" || exit 1
bad=0
breach() { # breach MESSAGE REGEX FILES... : no file may match
    local message=$1 regex=$2 hits
    shift 2
    hits=$(grep -nE "$regex" "$@" 2>/dev/null /dev/null) || return 0
    echo "$message:"
    echo "$hits" | sed 's/^/  /'
    bad=1
}
files() { find "$@" -type f \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.def' \); }

breach "kernels/ includes nothing above itself" '^#include "(data|parallel|runtime|tools)/' $(files kernels)
breach "data/ may include only kernels/base" '^#include "(parallel|runtime|tools|kernels/[^b])' $(files data)
breach "parallel/ may include only kernels" '^#include "(data|runtime|tools)/' $(files parallel)
breach "runtime/ may not include tools" '^#include "tools/' $(files runtime)
breach "mpi.h and nccl.h only in parallel/" '^#include <(mpi|nccl)\.h>' $(files kernels data runtime tools)
breach "hdf5.h only in data/" '^#include <(hdf5|H5)' $(files kernels parallel runtime tools)
breach "CUDA headers only in kernels/" '^#include <(cuda|cublas|nvtx)' $(files data parallel runtime tools)
[ $bad = 0 ] && echo "dependency law holds for $(files kernels data parallel runtime tools | wc -l) files"
exit $bad
